"""Packing: small files of one transaction share sealed objects, so that ten thousand of them are a few requests.

A file waits in the open pack until that is full, or until somebody reads what is staged, or commits.
Then the pack is sealed whole, under one data key, and goes to the store while the next one fills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from sealedhealth.format import sealed_size
from sealedhealth.log.entry import Entry
from sealedhealth.session.sealing import NewObject, ObjectSealer
from sealedhealth.stores import Buffer

if TYPE_CHECKING:
    from sealedhealth.log.roster import Settings

__all__ = ["Packer", "Part"]

#: Most files of one pack, however small they are.
PACK_FILES = 1 << 14
#: Sealed packs on their way to the store at once; each is in memory until it has arrived.
IN_FLIGHT = 3

# What an entry says of a pack that is not sealed yet: such an entry can be listed, and does not open.
_UNKNOWN_ID = b"?" * 16
_UNKNOWN_SALT = b"?" * 24
_UNKNOWN = b"?" * 32


class Part:
    """A small file in a pack. Paths that are copies of each other share it."""

    __slots__ = ("_mtime_us", "_pack", "data", "length", "offset", "path", "uses")

    def __init__(self, pack: _Pack, path: str, data: bytes, offset: int, mtime_us: int) -> None:
        self.path = path  #: where it was put first: the pack is in the order of these
        self.data = data  #: until the pack is sealed
        self.offset = offset  #: until then, where it would begin if nothing were sorted or left out
        self.length = len(data)
        self.uses = 1  #: paths that it is staged under; with none left when the pack is sealed, it is left out
        self._pack = pack
        self._mtime_us = mtime_us

    @property
    def sealed(self) -> bool:
        """Whether its pack is sealed, so that :meth:`entry` is final. It may be on its way to the store still."""
        return self._pack.new is not None

    def entry(self, sequence: int) -> Entry:
        """What the catalogue has of it; until it is sealed, only size and time are true."""
        new = self._pack.new
        return Entry(
            object_id=self._pack.object_id,
            object_key=new.object_key if new else _UNKNOWN,
            data_key_id=new.data_key_id if new else _UNKNOWN_ID,
            salt=new.info.salt if new else _UNKNOWN_SALT,
            root=new.info.root if new else _UNKNOWN,
            sealed_size=new.info.sealed_size if new else sealed_size(self.offset + self.length),
            offset=self.offset,
            length=self.length,
            mtime_us=self._mtime_us,
            sequence=sequence,
        )

    def __repr__(self) -> str:
        return f"<Part of {self.length} bytes>"


class _Pack:
    """Files that will share an object."""

    def __init__(self, object_id: bytes) -> None:
        self.object_id = object_id
        self.parts: list[Part] = []
        self.size = 0
        self.new: NewObject | None = None


class Packer:
    """Packs the small files of one transaction. Not safe to use from several threads: its owner has a lock.

    Memory is bounded by the pack that is open, the one being sealed, and :data:`IN_FLIGHT` on their way.
    An upload that fails shows in a later call, and in every one after that: the transaction cannot be
    committed any more.
    """

    def __init__(self, sealer: ObjectSealer, settings: Settings) -> None:
        self._sealer = sealer
        self._below = settings.pack_below
        self._limit = settings.pack_size
        self._pack: _Pack | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: deque[Future[None]] = deque()
        self._error: BaseException | None = None

    def takes(self, size: int) -> bool:
        """Whether a file of *size* bytes is small enough to be packed."""
        return size < self._below

    def add(self, path: str, data: Buffer, mtime_us: int) -> Part:
        """Put a file into the open pack. Raises what storing an earlier pack raised."""
        self._check()
        content = bytes(data)
        if self._pack is not None and (
            self._pack.size + len(content) > self._limit or len(self._pack.parts) == PACK_FILES
        ):
            self.flush()
        if self._pack is None:
            self._pack = _Pack(self._sealer.new_id())
        part = Part(self._pack, path, content, self._pack.size, mtime_us)
        self._pack.parts.append(part)
        self._pack.size += part.length
        return part

    def flush(self) -> None:
        """Seal the open pack and send it on its way; files that were deleted again are left out."""
        store = self._seal()
        if store is not None:
            self._check(waiting=IN_FLIGHT - 1)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(IN_FLIGHT, "sealedhealth-pack")
            self._jobs.append(self._pool.submit(store))

    def settle(self) -> None:
        """Seal the open pack; return once every pack is on the store."""
        store = self._seal()
        self._check(waiting=0)
        if store is not None:  # nothing to do meanwhile: no thread
            try:
                store()
            except BaseException as error:
                self._error = error
                raise

    def discard(self) -> None:
        """Forget the open pack; return once nothing is on its way to the store any more."""
        self._pack = None
        for job in self._jobs:
            job.cancel()
        wait(self._jobs)
        self._jobs.clear()
        if self._pool is not None:
            self._pool.shutdown()

    def _check(self, waiting: int = IN_FLIGHT) -> None:
        """Wait until no more than *waiting* packs are on their way. Raises what one of them met with."""
        if self._error is not None:
            raise self._error
        while self._jobs and (len(self._jobs) > waiting or self._jobs[0].done()):
            try:
                self._jobs.popleft().result()
            except BaseException as error:
                self._error = error
                raise

    def _seal(self) -> Callable[[], None] | None:
        """Seal the open pack; what stores it, or ``None`` when there is nothing to store."""
        pack, self._pack = self._pack, None
        parts = sorted((part for part in pack.parts if part.uses), key=_path) if pack else []
        if pack is None or not parts:
            return None
        pack.parts = []
        data = b"".join([part.data for part in parts])
        offset = 0
        for part in parts:
            part.offset, part.data = offset, b""
            offset += part.length
        try:
            pack.new, store = self._sealer.seal_one(data, pack.object_id)
        except BaseException as error:
            self._error = error
            raise
        return store


def _path(part: Part) -> str:
    return part.path
