"""Writes the vectors of sealed objects: ``python tests/vectors/generate.py``.

This is a second implementation of docs/format/objects.md, on purpose: it shares no code
with the package, and where the package uses the library's Cobblestone it uses bare
AES-GCM and HMAC.  Everything derives from labels, so that the same files come out again.

Plaintexts are chosen so that sealed chunks are one byte over and over: vectors of several
segments stay small once compressed, as in C2SP's own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = Path(__file__).parent / "objects"
CHUNK = 16384
SEGMENT = 16 * CHUNK
SEALED_CHUNK = CHUNK + 16
PREFIX = 64 + 24 + 32
SEALED_SEGMENT = 16 * SEALED_CHUNK
MAGIC = bytes.fromhex("895348310d0a1a0a")
KINDS = {"object": 1, "log-section": 2, "checkpoint-section": 3}


def label(name: str, size: int) -> bytes:
    """Bytes that look random and are always the same."""
    return hashlib.shake_256(b"sealedhealth vectors " + name.encode()).digest(size)


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-512 (RFC 5869, section 2.3)."""
    out = block = b""
    for counter in range(1, -(-size // 64) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha512")
        out += block
    return out[:size]


@dataclass(frozen=True)
class Sealed:
    """One sealed object and everything known of it."""

    size: int
    kind: str = "object"
    name: str = "genuine"  # its ids and salt derive from this
    fill: int = 0  # every byte of the sealed chunks, tags aside
    salt: bytes = field(default_factory=lambda: label("salt", 24))
    data_key: bytes = field(default_factory=lambda: label("data key", 32))
    key_kind: str = ""  # the kind that the key is derived for, when another one
    bad_commitment: bool = False
    bad_tag: bool = False

    @property
    def object_id(self) -> bytes:
        """16 bytes."""
        return label("object id of " + self.name, 16)

    @property
    def data_key_id(self) -> bytes:
        """16 bytes, told by the data key."""
        return hkdf_expand(self.data_key, b"sealedhealth/v1/id", 16)

    @property
    def object_key(self) -> bytes:
        """32 bytes: the input key of the body."""
        info = b"sealedhealth/v1/" + (self.key_kind or self.kind).encode() + b"\0" + self.object_id
        return hkdf_expand(self.data_key, info, 32)

    @property
    def header(self) -> bytes:
        """64 bytes: the context of the body."""
        start = MAGIC + bytes([1, 1, 0, 0, KINDS[self.kind], 0, 0, 0])
        return start + label("dataset id", 16) + self.data_key_id + self.object_id

    @property
    def derived(self) -> tuple[bytes, bytes, bytes]:
        """AEAD key, base nonce and commitment."""
        info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + self.salt + self.header
        out = hkdf_expand(self.object_key, info, 32 + 12 + 32)
        return out[:32], out[32:44], out[44:]

    def nonce(self, chunk: int) -> bytes:
        """The nonce of a chunk."""
        return (int.from_bytes(self.derived[1], "big") ^ chunk).to_bytes(12, "big")

    def chunks(self) -> list[tuple[bytes, bytes]]:
        """Plaintext and sealed form of each chunk."""
        aead = AESGCM(self.derived[0])
        out = []
        for number in range(self.size // CHUNK + 1):
            size = min(CHUNK, self.size - number * CHUNK)
            wanted = bytes([self.fill]) * size
            # AES-GCM is a stream cipher: what seals to `wanted` is what `wanted` seals to.
            plain = aead.encrypt(self.nonce(number), wanted, None)[:size]
            out.append((plain, aead.encrypt(self.nonce(number), plain, None)))
        return out

    @property
    def payload(self) -> bytes:
        """The plaintext."""
        return b"".join(plain for plain, _ in self.chunks())

    @property
    def body(self) -> bytes:
        """Header and body."""
        commitment = self.derived[2]
        if self.bad_commitment:
            commitment = flip(commitment, 0)
        body = self.header + self.salt + commitment + b"".join(sealed for _, sealed in self.chunks())
        return flip(body, -1) if self.bad_tag else body

    @property
    def digests(self) -> list[bytes]:
        """The digest of each segment."""
        return segment_digests(self.body)

    @property
    def root(self) -> bytes:
        """What an author signs."""
        return root_of(len(self.body), self.digests)

    @property
    def data(self) -> bytes:
        """The whole object."""
        return self.body + (b"".join(self.digests) if len(self.digests) > 1 else b"")


def segment_digests(body: bytes) -> list[bytes]:
    """Cut header and body into segments and hash each."""
    cuts = [0, *range(PREFIX + SEALED_SEGMENT, len(body), SEALED_SEGMENT), len(body)]
    return [hashlib.sha256(body[lo:hi]).digest() for lo, hi in pairwise(cuts)]


def root_of(length: int, digests: list[bytes]) -> bytes:
    """The root over a length and a list of digests."""
    return hashlib.sha256(b"sealedhealth/v1/segments\0" + length.to_bytes(8, "big") + b"".join(digests)).digest()


def flip(data: bytes, at: int) -> bytes:
    """The same bytes with one bit flipped."""
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


def chunk_at(number: int) -> int:
    """Where a chunk starts."""
    return PREFIX + number * SEALED_CHUNK


@dataclass(frozen=True)
class Vector:
    """A vector: what was signed, what the host serves, and what a reader must say."""

    comment: str
    signed: Sealed
    data: bytes
    expect: str = "success"
    expect_header: str = "success"
    expect_ranged: str = ""  # of a read of all plaintext, when not as `expect`
    data_key: bytes = b""  # the reader's, when another one than the author's
    root: bytes = b""  # the signed one, when it is not that of `signed`

    def text(self) -> str:
        """The file."""
        signed = self.signed
        key, nonce, commitment = signed.derived
        fields = {
            "comment": self.comment,
            "expect": self.expect,
            "expect-header": self.expect_header,
            "expect-ranged": self.expect_ranged or self.expect,
            "data-key": (self.data_key or signed.data_key).hex(),
            "kind": signed.kind,
            "dataset-id": label("dataset id", 16).hex(),
            "data-key-id": signed.data_key_id.hex(),
            "object-id": signed.object_id.hex(),
            "salt": signed.salt.hex(),
            "root": (self.root or signed.root).hex(),
            "sealed-size": str(len(signed.data)),
        }
        if self.expect == "success":
            fields |= {
                "object-key": signed.object_key.hex(),
                "aead-key": key.hex(),
                "base-nonce": nonce.hex(),
                "commitment": commitment.hex(),
                "payload-length": str(signed.size),
                "payload-sha256": hashlib.sha256(signed.payload).hexdigest(),
            }
        fields["encoding"] = "zlib+base64"
        head = "".join(f"{name}: {value}\n" for name, value in fields.items())
        body = base64.b64encode(zlib.compress(self.data, 9)).decode()
        return head + "\n" + textwrap.fill(body, 76) + "\n"


def genuine(comment: str, size: int, **other: str) -> Vector:
    """An object served as it was signed."""
    signed = Sealed(size, **other)  # type: ignore[arg-type]  # only text fields are passed
    return Vector(comment, signed, signed.data)


def altered(comment: str, size: int, change: Callable[[bytes], bytes], **expected: str) -> Vector:
    """An object that the host changed."""
    signed = Sealed(size)
    return Vector(comment, signed, change(signed.data), "tampered", **expected)


def without(lo: int, hi: int) -> Callable[[bytes], bytes]:
    """A change: bytes left out."""
    return lambda data: data[:lo] + data[hi:]


def swapped(first: int, second: int, size: int) -> Callable[[bytes], bytes]:
    """A change: two stretches exchanged."""

    def swap(data: bytes) -> bytes:
        a, b = data[first : first + size], data[second : second + size]
        return data[:first] + b + data[first + size : second] + a + data[second + size :]

    return swap


def flipped(at: int) -> Callable[[bytes], bytes]:
    """A change: one bit."""
    return lambda data: flip(data, at)


def with_byte(at: int, value: int) -> Callable[[bytes], bytes]:
    """A change: one byte set."""
    return lambda data: data[:at] + bytes([value]) + data[at + 1 :]


def successes() -> dict[str, Vector]:
    """What every implementation must open: all boundaries of sizes."""
    return {
        "empty": genuine("no plaintext: one empty chunk", 0),
        "one_byte": genuine("one chunk of one byte", 1),
        "chunk_less_one": genuine("the longest single chunk", CHUNK - 1),
        "chunk": genuine("a full chunk and an empty one", CHUNK),
        "chunk_and_one": genuine("a full chunk and one of a byte", CHUNK + 1),
        "segment_less_one": genuine("the longest single segment", SEGMENT - 1),
        "segment": genuine("a full segment; the second holds an empty chunk alone", SEGMENT),
        "segment_and_one": genuine("a full segment and one byte", SEGMENT + 1),
        "two_segments": genuine("two full segments; the third holds an empty chunk alone", 2 * SEGMENT),
        "three_segments": genuine("two full segments, two full chunks and a part of one", 2 * SEGMENT + 2 * CHUNK + 99),
        "log_section": genuine("the key derives from the kind", 100, kind="log-section"),
        "checkpoint_section": genuine("the key derives from the kind", 100, kind="checkpoint-section"),
    }


def header_failures() -> dict[str, Vector]:
    """Each field of the header."""

    def parse_error(comment: str, at: int, value: int, says: str) -> Vector:
        return altered(comment, 100, with_byte(at, value), expect_header=says)

    return {
        "header_magic": parse_error("a magic of another format", 0, 0x88, "tampered"),
        "header_version": parse_error("format version 2", 8, 2, "unsupported"),
        "header_version_zero": parse_error("format version 0", 8, 0, "unsupported"),
        "header_suite": parse_error("suite 2", 9, 2, "unsupported"),
        "header_flag_padding": parse_error("the reserved flag", 11, 1, "unsupported"),
        "header_flag_unknown": parse_error("an unknown flag", 10, 0x80, "unsupported"),
        "header_kind": parse_error("kind 4", 12, 4, "unsupported"),
        "header_kind_zero": parse_error("kind 0", 12, 0, "unsupported"),
        "header_kind_other": parse_error("a kind that exists, but another", 12, 2, "success"),
        "header_reserved": parse_error("a reserved byte that is not zero", 15, 1, "unsupported"),
        "header_dataset_id": altered("another dataset id", 100, flipped(16)),
        "header_data_key_id": altered("another data key id", 100, flipped(32)),
        "header_object_id": altered("another object id", 100, flipped(63)),
    }


def body_failures() -> dict[str, Vector]:
    """Salt, commitment and chunks."""
    size = 2 * SEGMENT + 99
    last = chunk_at(32)
    end = len(Sealed(size).body)
    return {
        "salt_flipped": altered("a bit of the salt", 100, flipped(64)),
        "commitment_flipped": altered("a bit of the commitment", 100, flipped(119)),
        "single_chunk_flipped": altered("a bit of the only chunk", 100, flipped(PREFIX)),
        "single_tag_flipped": altered("a bit of the only tag", 100, flipped(-1)),
        "empty_tag_flipped": altered(
            "a bit of the tag of no plaintext; a ranged read has nothing to let out",
            0,
            flipped(-1),
            expect_ranged="success",
        ),
        "first_chunk_flipped": altered("a bit of the first of many chunks", size, flipped(chunk_at(0))),
        "middle_tag_flipped": altered("a bit of a tag in the second segment", size, flipped(chunk_at(21) - 1)),
        "last_chunk_flipped": altered("a bit of the last chunk", size, flipped(last)),
        "last_tag_flipped": altered("a bit of the last tag", size, flipped(end - 1)),
        "chunks_swapped": altered("two chunks of one segment", size, swapped(chunk_at(3), chunk_at(7), SEALED_CHUNK)),
        "chunk_left_out": altered("a chunk is missing", size, without(chunk_at(3), chunk_at(4))),
        "chunk_doubled": altered("a chunk comes twice", size, lambda d: d[: chunk_at(4)] + d[chunk_at(3) :]),
    }


def list_failures() -> dict[str, Vector]:
    """Segments, their list and the root."""
    size = 3 * SEGMENT + 99
    end = len(Sealed(size).body)
    segments = swapped(chunk_at(16), chunk_at(32), SEALED_SEGMENT)
    both = swapped(end + 32, end + 64, 32)
    return {
        "segments_swapped": altered("two segments, their digests in the old order", size, segments),
        "segments_and_digests_swapped": altered("two segments and their digests", size, lambda d: both(segments(d))),
        "digests_swapped": altered("two digests", size, both),
        "first_digest_flipped": altered("a bit of the first digest", size, flipped(end)),
        "last_digest_flipped": altered("a bit of the last digest", size, flipped(-1)),
        "digest_recomputed": altered("a chunk altered and its digest made to fit", size, refit),
        "root_flipped": replace(
            genuine("another root was signed", size), expect="tampered", root=flip(Sealed(size).root, 0)
        ),
        "root_flipped_single": replace(
            genuine("another root was signed; one segment", 100), expect="tampered", root=flip(Sealed(100).root, 0)
        ),
        "root_without_length": replace(
            genuine("a root that does not bind the length", size),
            expect="tampered",
            root=root_of(0, Sealed(size).digests),
        ),
        "root_is_bare_digest": replace(
            genuine("the digest of the only segment in the place of the root", 100),
            expect="tampered",
            root=Sealed(100).digests[0],
        ),
    }


def refit(data: bytes) -> bytes:
    """Alter a chunk, and make its digest fit."""
    end = len(Sealed(3 * SEGMENT + 99).body)
    body = flip(data[:end], chunk_at(20))
    return body + b"".join(segment_digests(body))


def length_failures() -> dict[str, Vector]:
    """Cut short at every boundary, and extended."""
    size = SEGMENT + 2 * CHUNK + 99
    signed = Sealed(size)
    end = len(signed.body)
    shorter = Sealed(SEGMENT + CHUNK + 99)
    cuts = {
        "nothing": 0,
        "in_header": 30,
        "after_header": 64,
        "after_salt": 88,
        "after_commitment": PREFIX,
        "after_first_chunk": chunk_at(1),
        "after_first_segment": chunk_at(16),
        "before_last_chunk": chunk_at(18),
        "in_last_chunk": chunk_at(18) + 16,
        "before_last_tag": end - 16,
        "without_list": end,
        "without_last_digest": end + 32,
        "by_one_byte": end + 63,
    }
    vectors = {
        "truncated_" + name: altered(
            f"only the first {cut} bytes are there",
            size,
            without(cut, end + 64),
            expect_header="success" if cut >= 64 else "tampered",
        )
        for name, cut in cuts.items()
    }
    grown = {
        "byte": b"\0",
        "digest": bytes(32),
        "chunk": bytes(SEALED_CHUNK),
        "again": signed.data,
    }
    for name, more in grown.items():
        vectors["extended_by_" + name] = altered(
            "bytes after the end, which a ranged read does not fetch",
            size,
            lambda d, more=more: d + more,
            expect_ranged="success",
        )
    vectors["extended_by_chunk_inside"] = altered(
        "an empty chunk between body and list", size, lambda d: d[:end] + bytes(16) + d[end:]
    )
    # The host knows neither key nor root, so all it can do is drop a chunk and keep up appearances.
    vectors["truncated_to_valid_size"] = altered(
        "a chunk dropped so that the size is one that objects can have",
        size,
        lambda d: d[: len(shorter.body)] + d[end:],
    )
    return vectors


def forgeries() -> dict[str, Vector]:
    """What somebody who holds a key can do, with and without the host."""

    def forged(comment: str, size: int) -> Vector:
        signed = Sealed(size)
        other = replace(signed, fill=0xFF)
        if other.header != signed.header or len(other.data) != len(signed.data) or other.payload == signed.payload:
            raise AssertionError
        return Vector(comment, signed, other.data, "tampered")

    def exchanged(comment: str, size: int, other: Sealed) -> Vector:
        return Vector(comment, Sealed(size), other.data, "tampered")

    return {
        "forged_by_key_holder": forged("other content under the same key, header, salt and length", 2 * SEGMENT + 99),
        "forged_by_key_holder_single": forged("the same with one segment", 100),
        "another_object": exchanged(
            "a genuine object of this dataset in the place of this one", 100, Sealed(100, name="another")
        ),
        "another_salt": exchanged("this object, sealed a second time", 100, Sealed(100, salt=label("other salt", 24))),
        "wrong_data_key": replace(
            genuine("intact, but opened with another data key", 100),
            expect="wrong key",
            data_key=label("other data key", 32),
        ),
        "wrong_data_key_segments": replace(
            genuine("intact, of several segments, but opened with another data key", SEGMENT + 99),
            expect="wrong key",
            data_key=label("other data key", 32),
        ),
        "wrong_kind_of_key": signed_badly("sealed with the key of another kind", Sealed(100, key_kind="log-section")),
        "signed_bad_commitment": signed_badly("an author signed a wrong commitment", Sealed(100, bad_commitment=True)),
        "signed_bad_tag": signed_badly("an author signed a wrong tag", Sealed(100, bad_tag=True)),
    }


def signed_badly(comment: str, signed: Sealed) -> Vector:
    """An intact object, as signed, that must not open all the same."""
    return Vector(comment, signed, signed.data, "wrong key")


def vectors() -> dict[str, Vector]:
    """Every vector, by the name of its file."""
    return successes() | header_failures() | body_failures() | list_failures() | length_failures() | forgeries()


def main() -> int:
    """Write the files, and remove those that are none of ours any more."""
    HERE.mkdir(exist_ok=True)
    made = {f"{name}.txt": vector.text() for name, vector in vectors().items()}
    for old in HERE.glob("*.txt"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="ascii")
    sys.stdout.write(f"{len(made)} vectors in {HERE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
