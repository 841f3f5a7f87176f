"""The objects that the entries of a segment lie in, by columns."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Links", "ObjectTable"]


@dataclass(slots=True, repr=False, eq=False)
class ObjectTable:
    """The table of objects, and of the data keys they were sealed under."""

    ids: bytes
    keys: bytes
    salts: bytes
    roots: bytes
    sizes: array[int]  # of the plaintext: the sealed size follows from it
    data_key_of: array[int]
    data_keys: list[bytes]

    def take(self, rows: array[int]) -> ObjectTable:
        """These rows, with the whole table of data keys."""
        return ObjectTable(
            b"".join([self.ids[16 * row : 16 * row + 16] for row in rows]),
            b"".join([self.keys[32 * row : 32 * row + 32] for row in rows]),
            b"".join([self.salts[24 * row : 24 * row + 24] for row in rows]),
            b"".join([self.roots[32 * row : 32 * row + 32] for row in rows]),
            array("Q", [self.sizes[row] for row in rows]),
            array("I", [self.data_key_of[row] for row in rows]),
            self.data_keys,
        )

    def cut(self, start: int, stop: int) -> ObjectTable:
        """Some rows, with the whole table of data keys."""
        return ObjectTable(
            self.ids[16 * start : 16 * stop],
            self.keys[32 * start : 32 * stop],
            self.salts[24 * start : 24 * stop],
            self.roots[32 * start : 32 * stop],
            self.sizes[start:stop],
            self.data_key_of[start:stop],
            self.data_keys,
        )

    @classmethod
    def join(cls, tables: Sequence[ObjectTable]) -> ObjectTable:
        """All rows of *tables* in order; data keys that no row needs any more are left out."""
        data_keys: dict[bytes, int] = {}
        places: dict[int, dict[int, int]] = {}  # of each table of data keys (many share one): where its rows went
        data_key_of, sizes = array("I"), array("Q")
        for table in tables:
            place = places.setdefault(id(table.data_keys), {})
            for index in sorted(set(table.data_key_of) - place.keys()):
                place[index] = data_keys.setdefault(table.data_keys[index], len(data_keys))
            data_key_of.extend(map(place.__getitem__, table.data_key_of))
            sizes += table.sizes
        return cls(
            b"".join([table.ids for table in tables]),
            b"".join([table.keys for table in tables]),
            b"".join([table.salts for table in tables]),
            b"".join([table.roots for table in tables]),
            sizes,
            data_key_of,
            list(data_keys),
        )

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(slots=True, repr=False, eq=False)
class Links:
    """For each entry of a packed segment: which object, and where in it."""

    objects: array[int]
    offsets: array[int]
    lengths: array[int]

    def unless_simple(self, table: ObjectTable) -> Links | None:
        """These links, or None when each entry is the whole of an object of its own, in step."""
        in_step = len(table) == len(self.objects) and self.objects == array("I", range(len(table)))
        return None if in_step and self.lengths == table.sizes and not any(self.offsets) else self
