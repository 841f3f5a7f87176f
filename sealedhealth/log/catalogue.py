"""The catalogue: which path is which stored bytes, in one snapshot of one compartment.

A catalogue is immutable. It consists of sorted segments, shared between snapshots, and of the changes since they were
made, which :meth:`Catalogue.apply` folds into new segments when they become many. Nothing here scans what it can skip:
directories are found by bisection, whatever lies inside.

Paths are taken as they come: whoever calls passes them through ``paths.canonical`` first.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import NamedTuple, NoReturn

from sealedhealth.errors import MalformedError
from sealedhealth.log.difference import Difference, diff_segments, differ
from sealedhealth.log.entry import Entry
from sealedhealth.log.paths import parents
from sealedhealth.log.segment import MAX_SEGMENT_ENTRIES, Run, Segment, splice

__all__ = ["Catalogue", "Difference", "Entry", "ObjectInfo", "Segment"]

MIN_CHANGES = 16_384  #: changes that are kept beside the segments, at least
CHANGES_PART = 16  #: and at most this part of the segments' entries
SMALL_SEGMENT = 8192  #: entries; a smaller segment is joined to a neighbour that has to be written anyway


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A stored object that a catalogue uses: what checking it takes, without its key."""

    object_id: bytes
    sealed_size: int
    root: bytes
    data_key_id: bytes


class _Put(NamedTuple):
    """A path that changed since the segments were made."""

    path: str
    entry: Entry


class Catalogue:
    """An immutable mapping of canonical paths to entries, and the directories that follow from them.

    Directories exist by what is in them; ``""`` is the root, and always one. The same name can be both a file and a
    directory, as on an object store, if :meth:`clash` is not asked first.
    """

    __slots__ = ("_changes", "_counts", "_firsts", "_length", "_order", "_segments", "_shadows")

    def __init__(
        self, segments: tuple[Segment, ...], changes: dict[str, Entry | None], shadows: set[str], length: int
    ) -> None:
        self._segments = segments
        self._firsts = [segment.path(0) for segment in segments]
        self._counts = list(accumulate(map(len, segments), initial=0))
        self._changes = changes  # None: deleted, though the segments have it
        self._shadows = shadows  # the paths in changes that the segments have
        self._length = length
        self._order: tuple[list[str], list[int]] | None = None

    @classmethod
    def empty(cls) -> Catalogue:
        """The catalogue without files."""
        return cls((), {}, set(), 0)

    @classmethod
    def from_segments(cls, segments: Sequence[Segment]) -> Catalogue:
        """The catalogue that these segments make up, in order.

        Raises ``MalformedError`` when they overlap or are out of order.
        """
        if any(before.last >= after.first for before, after in pairwise(segments)):
            raise MalformedError(
                "The segments of a checkpoint are out of order, or overlap.",
                safe="Nothing of it was used.",
                next="Have a curator make a new checkpoint; the log itself is complete without it.",
            )
        return cls(tuple(segments), {}, set(), sum(map(len, segments)))

    def __repr__(self) -> str:
        return f"<Catalogue of {self._length} files>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Catalogue holds keys: it cannot be copied or pickled")

    # -- one path ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        if path in self._changes:
            return self._changes[path] is not None
        return self._find(path) is not None

    def get(self, path: str) -> Entry | None:
        """The entry of a file, ``None`` when there is none."""
        if path in self._changes:
            return self._changes[path]
        found = self._find(path)
        return found and found[0].entry(found[1])

    def is_dir(self, path: str) -> bool:
        """Whether a file lies somewhere below *path*; always true for ``""``."""
        return not path or self._count_below(path) > 0

    def _find(self, path: str) -> tuple[Segment, int] | None:
        """Where the segments have *path*."""
        key = _key(path)
        index = bisect_right(self._firsts, key) - 1
        if index >= 0:
            segment = self._segments[index]
            row = segment.find(key)
            if row < len(segment) and segment.path(row) == key:
                return segment, row
        return None

    # -- many paths ----------------------------------------------------------------------------------

    def count(self, prefix: str = "") -> int:
        """How many files are at or below *prefix*, without looking at each."""
        return self._count_below(prefix) + (prefix in self) if prefix else self._length

    def total_size(self, prefix: str = "") -> int:
        """Bytes of the files at or below *prefix*."""
        return sum(
            piece.segment.total_size(piece.start, piece.stop) if isinstance(piece, Run) else piece.entry.length
            for piece in self._under(prefix)
        )

    def items(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Paths and entries of the files at or below *prefix*, sorted by code points."""
        for piece in self._under(prefix):
            if isinstance(piece, Run):
                yield from piece.segment.items(piece.start, piece.stop)
            else:
                yield piece

    def paths(self, prefix: str = "") -> Iterator[str]:
        """The paths that :meth:`items` gives, without making entries."""
        for piece in self._under(prefix):
            if isinstance(piece, Run):
                yield from map(bytes.decode, piece.segment.paths(piece.start, piece.stop))
            else:
                yield piece.path

    def children(self, path: str) -> Iterator[tuple[str, Entry | None]]:
        """Names directly inside the directory *path*, sorted, with the entry of a file or ``None`` for a directory.

        A name that is both comes twice, the file first.
        """
        found = [*self._children_of_segments(path), *self._children_of_changes(path)]
        found.sort(key=itemgetter(0, 1))
        for name, is_directory, segment, row in found:
            if is_directory:
                yield name, None
            elif segment is not None:
                yield name, segment.entry(row)
            else:
                yield name, self._changes[f"{path}/{name}" if path else name]

    def _children_of_segments(self, path: str) -> Iterator[tuple[str, bool, Segment | None, int]]:
        prefix = f"{path}/" if path else ""
        start, stop = self._bounds(path)
        skip = len(_key(prefix))
        while start < stop:
            index = bisect_right(self._counts, start) - 1
            segment, row = self._segments[index], start - self._counts[index]
            name, is_directory, _ = segment.path(row)[skip:].decode().partition("/")
            if is_directory:
                inside = prefix + name
                start = self._rank(inside + "0")  # behind all that is inside
                if not self._changes or self._count_below(inside):
                    yield name, True, None, 0
            else:
                start += 1
                if not self._changes or prefix + name not in self._changes:
                    yield name, False, segment, row

    def _children_of_changes(self, path: str) -> Iterator[tuple[str, bool, Segment | None, int]]:
        prefix = f"{path}/" if path else ""
        order, _ = self._ordered()
        start, stop = _bounds_in(order, path)
        while start < stop:
            name, is_directory, _ = order[start][len(prefix) :].partition("/")
            if is_directory:
                inside = prefix + name
                lo, hi = self._bounds(inside)
                if lo == hi and self._count_below(inside):  # the segments do not have it
                    yield name, True, None, 0
                start = bisect_left(order, inside + "0", lo=start)
            else:
                if self._changes[prefix + name] is not None:
                    yield name, False, None, 0
                start += 1

    def objects(self) -> Iterator[ObjectInfo]:
        """Each stored object that a file lies in, once."""
        seen: set[bytes] = set()
        for piece in self._under(""):
            rows: Iterable[tuple[bytes, int, bytes, bytes]]
            if isinstance(piece, Run):
                rows = piece.segment.object_rows(piece.start, piece.stop)
            else:
                entry = piece.entry
                rows = [(entry.object_id, entry.sealed_size, entry.root, entry.data_key_id)]
            for object_id, sealed_size, root, data_key_id in rows:
                # Ids can repeat under another data key: an author may name an object as it likes.
                if (uid := data_key_id + object_id) not in seen:
                    seen.add(uid)
                    yield ObjectInfo(object_id, sealed_size, root, data_key_id)

    def uses(self, uids: Collection[bytes]) -> bool:
        """Whether a file lies in one of these objects, each given as data key id and object id in one."""
        wanted = {uid[16:] for uid in uids}
        changed = (entry.object_id for entry in self._changes.values() if entry is not None)
        if all(wanted.isdisjoint(ids) for ids in (changed, *(s.object_ids() for s in self._segments))):
            return False  # nearly always, and much faster
        return any(found.data_key_id + found.object_id in uids for found in self.objects())

    def sealed_under(self, data_key_ids: Collection[bytes]) -> Iterator[tuple[str, Entry]]:
        """Paths and entries of the files that were sealed under one of the data keys, sorted."""
        wanted = set(data_key_ids)
        for piece in self._under(""):
            if isinstance(piece, Run):
                segment = piece.segment
                for row in segment.sealed_under(wanted, piece.start, piece.stop):
                    yield segment.path(row).decode(), segment.entry(row)
            elif piece.entry.data_key_id in wanted:
                yield piece

    # -- changing ------------------------------------------------------------------------------------

    def clash(self, puts: Collection[str], deletes: Collection[str] = ()) -> str | None:
        """One of *puts* that :meth:`apply` would make a file and a directory at once, or put below a file."""
        new = set(puts)
        gone = set(deletes) - new
        sorted_gone: list[str] | None = None
        files: dict[str, bool] = {}  # parents that were looked up
        for path in puts:
            for parent in parents(path):
                if parent not in files:
                    files[parent] = parent in new or (parent not in gone and parent in self)
                if files[parent]:
                    return path
            below = self._count_below(path)
            if below and gone:
                sorted_gone = sorted_gone or sorted(gone)
                start, stop = _bounds_in(sorted_gone, path)
                below -= sum(name in self for name in sorted_gone[start:stop])
            if below:
                return path
        return None

    def apply(self, puts: Mapping[str, Entry], deletes: Collection[str] = ()) -> Catalogue:
        """The catalogue after these changes: first the deletions, then the puts.

        Deleting a path that is not there does nothing.
        """
        changes, shadows, length = dict(self._changes), set(self._shadows), self._length
        for path in deletes:
            if path in changes:
                if changes[path] is None:
                    continue
                if path in shadows:
                    changes[path] = None
                else:
                    del changes[path]
                length -= 1
            elif self._find(path) is not None:
                changes[path] = None
                shadows.add(path)
                length -= 1
        for path, entry in puts.items():
            if path in changes:
                length += changes[path] is None
            elif self._find(path) is not None:
                shadows.add(path)
            else:
                length += 1
            changes[path] = entry
        result = Catalogue(self._segments, changes, shadows, length)
        if len(changes) > max(MIN_CHANGES, self._counts[-1] // CHANGES_PART):
            return result.compacted()
        return result

    def compacted(self) -> Catalogue:
        """The same catalogue with all changes folded into segments; a segment that no change touches is kept as it is.

        (Unless it is small: then it is joined to the one before it, if that has to be made anew anyway.)
        """
        if not self._changes:
            return self
        fresh = self._fresh_runs()
        order, _ = self._ordered()
        segments: list[Segment] = []
        runs: list[Run] = []  # what the next new segments consist of
        bounds = ["", *(first.decode() for first in self._firsts[1:]), None]
        for index, (start, stop) in enumerate(pairwise(bounds)):
            segment = self._segments[index] if self._segments else None
            untouched = bisect_left(order, start or "") == _end(order, stop)
            if segment is not None and untouched and not (runs and len(segment) < SMALL_SEGMENT):
                segments += [*splice(runs), segment]
                runs = []
                continue
            for piece in self._pieces(start or "", stop):
                _append(runs, piece if isinstance(piece, Run) else next(fresh))
        segments += splice(runs)
        return Catalogue(tuple(segments), {}, set(), self._length)

    def segments(self) -> list[Segment]:
        """The segments of :meth:`compacted`, in order."""
        return list(self.compacted()._segments)  # noqa: SLF001 - its own class

    def _fresh_runs(self) -> Iterator[Run]:
        """A run of one row for each changed entry, in order of paths."""
        order, _ = self._ordered()
        puts = [(path, entry) for path in order if (entry := self._changes[path]) is not None]
        for at in range(0, len(puts), MAX_SEGMENT_ENTRIES):
            segment = Segment.build(puts[at : at + MAX_SEGMENT_ENTRIES])
            yield from (Run(segment, row, row + 1) for row in range(len(segment)))

    # -- comparing -----------------------------------------------------------------------------------

    def diff(self, other: Catalogue) -> Iterator[Difference]:
        """What differs: ``(path, entry here, entry in other)``, sorted by path, ``None`` where there is no file.

        Files differ when they are other stored bytes, not by time. Segments that both share, or that were read from
        the same place (equal ``ref``), are not looked at.
        """
        mine, theirs = self._changes, other._changes
        changed = mine.keys() | theirs.keys()
        rows = diff_segments(self._segments, other._segments, ignore=changed)
        different = sorted(path for path in changed if mine.get(path, path) is not theirs.get(path, path))
        changes = ((path, self.get(path), other.get(path)) for path in different)
        return heapq.merge(rows, (each for each in changes if differ(each)), key=itemgetter(0))

    # -- places ----------------------------------------------------------------------------------------

    def _under(self, prefix: str) -> Iterator[Run | _Put]:
        """All files at or below *prefix*, in order, as runs of rows and as changed entries."""
        if not prefix:
            yield from self._pieces("", None)
            return
        entry = self.get(prefix)
        if entry is not None:
            yield _Put(prefix, entry)
        yield from self._pieces(prefix + "/", prefix + "0")

    def _pieces(self, start: str, stop: str | None) -> Iterator[Run | _Put]:
        """All files from *start* to before *stop*."""
        order, _ = self._ordered()
        row = self._rank(start)
        for path in order[bisect_left(order, start) : _end(order, stop)]:
            at = self._rank(path)
            yield from self._runs(row, at)
            row = at + (path in self._shadows)
            entry = self._changes[path]
            if entry is not None:
                yield _Put(path, entry)
        yield from self._runs(row, self._counts[-1] if stop is None else self._rank(stop))

    def _runs(self, start: int, stop: int) -> Iterator[Run]:
        """Rows of the segments, counted through all of them."""
        while start < stop:
            index = bisect_right(self._counts, start) - 1
            first = self._counts[index]
            end = min(stop, self._counts[index + 1])
            yield Run(self._segments[index], start - first, end - first)
            start = end

    def _rank(self, path: str) -> int:
        """How many rows of the segments come before *path*."""
        key = _key(path)
        index = bisect_right(self._firsts, key) - 1
        return self._counts[index] + self._segments[index].find(key) if index >= 0 else 0

    def _bounds(self, path: str) -> tuple[int, int]:
        """The rows of the segments below the directory *path*."""
        if not path:
            return 0, self._counts[-1]
        start = self._rank(path + "/")
        if start == self._counts[-1]:
            return start, start
        index = bisect_right(self._counts, start) - 1
        if not self._segments[index].path(start - self._counts[index]).startswith(_key(path + "/")):
            return start, start  # as for every file: one search is enough
        # "0" is the character after "/": it comes behind everything inside the directory.
        return start, self._rank(path + "0")

    def _ordered(self) -> tuple[list[str], list[int]]:
        """The changed paths in order, and how many files those before each add to the segments'."""
        if self._order is None:
            order = sorted(self._changes)
            added = (-1 if self._changes[path] is None else path not in self._shadows for path in order)
            self._order = order, list(accumulate(added, initial=0))
        return self._order

    def _count_below(self, path: str) -> int:
        """How many files are inside the directory *path*."""
        lo, hi = self._bounds(path)
        order, added = self._ordered()
        first, last = _bounds_in(order, path)
        return hi - lo + added[last] - added[first]


def _key(path: str) -> bytes:
    return path.encode(errors="surrogatepass")  # never stored: a path with a surrogate is merely not found


def _end(order: list[str], stop: str | None) -> int:
    return len(order) if stop is None else bisect_left(order, stop)


def _bounds_in(order: list[str], path: str) -> tuple[int, int]:
    """Where the paths below the directory *path* are in a sorted list."""
    return (bisect_left(order, path + "/"), bisect_left(order, path + "0")) if path else (0, len(order))


def _append(runs: list[Run], run: Run) -> None:
    """Append *run*, or lengthen the last one by it."""
    if runs and runs[-1].segment is run.segment and runs[-1].stop == run.start:
        run = Run(run.segment, runs.pop().start, run.stop)
    runs.append(run)
