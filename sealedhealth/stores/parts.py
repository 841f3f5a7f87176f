"""One way to write a large object in parts, for every host that takes them one by one."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

from sealedhealth.stores.base import Buffer, ObjectStore, StoreWriter

__all__ = ["PartsWriter"]

#: Parts of one object on their way at once; each is in memory until it has arrived.
IN_FLIGHT = 3


class PartsWriter(StoreWriter):
    """One request for a small object, an upload in parts for a large one.

    The clients' own writers upload one part after the other, or complete an upload that is
    merely abandoned; here parts go up side by side, and nothing but a commit completes.

    Parameters
    ----------
    store:
        The store to write to.
    name:
        The object's name.
    size_hint:
        About how many bytes will come; ``None`` when nobody knows.
    """

    #: Bytes of a part, unless the object would then have too many.
    part_size: ClassVar[int]
    #: The most parts of one object that the host takes.
    most_parts: int
    #: Without a size hint parts double in size after so many, which reaches the largest object that the host takes.
    double_after: int

    def __init__(self, store: ObjectStore, name: str, size_hint: int | None) -> None:
        self._store = store
        self._name = name
        # A tenth more than was announced still fits.
        self._part_size = max(self.part_size, -(-(size_hint or 0) * 11 // (self.most_parts * 10)))
        self._growing = size_hint is None
        self._buffer = bytearray()
        self._filled = 0  #: bytes of the buffer that are in use
        self._spare: list[bytearray] = []  #: buffers whose part has arrived: freed ones would leave holes in the memory
        self._sent: list[bytearray] = []
        self._parts: list[Future[Any]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._begun = False
        self._open = True

    @abstractmethod
    def _begin(self) -> None:
        """Begin an upload."""

    @abstractmethod
    def _send_part(self, number: int, data: bytearray) -> Any:
        """Send part ``number``, counted from 1; what is returned is given to :meth:`_complete`.

        Other bytes are put into *data* once this returns.
        """

    @abstractmethod
    def _complete(self, parts: list[Any]) -> None:
        """Make the object of its parts."""

    @abstractmethod
    def _abort(self) -> None:
        """Remove the parts from the host."""

    def write(self, data: Buffer) -> None:
        self._check_open()
        with memoryview(data).cast("B") as rest:
            at = 0
            while at < len(rest):
                if self._filled == self._part_size:  # only now: the last part, which commit sends, is never empty
                    self._send(self._buffer)
                    self._buffer, self._filled = self._empty(), 0
                at += self._fill(rest[at : at + self._part_size - self._filled])

    def _empty(self) -> bytearray:
        """A buffer to be filled: a used one has the size of a part and keeps it."""
        self._spare = [spare for spare in self._spare if len(spare) == self._part_size]
        return self._spare.pop() if self._spare else bytearray()

    def _fill(self, piece: memoryview) -> int:
        """Add *piece*, for which a part has room."""
        end = self._filled + len(piece)
        if end > len(self._buffer):
            self._buffer += piece
        else:
            with memoryview(self._buffer) as view:
                view[self._filled : end] = piece
        self._filled = end
        return len(piece)

    def _send(self, part: bytearray) -> None:
        if self._pool is None:
            self._begin()
            self._begun = True
            self._pool = ThreadPoolExecutor(IN_FLIGHT, "sealedhealth-part")
        waiting = len(self._parts) - IN_FLIGHT
        if waiting >= 0:
            self._parts[waiting].result()  # bounds the memory; raises what went wrong with it
            self._spare.append(self._sent.pop(0))
        number = len(self._parts) + 1
        self._parts.append(self._pool.submit(self._send_part, number, part))
        self._sent.append(part)
        if self._growing and number % self.double_after == 0:
            self._part_size *= 2

    def commit(self) -> None:
        self._check_open()
        # A used buffer is not cut: its client may hold on to it for a moment longer.
        last = self._buffer if self._filled == len(self._buffer) else self._buffer[: self._filled]
        if self._pool is None:
            self._store.put(self._name, last)
        else:
            self._send(last)
            self._complete([part.result() for part in self._parts])
            self._begun = False
        self._close()

    def discard(self) -> None:
        if not self._open:
            return
        for part in self._parts:
            part.cancel()
        self._close()  # waits for the parts on their way: one that arrives after the abort would stay
        if self._begun:
            self._begun = False
            self._abort()

    def _close(self) -> None:
        self._open = False
        self._buffer = bytearray()
        if self._pool is not None:
            self._pool.shutdown()
        self._parts, self._sent, self._spare = [], [], []

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("This writer is closed.")

    def __del__(self) -> None:
        # Only what needs no request: this may run in the thread that would have to answer it.
        # delete_unfinished() removes what is left on the host.
        with suppress(Exception):
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
