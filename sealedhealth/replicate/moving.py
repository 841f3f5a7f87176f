"""Many files of a store read, checked and perhaps written to another, in bounded memory.

Small files go in batches, one concurrent call to each store; large ones in parts that are
fetched ahead and uploaded side by side.  A file reaches the target only after all of its
bytes have been checked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from sealedhealth.errors import (
    IntegrityError,
    MissingError,
    SealedHealthError,
    ServiceUnavailable,
    StoreError,
    TamperedError,
    TruncatedError,
)
from sealedhealth.format.verify import Checker
from sealedhealth.replicate.public import Expected
from sealedhealth.stores import ObjectStore
from sealedhealth.transfer import hashers

__all__ = ["Mover", "Outcome", "Tally"]

STREAMED = 24 << 20  #: files larger than this are never held whole
BATCH = 8 << 20  #: bytes of small files that go together
BATCH_FILES = 128
WORKERS = 4
PART = 4 << 20  #: bytes of a large file fetched at once
AHEAD = 3  #: such parts that are fetched before they are needed
MEMORY = 40 << 20  #: bytes of files held at once; on their way through the clients they take up twice as much
PAUSES = (0.5, 1.0, 2.0)  #: seconds before a host that did not answer is asked again
GIVE_UP = 64  #: files that failed one after the other: the host is down

Pause = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A file that could not be moved, or was not what it should be."""

    name: str
    expected: Expected
    state: str  #: "missing", "corrupted" (both the source's) or "failed" (a host did not do its part)
    what: str


@dataclass(slots=True)
class Tally:
    """What was done: names and bytes for each kind of file."""

    names: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, size: int, names: int = 1) -> None:
        """Count *names* files of *size* bytes together."""
        self.names[kind] = self.names.get(kind, 0) + names
        self.bytes[kind] = self.bytes.get(kind, 0) + size

    @property
    def files(self) -> int:
        """How many files, of all kinds."""
        return sum(self.names.values())

    @property
    def size(self) -> int:
        """How many bytes, of all kinds."""
        return sum(self.bytes.values())


class _Check(Protocol):
    def update(self, sealed: bytes) -> None: ...

    def finalize(self) -> None: ...


class _Digest:
    """Checks a file of the log that passes by against its SHA-384; the same interface as ``format.Checker``."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._hash = hashlib.sha384()
        self._size = 0

    def update(self, sealed: bytes) -> None:
        self._hash.update(sealed)
        self._size += len(sealed)

    def finalize(self) -> None:
        if self._size != self._expected.size:
            raise TruncatedError(f"It has {self._size} bytes where {self._expected.size} should be.")
        if self._hash.digest() != self._expected.digest:
            raise TamperedError("It is not the file whose digest was signed.")


def _check(expected: Expected, *, parallel: bool = False) -> _Check:
    if expected.root is not None:
        executor = hashers() if parallel else None
        return Checker(root=expected.root, sealed_size=expected.size, executor=executor)
    return _Digest(expected)


def _wrong(data: bytes, expected: Expected) -> str:
    """Why *data* is not one of the files that *expected* allows; empty when it is."""
    said = ""
    for one in (expected, *expected.others):
        try:
            check = _check(one)
            check.update(data)
            check.finalize()
        except IntegrityError as error:
            said = said or error.what
        else:
            return ""
    return said


class _Budget:
    """Bytes that may be held at once; a file larger than all of it gets all of it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        amount = min(amount, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


class Mover:
    """Copies files from *source* to *target*, or only reads and checks them when there is no target.

    Parameters
    ----------
    progress:
        Called with the bytes that were checked since the last call, by several threads.
    pause:
        Waits some seconds before a host is asked again.
    """

    def __init__(
        self,
        source: ObjectStore,
        target: ObjectStore | None = None,
        *,
        progress: Callable[[int], object] = lambda _: None,
        pause: Pause = time.sleep,
    ) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._pause = pause
        self._budget = _Budget(MEMORY)
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        self._broken: SealedHealthError | None = None
        self.done = Tally()
        self.outcomes: list[Outcome] = []

    def run(self, items: Iterable[tuple[str, Expected]]) -> set[str]:
        """Move *items*, and return the names of those that were not moved; :attr:`outcomes` says why.

        Raises
        ------
        AccessDenied, NotFound, StoreError
            The target takes nothing at all.
        ServiceUnavailable
            A host is down: one file after the other failed.
        """
        before = len(self.outcomes)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="sealedhealth-move") as pool:
            jobs: deque[Future[None]] = deque()
            try:
                for batch in _batches(items):
                    while len(jobs) > WORKERS or (jobs and jobs[0].done()):
                        jobs.popleft().result()
                    if self._broken is not None:
                        break
                    jobs.append(pool.submit(self._batch, batch))
                while jobs:
                    jobs.popleft().result()
            except BaseException:
                for job in jobs:
                    job.cancel()
                raise
        if self._broken is not None:
            raise self._broken
        return {outcome.name for outcome in self.outcomes[before:]}

    def _batch(self, batch: Sequence[tuple[str, Expected]]) -> None:
        if self._broken is not None:
            return
        largest = max(_largest(expected) for _, expected in batch)
        if largest > STREAMED:
            with self._budget.taking(MEMORY):
                for name, expected in batch:
                    self._stream(name, expected)
            return
        with self._budget.taking(largest * len(batch)):
            wanted = dict(batch)
            files = self._fetch(list(wanted), largest)
            right: dict[str, bytes] = {}
            for name, expected in batch:
                data = files.get(name)
                if data is None:
                    self._report(name, expected, MissingError("The host does not have it."))
                elif isinstance(data, SealedHealthError):
                    self._report(name, expected, data)
                elif said := _wrong(data, expected):
                    self._report(name, expected, TamperedError(said))
                else:
                    right[name] = data
            del files
            self._put(right, wanted)

    # -- small files ------------------------------------------------------------------------

    def _fetch(self, names: Sequence[str], limit: int, attempt: int = 0) -> dict[str, bytes | SealedHealthError]:
        """What the source has of *names*; an error in the place of what it does not give."""
        try:
            return dict(self._source.get_many(names, limit=limit, missing_ok=True))
        except SealedHealthError as error:
            if isinstance(error, ServiceUnavailable) and attempt < len(PAUSES):
                self._pause(PAUSES[attempt])
                return self._fetch(names, limit, attempt + 1)
            if len(names) == 1:
                return {names[0]: error}
            if self._broken is not None:
                return dict.fromkeys(names, error)
        middle = len(names) // 2
        return {
            **self._fetch(names[:middle], limit, attempt),
            **self._fetch(names[middle:], limit, attempt),
        }

    def _put(self, files: dict[str, bytes], wanted: dict[str, Expected], attempt: int = 0) -> None:
        if not files or self._broken is not None:
            return
        try:
            if self._target is not None:
                self._target.put_many(files)
        except SealedHealthError as error:
            if isinstance(error, ServiceUnavailable) and not isinstance(error, StoreError):
                if attempt < len(PAUSES):
                    self._pause(PAUSES[attempt])
                    self._put(files, wanted, attempt + 1)
                    return
                if len(files) > 1:
                    for name, data in files.items():
                        self._put({name: data}, wanted, attempt)
                    return
            else:
                self._broken = error  # no room, no right, no bucket: what comes next would not fare better
            for name in files:
                self._report(name, wanted[name], error, by_source=False)
            return
        for name, data in files.items():
            self._count(wanted[name].kind, len(data))
        self._progress(sum(map(len, files.values())))

    # -- large files ------------------------------------------------------------------------

    def _stream(self, name: str, expected: Expected) -> None:
        """Move one file in parts; when change sets disagree on what it is, each in turn."""
        said: SealedHealthError | None = None
        for one in (expected, *expected.others):
            for attempt in range(len(PAUSES) + 1):
                try:
                    self._stream_once(name, one)
                except SealedHealthError as error:
                    said = error
                    if not isinstance(error, ServiceUnavailable) or isinstance(error, StoreError):
                        break
                    if attempt < len(PAUSES):
                        self._pause(PAUSES[attempt])
                else:
                    self._count(one.kind, one.size)
                    return
            if not isinstance(said, IntegrityError):
                break
        assert said is not None
        self._report(name, expected, said)

    def _stream_once(self, name: str, expected: Expected) -> None:
        check = _check(expected, parallel=True)
        counted = 0
        try:
            if self._target is None:
                for blob in self._parts(name, expected.size):
                    check.update(blob)
                    self._progress(len(blob))
                    counted += len(blob)
                check.finalize()
                return
            with self._target.writer(name, size_hint=expected.size) as writer:
                for blob in self._parts(name, expected.size):
                    check.update(blob)
                    writer.write(blob)
                    self._progress(len(blob))
                    counted += len(blob)
                check.finalize()
                writer.commit()
        except BaseException:
            self._progress(-counted)
            raise

    def _parts(self, name: str, size: int) -> Iterator[bytes]:
        step = min(PART, self._source.fetch_size)
        spans = deque((name, lo, min(lo + step, size)) for lo in range(0, size, step))
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="sealedhealth-fetch") as pool:
            jobs: deque[Future[list[bytes]]] = deque()
            try:
                while spans or jobs:
                    while spans and len(jobs) < AHEAD:
                        jobs.append(pool.submit(self._range, spans.popleft()))
                    [blob] = jobs.popleft().result()
                    yield blob
            finally:
                for job in jobs:
                    job.cancel()

    def _range(self, span: tuple[str, int, int]) -> list[bytes]:
        for pause in PAUSES:
            try:
                return self._source.get_ranges([span])
            except ServiceUnavailable:
                self._pause(pause)
        return self._source.get_ranges([span])

    # -- accounts ---------------------------------------------------------------------------

    def _count(self, kind: str, size: int) -> None:
        with self._lock:
            self.done.add(kind, size)
            self._failed_in_a_row = 0

    def _report(self, name: str, expected: Expected, error: SealedHealthError, *, by_source: bool = True) -> None:
        if by_source and isinstance(error, MissingError):
            state = "missing"
        elif by_source and isinstance(error, IntegrityError):
            state = "corrupted"
        else:
            state = "failed"
        with self._lock:
            self.outcomes.append(Outcome(name, expected, state, error.what))
            self._failed_in_a_row = self._failed_in_a_row + 1 if state == "failed" else 0
            if self._failed_in_a_row >= GIVE_UP and self._broken is None:
                self._broken = error
        self._progress(expected.size)


def _largest(expected: Expected) -> int:
    return max(expected.size, *(other.size for other in expected.others), 0)


def _batches(items: Iterable[tuple[str, Expected]]) -> Iterator[list[tuple[str, Expected]]]:
    """Files of like size together, so that a host that sends too much cannot send very much too much."""
    waiting: dict[int, list[tuple[str, Expected]]] = {}
    for item in items:
        size = _largest(item[1])
        if size > STREAMED:
            yield [item]
            continue
        scale = max(size, 1 << 12).bit_length()
        batch = waiting.setdefault(scale, [])
        batch.append(item)
        if len(batch) >= BATCH_FILES or len(batch) << scale > BATCH:
            yield waiting.pop(scale)
    yield from waiting.values()
