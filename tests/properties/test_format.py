"""Properties of sealed objects that hold for any size, any pieces and any ranges."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from hypothesis import given, settings
from hypothesis import strategies as st

from sealedhealth.errors import IntegrityError, TamperedError, TruncatedError
from sealedhealth.format import (
    Checker,
    Header,
    Kind,
    Layout,
    Opener,
    RangeReader,
    Sealer,
    open_sealed,
    plain_size,
    seal,
    sealed_size,
)
from sealedhealth.format.layout import MAX_PLAIN_SIZE

CHUNK = 16384
SEGMENT = 16 * CHUNK
KEY = bytes(range(32))
HEADER = Header(Kind.OBJECT, b"dataset id 16 by", b"data key id 16 b", b"object id 16 byt")

# Sizes near the boundaries, where mistakes live, and anywhere else.
near = st.builds(
    lambda at, off: max(0, at + off),
    st.sampled_from([0, CHUNK, 5 * CHUNK, SEGMENT - CHUNK, SEGMENT, SEGMENT + CHUNK, 2 * SEGMENT]),
    st.integers(-20, 20),
)
sizes = st.one_of(near, st.integers(0, 3 * SEGMENT))
pieces = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 2 * SEGMENT)), min_size=1, max_size=8)
few = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module", params=["one thread", "executor"])
def executor(request):
    """With and without threads that hash."""
    if request.param == "one thread":
        yield None
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


def content(size: int) -> bytes:
    """Bytes that differ everywhere, quickly made."""
    return random.Random(size).randbytes(size)


def cut(data: bytes, lengths: list[int]) -> list[bytes]:
    """Pieces of the given lengths, over and over, and an empty one at times."""
    out, at, turn = [], 0, 0
    while at < len(data):
        step = lengths[turn % len(lengths)] or (turn % 2)
        out.append(data[at : at + step])
        at += step
        turn += 1
        if turn > 500:
            out.append(data[at:])
            break
    return out


@few
@given(size=sizes, lengths=pieces, back=pieces)
def test_pieces_do_not_matter(executor, size, lengths, back):
    """However it is cut going in and coming out, the same plaintext comes back."""
    plain = content(size)
    sealer = Sealer(KEY, HEADER, executor=executor)
    data = b"".join([*map(sealer.update, cut(plain, lengths)), sealer.finalize()])
    info = sealer.info
    assert len(data) == info.sealed_size == sealed_size(size)
    assert open_sealed(KEY, HEADER, data, root=info.root, executor=executor) == plain
    lo, hi = Layout.of_sealed(len(data)).trailer_span
    opener = Opener(KEY, HEADER, root=info.root, sealed_size=len(data), trailer=data[lo:hi], executor=executor)
    assert b"".join([*map(opener.update, cut(data, back)), opener.finalize()]) == plain
    checker = Checker(root=info.root, sealed_size=len(data), executor=executor)
    for piece in cut(data, back):
        checker.update(piece)
    checker.finalize()


@few
@given(size=sizes)
def test_the_body_is_the_librarys(size):
    """What we seal opens with the library's decryptor alone, given the header as its context."""
    plain = content(size)
    data, _ = seal(KEY, HEADER, plain)
    decryptor = Cobblestone256Decryptor(KEY, HEADER.pack())
    body = data[64 : Layout.of_plain(size).body_end]
    assert decryptor.update(body) + decryptor.finalize() == plain


@few
@given(size=sizes, data=st.data())
def test_ranges_are_slices(executor, size, data):
    """Any ranges in any order, in several reads by one reader."""
    plain = content(size)
    sealed, info = seal(KEY, HEADER, plain)
    reader = RangeReader(KEY, HEADER, salt=info.salt, root=info.root, sealed_size=info.sealed_size, executor=executor)
    position = st.one_of(near, st.integers(0, size + 100))
    for _ in range(2):
        ranges = data.draw(st.lists(st.tuples(position, position), max_size=5))
        spans = reader.plan(ranges)
        assert all(0 <= lo < hi <= len(sealed) for lo, hi in spans)
        assert all(hi < lo for (_, hi), (lo, _) in pairwise(spans)), "sorted, apart"
        parts = reader.finish(ranges, [((lo, hi), sealed[lo:hi]) for lo, hi in spans])
        assert parts == [plain[start:stop] for start, stop in ranges]


def attempts(sealed: bytes, info, plain: bytes):
    """Every way of reading everything."""
    layout = Layout.of_sealed(info.sealed_size)
    yield lambda: open_sealed(KEY, HEADER, sealed, root=info.root)

    def stream() -> bytes:
        lo, hi = layout.trailer_span
        opener = Opener(KEY, HEADER, root=info.root, sealed_size=info.sealed_size, trailer=sealed[lo:hi])
        return opener.update(sealed) + opener.finalize()

    def ranged() -> bytes:
        reader = RangeReader(KEY, HEADER, salt=info.salt, root=info.root, sealed_size=info.sealed_size)
        ranges = [(0, len(plain))]
        return reader.finish(ranges, [((lo, hi), sealed[lo:hi]) for lo, hi in reader.plan(ranges)])[0]

    def check() -> bytes:
        checker = Checker(root=info.root, sealed_size=info.sealed_size)
        checker.update(sealed)
        checker.finalize()
        return plain

    yield stream
    yield ranged
    yield check


@few
@given(size=sizes, where=st.integers(0, 2**40), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(size, where, bit):
    """Whole, as a stream and by the check: always.  By ranges: what it fetched, it refuses."""
    plain = content(size)
    sealed, info = seal(KEY, HEADER, plain)
    bad = bytearray(sealed)
    bad[where % len(bad)] ^= 1 << bit
    whole, stream, ranged, check = attempts(bytes(bad), info, plain)
    for read in (whole, stream, check):
        with pytest.raises(TamperedError):
            read()
    try:
        assert ranged() == plain
    except TamperedError:
        pass
    else:
        # Only the empty chunk of a last segment, which no range touches, may have gone unread.
        assert size % SEGMENT == 0
        assert Layout.of_plain(size).body_end - 16 <= where % len(bad) or size == 0


@few
@given(size=sizes, less=st.one_of(st.integers(1, 200), st.integers(1, 3 * SEGMENT)))
def test_any_truncation_is_refused(size, less):
    """However much is missing at the end."""
    plain = content(size)
    sealed, info = seal(KEY, HEADER, plain)
    reads = list(attempts(sealed[: max(0, len(sealed) - less)], info, plain))
    for read in reads if size else [*reads[:2], reads[3]]:
        with pytest.raises(TamperedError):
            read()


@few
@given(size=sizes, more=st.binary(min_size=1, max_size=300), where=st.integers(0, 2**40))
def test_any_insertion_is_refused(size, more, where):
    """Bytes put in anywhere, or added at the end."""
    plain = content(size)
    sealed, info = seal(KEY, HEADER, plain)
    at = where % (len(sealed) + 1)
    whole, stream, _, check = attempts(sealed[:at] + more + sealed[at:], info, plain)
    for read in (whole, stream, check):
        with pytest.raises(TamperedError):
            read()


@few
@given(st.binary(max_size=500))
def test_headers_are_refused_or_understood(data):
    """No bytes at all make the parser fail in another way."""
    for candidate in (data, HEADER.pack()[:12] + data, data[:12] + HEADER.pack()[len(data[:12]) :]):
        try:
            header = Header.parse(candidate)
        except IntegrityError:
            continue
        assert header.pack() == candidate[:64]


@settings(max_examples=500)
@given(st.one_of(sizes, st.integers(0, MAX_PLAIN_SIZE)))
def test_sizes_go_both_ways(size):
    """The size of the object tells that of the plaintext, up to the largest."""
    assert plain_size(sealed_size(size)) == size
    assert size == 0 or sealed_size(size - 1) < sealed_size(size)


@settings(max_examples=500)
@given(st.one_of(st.integers(-100, 4 * SEGMENT), st.integers(0, 2**60)))
def test_sizes_of_objects_are_understood_or_refused(size):
    """Any number at all: the size of exactly one plaintext, or an error."""
    try:
        plain = plain_size(size)
    except TruncatedError:
        return
    assert sealed_size(plain) == size
