"""Fetching many files, ahead of their use: in order, in pieces, in bounded memory."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, cast

from sealedhealth.errors import MissingError
from sealedhealth.stores.survey import Stored, Survey

__all__ = ["pieces", "random_access"]

PIECE = 8 << 20  #: bytes of a file that are fetched at once
_BATCH = 16 << 20  #: bytes of many files that are fetched at once,
_MANY = 256  #: and how many of them
_BUFFER = 1 << 20  #: bytes that are fetched at once out of order
_AHEAD = 2  #: batches on their way while another one is looked at

_Span = tuple[Stored, int, int]


def pieces(
    survey: Survey, files: Iterable[Stored], wanted: Callable[[Stored], int]
) -> Iterator[tuple[Stored, int, bytes | None]]:
    """The first *wanted* bytes of each file, in pieces: the file, where the piece begins, and its bytes.

    Every file comes up, an empty one with one empty piece. ``None`` stands for a file that is gone.
    """
    batches = _batches(_spans(files, wanted))
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="sealedhealth-scan") as pool:
        waiting: deque[tuple[list[_Span], Future[list[bytes | None]]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(survey.read, batch)))
                if len(waiting) > _AHEAD:
                    yield from _answers(*waiting.popleft())
            while waiting:
                yield from _answers(*waiting.popleft())
        finally:
            for _, job in waiting:
                job.cancel()


def _answers(batch: list[_Span], job: Future[list[bytes | None]]) -> Iterator[tuple[Stored, int, bytes | None]]:
    for (stored, start, _), data in zip(batch, job.result(), strict=True):
        yield stored, start, data


def _spans(files: Iterable[Stored], wanted: Callable[[Stored], int]) -> Iterator[_Span]:
    for stored in files:
        size = wanted(stored)
        for start in range(0, max(1, size), PIECE):
            yield stored, start, min(size, start + PIECE)


def _batches(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    batch: list[_Span] = []
    size = 0
    for span in spans:
        length = span[2] - span[1]
        if batch and (size + length > _BATCH or len(batch) >= _MANY):
            yield batch
            batch, size = [], 0
        batch.append(span)
        size += length
    if batch:
        yield batch


def random_access(survey: Survey, stored: Stored, start: int, end: int) -> BinaryIO:
    """A part of a stored file, as one to read in any order."""
    return cast("BinaryIO", io.BufferedReader(_Remote(survey, stored, start, end), _BUFFER))


class _Remote(io.RawIOBase):
    """A part of a stored file, to be read in any order."""

    def __init__(self, survey: Survey, stored: Stored, start: int, end: int) -> None:
        super().__init__()
        self._survey, self._stored, self._start, self._size = survey, stored, start, end - start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        stop = min(self._size, self._at + len(view))
        if stop <= self._at:
            return 0
        [data] = self._survey.read([(self._stored, self._start + self._at, self._start + stop)])
        if data is None:
            raise MissingError("It is gone.")
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
