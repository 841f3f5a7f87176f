"""Garbage collection: deleting objects that no kept snapshot needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from sealedhealth.errors import AccessDenied, MissingError, RosterViolation, SealedHealthError
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.content import ContentState, Dropped
from sealedhealth.log.names import change_name, checkpoint_name, object_name
from sealedhealth.log.roster import Role
from sealedhealth.session.engine import Engine, Loaded
from sealedhealth.session.maintenance.changes import bare_change, submit_bare
from sealedhealth.session.maintenance.repack import repack
from sealedhealth.session.maintenance.unused import unused_claims
from sealedhealth.session.orphans import Orphans
from sealedhealth.session.session import Session

__all__ = ["CollectReport", "collect"]

_PLACES = ("objects", ".sealedhealth/checkpoints", ".sealedhealth/changes")  #: where files can be left over


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What garbage collection deleted, or would delete."""

    dropped: int  #: objects that commits had dropped longer than the grace ago
    orphans: int  #: objects and files that no commit ever named
    bytes: int  #: sealed bytes of both
    waiting: int  #: orphans seen for the first time, or not long enough ago
    unfinished: int  #: files and uploads of writers that died, which were removed; not counted by a dry run
    horizon: int  #: snapshots older than this are incomplete, unless tagged
    dry_run: bool
    repacked: int = 0  #: mostly dead objects whose files were moved into others; they are dropped, and wait
    moved: int = 0  #: bytes of the files that were moved
    dead: int = 0  #: dead bytes in the objects that they were moved from
    unused: int = 0  #: objects that commits claim and no path ever used: announced, so that keyless checks miss none
    damaged: int = 0  #: objects that were to be repacked and do not open: verify names their files


def collect(session: Session, *, grace: timedelta | None = None, dry_run: bool = False) -> CollectReport:
    """Delete objects that no kept snapshot needs, and repack those that are mostly dead.

    An object goes once the commit that dropped it is older than *grace* and no tagged
    snapshot holds it; a file that no commit names goes once this machine has seen it
    unneeded for *grace*. Times are the key service's. Of an object that small files share
    and of which less than half is in use, the rest is sealed again first (see
    :mod:`sealedhealth.session.maintenance.repack`); the object itself is dropped by that.

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
    if not set(policy.compartments) <= loaded.contents.keys():
        raise AccessDenied("Collecting garbage needs every compartment: others' objects would look unneeded.")
    limit = timedelta(seconds=policy.settings.grace_s) if grace is None else grace
    moved = repack(session, dry_run=dry_run)
    loaded = engine.loaded
    if loaded.contents is None:
        raise AccessDenied("Only a curator who can read may collect garbage.")
    old = _old_enough(engine, loaded, limit)
    kept = {entry_id for content in loaded.contents.values() for entry_id in _live_ids(content)}
    # By object id alone: a stolen producer can give its own object the id of somebody else's.
    kept |= {item.object_id for item in _dropped(loaded) if item not in old}
    expired = [item for item in old if item.object_id not in kept]
    unused = unused_claims(engine, loaded, kept | {item.object_id for item in old})
    waiting, orphans = _orphans(engine, loaded, kept, limit)
    horizon = max([loaded.state.horizon, *(item.dropped for item in expired)])
    size = sum(item.sealed_size for item in expired) + sum(orphans.values())
    unfinished = 0
    if not dry_run:
        if expired or unused:
            # Announced before it is done: readers of old snapshots learn why objects are missing.
            gone = [*(item.object_id for item in expired), *unused]
            change = bare_change(engine, ChangeKind.COLLECT, collected=gone, horizon=horizon)
            submit_bare(session, change)
            engine.store.delete_many([object_name(item.object_id) for item in expired])
        engine.store.delete_many(list(orphans))
        with suppress(SealedHealthError):
            unfinished = engine.store.delete_unfinished(limit)
    return CollectReport(
        len(expired), len(orphans), size, waiting, unfinished, horizon, dry_run,
        repacked=moved.objects, moved=moved.bytes, dead=moved.dead, damaged=moved.damaged,
        unused=len(unused),
    )  # fmt: skip


def _live_ids(content: ContentState) -> Iterable[bytes]:
    return (item.object_id for item in content.catalogue.objects())


def _dropped(loaded: Loaded) -> Iterable[Dropped]:
    return (item for content in (loaded.contents or {}).values() for item in content.dropped.values())


def _old_enough(engine: Engine, loaded: Loaded, grace: timedelta) -> set[Dropped]:
    """Dropped objects whose grace is over and that no tag keeps."""
    now = engine.context.service.now()
    ages: dict[int, bool] = {}

    def over(sequence: int) -> bool:
        if sequence not in ages:
            entry = engine.log.anchor(sequence)
            ages[sequence] = entry is not None and now - entry.created >= grace
        return ages[sequence]

    tags = list(loaded.snapshot().tags.values())
    found = set()
    for item in _dropped(loaded):
        record = loaded.state.keys.get(item.data_key_id)
        born = item.born or (record.sequence if record else 0)
        tagged = any(born <= at < item.dropped for at in tags)
        if not tagged and over(item.dropped):
            found.add(item)
    return found


def _orphans(engine: Engine, loaded: Loaded, live: Collection[bytes], grace: timedelta) -> tuple[int, dict[str, int]]:
    """Files of the store that nothing refers to, and that were seen so for longer than the grace."""
    needed = {object_name(object_id) for object_id in {*live, *(item.object_id for item in _dropped(loaded))}}
    needed |= _checkpoint_files(engine, loaded)
    needed |= {change_name(change_id) for change_id in loaded.state.changes}
    listed = chain.from_iterable(engine.store.list(place) for place in _PLACES)
    unneeded = {name: size for name, size in listed if name not in needed}
    # A commit may have come between the first look and the listing.
    newer = engine.refresh()
    if newer.state.sequence != loaded.state.sequence:
        fresh = {object_name(i) for content in (newer.contents or {}).values() for i in _live_ids(content)}
        fresh |= {change_name(change_id) for change_id in newer.state.changes}
        fresh |= _checkpoint_files(engine, newer)
        unneeded = {name: size for name, size in unneeded.items() if name not in fresh}
    old = Orphans(engine.profile.state, engine.dataset_id).seen_for(
        unneeded, now=engine.context.service.now(), grace=grace
    )
    return len(unneeded) - len(old), {name: unneeded[name] for name in old}


def _checkpoint_files(engine: Engine, loaded: Loaded) -> set[str]:
    """The files of the newest checkpoint, and of those that tagged snapshots start from."""
    names: set[str] = set()
    trusted, _ = engine.trusted_policy()
    found = []
    for sequence in {loaded.state.sequence, *loaded.snapshot().tags.values()}:
        # Collected before the tag was made, or by a curator who has left: that snapshot is replayed from the start.
        with suppress(MissingError, RosterViolation):
            found.append(engine.log.nearest_checkpoint(sequence, trusted))
    # One that this process wrote may still wait for the commit that points to it.
    if loaded.state.checkpoint is not None:
        found.append(engine.log.checkpoint(loaded.state.checkpoint, trusted))
    for manifest, _ in filter(None, found):
        names.add(checkpoint_name(manifest.checkpoint_id))
        names |= {checkpoint_name(ref.object_id) for ref in manifest.segments}
    return names
