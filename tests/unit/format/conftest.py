"""One sealed object after another, and every way of reading one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from sealedhealth.format import Header, Kind, Layout, Opener, RangeReader, SealedInfo, open_sealed, seal

CHUNK = 16384
SEGMENT = 16 * CHUNK


@dataclass(frozen=True)
class Case:
    """A sealed object with all that its reader knows, and its plaintext."""

    key: bytes
    header: Header
    plain: bytes
    data: bytes
    info: SealedInfo

    @property
    def layout(self) -> Layout:
        """Where everything lies, by the signed size."""
        return Layout.of_sealed(self.info.sealed_size)

    def served(self, data: bytes) -> Case:
        """The same, when the host serves other bytes."""
        return replace(self, data=data)

    def opener(self, **other) -> Opener:
        """An opener of the bytes that the host serves."""
        lo, hi = self.layout.trailer_span
        known = {"root": self.info.root, "sealed_size": self.info.sealed_size, "trailer": self.data[lo:hi]}
        return Opener(self.key, self.header, **(known | other))

    def reader(self, **other) -> RangeReader:
        """A range reader by what the log says."""
        known = {"salt": self.info.salt, "root": self.info.root, "sealed_size": self.info.sealed_size}
        return RangeReader(self.key, self.header, **(known | other))

    def fetch(self, spans) -> list[tuple[tuple[int, int], bytes]]:
        """What the host answers: less than asked for where its bytes end."""
        return [((lo, hi), self.data[lo:hi]) for lo, hi in spans]

    def read_whole(self) -> Iterator[bytes]:
        """Open in memory."""
        yield open_sealed(self.key, self.header, self.data, root=self.info.root)

    def read_stream(self, step: int = 100_000, **other) -> Iterator[bytes]:
        """Open as a stream; yields plaintext as it comes out."""
        opener = self.opener(**other)
        for at in range(0, len(self.data), step):
            yield opener.update(self.data[at : at + step])
        yield opener.finalize()

    def read_ranges(self, step: int = 50_000) -> Iterator[bytes]:
        """Read by ranges, one after another; yields plaintext as it comes out."""
        reader = self.reader()
        for at in range(0, len(self.plain), step):
            ranges = [(at, at + step)]
            yield reader.finish(ranges, self.fetch(reader.plan(ranges)))[0]

    @property
    def ways(self) -> dict[str, Callable[[], Iterator[bytes]]]:
        """Every way of reading everything."""
        return {"whole": self.read_whole, "stream": self.read_stream, "ranges": self.read_ranges}


@pytest.fixture(scope="session")
def make() -> Callable[[int], Case]:
    """Seals that many random bytes."""

    def make(size: int, kind: Kind = Kind.OBJECT) -> Case:
        key = os.urandom(32)
        header = Header(kind, os.urandom(16), os.urandom(16), os.urandom(16))
        plain = os.urandom(size)
        return Case(key, header, plain, *seal(key, header, plain))

    return make


@pytest.fixture(scope="session")
def large(make) -> Case:
    """Three segments: two full ones, and one of a full chunk and a part of one."""
    return make(2 * SEGMENT + CHUNK + 1000)


@pytest.fixture(scope="session")
def small(make) -> Case:
    """One segment of one chunk."""
    return make(1000)


@pytest.fixture(params=["one thread", "executor"])
def executor(request) -> Iterator[ThreadPoolExecutor | None]:
    """With and without threads that hash."""
    if request.param == "one thread":
        yield None
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool
