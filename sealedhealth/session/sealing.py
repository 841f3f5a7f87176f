"""Sealing the contents of one transaction into objects of the store, under data keys of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sealedhealth.errors import InvalidInput, SealedHealthError
from sealedhealth.format import Header, Kind, SealedInfo, seal
from sealedhealth.keys.base import DataKey, WrappedKey
from sealedhealth.keys.keyring import SealingKey
from sealedhealth.log.entry import Entry
from sealedhealth.log.names import object_name
from sealedhealth.log.roster import Settings
from sealedhealth.log.strict import microseconds
from sealedhealth.stores import Buffer
from sealedhealth.transfer import SealWriter, hashers

if TYPE_CHECKING:
    from sealedhealth.session.engine import Engine

__all__ = ["SMALL", "EntryWriter", "NewObject", "ObjectSealer"]

SMALL = 4 << 20  #: contents up to this size are sealed in memory, in bytes


@dataclass(frozen=True, slots=True)
class NewObject:
    """An object that this transaction stored."""

    object_id: bytes
    object_key: bytes = field(repr=False)
    data_key_id: bytes
    info: SealedInfo

    def entry(self, mtime_us: int, sequence: int) -> Entry:
        """The entry of a file that is the whole object."""
        return Entry(
            object_id=self.object_id,
            object_key=self.object_key,
            data_key_id=self.data_key_id,
            salt=self.info.salt,
            root=self.info.root,
            sealed_size=self.info.sealed_size,
            offset=0,
            length=self.info.plain_size,
            mtime_us=mtime_us,
            sequence=sequence,
        )


class ObjectSealer:
    """Data keys and new objects of one transaction and compartment. Safe to use from several threads."""

    def __init__(self, engine: Engine, compartment_id: bytes, settings: Settings) -> None:
        self.engine = engine
        self._kek = engine.kek(compartment_id)
        self._settings = settings
        self._lock = threading.Lock()
        self._keys: list[SealingKey] = []
        self.objects: dict[bytes, NewObject] = {}  #: by object id

    def key(self, length: int = 0) -> SealingKey:
        """The data key in use, charged with *length* bytes; a fresh one when the last is used up."""
        with self._lock:
            current = self._keys[-1] if self._keys else None
            if current is None or current.exhausted or current.sealed_bytes >= self._settings.data_key_bytes:
                current = self.engine.keyring.sealing_key(self._kek, max_age_s=self._settings.data_key_age_s)
                self._keys.append(current)
            current.charge(length)
            return current

    @property
    def wrapped(self) -> list[WrappedKey]:
        """The wraps of every data key used, in order."""
        return [key.wrapped for key in self._keys]

    @property
    def data_keys(self) -> dict[bytes, DataKey]:
        """The data keys used, by id."""
        return {key.key_id: key.data_key for key in self._keys}

    def seal_many(self, contents: Sequence[Buffer]) -> list[NewObject]:
        """Seal contents, each as an object of its own, and store them in one concurrent call."""
        sealed = [self._seal(data, self.new_id()) for data in contents]
        self.engine.store.put_many({object_name(new.object_id): data for new, data in sealed})
        return [new for new, _ in sealed]

    def seal_one(self, data: Buffer, object_id: bytes) -> tuple[NewObject, Callable[[], None]]:
        """Seal *data* as one object; also what stores it, perhaps from another thread."""
        new, sealed = self._seal(data, object_id)
        return new, partial(self.engine.store.put, object_name(object_id), sealed)

    def new_id(self) -> bytes:
        """An id for an object."""
        return os.urandom(16)

    def _seal(self, data: Buffer, object_id: bytes) -> tuple[NewObject, bytes]:
        sealing = self.key(memoryview(data).nbytes)
        object_key, header = self._begin(sealing, object_id)
        sealed, info = seal(object_key, header, data, executor=hashers())
        new = NewObject(object_id, object_key, sealing.key_id, info)
        with self._lock:
            self.objects[object_id] = new  # before it is stored: a write that fails may have arrived all the same
        return new, sealed

    def _begin(self, sealing: SealingKey, object_id: bytes) -> tuple[bytes, Header]:
        header = Header(Kind.OBJECT, self.engine.dataset_id, sealing.key_id, object_id)
        return sealing.data_key.object_key(Kind.OBJECT, object_id), header

    def stream(self, size_hint: int | None) -> tuple[SealWriter, Callable[[SealedInfo], NewObject], SealingKey]:
        """A writer for one large object, what makes it an object of this transaction, and the key to charge."""
        sealing = self.key()
        object_id = self.new_id()
        object_key, header = self._begin(sealing, object_id)
        writer = SealWriter(self.engine.store, object_name(object_id), object_key, header, size_hint=size_hint)

        def finished(info: SealedInfo) -> NewObject:
            new = NewObject(object_id, object_key, sealing.key_id, info)
            with self._lock:
                self.objects[object_id] = new
            return new

        return writer, finished, sealing

    def now_us(self) -> int:
        """The key service's time."""
        return microseconds(self.engine.context.service.now())

    def drop(self, object_ids: Iterable[bytes]) -> None:
        """Delete objects that no commit will name. What cannot be deleted now, garbage collection finds later."""
        names = [object_name(object_id) for object_id in object_ids]
        if names:
            with suppress(SealedHealthError):
                self.engine.store.delete_many(names)

    def close(self) -> None:
        """Wipe the data keys."""
        for key in self._keys:
            key.close()


class EntryWriter:
    """Writes one file of a transaction; staged by :meth:`close`, forgotten by :meth:`discard`.

    Parameters
    ----------
    finished:
        Stages what was written: all of it when it was small, else the object that holds it.
    size_hint:
        Expected size in bytes.
    """

    def __init__(
        self,
        sealer: ObjectSealer,
        path: str,
        finished: Callable[[EntryWriter, bytes | NewObject], None],
        *,
        size_hint: int | None,
    ) -> None:
        self._sealer = sealer
        self.path = path
        self._finished = finished
        self._size_hint = size_hint
        self._buffer = bytearray()  # small files wait here, to be stored without a stream
        self._large: tuple[SealWriter, Callable[[SealedInfo], NewObject], SealingKey] | None = None
        self.size = 0  #: plaintext bytes written so far
        self.closed = False

    def write(self, data: Buffer) -> int:
        """Take *data* and return its length in bytes."""
        if self.closed:
            raise InvalidInput("This file is closed.")
        view = memoryview(data).cast("B")
        self.size += len(view)
        if self._large is None:
            if self.size <= SMALL:
                self._buffer += view
                return len(view)
            self._large = self._sealer.stream(self._size_hint)
            head, self._buffer = bytes(self._buffer), bytearray()
            self._write_large(memoryview(head))
        self._write_large(view)
        return len(view)

    def _write_large(self, view: memoryview) -> None:
        if self._large is not None:
            writer, _, sealing = self._large
            writer.write(view)
            sealing.charge(len(view))

    def close(self) -> None:
        """Stage what was written. Harmless when repeated."""
        if self.closed:
            return
        self.closed = True
        try:
            if self._large is None:
                self._finished(self, bytes(self._buffer))
                self._buffer = bytearray()
            else:
                writer, finished, _ = self._large
                self._finished(self, finished(writer.commit()))
        except BaseException:
            self._give_up()
            raise

    def discard(self) -> None:
        """Forget what was written. Harmless when repeated."""
        if self.closed:
            return
        self.closed = True
        self._give_up()

    def _give_up(self) -> None:
        self._buffer = bytearray()
        if self._large is not None:
            # What cannot be removed now, garbage collection finds later: the error that led here is the one to tell.
            with suppress(SealedHealthError):
                self._large[0].discard()
