"""Opening the sealed side of the log: compartments of a checkpoint, and the sections after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from sealedhealth.errors import IntegrityError, KeyDestroyed, KeyMissing, KeyRetired, RosterViolation
from sealedhealth.keys.base import DataKey, WrappedKey
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.checkpoint import Manifest, SegmentRef, open_content
from sealedhealth.log.content import ContentState
from sealedhealth.log.names import checkpoint_name
from sealedhealth.log.replay import LogStep
from sealedhealth.log.section import Section
from sealedhealth.log.state import Accepted, LogState
from sealedhealth.stores import ObjectStore

__all__ = ["Opener", "apply_content", "load_content"]


class Opener(Protocol):
    """Gives data keys to whoever may have them."""

    def __call__(self, wrapped: Sequence[WrappedKey]) -> Mapping[bytes, DataKey]:
        """Data keys by id, in one batch; those whose wrap is not genuine are left out."""
        ...


def load_content(
    store: ObjectStore, manifest: Manifest, compartments: Collection[bytes], keys: Opener
) -> dict[bytes, ContentState]:
    """The content of the given compartments at a checkpoint."""
    refs = [ref for ref in manifest.segments if ref.compartment_id in compartments]
    data_keys = keys(list({ref.wrapped.key_id: ref.wrapped for ref in refs}.values()))

    def fetch(wanted: Sequence[SegmentRef]) -> list[bytes]:
        names = [checkpoint_name(ref.object_id) for ref in wanted]
        files = store.get_many(names, limit=max(ref.size for ref in wanted))
        return [files[name] for name in names]

    present = {ref.compartment_id for ref in refs}
    return {c: open_content(manifest, c, data_keys, fetch) for c in compartments if c in present}


def apply_content(
    contents: dict[bytes, ContentState],
    state: LogState,
    steps: Sequence[LogStep],
    keys: Opener,
    *,
    compartments: Collection[bytes],
) -> None:
    """Apply the sealed sections of *steps* to *contents* (changed in place).

    Data keys come in two batches at most: those of the sections, then those of older
    objects that copies and moves refer to.

    Raises
    ------
    KeyDestroyed
        A section's data key was destroyed: this part of the history cannot be replayed any more.
    """
    sections, data_keys = _sections(state, steps, keys, compartments)
    old = {
        row.data_key_id
        for section in sections.values()
        if section is not None
        for row in section.old_objects
        if row.data_key_id in state.keys and row.data_key_id not in state.destroyed
    }
    data_keys |= keys([state.keys[key_id].wrapped for key_id in old - data_keys.keys()])

    def key_of(sequence: int, key_id: bytes) -> DataKey | None:
        record = state.keys.get(key_id)
        # Everybody judges alike, however many commits they replay at once: later keys do not exist yet.
        if record is not None and record.sequence <= sequence:
            if key_id in state.destroyed:
                return None
            if key_id in data_keys:
                return data_keys[key_id]
        raise RosterViolation("It names a data key that the log does not have, or whose wrap is not genuine.")

    for step in steps:
        for accepted in step.accepted:
            for compartment in compartments:
                if compartment in accepted.policy.compartments:
                    content = contents.setdefault(compartment, ContentState(compartment))
                    _apply_one(content, state, accepted, sections, partial(key_of, accepted.sequence))


def _sections(
    state: LogState, steps: Sequence[LogStep], keys: Opener, compartments: Collection[bytes]
) -> tuple[dict[tuple[bytes, bytes], Section | None], dict[bytes, DataKey]]:
    wanted = [
        (accepted.change, ref)
        for step in steps
        for accepted in step.accepted
        for ref in accepted.change.sections
        if ref.compartment_id in compartments
    ]
    needed = {
        wrapped.key_id: state.keys[wrapped.key_id].wrapped
        for change, _ in wanted
        for wrapped in change.keys
        if wrapped.kek.compartment_id in compartments and wrapped.key_id in state.keys
        if wrapped.key_id not in state.destroyed
    }
    needed |= {
        reused.key_id: state.keys[reused.key_id].wrapped
        for change, _ in wanted
        for reused in change.reused_keys
        if reused.compartment_id in compartments and reused.key_id not in state.destroyed
    }
    data_keys = dict(keys(list(needed.values())))
    doomed = [ref.data_key_id for _, ref in wanted if ref.data_key_id in state.destroyed]
    try:
        # A destruction that was interrupted between its tombstone and the end of the key leaves this open.
        data_keys |= keys([state.keys[key_id].wrapped for key_id in doomed])
    except (KeyDestroyed, KeyRetired, KeyMissing):
        raise KeyDestroyed(
            f"A data key that this replay needs was destroyed in commit {state.destroyed[doomed[0]]}.",
            safe="Later snapshots open.",
            next="Open a snapshot after the destruction.",
        ) from None
    sections: dict[tuple[bytes, bytes], Section | None] = {}
    for change, ref in wanted:
        section = None
        if ref.data_key_id in data_keys:
            # Whatever is wrong in here is the author's doing, not the host's: the digest of the file says so.
            with suppress(IntegrityError):
                section = Section.read(change.open_section(ref, data_keys[ref.data_key_id]))
        sections[change.change_id, ref.compartment_id] = section
    return sections, data_keys


def _apply_one(
    content: ContentState,
    state: LogState,
    accepted: Accepted,
    sections: Mapping[tuple[bytes, bytes], Section | None],
    key_of: Callable[[bytes], DataKey | None],
) -> None:
    change = accepted.change
    if change.kind is ChangeKind.DESTROY:
        content.destroy(accepted.sequence, frozenset(change.destroyed), state.keys)
    elif change.kind is ChangeKind.COLLECT:
        content.collected(frozenset(change.collected))
    place = change.change_id, content.compartment_id
    if place not in sections:
        return
    section = sections[place]
    if section is None:
        content.refuse(accepted, "Its sealed section is not what its author's public part says.")
    else:
        content.apply(accepted, section, key_of)
