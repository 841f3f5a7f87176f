"""Signed files: every field of the head, every bound, every byte under the signature."""

import pytest

from sealedhealth.errors import MalformedError, TamperedError, UnsupportedFormat
from sealedhealth.log.envelope import (
    ENVELOPE_OVERHEAD,
    FileKind,
    pack_envelope,
    split_envelope,
    verify_envelope,
)

AUTHOR = b"a" * 16


@pytest.fixture
def packed(alice):
    """A link with a payload of five bytes."""
    return pack_envelope(FileKind.LINK, AUTHOR, b"hello", alice.sign)


def test_layout(packed):
    """The head is what the module's docstring says, byte for byte."""
    assert packed[:32] == b"\x89SHL\r\n\x1a\n" + bytes([1, 3, 0, 0]) + AUTHOR + (5).to_bytes(4, "big")
    assert packed[32:37] == b"hello"
    assert len(packed) == ENVELOPE_OVERHEAD + 5


def test_round_trip_with_what_follows(packed, alice):
    """Parts come back as they were; bytes after the signature are not of the envelope."""
    envelope = split_envelope(FileKind.LINK, packed + b"sections", limit=5)
    verify_envelope(envelope, alice.public_key)
    assert (envelope.kind, envelope.author_id, envelope.payload) == (FileKind.LINK, AUTHOR, b"hello")
    assert bytes(envelope.rest) == b"sections"


@pytest.mark.parametrize("kind", FileKind)
def test_labels_differ_and_are_bound(kind, alice):
    """A signature of one kind of file is none of another's, even when all other bytes are equal."""
    packed = bytearray(pack_envelope(kind, AUTHOR, b"hello", alice.sign))
    for other in set(FileKind) - {kind}:
        packed[9] = other
        with pytest.raises(TamperedError):
            verify_envelope(split_envelope(other, bytes(packed), limit=5), alice.public_key)


def test_every_byte_is_signed(packed, alice):
    """No byte of head, payload or signature can change."""
    for at in range(len(packed)):
        altered = bytearray(packed)
        altered[at] ^= 1
        with pytest.raises((TamperedError, UnsupportedFormat, MalformedError)):
            verify_envelope(split_envelope(FileKind.LINK, bytes(altered), limit=5), alice.public_key)


def test_another_key(packed, bob):
    """Somebody else's key does not verify it."""
    with pytest.raises(TamperedError, match="link"):
        verify_envelope(split_envelope(FileKind.LINK, packed, limit=5), bob.public_key)


@pytest.mark.parametrize("key", [b"", b"\x04", bytes(97), b"\x04" + bytes(96), b"\x02" + bytes(48)])
def test_key_that_is_no_point(packed, key):
    """A public key that is no point of the curve verifies nothing."""
    with pytest.raises(TamperedError):
        verify_envelope(split_envelope(FileKind.LINK, packed, limit=5), key)


@pytest.mark.parametrize("signature", [bytes(96), b"\xff" * 96, bytes(48) + b"\xff" * 48])
def test_signature_of_impossible_numbers(packed, alice, signature):
    """Zero and numbers beyond the order are no signature."""
    with pytest.raises(TamperedError):
        verify_envelope(split_envelope(FileKind.LINK, packed[:-96] + signature, limit=5), alice.public_key)


@pytest.mark.parametrize(
    "at, value, error",
    [(0, 0, UnsupportedFormat), (8, 0, UnsupportedFormat), (8, 2, UnsupportedFormat), (9, 4, UnsupportedFormat),
     (9, 99, UnsupportedFormat), (10, 1, UnsupportedFormat), (11, 1, UnsupportedFormat), (28, 1, MalformedError)],
)  # fmt: skip
def test_head_that_is_not_understood(packed, at, value, error):
    """Another magic, version, kind or flag is refused by name before anything is checked or parsed."""
    altered = bytearray(packed)
    altered[at] = value
    with pytest.raises(error):
        split_envelope(FileKind.LINK, bytes(altered), limit=1 << 30)


def test_lengths(packed):
    """A payload may be as long as its limit and the file say, and not one byte longer."""
    assert split_envelope(FileKind.LINK, packed, limit=5).payload == b"hello"
    with pytest.raises(MalformedError):
        split_envelope(FileKind.LINK, packed, limit=4)
    for size in (0, 31, ENVELOPE_OVERHEAD - 1, len(packed) - 1):
        with pytest.raises(MalformedError):
            split_envelope(FileKind.LINK, packed[:size], limit=5)


def test_key_service_that_answers_a_wrong_signature():
    """A signature of another size is refused when it is made."""
    with pytest.raises(MalformedError, match="95"):
        pack_envelope(FileKind.LINK, AUTHOR, b"", lambda _: bytes(95))
