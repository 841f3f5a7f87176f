"""Checkpoints: the catalogue at one commit, so that opening does not replay the whole log.

A checkpoint is a signed manifest, followed in the same file by the public table
(every data key the log has introduced), and sealed segments beside it.  It is
bound to the digest of the link it stands for and signed by a curator.  Its data
keys are used for nothing else, and its segments can be shared with later
checkpoints when nothing in them has changed.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sealedhealth.errors import MalformedError, TamperedError, WrongKey
from sealedhealth.format import Header, Kind, open_sealed, seal
from sealedhealth.keys.base import DataKey, WrappedKey
from sealedhealth.log.catalogue import Catalogue
from sealedhealth.log.changeset import ChangeKind, key_column_values, key_columns, read_key_columns
from sealedhealth.log.columns import Column, Field, Schema, decode, encode
from sealedhealth.log.content import ContentState, Dropped
from sealedhealth.log.envelope import Envelope, FileKind, pack_envelope, split_envelope
from sealedhealth.log.link import DIGEST_SIZE, MAX_SEQUENCE, ChangeRef
from sealedhealth.log.section import MAX_ENTRIES, dump_notes, read_notes
from sealedhealth.log.segment import Segment
from sealedhealth.log.state import KeyRecord, LogState
from sealedhealth.log.strict import MAX_TIME_US

__all__ = ["Manifest", "SegmentRef", "open_content", "seal_content"]

MANIFEST_LIMIT = 1 << 30
MAX_SEGMENTS = 1 << 16
_KINDS = list(ChangeKind)
_FETCH = 4  #: segments fetched at once, about 8 MiB each

_PUBLIC = Schema(
    name="keys/1",
    fields={"horizon": Field(int, MAX_SEQUENCE)},
    columns={
        **key_columns(),
        "key_sequence": Column("u64", "key", compress=True),
        "key_kind": Column("u32", "key", compress=True),
        "change": Column("bytes:16", "change"),
        "destroyed": Column("bytes:16", "destroyed", optional=True),
        "destroyed_sequence": Column("u64", "destroyed", compress=True, optional=True),
        "minimum_compartment": Column("bytes:16", "minimum", optional=True),
        "minimum_version": Column("u32", "minimum", optional=True),
        "void_first": Column("u64", "void", optional=True),
        "void_by": Column("u64", "void", optional=True),
    },
    tables={"key": 1 << 24, "change": 1 << 24, "destroyed": 1 << 24, "minimum": 256, "void": 1 << 16},
    max_expanded=MANIFEST_LIMIT,
    optional_tables=frozenset(["void"]),
)

_MANIFEST = Schema(
    name="checkpoint/1",
    fields={
        "dataset": Field(bytes, 16),
        "id": Field(bytes, 16),
        "sequence": Field(int, MAX_SEQUENCE),
        "link": Field(bytes, DIGEST_SIZE),
        "time": Field(int, MAX_TIME_US),
        "policy_version": Field(int, 1 << 31),
        "policy_change": Field(bytes, 16),
        "policy_digest": Field(bytes, DIGEST_SIZE),
        "policy_size": Field(int, 1 << 30),
        "policy_sequence": Field(int, MAX_SEQUENCE),
        "public_digest": Field(bytes, DIGEST_SIZE),
        "public_size": Field(int, MANIFEST_LIMIT),
    },
    columns={
        **key_columns(),
        "segment_compartment": Column("bytes:16", "segment"),
        "segment_object": Column("bytes:16", "segment"),
        "segment_key": Column("u32", "segment"),
        "segment_size": Column("u64", "segment"),
        "segment_root": Column("bytes:32", "segment"),
        "segment_rows": Column("u32", "segment"),
    },
    tables={"key": 4096, "segment": MAX_SEGMENTS},
    max_expanded=64 << 20,
)

_EXTRA = Schema(
    name="extra/1",
    fields={"notes": Field(str, 8 << 20), "compartment": Field(str, 1024)},
    columns={
        "tag_name": Column("text", "tag"),
        "tag_sequence": Column("u64", "tag"),
        "dropped_object": Column("bytes:16", "dropped"),
        "dropped_key": Column("bytes:16", "dropped", compress=True),
        "dropped_sequence": Column("u64", "dropped", compress=True),
        "dropped_size": Column("u64", "dropped", compress=True),
        "dropped_born": Column("u64", "dropped", compress=True, optional=True),
        "shared_uid": Column("bytes:32", "shared"),
        "shared_count": Column("u32", "shared", compress=True),
        "born_uid": Column("bytes:32", "born", optional=True),
        "born_sequence": Column("u64", "born", compress=True, optional=True),
    },
    tables={"tag": 1 << 16, "dropped": 8 * MAX_ENTRIES, "shared": 8 * MAX_ENTRIES, "born": 8 * MAX_ENTRIES},
    max_expanded=1 << 30,
    optional_tables=frozenset(["born"]),
)


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """One sealed part of a checkpoint: a run of the catalogue, or (no rows) the rest of a compartment's state."""

    compartment_id: bytes
    object_id: bytes
    wrapped: WrappedKey
    size: int
    root: bytes
    rows: int  #: entries; 0 marks the part with tags, dropped objects and names


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's manifest."""

    dataset_id: bytes
    checkpoint_id: bytes
    sequence: int
    link: bytes  #: digest of the link of :attr:`sequence`
    time_us: int
    policy_version: int
    policy_ref: ChangeRef
    policy_sequence: int
    segments: tuple[SegmentRef, ...]
    public: bytes = field(default=b"", repr=False)  #: the public table, checked against the manifest

    @staticmethod
    def split(data: bytes) -> Envelope:
        """The envelope of a manifest file, not yet verified."""
        return split_envelope(FileKind.CHECKPOINT, data, limit=MANIFEST_LIMIT)

    @classmethod
    def read(cls, envelope: Envelope) -> Manifest:
        """Parse a manifest whose signature has been checked."""
        content = decode(_MANIFEST, envelope.payload)
        dataset_id = content.binary("dataset")
        keys = read_key_columns(content, dataset_id)
        indexes = content.numbers("segment_key")
        if indexes and max(indexes) >= len(keys):
            raise MalformedError("A checkpoint names a data key that it does not bring.")
        segments = tuple(
            map(
                SegmentRef,
                content.blobs("segment_compartment"),
                content.blobs("segment_object"),
                [keys[index] for index in indexes],
                content.numbers("segment_size"),
                content.blobs("segment_root"),
                content.numbers("segment_rows"),
            )
        )
        if any(ref.wrapped.kek.compartment_id != ref.compartment_id for ref in segments):
            raise MalformedError("A checkpoint seals a segment under another compartment's key.")
        public = bytes(envelope.rest)
        if len(public) != content.integer("public_size") or hashlib.sha384(public).digest() != content.binary(
            "public_digest"
        ):
            raise TamperedError("The public table of a checkpoint is not what its curator signed.")
        return cls(
            dataset_id=dataset_id,
            checkpoint_id=content.binary("id"),
            sequence=content.integer("sequence"),
            link=content.binary("link"),
            time_us=content.integer("time"),
            policy_version=content.integer("policy_version"),
            policy_ref=ChangeRef(
                content.binary("policy_change"),
                content.binary("policy_digest"),
                content.integer("policy_size"),
            ),
            policy_sequence=content.integer("policy_sequence"),
            segments=segments,
            public=public,
        )

    def pack(self, author_id: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """The bytes of the file; *sign* uses the curator's key."""
        keys = list({ref.wrapped.key_id: ref.wrapped for ref in self.segments}.values())
        position = {key.key_id: index for index, key in enumerate(keys)}
        payload = encode(
            _MANIFEST,
            rows={"key": len(keys), "segment": len(self.segments)},
            fields={
                "dataset": self.dataset_id,
                "id": self.checkpoint_id,
                "sequence": self.sequence,
                "link": self.link,
                "time": self.time_us,
                "policy_version": self.policy_version,
                "policy_change": self.policy_ref.change_id,
                "policy_digest": self.policy_ref.digest,
                "policy_size": self.policy_ref.size,
                "policy_sequence": self.policy_sequence,
                "public_digest": hashlib.sha384(self.public).digest(),
                "public_size": len(self.public),
            },
            columns={
                **key_column_values(keys),
                "segment_compartment": b"".join(ref.compartment_id for ref in self.segments),
                "segment_object": b"".join(ref.object_id for ref in self.segments),
                "segment_key": array("I", [position[ref.wrapped.key_id] for ref in self.segments]),
                "segment_size": array("Q", [ref.size for ref in self.segments]),
                "segment_root": b"".join(ref.root for ref in self.segments),
                "segment_rows": array("I", [ref.rows for ref in self.segments]),
            },
        )
        return pack_envelope(FileKind.CHECKPOINT, author_id, payload, sign) + self.public

    def restore(self, start: LogState) -> LogState:
        """The public state that the checkpoint stands for; *start* is the state before the first commit.

        Policy and checkpoint hint are left to the caller, who has to fetch and check the policy's own file.
        """
        content = decode(_PUBLIC, self.public)
        keys = read_key_columns(content, self.dataset_id)
        kinds = content.numbers("key_kind")
        if kinds and max(kinds) >= len(_KINDS):
            raise MalformedError("A checkpoint names an unknown kind of change set.")
        state = start.copy()
        state.keys = {
            wrapped.key_id: KeyRecord(wrapped, sequence, _KINDS[kind])
            for wrapped, sequence, kind in zip(keys, content.numbers("key_sequence"), kinds, strict=True)
        }
        state.changes = set(content.blobs("change"))
        state.destroyed = dict(zip(content.blobs("destroyed"), content.numbers("destroyed_sequence"), strict=True))
        state.minimum = dict(zip(content.blobs("minimum_compartment"), content.numbers("minimum_version"), strict=True))
        state.horizon = content.integer("horizon")
        state.voids = tuple(zip(content.numbers("void_first"), content.numbers("void_by"), strict=True))
        state.sequence = state.head_sequence = self.sequence
        state.head = self.link
        state.policy_ref = self.policy_ref
        state.policy_sequence = self.policy_sequence
        return state


def pack_public(state: LogState) -> bytes:
    """The public table of a checkpoint."""
    records = list(state.keys.values())
    return encode(
        _PUBLIC,
        rows={
            "key": len(records),
            "change": len(state.changes),
            "destroyed": len(state.destroyed),
            "minimum": len(state.minimum),
            "void": len(state.voids),
        },
        fields={"horizon": state.horizon},
        columns={
            **key_column_values([record.wrapped for record in records]),
            "key_sequence": array("Q", [record.sequence for record in records]),
            "key_kind": array("I", [_KINDS.index(record.kind) for record in records]),
            "change": b"".join(sorted(state.changes)),
            "destroyed": b"".join(state.destroyed),
            "destroyed_sequence": array("Q", state.destroyed.values()),
            "minimum_compartment": b"".join(state.minimum),
            "minimum_version": array("I", state.minimum.values()),
            "void_first": array("Q", [first for first, _ in state.voids]),
            "void_by": array("Q", [by for _, by in state.voids]),
        },
    )


def _pack_extra(content: ContentState) -> bytes:
    dropped = list(content.dropped.values())
    return encode(
        _EXTRA,
        rows={
            "tag": len(content.tags),
            "dropped": len(dropped),
            "shared": len(content.shared),
            "born": len(content.born),
        },
        fields={"notes": dump_notes(content.notes), "compartment": content.name},
        columns={
            "tag_name": list(content.tags),
            "tag_sequence": array("Q", content.tags.values()),
            "dropped_object": b"".join(item.object_id for item in dropped),
            "dropped_key": b"".join(item.data_key_id for item in dropped),
            "dropped_sequence": array("Q", [item.dropped for item in dropped]),
            "dropped_size": array("Q", [item.sealed_size for item in dropped]),
            "dropped_born": array("Q", [item.born for item in dropped]),
            "shared_uid": b"".join(content.shared),
            "shared_count": array("I", content.shared.values()),
            "born_uid": b"".join(content.born),
            "born_sequence": array("Q", content.born.values()),
        },
    )


def _read_extra(content: ContentState, data: bytes) -> None:
    extra = decode(_EXTRA, data)
    content.notes = read_notes(extra.string("notes"))
    content.name = extra.string("compartment")
    content.tags = dict(zip(extra.lines("tag_name"), extra.numbers("tag_sequence"), strict=True))
    for item in map(
        Dropped,
        extra.blobs("dropped_object"),
        extra.blobs("dropped_key"),
        extra.numbers("dropped_sequence"),
        extra.numbers("dropped_size"),
        extra.numbers("dropped_born"),
    ):
        content.dropped[item.data_key_id + item.object_id] = item
    content.shared = dict(zip(extra.blobs("shared_uid"), extra.numbers("shared_count"), strict=True))
    content.born = dict(zip(extra.blobs("born_uid"), extra.numbers("born_sequence"), strict=True))


def seal_content(
    content: ContentState,
    dataset_id: bytes,
    data_key: DataKey,
    wrapped: WrappedKey,
    *,
    reuse: Collection[bytes],
    random: Callable[[int], bytes],
) -> tuple[list[SegmentRef], dict[bytes, bytes], ContentState]:
    """Seal one compartment for a checkpoint.

    Parameters
    ----------
    reuse:
        Ids of stored segments that may be shared. All others are sealed again.
    random:
        ``os.urandom``, or something repeatable in tests.

    Returns
    -------
    The references in order, the new sealed files by object id, and the compacted content.
    """
    refs: list[SegmentRef] = []
    files: dict[bytes, bytes] = {}

    def add(plaintext: bytes, rows: int) -> SegmentRef:
        object_id = random(16)
        header = Header(Kind.CHECKPOINT_SECTION, dataset_id, data_key.key_id, object_id)
        sealed, info = seal(data_key.object_key(Kind.CHECKPOINT_SECTION, object_id), header, plaintext)
        files[object_id] = sealed
        ref = SegmentRef(content.compartment_id, object_id, wrapped, len(sealed), info.root, rows)
        refs.append(ref)
        return ref

    # The segments at hand are not told where they are going to be: storing them may fail.
    stored: list[Segment] = []
    for segment in content.catalogue.segments():
        known = segment.ref
        if isinstance(known, SegmentRef) and known.object_id in reuse:
            refs.append(known)
            stored.append(segment)
        else:
            stored.append(segment.stored_at(add(segment.encode(), len(segment))))
    add(_pack_extra(content), 0)
    result = content.copy()
    result.catalogue = Catalogue.from_segments(stored)
    return refs, files, result


def open_content(
    manifest: Manifest,
    compartment_id: bytes,
    keys: Mapping[bytes, DataKey],
    fetch: Callable[[Sequence[SegmentRef]], Sequence[bytes]],
) -> ContentState:
    """Open one compartment of a checkpoint.

    Parameters
    ----------
    fetch:
        Gets sealed parts from the store; it is asked for a few at a time, so that memory
        holds the catalogue but never all of its sealed bytes.

    Raises
    ------
    TamperedError, WrongKey, MalformedError
        A part is not what the curator signed.
    """
    content = ContentState(compartment_id)
    segments: list[Segment] = []
    extras = 0
    refs = [ref for ref in manifest.segments if ref.compartment_id == compartment_id]
    for start in range(0, len(refs), _FETCH):
        batch = refs[start : start + _FETCH]
        for ref, data in zip(batch, fetch(batch), strict=True):
            header = Header(Kind.CHECKPOINT_SECTION, manifest.dataset_id, ref.wrapped.key_id, ref.object_id)
            if ref.wrapped.key_id not in keys:
                raise WrongKey(
                    "The wrap of a checkpoint's data key is not genuine.",
                    safe="Nothing was opened.",
                    next="If the key service was restored from a backup, this key was wrapped after it: it is lost.",
                )
            key = keys[ref.wrapped.key_id].object_key(Kind.CHECKPOINT_SECTION, ref.object_id)
            plaintext = open_sealed(key, header, data, root=ref.root)
            if ref.rows == 0:
                extras += 1
                _read_extra(content, plaintext)
                continue
            segment = Segment.decode(plaintext, ref=ref)
            if len(segment) != ref.rows:
                raise MalformedError("A checkpoint segment has another number of entries than its manifest says.")
            segments.append(segment)
    if extras != 1:
        raise MalformedError("A checkpoint lacks a part of a compartment, or has it twice.")
    content.catalogue = Catalogue.from_segments(segments)
    return content
