"""Writes the vectors of the log: ``python tests/vectors/generate_log.py``.

This is a second implementation of docs/format/log.md, on purpose: it shares no code with the
package.  Everything derives from labels, and signatures are deterministic (RFC 6979), so that
the same files come out again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = Path(__file__).parent / "log"
MAGIC = bytes.fromhex("8953484c0d0a1a0a")
KINDS = {"descriptor": 1, "change-set": 2, "link": 3, "checkpoint": 4}
NOW = 1_767_225_600_000_000  # 2026-01-01

Document = dict[str, Any]


def label(name: str, size: int) -> bytes:
    """Bytes that look random and are always the same."""
    return hashlib.shake_256(b"sealedhealth log vectors " + name.encode()).digest(size)


def hkdf_expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-512 (RFC 5869, section 2.3)."""
    out = block = b""
    for counter in range(1, -(-size // 64) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha512")
        out += block
    return out[:size]


def one_way(document: object) -> bytes:
    """JSON in the one way."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# --- signatures ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Author:
    """A signing key that derives from its name."""

    name: str

    @property
    def private(self) -> ec.EllipticCurvePrivateKey:
        """The key."""
        return ec.derive_private_key(int.from_bytes(label("key of " + self.name, 47), "big"), ec.SECP384R1())

    @property
    def public(self) -> bytes:
        """97 bytes."""
        return self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @property
    def id(self) -> bytes:
        """16 bytes."""
        return bytes(16) if self.name == "root" else label("id of " + self.name, 16)

    def sign(self, message: bytes) -> bytes:
        """96 bytes."""
        signature = self.private.sign(message, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
        return b"".join(part.to_bytes(48, "big") for part in decode_dss_signature(signature))


ROOT = Author("root")
CURATOR = Author("curator")
STRANGER = Author("stranger")
NONCE = label("nonce", 32)
DATASET = hashlib.sha384(b"sealedhealth/v1/dataset\0" + ROOT.public + NONCE).digest()[:16]


def envelope(
    kind: str,
    payload: bytes,
    author: Author,
    *,
    magic: bytes = MAGIC,
    version: int = 1,
    reserved: int = 0,
    length: int | None = None,
    signed_as: str = "",
    signer: Author | None = None,
) -> bytes:
    """A signed file; the keywords make it wrong."""
    head = magic + bytes([version, KINDS[kind]]) + reserved.to_bytes(2, "big") + author.id
    signed = head + (len(payload) if length is None else length).to_bytes(4, "big") + payload
    return signed + (signer or author).sign(b"sealedhealth/v1/" + (signed_as or kind).encode() + b"\0" + signed)


# --- the structures -----------------------------------------------------------------------


def descriptor(nonce: bytes = NONCE, **wrong: Any) -> bytes:
    """The first file of a dataset."""
    extra = wrong.pop("extra", b"")
    author = wrong.pop("author", ROOT)
    return envelope("descriptor", ROOT.public + nonce + NOW.to_bytes(8, "big") + extra, author, **wrong)


def link_document(**members: Any) -> Document:
    """The members of a link."""
    change = {"id": label("change", 16).hex(), "digest": label("change digest", 48).hex(), "size": 4096}
    return {
        "dataset": DATASET.hex(),
        "sequence": 7,
        "parent": label("parent", 48).hex(),
        "changes": [change],
        "time": NOW,
        "checkpoint": None,
        **members,
    }


def link(payload: bytes | None = None, *, author: Author = CURATOR, **wrong: Any) -> bytes:
    """A commit."""
    return envelope("link", one_way(link_document()) if payload is None else payload, author, **wrong)


def numbers(width: int, *values: int) -> bytes:
    """A column of integers."""
    return b"".join(value.to_bytes(width, "little") for value in values)


def container(
    schema: str,
    fields: Document,
    rows: Document,
    columns: dict[str, tuple[str, bytes]],
    *,
    change: Callable[[Document], object] = lambda head: None,
    bodies: dict[str, bytes] | None = None,
    magic: bytes = b"SHC1",
    write: Callable[[object], bytes] = one_way,
) -> bytes:
    """A column container; *bodies* are compressed forms of columns, *change* makes the head wrong."""
    bodies = bodies or {}
    listed, stored = [], []
    for name, (kind, raw) in sorted(columns.items()):
        body = bodies.get(name, raw)
        listed.append([name, kind + "+z" if name in bodies else kind, len(body), len(raw)])
        stored.append(body)
    head: Document = {"columns": listed, "fields": fields, "rows": rows, "schema": schema}
    change(head)
    raw_head = write(head)
    return magic + len(raw_head).to_bytes(4, "little") + raw_head + b"".join(stored)


PATHS = b"labs/week-01.csv\nlabs/week-02.csv"
LONG = b"a" * 300 + b"\nb"
# zlib streams of them and of 1000 zero bytes: written down, since another zlib makes other bytes
SQUEEZED = bytes.fromhex("78dacb494c2ad62f4f4dcdd63530d44b2e2ee3ca410818810400bf530b16")
SQUEEZED_LONG = bytes.fromhex("78da4b4c1c05c402ae2400bc877219")
BOMB = bytes.fromhex("78da63601805a360140c77000003e80001")


def section(
    paths: bytes = PATHS,
    *,
    message: str = "labs, weeks 1 and 2",
    tags: tuple[bytes, tuple[int, ...]] = (b"first\nold", (3, 2**64 - 1)),
    without: tuple[str, ...] = (),
    extra: dict[str, tuple[str, bytes]] | None = None,
    fields: Document | None = None,
    schema: str = "section/1",
    **how: Any,
) -> bytes:
    """The plaintext of a section: two puts in two new objects, a deletion, a tag set and one taken away."""
    columns = {
        "new_index": ("u32", numbers(4, 0, 1)),
        "new_salt": ("bytes:24", label("salt 0", 24) + label("salt 1", 24)),
        "put_path": ("text", paths),
        "put_object": ("u32", numbers(4, 0, 1)),
        "put_length": ("u64", numbers(8, 10, 20)),
        "put_mtime": ("u64", numbers(8, NOW, NOW + 1)),
        "delete_path": ("text", b"labs/draft.csv"),
        "tag_name": ("text", tags[0]),
        "tag_sequence": ("u64", numbers(8, *tags[1])),
        **(extra or {}),
    }
    rows = {"new": 2, "old": 0, "put": 2, "delete": 1, "tag": len(tags[1])}
    columns = {name: column for name, column in columns.items() if name not in without}
    return container(schema, {"message": message, **(fields or {})}, rows, columns, **how)


SECTION_RESULT: Document = {
    "message": "labs, weeks 1 and 2",
    "new": [[0, label("salt 0", 24).hex()], [1, label("salt 1", 24).hex()]],
    "puts": [["labs/week-01.csv", 0, 0, 10, NOW], ["labs/week-02.csv", 1, 0, 20, NOW + 1]],
    "deletes": ["labs/draft.csv"],
    "tags": {"first": 3, "old": None},
}

DATA_KEY = label("data key", 32)
KEY_ID = hkdf_expand(DATA_KEY, b"sealedhealth/v1/id", 16)
COMPARTMENT = label("compartment", 16)
SECTION_ID = label("section object", 16)


def sealed_section(plaintext: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """A section as a sealed object of one chunk, and its root."""
    key_id = hkdf_expand(secret, b"sealedhealth/v1/id", 16)
    header = bytes.fromhex("895348310d0a1a0a") + bytes([1, 1, 0, 0, 2, 0, 0, 0]) + DATASET + key_id + SECTION_ID
    key = hkdf_expand(secret, b"sealedhealth/v1/log-section\0" + SECTION_ID, 32)
    salt = label("section salt", 24)
    derived = hkdf_expand(key, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + header, 76)
    body = header + salt + derived[44:] + AESGCM(derived[:32]).encrypt(derived[32:44], plaintext, None)
    assert len(plaintext) < 16384
    digest = hashlib.sha256(body).digest()
    return body, hashlib.sha256(b"sealedhealth/v1/segments\0" + len(body).to_bytes(8, "big") + digest).digest()


OBJECTS = [label("object 0", 16), label("object 1", 16)]
ROOTS = [label("root 0", 32), label("root 1", 32)]
WRAP = label("wrap", 104)


def change_set(
    *,
    kind: str = "data",
    objects: list[bytes] | None = None,
    object_keys: tuple[int, ...] = (0, 0),
    sections: int = 1,
    section_key: bytes = KEY_ID,
    section_secret: bytes = DATA_KEY,
    section_compartment: bytes = COMPARTMENT,
    wrap: bytes | None = None,
    reused: tuple[tuple[bytes, bytes], ...] = (),
    location: str | None = None,
    rows: Document | None = None,
    tail: Callable[[bytes], bytes] = lambda sealed: sealed,
    **wrong: Any,
) -> bytes:
    """What one author did in one transaction."""
    ids = OBJECTS if objects is None else objects
    plain = section()
    sealed, root = sealed_section(plain, section_secret)
    fields: Document = {
        "dataset": DATASET.hex(),
        "id": label("change", 16).hex(),
        "kind": kind,
        "time": NOW,
        "horizon": 0,
    }
    counts: Document = {"key": 1, "object": len(ids), "section": sections, "destroyed": 0, "minimum": 0, "collected": 0}
    later: dict[str, tuple[str, bytes]] = {}
    if location is not None:
        fields["location"] = location
    if reused:
        counts["reused"] = len(reused)
        later = {
            "reused_key": ("bytes:16", b"".join(key_id for key_id, _ in reused)),
            "reused_compartment": ("bytes:16", b"".join(compartment for _, compartment in reused)),
        }
    payload = container(
        "change/1",
        fields,
        {**counts, **(rows or {})},
        {
            **later,
            "key_id": ("bytes:16", KEY_ID),
            "key_compartment": ("bytes:16", COMPARTMENT),
            "key_version": ("u32", numbers(4, 1)),
            "key_wrap": ("text", base64.b64encode(WRAP) if wrap is None else wrap),
            "object_id": ("bytes:16", b"".join(ids)),
            "object_root": ("bytes:32", b"".join(ROOTS[: len(ids)])),
            "object_size": ("u64", numbers(8, *[146, 156][: len(ids)])),
            "object_key": ("u32", numbers(4, *object_keys[: len(ids)])),
            "section_compartment": ("bytes:16", section_compartment * sections),
            "section_key": ("bytes:16", section_key * sections),
            "section_object": ("bytes:16", SECTION_ID * sections),
            "section_size": ("u64", numbers(8, *[len(sealed)] * sections)),
            "section_root": ("bytes:32", root * sections),
        },
    )
    return envelope("change-set", payload, CURATOR, **wrong) + tail(sealed * sections)


CHANGE_RESULT: Document = {
    "dataset": DATASET.hex(),
    "id": label("change", 16).hex(),
    "kind": "data",
    "time": NOW,
    "keys": [[KEY_ID.hex(), COMPARTMENT.hex(), 1, WRAP.hex()]],
    "objects": [[OBJECTS[0].hex(), ROOTS[0].hex(), 146], [OBJECTS[1].hex(), ROOTS[1].hex(), 156]],
    "section": SECTION_RESULT,
}


PLACE: Document = {"store": "s3", "endpoint": "s3.example.org:8333", "region": "gra", "jurisdiction": "FR"}
OLD_SECRET = label("old data key", 32)
OLD_KEY = hkdf_expand(OLD_SECRET, b"sealedhealth/v1/id", 16)


# --- the vectors --------------------------------------------------------------------------


@dataclass(frozen=True)
class Vector:
    """A file of the log, and what reading it must say."""

    comment: str
    structure: str
    data: bytes
    expect: str = "success"
    result: Document | None = None
    public_key: bytes = b""
    data_key: bytes = DATA_KEY
    dataset_id: bytes = DATASET

    def text(self) -> str:
        """The file."""
        fields = {"comment": self.comment, "structure": self.structure, "expect": self.expect}
        if self.structure != "container":
            fields["public-key"] = self.public_key.hex()
            fields["dataset-id"] = self.dataset_id.hex()
            fields["digest"] = hashlib.sha384(self.data).hexdigest()
        if self.structure == "change set":
            fields["data-key"] = self.data_key.hex()
        if self.result is not None:
            fields["result"] = one_way(self.result).decode()
        fields["encoding"] = "zlib+base64"
        head = "".join(f"{name}: {value}\n" for name, value in fields.items())
        return head + "\n" + textwrap.fill(base64.b64encode(zlib.compress(self.data, 9)).decode(), 76) + "\n"


def flip(data: bytes, at: int) -> bytes:
    """The same bytes with one bit flipped."""
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


def descriptors() -> dict[str, Vector]:
    """The descriptor, and everything that a host could put in its place."""

    def case(comment: str, data: bytes, expect: str = "success", **more: Any) -> Vector:
        return Vector(comment, "descriptor", data, expect, public_key=ROOT.public, **more)

    good = descriptor()
    return {
        "descriptor": case(
            "a descriptor",
            good,
            result={"root": ROOT.public.hex(), "nonce": NONCE.hex(), "created": NOW, "dataset": DATASET.hex()},
        ),
        "descriptor_other_dataset": case(
            "genuine, of another dataset", descriptor(label("other nonce", 32)), "mismatch"
        ),
        "descriptor_other_expected": case(
            "genuine, where another is expected", good, "mismatch", dataset_id=label("other dataset", 16)
        ),
        "descriptor_nonce_flipped": case("another nonce is another dataset", flip(good, 32 + 97), "mismatch"),
        "descriptor_time_flipped": case("a field that the id does not cover", flip(good, 32 + 136), "tampered"),
        "descriptor_signature_flipped": case("the signature", flip(good, -1), "tampered"),
        "descriptor_signed_as_link": case("signed for another kind", descriptor(signed_as="link"), "tampered"),
        "descriptor_foreign_author": case(
            "names an author, though signed by the root key", descriptor(author=CURATOR, signer=ROOT), "malformed"
        ),
        "descriptor_longer_payload": case("a signed byte more", descriptor(extra=b"\0"), "malformed"),
        "descriptor_trailing": case("a byte after the signature", good + b"\0", "malformed"),
        "descriptor_truncated": case("the last byte is missing", good[:-1], "malformed"),
        "descriptor_empty": case("nothing", b"", "malformed"),
        "descriptor_magic": case("another magic", descriptor(magic=flip(MAGIC, 0)), "unsupported"),
        "descriptor_version": case("a version to come", descriptor(version=2), "unsupported"),
        "descriptor_reserved": case("a reserved byte", descriptor(reserved=1), "unsupported"),
        "descriptor_is_a_link": case("a genuine file of another kind", link(), "unsupported"),
    }


def links() -> dict[str, Vector]:
    """Links, and what makes them void."""

    def case(comment: str, data: bytes, expect: str = "success", result: Document | None = None) -> Vector:
        return Vector(comment, "link", data, expect, result, CURATOR.public)

    def with_members(**members: Any) -> bytes:
        return link(one_way(link_document(**members)))

    def payload(old: bytes, new: bytes) -> bytes:
        written = one_way(link_document())
        assert old in written
        return link(written.replace(old, new))

    def root_void(first: int | None) -> bytes:
        return link(one_way(link_document(void=first)), author=ROOT)

    taken = link_document(void=3)
    good, document = link(), link_document()
    change = document["changes"][0]
    hint = {"id": label("checkpoint", 16).hex(), "digest": label("c digest", 48).hex(), "size": 999, "sequence": 5}
    several = [{**change, "id": label(f"change {number}", 16).hex()} for number in range(257)]
    return {
        "link": case("a link", good, result=document),
        "link_with_checkpoint": case(
            "it says where a checkpoint may be", with_members(checkpoint=hint), result=link_document(checkpoint=hint)
        ),
        "link_256_changes": case(
            "as many change sets as may be",
            with_members(changes=several[:256]),
            result=link_document(changes=several[:256]),
        ),
        "link_void": Vector(
            "the root key takes back what came before", "link", root_void(3), result=taken, public_key=ROOT.public
        ),
        "link_void_one": Vector(
            "only the one before", "link", root_void(6), result={**taken, "void": 6}, public_key=ROOT.public
        ),
        "link_void_by_author": case("an author takes something back", with_members(void=3), "malformed"),
        "link_void_itself": Vector("it takes itself back", "link", root_void(7), "malformed", public_key=ROOT.public),
        "link_void_all": Vector("it takes all back", "link", root_void(0), "malformed", public_key=ROOT.public),
        "link_void_null": Vector("null is no number", "link", root_void(None), "malformed", public_key=ROOT.public),
        "link_spaced": case("JSON need not be written in the one way", payload(b":7", b": 7"), result=document),
        "link_other_key": case("signed by somebody else", link(signer=STRANGER), "tampered"),
        "link_payload_flipped": case("a bit of the payload", flip(good, 40), "tampered"),
        "link_author_flipped": case("another author id under the same key", flip(good, 12), "tampered"),
        "link_signature_flipped": case("a bit of the signature", flip(good, -96), "tampered"),
        "link_signature_zero": case("r and s are zero", good[:-96] + bytes(96), "tampered"),
        "link_signed_as_change_set": case("signed for another kind", link(signed_as="change-set"), "tampered"),
        "link_trailing": case("a byte after the signature", good + b"\0", "malformed"),
        "link_length_beyond": case("the payload would end after the file", link(length=1 << 15), "malformed"),
        "link_length_huge": case("4 GiB of payload", link(length=(1 << 32) - 1), "malformed"),
        "link_member_twice": case(
            "a member twice", payload(b'"sequence":7', b'"sequence":7,"sequence":7'), "malformed"
        ),
        "link_member_unknown": case("a member nobody knows", with_members(more=1), "malformed"),
        "link_member_missing": case("no parent", payload(b'"parent"', b'"Parent"'), "malformed"),
        "link_sequence_float": case("7.0 is no integer", payload(b":7,", b":7.0,"), "malformed"),
        "link_sequence_true": case("true is no integer", payload(b":7,", b":true,"), "malformed"),
        "link_sequence_negative": case("below 0", with_members(sequence=-1), "malformed"),
        "link_sequence_large": case("above 2^48", with_members(sequence=2**48 + 1), "malformed"),
        "link_nan": case("not a number", payload(b":7,", b":NaN,"), "malformed"),
        "link_upper_case": case(
            "hexadecimal is lower-case", with_members(parent=document["parent"].upper()), "malformed"
        ),
        "link_short_digest": case("47 bytes of digest", with_members(parent=document["parent"][2:]), "malformed"),
        "link_not_utf8": case("bytes that are no UTF-8", payload(b'"time"', b'"tim\xff"'), "malformed"),
        "link_array": case("no object", link(b"[]"), "malformed"),
        "link_nested": case("nested too deeply", link(b"[" * 40_000), "malformed"),
        "link_without_changes": case("no change set", with_members(changes=[]), "malformed"),
        "link_change_twice": case("a change set twice", with_members(changes=[change, change]), "malformed"),
        "link_257_changes": case("too many change sets", with_members(changes=several), "malformed"),
    }


def containers() -> dict[str, Vector]:
    """Sections by columns, and every way to break the container."""

    def case(comment: str, data: bytes, expect: str = "malformed", result: Document | None = None) -> Vector:
        return Vector(comment, "container", data, expect, result)

    def changed(name: str, at: int, value: object) -> Callable[[Document], object]:
        def change(head: Document) -> None:
            row = next(row for row in head["columns"] if row[0] == name)
            row[at] = value

        return change

    def rows(**counts: int) -> Callable[[Document], object]:
        return lambda head: head["rows"].update(counts)

    def written_as(**how: Any) -> Callable[[object], bytes]:
        return lambda head: json.dumps(head, **how).encode()

    good = section()
    compact: dict[str, Any] = {"separators": (",", ":")}
    return {
        "container": case("a section", good, "success", SECTION_RESULT),
        "container_compressed": case(
            "one column compressed", section(bodies={"put_path": SQUEEZED}), "success", SECTION_RESULT
        ),
        "container_optional_column": case(
            "offsets, all zero, are there although they need not be",
            section(extra={"put_offset": ("u64", bytes(16))}),
            "success",
            SECTION_RESULT,
        ),
        "container_offsets": case(
            "offsets",
            section(extra={"put_offset": ("u64", numbers(8, 0, 5))}),
            "success",
            {**SECTION_RESULT, "puts": [SECTION_RESULT["puts"][0], ["labs/week-02.csv", 1, 5, 20, NOW + 1]]},
        ),
        "container_magic": case("something else", section(magic=b"PAR1")),
        "container_magic_version": case("a container to come", section(magic=b"SHC2"), "unsupported"),
        "container_schema_version": case("a section to come", section(schema="section/2"), "unsupported"),
        "container_schema_other": case("no section", section(schema="segment/1")),
        "container_empty": case("nothing", b""),
        "container_head_length": case("a head longer than the file", good[:4] + b"\xff\xff\xff\x7f" + good[8:]),
        "container_head_spaced": case("JSON in another way", section(write=written_as(sort_keys=True))),
        "container_head_unsorted": case("members in another order", section(write=written_as(**compact))),
        "container_head_escaped": case(
            "a needless escape",
            section(message="été", write=written_as(sort_keys=True, **compact)),
        ),
        "container_head_member": case("a member nobody knows", section(change=lambda head: head.update(more=1))),
        "container_field_unknown": case("a field nobody knows", section(fields={"more": 1})),
        "container_field_type": case(
            "a field of another type", section(change=lambda head: head["fields"].update(message=1))
        ),
        "container_message_long": case("4097 characters", section(message="x" * 4097)),
        "container_column_missing": case("no modification times", section(without=("put_mtime",))),
        "container_column_unknown": case("a column nobody knows", section(extra={"zz": ("u32", b"")})),
        "container_column_type": case("salts of another width", section(change=changed("new_salt", 1, "bytes:12"))),
        "container_columns_unsorted": case(
            "columns in another order", section(change=lambda head: head["columns"].reverse())
        ),
        "container_column_twice": case(
            "a column twice", section(change=lambda head: head["columns"].insert(0, head["columns"][0]))
        ),
        "container_stored_beyond": case(
            "a column longer than the file", section(change=changed("put_path", 2, 1 << 20))
        ),
        "container_sizes_differ": case("stored and expanded differ", section(change=changed("put_path", 3, 1 << 20))),
        "container_negative": case("a size below 0", section(change=changed("put_path", 2, -1))),
        "container_rows_many": case("more rows than any section has", section(change=rows(put=2**20 + 1))),
        "container_rows_differ": case("a row more than its columns have", section(change=rows(put=3))),
        "container_rows_missing": case("a table left out", section(change=lambda head: head["rows"].pop("old"))),
        "container_trailing": case("a byte after the last column", good + b"\0"),
        "container_truncated": case("the last byte is missing", good[:-1]),
        "container_bomb": case(
            "expands to more than it says",
            section(bodies={"put_path": BOMB}, change=changed("put_path", 3, 33)),
        ),
        "container_bomb_admitted": case(
            "says that it expands to more than any section may",
            section(bodies={"put_path": BOMB}, change=changed("put_path", 3, 1 << 40)),
        ),
        "container_zlib_trailing": case(
            "bytes after a zlib stream",
            section(LONG, bodies={"put_path": SQUEEZED_LONG + b"\0"}),
        ),
        "container_zlib_broken": case("no zlib stream", section(LONG, bodies={"put_path": b"\x78\x9c" + bytes(20)})),
        "container_text_rows": case("a line too many", section(b"a\nb\nc")),
        "container_text_not_utf8": case("bytes that are no UTF-8", section(b"a\xff\nb")),
        "path_parent": case("'..' in a path", section(b"../a\nb")),
        "path_dot": case("'.' in a path", section(b"a/./b\nc")),
        "path_absolute": case("an absolute path", section(b"/a\nb")),
        "path_empty_part": case("'//' in a path", section(b"a//b\nc")),
        "path_empty": case("an empty path", section(b"a\n")),
        "path_nul": case("NUL in a path", section(b"a\0b\nc")),
        "path_control": case("a C1 control character in a path", section("a\u0085b\nc".encode())),
        "path_line_separator": case("U+2028 in a path", section("a\u2028b\nc".encode())),
        "path_backslash": case("a backslash in a path", section(b"a\\b\nc")),
        "path_decomposed": case("a path in normalisation form D", section("e\u0301\nz".encode())),
        "path_long": case("4097 bytes", section(b"x" * 4097 + b"\ny")),
        "path_longest": case(
            "4096 bytes",
            section(b"x" * 4096 + b"\ny"),
            "success",
            {**SECTION_RESULT, "puts": [["x" * 4096, 0, 0, 10, NOW], ["y", 1, 0, 20, NOW + 1]]},
        ),
        "path_in_delete": case("'..' in a deletion", section(extra={"delete_path": ("text", b"../a")})),
        "tag_digits": case("a tag that looks like a commit", section(tags=(b"12", (3,)))),
        "tag_slash": case("a tag with a slash", section(tags=(b"a/b", (3,)))),
        "tag_twice": case("a tag twice", section(tags=(b"a\na", (3, 4)))),
        "tag_beyond": case("a tag for an impossible commit", section(tags=(b"a", (2**48 + 1,)))),
    }


def change_sets() -> dict[str, Vector]:
    """Change sets: public part and section."""

    def case(comment: str, data: bytes, expect: str, result: Document | None = None, **more: Any) -> Vector:
        return Vector(comment, "change set", data, expect, result, CURATOR.public, **more)

    good = change_set()
    return {
        "change_set": case("a change set", good, "success", CHANGE_RESULT),
        "change_set_other_key": case("signed by somebody else", change_set(signer=STRANGER), "tampered"),
        "change_set_payload_flipped": case("a bit of the public part", flip(good, 60), "tampered"),
        "change_set_section_flipped": case("a bit of the section", flip(good, -1), "tampered"),
        "change_set_section_short": case("a byte of the section is missing", good[:-1], "tampered"),
        "change_set_section_long": case("a byte after the section", good + b"\0", "tampered"),
        "change_set_without_sections": case("its section is missing", change_set(tail=lambda _: b""), "tampered"),
        "change_set_kind_unknown": case("a kind to come", change_set(kind="merge"), "unsupported"),
        "change_set_kind_parts": case("a rewrap that brings objects", change_set(kind="rewrap"), "malformed"),
        "change_set_object_twice": case("an object twice", change_set(objects=[OBJECTS[0], OBJECTS[0]]), "malformed"),
        "change_set_object_key": case(
            "an object under a data key that it does not bring", change_set(object_keys=(0, 1)), "malformed"
        ),
        "change_set_two_sections": case("two sections for one compartment", change_set(sections=2), "malformed"),
        "change_set_section_key": case(
            "a section under a data key that it does not bring",
            change_set(section_key=label("other key id", 16)),
            "malformed",
        ),
        "change_set_section_compartment": case(
            "a section under the key of another compartment",
            change_set(section_compartment=label("other compartment", 16)),
            "malformed",
        ),
        **locations(case),
        **reuse(case),
        "change_set_wrap_not_base64": case("a wrap that is no base64", change_set(wrap=b"****"), "malformed"),
        "change_set_wrap_long": case(
            "a wrap longer than any may be", change_set(wrap=base64.b64encode(bytes(2000))), "malformed"
        ),
    }


def locations(case: Callable[..., Vector]) -> dict[str, Vector]:
    """Where a change set was written, and documents that do not say it."""

    def wrong(comment: str, document: object) -> Vector:
        text = document if isinstance(document, str) else one_way(document).decode()
        return case(comment, change_set(location=text), "malformed")

    empty = {**PLACE, "endpoint": "", "region": "", "jurisdiction": ""}
    written = one_way(PLACE).decode()
    return {
        "change_set_location": case(
            "it says where it was written",
            change_set(location=written),
            "success",
            {**CHANGE_RESULT, "location": PLACE},
        ),
        "change_set_location_least": case(
            "only the kind of store is known",
            change_set(location=one_way(empty).decode()),
            "success",
            {**CHANGE_RESULT, "location": empty},
        ),
        "location_spaced": wrong("JSON in another way", written.replace(":", ": ")),
        "location_empty": wrong("no document", ""),
        "location_array": wrong("no object", []),
        "location_member_missing": wrong("no region", {key: value for key, value in PLACE.items() if key != "region"}),
        "location_member_unknown": wrong("a member nobody knows", {**PLACE, "bucket": "b"}),
        "location_member_null": wrong("null is no text", {**PLACE, "region": None}),
        "location_store_empty": wrong("no kind of store", {**PLACE, "store": ""}),
        "location_store_case": wrong("a kind of store in upper case", {**PLACE, "store": "S3"}),
        "location_endpoint_path": wrong("an endpoint with a path", {**PLACE, "endpoint": "s3.example.org/bucket"}),
        "location_endpoint_user": wrong("an endpoint with a user", {**PLACE, "endpoint": "key:secret@s3.example.org"}),
        "location_endpoint_url": wrong("an endpoint with a scheme", {**PLACE, "endpoint": "https://s3.example.org"}),
        "location_region_long": wrong("257 characters", {**PLACE, "region": "x" * 257}),
        "location_region_control": wrong("a control character", {**PLACE, "region": "a\u001b[2Jb"}),
        "location_region_not_ascii": wrong("a character beyond ASCII", {**PLACE, "region": "Île"}),
    }


def reuse(case: Callable[..., Vector]) -> dict[str, Vector]:
    """Objects under data keys of earlier commits."""
    old = (OLD_KEY, COMPARTMENT)

    def change(*reused: tuple[bytes, bytes], **parts: Any) -> bytes:
        return change_set(reused=reused, section_key=OLD_KEY, section_secret=OLD_SECRET, **parts)

    return {
        "change_set_reused": case(
            "its second object and its section are sealed under a data key of an earlier commit",
            change(old, object_keys=(0, 1)),
            "success",
            {**CHANGE_RESULT, "reused": [[OLD_KEY.hex(), COMPARTMENT.hex()]], "object-keys": [0, 1]},
            data_key=OLD_SECRET,
        ),
        "change_set_reused_beyond": case(
            "an object beyond the reused keys", change(old, object_keys=(0, 2)), "malformed"
        ),
        "change_set_reused_twice": case("a key reused twice", change(old, old), "malformed"),
        "change_set_reused_own": case(
            "it reuses what it brings", change_set(reused=((KEY_ID, COMPARTMENT),)), "malformed"
        ),
        "change_set_reused_section": case(
            "its section is under another key than the one it reuses", change_set(reused=(old,)), "malformed"
        ),
        "change_set_reused_two": case(
            "two reused keys, and one section", change(old, (label("older key id", 16), COMPARTMENT)), "malformed"
        ),
        "change_set_reused_compartment": case(
            "the reused key is of another compartment than its section",
            change((OLD_KEY, label("other compartment", 16))),
            "malformed",
        ),
        "change_set_reused_no_rows": case(
            "the table is there without rows", change_set(rows={"reused": 0}), "malformed"
        ),
    }


def vectors() -> dict[str, Vector]:
    """Every vector, by the name of its file."""
    return descriptors() | links() | containers() | change_sets()


def write(folder: Path, texts: dict[str, str]) -> int:
    """Write the files of a folder by name, and remove those that are none of ours any more."""
    folder.mkdir(exist_ok=True)
    made = {f"{name}.txt": text for name, text in texts.items()}
    for old in folder.glob("*.txt"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(made)} vectors in {folder}\n")
    return 0


def main() -> int:
    """Write the vectors of the log's files."""
    return write(HERE, {name: vector.text() for name, vector in vectors().items()})


if __name__ == "__main__":
    sys.exit(main())
