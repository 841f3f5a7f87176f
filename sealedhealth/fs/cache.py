"""What a file opened for reading keeps: its end, and what lies around the current position."""

from __future__ import annotations

from typing import ClassVar

from fsspec.caching import BaseCache, register_cache

from sealedhealth.format import SEGMENT_SIZE

__all__ = ["DEFAULT_BLOCK_SIZE", "SegmentCache"]

DEFAULT_BLOCK_SIZE = 8 << 20  #: the furthest that a sequential read looks ahead, in bytes
WHOLE_FILE = 4 * SEGMENT_SIZE  # smaller files are fetched at once: a second request costs more than the bytes


class SegmentCache(BaseCache):
    """Reads whole segments, and ahead only as long as reading is sequential.

    A segment is fetched and checked whole whatever part of it is asked for, so keeping the rest costs nothing.
    The end of a file is kept apart: Parquet, ZIP and HDF5 readers start there and come back to it.
    """

    name: ClassVar[str] = "sealed"

    def __init__(self, blocksize: int, fetcher: object, size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._tail = (size, b"")
        self._current = (0, b"")
        self._ahead = 0

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        first = start or 0
        last = self.size if stop is None else min(stop, self.size)
        if first >= last:
            return b""
        for begin, data in (self._tail, self._current):
            if begin <= first and last <= begin + len(data):
                self.hit_count += 1
                return data[first - begin : last - begin]
        self.miss_count += 1
        begin, data = self._current
        end = begin + len(data)
        sequential = bool(data) and begin <= first <= end
        kept = data[first - begin :] if sequential else b""
        return kept + self._load(end if sequential else first, last, sequential=sequential)

    def _load(self, first: int, last: int, *, sequential: bool) -> bytes:
        """Fetch the segments from ``first`` to ``last`` and perhaps more; return exactly these bytes."""
        if sequential:
            self._ahead = min(max(2 * self._ahead, WHOLE_FILE), self.blocksize)
        else:
            self._ahead = 0 if first else min(WHOLE_FILE, self.blocksize)
        low = _segment_start(first)
        high = min(-(-(last + self._ahead) // SEGMENT_SIZE) * SEGMENT_SIZE, self.size)
        if high == self.size and not self._tail[1]:
            # The last segment may hold a few bytes only, and a footer reaches further back.
            low = min(low, _segment_start(max(0, self.size - SEGMENT_SIZE)))
        elif first and self.size <= self.blocksize:
            # The rest of a small file comes cheaper at once than in pieces.
            low, high = low if sequential else 0, max(high, self._tail[0])
        if self.size <= WHOLE_FILE:
            low, high = 0, self.size
        data: bytes = self.fetcher(low, high)
        self.total_requested_bytes += len(data)
        if high == self.size and not self._tail[1] and len(data) <= self.blocksize:
            self._tail = (low, data)
        else:
            self._current = (low, data)
        return data[first - low : last - low]


def _segment_start(position: int) -> int:
    return position - position % SEGMENT_SIZE


register_cache(SegmentCache, clobber=True)
