from __future__ import annotations

import hashlib
import hmac
from dataclasses import FrozenInstanceError

import pytest

from sealedhealth.errors import InvalidInput, TamperedError, TruncatedError, UnsupportedFormat
from sealedhealth.format import HEADER_SIZE, Header, Kind, data_key_id, object_key

HEADER = Header(Kind.OBJECT, b"d" * 16, b"k" * 16, b"o" * 16)


def test_layout_of_the_header():
    """Every field stands where the specification says."""
    assert HEADER.pack() == bytes.fromhex("895348310d0a1a0a 01 01 0000 01 000000") + b"d" * 16 + b"k" * 16 + b"o" * 16
    assert len(HEADER.pack()) == HEADER_SIZE


@pytest.mark.parametrize("kind", Kind)
def test_parse_is_the_inverse_of_pack(kind):
    """What follows the header is ignored, so that a whole object may be passed."""
    header = Header(kind, b"d" * 16, b"k" * 16, b"o" * 16)
    assert Header.parse(header.pack()) == header
    assert Header.parse(header.pack() + b"body") == header


@pytest.mark.parametrize(
    "at, value, error, says",
    [
        (0, 0x09, TamperedError, "not a sealed object"),
        (7, 0x0D, TamperedError, "not a sealed object"),
        (8, 2, UnsupportedFormat, "format version 2"),
        (9, 0, UnsupportedFormat, "suite 0"),
        (10, 1, UnsupportedFormat, "flags 256"),
        (11, 1, UnsupportedFormat, "flags 1"),
        (12, 0, UnsupportedFormat, "kind 0"),
        (12, 4, UnsupportedFormat, "kind 4"),
        (13, 1, UnsupportedFormat, "reserved bytes 65536"),
        (15, 1, UnsupportedFormat, "reserved bytes 1"),
    ],
)
def test_parse_refuses_what_it_does_not_know(at, value, error, says):
    """Each unknown field is named, and says what to do."""
    data = bytearray(HEADER.pack())
    data[at] = value
    with pytest.raises(error, match=says):
        Header.parse(bytes(data))


def test_unknown_version_is_reported_before_the_rest():
    """A later version may change what the other bytes mean."""
    data = HEADER.pack()[:8] + b"\x09" + b"\xff" * 55
    with pytest.raises(UnsupportedFormat, match="format version 9"):
        Header.parse(data)


@pytest.mark.parametrize("size", [0, 1, 8, 63])
def test_parse_refuses_a_short_header(size):
    """Fewer than 64 bytes cannot be a sealed object."""
    with pytest.raises(TruncatedError):
        Header.parse(HEADER.pack()[:size])


@pytest.mark.parametrize("ids", [(15, 16, 16), (16, 17, 16), (16, 16, 0)])
def test_ids_have_sixteen_bytes(ids):
    """Shorter or longer ids would shift what follows."""
    with pytest.raises(InvalidInput):
        Header(Kind.OBJECT, *map(bytes, ids))


def test_header_is_frozen():
    """A header that changed after sealing would not open its object."""
    with pytest.raises(FrozenInstanceError):
        HEADER.kind = Kind.LOG_SECTION


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """One block of HKDF-Expand with SHA-512, written out."""
    return hmac.new(key, info + b"\x01", hashlib.sha512).digest()[:size]


def test_data_key_id_is_derived():
    """A wrong data key is known as such by its id."""
    key = bytes(range(32))
    assert data_key_id(key) == expand(key, b"sealedhealth/v1/id", 16)


@pytest.mark.parametrize(
    "kind, name",
    [
        (Kind.OBJECT, b"object"),
        (Kind.LOG_SECTION, b"log-section"),
        (Kind.CHECKPOINT_SECTION, b"checkpoint-section"),
    ],
)
def test_object_key_is_derived(kind, name):
    """The key binds the kind and the object id."""
    key, object_id = bytes(range(32)), b"o" * 16
    assert object_key(key, kind, object_id) == expand(key, b"sealedhealth/v1/" + name + b"\0" + object_id, 32)


def test_derivation_refuses_keys_and_ids_of_other_lengths():
    """A truncated key must never silently become another key."""
    for size in (0, 31, 33):
        with pytest.raises(InvalidInput):
            data_key_id(bytes(size))
        with pytest.raises(InvalidInput):
            object_key(bytes(size), Kind.OBJECT, bytes(16))
    with pytest.raises(InvalidInput):
        object_key(bytes(32), Kind.OBJECT, bytes(15))
