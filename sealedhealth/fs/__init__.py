"""The fsspec file system over a sealed dataset: ``sealed::s3://...`` and ``sealed+s3://...``."""

from __future__ import annotations

from sealedhealth.fs.filesystem import SealedFileSystem
from sealedhealth.fs.transaction import SealedTransaction
from sealedhealth.fs.writing import ManyCommitsWarning

__all__ = ["ManyCommitsWarning", "SealedFileSystem", "SealedTransaction"]
