"""Commits that the data controller has taken back: which anchors count for nothing because a later one says so.

A link by the root key may say ``void: n``: the anchors from number *n* up to its own count for nothing. It is the way
out when somebody with an author's key has committed what nobody can read: no reader gets past that, so the word that it
does not count has to be found by looking ahead. Nothing but the root key's signature is believed in doing so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sealedhealth.errors import IntegrityError
from sealedhealth.keys.base import AnchorEntry
from sealedhealth.log.envelope import ROOT_AUTHOR, verify_envelope
from sealedhealth.log.link import Link

__all__ = ["VoidRange", "void_ranges", "voided_by"]

VoidRange = tuple[int, int]  #: first anchor that counts for nothing, and the one that says so


def void_ranges(entries: Iterable[AnchorEntry], dataset_id: bytes, root_key: bytes) -> set[VoidRange]:
    """What the root key's links among *entries* take back, each in its own place and of this dataset."""
    found: set[VoidRange] = set()
    for entry in entries:
        try:
            envelope = Link.split(entry.link)
            if envelope.author_id != ROOT_AUTHOR:
                continue
            verify_envelope(envelope, root_key)
            link = Link.read(envelope)
        except IntegrityError:
            continue  # a void link like any other
        if link.void is not None and (link.dataset_id, link.sequence) == (dataset_id, entry.sequence):
            found.add((link.void, link.sequence))
    return found


def voided_by(sequence: int, ranges: Collection[VoidRange]) -> int | None:
    """The number of the commit that took the anchor *sequence* back, if one did."""
    return next((by for first, by in sorted(ranges) if first <= sequence < by), None)
