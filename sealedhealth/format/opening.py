"""Opening whole objects, in memory or as a stream, through the library's decryptor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor
from io import BytesIO

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from sealedhealth.errors import InvalidInput
from sealedhealth.format.header import HEADER_SIZE, KEY_SIZE, Header
from sealedhealth.format.layout import PREFIX_SIZE, SEALED_SEGMENT_SIZE, Layout
from sealedhealth.format.segments import (
    MAX_WAITING,
    Buffer,
    DigestJob,
    Run,
    SegmentCutter,
    SegmentHasher,
    frozen,
    root_of,
    trailer_of,
)
from sealedhealth.format.verify import SignedSegments, check_header, tampered, too_long, too_short, wrong_key


def open_sealed(
    object_key: bytes, header: Header, data: Buffer, *, root: bytes, executor: Executor | None = None
) -> bytes:
    """Open a whole object that is in memory: *header* and *root* are those of the signed log.

    Raises :class:`TruncatedError` for a size that no object has, :class:`TamperedError` for
    anything that differs from what was signed, :class:`WrongKey` for an intact object under
    another key, and :class:`InvalidInput` for a key that is not 32 bytes long.
    """
    decryptor = _decryptor(object_key, header)
    view = frozen(data)
    layout = Layout.of_sealed(len(view))
    check_header(header, bytes(view[:HEADER_SIZE]))
    hasher = SegmentHasher(executor)
    hasher.update(view[: layout.body_end])
    digests = hasher.finish()
    if root_of(layout.body_end, digests) != root or trailer_of(digests) != view[layout.body_end :]:
        raise tampered("A sealed object is not the one whose root was signed.")
    body = view[HEADER_SIZE : layout.body_end]
    try:
        if layout.segments == 1:
            return decryptor.update(body) + decryptor.finalize()
        # The one way to fill a bytes object in place; joining would cost as much as opening.
        target = BytesIO(bytes(layout.plain_size))
        with target.getbuffer() as out:
            end = decryptor.update_into(body, out)
            out[end:] = decryptor.finalize()
        return target.getvalue()
    except InvalidTag:
        raise wrong_key() from None


class Opener:
    """Opens an object that arrives as a stream, from its first byte; memory stays flat.

    An object of several segments is read from its end first: *trailer* is what lies at
    ``Layout.of_sealed(sealed_size).trailer_span``; it is ``b""`` for one segment.  Then
    feed header and body; the trailer may follow, or be left off.  No plaintext is
    returned before its segment is known to be the signed one.  After an error the opener
    refuses to go on.

    Raises :class:`TruncatedError` for a size that no object has or a trailer of another
    length, :class:`TamperedError` for a trailer that was not signed, and
    :class:`InvalidInput` for a key that is not 32 bytes long.
    """

    def __init__(
        self,
        object_key: bytes,
        header: Header,
        *,
        root: bytes,
        sealed_size: int,
        trailer: Buffer,
        executor: Executor | None = None,
    ) -> None:
        self._decryptor = _decryptor(object_key, header)
        self._header = header
        self._layout = layout = Layout.of_sealed(sealed_size)
        self._signed = SignedSegments(layout, root, trailer)
        self._executor = executor if layout.segments > 1 else None
        self._cutter = SegmentCutter()
        self._jobs: deque[DigestJob] = deque()
        self._head = b""
        self._checked = 0  # segments
        self._trailing = 0  # bytes of the trailer that came after the body
        self._usable = True

    def advise(self, size: int) -> int:
        """How many bytes to feed next, about *size*, so that they end with a segment: that saves copies.

        Returns 0 once header and body are fed.
        """
        fed = self._cutter.total
        segments = max(
            (fed + size - PREFIX_SIZE) // SEALED_SEGMENT_SIZE, (fed - PREFIX_SIZE) // SEALED_SEGMENT_SIZE + 1, 1
        )
        return min(PREFIX_SIZE + segments * SEALED_SEGMENT_SIZE, self._layout.body_end) - fed

    def update(self, sealed: Buffer) -> bytes:
        """Feed the next bytes. Returns the plaintext that is ready, which may lag behind by a few MiB.

        Raises :class:`TamperedError`, :class:`TruncatedError` when there is more than the
        object should have, and :class:`WrongKey`.
        """
        return b"".join(self.pieces(sealed))

    def pieces(self, sealed: Buffer) -> Iterator[bytes]:
        """The same in pieces of about 1 MiB, each as soon as it is ready: saves joining them. Take them all."""
        self._begin()
        view = frozen(sealed)
        self._check_head(view)
        body = view[: self._layout.body_end - self._cutter.total]
        for run in self._cutter.feed(body):
            self._jobs.append(DigestJob(run, self._executor))
            yield from self._ready(MAX_WAITING)
        if body and self._cutter.total == self._layout.body_end:
            self._jobs.append(DigestJob(self._cutter.rest(), self._executor))
            yield from self._ready(MAX_WAITING)
        self._check_trailing(view[len(body) :])
        self._usable = True

    def finalize(self) -> bytes:
        """The rest of the plaintext; raises as :meth:`update`, and :class:`TruncatedError` when bytes are missing."""
        self._begin()
        size = self._cutter.total + self._trailing
        if size not in {self._layout.body_end, self._layout.sealed_size}:
            raise too_short(size, self._layout.sealed_size)
        plain = [*self._ready(0)]
        try:
            plain.append(self._decryptor.finalize())
        except InvalidTag:
            raise wrong_key() from None
        return b"".join(plain)

    def _begin(self) -> None:
        """Refuse after the end or an error: whoever goes on clears the mark again."""
        if not self._usable:
            raise InvalidInput("This opener has finished or failed and takes nothing more.")
        self._usable = False

    def _check_head(self, view: memoryview) -> None:
        """Compare the header as soon as it is there: an exchanged object need not be read to its end."""
        if len(self._head) < HEADER_SIZE:
            self._head += view[: HEADER_SIZE - len(self._head)]
            if len(self._head) == HEADER_SIZE:
                check_header(self._header, self._head)

    def _check_trailing(self, view: memoryview) -> None:
        """Compare what follows the body with the list that was checked already."""
        expected = self._signed.trailer[self._trailing : self._trailing + len(view)]
        if len(expected) < len(view):
            raise too_long(self._layout.sealed_size)
        if expected != view:
            raise tampered("The segment list at the end of a sealed object is not the signed one.")
        self._trailing += len(view)

    def _ready(self, may_wait: int) -> Iterator[bytes]:
        """The plaintext of runs that are hashed, waiting for the oldest until no more than *may_wait* are left."""
        while self._jobs and (len(self._jobs) > may_wait or self._jobs[0].done()):
            job = self._jobs.popleft()
            segments = range(self._checked, self._checked + len(job.run.lengths))
            self._signed.check(segments, job.result())
            skip = 0 if self._checked else HEADER_SIZE
            self._checked = segments.stop
            yield from self._decrypt(job.run, skip)

    def _decrypt(self, run: Run, skip: int) -> Iterator[bytes]:
        try:
            for piece in run.pieces:
                yield self._decryptor.update(piece[skip:])
                skip = max(0, skip - len(piece))
        except InvalidTag:
            raise wrong_key() from None


def _decryptor(object_key: bytes, header: Header) -> Cobblestone256Decryptor:
    if len(object_key) != KEY_SIZE:
        raise InvalidInput(f"An object key has {KEY_SIZE} bytes.")
    return Cobblestone256Decryptor(object_key, header.pack())
