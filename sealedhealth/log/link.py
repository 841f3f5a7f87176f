"""The two small signed files: the descriptor that a dataset starts from, and links.

A link is the commit of one sequence number.  It is also the value of the anchor,
so it stays small: it names change sets by digest and holds nothing else.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from sealedhealth.errors import DatasetMismatch, MalformedError
from sealedhealth.log.envelope import (
    ENVELOPE_OVERHEAD,
    ROOT_AUTHOR,
    Envelope,
    FileKind,
    pack_envelope,
    split_envelope,
    verify_envelope,
)
from sealedhealth.log.roster import POINT_SIZE
from sealedhealth.log.strict import dump_json, load_json

__all__ = [
    "DESCRIPTOR_SIZE",
    "LINK_LIMIT",
    "ChangeRef",
    "CheckpointRef",
    "Descriptor",
    "Link",
    "dataset_id_of",
    "file_digest",
]

_DESCRIPTOR = struct.Struct(f">{POINT_SIZE}s32sQ")  # fixed fields: nothing to parse before the signature is checked
DESCRIPTOR_SIZE = ENVELOPE_OVERHEAD + _DESCRIPTOR.size
LINK_LIMIT = 64 * 1024
MAX_CHANGES = 256
MAX_SEQUENCE = 1 << 48
MAX_FILE = 1 << 30
DIGEST_SIZE = 48

Sign = Callable[[bytes], bytes]


def file_digest(data: bytes) -> bytes:
    """SHA-384 of a whole file: how the log names its files."""
    return hashlib.sha384(data).digest()


def dataset_id_of(root_key: bytes, nonce: bytes) -> bytes:
    """First 16 bytes of SHA-384("sealedhealth/v1/dataset" || 00 || root public key || nonce)."""
    return hashlib.sha384(b"sealedhealth/v1/dataset\0" + root_key + nonce).digest()[:16]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The immutable first file of a dataset: its root public key and nonce."""

    root_key: bytes
    nonce: bytes
    created_us: int

    @property
    def dataset_id(self) -> bytes:
        """The id that follows from root key and nonce."""
        return dataset_id_of(self.root_key, self.nonce)

    def pack(self, sign: Sign) -> bytes:
        """The signed file; *sign* uses the root key."""
        payload = _DESCRIPTOR.pack(self.root_key, self.nonce, self.created_us)
        return pack_envelope(FileKind.DESCRIPTOR, ROOT_AUTHOR, payload, sign)

    @classmethod
    def load(cls, data: bytes, *, dataset_id: bytes | None) -> Descriptor:
        """Read a descriptor and check that it is *dataset_id*'s.

        Its own root key verifies it; what makes that key the right one is the
        dataset id, which comes from the key service and not from the store. With
        ``None`` the caller compares the root key with one of its own.

        Raises
        ------
        DatasetMismatch
            A genuine descriptor of another dataset.
        TamperedError, MalformedError, UnsupportedFormat
            Not what the root key signed.
        """
        envelope = split_envelope(FileKind.DESCRIPTOR, data, limit=_DESCRIPTOR.size)
        if len(envelope.payload) != _DESCRIPTOR.size:
            raise MalformedError(
                "The descriptor (.sealedhealth/dataset) has a wrong length.",
                safe="It was not used.",
                next="Restore the file from another copy of the store.",
            )
        descriptor = cls(*_DESCRIPTOR.unpack(envelope.payload))
        if dataset_id is not None and descriptor.dataset_id != dataset_id:
            wanted = dataset_id.hex()
            raise DatasetMismatch(
                f"The store holds the dataset {descriptor.dataset_id.hex()} where {wanted} belongs.",
                safe="Nothing of it was used.",
                next="Check the URL; after a move, register the new URL with the key service.",
            )
        verify_envelope(envelope, descriptor.root_key)
        if envelope.author_id != ROOT_AUTHOR or len(envelope.rest):
            raise MalformedError("The descriptor has a foreign author or trailing bytes.")
        return descriptor


@dataclass(frozen=True, slots=True)
class ChangeRef:
    """Names one change-set file."""

    change_id: bytes
    digest: bytes
    size: int


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Names one checkpoint manifest. A hint: a checkpoint stands on its own signature."""

    checkpoint_id: bytes
    digest: bytes
    size: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Link:
    """The commit of one sequence number."""

    dataset_id: bytes
    sequence: int
    parent: bytes  #: SHA-384 of the last valid link before, or of the descriptor
    author_id: bytes
    changes: tuple[ChangeRef, ...]
    time_us: int
    checkpoint: CheckpointRef | None = None
    void: int | None = None  #: by the root key only: the anchors from this number up to its own count for nothing

    def pack(self, sign: Sign) -> bytes:
        """The signed file; *sign* uses the author's key."""
        hint = self.checkpoint
        payload = {
            "dataset": self.dataset_id.hex(),
            "sequence": self.sequence,
            "parent": self.parent.hex(),
            "changes": [{"id": c.change_id.hex(), "digest": c.digest.hex(), "size": c.size} for c in self.changes],
            "time": self.time_us,
            "checkpoint": hint
            and {
                "id": hint.checkpoint_id.hex(),
                "digest": hint.digest.hex(),
                "size": hint.size,
                "sequence": hint.sequence,
            },
            **({} if self.void is None else {"void": self.void}),
        }
        return pack_envelope(FileKind.LINK, self.author_id, dump_json(payload), sign)

    @classmethod
    def split(cls, data: bytes) -> Envelope:
        """The envelope of a link file, not yet verified."""
        if len(data) > LINK_LIMIT:
            raise MalformedError(f"A link of {len(data)} bytes is larger than any link may be ({LINK_LIMIT}).")
        envelope = split_envelope(FileKind.LINK, data, limit=LINK_LIMIT - ENVELOPE_OVERHEAD)
        if len(envelope.rest):
            raise MalformedError("A link has trailing bytes.")
        return envelope

    @classmethod
    def read(cls, envelope: Envelope) -> Link:
        """Parse a link whose signature has been checked."""
        fields = load_json(envelope.payload, "link")
        changes = []
        for item in fields.objects("changes", limit=MAX_CHANGES):
            change = ChangeRef(
                item.hex("id", 16), item.hex("digest", DIGEST_SIZE), item.integer("size", least=1, most=MAX_FILE)
            )
            item.finish()
            changes.append(change)
        hint = None
        if fields.has("checkpoint"):
            item = fields.object("checkpoint")
            hint = CheckpointRef(
                item.hex("id", 16),
                item.hex("digest", DIGEST_SIZE),
                item.integer("size", least=1, most=MAX_FILE),
                item.integer("sequence", most=MAX_SEQUENCE),
            )
            item.finish()
        link = cls(
            dataset_id=fields.hex("dataset", 16),
            sequence=fields.integer("sequence", most=MAX_SEQUENCE),
            parent=fields.hex("parent", DIGEST_SIZE),
            author_id=envelope.author_id,
            changes=tuple(changes),
            time_us=fields.time("time"),
            checkpoint=hint,
            void=fields.integer("void", least=1, most=MAX_SEQUENCE, absent=0) or None,
        )
        fields.finish()
        if link.void is not None and (link.author_id != ROOT_AUTHOR or link.void >= link.sequence):
            raise MalformedError("A link takes back what it may not.")
        if not changes or len({change.change_id for change in changes}) != len(changes):
            raise MalformedError("A link names no change set, or one twice.")
        if sum(change.size for change in changes) > MAX_FILE:
            raise MalformedError("The change sets of a link are larger than they may be together.")
        return link
