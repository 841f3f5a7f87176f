"""Housekeeping: checkpoints, garbage collection, rotation, rewrapping, destruction."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from sealedhealth.errors import (
    AccessDenied,
    IntegrityError,
    InvalidInput,
    KeyRetired,
    MissingError,
    NotFound,
    SealedHealthError,
)
from sealedhealth.keys.base import DatasetRef, WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet
from sealedhealth.log.checkpoint import Manifest, SegmentRef, pack_public, seal_content
from sealedhealth.log.content import ContentState, Dropped
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import CheckpointRef, file_digest
from sealedhealth.log.replay import checkpoint_name, object_name
from sealedhealth.log.roster import Role
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.engine import Engine, Loaded
from sealedhealth.session.orphans import Orphans
from sealedhealth.session.session import Session

__all__ = [
    "CheckpointReport",
    "CollectReport",
    "DestroyReport",
    "RewrapReport",
    "checkpoint",
    "checkpoint_due",
    "collect",
    "destroy_dataset",
    "destroy_keys",
    "maintain",
    "rewrap",
    "rotate",
]

TAIL_COMMITS = 64  #: replaying more commits than this makes a checkpoint due
_BATCH = 1000  #: keys in one rewrap commit


# -- checkpoints -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """A checkpoint that was written."""

    sequence: int  #: the commit it stands for
    entries: int
    segments: int
    reused: int  #: segments shared with the checkpoint before
    written_bytes: int


def checkpoint_due(session: Session) -> bool:
    """Whether opening replays more than 64 commits, or more than a quarter of the checkpoint's size."""
    loaded = session.engine.loaded
    return loaded.tail > TAIL_COMMITS or (
        loaded.tail > 1 and loaded.checkpoint_bytes > 0 and loaded.tail_bytes > loaded.checkpoint_bytes / 4
    )


def checkpoint(session: Session, *, fresh: bool = False) -> CheckpointReport:
    """Write a checkpoint of the newest commit; later commits point to it.

    Parameters
    ----------
    fresh:
        Share no segment with earlier checkpoints (after keys were rewrapped or destroyed).

    Raises
    ------
    AccessDenied
        This identity is not a curator, or cannot read.
    """
    engine = session.engine
    engine.refresh()
    with engine.lock:
        return _checkpoint(engine, fresh=fresh)[0]


def _checkpoint(engine: Engine, *, fresh: bool) -> tuple[CheckpointReport, CheckpointRef]:
    loaded = engine.loaded
    state = loaded.state
    policy = state.policy
    if policy is None or state.policy_ref is None or loaded.contents is None:
        raise AccessDenied("A checkpoint can only be made by somebody who can read the dataset.")
    author = engine.author(policy)
    if not author.may(Role.CURATOR):
        raise AccessDenied("Only a curator may make checkpoints.", next="Ask the data controller for the role.")
    refs: list[SegmentRef] = []
    files: dict[bytes, bytes] = {}
    compacted: dict[bytes, ContentState] = {}
    for compartment, content in loaded.contents.items():
        reuse = {} if fresh else _reusable(content, state.minimum.get(compartment, 1))
        with engine.keyring.sealing_key(engine.kek(compartment)) as sealing:
            part_refs, part_files, compacted[compartment] = seal_content(
                content, engine.dataset_id, sealing.data_key, sealing.wrapped, reuse=reuse, random=os.urandom
            )
        refs += part_refs
        files |= part_files
    entry = engine.log.anchor(state.head_sequence)
    if entry is None:
        raise MissingError("The anchor of the newest commit is gone.")
    manifest = Manifest(
        dataset_id=engine.dataset_id,
        checkpoint_id=os.urandom(16),
        sequence=state.head_sequence,
        link=state.head,
        time_us=microseconds(engine.context.service.now()),
        policy_version=policy.version,
        policy_ref=state.policy_ref,
        policy_sequence=state.policy_sequence,
        segments=tuple(refs),
        public=pack_public(state),
    )
    raw = manifest.pack(author.author_id, engine.sign)
    engine.store.put_many({checkpoint_name(object_id): data for object_id, data in files.items()})
    engine.store.put(checkpoint_name(manifest.checkpoint_id), raw)
    engine.store.flush()
    ref = CheckpointRef(manifest.checkpoint_id, file_digest(raw), len(raw), manifest.sequence)
    state.checkpoint = ref
    loaded.contents = compacted
    loaded.tail = loaded.tail_bytes = 0
    loaded.checkpoint_bytes = sum(item.size for item in refs)
    report = CheckpointReport(
        sequence=manifest.sequence,
        entries=sum(len(content.catalogue) for content in compacted.values()),
        segments=len(refs),
        reused=len(refs) - len(files),
        written_bytes=len(raw) + sum(map(len, files.values())),
    )
    return report, ref


def _reusable(content: ContentState, minimum: int) -> dict[bytes, WrappedKey]:
    """Keys of earlier segments, unless there are so many that opening would take more than a batch."""
    keys = {
        segment.ref.wrapped.key_id: segment.ref.wrapped
        for segment in content.catalogue.compacted().segments()
        if isinstance(segment.ref, SegmentRef) and segment.ref.wrapped.version >= minimum
    }
    return keys if len(keys) <= 16 else {}


def maintain(session: Session, *, force: bool = False) -> CheckpointReport | None:
    """Make a checkpoint when one is due (or *force*) and publish it by a commit; safe to run at any time."""
    engine = session.engine
    engine.refresh()
    if not force and not checkpoint_due(session):
        return None
    with engine.lock:
        report, ref = _checkpoint(engine, fresh=False)
    _publish(session, ref)
    return report


def _publish(session: Session, ref: CheckpointRef) -> int:
    """Commit an empty collection, so that the newest link points to a checkpoint."""
    change = _change(session.engine, ChangeKind.COLLECT, horizon=session.engine.loaded.state.horizon)
    return _submit(session, change, checkpoint=ref)


# -- committing bare change sets -----------------------------------------------------------------------


def _change(  # noqa: PLR0913 - the parts of a change set
    engine: Engine,
    kind: ChangeKind,
    *,
    by_root: bool = False,
    keys: Iterable[WrappedKey] = (),
    destroyed: Iterable[bytes] = (),
    minimum: dict[bytes, int] | None = None,
    collected: Iterable[bytes] = (),
    horizon: int = 0,
) -> ChangeSet:
    policy = engine.loaded.state.policy
    if policy is None:
        raise AccessDenied("The dataset has no policy.")
    return ChangeSet(
        dataset_id=engine.dataset_id,
        change_id=os.urandom(16),
        author_id=ROOT_AUTHOR if by_root else engine.author(policy).author_id,
        kind=kind,
        time_us=microseconds(engine.context.service.now()),
        keys=tuple(keys),
        destroyed=tuple(destroyed),
        minimum=minimum or {},
        collected=tuple(collected),
        horizon=horizon,
    )


def _submit(session: Session, change: ChangeSet, *, checkpoint: CheckpointRef | None = None) -> int:
    engine = session.engine
    sign = engine.sign_as_root if change.author_id == ROOT_AUTHOR else engine.sign
    sequence = submit(engine, Request(change=change, raw=change.pack(sign), checkpoint=checkpoint))
    session.committed(sequence)
    return sequence


# -- garbage collection -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What garbage collection deleted, or would delete."""

    dropped: int  #: objects that commits had dropped longer than the grace ago
    orphans: int  #: objects and files that no commit ever named
    bytes: int  #: sealed bytes of both
    waiting: int  #: orphans seen for the first time, or not long enough ago
    horizon: int  #: snapshots older than this are incomplete, unless tagged
    dry_run: bool


def collect(session: Session, *, grace: timedelta | None = None, dry_run: bool = False) -> CollectReport:
    """Delete objects that no kept snapshot needs.

    An object goes once the commit that dropped it is older than *grace* and no tagged
    snapshot holds it; a file that no commit names goes once this machine has seen it
    unneeded for *grace*. Times are the key service's.

    Parameters
    ----------
    grace:
        Default: the dataset's setting (14 days). A shorter one can break running readers
        of old snapshots, and transactions that are still open.

    Raises
    ------
    AccessDenied
        This identity is not a curator, or cannot read.
    """
    engine = session.engine
    loaded = engine.refresh()
    policy = loaded.state.policy
    if policy is None or loaded.contents is None or not engine.author(policy).may(Role.CURATOR):
        raise AccessDenied("Only a curator who can read may collect garbage.")
    limit = timedelta(seconds=policy.settings.grace_s) if grace is None else grace
    old = _old_enough(engine, loaded, limit)
    kept = {entry_id for content in loaded.contents.values() for entry_id in _live_ids(content)}
    expired = [item for item in old if item.object_id not in kept]
    waiting, orphans = _orphans(engine, loaded, kept, limit)
    horizon = max([loaded.state.horizon, *(item.dropped for item in expired)])
    size = sum(item.sealed_size for item in expired) + sum(orphans.values())
    if not dry_run:
        if expired:
            # Announced before it is done: readers of old snapshots learn why objects are missing.
            change = _change(
                engine, ChangeKind.COLLECT, collected=[item.object_id for item in expired], horizon=horizon
            )
            _submit(session, change)
            engine.store.delete_many([object_name(item.object_id) for item in expired])
        engine.store.delete_many(list(orphans))
        with suppress(SealedHealthError):
            engine.store.delete_unfinished(limit)
    return CollectReport(len(expired), len(orphans), size, waiting, horizon, dry_run)


def _live_ids(content: ContentState) -> Iterable[bytes]:
    return (item.object_id for item in content.catalogue.objects())


def _old_enough(engine: Engine, loaded: Loaded, grace: timedelta) -> list[Dropped]:
    """Dropped objects whose grace is over and that no tag keeps."""
    now = engine.context.service.now()
    ages: dict[int, bool] = {}

    def over(sequence: int) -> bool:
        if sequence not in ages:
            entry = engine.log.anchor(sequence)
            ages[sequence] = entry is not None and now - entry.created >= grace
        return ages[sequence]

    found = []
    for content in (loaded.contents or {}).values():
        for item in content.dropped.values():
            record = loaded.state.keys.get(item.data_key_id)
            born = record.sequence if record else 0
            tagged = any(born <= at < item.dropped for at in loaded.snapshot().tags.values())
            if not tagged and over(item.dropped):
                found.append(item)
    return found


def _orphans(engine: Engine, loaded: Loaded, live: Collection[bytes], grace: timedelta) -> tuple[int, dict[str, int]]:
    """Files of the store that nothing refers to, and that were seen so for longer than the grace."""
    dropped = {item.object_id for content in (loaded.contents or {}).values() for item in content.dropped.values()}
    needed = {object_name(object_id) for object_id in {*live, *dropped}}
    unneeded = {name: size for name, size in engine.store.list("objects") if name not in needed}
    for name, size in engine.store.list(".sealedhealth/checkpoints"):
        if name not in _checkpoint_files(engine, loaded):
            unneeded[name] = size
    changes = {f".sealedhealth/changes/{change_id.hex()}" for change_id in loaded.state.changes}
    for name, size in engine.store.list(".sealedhealth/changes"):
        if name not in changes:
            unneeded[name] = size
    # A commit may have come between the first look and the listing.
    newer = engine.refresh()
    if newer.state.sequence != loaded.state.sequence:
        fresh = {object_name(i) for content in (newer.contents or {}).values() for i in _live_ids(content)}
        fresh |= {f".sealedhealth/changes/{change_id.hex()}" for change_id in newer.state.changes}
        unneeded = {name: size for name, size in unneeded.items() if name not in fresh}
    old = Orphans(engine.profile.state, engine.dataset_id).seen_for(
        unneeded, now=engine.context.service.now(), grace=grace
    )
    return len(unneeded) - len(old), {name: unneeded[name] for name in old}


def _checkpoint_files(engine: Engine, loaded: Loaded) -> set[str]:
    """The files of the newest checkpoint, and of those that tagged snapshots start from."""
    names: set[str] = set()
    trusted, _ = engine.trusted_policy()
    wanted = {loaded.state.sequence, *loaded.snapshot().tags.values()}
    for sequence in wanted:
        found = engine.log.nearest_checkpoint(sequence, trusted)
        if found is None:
            continue
        manifest, _ = found
        names.add(checkpoint_name(manifest.checkpoint_id))
        names |= {checkpoint_name(ref.object_id) for ref in manifest.segments}
    if loaded.state.checkpoint is not None:
        names.add(checkpoint_name(loaded.state.checkpoint.checkpoint_id))
    return names


# -- rotation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RewrapReport:
    """What a rewrap did."""

    keys: int  #: data keys wrapped again
    commits: int
    version: int  #: of the key-encryption key that wraps them now
    objects_rewritten: int = field(default=0)  #: always 0: no object is touched


def rotate(session: Session) -> int:
    """Add a version to every key-encryption key of the dataset; new data keys use it. Returns the newest version.

    What exists stays under the old version until :func:`rewrap`.
    """
    engine = session.engine
    policy = engine.refresh().state.policy
    versions = (
        [engine.context.service.rotate(engine.kek(compartment)) for compartment in policy.compartments]
        if policy
        else []
    )
    return max(versions, default=0)


def rewrap(session: Session) -> RewrapReport:
    """Wrap every live data key by the newest version of its key-encryption key. No object is touched.

    Raises
    ------
    AccessDenied
        This identity is not a rotator.
    """
    engine = session.engine
    state = engine.refresh().state
    policy = state.policy
    if policy is None or not engine.author(policy).may(Role.ROTATOR):
        raise AccessDenied("Only a rotator may rewrap.", next="Ask the data controller for the role.")
    service = engine.context.service
    latest = {c: service.versions(engine.kek(c)).latest for c in policy.compartments}
    stale = [key for key in state.live_keys() if key.version < latest[key.kek.compartment_id]]
    commits = 0
    for start in range(0, len(stale), _BATCH):
        batch = stale[start : start + _BATCH]
        fresh: list[WrappedKey] = []
        size = max(1, service.capabilities().max_batch)
        for at in range(0, len(batch), size):
            fresh += service.rewrap(batch[at : at + size])
        _submit(session, _change(engine, ChangeKind.REWRAP, keys=fresh))
        commits += 1
    return RewrapReport(len(stale), commits, max(latest.values(), default=0))


# -- destruction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DestroyReport:
    """What was destroyed."""

    keys: tuple[str, ...]  #: data key ids, hexadecimal
    tombstone: int  #: the commit that says so
    minimum: int  #: oldest key-encryption key version left
    survivors: int  #: data keys wrapped again
    proved: int  #: wraps of the destroyed keys that were tried and failed


def destroy_keys(session: Session, key_ids: Collection[bytes]) -> DestroyReport:
    """Destroy data keys: what they sealed cannot be opened any more, even by a host that kept every byte.

    Tombstone; rotate; rewrap the survivors and check them; write a fresh checkpoint;
    retire every older version of the key-encryption key, which also destroys the keys of
    all earlier checkpoints; then try every wrap of the doomed keys that was ever committed.

    Raises
    ------
    AccessDenied
        Only the data controller, who holds the root key, may destroy.
    NotFound
        The log does not have such a key.
    InvalidInput
        A key of a policy: it seals names of authors only, and every reader needs it.
    IntegrityError
        A survivor did not come through; nothing was retired then.
    """
    engine = session.engine
    state = engine.refresh().state
    records = [state.keys.get(key_id) for key_id in key_ids]
    if not key_ids or any(record is None for record in records):
        raise NotFound(
            "The log has no such data key.", next="`sealedhealth log --json URL` lists the keys of each commit."
        )
    if any(record is not None and record.kind is ChangeKind.POLICY for record in records):
        raise InvalidInput(
            "This data key seals a version of the roster, not data.", safe="Nothing was destroyed.",
            next="Destroy the key of a data commit, or the whole dataset.",
        )  # fmt: skip
    if engine.loaded.contents is None:
        raise AccessDenied("Destroying needs an identity that can read: the survivors have to be checked.")
    compartments = {record.wrapped.kek.compartment_id for record in records if record is not None}
    service = engine.context.service
    minimum = {c: service.rotate(engine.kek(c)) for c in compartments}
    change = _change(engine, ChangeKind.DESTROY, by_root=True, destroyed=key_ids, minimum=minimum)
    tombstone = _submit(session, change)
    survivors = rewrap(session)
    _check_survivors(engine, compartments)
    with engine.lock:
        _, ref = _checkpoint(engine, fresh=True)
    _publish(session, ref)
    for compartment, version in minimum.items():
        service.retire(engine.kek(compartment), version)
    engine.keyring.clear()
    proved = _prove_gone(engine, set(key_ids))
    return DestroyReport(
        tuple(key_id.hex() for key_id in key_ids), tombstone, max(minimum.values()), survivors.keys, proved
    )


def _check_survivors(engine: Engine, compartments: Collection[bytes]) -> None:
    engine.keyring.clear()
    wanted = [key for key in engine.loaded.state.live_keys() if key.kek.compartment_id in compartments]
    engine.keyring.get(wanted)  # raises when a key is not the one that its wrap names


def _prove_gone(engine: Engine, key_ids: Collection[bytes]) -> int:
    """Try every wrap that the log ever held of the destroyed keys; each has to fail."""
    state = engine.log.start()
    tried = 0
    for step in engine.log.replay(state, engine.log.anchors_from(0)):
        for accepted in step.accepted:
            for wrapped in accepted.change.keys:
                if wrapped.key_id in key_ids:
                    tried += 1
                    _must_fail(engine, wrapped)
    return tried


def _must_fail(engine: Engine, wrapped: WrappedKey) -> None:
    try:
        engine.context.service.unwrap([wrapped])
    except (KeyRetired, NotFound):
        return
    raise IntegrityError(
        f"The data key {wrapped.key_id.hex()} can still be unwrapped after its destruction.",
        next="Check in the key service whether the retired versions were really removed.",
    )


def destroy_dataset(session: Session) -> None:
    """Destroy every key of the dataset: nobody can open any of it any more, wherever copies lie.

    Raises ``AccessDenied`` for anybody but the data controller.
    """
    engine = session.engine
    state = engine.refresh().state
    policy = state.policy
    if policy is None:
        raise NotFound("The dataset has no policy.")
    service = engine.context.service
    wraps = state.live_keys()
    doomed = [key_id for key_id, record in state.keys.items() if record.kind is not ChangeKind.POLICY]
    minimum = {c: service.rotate(engine.kek(c)) for c in policy.compartments}
    _submit(session, _change(engine, ChangeKind.DESTROY, by_root=True, destroyed=doomed, minimum=minimum))
    ref = engine.context.registry.lookup(engine.dataset_id.hex())
    engine.context.registry.register(DatasetRef(ref.dataset_id, ref.urls, ref.policy, destroyed=True))
    for compartment, version in minimum.items():
        service.retire(engine.kek(compartment), version)
    for wrapped in wraps:
        _must_fail(engine, wrapped)
    Engine.forget(engine.url, engine.profile)
