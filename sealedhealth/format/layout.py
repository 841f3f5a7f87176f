"""Where everything lies in a sealed object: arithmetic alone, no bytes and no keys.

::

    header 64 | salt 24 | commitment 32 | sealed chunks ... | trailer
    <------------------ segment 0 ------------------>< 1 >..

A chunk is 16 KiB of plaintext and a tag of 16 bytes.  The last chunk is always
shorter than 16 KiB, and is there even when it is empty.  A segment is 16 chunks; the
last one holds what remains, at least one chunk.  The trailer has 32 bytes a segment,
and is left out when there is only one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sealedhealth.errors import InvalidInput, TruncatedError
from sealedhealth.format.header import HEADER_SIZE

CHUNK_SIZE = 16384
SEGMENT_CHUNKS = 16
SEGMENT_SIZE = CHUNK_SIZE * SEGMENT_CHUNKS

SALT_SIZE = 24
COMMITMENT_SIZE = 32
TAG_SIZE = 16
DIGEST_SIZE = 32
PREFIX_SIZE = HEADER_SIZE + SALT_SIZE + COMMITMENT_SIZE  # what comes before the first chunk

SEALED_CHUNK_SIZE = CHUNK_SIZE + TAG_SIZE
SEALED_SEGMENT_SIZE = SEALED_CHUNK_SIZE * SEGMENT_CHUNKS

MAX_CHUNKS = 1 << 38
MAX_PLAIN_SIZE = MAX_CHUNKS * CHUNK_SIZE - 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all parts of a sealed object, from the size of its plaintext.

    Sizes and positions are in bytes; spans are ``(first, one past the last)``.
    """

    plain_size: int
    chunks: int
    segments: int
    body_end: int  #: header and body; where the trailer starts
    sealed_size: int  #: the whole object

    @classmethod
    def of_plain(cls, plain_size: int) -> Layout:
        """The layout of *plain_size* bytes. Raises :class:`InvalidInput` when no object can hold them."""
        if not 0 <= plain_size <= MAX_PLAIN_SIZE:
            raise InvalidInput(
                f"A sealed object holds 0 to {MAX_PLAIN_SIZE} bytes, not {plain_size}.",
                next="Split the data into several objects.",
            )
        chunks = plain_size // CHUNK_SIZE + 1
        segments = -(-chunks // SEGMENT_CHUNKS)
        body_end = PREFIX_SIZE + plain_size + TAG_SIZE * chunks
        trailer = DIGEST_SIZE * segments if segments > 1 else 0
        return cls(plain_size, chunks, segments, body_end, body_end + trailer)

    @classmethod
    def of_sealed(cls, sealed_size: int) -> Layout:
        """The layout of an object of *sealed_size* bytes.

        Raises :class:`TruncatedError` when no plaintext makes an object of that size.
        """
        # A segment and its digest take SEALED_SEGMENT_SIZE + DIGEST_SIZE bytes, so this
        # division counts them; whatever it gives is checked by going forward again.
        rest = sealed_size - PREFIX_SIZE
        segments = rest // (SEALED_SEGMENT_SIZE + DIGEST_SIZE) + 1
        sealed_chunks = rest - (DIGEST_SIZE * segments if segments > 1 else 0)
        plain_size = sealed_chunks - TAG_SIZE * (sealed_chunks // SEALED_CHUNK_SIZE + 1)
        if 0 <= plain_size <= MAX_PLAIN_SIZE:
            layout = cls.of_plain(plain_size)
            if layout.sealed_size == sealed_size:
                return layout
        raise TruncatedError(f"No sealed object has {sealed_size} bytes: it was cut short or extended.")

    def segment_span(self, segment: int) -> tuple[int, int]:
        """Where a segment lies in the sealed object; the first one covers all that comes before it, too."""
        lo = PREFIX_SIZE + segment * SEALED_SEGMENT_SIZE if segment else 0
        return lo, min(PREFIX_SIZE + (segment + 1) * SEALED_SEGMENT_SIZE, self.body_end)

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """Where a sealed chunk, tag included, lies in the sealed object."""
        lo = PREFIX_SIZE + chunk * SEALED_CHUNK_SIZE
        return lo, min(lo + SEALED_CHUNK_SIZE, self.body_end)

    @property
    def trailer_span(self) -> tuple[int, int]:
        """Where the trailer lies; empty when there is only one segment."""
        return self.body_end, self.sealed_size


@lru_cache(4096)  # a listing asks for every file's, and packed files share an object
def sealed_size(plain_size: int) -> int:
    """How many bytes the sealed object has, header and trailer included.

    Raises :class:`InvalidInput` when *plain_size* is negative or more than one object can hold.
    """
    return Layout.of_plain(plain_size).sealed_size


def plain_size(sealed_size: int) -> int:
    """How many bytes of plaintext a sealed object of that size holds.

    Raises :class:`TruncatedError` when no plaintext makes an object of that size.
    """
    return Layout.of_sealed(sealed_size).plain_size
