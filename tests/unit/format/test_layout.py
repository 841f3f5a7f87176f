from __future__ import annotations

import pytest

from sealedhealth.errors import InvalidInput, TruncatedError
from sealedhealth.format import CHUNK_SIZE, SEGMENT_SIZE, Layout, plain_size, sealed_size
from sealedhealth.format.layout import MAX_CHUNKS, MAX_PLAIN_SIZE

PREFIX = 64 + 24 + 32


@pytest.mark.parametrize(
    "plain, chunks, segments, size",
    [
        (0, 1, 1, PREFIX + 16),
        (1, 1, 1, PREFIX + 17),
        (CHUNK_SIZE - 1, 1, 1, PREFIX + CHUNK_SIZE + 15),
        (CHUNK_SIZE, 2, 1, PREFIX + CHUNK_SIZE + 32),
        (SEGMENT_SIZE - 1, 16, 1, PREFIX + SEGMENT_SIZE - 1 + 16 * 16),
        (SEGMENT_SIZE, 17, 2, PREFIX + SEGMENT_SIZE + 17 * 16 + 64),
        (2 * SEGMENT_SIZE, 33, 3, PREFIX + 2 * SEGMENT_SIZE + 33 * 16 + 96),
        (MAX_PLAIN_SIZE, 2**38, 2**34, PREFIX + MAX_PLAIN_SIZE + 2**38 * 16 + 2**34 * 32),
    ],
)
def test_sizes(plain, chunks, segments, size):
    """Chunks, segments and size of the object at each boundary, and back."""
    layout = Layout.of_plain(plain)
    assert (layout.chunks, layout.segments, layout.sealed_size) == (chunks, segments, size)
    assert sealed_size(plain) == size
    assert plain_size(size) == plain
    assert Layout.of_sealed(size) == layout


def test_sizes_are_a_bijection():
    """Around every boundary of two segments each size is that of one plaintext length, or refused."""
    for at in range(0, 2 * SEGMENT_SIZE + 3 * CHUNK_SIZE, CHUNK_SIZE):
        sealed = {sealed_size(size): size for size in range(max(0, at - 20), at + 20)}
        assert len(sealed) == len(range(max(0, at - 20), at + 20))
        for size in range(min(sealed), max(sealed) + 1):
            if size in sealed:
                assert plain_size(size) == sealed[size]
            else:
                with pytest.raises(TruncatedError):
                    plain_size(size)


@pytest.mark.parametrize(
    "size",
    [
        -1,
        0,
        64,
        PREFIX,
        PREFIX + 15,
        sealed_size(CHUNK_SIZE - 1) + 1,  # a full last chunk
        sealed_size(CHUNK_SIZE) - 1,  # no room for the tag of the empty chunk
        sealed_size(SEGMENT_SIZE - 1) + 1,
        sealed_size(SEGMENT_SIZE) - 1,
        sealed_size(SEGMENT_SIZE) - 64,  # the trailer is missing
        sealed_size(SEGMENT_SIZE) - 32,
        sealed_size(MAX_PLAIN_SIZE) + 1,
        2**200,
    ],
)
def test_impossible_sizes_are_refused(size):
    """No plaintext has such an object, so it was cut or extended; nothing is computed from it."""
    with pytest.raises(TruncatedError):
        plain_size(size)
    with pytest.raises(TruncatedError):
        Layout.of_sealed(size)


@pytest.mark.parametrize("size", [-1, MAX_PLAIN_SIZE + 1, 2**64])
def test_plaintext_beyond_the_bound_is_refused(size):
    """The nonce has room for 2^38 chunks."""
    with pytest.raises(InvalidInput):
        sealed_size(size)
    assert MAX_CHUNKS == 2**38


@pytest.mark.parametrize("plain", [0, 1, CHUNK_SIZE, SEGMENT_SIZE - 1, SEGMENT_SIZE, 3 * SEGMENT_SIZE + 5 * CHUNK_SIZE])
def test_spans_tile_the_object(plain):
    """Segments cover header and body without gap or overlap, chunks what follows the commitment."""
    layout = Layout.of_plain(plain)
    segments = [layout.segment_span(number) for number in range(layout.segments)]
    assert [lo for lo, _ in segments] == [0, *(hi for _, hi in segments[:-1])]
    assert segments[-1][1] == layout.body_end == layout.trailer_span[0]
    assert all(lo < hi for lo, hi in segments)
    chunks = [layout.chunk_span(number) for number in range(layout.chunks)]
    assert [lo for lo, _ in chunks] == [PREFIX, *(hi for _, hi in chunks[:-1])]
    assert chunks[-1][1] == layout.body_end
    assert sum(hi - lo - 16 for lo, hi in chunks) == plain
    assert layout.trailer_span[1] == layout.sealed_size
