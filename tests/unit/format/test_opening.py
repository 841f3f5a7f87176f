from __future__ import annotations

import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from sealedhealth.errors import InvalidInput, TamperedError, TruncatedError, WrongKey
from sealedhealth.format import Checker, Kind, open_sealed

CHUNK = 16384
SEGMENT = 16 * CHUNK
SIZES = [0, 1, CHUNK - 1, CHUNK, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 9 * SEGMENT + 12_345]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [777, 100_000, 120 + 16 * (CHUNK + 16), 1 << 22])
def test_open_a_stream(make, size, step, executor):
    """Pieces of any size, with the trailer fed at the end."""
    case = make(size)
    assert b"".join(case.read_stream(step, executor=executor)) == case.plain


@pytest.mark.parametrize("size", SIZES)
def test_the_trailer_may_be_left_off(make, size, executor):
    """It was checked before; fetching it twice would be a waste."""
    case = make(size)
    opener = case.opener(executor=executor)
    assert opener.update(case.data[: case.layout.body_end]) + opener.finalize() == case.plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("about", [1, 300_000, 1 << 20])
def test_advice_ends_on_segments(make, size, about):
    """Fed as advised, every update but those of the last segment gives whole segments at once."""
    case = make(size)
    opener, at, parts = case.opener(), 0, []
    while step := opener.advise(about):
        parts.append(opener.update(case.data[at : at + step]))
        at += step
        assert len(b"".join(parts)) in {at - 120 - 16 * ((at - 120) // (CHUNK + 16)), size - size % CHUNK}
        assert step <= max(about, 120 + 16 * (CHUNK + 16))
    assert at == case.layout.body_end
    assert b"".join([*parts, opener.finalize()]) == case.plain


def test_advice_after_an_odd_piece(large):
    """Advice leads back to a segment's end wherever the stream stands."""
    opener = large.opener()
    opener.update(large.data[:100])
    assert opener.advise(1) == 120 + 16 * (CHUNK + 16) - 100


def test_nothing_comes_out_before_its_segment_is_whole(large):
    """One byte less than a segment gives no plaintext."""
    end = large.layout.segment_span(0)[1]
    opener = large.opener()
    assert opener.update(large.data[: end - 1]) == b""
    assert opener.update(large.data[end - 1 : end]) == large.plain[:SEGMENT]


def test_memory_stays_flat(make):
    """32 MiB pass through; what is held is bounded, with threads that hash as well."""
    case = make(32 << 20)
    view = memoryview(case.data)
    with ThreadPoolExecutor(2) as pool:
        opener = case.opener(executor=pool)
        tracemalloc.start()
        try:
            at = 0
            while step := opener.advise(1 << 20):
                opener.update(view[at : at + step])
                at += step
            opener.finalize()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 << 20


def test_buffers_may_be_used_again(large, executor):
    """What is held past a call is a copy, or cannot change: no room between check and use."""
    opener, buffer, parts = large.opener(executor=executor), bytearray(100_000), []
    for at in range(0, large.layout.body_end, len(buffer)):
        part = large.data[at : min(at + len(buffer), large.layout.body_end)]
        buffer[: len(part)] = part
        parts.append(opener.update(memoryview(buffer)[: len(part)]))
        buffer[:] = bytes(len(buffer))
    assert b"".join([*parts, opener.finalize()]) == large.plain


@pytest.mark.parametrize("which", ["small", "large"])
def test_wrong_key_is_named_as_such(which, request):
    """Digests match, so the host is innocent."""
    case = request.getfixturevalue(which)
    other = os.urandom(32)
    for read in type(case)(other, case.header, case.plain, case.data, case.info).ways.values():
        with pytest.raises(WrongKey, match="intact"):
            list(read())


def test_keys_have_32_bytes(small):
    """Refused before anything is read."""
    for size in (0, 31, 33):
        with pytest.raises(InvalidInput):
            open_sealed(bytes(size), small.header, small.data, root=small.info.root)
        with pytest.raises(InvalidInput):
            type(small)(bytes(size), small.header, b"", small.data, small.info).opener()


def test_an_opener_that_failed_stays_shut(large):
    """No way round an error by going on."""
    bad = bytearray(large.data)
    bad[300_000] ^= 1
    opener = large.opener()
    with pytest.raises(TamperedError, match="Segment 1 "):
        opener.update(bytes(bad))
    for again in (lambda: opener.update(b""), opener.finalize):
        with pytest.raises(InvalidInput, match="finished or failed"):
            again()


def test_an_opener_that_finished_stays_shut(small):
    """An opener opens one object."""
    opener = small.opener()
    opener.update(small.data)
    opener.finalize()
    with pytest.raises(InvalidInput):
        opener.finalize()


def test_trailer_of_another_length(large, small):
    """A list too short or too long, or a list where there is none, is refused before it is used."""
    lo, hi = large.layout.trailer_span
    for trailer in (b"", large.data[lo : hi - 1], large.data[lo:hi] + b"\0", bytes(hi - lo)):
        with pytest.raises(TamperedError):
            large.opener(trailer=trailer)
    with pytest.raises(TruncatedError):
        small.opener(trailer=bytes(32))


def test_impossible_sizes(small):
    """A size that no object has is refused at once."""
    with pytest.raises(TruncatedError):
        small.opener(sealed_size=100)
    with pytest.raises(TruncatedError):
        small.reader(sealed_size=2**70)
    with pytest.raises(TruncatedError):
        Checker(root=small.info.root, sealed_size=100)


def test_another_object_is_named_as_such(make, small):
    """A swap by the host has a message of its own, as soon as the header is there."""
    other = make(1000)
    swapped = small.header.pack()[:48] + other.header.pack()[48:] + other.data[64:]
    with pytest.raises(TamperedError, match="Another sealed object"):
        open_sealed(small.key, small.header, swapped, root=small.info.root)
    with pytest.raises(TamperedError, match="Another sealed object"):
        small.opener().update(swapped[:64])
    with pytest.raises(TamperedError, match="header of a sealed object is not"):
        open_sealed(small.key, small.header, other.data, root=small.info.root)


def test_kinds_have_their_own_keys(make):
    """A section cannot pass for an object, even with the same ids."""
    case = make(100, Kind.LOG_SECTION)
    as_object = type(case.header)(
        Kind.OBJECT, *(getattr(case.header, n) for n in ("dataset_id", "data_key_id", "object_id"))
    )
    with pytest.raises(TamperedError):
        open_sealed(case.key, as_object, case.data, root=case.info.root)


@pytest.mark.parametrize("size", SIZES)
def test_check_without_a_key(make, size, executor):
    """A mover knows root and size, and no key."""
    case = make(size)
    checker = Checker(root=case.info.root, sealed_size=case.info.sealed_size, executor=executor)
    for at in range(0, len(case.data), 100_000):
        checker.update(case.data[at : at + 100_000])
    checker.finalize()


def test_errors_say_what_is_safe_and_what_to_do(small):
    """Each error has the three texts, and no key."""
    for data, key in ((small.data[:-1], small.key), (b"x" + small.data[1:], small.key), (small.data, bytes(32))):
        with pytest.raises((TamperedError, WrongKey)) as caught:
            open_sealed(key, small.header, data, root=small.info.root)
        assert caught.value.what
        assert small.key.hex() not in str(caught.value)
        assert caught.value.__cause__ is None
    assert caught.value.safe
    assert caught.value.next


def test_keys_do_not_show(small):
    """Neither repr nor pickle gives a key away."""
    for reader in (small.opener(), small.reader()):
        assert small.key.hex() not in repr(reader)
        with pytest.raises(TypeError):
            pickle.dumps(reader)
