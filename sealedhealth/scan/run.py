"""The scan: everything that a host shows, compared with what a sealed dataset may have there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sealedhealth.errors import NotFound
from sealedhealth.keys.base import AnchorStore
from sealedhealth.scan.canaries import Canary, Needles
from sealedhealth.scan.columnar import can_read_parquet, read_parquet, search_parquet_bytes, spans_of
from sealedhealth.scan.contents import Budget, Contents, Found, zstd_opener
from sealedhealth.scan.datasets import Dataset, Datasets, Identify
from sealedhealth.scan.files import HEAD, Judgement, readable_sample
from sealedhealth.scan.reading import pieces, random_access
from sealedhealth.scan.report import LEAKS, Finding, Scanned, ScanReport
from sealedhealth.stores import ObjectStore, Unfinished
from sealedhealth.stores.survey import Stored, Survey, survey

__all__ = ["scan"]

_EXPANSION = 100  #: how many times its size a file's compressed parts may expand to, all together
_EXPANSION_LEAST = 64 << 20  #: bytes that they may always expand to
_LABELS_AT_ONCE = 256
_DISKS = frozenset({"file", "sftp"})  #: stores whose unfinished files are files that can be read
_HIDDEN = "[canary]"

Report = Callable[[int], None]


def scan(
    store: ObjectStore,
    *,
    ids: Collection[bytes] = (),
    identify: Identify | None = None,
    anchors: AnchorStore | None = None,
    canaries: Sequence[Canary] = (),
    labels: bool = False,
    reveal: bool = False,
    total: Report | None = None,
    progress: Report | None = None,
) -> ScanReport:
    """List what a host can see below the root of *store* and should not, with no key.

    Parameters
    ----------
    store:
        A dataset, or a bucket or directory that holds several.
    ids:
        Ids of the datasets that belong here, from somebody who knows. Without them a store could show a dataset of
        its own making: the report says so.
    identify:
        Told the URL of a dataset, gives its id as a key service has it, or ``None``.
    anchors:
        Say which commit is the newest.
    canaries:
        Texts that must not be found. With them every stored byte is read; without them the first 4 KiB of each file.
    labels:
        Ask for the metadata and tags of every file, too: two requests each, on S3 only.
    reveal:
        Let canaries show where they are a part of a file's name.
    total, progress:
        Called with the bytes that will be looked at, and with those that have been since the last call.

    Raises
    ------
    NotFound
        Nothing is there.
    """
    return _Scan(store, canaries, labels=labels, reveal=reveal, total=total, progress=progress).run(
        ids, identify, anchors
    )


@dataclass(slots=True)
class _Looking:
    """One file that is being looked at."""

    stored: Stored
    judgement: Judgement
    contents: Contents | None = None
    budget: Budget = field(default_factory=lambda: Budget(0))
    found: dict[tuple[str, str, tuple[str, ...]], tuple[Found, int]] = field(default_factory=dict)
    readable: int | None = None  #: where there is something that is no ciphertext


class _Scan:
    def __init__(
        self,
        store: ObjectStore,
        canaries: Sequence[Canary],
        *,
        labels: bool,
        reveal: bool,
        total: Report | None,
        progress: Report | None,
    ) -> None:
        self.store = store
        self.canaries = canaries
        self.needles = Needles(canaries)
        self.labels = labels
        self.reveal = reveal
        self.total = total or (lambda _: None)
        self.progress = progress or (lambda _: None)
        self.survey: Survey = survey(store)
        self.datasets = Datasets(())
        self.findings: list[Finding] = []
        self.searched = 0
        self.expanded = 0
        self.notes: dict[str, tuple[str, int]] = {}  #: what was not looked into: first file, and how many
        self.parquet = can_read_parquet()

    # --- in order --------------------------------------------------------------------------

    def run(self, ids: Collection[bytes], identify: Identify | None, anchors: AnchorStore | None) -> ScanReport:
        # First the files, then the log: what is committed in between is in the log.
        listed = list(self.survey.files())
        unfinished = list(self.store.unfinished())
        names = {stored.name for stored in listed}
        # On a disk what is unfinished is a file, which may have been begun after the listing; elsewhere it is an
        # upload, which may have the name of an object beside it.
        disk = self.store.location.store in _DISKS
        begun: list[Unfinished] = []
        uploads: list[Unfinished] = []
        for one in unfinished:
            (begun if one.size is not None and (disk or one.name in names) else uploads).append(one)
        temporary = {one.name for one in begun}
        files = [stored for stored in listed if stored.name not in temporary]
        if not listed and not unfinished:
            raise NotFound(
                f"There is nothing at {self.store.url}.",
                next="Check the URL: name a dataset, a bucket or a directory.",
            )
        self.datasets = Datasets(files)
        for dataset in self.datasets.all:
            for kind, name, detail in dataset.open(self.store, ids, identify, anchors):
                self._add(kind, name, detail)
        read = [stored for stored in files if stored.kind == "file"]
        for stored in files:
            if stored.kind != "file":
                self._not_a_file(stored)
        read += [Stored(one.name, one.size or 0, one.started, kind="unfinished") for one in begun]
        for one in uploads:
            self._upload(one)
        self.total(sum(map(self._wanted, read)))
        self._names([*files, *(Stored(one.name, 0) for one in unfinished)])
        self._read(read)
        if self.labels:
            self._read_labels(read)
        return ScanReport(
            url=self.store.url,
            datasets=tuple(map(_scanned, self.datasets.all)),
            files=len(files) + len(unfinished),
            bytes=sum(stored.size for stored in files) + sum(one.size or 0 for one in unfinished),
            canaries=len(self.canaries),
            searched=self.searched,
            expanded=self.expanded,
            findings=tuple(sorted(self.findings, key=lambda one: (not one.leak, one.kind, one.name))),
            not_looked_into=tuple(self._not_looked_into()),
        )

    def _not_a_file(self, stored: Stored) -> None:
        if stored.kind == "directory":
            if not self.datasets.has_directory(stored.name):
                self._add("empty", stored.name, "a directory", stored)
        elif stored.kind == "link":
            self._add("not sealed", stored.name, "a link: what it points to was not looked at", stored)
        else:
            self._add("misplaced", stored.name, "neither a file nor a directory", stored)

    def _upload(self, one: Unfinished) -> None:
        """Report an upload that was begun and not ended."""
        stored = Stored(one.name, one.size or 0, one.started, kind="upload" if one.size is None else "file")
        self._note("what unfinished uploads hold: their host can read it, and shows it to nobody else")
        if self.datasets.is_place(one.name):
            self._add("unfinished", one.name, "an upload that goes on, or was given up", stored)
        else:
            self._add("not sealed", one.name, "an unfinished upload, under a name that no dataset gives", stored)

    # --- names and labels ------------------------------------------------------------------

    def _names(self, files: Iterable[Stored]) -> None:
        if not self.needles:
            return
        seen = set()
        for stored in [Stored(self.store.url, 0), *files]:
            if stored.name not in seen:
                seen.add(stored.name)
                self._search_text(stored, stored.name, "in its name")

    def _search_text(self, stored: Stored, text: str, where: str) -> None:
        found = {hit.canary.label: hit for hit in self.needles(text.encode("utf-8", "surrogateescape"))}
        for hit in found.values():
            self._add("canary", stored.name, f"{where}, {hit.form}", stored, canary=hit.canary)

    def _read_labels(self, files: Sequence[Stored]) -> None:
        for start in range(0, len(files), _LABELS_AT_ONCE):
            some = files[start : start + _LABELS_AT_ONCE]
            for stored, found in zip(some, self.survey.labels(some), strict=True):
                for key, value in found.items():
                    self._search_text(stored, f"{key}: {value}", f"in its {key.partition(' ')[0]}")

    # --- content -----------------------------------------------------------------------------

    def _wanted(self, stored: Stored) -> int:
        return stored.size if self.needles else min(stored.size, HEAD)

    def _read(self, files: Sequence[Stored]) -> None:
        looking: _Looking | None = None
        for stored, start, data in pieces(self.survey, files, self._wanted):
            if start == 0:
                self._end(looking)
                looking = self._begin(stored, data) if data is not None else None
            if looking is None or data is None:
                continue
            self.progress(len(data))
            if looking.contents is not None:
                looking.contents.feed(data)
                self.searched += len(data)
            if looking.readable is None and looking.judgement.ciphertext:
                looking.readable = readable_sample(data, start)
        self._end(looking)

    def _begin(self, stored: Stored, data: bytes) -> _Looking:
        dataset = self.datasets.of(stored.name)
        whole = partial(self._whole, stored)
        looking = _Looking(stored, self.datasets.judge(stored, data[:HEAD], whole))
        if dataset is not None:
            dataset.files += 1
        if self.needles:
            looking.budget = Budget(max(_EXPANSION_LEAST, _EXPANSION * stored.size))
            looking.contents = Contents(
                self.needles,
                partial(self._found, looking),
                looking.budget,
                parquet=search_parquet_bytes if self.parquet else None,
            )
        return looking

    def _whole(self, stored: Stored) -> bytes | None:
        return self.survey.read([(stored, 0, stored.size)])[0]

    @staticmethod
    def _found(looking: _Looking, found: Found) -> None:
        place = found.hit.canary.label, found.hit.form, found.inside
        first, count = looking.found.get(place, (found, 0))
        looking.found[place] = first, count + 1

    def _end(self, looking: _Looking | None) -> None:
        if looking is None:
            return
        stored, judgement = looking.stored, looking.judgement
        if looking.contents is not None:
            looking.contents.finish()
            self._parquet(looking)
            for note in looking.budget.notes:
                self._note(note, stored.name)
            self.expanded += looking.budget.spent
        for first, count in looking.found.values():
            inside = "".join(f", inside {kind}" for kind in first.inside)
            detail = f"{first.hit.form}, from byte {first.offset}{inside}"
            self._add("canary", stored.name, detail, stored, canary=first.hit.canary, count=count)
        if looking.readable is not None and judgement.kind != "not ciphertext":
            judgement = Judgement("not ciphertext", f"from byte {looking.readable}, it can be compressed")
        if stored.version and judgement.kind not in LEAKS:
            judgement = replace(judgement, kind="older version", detail="sealed")
        if judgement.kind:
            self._add(judgement.kind, stored.name, judgement.detail, stored)

    def _parquet(self, looking: _Looking) -> None:
        """Read what seems to be Parquet once more, from the host, since it has to be read out of order."""
        if looking.contents is None or not self.parquet:
            return
        size = looking.stored.size
        notes: set[str] = set()
        for start, end in spans_of(looking.contents.parquet_at, size):
            inside = Contents(
                self.needles, partial(self._found, looking), looking.budget, inside=("Parquet",), offset=start
            )
            trial = Budget(looking.budget.left)
            read_parquet(random_access(self.survey, looking.stored, start, end), inside.feed, trial)
            inside.finish()
            looking.budget.spend(trial.spent)
            notes |= trial.notes
            if not trial.notes:
                return
        looking.budget.notes |= notes

    # --- keeping ---------------------------------------------------------------------------------

    def _add(
        self,
        kind: str,
        name: str,
        detail: str,
        stored: Stored | None = None,
        *,
        canary: Canary | None = None,
        count: int = 1,
    ) -> None:
        known = stored is not None and stored.name != self.store.url and stored.kind != "upload"
        self.findings.append(
            Finding(
                kind,
                self._shown(name),
                detail,
                stored.size if known and stored is not None else None,
                stored.modified if stored is not None else None,
                stored.version if stored is not None else "",
                f"{canary.label} ({canary.digest})" if canary is not None else "",
                count,
            )
        )

    def _shown(self, name: str) -> str:
        """*name* without the canaries in it: they are secrets, and reports are passed on."""
        if self.reveal or not self.needles:
            return name
        raw = name.encode("utf-8", "surrogateescape")
        for hit in sorted(self.needles(raw), key=lambda hit: hit.start, reverse=True):
            raw = raw[: hit.start] + _HIDDEN.encode() + raw[hit.end :]
        return raw.decode("utf-8", "surrogateescape")

    def _note(self, what: str, name: str = "") -> None:
        first, count = self.notes.get(what, (name, 0))
        self.notes[what] = first, count + 1

    def _not_looked_into(self) -> Iterable[str]:
        yield from self.survey.notes
        for what, (first, count) in self.notes.items():
            more = f" and {count - 1} more" if count > 1 else ""
            yield f"{what} ({self._shown(first)}{more})" if first else what
        if not self.canaries:
            yield "content: no canary was given, and only the first 4 KiB of each file were looked at"
            return
        if self.survey.has_labels and not self.labels:
            yield "metadata and tags of objects (--labels)"
        if not self.parquet:
            yield "compressed Parquet (pip install pyarrow)"
        if zstd_opener() is None:
            yield "zstd (pip install backports.zstd)"


def _scanned(dataset: Dataset) -> Scanned:
    return Scanned(
        root=dataset.root,
        dataset=dataset.dataset_id.hex() if dataset.dataset_id is not None else "",
        known=dataset.known,
        anchored=dataset.log is not None and dataset.log.anchored,
        commit=dataset.log.sequence if dataset.log is not None else None,
        files=dataset.files,
    )
