"""Every chunked-encryption vector of ``cryptography-vectors``.

They are of three AEADs over HKDF with SHA-256, the generic form of the specification;
Cobblestone-256, which the library and we use, is AES-256-GCM over HKDF with SHA-512.  So
the code that opens single chunks runs all of them with the parameters swapped, and the
library's decryptor must refuse each.  That both agree on Cobblestone-256 itself is for
tests/vectors and tests/properties to show.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files

import pytest
from cryptography.cobblestone import Cobblestone128Decryptor, Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from sealedhealth.errors import SealedHealthError
from sealedhealth.format import Header, Kind, RangeReader
from sealedhealth.format.chunks import ChunkOpener
from sealedhealth.format.segments import SegmentCutter, root_of, trailer_of

VECTORS = json.loads(files("cryptography_vectors").joinpath("chunked-encryption", "vectors.json").read_text())[
    "vectors"
]
HEADER = Header(Kind.OBJECT, bytes(16), bytes(16), bytes(16))

NATIVE = {16: Cobblestone128Decryptor, 32: Cobblestone256Decryptor}


class Aes256Opener(ChunkOpener):
    """Our code with another hash in the key derivation."""

    prf = hashes.SHA256


class Aes128Opener(Aes256Opener):
    """Our code with a smaller key."""

    aead_name = b"AEAD_AES_128_GCM"
    key_size = 16


class ChaChaOpener(Aes256Opener):
    """Our code with another AEAD."""

    aead = ChaCha20Poly1305
    aead_name = b"AEAD_CHACHA20_POLY1305"


OPENERS = {
    "AEAD_AES_256_GCM": Aes256Opener,
    "AEAD_AES_128_GCM": Aes128Opener,
    "AEAD_CHACHA20_POLY1305": ChaChaOpener,
}


def body_of(vector) -> bytes:
    """The ciphertext of a vector."""
    body = base64.b64decode(vector["ciphertext"] or "")
    return zlib.decompress(body) if vector.get("compressed") else body


def judge(vector, read) -> None:
    """Run a way of reading, and compare what it says with what the vector says."""
    if vector["expect"] == "success":
        payload = read()
        assert len(payload) == vector["payload_length"]
        assert hashlib.sha256(payload).hexdigest() == vector["payload_sha256"]
    else:
        with pytest.raises((InvalidTag, ValueError, SealedHealthError)):
            read()


def test_all_vectors_are_there():
    """They are of the library's release, and none of them is left aside without being counted."""
    assert version("cryptography-vectors") == version("cryptography")
    counted = Counter((vector["aead"], vector["expect"]) for vector in VECTORS)
    assert counted == {(aead, expect): n for aead in OPENERS for expect, n in (("success", 9), ("failure", 25))}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_the_library_takes_none_of_them_for_cobblestone(vector):
    """Another suite under the right key is refused at the commitment: there is no fallback.

    Should this fail one day, the vectors have come to hold Cobblestone ones: run those natively.
    """
    key = bytes.fromhex(vector["key"])
    if decryptor_class := NATIVE.get(len(key)):
        decryptor = decryptor_class(key, vector["context"].encode())
        with pytest.raises(InvalidTag):
            decryptor.update(body_of(vector)) + decryptor.finalize()


@pytest.mark.parametrize("step", [10_000, 10**9])
@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_range_reader(vector, step):
    """The vector's body inside a sealed object whose root fits: what is refused, is refused by chunks alone.

    The context of a vector is no header of ours, so its chunks are put in the place of the reader's own.
    """
    data, info = sealed_around(body_of(vector))

    def read() -> bytes:
        key, context = bytes.fromhex(vector["key"]), vector["context"].encode()
        reader = RangeReader(bytes(32), HEADER, **info)
        reader._chunks = OPENERS[vector["aead"]](key, info["salt"], context)
        # The published format is authenticated to its end by the last chunk, ours by the root:
        # so the last chunk, which may be empty, is opened here as well.
        last = reader._layout.chunks - 1
        lo, hi = reader._layout.chunk_span(last)
        reader._chunks.open(last, memoryview(data)[lo:hi])
        parts = []
        for at in range(0, reader.plain_size, step):
            ranges = [(at, at + step)]
            parts += reader.finish(ranges, [((lo, hi), data[lo:hi]) for lo, hi in reader.plan(ranges)])
        return b"".join(parts)

    judge(vector, read)


@pytest.mark.parametrize("vector", [v for v in VECTORS if "aead_key" in v], ids=lambda v: v["name"])
def test_derivation(vector):
    """Key, base nonce and commitment are those of the vector."""
    body = body_of(vector)
    opener = OPENERS[vector["aead"]](bytes.fromhex(vector["key"]), body[:24], vector["context"].encode())
    assert opener.commitment == body[24:56]
    assert opener._nonce(0).hex() == vector["base_nonce"]
    aead = (ChaCha20Poly1305 if "CHACHA" in vector["aead"] else AESGCM)(bytes.fromhex(vector["aead_key"]))
    assert opener.open(0, memoryview(aead.encrypt(opener._nonce(0), b"probe", None))) == b"probe"


def sealed_around(body: bytes) -> tuple[bytes, dict]:
    """A sealed object around any body at all, and what its author would have signed."""
    data = HEADER.pack() + body
    cutter = SegmentCutter()
    digests = b"".join(run.digests() for run in [*cutter.feed(memoryview(data)), cutter.rest()])
    root = root_of(len(data), digests)
    assert len(digests) > 32 or root == root_of(len(data), sha256(data).digest())
    sealed = data + trailer_of(digests)
    return sealed, {"salt": body[:24], "root": root, "sealed_size": len(sealed)}
