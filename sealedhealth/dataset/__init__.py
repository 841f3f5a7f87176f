"""A sealed dataset as Python sees it: :class:`Dataset`."""

from __future__ import annotations

from sealedhealth.dataset.facade import Dataset, Transferred
from sealedhealth.dataset.progress import Bar, progress_bar
from sealedhealth.dataset.tree import Change

__all__ = ["Bar", "Change", "Dataset", "Transferred", "progress_bar"]
