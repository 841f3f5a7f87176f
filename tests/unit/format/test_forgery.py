"""The attack that AEAD does not stop: a reader holds the data key, and the host serves what the reader sealed."""

from __future__ import annotations

import os

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sealedhealth.errors import TamperedError
from sealedhealth.format.segments import Run, SegmentCutter, root_of

CHUNK = 16384
SEGMENT = 16 * CHUNK
SIZES = [1, 1000, CHUNK, SEGMENT - 1, SEGMENT, 2 * SEGMENT + 20_000]


def forge(case) -> bytes:
    """Other content of the same length under the same key, header and salt, with a list of digests that fits."""
    context, salt, prefix = case.header.pack(), case.info.salt, case.data[:120]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(hashes.SHA512(), 76, info).derive(case.key)
    aead, base = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    assert prefix == context + salt + derived[44:]
    forged = bytes(byte ^ 0xFF for byte in case.plain)
    chunks = [
        aead.encrypt((base ^ number).to_bytes(12, "big"), forged[number * CHUNK : (number + 1) * CHUNK], None)
        for number in range(case.layout.chunks)
    ]
    body = prefix + b"".join(chunks)
    return body + fitting_list(body, case.layout.segments)


def fitting_list(body: bytes, segments: int) -> bytes:
    """The digests of a body, as its author would have listed them."""
    cutter = SegmentCutter()
    runs: list[Run] = [*cutter.feed(memoryview(body)), cutter.rest()]
    return b"".join(run.digests() for run in runs) if segments > 1 else b""


def native(case, data: bytes) -> bytes:
    """What the library's decryptor alone makes of it."""
    decryptor = Cobblestone256Decryptor(case.key, case.header.pack())
    return decryptor.update(data[64 : case.layout.body_end]) + decryptor.finalize()


def ranges_one_by_one(case):
    """Every chunk by a reader of its own: no read may rely on another one's checks."""
    for at in range(0, len(case.plain), CHUNK):
        reader = case.reader()
        ranges = [(at, at + CHUNK)]
        yield reader.finish(ranges, case.fetch(reader.plan(ranges)))[0]


@pytest.mark.parametrize("way", ["whole", "stream", "stream in threads", "ranges"])
@pytest.mark.parametrize("listed", ["forged list", "genuine list"])
@pytest.mark.parametrize("size", SIZES)
def test_reader_who_holds_the_data_key_cannot_forge_with_the_hosts_help(make, size, listed, way, executor):
    """The library takes the forgery whole; every reader refuses it, and none of it comes out before."""
    case = make(size)
    data = forge(case)
    assert len(data) == len(case.data)
    assert native(case, data) == bytes(byte ^ 0xFF for byte in case.plain), "the forgery must be a good one"
    if listed == "genuine list":
        data = data[: case.layout.body_end] + case.data[case.layout.body_end :]
    served = case.served(data)
    ways = served.ways | {"stream in threads": lambda: served.read_stream(executor=executor)}
    out = []
    with pytest.raises(TamperedError):
        out.extend(ways[way]())
    assert b"".join(out) == b""


@pytest.mark.parametrize("size", [size for size in SIZES if size >= SEGMENT])
def test_one_forged_segment_among_genuine_ones(make, size):
    """The readers let out what is genuine, up to the forged segment, and refuse every range that touches it."""
    case = make(size)
    last = case.layout.segment_span(case.layout.segments - 1)[0]
    data = case.data[:last] + forge(case)[last : case.layout.body_end] + case.data[case.layout.body_end :]
    if size == SEGMENT:
        data = forge(case)[: case.layout.segment_span(0)[1]] + case.data[case.layout.segment_span(0)[1] :]
    served = case.served(data)
    assert len(native(served, data)) == size
    for read in (served.read_whole, served.read_stream, served.read_ranges):
        out = []
        with pytest.raises(TamperedError):
            out.extend(read())
        assert case.plain.startswith(b"".join(out))
        assert len(b"".join(out)) <= (size // SEGMENT) * SEGMENT


def test_every_ranged_read_of_a_forgery_is_refused(make):
    """Each chunk alone, each by a fresh reader."""
    case = make(2 * SEGMENT + 20_000)
    for data in (forge(case), forge(case)[: case.layout.body_end] + case.data[case.layout.body_end :]):
        served = case.served(data)
        for at in range(0, len(case.plain), CHUNK):
            reader = served.reader()
            with pytest.raises(TamperedError):
                reader.finish([(at, at + 1)], served.fetch(reader.plan([(at, at + 1)])))


def test_a_forger_cannot_choose_the_root(make):
    """The root binds the length and the list: neither a digest nor a list of another object will do in its place."""
    case = make(2 * SEGMENT + 20_000)
    trailer = case.data[case.layout.body_end :]
    assert root_of(case.layout.body_end, trailer) == case.info.root
    assert root_of(case.layout.body_end + 1, trailer) != case.info.root
    assert root_of(case.layout.body_end, trailer[32:] + trailer[:32]) != case.info.root
    with pytest.raises(TamperedError):
        list(case.read_stream(root=os.urandom(32)))
