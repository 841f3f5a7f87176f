"""Many files at once: what lies in one object is fetched together, in few requests and bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sealedhealth.format import SEGMENT_SIZE
from sealedhealth.log.entry import Entry

__all__ = ["read_files"]

ReadSpans = Callable[[Sequence[tuple[Entry, int, int]]], list[bytes]]

#: Bytes of the store that one call asks for, unless a single file is larger.
BATCH_BYTES = 8 << 20
#: Ranges in one call, at most; each may be a request.
BATCH_RANGES = 256
#: Neighbouring files are opened together up to this many bytes.
_RUN = 1 << 20
#: Calls under way while the answer of another is used.
_AHEAD = 2


@dataclass(slots=True)
class _Run:
    """Files that follow each other in one object."""

    entry: Entry  #: any of them
    start: int
    stop: int
    files: list[int] = field(default_factory=list)  #: their numbers


def read_files(read: ReadSpans, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
    """The contents of files with their index in *entries*; those of one object come together.

    For small files: each is in memory whole. *read* gives ranges of the objects that
    entries lie in; what it raises comes out before anything of its batch does.
    """
    batches = _batches(entries)
    first = next(batches, None)
    second = next(batches, None)
    if first is None:
        return
    if second is None:  # nothing to do meanwhile: no threads
        yield from _opened(first, _fetch(read, first), entries)
        return
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="sealedhealth-fetch") as pool:
        jobs = deque((batch, pool.submit(_fetch, read, batch)) for batch in (first, second))
        try:
            while jobs:
                batch, job = jobs.popleft()
                blobs = job.result()
                following = next(batches, None)
                if following is not None:
                    jobs.append((following, pool.submit(_fetch, read, following)))
                yield from _opened(batch, blobs, entries)
        finally:
            for _, job in jobs:
                job.cancel()


def _fetch(read: ReadSpans, batch: Sequence[_Run]) -> list[bytes]:
    return read([(run.entry, run.start, run.stop) for run in batch])


def _opened(batch: Sequence[_Run], blobs: Sequence[bytes], entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
    for run, blob in zip(batch, blobs, strict=True):
        for number in run.files:
            entry = entries[number]
            at = entry.offset - run.start
            yield number, blob if len(blob) == entry.length else blob[at : at + entry.length]


def _runs(entries: Sequence[Entry]) -> Iterator[_Run]:
    """Files by object, in the order in which objects come first, and in an object by offset."""
    by_object: dict[bytes, list[int]] = {}
    for number, entry in enumerate(entries):
        by_object.setdefault(entry.data_key_id + entry.object_id, []).append(number)
    for numbers in by_object.values():
        numbers.sort(key=lambda number: entries[number].offset)
        run: _Run | None = None
        for number in numbers:
            entry = entries[number]
            stop = entry.offset + entry.length
            if run is None or not run.start <= entry.offset <= run.stop or stop - run.start > _RUN:
                if run is not None:
                    yield run
                run = _Run(entry, entry.offset, entry.offset)
            run.stop = max(run.stop, stop)
            run.files.append(number)
        if run is not None:
            yield run


def _batches(entries: Sequence[Entry]) -> Iterator[list[_Run]]:
    """Runs, as many as one call shall ask the store for."""
    batch: list[_Run] = []
    size = 0
    last = (b"", -1)  # object and segment that the run before ended in: fetched once for both
    for run in _runs(entries):
        first, end = run.start // SEGMENT_SIZE, max(run.start, run.stop - 1) // SEGMENT_SIZE
        shared = last == (run.entry.object_id, first)
        cost = min(run.entry.sealed_size, (end + 1 - first) * SEGMENT_SIZE) - (SEGMENT_SIZE if shared else 0)
        if batch and (size + cost > BATCH_BYTES or len(batch) == BATCH_RANGES):
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += max(cost, 0)
        last = (run.entry.object_id, end)
    if batch:
        yield batch
