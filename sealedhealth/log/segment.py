"""Segments: sorted runs of the catalogue, held by columns.

A segment has three tables: *entries* sorted by path, the *objects* they lie in, and the *data keys* of those objects.
When each entry is the whole of an object of its own, as is usual, the first two run in step and the columns that tie
them together (object, offset, length) are left out; a segment that is not so simple is *packed*.

Paths are kept as one string of UTF-8 with a line feed after each: as Python strings a million of them would take more
than twice the memory. UTF-8 sorts as code points do, and a line feed sorts before every character of a path, so bytes
are compared as they are.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise, repeat
from operator import add, le, lt
from typing import Any, NamedTuple, NoReturn

from sealedhealth.errors import InvalidInput, InvalidPath, MalformedError
from sealedhealth.format import plain_size, sealed_size
from sealedhealth.log.columns import Column, Field, Schema, decode, encode
from sealedhealth.log.entry import Entry
from sealedhealth.log.link import MAX_SEQUENCE
from sealedhealth.log.objecttable import Links, ObjectTable
from sealedhealth.log.paths import lines_are_canonical

__all__ = ["MAX_SEGMENT_ENTRIES", "Run", "Segment", "splice"]

MAX_SEGMENT_ENTRIES = 65_536
MAX_SEGMENT_TEXT = 32 << 20  #: bytes of paths
_STEP = 64  # every so many paths one is kept apart, so that a search makes few strings

_SCHEMA = Schema(
    name="segment/1",
    fields={"packed": Field(bool)},
    columns={
        "path": Column("text", "entry", compress=True),
        "mtime": Column("u64", "entry", compress=True),
        "sequence": Column("u64", "entry", compress=True),
        "object": Column("u32", "entry", compress=True, optional=True),
        "offset": Column("u64", "entry", compress=True, optional=True),
        "length": Column("u64", "entry", compress=True, optional=True),
        "object_id": Column("bytes:16", "object"),
        "object_key": Column("bytes:32", "object"),
        "object_salt": Column("bytes:24", "object"),
        "object_root": Column("bytes:32", "object"),
        "object_size": Column("u64", "object", compress=True),
        "object_data_key": Column("u32", "object", compress=True, optional=True),
        "data_key": Column("bytes:16", "key"),
    },
    tables={"entry": MAX_SEGMENT_ENTRIES, "object": MAX_SEGMENT_ENTRIES, "key": MAX_SEGMENT_ENTRIES},
    max_expanded=MAX_SEGMENT_TEXT + 200 * MAX_SEGMENT_ENTRIES,
)


class Segment:
    """An immutable, sorted run of the catalogue: 1 to 65,536 entries and at most 32 MiB of paths.

    ``ref`` belongs to whoever reads and writes checkpoints: it says where the segment is stored, ``None`` for nowhere.
    A segment holds object keys, so it refuses to be pickled, and its repr shows no content.
    """

    __slots__ = ("links", "marks", "mtimes", "objects", "ref", "sequences", "starts", "text")

    def __init__(
        self, text: bytes, mtimes: array[int], sequences: array[int], objects: ObjectTable, links: Links | None
    ) -> None:
        lines = text.splitlines(keepends=True)
        self.text = text  # the paths, a line feed after each
        self.starts = array("I", accumulate(map(len, lines), initial=0))
        self.marks = [line[:-1] for line in lines[::_STEP]]
        self.mtimes = mtimes
        self.sequences = sequences
        self.objects = objects
        self.links = links  # None: entry i is the whole of object i
        self.ref: Any = None

    def stored_at(self, ref: Any) -> Segment:
        """The same segment with another ``ref``; this one stays as it is."""
        twin = object.__new__(Segment)
        for name in Segment.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.ref = ref
        return twin

    def __len__(self) -> int:
        return len(self.mtimes)

    def __repr__(self) -> str:
        return f"<Segment of {len(self)} entries>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Segment holds keys: it cannot be copied or pickled")

    # -- looking up ------------------------------------------------------------------------------

    @property
    def first(self) -> str:
        """The first path."""
        return self.path(0).decode()

    @property
    def last(self) -> str:
        """The last path."""
        return self.path(len(self) - 1).decode()

    def path(self, row: int) -> bytes:
        """The path of a row, in UTF-8."""
        return self.text[self.starts[row] : self.starts[row + 1] - 1]

    def paths(self, start: int, stop: int) -> list[bytes]:
        """The paths of rows, in UTF-8."""
        return self.text[self.starts[start] : self.starts[stop]].splitlines()

    def find(self, path: bytes) -> int:
        """The row where *path* is, or would be."""
        stop = bisect_right(self.marks, path) * _STEP
        if not stop:
            return 0
        text, starts = self.text, self.starts
        return bisect_left(
            range(len(self)),
            path,
            lo=stop - _STEP,
            hi=min(stop, len(self)),
            key=lambda row: text[starts[row] : starts[row + 1] - 1],
        )

    def entry(self, row: int) -> Entry:
        """The entry of a row."""
        objects, links = self.objects, self.links
        index = row if links is None else links.objects[row]
        size = objects.sizes[index]
        return Entry(
            objects.ids[16 * index : 16 * index + 16],
            objects.keys[32 * index : 32 * index + 32],
            objects.data_keys[objects.data_key_of[index]],
            objects.salts[24 * index : 24 * index + 24],
            objects.roots[32 * index : 32 * index + 32],
            sealed_size(size),
            0 if links is None else links.offsets[row],
            size if links is None else links.lengths[row],
            self.mtimes[row],
            self.sequences[row],
        )

    def content(self, row: int) -> tuple[bytes, bytes, int, int]:
        """What ``Entry.content`` of a row is, without making the entry."""
        objects, links = self.objects, self.links
        index = row if links is None else links.objects[row]
        return (
            objects.data_keys[objects.data_key_of[index]],
            objects.ids[16 * index : 16 * index + 16],
            0 if links is None else links.offsets[row],
            objects.sizes[index] if links is None else links.lengths[row],
        )

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, Entry]]:
        """Paths and entries of rows, sorted."""
        stop = len(self) if stop is None else stop
        for row, path in enumerate(self.paths(start, stop), start):
            yield path.decode(), self.entry(row)

    def total_size(self, start: int, stop: int) -> int:
        """Bytes of the files in rows."""
        return sum((self.objects.sizes if self.links is None else self.links.lengths)[start:stop])

    def object_ids(self) -> Iterator[bytes]:
        """The id of each object of the table."""
        ids = self.objects.ids
        return (ids[at : at + 16] for at in range(0, len(ids), 16))

    def object_rows(self, start: int, stop: int) -> Iterator[tuple[bytes, int, bytes, bytes]]:
        """Object id, sealed size, root and data key id of each object that rows lie in."""
        objects = self.objects
        used = range(start, stop) if self.links is None else sorted(set(self.links.objects[start:stop]))
        for index in used:
            yield (
                objects.ids[16 * index : 16 * index + 16],
                sealed_size(objects.sizes[index]),
                objects.roots[32 * index : 32 * index + 32],
                objects.data_keys[objects.data_key_of[index]],
            )

    def sealed_under(self, data_key_ids: set[bytes], start: int, stop: int) -> Iterator[int]:
        """The rows among these whose objects were sealed under one of the data keys."""
        objects, links = self.objects, self.links
        wanted = {index for index, key_id in enumerate(objects.data_keys) if key_id in data_key_ids}
        if wanted:
            for row in range(start, stop):
                if objects.data_key_of[row if links is None else links.objects[row]] in wanted:
                    yield row

    # -- making ----------------------------------------------------------------------------------

    @classmethod
    def build(cls, items: Sequence[tuple[str, Entry]]) -> Segment:
        """A segment of these entries, sorted by path: at most 65,536, with at most 32 MiB of paths.

        Raises ``InvalidPath`` for a path that is not canonical, ``InvalidInput`` for a sealed size that no object has.
        """
        text = "\n".join([path for path, _ in items])
        if not lines_are_canonical(text) or text.count("\n") != len(items) - 1:
            raise InvalidPath("A path is not in canonical form.", next="Pass paths through canonical() first.")
        # By everything that belongs to the object: entries of a destroyed key differ in the object key alone.
        rows: dict[tuple[bytes, bytes, bytes, bytes, bytes, int], int] = {}
        index = array(
            "I",
            [
                rows.setdefault((e.object_id, e.object_key, e.salt, e.root, e.data_key_id, e.sealed_size), len(rows))
                for _, e in items
            ],
        )
        data_keys: dict[bytes, int] = {}
        objects = ObjectTable(
            ids=b"".join([row[0] for row in rows]),
            keys=b"".join([row[1] for row in rows]),
            salts=b"".join([row[2] for row in rows]),
            roots=b"".join([row[3] for row in rows]),
            sizes=array("Q", [plain_size(row[5]) for row in rows]),
            data_key_of=array("I", [data_keys.setdefault(row[4], len(data_keys)) for row in rows]),
            data_keys=list(data_keys),
        )
        links = Links(index, array("Q", [e.offset for _, e in items]), array("Q", [e.length for _, e in items]))
        return cls(
            text.encode() + b"\n",
            array("Q", [e.mtime_us for _, e in items]),
            array("Q", [e.sequence for _, e in items]),
            objects,
            links.unless_simple(objects),
        )

    def encode(self) -> bytes:
        """The segment by columns. Secret: it holds object keys, and is for sealing."""
        objects, links = self.objects, self.links
        columns: dict[str, Any] = {
            "path": self.text[:-1],
            "mtime": self.mtimes,
            "sequence": self.sequences,
            "object_id": objects.ids,
            "object_key": objects.keys,
            "object_salt": objects.salts,
            "object_root": objects.roots,
            "object_size": objects.sizes,
            "object_data_key": objects.data_key_of,
            "data_key": objects.data_keys,
        }
        if links is not None:
            columns |= {"object": links.objects, "offset": links.offsets, "length": links.lengths}
        return encode(
            _SCHEMA,
            rows={"entry": len(self), "object": len(objects), "key": len(objects.data_keys)},
            fields={"packed": links is not None},
            columns=columns,
        )

    @classmethod
    def decode(cls, data: bytes, *, ref: Any = None) -> Segment:
        """The segment that :meth:`encode` wrote.

        Raises
        ------
        UnsupportedFormat
            It is of a version that this release does not know.
        MalformedError
            It breaks the format: bounds, canonical and strictly sorted paths, entries inside their objects.
        """
        content = decode(_SCHEMA, data)
        rows, paths = content.rows, content.utf8("path")
        if not rows["entry"] or not lines_are_canonical(paths.decode()):
            _malformed("a path is not in canonical form")
        paths += b"\n"
        lines = paths.splitlines(keepends=True)
        if not all(map(lt, lines, islice(lines, 1, None))):
            _malformed("its paths are not sorted, or one stands twice")
        sequences, sizes = content.numbers("sequence"), content.numbers("object_size")
        objects = ObjectTable(
            ids=content.blob("object_id"),
            keys=content.blob("object_key"),
            salts=content.blob("object_salt"),
            roots=content.blob("object_root"),
            sizes=sizes,
            data_key_of=content.numbers("object_data_key"),
            data_keys=content.blobs("data_key"),
        )
        if not rows["object"] or max(objects.data_key_of) >= rows["key"] or max(sequences) > MAX_SEQUENCE:
            _malformed("an object has no data key, or an entry no commit")
        try:
            sealed_size(max(sizes))
        except InvalidInput:
            _malformed("an object is larger than any can be")
        links = None
        if content.fields["packed"]:
            links = Links(content.numbers("object"), content.numbers("offset"), content.numbers("length"))
            if len(set(links.objects)) != rows["object"] or max(links.objects) >= rows["object"]:
                _malformed("an entry has no object, or an object no entry")
            if not all(map(le, map(add, links.offsets, links.lengths), map(sizes.__getitem__, links.objects))):
                _malformed("an entry reaches beyond its object")
        elif rows["object"] != rows["entry"] or any(map(content.has, ("object", "offset", "length"))):
            _malformed("its objects are not those of its entries")
        segment = cls(paths, content.numbers("mtime"), sequences, objects, links)
        segment.ref = ref
        return segment


def _malformed(problem: str) -> NoReturn:
    raise MalformedError(
        f"A segment of a checkpoint breaks the format: {problem}.",
        safe="Nothing of it was used.",
        next="Have a curator make a new checkpoint; the log itself is complete without it.",
    ) from None


# -- joining ---------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Some rows of a segment."""

    segment: Segment
    start: int
    stop: int


def splice(runs: Sequence[Run]) -> list[Segment]:
    """Segments that hold these rows, which are in order; one that is taken whole and alone stays as it is."""
    count = sum(run.stop - run.start for run in runs)
    text = sum(run.segment.starts[run.stop] - run.segment.starts[run.start] for run in runs)
    if count > MAX_SEGMENT_ENTRIES or (text > MAX_SEGMENT_TEXT and count > 1):
        parts = max(2, -(-count // MAX_SEGMENT_ENTRIES))
        cuts = [count * part // parts for part in range(parts + 1)]
        return [segment for lo, hi in pairwise(cuts) for segment in splice(_slice(runs, lo, hi))]
    if len(runs) == 1 and count == len(runs[0].segment):
        return [runs[0].segment]
    return [_join(runs)] if count else []


def _slice(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """Rows *start* to *stop* of all the rows of *runs* together."""
    found = []
    at = 0
    for segment, lo, hi in runs:
        first, last = max(lo, lo + start - at), min(hi, lo + stop - at)
        if first < last:
            found.append(Run(segment, first, last))
        at += hi - lo
    return found


def _join(runs: Sequence[Run]) -> Segment:
    """One segment of these rows."""
    mtimes, sequences = array("Q"), array("Q")
    links = Links(array("I"), array("Q"), array("Q"))
    tables: list[ObjectTable] = []
    count = 0
    places: dict[int, dict[int, int]] = {}  # of each packed segment: where its objects went
    for segment, start, stop in runs:
        mtimes += segment.mtimes[start:stop]
        sequences += segment.sequences[start:stop]
        if segment.links is None:
            table = segment.objects.cut(start, stop)
            links.objects.extend(range(count, count + len(table)))
            links.offsets.extend(repeat(0, len(table)))
            links.lengths += table.sizes
        else:
            used = segment.links.objects[start:stop]
            place = places.setdefault(id(segment), {})
            new = array("I", [row for row in dict.fromkeys(used) if row not in place])
            place.update(zip(new, range(count, count + len(new)), strict=True))
            table = segment.objects.take(new)
            links.objects.extend(map(place.__getitem__, used))
            links.offsets += segment.links.offsets[start:stop]
            links.lengths += segment.links.lengths[start:stop]
        tables.append(table)
        count += len(table)
    objects = ObjectTable.join(tables)
    text = b"".join([segment.text[segment.starts[start] : segment.starts[stop]] for segment, start, stop in runs])
    return Segment(text, mtimes, sequences, objects, links.unless_simple(objects))
