"""Anchors in a directory: one create-only file for each dataset and sequence number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

from sealedhealth.errors import AnchorTaken, InvalidInput, TamperedError, TruncatedError
from sealedhealth.keys.base import ID_SIZE, MAX_LINK_SIZE, AnchorEntry
from sealedhealth.keys.local.files import KeystoreFiles

__all__ = ["ANCHORS", "MAX_ANCHOR_SIZE", "LocalAnchors"]

ANCHORS = "anchors"
MAX_SEQUENCE = 2**53 - 1
MAX_HEAD_SIZE = 256
MAX_ANCHOR_SIZE = MAX_HEAD_SIZE + MAX_LINK_SIZE
_LABEL = b"sealedhealth anchor 1"


class LocalAnchors:
    """The anchor store of a keystore.

    A file holds a head line (label, time of creation, length and SHA-256) and the link. The
    digest covers dataset and sequence number too, so a file that was cut short, altered or
    renamed is noticed. Links are signed by their authors: that is not repeated here.
    """

    def __init__(self, files: KeystoreFiles, clock: Callable[[], datetime]) -> None:
        self._files = files
        self._clock = clock
        self._made: set[bytes] = set()  # datasets whose directory this process knows to be durable

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        """See :class:`sealedhealth.keys.AnchorStore`."""
        name = _name(dataset_id, sequence)
        if not 0 < len(link) <= MAX_LINK_SIZE:
            raise InvalidInput(f"A link has 1 to {MAX_LINK_SIZE} bytes, not {len(link)}.", safe="Nothing was written.")
        created = self._clock()
        with self._files.shared():
            if dataset_id not in self._made:
                self._files.make_directory(f"{ANCHORS}/{dataset_id.hex()}")
                self._made.add(dataset_id)
            if not self._files.create(name, _head(dataset_id, sequence, created, link) + link):
                raise AnchorTaken(
                    f"Anchor {sequence} of dataset {dataset_id.hex()} exists already.",
                    safe="It is unchanged.",
                    next="Read it, rebase on it, and commit again.",
                )
        return AnchorEntry(sequence, bytes(link), created)

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        """See :class:`sealedhealth.keys.AnchorStore`. Also raises ``TamperedError`` for a damaged file."""
        stored = self._files.read(_name(dataset_id, sequence), limit=MAX_ANCHOR_SIZE)
        if stored is None:
            return None
        head, newline, link = stored.partition(b"\n")
        try:
            label, created, length, _ = head.rsplit(b" ", 3)
            entry = AnchorEntry(sequence, link, datetime.fromisoformat(created.decode()))
            size = int(length)
        except ValueError:
            label, entry, size = b"", None, -1
        if label != _LABEL or entry is None or not newline:
            raise _damaged(TamperedError, dataset_id, sequence)
        if len(link) != size:
            raise _damaged(TruncatedError, dataset_id, sequence)
        if head + newline != _head(dataset_id, sequence, entry.created, link):
            raise _damaged(TamperedError, dataset_id, sequence)
        return entry


def _head(dataset_id: bytes, sequence: int, created: datetime, link: bytes) -> bytes:
    start = b"%b %b %d " % (_LABEL, created.isoformat().encode(), len(link))
    digest = hashlib.sha256(start + dataset_id + sequence.to_bytes(8, "big") + link)
    return start + digest.hexdigest().encode() + b"\n"


def _name(dataset_id: bytes, sequence: int) -> str:
    if len(dataset_id) != ID_SIZE:
        raise InvalidInput(f"A dataset id has {ID_SIZE} bytes.")
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise InvalidInput(f"A sequence number is 0 to {MAX_SEQUENCE}.")
    return f"{ANCHORS}/{dataset_id.hex()}/{sequence:020d}"


def _damaged(error: type[TamperedError], dataset_id: bytes, sequence: int) -> TamperedError:
    how = "ends too early, or goes on too long" if error is TruncatedError else "is damaged"
    return error(
        f"The keystore's anchor {sequence} of dataset {dataset_id.hex()} {how}.",
        safe="It was not used, and nothing was changed.",
        next="Restore the keystore from a backup.",
    )
