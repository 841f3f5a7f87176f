"""What every store must do, whatever the host."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta

import pytest

from sealedhealth.errors import InvalidPath, MissingError, TamperedError, TruncatedError
from sealedhealth.stores import ObjectStore

__all__ = ["StoreConformance"]

NAME = "objects/3f/3f00112233445566778899aabbccddee"
OpenAt = Callable[[str], ObjectStore]


def listed(store: ObjectStore, prefix: str = "") -> list[tuple[str, int]]:
    """What a store lists, as a sorted list."""
    return sorted(store.list(prefix))


class StoreConformance:
    """Subclass it, and give a fixture ``open_at``: it opens the store under test.

    Called with ``""`` it opens an empty place of one test's own on the host, the same each time; called
    with a suffix such as ``"/below"``, the place whose URL ends with that.
    """

    @pytest.fixture
    def open_at(self) -> OpenAt:
        """Open the store under test."""
        raise NotImplementedError("give a fixture called open_at")

    @pytest.fixture
    def store(self, open_at: OpenAt) -> ObjectStore:
        """An empty store."""
        return open_at("")

    def test_what_is_put_comes_back(self, store: ObjectStore) -> None:
        """A single object, read whole."""
        store.put(NAME, b"sealed bytes")
        assert store.get(NAME, limit=100) == b"sealed bytes"

    def test_a_second_put_replaces(self, store: ObjectStore) -> None:
        """Putting a name again replaces the object."""
        store.put(NAME, b"a longer first version")
        store.put(NAME, b"second")
        assert store.get(NAME, limit=100) == b"second"

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_can_be_put(self, store: ObjectStore, kind: type) -> None:
        """Bytes, byte arrays and views are all taken, in put and in a writer."""
        store.put(NAME, kind(b"sealed"))
        with store.writer("objects/00/written") as writer:
            writer.write(kind(b"sealed"))
            writer.commit()
        assert store.get_many([NAME, "objects/00/written"], limit=6) == {
            NAME: b"sealed",
            "objects/00/written": b"sealed",
        }

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        """No byte at all can be stored, found, read and listed."""
        store.put(NAME, b"")
        assert store.get(NAME, limit=10) == b""
        assert store.exists(NAME)
        assert listed(store) == [(NAME, 0)]
        with pytest.raises(TruncatedError):
            store.get_ranges([(NAME, 0, 1)])

    def test_many_at_once(self, store: ObjectStore) -> None:
        """put_many, get_many and list agree on 200 objects in many directories."""
        objects = {f"objects/{n % 16:02x}/{n:032x}": os.urandom(n) for n in range(1, 201)}
        store.put_many(objects)
        store.flush()
        assert store.get_many(list(objects), limit=200) == objects
        assert listed(store, "objects") == sorted((name, len(data)) for name, data in objects.items())
        assert listed(store, "objects/0a/") == sorted(
            (n, len(d)) for n, d in objects.items() if n.startswith("objects/0a/")
        )

    def test_nothing_to_do(self, store: ObjectStore) -> None:
        """Empty requests are answered without a request."""
        store.put_many({})
        assert store.get_many([], limit=1) == {}
        assert store.get_ranges([]) == []
        assert store.get_ranges([(NAME, 5, 5)]) == [b""]
        store.delete_many([])
        assert listed(store) == []
        assert list(store.unfinished()) == []

    def test_missing(self, store: ObjectStore) -> None:
        """What is absent raises MissingError, is left out when that is asked for, and does not exist."""
        store.put(NAME, b"there")
        with pytest.raises(MissingError) as caught:
            store.get("objects/00/absent", limit=10)
        assert "objects/00/absent" in str(caught.value)
        with pytest.raises(MissingError):
            store.get_many([NAME, "objects/00/absent"], limit=10)
        assert store.get_many([NAME, "objects/00/absent"], limit=10, missing_ok=True) == {NAME: b"there"}
        with pytest.raises(MissingError):
            store.get_ranges([(NAME, 0, 2), ("objects/00/absent", 0, 2)])
        assert store.exists(NAME)
        assert not store.exists("objects/00/absent")
        assert not store.exists(f"{NAME}/below-a-file")
        assert not store.exists("objects")
        assert listed(store, "no/such/prefix") == []

    def test_too_large(self, store: ObjectStore) -> None:
        """An object beyond its limit is refused; one of exactly the limit is not."""
        store.put(NAME, b"x" * 1000)
        assert len(store.get(NAME, limit=1000)) == 1000
        with pytest.raises(TamperedError):
            store.get(NAME, limit=999)
        with pytest.raises(TamperedError):
            store.get_many([NAME], limit=10, missing_ok=True)

    def test_ranges(self, store: ObjectStore) -> None:
        """Ranges of several objects, in the order that was asked for."""
        first, second = os.urandom(5000), os.urandom(3000)
        store.put_many({NAME: first, "objects/00/second": second})
        asked = [
            (NAME, 4000, 5000),
            ("objects/00/second", 0, 1),
            (NAME, 0, 10),
            (NAME, 7, 7),
            ("objects/00/second", 1, 3000),
        ]
        data = {NAME: first, "objects/00/second": second}
        assert store.get_ranges(asked) == [data[name][lo:hi] for name, lo, hi in asked]

    @pytest.mark.parametrize("lo,hi", [(0, 101), (99, 101), (100, 101), (5000, 6000)])
    def test_ranges_beyond_the_end(self, store: ObjectStore, lo: int, hi: int) -> None:
        """A range that the object does not fill is truncation, never a short answer."""
        store.put(NAME, b"x" * 100)
        with pytest.raises(TruncatedError):
            store.get_ranges([(NAME, 0, 10), (NAME, lo, hi)])

    @pytest.mark.parametrize("lo,hi", [(-1, 5), (5, 4)])
    def test_ranges_that_are_none(self, store: ObjectStore, lo: int, hi: int) -> None:
        """A negative or reversed range is a mistake of the caller."""
        store.put(NAME, b"x" * 100)
        with pytest.raises(ValueError, match="no range"):
            store.get_ranges([(NAME, lo, hi)])

    @pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) + 1, (20 << 20) + 7])
    def test_writer(self, store: ObjectStore, size: int) -> None:
        """A writer's object comes back whole, below, at and above the size of a part."""
        data = os.urandom(size)
        with store.writer(NAME, size_hint=size) as writer:
            for start in range(0, size, 3 << 20):
                writer.write(data[start : start + (3 << 20)])
            assert not store.exists(NAME)
            writer.commit()
        assert store.get(NAME, limit=size) == data
        assert listed(store) == [(NAME, size)]

    def test_writer_takes_one_large_piece(self, store: ObjectStore) -> None:
        """One write of many parts is split up."""
        data = os.urandom(30 << 20)
        with store.writer(NAME) as writer:
            writer.write(data)
            writer.commit()
        assert store.get(NAME, limit=len(data)) == data

    @pytest.mark.parametrize("size", [10, 20 << 20])
    def test_discard_leaves_nothing(self, store: ObjectStore, size: int) -> None:
        """A discarded object never appears, and what was there before stays."""
        store.put(NAME, b"before")
        writer = store.writer(NAME)
        writer.write(os.urandom(size))
        writer.discard()
        writer.discard()
        assert store.get(NAME, limit=10) == b"before"
        assert listed(store) == [(NAME, 6)]
        assert store.delete_unfinished(timedelta(0)) == 0
        with pytest.raises(ValueError, match="closed"):
            writer.commit()
        with pytest.raises(ValueError, match="closed"):
            writer.write(b"more")

    def test_an_exception_discards(self, store: ObjectStore) -> None:
        """Leaving the block without a commit discards, with an exception or without."""
        with pytest.raises(RuntimeError, match="crash"), store.writer(NAME) as writer:  # noqa: PT012 - that is the point
            writer.write(b"half of it")
            raise RuntimeError("crash")
        with store.writer(NAME) as writer:
            writer.write(b"half of it")
        assert not store.exists(NAME)

    @pytest.mark.parametrize("size", [10, 20 << 20])
    def test_an_abandoned_writer_commits_nothing(self, store: ObjectStore, size: int) -> None:
        """A writer that is merely dropped makes no object appear."""
        writer = store.writer(NAME)
        writer.write(os.urandom(size))
        del writer
        assert not store.exists(NAME)
        assert listed(store) == []

    def test_discard_after_commit_does_nothing(self, store: ObjectStore) -> None:
        """A late discard does not take the object away."""
        writer = store.writer(NAME)
        writer.write(b"sealed")
        writer.commit()
        writer.discard()
        assert store.get(NAME, limit=10) == b"sealed"

    def test_delete(self, store: ObjectStore) -> None:
        """Deleted objects are gone; absent ones are none's business; others stay."""
        store.put_many({f"objects/00/{n:04x}": b"x" for n in range(20)})
        store.put(NAME, b"stays")
        store.delete_many([f"objects/00/{n:04x}" for n in range(20)] + ["objects/00/absent", "other/absent"])
        assert listed(store) == [(NAME, 5)]

    def test_names_with_patterns_in_them_are_names(self, open_at: OpenAt) -> None:
        """Brackets and stars in a URL are no patterns: only what is named is deleted."""
        store = open_at("/data[ab]*")
        other = open_at("/dataab")
        store.put(NAME, b"one")
        other.put(NAME, b"two")
        store.delete_many([NAME])
        assert not store.exists(NAME)
        assert other.get(NAME, limit=10) == b"two"

    @pytest.mark.parametrize("name", ["", "/etc/passwd", "../escape", "objects/../../escape"])
    def test_names_outside_the_root(self, store: ObjectStore, name: str) -> None:
        """No name leads out of the dataset."""
        with pytest.raises(InvalidPath):
            store.put(name, b"x")
        with pytest.raises(InvalidPath):
            store.get(name, limit=1)
        with pytest.raises(InvalidPath):
            store.get_ranges([(name, 0, 1)])
        with pytest.raises(InvalidPath):
            store.exists(name)
        with pytest.raises(InvalidPath):
            store.writer(name)
        with pytest.raises(InvalidPath):
            store.delete_many([name])

    def test_two_stores_of_one_place_see_each_other(self, open_at: OpenAt) -> None:
        """No listing and no answer comes from a cache."""
        one, two = open_at(""), open_at("")
        assert listed(two) == []
        assert not two.exists(NAME)
        one.put(NAME, b"first")
        assert listed(two) == [(NAME, 5)]
        assert two.get(NAME, limit=10) == b"first"
        one.put(NAME, b"second")
        assert listed(two) == [(NAME, 6)]
        assert two.get(NAME, limit=10) == b"second"
        assert one.url == two.url

    def test_a_store_is_never_pickled(self, store: ObjectStore) -> None:
        """A pickle would carry the host's credentials."""
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(store)
