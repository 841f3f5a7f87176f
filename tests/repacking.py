"""Sealing files anew under the data key that they lie under already, as garbage collection does it; each part can be
made wrong.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate

from sealedhealth.format import Header, Kind, seal
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, ReusedKey, seal_section
from sealedhealth.log.names import object_name
from sealedhealth.log.section import Put, Section
from sealedhealth.session import Session
from sealedhealth.session.commit import Request, submit

__all__ = ["commit_repack", "repack"]


def repack(session: Session, paths: Sequence[str], *, author_id: bytes = b"", object_id: bytes = b"") -> ChangeSet:
    """A change set that puts *paths*, which lie under one data key, into one new object under it; it is stored."""
    engine = session.engine
    entries = [entry for path in paths if (entry := session.snapshot.get(path)) is not None]
    [key_id] = {entry.data_key_id for entry in entries}
    wrapped = engine.loaded.state.keys[key_id].wrapped
    data_key = engine.unwrap([wrapped])[key_id]
    compartment = wrapped.kek.compartment_id
    contents = session.read_ranges([(entry, 0, entry.length) for entry in entries])
    object_id = object_id or os.urandom(16)
    header = Header(Kind.OBJECT, engine.dataset_id, key_id, object_id)
    sealed, info = seal(data_key.object_key(Kind.OBJECT, object_id), header, b"".join(contents))
    engine.store.put(object_name(object_id), sealed)
    offsets = accumulate(map(len, contents), initial=0)
    puts = [
        Put(path, 0, offset, entry.length, entry.mtime_us)
        for path, offset, entry in zip(paths, offsets, entries, strict=False)
    ]
    section = Section(new_objects=((0, info.salt),), puts=tuple(puts))
    ref, sealed_section = seal_section(engine.dataset_id, compartment, data_key, os.urandom(16), section.pack())
    policy = engine.loaded.state.policy
    assert policy is not None
    return ChangeSet(
        dataset_id=engine.dataset_id,
        change_id=os.urandom(16),
        author_id=author_id or engine.author(policy).author_id,
        kind=ChangeKind.DATA,
        time_us=0,
        reused_keys=(ReusedKey(key_id, compartment),),
        inventory=Inventory(object_id, info.root, [info.sealed_size], [0]),
        sections=(ref,),
        sealed=(sealed_section,),
    )


def commit_repack(session: Session, paths: Sequence[str]) -> int:
    """Commit :func:`repack` as this session's identity; returns the commit's number."""
    session.refresh()
    change = repack(session, paths)
    request = Request(change=change, raw=change.pack(session.engine.sign), base=session.snapshot,
                      touched=frozenset(paths), puts=frozenset(paths))  # fmt: skip
    sequence = submit(session.engine, request)
    session.committed(sequence)
    return sequence
