"""Random access: which bytes of an object to fetch for some plaintext, and how to open them. No I/O here."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from io import BytesIO

from cryptography.exceptions import InvalidTag

from sealedhealth.errors import InvalidInput
from sealedhealth.format.chunks import ChunkOpener
from sealedhealth.format.header import HEADER_SIZE, Header
from sealedhealth.format.layout import (
    CHUNK_SIZE,
    PREFIX_SIZE,
    SALT_SIZE,
    SEALED_CHUNK_SIZE,
    SEGMENT_CHUNKS,
    SEGMENT_SIZE,
    TAG_SIZE,
    Layout,
)
from sealedhealth.format.segments import Buffer, DigestJob, Run, frozen
from sealedhealth.format.verify import SignedSegments, check_header, tampered, too_long, too_short, wrong_key

Span = tuple[int, int]

_RUN_SEGMENTS = 4  # hashed in one go


class RangeReader:
    """Reads parts of an object whose header, salt, root and size the signed log has.

    :meth:`plan` says what to fetch, :meth:`finish` checks and opens it::

        spans = reader.plan([(0, 100), (5000, 6000)])
        parts = reader.finish([(0, 100), (5000, 6000)], [(span, fetch(*span)) for span in spans])

    The list of segment digests is part of the first plan only.  One reader may be used
    from several threads.

    Raises :class:`TruncatedError` for a size that no object has, and :class:`InvalidInput`
    for a key that is not 32 bytes long.
    """

    def __init__(
        self,
        object_key: bytes,
        header: Header,
        *,
        salt: bytes,
        root: bytes,
        sealed_size: int,
        executor: Executor | None = None,
    ) -> None:
        self._header = header
        self._salt = salt
        self._root = root
        self._layout = Layout.of_sealed(sealed_size)
        self._chunks = ChunkOpener(object_key, salt, header.pack())
        self._executor = executor
        # Known from the start when there is only one segment, else from the first trailer on.
        self._signed = SignedSegments(self._layout, root, b"") if self._layout.segments == 1 else None

    @property
    def plain_size(self) -> int:
        """Bytes of plaintext in the object."""
        return self._layout.plain_size

    def plan(self, ranges: Iterable[Span]) -> list[Span]:
        """The spans of the sealed object to fetch for some ranges of plaintext, sorted and joined where they touch.

        A range is ``(first byte, one past the last)``; it is cut off at the end of the
        plaintext, as slices are.  An empty one needs nothing.  Raises :class:`InvalidInput`
        for a negative position.
        """
        layout = self._layout
        wanted: list[Span] = []
        for start, stop in map(self._clipped, ranges):
            if start < stop:
                first, _ = layout.segment_span(start // SEGMENT_SIZE)
                _, end = layout.segment_span((stop - 1) // SEGMENT_SIZE)
                wanted.append((first, end))
        if wanted and self._signed is None:
            wanted.append(layout.trailer_span)
        spans: list[Span] = []
        for lo, hi in sorted(wanted):
            if spans and lo <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(hi, spans[-1][1]))
            else:
                spans.append((lo, hi))
        return spans

    def finish(self, ranges: Sequence[Span], fetched: Iterable[tuple[Span, Buffer]]) -> list[bytes]:
        """The plaintext of each range, from spans of the sealed object that cover the plan for them.

        Raises :class:`TruncatedError` when a span came shorter or longer than asked for,
        :class:`TamperedError` for anything that differs from what was signed,
        :class:`WrongKey` when it is intact and does not open, and :class:`InvalidInput`
        when the spans do not cover the plan.
        """
        blobs = _Blobs(fetched)
        clipped = [self._clipped(span) for span in ranges]
        if not any(start < stop for start, stop in clipped):
            return [b""] * len(clipped)
        signed = self._signed
        if signed is None:
            signed = SignedSegments(self._layout, self._root, blobs.cut(self._layout.trailer_span))
            self._signed = signed
        segments = self._genuine(clipped, blobs, signed)
        try:
            shared: dict[int, bytes] = {}
            return [self._open(start, stop, segments, shared) for start, stop in clipped]
        except InvalidTag:
            raise wrong_key() from None

    def _clipped(self, span: Span) -> Span:
        start, stop = span
        if start < 0 or stop < 0:
            raise InvalidInput("A range starts and ends at position 0 or later.")
        return start, min(stop, self._layout.plain_size)

    def _genuine(self, ranges: Iterable[Span], blobs: _Blobs, signed: SignedSegments) -> dict[int, memoryview]:
        """The sealed chunks of every segment that the ranges touch, each checked."""
        numbers: set[int] = set()
        for start, stop in ranges:
            if start < stop:
                numbers.update(range(start // SEGMENT_SIZE, (stop - 1) // SEGMENT_SIZE + 1))
        wanted = sorted(numbers)
        views = {number: blobs.cut(self._layout.segment_span(number)) for number in wanted}
        groups = [wanted[at : at + _RUN_SEGMENTS] for at in range(0, len(wanted), _RUN_SEGMENTS)]
        executor = self._executor if len(groups) > 1 else None
        jobs = [
            DigestJob(Run([views[number] for number in group], [len(views[number]) for number in group]), executor)
            for group in groups
        ]
        for group, job in zip(groups, jobs, strict=True):
            signed.check(group, job.result())
        if 0 in views:
            self._check_prefix(views[0][:PREFIX_SIZE])
            views[0] = views[0][PREFIX_SIZE:]
        return views

    def _check_prefix(self, prefix: memoryview) -> None:
        check_header(self._header, bytes(prefix[:HEADER_SIZE]))
        if prefix[HEADER_SIZE : HEADER_SIZE + SALT_SIZE] != self._salt:
            raise tampered("The salt of a sealed object is not the one that the log has for it.")
        if prefix[HEADER_SIZE + SALT_SIZE :] != self._chunks.commitment:
            raise wrong_key()

    def _open(self, start: int, stop: int, segments: dict[int, memoryview], shared: dict[int, bytes]) -> bytes:
        """One range; *shared* keeps chunks that it takes a part of, for ranges beside it."""
        if start >= stop:
            return b""
        # The one way to fill a bytes object in place: a join would copy everything once more.
        target = BytesIO(bytes(stop - start))
        with target.getbuffer() as out:
            for chunk in range(start // CHUNK_SIZE, (stop - 1) // CHUNK_SIZE + 1):
                segment, place = divmod(chunk, SEGMENT_CHUNKS)
                at = place * SEALED_CHUNK_SIZE
                sealed = segments[segment][at : at + SEALED_CHUNK_SIZE]
                first = chunk * CHUNK_SIZE
                last = first + len(sealed) - TAG_SIZE
                if start <= first and last <= stop:
                    self._chunks.open_into(chunk, sealed, out[first - start : last - start])
                else:
                    whole = shared.get(chunk)
                    if whole is None:
                        whole = shared[chunk] = self._chunks.open(chunk, sealed)
                    plain = whole[max(0, start - first) : stop - first]
                    lo = max(first, start) - start
                    out[lo : lo + len(plain)] = plain
        return target.getvalue()


class _Blobs:
    """Fetched spans, found by position; each has the length it was asked for."""

    def __init__(self, fetched: Iterable[tuple[Span, Buffer]]) -> None:
        self._blobs: list[tuple[int, int, memoryview]] = []
        for (lo, hi), data in fetched:
            view = frozen(data)
            if len(view) < hi - lo:
                raise too_short(len(view), hi - lo)
            if len(view) > hi - lo:
                raise too_long(hi - lo)
            self._blobs.append((lo, hi, view))
        self._blobs.sort(key=lambda blob: blob[:2])
        self._starts = [lo for lo, _, _ in self._blobs]

    def cut(self, span: Span) -> memoryview:
        """The bytes of *span*, which lies within one of the fetched ones."""
        lo, hi = span
        at = bisect_right(self._starts, lo) - 1
        if at >= 0:
            first, end, view = self._blobs[at]
            if hi <= end:
                return view[lo - first : hi - first]
        raise InvalidInput(f"The bytes {lo} to {hi} of a sealed object were not fetched.")
