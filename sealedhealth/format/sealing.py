"""Sealing: plaintext in, a sealed object out, through the library's encryptor."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from cryptography.cobblestone import Cobblestone256Encryptor

from sealedhealth.errors import InvalidInput
from sealedhealth.format.header import HEADER_SIZE, KEY_SIZE, Header
from sealedhealth.format.layout import MAX_PLAIN_SIZE, SALT_SIZE, Layout
from sealedhealth.format.segments import Buffer, SegmentHasher, root_of, trailer_of


@dataclass(frozen=True, slots=True)
class SealedInfo:
    """What the signed log has to say about an object so that a reader can open it."""

    salt: bytes  #: 24 bytes, also in the object: known beforehand it saves a reader a request
    root: bytes  #: 32 bytes, binds every byte of the object
    plain_size: int  #: bytes
    sealed_size: int  #: bytes, header and trailer included


class Sealer:
    """Seals a stream whose length need not be known; memory stays flat.

    Feed it buffers of about 1 MiB.  Segments are hashed on *executor* when there is one,
    which needs no more than two threads to keep up; it may be shared.

    Raises :class:`InvalidInput` for a key that is not 32 bytes long, for more plaintext
    than an object can hold, and for any use after :meth:`finalize`.
    """

    def __init__(self, object_key: bytes, header: Header, *, executor: Executor | None = None) -> None:
        context = header.pack()
        self._encryptor = _encryptor(object_key, context)
        # Salt and commitment come out before any plaintext went in.
        self._prefix = context + self._encryptor.update(b"")
        self._salt = self._prefix[HEADER_SIZE : HEADER_SIZE + SALT_SIZE]
        self._hasher = SegmentHasher(executor)
        self._hasher.update(memoryview(self._prefix))
        self._plain_size = 0
        self._info: SealedInfo | None = None

    def update(self, data: Buffer) -> bytes:
        """Seal more plaintext. Returns the next bytes of the object, perhaps none."""
        if self._info is not None:
            raise InvalidInput("This object is sealed already.")
        view = memoryview(data).cast("B")
        if len(view) > MAX_PLAIN_SIZE - self._plain_size:
            raise InvalidInput(
                f"A sealed object holds at most {MAX_PLAIN_SIZE} bytes.", next="Split the data into several objects."
            )
        sealed = self._encryptor.update(view)
        self._plain_size += len(view)
        return self._emit(sealed)

    def finalize(self) -> bytes:
        """Seal what is left. Returns the last bytes of the object; :attr:`info` is there from now on."""
        if self._info is not None:
            raise InvalidInput("This object is sealed already.")
        last = self._emit(self._encryptor.finalize())
        digests = self._hasher.finish()
        trailer = trailer_of(digests)
        body_end = self._hasher.total
        self._info = SealedInfo(self._salt, root_of(body_end, digests), self._plain_size, body_end + len(trailer))
        return last + trailer

    @property
    def info(self) -> SealedInfo:
        """What the log needs to know. Raises :class:`InvalidInput` before :meth:`finalize`."""
        if self._info is None:
            raise InvalidInput("This object is not sealed to its end yet.")
        return self._info

    def _emit(self, sealed: bytes) -> bytes:
        self._hasher.update(memoryview(sealed))
        if self._prefix:
            sealed = self._prefix + sealed
            self._prefix = b""
        return sealed


def seal(
    object_key: bytes, header: Header, data: Buffer, *, executor: Executor | None = None
) -> tuple[bytes, SealedInfo]:
    """Seal plaintext that is in memory. Returns the object and what the log needs to know.

    Raises :class:`InvalidInput` for a key that is not 32 bytes long.
    """
    context = header.pack()
    encryptor = _encryptor(object_key, context)
    view = memoryview(data).cast("B")
    layout = Layout.of_plain(len(view))
    if layout.segments == 1:
        # Most objects are small: nothing but the calls that have to be.
        sealed = b"".join((context, encryptor.update(view), encryptor.finalize()))
        digests = sha256(sealed).digest()
    else:
        # The one way to fill a bytes object in place; joining would cost more than sealing.
        target = BytesIO(bytes(layout.sealed_size))
        with target.getbuffer() as out:
            out[:HEADER_SIZE] = context
            end = HEADER_SIZE + encryptor.update_into(view, out[HEADER_SIZE:])
            out[end : layout.body_end] = encryptor.finalize()
            hasher = SegmentHasher(executor)
            hasher.update(out[: layout.body_end])
            digests = hasher.finish()
            out[layout.body_end :] = digests
        sealed = target.getvalue()
    salt = sealed[HEADER_SIZE : HEADER_SIZE + SALT_SIZE]
    return sealed, SealedInfo(salt, root_of(layout.body_end, digests), layout.plain_size, layout.sealed_size)


def _encryptor(object_key: bytes, context: bytes) -> Cobblestone256Encryptor:
    if len(object_key) != KEY_SIZE:
        raise InvalidInput(f"An object key has {KEY_SIZE} bytes.")
    return Cobblestone256Encryptor(object_key, context)
