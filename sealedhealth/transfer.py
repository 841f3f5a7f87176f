"""Moving bytes: read, seal, hash, upload; and back.

Memory stays flat whatever the size: one megabyte at a time goes through the
sealer while its digests are made in other threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, Self

from sealedhealth.errors import IntegrityError
from sealedhealth.format import SEGMENT_SIZE, Header, Layout, Opener, RangeReader, SealedInfo, Sealer
from sealedhealth.stores import Buffer, ObjectStore

__all__ = ["PIECE", "Location", "ObjectSource", "SealWriter", "download", "hashers", "read_many"]

PIECE = 1 << 20  #: bytes that go through the pipeline at once
_AHEAD = 2  #: fetches under way while another is opened
_BEHIND = 4  #: opened pieces that may wait to be written

Progress = Callable[[int], None]


@cache
def hashers() -> ThreadPoolExecutor:
    """Threads that hash segments: hashing releases the interpreter lock, sealing does not."""
    return ThreadPoolExecutor(2, thread_name_prefix="sealedhealth-hash")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=hashers.cache_clear)  # threads stay behind


class SealWriter:
    """Seals what is written to it into one object of a store, in flat memory.

    Nothing is there before :meth:`commit`; :meth:`discard` leaves nothing behind.
    """

    def __init__(
        self, store: ObjectStore, name: str, object_key: bytes, header: Header, *, size_hint: int | None = None
    ) -> None:
        self._sealer = Sealer(object_key, header, executor=hashers())
        self._sink = store.writer(name, size_hint=size_hint)

    def write(self, data: Buffer) -> None:
        """Seal and store *data*."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), PIECE):
            self._sink.write(self._sealer.update(view[start : start + PIECE]))

    def commit(self) -> SealedInfo:
        """Finish the object on the store."""
        self._sink.write(self._sealer.finalize())
        self._sink.commit()
        return self._sealer.info

    def discard(self) -> None:
        """Forget the object."""
        self._sink.discard()


@dataclass(frozen=True, slots=True)
class Location:
    """What is needed to fetch, check and open one object."""

    name: str
    object_key: bytes
    header: Header
    salt: bytes
    root: bytes
    sealed_size: int

    def __repr__(self) -> str:
        return f"<Location {self.name}>"


class ObjectSource:
    """Random access to one object; keeps its checked segment digests."""

    def __init__(self, location: Location) -> None:
        self.name = location.name
        self.ranges = RangeReader(
            location.object_key,
            location.header,
            salt=location.salt,
            root=location.root,
            sealed_size=location.sealed_size,
            executor=hashers(),
        )


def read_many(
    store: ObjectStore, wanted: Sequence[tuple[ObjectSource, Sequence[tuple[int, int]]]]
) -> list[list[bytes]]:
    """Ranges of many objects in one concurrent call to the store.

    Parameters
    ----------
    wanted:
        For each object the ranges ``(start, stop)`` of its plaintext, in bytes.

    Raises
    ------
    IntegrityError
        Anything fetched is not what was signed; nothing is returned then.
    """
    plans = [source.ranges.plan(ranges) for source, ranges in wanted]
    asked = [
        (source.name, start, stop) for (source, _), plan in zip(wanted, plans, strict=True) for start, stop in plan
    ]
    blobs = iter(store.get_ranges(asked) if asked else [])
    results: list[list[bytes]] = []
    for (source, ranges), plan in zip(wanted, plans, strict=True):
        fetched = [(span, next(blobs)) for span in plan]
        with _named(source.name):
            results.append(source.ranges.finish(list(ranges), fetched))
    return results


def download(store: ObjectStore, location: Location, sink: BinaryIO, progress: Progress | None = None) -> int:
    """Write the whole plaintext of an object to *sink* and return its length.

    Each segment is checked before its plaintext is written.

    Raises
    ------
    IntegrityError
        The object is not what was signed. What was written until then is genuine, but not all.
    """
    layout = Layout.of_sealed(location.sealed_size)
    trailer = b""
    trailer_start, trailer_stop = layout.trailer_span
    with _named(location.name):
        if trailer_stop > trailer_start:
            [trailer] = store.get_ranges([(location.name, trailer_start, trailer_stop)])
        opener = Opener(
            location.object_key,
            location.header,
            root=location.root,
            sealed_size=location.sealed_size,
            trailer=trailer,
            executor=hashers(),
        )
        with _Delivery(sink, progress, behind=_BEHIND if layout.plain_size > store.fetch_size else 0) as delivery:
            for blob in _stream(store, location.name, layout):
                for plain in opener.pieces(blob):
                    delivery.write(plain)
            delivery.write(opener.finalize())
    return layout.plain_size


class _Delivery:
    """Writes pieces to a sink in order, large files a little behind in a thread of its own.

    Opening holds the interpreter lock; a write lets it go, and takes as long.
    """

    def __init__(self, sink: BinaryIO, progress: Progress | None, *, behind: int) -> None:
        self._sink = sink
        self._progress = progress
        self._behind = behind
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sealedhealth-write") if behind else None
        self._jobs: deque[Future[int]] = deque()

    def write(self, plain: bytes) -> None:
        if self._pool is None:
            self._report(self._put(plain))
        else:
            self._jobs.append(self._pool.submit(self._put, plain))
            self._settle(self._behind)

    def _put(self, plain: bytes) -> int:
        self._sink.write(plain)
        return len(plain)

    def _settle(self, behind: int) -> None:
        while len(self._jobs) > behind:
            self._report(self._jobs.popleft().result())

    def _report(self, count: int) -> None:
        if count and self._progress is not None:
            self._progress(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        # Nobody writes to the sink any more once this is left.
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._settle(0)


def _stream(store: ObjectStore, name: str, layout: Layout) -> Iterator[bytes]:
    """Header and body of an object, cut where segments end, fetched ahead of their use."""
    spans = []
    step = max(1, store.fetch_size // SEGMENT_SIZE)
    for first in range(0, layout.segments, step):
        last = min(first + step, layout.segments) - 1
        spans.append((name, layout.segment_span(first)[0], layout.segment_span(last)[1]))
    if len(spans) == 1:
        yield from store.get_ranges(spans)
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="sealedhealth-fetch") as pool:
        jobs = deque(pool.submit(store.get_ranges, [span]) for span in spans[:_AHEAD])
        try:
            for span in [*spans[_AHEAD:], *[None] * len(jobs)]:
                [blob] = jobs.popleft().result()
                if span is not None:
                    jobs.append(pool.submit(store.get_ranges, [span]))
                yield blob
        finally:
            for job in jobs:
                job.cancel()


class _named:  # noqa: N801 - used like a function
    """Adds the object's name to an integrity error, which the format package does not know."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, IntegrityError) and self._name not in error.what:
            error.what = f"{self._name}: {error.what}"
            error.args = (error.what,)
