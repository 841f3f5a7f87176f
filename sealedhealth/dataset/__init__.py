"""A sealed dataset as Python sees it: :class:`Dataset`."""

from __future__ import annotations

from sealedhealth.dataset.distributed import DistributedPart, DistributedTask, DistributedWrite, Receipt
from sealedhealth.dataset.facade import Dataset, Transferred
from sealedhealth.dataset.progress import Bar, progress_bar
from sealedhealth.dataset.tree import Change

__all__ = [
    "Bar",
    "Change",
    "Dataset",
    "DistributedPart",
    "DistributedTask",
    "DistributedWrite",
    "Receipt",
    "Transferred",
    "progress_bar",
]
