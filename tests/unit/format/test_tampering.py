"""Whatever the host changes is refused, and nothing false comes out before."""

from __future__ import annotations

import pytest

from sealedhealth.errors import TamperedError, TruncatedError
from sealedhealth.format import Checker

CHUNK = 16384
SEGMENT = 16 * CHUNK
SEALED_CHUNK = CHUNK + 16
WAYS = ["whole", "stream", "ranges"]


def refused(case, data: bytes, way: str) -> None:
    """The object is refused, by the way of reading and by the check without a key; what came before is genuine."""
    out = []
    with pytest.raises(TamperedError):
        out.extend(case.served(data).ways[way]())
    assert case.plain.startswith(b"".join(out))
    checker = Checker(root=case.info.root, sealed_size=case.info.sealed_size)
    with pytest.raises(TamperedError):
        checker.update(data)
        checker.finalize()


def regions(case) -> dict[str, int]:
    """A position in every region of an object."""
    layout = case.layout
    found = {
        "magic": 0,
        "version": 8,
        "suite": 9,
        "flags": 11,
        "kind": 12,
        "reserved": 14,
        "dataset id": 20,
        "data key id": 40,
        "object id": 63,
        "salt": 64,
        "commitment": 119,
    }
    for chunk in range(layout.chunks):
        lo, hi = layout.chunk_span(chunk)
        found[f"chunk {chunk}"] = lo
        found[f"tag {chunk}"] = hi - 1
    lo, hi = layout.trailer_span
    for digest in range((hi - lo) // 32):
        found[f"digest {digest}"] = lo + 32 * digest + digest
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["small", "large"])
def test_every_region_flipped(which, way, request):
    """One bit in each field, chunk, tag and digest."""
    case = request.getfixturevalue(which)
    for at in regions(case).values():
        data = bytearray(case.data)
        data[at] ^= 0x10
        refused(case, bytes(data), way)


def test_every_byte_of_a_small_object(small):
    """None of its bytes is free to change."""
    for at in range(len(small.data)):
        data = bytearray(small.data)
        data[at] ^= 1
        refused(small, bytes(data), "whole")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["small", "large"])
def test_truncated_at_every_boundary(which, way, request):
    """Between any two parts, a byte before and a byte after."""
    case = request.getfixturevalue(which)
    layout = case.layout
    boundaries = {0, 64, 88, 120, layout.body_end, layout.sealed_size}
    boundaries |= {end for chunk in range(layout.chunks) for end in layout.chunk_span(chunk)}
    boundaries |= {end - 16 for chunk in range(layout.chunks) for _, end in [layout.chunk_span(chunk)]}
    boundaries |= set(range(layout.body_end, layout.sealed_size, 32))
    for cut in sorted({max(0, at + d) for at in boundaries for d in (-1, 0, 1)}):
        if cut < len(case.data):
            refused(case, case.data[:cut], way)


@pytest.mark.parametrize("which", ["small", "large"])
def test_extended(which, request):
    """Bytes after the end: refused whole and as a stream; a ranged read never fetches them."""
    case = request.getfixturevalue(which)
    for more in (b"\0", bytes(16), bytes(32), bytes(SEALED_CHUNK), case.data, bytes(SEGMENT)):
        for way in ("whole", "stream"):
            refused(case, case.data + more, way)
        assert b"".join(case.served(case.data + more).read_ranges()) == case.plain


@pytest.mark.parametrize("way", WAYS)
def test_exchanged_parts(large, way):
    """Chunks and segments in another place, with and without their digests."""
    layout, data = large.layout, large.data

    def swap(data: bytes, a: tuple[int, int], b: tuple[int, int]) -> bytes:
        return data[: a[0]] + data[slice(*b)] + data[a[1] : b[0]] + data[slice(*a)] + data[b[1] :]

    refused(large, swap(data, layout.chunk_span(1), layout.chunk_span(2)), way)
    refused(large, swap(data, layout.chunk_span(1), layout.chunk_span(20)), way)
    first = (120, layout.segment_span(0)[1])
    segments = swap(data, first, layout.segment_span(1))
    refused(large, segments, way)
    lo = layout.body_end
    refused(large, swap(segments, (lo, lo + 32), (lo + 32, lo + 64)), way)


@pytest.mark.parametrize("way", WAYS)
def test_another_version_of_the_same_object(make, way):
    """Even with the same key and header: only one sealing of it was signed."""
    case = make(SEGMENT + 5)
    older = type(case)(case.key, case.header, case.plain, *_sealed_again(case))
    assert b"".join(older.read_whole()) == case.plain
    refused(case, older.data, way)


def _sealed_again(case):
    from sealedhealth.format import seal

    return seal(case.key, case.header, case.plain)


def test_a_stream_that_never_ends_is_stopped(small):
    """At the first byte too many, not when memory is full."""
    opener = small.opener()
    opener.update(small.data)
    with pytest.raises(TruncatedError, match="goes on"):
        opener.update(b"\0")


def test_a_stream_that_stops_inside_the_list(large):
    """The list may be left off, or be whole."""
    opener = large.opener()
    opener.update(large.data[:-1])
    with pytest.raises(TruncatedError, match="ends too early"):
        opener.finalize()


def test_a_stream_with_another_list_than_the_one_fetched_first(large):
    """The host may answer two requests for the same bytes differently."""
    opener = large.opener()
    with pytest.raises(TamperedError, match="segment list at the end"):
        opener.update(large.data[:-1] + bytes([large.data[-1] ^ 1]))
