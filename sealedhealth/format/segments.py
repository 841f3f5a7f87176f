"""Segment digests and the root over them: what the signed log vouches for.

AEAD tags hold against somebody without the key only: whoever may read holds the data
key, and could seal other content under the same header, salt and length.  So the log,
which a reader cannot sign, has the root of every object, and readers let nothing out
before its segment was checked against that root.

SHA-256 is the slowest step of sealing and opening. ``hashlib`` lets other threads run
meanwhile, so segments are hashed side by side when an executor is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from hashlib import sha256

from sealedhealth.format.layout import DIGEST_SIZE, PREFIX_SIZE, SEALED_SEGMENT_SIZE

Buffer = bytes | bytearray | memoryview

# Big enough that handing a run to another thread costs nothing beside hashing it.
WINDOW = 4 * SEALED_SEGMENT_SIZE
# Runs of one object that may wait to be hashed: what bounds the memory.
MAX_WAITING = 4

_ROOT_LABEL = b"sealedhealth/v1/segments\0"


def root_of(body_end: int, digests: bytes) -> bytes:
    """The 32-byte root of an object: *body_end* is the length of header and body, *digests* the joined list."""
    return sha256(_ROOT_LABEL + body_end.to_bytes(8, "big") + digests).digest()


def frozen(data: Buffer) -> memoryview:
    """A view of *data* that nobody can change between a check and a use: copies unless it is ``bytes`` underneath."""
    view = memoryview(data)
    return view.cast("B") if isinstance(view.obj, bytes) else memoryview(bytes(view))


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring whole segments, in as many pieces as they came in."""

    pieces: Sequence[memoryview]
    lengths: Sequence[int]  #: bytes of each segment; together those of the pieces

    def digests(self) -> bytes:
        """The digests of the segments, joined."""
        out = bytearray()
        rest = iter(self.pieces)
        piece = memoryview(b"")
        for length in self.lengths:
            digest = sha256()
            missing = length
            while missing:
                piece = piece or next(rest)
                part = piece[:missing]
                digest.update(part)
                piece = piece[len(part) :]
                missing -= len(part)
            out += digest.digest()
        return bytes(out)


class SegmentCutter:
    """Cuts an object that arrives from its first byte into runs of whole segments, without copying."""

    def __init__(self) -> None:
        self._held: list[memoryview] = []
        self._held_size = 0
        self._length = PREFIX_SIZE + SEALED_SEGMENT_SIZE  # of the segment that is under way
        self.total = 0  #: bytes fed

    def feed(self, view: memoryview) -> Iterator[Run]:
        """The segments that *view* completes. Feed header and body, never the trailer."""
        self.total += len(view)
        for start in range(0, len(view), WINDOW):
            window = view[start : start + WINDOW]
            lengths = []
            whole = 0
            available = self._held_size + len(window)
            while available - whole >= self._length:
                whole += self._length
                lengths.append(self._length)
                self._length = SEALED_SEGMENT_SIZE
            if lengths:
                cut = whole - self._held_size
                yield Run([*self._held, window[:cut]], lengths)
                window = window[cut:]
                self._held = []
            if window:
                self._held.append(window)
            self._held_size = available - whole

    def rest(self) -> Run:
        """The last segment. It is never empty, because the last chunk is short but always there."""
        run = Run(self._held, [self._held_size])
        self._held = []
        self._held_size = 0
        return run


class DigestJob:
    """Digests of one run, in the making on another thread or made already."""

    def __init__(self, run: Run, executor: Executor | None) -> None:
        self.run = run
        self._future: Future[bytes] | None = None
        self._digests = b""
        if executor is None:
            self._digests = run.digests()
        else:
            self._future = executor.submit(run.digests)

    def done(self) -> bool:
        """Whether :meth:`result` would not wait."""
        return self._future is None or self._future.done()

    def result(self) -> bytes:
        """The digests, joined.

        Takes the work back when no thread has begun it: so a full executor, or one whose
        threads all wait here themselves, cannot stop it.
        """
        if self._future is not None:
            self._digests = self.run.digests() if self._future.cancel() else self._future.result()
            self._future = None
        return self._digests


class SegmentHasher:
    """Digests of a whole object that passes by; holds a bounded part of it."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self._cutter = SegmentCutter()
        self._jobs: deque[DigestJob] = deque()
        self._digests = bytearray()

    @property
    def total(self) -> int:
        """Bytes hashed so far."""
        return self._cutter.total

    def update(self, view: memoryview) -> None:
        """Take the next bytes; *view* must be :func:`frozen` when there is an executor."""
        for run in self._cutter.feed(view):
            self._jobs.append(DigestJob(run, self._executor))
            while self._jobs and (len(self._jobs) > MAX_WAITING or self._jobs[0].done()):
                self._digests += self._jobs.popleft().result()

    def finish(self) -> bytes:
        """The digests of all segments, joined."""
        self._jobs.append(DigestJob(self._cutter.rest(), None))
        while self._jobs:
            self._digests += self._jobs.popleft().result()
        return bytes(self._digests)


def trailer_of(digests: bytes) -> bytes:
    """What ends the object: the list of digests, or nothing when the root says all there is to say."""
    return digests if len(digests) > DIGEST_SIZE else b""
