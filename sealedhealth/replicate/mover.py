"""Moving a dataset from one store to another without a key, and checking a store the same way.

Order: change sets, objects, checkpoint, links, descriptor.  A destination without descriptor is
no dataset yet; one that has it never shows a commit whose change set it lacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sealedhealth.errors import RolledBack, SealedHealthError
from sealedhealth.keys.base import AnchorStore
from sealedhealth.log.link import Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, link_name
from sealedhealth.replicate.moving import Mover, Outcome, Pause
from sealedhealth.replicate.public import Expected, PublicLog
from sealedhealth.replicate.report import Finding, PublicReport, ReplicateReport, disputes_of, refusals_of
from sealedhealth.replicate.target import Listed, Target, refuse_same_place
from sealedhealth.stores import Location, ObjectStore

__all__ = ["check_host", "replicate"]

_LINKS_AT_ONCE = 256

Head = tuple[int, bytes]
Progress = Callable[[int], object]


class _Bar:
    """What to report progress to; both may be left out."""

    def __init__(self, progress: Progress | None, total: Progress | None) -> None:
        self.progress: Progress = progress or (lambda _: None)
        self.total: Progress = total or (lambda _: None)


def replicate(
    source: ObjectStore,
    target: ObjectStore,
    dataset_id: bytes,
    *,
    anchors: AnchorStore | None = None,
    head: Head | None = None,
    check: bool = False,
    progress: Progress | None = None,
    total: Progress | None = None,
    pause: Pause = time.sleep,
    places: tuple[Location, Location] | None = None,
) -> ReplicateReport:
    """Copy objects and log of a dataset to *target*; no key is needed, and nothing unchecked is written.

    What is at the destination already, by name and size, is not copied again, so a run that was
    interrupted goes on where it stopped. Files of the source that are missing or corrupted are
    named in the report, and the rest goes on.

    Parameters
    ----------
    dataset_id:
        From the key service's registry or from somebody who knows.
    anchors:
        Say which commit is the newest; without them the source's word is taken for that.
    head:
        A commit that somebody saw, as number and SHA-384 of its link: the source has to hold it.
    check:
        Read what is at the destination already, and replace what is not what was signed.
    progress, total:
        Called with bytes done since the last call, and with bytes to do in all.
    places:
        Where the two are, for the report: with jurisdictions, which the stores do not know.

    Raises
    ------
    InvalidInput
        The two places are the same, or one lies inside the other.
    NotFound
        There is no dataset at the source.
    DatasetMismatch, AlreadyExists
        Another dataset is at the source or at the destination.
    RolledBack
        The two have different histories, the destination is ahead, or the source lacks what somebody saw.
    AccessDenied, ServiceUnavailable
        A host refuses or is down. What was copied stays, and is not copied again.
    """
    began = time.monotonic()
    bar = _Bar(progress, total)
    refuse_same_place(source, target)
    public = PublicLog.read(source, dataset_id, anchors=anchors, head=head)
    _refuse_other_than_seen(public, head)
    there = Target(target, public)
    there.look()
    report = ReplicateReport(
        **_common(public, head),
        source=_place(source, places and places[0]),
        destination=_place(target, places and places[1]),
        first=not there.published,
    )
    run = _Run(source, there, public, report, bar, pause)
    run.copy(check=check)
    report.findings = [*map(Finding.of_problem, public.problems), *map(Finding.of_outcome, run.outcomes())]
    report.seconds = time.monotonic() - began
    return report


class _Run:
    """One run of :func:`replicate`."""

    def __init__(
        self,
        source: ObjectStore,
        there: Target,
        public: PublicLog,
        report: ReplicateReport,
        bar: _Bar,
        pause: Pause,
    ) -> None:
        self._source = source
        self._there = there
        self._public = public
        self._report = report
        self._bar = bar
        self._mover = Mover(source, there.store, progress=bar.progress, pause=pause)
        self._checker = Mover(there.store, progress=bar.progress, pause=pause)
        self._mover.done = report.copied
        self._checker.done = report.checked
        self._gone: set[str] = set()
        bar.total(self._size())

    def _size(self) -> int:
        files = self._public.files
        return files.claims.bytes + sum(expected.size for expected in files.fixed.values())

    def outcomes(self) -> list[Outcome]:
        """What could not be copied, but for what nobody needs any more."""
        known = {problem.name for problem in self._public.problems}
        return [one for one in self._mover.outcomes if one.name not in known | self._gone]

    def copy(self, *, check: bool) -> None:
        there, report = self._there, self._report
        for kind in ("change", "object", "segment", "checkpoint"):
            files = there.objects() if kind == "object" else there.fixed(kind)
            self._mover.run(self._lacking(files, check=check))
        self._forgive_collected()
        there.store.flush()
        if any(one.state == "failed" for one in self.outcomes()):
            return
        last = self._copy_links()
        there.store.flush()
        if last >= 0 and not there.published:
            there.store.put(DESCRIPTOR_NAME, self._public.descriptor)
            there.store.flush()
            report.copied.add("descriptor", len(self._public.descriptor))
        if last >= 0:
            report.sequence, report.digest = last, file_digest(self._public.links[last]).hex()
            report.complete = True

    def _lacking(self, files: Iterable[Listed], *, check: bool) -> Iterator[tuple[str, Expected]]:
        """What the destination has not got, or (with *check*) has not got right."""
        bad = {problem.name for problem in self._public.problems}
        present: list[tuple[str, Expected]] = []
        for name, expected, size in files:
            there = size is not None and expected.fits(size)
            if there and not check:
                self._report.present.add(expected.kind, expected.size)
                self._bar.progress(expected.size)
            elif there:
                present.append((name, expected))
                if len(present) >= 1024:
                    yield from self._wrong(present)
                    present = []
            elif name not in bad:
                yield name, expected
        yield from self._wrong(present)

    def _wrong(self, present: list[tuple[str, Expected]]) -> Iterator[tuple[str, Expected]]:
        if not present:
            return
        wrong = self._checker.run(present)
        for name, expected in present:
            if name in wrong:
                yield name, expected
            else:
                self._report.present.add(expected.kind, expected.size)

    def _forgive_collected(self) -> None:
        missing = {one.name for one in self._mover.outcomes if one.state == "missing"}
        self._gone = _collected_since(self._source, self._public, missing)

    def _copy_links(self) -> int:
        """Copy links in order; the number of the last one that the destination has then."""
        lost = {one.name for one in self._mover.outcomes if one.expected.kind == "change"}
        last = -1
        wanted: list[int] = []
        lacking = set(self._there.copied_links())
        for number, raw in sorted(self._public.links.items()):
            if lost and any(change_name(ref.change_id) in lost for ref in Link.read(Link.split(raw)).changes):
                break  # the destination shall not claim a commit whose change set it lacks
            last = number
            if number in lacking:
                wanted.append(number)
            else:
                self._report.present.add("link", len(raw))
        links = self._public.links
        # Nobody takes a place without descriptor for a dataset: only later runs need one link after the other.
        at_once = 1 if self._there.published else _LINKS_AT_ONCE
        for start in range(0, len(wanted), at_once):
            batch = {link_name(number): links[number] for number in wanted[start : start + at_once]}
            self._there.store.put_many(batch)
            for raw in batch.values():
                self._report.copied.add("link", len(raw))
                self._bar.progress(len(raw))
        return last


def check_host(
    store: ObjectStore,
    dataset_id: bytes,
    *,
    anchors: AnchorStore | None = None,
    head: Head | None = None,
    data: bool = True,
    progress: Progress | None = None,
    total: Progress | None = None,
    pause: Pause = time.sleep,
    place: Location | None = None,
) -> PublicReport:
    """Check all of a dataset that can be checked without a key: the log, and the bytes of every object.

    Parameters
    ----------
    data:
        Read every object; else only names and sizes are compared, by one listing.
    place:
        Where the store is, for the report.

    Raises
    ------
    NotFound, DatasetMismatch, IntegrityError
        The log cannot be read at all; single failures are in the report.
    """
    began = time.monotonic()
    bar = _Bar(progress, total)
    public = PublicLog.read(store, dataset_id, anchors=anchors, head=head)
    report = PublicReport(**_common(public, head), host=_place(store, place), data=data)
    there = Target(store, public)
    report.findings = list(map(Finding.of_problem, public.problems))
    bad = {problem.name for problem in public.problems}
    for name, expected in public.files.fixed.items():
        if expected.kind in {"descriptor", "link", "change", "checkpoint"} and name not in bad:
            report.verified.add(expected.kind, expected.size)  # read along with the log
    bar.total(public.files.claims.bytes)
    mover = Mover(store, progress=bar.progress, pause=pause)
    mover.done = report.verified
    for files in (there.fixed("segment"), there.objects()):
        mover.run(_listed(store, files, report, data=data))
    report.findings += map(Finding.of_outcome, mover.outcomes)
    gone = _collected_since(store, public, set(report.missing) - bad)
    report.findings = [one for one in report.findings if one.name not in gone]
    report.seconds = time.monotonic() - began
    return report


def _collected_since(store: ObjectStore, public: PublicLog, missing: set[str]) -> set[str]:
    """Those of *missing* that were collected since the log was read: nobody needs them any more."""
    if not missing:
        return set()
    try:
        newer = PublicLog.read(store, public.dataset_id)
    except SealedHealthError:
        return set()
    if newer.sequence <= public.sequence or newer.steps[: len(public.steps)] != public.steps:
        return set()
    return {name for name in missing if name not in newer.files and name in newer.known}


def _listed(
    store: ObjectStore, files: Iterable[Listed], report: PublicReport, *, data: bool
) -> Iterator[tuple[str, Expected]]:
    """Those files that are left to be read: a listing shows what is missing or has another size."""
    for name, expected, size in files:
        if size is None and (data and store.exists(name)):
            yield name, expected  # the listing lagged behind
        elif size is None:
            report.findings.append(Finding(name, "it is missing", "missing"))
        elif not expected.fits(size):
            more = size - expected.size
            what = f"{more} bytes that nobody signed follow it" if more > 0 else f"it ends {-more} bytes too early"
            report.findings.append(Finding(name, what, "corrupted"))
        elif data:
            yield name, expected
        else:
            report.verified.add(expected.kind, size)


def _common(public: PublicLog, head: Head | None) -> dict[str, Any]:
    return {
        "dataset": public.dataset_id.hex(),
        "sequence": public.sequence,
        "digest": public.head.hex(),
        "freshness": "anchors" if public.anchored else "head" if head else "unknown",
        "commits": len(public.links),
        "refused": refusals_of(public),
        "disputed": disputes_of(public),
    }


def _place(store: ObjectStore, place: Location | None) -> dict[str, Any]:
    found = place or store.location
    return {
        "url": store.url,
        "store": found.store,
        "endpoint": found.endpoint,
        "region": found.region,
        "jurisdiction": found.jurisdiction,
    }


def _refuse_other_than_seen(public: PublicLog, head: Head | None) -> None:
    """Raise when the source is not, or is older than, what somebody has seen: it is not worth copying."""
    wrong = head and next((one for one in public.problems if one.name == link_name(head[0])), None)
    if wrong:
        raise RolledBack(
            f"{wrong.name}: {wrong.what}.",
            safe="Nothing was copied.",
            next="Find out which copy of the dataset is the newest, and copy that one.",
        )
