"""What a scan found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["LEAKS", "UNTIDY", "Finding", "ScanReport", "Scanned"]

#: Kinds of findings that mean that the host can read something, or that nobody can say that it cannot.
LEAKS = {
    "canary": "a canary was found",
    "not sealed": "a file of no sealed dataset",
    "not ciphertext": "a file with the header of a sealed object, and content that is none",
    "longer": "a sealed object that is followed by bytes which nobody sealed",
    "other dataset": "sealed for a dataset that is not this one: others hold its keys",
    "log": "the log is not what its authors signed",
}
#: Kinds that leak nothing by themselves, and that somebody should tidy up.
UNTIDY = {
    "not in the log": "sealed, and no commit names it: under way, or left over",
    "unreferenced": "sealed, and no longer needed: dropped, collected, or of an older checkpoint",
    "misplaced": "sealed, under a name that no dataset gives",
    "older version": "sealed, hidden by a newer version or deleted, and still on the host",
    "unfinished": "an upload that was begun and not ended",
    "shorter": "a sealed object that is cut short",
    "empty": "an empty file or directory: only its name shows",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    kind: str  #: one of :data:`LEAKS` or :data:`UNTIDY`
    name: str  #: where, relative to what was scanned
    detail: str = ""
    size: int | None = None  #: bytes on the host
    modified: datetime | None = None  #: by the host's clock
    version: str = ""  #: of an older version: the host's name of it
    canary: str = ""  #: which canary: file and line, never the text
    count: int = 1  #: how often

    @property
    def leak(self) -> bool:
        """Whether the host can read something, or nobody can say that it cannot."""
        return self.kind in LEAKS


@dataclass(frozen=True, slots=True)
class Scanned:
    """One dataset in what was scanned."""

    root: str  #: relative to what was scanned; "" when that is the dataset itself
    dataset: str  #: id, hexadecimal; "" when its descriptor could not be read
    known: bool  #: whether the id came from the caller; else from the store, which can claim any
    anchored: bool  #: whether anchors said which commit is the newest
    commit: int | None  #: the newest; ``None`` when the log could not be read
    files: int  #: that lie below its root


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What was looked at, and what was found; see :func:`~sealedhealth.scan.scan`."""

    url: str
    datasets: tuple[Scanned, ...]
    files: int  #: older versions and unfinished ones too
    bytes: int  #: of them
    canaries: int  #: how many were looked for
    searched: int  #: stored bytes that were searched for them
    expanded: int  #: bytes that came out of compressed parts and were searched, too
    findings: tuple[Finding, ...]
    not_looked_into: tuple[str, ...] = field(default=())  #: what this scan says nothing about

    @property
    def leaks(self) -> tuple[Finding, ...]:
        """Findings that mean that the host can read something, or that nobody can say that it cannot."""
        return tuple(finding for finding in self.findings if finding.leak)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return dict(Counter(finding.kind for finding in self.findings))
