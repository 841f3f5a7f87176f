from __future__ import annotations

import hashlib
import os
import pickle
import tracemalloc
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.format import Header, Kind, Layout, Sealer, open_sealed, seal, sealed_size
from sealedhealth.format import sealing as sealing_module

CHUNK = 16384
SEGMENT = 16 * CHUNK
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 5 * SEGMENT + 12_345]
KEY = os.urandom(32)
HEADER = Header(Kind.OBJECT, os.urandom(16), os.urandom(16), os.urandom(16))


def root_by_hand(data: bytes, plain_size: int) -> bytes:
    """The root, as the specification says it."""
    body = data[: Layout.of_plain(plain_size).body_end]
    first = 120 + 16 * (CHUNK + 16)
    cuts = [0, *range(first, len(body), 16 * (CHUNK + 16)), len(body)]
    digests = [hashlib.sha256(body[lo:hi]).digest() for lo, hi in pairwise(cuts)]
    assert data[len(body) :] == (b"".join(digests) if len(digests) > 1 else b"")
    return hashlib.sha256(b"sealedhealth/v1/segments\0" + len(body).to_bytes(8, "big") + b"".join(digests)).digest()


@pytest.mark.parametrize("size", SIZES)
def test_seal_at_once(size, executor):
    """One call: size, header, salt and root are what the specification says."""
    plain = os.urandom(size)
    data, info = seal(KEY, HEADER, plain, executor=executor)
    assert type(data) is bytes
    assert len(data) == info.sealed_size == sealed_size(size)
    assert info.plain_size == size
    assert data[:64] == HEADER.pack()
    assert data[64:88] == info.salt
    assert info.root == root_by_hand(data, size)
    assert open_sealed(KEY, HEADER, data, root=info.root, executor=executor) == plain


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1000, CHUNK, SEGMENT + 1, 1 << 21])
def test_seal_a_stream(size, step, executor):
    """Buffers of any size give an object of the same kind."""
    plain = os.urandom(size)
    sealer = Sealer(KEY, HEADER, executor=executor)
    data = b"".join([*(sealer.update(plain[at : at + step]) for at in range(0, size, step)), sealer.finalize()])
    assert len(data) == sealer.info.sealed_size == sealed_size(size)
    assert sealer.info.plain_size == size
    assert data[64:88] == sealer.info.salt
    assert sealer.info.root == root_by_hand(data, size)
    assert open_sealed(KEY, HEADER, data, root=sealer.info.root) == plain


def test_one_huge_buffer(executor):
    """A buffer larger than what may wait to be hashed is taken in parts."""
    plain = os.urandom(12 << 20)
    sealer = Sealer(KEY, HEADER, executor=executor)
    data = sealer.update(plain) + sealer.finalize()
    assert open_sealed(KEY, HEADER, data, root=sealer.info.root) == plain


@pytest.mark.parametrize("wrap", [bytearray, memoryview, lambda data: array("H", data)])
def test_any_buffer_is_bytes(wrap):
    """Buffers of other item sizes are counted in bytes."""
    plain = os.urandom(SEGMENT + 1000)
    data, info = seal(KEY, HEADER, wrap(plain))
    assert open_sealed(KEY, HEADER, data, root=info.root) == plain
    sealer = Sealer(KEY, HEADER)
    data = sealer.update(wrap(plain)) + sealer.finalize()
    assert open_sealed(KEY, HEADER, data, root=sealer.info.root) == plain


def test_two_seals_never_coincide():
    """Every object has a fresh salt, even of the same plaintext under the same key and header."""
    first, second = (seal(KEY, HEADER, b"same") for _ in range(2))
    assert first[1].salt != second[1].salt
    assert first[0][120:] != second[0][120:]


def test_use_after_the_end_is_refused():
    """A sealer seals one object."""
    sealer = Sealer(KEY, HEADER)
    with pytest.raises(InvalidInput, match="not sealed to its end"):
        _ = sealer.info
    sealer.finalize()
    with pytest.raises(InvalidInput, match="sealed already"):
        sealer.update(b"")
    with pytest.raises(InvalidInput, match="sealed already"):
        sealer.finalize()


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_keys_have_32_bytes(size):
    """Refused before anything is sealed."""
    with pytest.raises(InvalidInput):
        seal(bytes(size), HEADER, b"")
    with pytest.raises(InvalidInput):
        Sealer(bytes(size), HEADER)


def test_more_than_an_object_holds_is_refused(monkeypatch):
    """The bound holds for a stream, whose length is not known beforehand."""
    monkeypatch.setattr(sealing_module, "MAX_PLAIN_SIZE", 1000)
    sealer = Sealer(KEY, HEADER)
    sealer.update(bytes(1000))
    with pytest.raises(InvalidInput, match="at most 1000 bytes"):
        sealer.update(b"x")


def test_memory_stays_flat():
    """64 MiB pass through in buffers of 1 MiB; what waits to be hashed is bounded."""
    buffer = bytes(1 << 20)
    with ThreadPoolExecutor(2) as pool:
        sealer = Sealer(KEY, HEADER, executor=pool)
        sealer.update(buffer)
        tracemalloc.start()
        try:
            for _ in range(64):
                sealer.update(buffer)
            sealer.finalize()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 16 << 20


def test_a_sealer_in_the_only_thread_of_its_executor_gets_on():
    """The work is taken back when nobody else can do it."""
    plain = os.urandom(9 * SEGMENT)

    def work(pool):
        data, info = seal(KEY, HEADER, plain, executor=pool)
        return open_sealed(KEY, HEADER, data, root=info.root, executor=pool)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work, pool).result(timeout=60) == plain


def test_keys_do_not_show():
    """Neither repr nor pickle gives a key away."""
    sealer = Sealer(KEY, HEADER)
    assert KEY.hex() not in repr(sealer)
    with pytest.raises(TypeError):
        pickle.dumps(sealer)
