"""Signed files: exact bytes, one signature, verified before anything is parsed.

Layout (integers big-endian)::

     0   8  magic 89 53 48 4C 0D 0A 1A 0A
     8   1  format version = 1
     9   1  kind (descriptor, change set, link, checkpoint)
    10   2  zero
    12  16  author id (all zero: the root key)
    28   4  length of the payload
    32   n  payload
    ..  96  ECDSA P-384 with SHA-384 over label || everything before, as r || s

The label is ``"sealedhealth/v1/" kind 00``.  Bytes after the signature belong to
the file but not to the envelope: a change set carries its sealed sections there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from sealedhealth.errors import MalformedError, TamperedError, UnsupportedFormat

__all__ = [
    "ENVELOPE_OVERHEAD",
    "ROOT_AUTHOR",
    "SIGNATURE_SIZE",
    "Envelope",
    "FileKind",
    "pack_envelope",
    "split_envelope",
    "verify_envelope",
]

MAGIC = b"\x89SHL\r\n\x1a\n"
SIGNATURE_SIZE = 96
ROOT_AUTHOR = bytes(16)  #: author id of the root key
_HEAD = struct.Struct(">8sBBH16sI")
ENVELOPE_OVERHEAD = _HEAD.size + SIGNATURE_SIZE
_UNUSED = "It was not used."
_COPY = "Restore the file from another copy of the store."


class FileKind(IntEnum):
    """What a signed file is."""

    DESCRIPTOR = 1
    CHANGE_SET = 2
    LINK = 3
    CHECKPOINT = 4

    @property
    def label(self) -> bytes:
        """The bytes that a signature of this kind starts with."""
        return b"sealedhealth/v1/" + self.name.lower().replace("_", "-").encode() + b"\0"

    @property
    def called(self) -> str:
        """Its name in messages; of a descriptor, the file's too."""
        return f"{self.name.lower().replace('_', ' ')}{' (.sealedhealth/dataset)' if self == self.DESCRIPTOR else ''}"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed file, split but not yet believed."""

    kind: FileKind
    author_id: bytes
    payload: bytes
    signature: bytes
    signed: bytes  #: the exact bytes under the signature, label left out
    rest: memoryview  #: what follows the signature


def pack_envelope(kind: FileKind, author_id: bytes, payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """The bytes of a signed file; *sign* makes 96 bytes over the message it is given."""
    signed = _HEAD.pack(MAGIC, 1, kind, 0, author_id, len(payload)) + payload
    signature = sign(kind.label + signed)
    if len(signature) != SIGNATURE_SIZE:
        raise MalformedError(f"The key service made a signature of {len(signature)} bytes instead of {SIGNATURE_SIZE}.")
    return signed + signature


def split_envelope(kind: FileKind, data: bytes, *, limit: int) -> Envelope:
    """Find the parts of a signed file without parsing the payload.

    Raises
    ------
    UnsupportedFormat
        Another magic, version or kind.
    MalformedError
        A payload longer than *limit* bytes or than the file.
    """
    called = kind.called
    if len(data) < ENVELOPE_OVERHEAD:
        raise MalformedError(f"The {called} is too short ({len(data)} bytes).", safe=_UNUSED, next=_COPY)
    magic, version, got_kind, zero, author_id, length = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise UnsupportedFormat(f"The {called} is no file of a log.", safe=_UNUSED, next=_COPY)
    if version != 1:
        raise UnsupportedFormat(f"Log format version {version} is unknown.", next="Upgrade sealedhealth.")
    if got_kind != kind or zero != 0:
        raise UnsupportedFormat(
            f"A log file of kind {got_kind} stands where the {called} belongs.", safe=_UNUSED, next=_COPY
        )
    if length > limit or _HEAD.size + length + SIGNATURE_SIZE > len(data):
        raise MalformedError(
            f"The payload of the {called} has no valid length ({length} bytes).", safe=_UNUSED, next=_COPY
        )
    end = _HEAD.size + length
    return Envelope(
        kind=kind,
        author_id=author_id,
        payload=data[_HEAD.size : end],
        signature=data[end : end + SIGNATURE_SIZE],
        signed=data[:end],
        rest=memoryview(data)[end + SIGNATURE_SIZE :],
    )


def verify_envelope(envelope: Envelope, public_key: bytes) -> None:
    """Check the signature with a P-384 public key (uncompressed point).

    Raises
    ------
    TamperedError
        The signature is not this key's over these bytes.
    """
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public_key)
        r = int.from_bytes(envelope.signature[:48], "big")
        s = int.from_bytes(envelope.signature[48:], "big")
        der = utils.encode_dss_signature(r, s)
        key.verify(der, envelope.kind.label + envelope.signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError):
        raise TamperedError(
            f"The signature of a {envelope.kind.name.lower().replace('_', ' ')} is not its author's.",
            safe="Nothing of it was used.",
        ) from None
