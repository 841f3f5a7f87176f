"""What replicating or checking a dataset without a key found, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sealedhealth.errors import IntegrityError, SealedHealthError, ServiceUnavailable
from sealedhealth.replicate.moving import Outcome, Tally
from sealedhealth.replicate.public import Problem, PublicLog

__all__ = ["Finding", "PublicReport", "ReplicateReport"]

_SHOWN = 5  #: findings named in an error's message


@dataclass(frozen=True, slots=True)
class Finding:
    """One file of a store that is not as it should be."""

    name: str
    what: str
    state: str  #: "missing", "corrupted", "failed", or "log" for what is wrong with the log as a whole

    @classmethod
    def of_problem(cls, problem: Problem) -> Finding:
        """What reading the log found."""
        return cls(problem.name, problem.what, "missing" if problem.missing else "corrupted")

    @classmethod
    def of_outcome(cls, outcome: Outcome) -> Finding:
        """What moving a file found."""
        return cls(outcome.name, outcome.what, outcome.state)


@dataclass(slots=True)
class _Report:
    """What both reports have."""

    dataset: str  #: id, hexadecimal
    sequence: int  #: the last commit
    digest: str  #: SHA-384 of its link, hexadecimal
    freshness: str  #: "anchors", "head" (a commit that somebody saw is a part of it) or "unknown"
    commits: int
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  #: of the log: void links, change sets without effect
    disputed: list[str] = field(default_factory=list)  #: objects of which change sets say different things

    def _of(self, state: str) -> list[str]:
        return [finding.name for finding in self.findings if finding.state == state]

    @property
    def missing(self) -> list[str]:
        """Names of what is not there."""
        return self._of("missing")

    @property
    def corrupted(self) -> list[str]:
        """Names of what is not what was signed."""
        return self._of("corrupted")

    @property
    def failed(self) -> list[str]:
        """Names of what a host did not give or take, although asked again and again."""
        return self._of("failed")

    def _error(self, doing: str, safe: str, next_: str) -> SealedHealthError | None:
        if not self.findings:
            return None
        shown = "; ".join(f"{one.name}: {one.what.rstrip('.')}" for one in self.findings[:_SHOWN])
        more = f"; and {len(self.findings) - _SHOWN} more" if len(self.findings) > _SHOWN else ""
        count = "1 file" if len(self.findings) == 1 else f"{len(self.findings)} files"
        kind = ServiceUnavailable if all(one.state == "failed" for one in self.findings) else IntegrityError
        error = kind(f"{doing} {count}: {shown}{more}.", safe=safe, next=next_)
        vars(error)["failures"] = tuple(f"{one.name}: {one.what}" for one in self.findings)  # shown by the command line
        return error


@dataclass(slots=True)
class ReplicateReport(_Report):
    """What :func:`replicate` did."""

    source: Mapping[str, Any] = field(default_factory=dict)  #: URL, store, endpoint, region, jurisdiction
    destination: Mapping[str, Any] = field(default_factory=dict)
    first: bool = False  #: whether there was no whole copy before
    complete: bool = False  #: whether the destination is a whole dataset now, up to :attr:`sequence`
    copied: Tally = field(default_factory=Tally)
    present: Tally = field(default_factory=Tally)  #: there already, by name and size
    checked: Tally = field(default_factory=Tally)  #: of those present, read and checked once more

    def to_json(self) -> dict[str, Any]:
        """The report as a document."""
        return {
            "dataset": self.dataset,
            "source": dict(self.source),
            "destination": dict(self.destination),
            "commit": self.sequence,
            "digest": self.digest,
            "freshness": self.freshness,
            "commits": self.commits,
            "first": self.first,
            "complete": self.complete,
            "copied": _tally(self.copied),
            "verified": _tally(self.copied, self.checked),
            "present": _tally(self.present),
            "missing": self.missing,
            "corrupted": self.corrupted,
            "failed": self.failed,
            "findings": [{"name": one.name, "state": one.state, "what": one.what} for one in self.findings],
            "refused": self.refused,
            "disputed": self.disputed,
            "seconds": round(self.seconds, 3),
        }

    def error(self) -> SealedHealthError | None:
        """The error that the findings amount to; ``None`` when all went well."""
        if self.complete:
            safe = "Everything else was copied and is what its authors signed; the source is unchanged."
            next_ = "Restore the named files of the source from a copy, then run this again: it copies what is missing."
        else:
            safe = (
                "The destination is as it was for its readers: what was copied waits for the rest. The source is"
                " unchanged."
            )
            next_ = "Run this again: it goes on where it stopped."
        return self._error("Could not copy", safe, next_)


@dataclass(slots=True)
class PublicReport(_Report):
    """What checking a host without a key found."""

    host: Mapping[str, Any] = field(default_factory=dict)
    data: bool = True  #: whether every byte was read; else names and sizes only
    verified: Tally = field(default_factory=Tally)

    def to_json(self) -> dict[str, Any]:
        """The report as a document."""
        return {
            "dataset": self.dataset,
            "host": dict(self.host),
            "commit": self.sequence,
            "digest": self.digest,
            "freshness": self.freshness,
            "commits": self.commits,
            "data": self.data,
            "verified": _tally(self.verified),
            "missing": self.missing,
            "corrupted": self.corrupted,
            "failed": self.failed,
            "findings": [{"name": one.name, "state": one.state, "what": one.what} for one in self.findings],
            "refused": self.refused,
            "disputed": self.disputed,
            "seconds": round(self.seconds, 3),
        }

    def error(self) -> SealedHealthError | None:
        """The error that the findings amount to; ``None`` when all went well."""
        return self._error(
            "Wrong or missing:",
            "Everything not named is what its authors signed.",
            "Restore the named files from a copy; every correct copy has the same bytes.",
        )


def refusals_of(public: PublicLog) -> list[str]:
    """Void links, and change sets that had no effect."""
    return [f"commit {refusal.sequence}: {refusal.reason}" for refusal in public.refused]


def disputes_of(public: PublicLog) -> list[str]:
    """Objects of which change sets say different things: somebody claims what is not theirs."""
    return list(_disputes(public))


def _disputes(public: PublicLog) -> Iterator[str]:
    for name, claims in public.disputed():
        commits = [public.origins[claim.origin] for claim in claims]
        said = ", ".join(f"commit {sequence} by {author.hex()}" for sequence, author in commits)
        yield f"{name}: claimed with different content by {said}"


def _tally(*tallies: Tally) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {}
    for tally in tallies:
        for kind, names in tally.names.items():
            one = kinds.setdefault(kind, {"names": 0, "bytes": 0})
            one["names"] += names
            one["bytes"] += tally.bytes.get(kind, 0)
    return {
        "names": sum(tally.files for tally in tallies),
        "bytes": sum(tally.size for tally in tallies),
        "kinds": kinds,
    }
