"""The 64-byte header of a sealed object, and the keys and ids that derive from a data key."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sealedhealth.errors import InvalidInput, TamperedError, TruncatedError, UnsupportedFormat

FORMAT_VERSION = 1
SUITE = 1  # Cobblestone-256; no other suite exists, and none is ever negotiated
HEADER_SIZE = 64
KEY_SIZE = 32  # of a data key and of an object key
ID_SIZE = 16  # of a dataset id, a data key id and an object id

# Like PNG's: the first byte shows a channel that drops the eighth bit, the line
# endings show a transfer in text mode.
MAGIC = b"\x89SH1\r\n\x1a\n"

_LAYOUT = struct.Struct(">8sBBHB3s16s16s16s")
_RESERVED = bytes(3)
_NO_FLAGS = 0  # bit 0 is reserved for size padding
_ID_LABEL = b"sealedhealth/v1/id"


class Kind(IntEnum):
    """What a sealed object holds. Keys of different kinds never coincide."""

    OBJECT = 1
    LOG_SECTION = 2
    CHECKPOINT_SECTION = 3


_KIND_LABELS = {
    Kind.OBJECT: b"sealedhealth/v1/object\0",
    Kind.LOG_SECTION: b"sealedhealth/v1/log-section\0",
    Kind.CHECKPOINT_SECTION: b"sealedhealth/v1/checkpoint-section\0",
}


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a sealed object: public, and bound to every byte of the body.

    Raises :class:`InvalidInput` when an id is not 16 bytes long.
    """

    kind: Kind
    dataset_id: bytes  #: 16 bytes
    data_key_id: bytes  #: 16 bytes, see :func:`data_key_id`
    object_id: bytes  #: 16 bytes, random, never used twice

    def __post_init__(self) -> None:
        if not len(self.dataset_id) == len(self.data_key_id) == len(self.object_id) == ID_SIZE:
            raise InvalidInput(f"Every id in the header of a sealed object has {ID_SIZE} bytes.")

    def pack(self) -> bytes:
        """The 64 bytes that stand at the start of the object."""
        return _LAYOUT.pack(
            MAGIC,
            FORMAT_VERSION,
            SUITE,
            _NO_FLAGS,
            self.kind,
            _RESERVED,
            self.dataset_id,
            self.data_key_id,
            self.object_id,
        )

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """Read a header from the first 64 bytes of *data*; what follows them is ignored.

        Nothing here is authenticated: use it to *show* what an object says of itself.
        Whoever opens an object knows from the signed log which header it must have.

        Raises :class:`TruncatedError` when there are fewer bytes, :class:`TamperedError`
        when they do not start a sealed object, and :class:`UnsupportedFormat` for a
        version, suite, flag, kind or reserved byte that this release does not know.
        """
        if len(data) < HEADER_SIZE:
            raise TruncatedError(f"A sealed object starts with a header of {HEADER_SIZE} bytes; here are {len(data)}.")
        magic, version, suite, flags, kind, reserved, dataset_id, key_id, object_id = _LAYOUT.unpack_from(data)
        if magic != MAGIC:
            raise TamperedError("This is not a sealed object: its first eight bytes are others.")
        # The version comes first: it decides what the other bytes mean.
        if version != FORMAT_VERSION:
            raise _unsupported("format version", version)
        if suite != SUITE:
            raise _unsupported("suite", suite)
        if flags != _NO_FLAGS:
            raise _unsupported("flags", flags)
        if kind not in _KIND_LABELS:
            raise _unsupported("kind", kind)
        if reserved != _RESERVED:
            raise _unsupported("reserved bytes", int.from_bytes(reserved, "big"))
        return cls(Kind(kind), dataset_id, key_id, object_id)


def _unsupported(field: str, value: int) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"This release does not know {field} {value} of a sealed object.",
        safe="Nothing was opened.",
        next="Use a release that does, or fetch the object again if it should be of this version.",
    )


def data_key_id(data_key: bytes) -> bytes:
    """The 16-byte id of a data key; it derives from the key and tells nothing about it.

    Raises :class:`InvalidInput` when the key is not 32 bytes long.
    """
    return _expand(data_key, _ID_LABEL, ID_SIZE)


def object_key(data_key: bytes, kind: Kind, object_id: bytes) -> bytes:
    """The 32-byte key of one sealed object under a data key.

    Raises :class:`InvalidInput` when the key is not 32 or the id not 16 bytes long.
    """
    if len(object_id) != ID_SIZE:
        raise InvalidInput(f"An object id has {ID_SIZE} bytes.")
    return _expand(data_key, _KIND_LABELS[kind] + object_id, KEY_SIZE)


def _expand(data_key: bytes, info: bytes, length: int) -> bytes:
    if len(data_key) != KEY_SIZE:
        raise InvalidInput(f"A data key has {KEY_SIZE} bytes.")
    return HKDFExpand(hashes.SHA512(), length, info).derive(data_key)
