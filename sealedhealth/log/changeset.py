"""Change sets: what one writer did in one transaction, signed once.

A change-set file is a signed envelope (the public part) followed by one sealed
section per compartment.  The public part says which data keys are new, which
objects belong to the change set (id, size and root digest), and where the
sections stand; it holds no path and no name.
"""

from __future__ import annotations

import base64
import binascii
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from sealedhealth.errors import MalformedError, RosterViolation, TruncatedError, UnsupportedFormat
from sealedhealth.format import Header, Kind, open_sealed, seal
from sealedhealth.keys.base import DataKey, Kek, WrappedKey
from sealedhealth.log.columns import Column, Content, Field, Schema, decode, encode
from sealedhealth.log.envelope import Envelope, FileKind, pack_envelope, split_envelope
from sealedhealth.log.link import MAX_FILE, MAX_SEQUENCE
from sealedhealth.log.place import PLACE_LIMIT, dump_place, read_place
from sealedhealth.log.roster import Policy
from sealedhealth.log.section import MAX_ENTRIES, ObjectRow
from sealedhealth.log.strict import MAX_TIME_US, dump_json, load_json
from sealedhealth.stores.location import Location

__all__ = [
    "CHANGE_SET_LIMIT",
    "ChangeKind",
    "ChangeSet",
    "Inventory",
    "ReusedKey",
    "SectionRef",
    "key_column_values",
    "key_columns",
    "read_key_columns",
    "seal_section",
]

MAX_KEYS = 1 << 20
MAX_NEW_KEYS = 256  #: data keys that one change set may introduce: each may cost every reader a request
MAX_SECTIONS = 256
MAX_WRAP = 1024  #: bytes of one wrapped key
PAYLOAD_LIMIT = 256 << 20
CHANGE_SET_LIMIT = MAX_FILE

ColumnValues: TypeAlias = "bytes | array[int] | list[str]"


def key_columns(prefix: str = "key") -> dict[str, Column]:
    """The columns that hold wrapped keys, for a schema."""
    return {
        f"{prefix}_id": Column("bytes:16", prefix),
        f"{prefix}_compartment": Column("bytes:16", prefix, compress=True),
        f"{prefix}_version": Column("u32", prefix, compress=True),
        f"{prefix}_wrap": Column("text", prefix, compress=True),
    }


_SCHEMA = Schema(
    name="change/1",
    fields={
        "dataset": Field(bytes, 16),
        "id": Field(bytes, 16),
        "kind": Field(str, 32),
        "time": Field(int, MAX_TIME_US),
        "horizon": Field(int, MAX_SEQUENCE),
        "policy": Field(str, 16 << 20, optional=True),
        "location": Field(str, PLACE_LIMIT, optional=True),
    },
    columns={
        **key_columns(),
        "object_id": Column("bytes:16", "object"),
        "object_root": Column("bytes:32", "object"),
        "object_size": Column("u64", "object", compress=True),
        "object_key": Column("u32", "object", compress=True),
        "reused_key": Column("bytes:16", "reused", optional=True),
        "reused_compartment": Column("bytes:16", "reused", compress=True, optional=True),
        "section_compartment": Column("bytes:16", "section"),
        "section_key": Column("bytes:16", "section"),
        "section_object": Column("bytes:16", "section"),
        "section_size": Column("u64", "section"),
        "section_root": Column("bytes:32", "section"),
        "destroyed": Column("bytes:16", "destroyed", optional=True),
        "minimum_compartment": Column("bytes:16", "minimum", optional=True),
        "minimum_version": Column("u32", "minimum", optional=True),
        "collected": Column("bytes:16", "collected", optional=True),
    },
    tables={
        "key": MAX_KEYS,
        "object": MAX_ENTRIES,
        "reused": MAX_SECTIONS,
        "section": MAX_SECTIONS,
        "destroyed": MAX_KEYS,
        "minimum": MAX_SECTIONS,
        "collected": 8 * MAX_ENTRIES,
    },
    max_expanded=PAYLOAD_LIMIT,
    optional_tables=frozenset(["reused"]),
)


class ChangeKind(StrEnum):
    """What a change set is for."""

    DATA = "data"  #: puts, deletes, tags
    REWRAP = "rewrap"  #: new wraps of known data keys
    POLICY = "policy"  #: the next version of the roster, by the root key
    DESTROY = "destroy"  #: the tombstone of data keys, by the root key
    COLLECT = "collect"  #: objects that garbage collection deletes


@dataclass(frozen=True, slots=True)
class SectionRef:
    """What the author of a change set signed of one sealed section."""

    compartment_id: bytes
    data_key_id: bytes
    object_id: bytes
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class ReusedKey:
    """A data key of an earlier change set, under which objects of this one are sealed.

    So is the section of its compartment: names and content shall end with the same key.
    """

    key_id: bytes
    compartment_id: bytes


@dataclass(frozen=True, slots=True)
class Inventory:
    """The objects that belong to a change set, by columns."""

    object_ids: bytes = b""  #: 16 bytes each
    roots: bytes = field(default=b"", repr=False)  #: 32 bytes each
    sizes: Sequence[int] = ()  #: sealed size of each, in bytes
    key_index: Sequence[int] = ()  #: for each, which data key sealed it: the change set's own, then the reused ones

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """The public part of a change set, and its sealed sections."""

    dataset_id: bytes
    change_id: bytes
    author_id: bytes
    kind: ChangeKind
    time_us: int
    keys: tuple[WrappedKey, ...] = ()
    inventory: Inventory = Inventory()
    sections: tuple[SectionRef, ...] = ()
    policy: Policy | None = None
    destroyed: tuple[bytes, ...] = ()
    minimum: Mapping[bytes, int] = field(default_factory=dict)
    collected: tuple[bytes, ...] = field(default=(), repr=False)
    horizon: int = 0
    reused_keys: tuple[ReusedKey, ...] = ()  #: what they sealed, a curator seals into other objects: ADR 0010
    location: Location | None = None  #: where the author wrote it, by its own account; see ADR 0011
    sealed: tuple[bytes, ...] = field(default=(), repr=False)  #: the sections' bytes, in order

    @staticmethod
    def split(data: bytes) -> Envelope:
        """The envelope of a change-set file, not yet verified."""
        return split_envelope(FileKind.CHANGE_SET, data, limit=PAYLOAD_LIMIT)

    @classmethod
    def read(cls, envelope: Envelope) -> ChangeSet:
        """Parse a change set whose signature has been checked.

        Raises
        ------
        MalformedError, UnsupportedFormat
            It breaks the format.
        """
        content = decode(_SCHEMA, envelope.payload)
        kind = content.string("kind")
        if kind not in set(ChangeKind):
            raise UnsupportedFormat("A change set is of an unknown kind.", next="Upgrade sealedhealth.")
        dataset_id = content.binary("dataset")
        policy = None
        if "policy" in content.fields:
            policy = Policy.read(load_json(content.string("policy").encode(), "policy"))
        location = read_place(content.string("location")) if "location" in content.fields else None
        keys = read_key_columns(content, dataset_id)
        sections = tuple(
            map(
                SectionRef,
                content.blobs("section_compartment"),
                content.blobs("section_key"),
                content.blobs("section_object"),
                content.numbers("section_size"),
                content.blobs("section_root"),
            )
        )
        inventory = Inventory(
            content.blob("object_id"),
            content.blob("object_root"),
            content.numbers("object_size"),
            content.numbers("object_key"),
        )
        reused = tuple(map(ReusedKey, content.blobs("reused_key"), content.blobs("reused_compartment")))
        if inventory.key_index and max(inventory.key_index) >= len(keys) + len(reused):
            raise MalformedError("An object is sealed under a data key that its change set does not name.")
        change = cls(
            dataset_id=dataset_id,
            change_id=content.binary("id"),
            author_id=envelope.author_id,
            kind=ChangeKind(kind),
            time_us=content.integer("time"),
            keys=keys,
            reused_keys=reused,
            inventory=inventory,
            sections=sections,
            policy=policy,
            destroyed=tuple(content.blobs("destroyed")),
            minimum=dict(zip(content.blobs("minimum_compartment"), content.numbers("minimum_version"), strict=True)),
            collected=tuple(content.blobs("collected")),
            horizon=content.integer("horizon"),
            location=location,
            sealed=_cut(envelope.rest, sections),
        )
        change.check_shape()
        return change

    def check_shape(self) -> None:
        """Refuse parts that do not belong to a change set of this kind."""
        kind = self.kind
        named = {wrapped.key_id: wrapped.kek.compartment_id for wrapped in self.keys}
        for reused in self.reused_keys:
            if reused.key_id in named:
                raise MalformedError("A change set reuses a data key twice, or one that it brings.")
            named[reused.key_id] = reused.compartment_id
        if any(named.get(section.data_key_id) != section.compartment_id for section in self.sections):
            raise MalformedError("A section is sealed under a data key that its change set does not name.")
        if not {key.key_id for key in self.reused_keys} <= {section.data_key_id for section in self.sections}:
            raise MalformedError("A change set reuses a data key without sealing its section under it.")
        if len({section.compartment_id for section in self.sections}) != len(self.sections):
            raise MalformedError("A change set has two sections for one compartment.")
        if (
            (self.policy is not None) != (kind is ChangeKind.POLICY)
            or bool(self.destroyed or self.minimum) != (kind is ChangeKind.DESTROY)
            or (self.collected and kind is not ChangeKind.COLLECT)
            or ((len(self.inventory) or self.reused_keys) and kind is not ChangeKind.DATA)
            or (self.sections and kind not in {ChangeKind.DATA, ChangeKind.POLICY})
            or (self.keys and kind not in {ChangeKind.DATA, ChangeKind.POLICY, ChangeKind.REWRAP})
        ):
            raise MalformedError(f"A {kind} change set has parts that do not belong to its kind.")
        if len(self.keys) > MAX_NEW_KEYS and kind is not ChangeKind.REWRAP:
            raise MalformedError(f"A change set introduces more than {MAX_NEW_KEYS} data keys.")
        ids = self.inventory.object_ids
        if len({ids[at : at + 16] for at in range(0, len(ids), 16)}) != len(self.inventory):
            raise MalformedError("A change set names an object twice.")

    def data_key_of(self, index: int) -> tuple[bytes, bytes]:
        """Id and compartment of the data key that sealed the object at *index* of the inventory."""
        at = self.inventory.key_index[index]
        if at < len(self.keys):
            return self.keys[at].key_id, self.keys[at].kek.compartment_id
        reused = self.reused_keys[at - len(self.keys)]
        return reused.key_id, reused.compartment_id

    def object_row(self, index: int, salt: bytes, compartment_id: bytes) -> ObjectRow:
        """The object at *index* of the inventory, which has to belong to *compartment_id*."""
        inventory = self.inventory
        if index >= len(inventory):
            raise RosterViolation("An entry names an object that its change set does not bring.")
        data_key_id, own_compartment = self.data_key_of(index)
        if own_compartment != compartment_id:
            raise RosterViolation("An entry names an object of another compartment.")
        return ObjectRow(
            object_id=inventory.object_ids[16 * index : 16 * index + 16],
            data_key_id=data_key_id,
            salt=salt,
            root=inventory.roots[32 * index : 32 * index + 32],
            sealed_size=inventory.sizes[index],
        )

    def section_of(self, compartment_id: bytes) -> SectionRef | None:
        """The section of one compartment, if there is one."""
        return next((ref for ref in self.sections if ref.compartment_id == compartment_id), None)

    def open_section(self, ref: SectionRef, data_key: DataKey) -> bytes:
        """The plaintext of a section; see ``section.py`` for what is in it.

        Raises
        ------
        TamperedError, WrongKey
            The section is not what the author's public part says.
        """
        header = Header(Kind.LOG_SECTION, self.dataset_id, ref.data_key_id, ref.object_id)
        key = data_key.object_key(Kind.LOG_SECTION, ref.object_id)
        return open_sealed(key, header, self.sealed[self.sections.index(ref)], root=ref.root)

    def pack(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The bytes of the file; *sign* uses the author's key."""
        self.check_shape()
        fields: dict[str, str | int | bool | bytes] = {
            "dataset": self.dataset_id,
            "id": self.change_id,
            "kind": str(self.kind),
            "time": self.time_us,
            "horizon": self.horizon,
        }
        if self.policy is not None:
            fields["policy"] = dump_json(self.policy.to_json()).decode()
        if self.location is not None:
            fields["location"] = dump_place(self.location)
        payload = encode(
            _SCHEMA,
            rows={
                "key": len(self.keys),
                "object": len(self.inventory),
                "reused": len(self.reused_keys),
                "section": len(self.sections),
                "destroyed": len(self.destroyed),
                "minimum": len(self.minimum),
                "collected": len(self.collected),
            },
            fields=fields,
            columns={
                **key_column_values(self.keys),
                "object_id": self.inventory.object_ids,
                "object_root": self.inventory.roots,
                "object_size": array("Q", self.inventory.sizes),
                "object_key": array("I", self.inventory.key_index),
                "reused_key": b"".join(key.key_id for key in self.reused_keys),
                "reused_compartment": b"".join(key.compartment_id for key in self.reused_keys),
                "section_compartment": b"".join(ref.compartment_id for ref in self.sections),
                "section_key": b"".join(ref.data_key_id for ref in self.sections),
                "section_object": b"".join(ref.object_id for ref in self.sections),
                "section_size": array("Q", [ref.size for ref in self.sections]),
                "section_root": b"".join(ref.root for ref in self.sections),
                "destroyed": b"".join(self.destroyed),
                "minimum_compartment": b"".join(self.minimum),
                "minimum_version": array("I", self.minimum.values()),
                "collected": b"".join(self.collected),
            },
        )
        return pack_envelope(FileKind.CHANGE_SET, self.author_id, payload, sign) + b"".join(self.sealed)


def seal_section(
    dataset_id: bytes, compartment_id: bytes, data_key: DataKey, object_id: bytes, plaintext: bytes
) -> tuple[SectionRef, bytes]:
    """Seal the section of one compartment under a data key of the change set."""
    header = Header(Kind.LOG_SECTION, dataset_id, data_key.key_id, object_id)
    sealed, info = seal(data_key.object_key(Kind.LOG_SECTION, object_id), header, plaintext)
    return SectionRef(compartment_id, data_key.key_id, object_id, len(sealed), info.root), sealed


def key_column_values(keys: Sequence[WrappedKey], prefix: str = "key") -> dict[str, ColumnValues]:
    """Wrapped keys as the values of :func:`key_columns`."""
    return {
        f"{prefix}_id": b"".join(key.key_id for key in keys),
        f"{prefix}_compartment": b"".join(key.kek.compartment_id for key in keys),
        f"{prefix}_version": array("I", [key.version for key in keys]),
        f"{prefix}_wrap": [base64.b64encode(key.ciphertext).decode() for key in keys],
    }


def read_key_columns(content: Content, dataset_id: bytes, prefix: str = "key") -> tuple[WrappedKey, ...]:
    """Wrapped keys from their columns; their KEK follows from dataset and compartment, never from what was read."""
    wraps = []
    for line in content.lines(f"{prefix}_wrap"):
        if len(line) > 2 * MAX_WRAP:
            raise MalformedError("A wrapped key is longer than any may be.")
        try:
            wraps.append(base64.b64decode(line, validate=True))
        except (binascii.Error, ValueError):
            raise MalformedError("A wrapped key is not base64.") from None
    return tuple(
        WrappedKey(Kek(dataset_id, compartment), key_id, version, ciphertext)
        for key_id, compartment, version, ciphertext in zip(
            content.blobs(f"{prefix}_id"),
            content.blobs(f"{prefix}_compartment"),
            content.numbers(f"{prefix}_version"),
            wraps,
            strict=True,
        )
    )


def _cut(rest: memoryview, sections: Sequence[SectionRef]) -> tuple[bytes, ...]:
    if sum(ref.size for ref in sections) != len(rest):
        raise TruncatedError("The sealed sections of a change set are not as long as its author says.")
    parts = []
    at = 0
    for ref in sections:
        parts.append(bytes(rest[at : at + ref.size]))
        at += ref.size
    return tuple(parts)
