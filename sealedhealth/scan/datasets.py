"""The datasets in what is scanned, and what each of them says of the files that lie in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from sealedhealth.errors import IntegrityError, NotFound
from sealedhealth.keys.base import AnchorStore
from sealedhealth.log.link import DESCRIPTOR_SIZE, Descriptor
from sealedhealth.log.names import DESCRIPTOR_NAME
from sealedhealth.replicate import PublicLog
from sealedhealth.scan.files import Judgement, is_place, judge, judge_unfinished
from sealedhealth.stores import ObjectStore
from sealedhealth.stores.survey import Stored, below

__all__ = ["Dataset", "Datasets", "Identify"]

_DIRECTORIES = (
    "",
    "objects",
    ".sealedhealth",
    *(f".sealedhealth/{name}" for name in ("log", "changes", "checkpoints")),
)

Identify = Callable[[str], bytes | None]


@dataclass(slots=True)
class Dataset:
    """One dataset."""

    root: str  #: relative to what is scanned
    dataset_id: bytes | None = None  #: by its descriptor
    known: bool = False  #: whether somebody other than the store says so, too
    log: PublicLog | None = None
    files: int = 0

    def open(
        self, store: ObjectStore, ids: Collection[bytes], identify: Identify | None, anchors: AnchorStore | None
    ) -> Iterable[tuple[str, str, str]]:
        """Learn which dataset this is, and what its log says. Gives what is wrong: kind, name, detail."""
        place = below(store, self.root)
        try:
            raw = place.get(DESCRIPTOR_NAME, limit=DESCRIPTOR_SIZE)
            claimed = Descriptor.load(raw, dataset_id=None).dataset_id
        except IntegrityError as error:
            yield "log", self.outer(DESCRIPTOR_NAME), f"the descriptor: {error.what}"
            return
        wanted = identify(place.url) if identify is not None else None
        if wanted is None and ids:
            wanted = claimed if claimed in ids else next(iter(ids))
        if wanted is not None and wanted != claimed:
            yield (
                "other dataset",
                self.outer(DESCRIPTOR_NAME),
                f"dataset {claimed.hex()} lies here, not {wanted.hex()}",
            )
        self.dataset_id, self.known = claimed, wanted == claimed
        try:
            self.log = PublicLog.read(place, claimed, anchors=anchors if self.known else None)
        except (IntegrityError, NotFound) as error:
            yield "log", self.outer(DESCRIPTOR_NAME), f"the log: {error.what}"
            return
        for problem in self.log.problems:
            yield "log", self.outer(problem.name), problem.what

    def inner(self, name: str) -> str:
        """*name* relative to the dataset."""
        return name[len(self.root) + 1 :] if self.root else name

    def outer(self, name: str) -> str:
        """A name of the dataset, relative to what is scanned."""
        return f"{self.root}/{name}" if self.root else name

    def has_directory(self, name: str) -> bool:
        """Whether a dataset makes such a directory."""
        inner = self.inner(name.rstrip("/"))
        return inner in _DIRECTORIES or is_place(f"{inner}/{inner[-2:]}{30 * '0'}")


class Datasets:
    """All of them: the topmost directories that have a descriptor."""

    def __init__(self, files: Iterable[Stored]) -> None:
        self._by_root: dict[str, Dataset] = {}
        ends = (
            stored.name for stored in files if not stored.version and f"/{stored.name}".endswith(f"/{DESCRIPTOR_NAME}")
        )
        for root in sorted((name[: -len(DESCRIPTOR_NAME)].rstrip("/") for name in ends), key=len):
            if self.of(f"{root}/x" if root else "x") is None:
                self._by_root[root] = Dataset(root)
        self.all = [self._by_root[root] for root in sorted(self._by_root)]

    def of(self, name: str) -> Dataset | None:
        """The dataset that a name lies in."""
        if "" in self._by_root:
            return self._by_root[""]
        parts = name.split("/")
        return next(
            (found for count in range(1, len(parts)) if (found := self._by_root.get("/".join(parts[:count])))), None
        )

    def is_place(self, name: str) -> bool:
        """Whether a dataset here gives such names to its files."""
        dataset = self.of(name)
        return dataset is not None and is_place(dataset.inner(name))

    def has_directory(self, name: str) -> bool:
        """Whether a directory is one of a dataset, or leads to one."""
        dataset = self.of(f"{name.rstrip('/')}/x")
        if dataset is not None:
            return dataset.has_directory(name)
        return any(f"{root}/".startswith(f"{name.rstrip('/')}/") for root in self._by_root)

    def judge(self, stored: Stored, head: bytes, whole: Callable[[], bytes | None]) -> Judgement:
        """What a file is, by its bytes and by what the log of its dataset says."""
        dataset = self.of(stored.name)
        dataset_id = dataset.dataset_id if dataset is not None else None
        if stored.kind == "unfinished":
            return judge_unfinished(head, dataset_id)
        if stored.name.endswith("/") and not stored.size:
            own = self.has_directory(stored.name)
            return Judgement("" if own else "empty", "a mark of a directory", sealed=own)
        name = dataset.inner(stored.name) if dataset is not None else stored.name
        log = dataset.log if dataset is not None and not stored.version else None
        expected = log.files.get(name) if log is not None else None
        checked = expected is not None and expected.kind != "checkpoint" and expected.digest is not None
        judgement = judge(name, head, stored.size, dataset_id, checked=checked, whole=whole)
        if dataset is None and not judgement.sealed:
            return replace(judgement, detail=f"{judgement.detail}; it lies in no dataset")
        if log is None or judgement.kind not in {"", "longer", "shorter"}:
            return judgement
        if expected is None:
            if judgement.kind:
                return judgement
            return replace(judgement, kind="unreferenced" if name in log.known else "not in the log")
        if not expected.fits(stored.size):
            more = stored.size - expected.size
            kind, what = ("longer", "more") if more > 0 else ("shorter", "fewer")
            return replace(judgement, kind=kind, detail=f"{abs(more)} bytes {what} than the log says")
        return judgement
