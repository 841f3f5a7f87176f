"""Which objects the log claims, by columns: some 65 bytes for each of a million.

Object ids are random, so the first byte shares them out evenly among 256 places; each is
sorted by itself, and whoever walks through all of them holds one of them at a time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Claim", "Claims"]

ID = 16
ROOT = 32


class Claim(NamedTuple):
    """What one change set says that an object is."""

    size: int  #: sealed, in bytes
    root: bytes
    origin: int  #: which change set said so, as the caller numbers them


class Claims:
    """The objects that change sets named, and which of them are needed.

    Fill it with :meth:`add` and :meth:`collect` in the order of the log, then call :meth:`settle` once.
    """

    def __init__(self) -> None:
        self._places = [_Place() for _ in range(256)]
        self._keys: dict[bytes, int] = {}
        self.needed = 0  #: how many names are needed
        self.bytes = 0  #: and their sealed bytes, by the first claim of each

    def add(self, origin: int, ids: bytes, roots: bytes, sizes: Sequence[int], keys: Sequence[bytes]) -> None:
        """The objects of one change set; *keys* is the id of the data key of each."""
        for row, size in enumerate(sizes):
            place = self._places[ids[ID * row]]
            place.ids += ids[ID * row : ID * row + ID]
            place.roots += roots[ROOT * row : ROOT * row + ROOT]
            place.sizes.append(size)
            place.keys.append(self._keys.setdefault(keys[row], len(self._keys)))
            place.origins.append(origin)

    def collect(self, ids: Sequence[bytes]) -> None:
        """Garbage collection said that it deletes these: whoever claimed them before needs them no more."""
        for object_id in ids:
            place = self._places[object_id[0]]
            place.collected += object_id
            place.before.append(len(place.sizes))

    def settle(self, destroyed: Collection[bytes]) -> None:
        """Sort, and leave out what was collected, and what data keys that are *destroyed* had sealed."""
        gone = {index for key, index in self._keys.items() if key in destroyed}
        self._keys.clear()
        for place in self._places:
            place.settle(gone)
            self.needed += place.names
            self.bytes += place.bytes

    def find(self, object_id: bytes) -> list[Claim]:
        """What an object has to be: one of these. Empty when nobody needs it."""
        return self._places[object_id[0]].find(object_id) if len(object_id) == ID else []

    def __contains__(self, object_id: bytes) -> bool:
        """Whether the log ever named this object, needed or not."""
        return len(object_id) == ID and self._places[object_id[0]].knows(object_id)

    def place(self, first: int) -> Iterator[tuple[bytes, list[Claim]]]:
        """The needed objects whose ids begin with the byte *first*, sorted."""
        return self._places[first].walk()

    def __iter__(self) -> Iterator[tuple[bytes, list[Claim]]]:
        """Every needed object, sorted by id."""
        for place in self._places:
            yield from place.walk()


class _Place:
    """The rows of one first byte."""

    __slots__ = ("before", "bytes", "collected", "ids", "keys", "names", "needed", "origins", "roots", "sizes")

    def __init__(self) -> None:
        self.ids = bytearray()
        self.roots = bytearray()
        self.sizes = array("Q")
        self.keys = array("I")
        self.origins = array("I")
        self.needed = bytearray()
        self.collected = bytearray()
        self.before = array("I")
        self.names = 0
        self.bytes = 0

    def id_of(self, row: int) -> bytes:
        return bytes(self.ids[ID * row : ID * row + ID])

    def claim(self, row: int) -> Claim:
        return Claim(self.sizes[row], bytes(self.roots[ROOT * row : ROOT * row + ROOT]), self.origins[row])

    def settle(self, gone: Collection[int]) -> None:
        collected: dict[bytes, int] = {}
        for at, before in enumerate(self.before):
            collected[bytes(self.collected[ID * at : ID * at + ID])] = before
        order = sorted(range(len(self.sizes)), key=self.id_of)  # stable: the first claim stays first
        needed = bytearray(len(order))
        same: list[int] = []  # rows of one id that are needed
        for at, row in enumerate(order):
            object_id = self.id_of(row)
            if same and self.id_of(same[0]) != object_id:
                same = []
            if self.keys[row] in gone or (collected and row < collected.get(object_id, 0)):
                continue
            if same and self.claim(row)[:2] in {self.claim(other)[:2] for other in same}:
                continue
            if not same:
                self.names += 1
                self.bytes += self.sizes[row]
            same.append(row)
            needed[at] = 1
        self.ids = bytearray().join([self.ids[ID * row : ID * row + ID] for row in order])
        self.roots = bytearray().join([self.roots[ROOT * row : ROOT * row + ROOT] for row in order])
        self.sizes = array("Q", [self.sizes[row] for row in order])
        self.origins = array("I", [self.origins[row] for row in order])
        self.needed = needed
        self.keys, self.collected, self.before = array("I"), bytearray(), array("I")

    def _first(self, object_id: bytes) -> int:
        return bisect_left(range(len(self.sizes)), object_id, key=self.id_of)

    def knows(self, object_id: bytes) -> bool:
        row = self._first(object_id)
        return row < len(self.sizes) and self.id_of(row) == object_id

    def find(self, object_id: bytes) -> list[Claim]:
        row = self._first(object_id)
        found = []
        while row < len(self.sizes) and self.id_of(row) == object_id:
            if self.needed[row]:
                found.append(self.claim(row))
            row += 1
        return found

    def walk(self) -> Iterator[tuple[bytes, list[Claim]]]:
        found: list[Claim] = []
        last = b""
        for row in range(len(self.sizes)):
            if not self.needed[row]:
                continue
            object_id = self.id_of(row)
            if object_id != last:
                if found:
                    yield last, found
                last, found = object_id, []
            found.append(self.claim(row))
        if found:
            yield last, found
