"""Moving whole objects between a store and a local sink."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from sealedhealth.errors import TamperedError
from sealedhealth.format import Header, Kind, SealedInfo
from sealedhealth.stores import ObjectStore, open_store
from sealedhealth.transfer import PIECE, Location, SealWriter, download

KEY = bytes(range(32))
HEADER = Header(Kind.OBJECT, bytes(16), bytes(16), b"0123456789abcdef")
NAME = "objects/ab/cdef"
LARGE = 9 * PIECE + 12345


class Full(io.RawIOBase):
    """A sink that takes a few pieces and then has no space left."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces

    def write(self, data: object) -> int:
        if not self.left:
            raise OSError(28, "No space left on device")
        self.left -= 1
        return len(memoryview(data))


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path: Path) -> ObjectStore:
    """A store that is read in small steps, and one that is read in large ones."""
    url = str(tmp_path / "host") if request.param == "file" else f"memory://{tmp_path.name}/{os.urandom(4).hex()}"
    return open_store(url, {})


def put(store: ObjectStore, data: bytes) -> Location:
    """Seal *data* into the store and say where it is."""
    writer = SealWriter(store, NAME, KEY, HEADER)
    writer.write(data)
    info: SealedInfo = writer.commit()
    return Location(NAME, KEY, HEADER, info.salt, info.root, info.sealed_size)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, LARGE, 17 * PIECE])
def test_download_gives_back_what_was_put(store, size):
    """Whatever its size, an object comes back whole, in order, and is counted to the last byte."""
    data = os.urandom(size)
    location = put(store, data)
    sink = io.BytesIO()
    counts: list[int] = []
    assert download(store, location, sink, counts.append) == size
    assert sink.getvalue() == data
    assert sum(counts) == size


def test_error_of_the_sink_is_raised(store):
    """A sink that fails fails the download, though it is written to by another thread."""
    location = put(store, os.urandom(LARGE))
    for pieces in (0, 1, 5):
        with pytest.raises(OSError, match="No space left"):
            download(store, location, Full(pieces))


def test_nothing_is_written_after_an_error(store):
    """A tampered object raises, what came before it is genuine, and the sink is left alone afterwards."""
    data = os.urandom(LARGE)
    location = put(store, data)
    [sealed] = store.get_ranges([(NAME, 0, location.sealed_size)])
    at = 6 * PIECE
    store.put(NAME, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
    sink = io.BytesIO()
    with pytest.raises(TamperedError, match=NAME):
        download(store, location, sink)
    written = sink.getvalue()
    sink.close()  # a late write would raise in its thread
    assert len(written) <= at
    assert data.startswith(written)
