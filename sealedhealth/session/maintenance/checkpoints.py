"""Checkpoints: when they are due, and writing them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from sealedhealth.errors import AccessDenied, ConflictError, IntegrityError, MissingError
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.checkpoint import Manifest, SegmentRef, pack_public, seal_content
from sealedhealth.log.content import ContentState
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import CheckpointRef, file_digest
from sealedhealth.log.names import checkpoint_name
from sealedhealth.log.roster import Role
from sealedhealth.log.state import LogState
from sealedhealth.log.strict import microseconds
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance.changes import bare_change, submit_bare
from sealedhealth.session.session import Session

__all__ = ["CheckpointReport", "checkpoint", "checkpoint_due", "maintain", "publish", "write_checkpoint"]


TAIL_COMMITS = 64  #: replaying more commits than this makes a checkpoint due


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
        return write_checkpoint(engine, fresh=fresh)[0]


def write_checkpoint(
    engine: Engine, *, fresh: bool, doomed: Collection[bytes] = (), by_root: bool = False
) -> tuple[CheckpointReport, CheckpointRef]:
    """Write a checkpoint of the loaded state; the caller holds the engine's lock and has refreshed.

    What the *doomed* data keys sealed is left out, names included. *by_root*: signed by the root key.
    """
    loaded = engine.loaded
    state = loaded.state
    policy = state.policy
    if policy is None or state.policy_ref is None or loaded.contents is None:
        raise AccessDenied("A checkpoint can only be made by somebody who can read the dataset.")
    author_id, sign = ROOT_AUTHOR, engine.sign_as_root
    if not by_root:
        author = engine.author(policy)
        if not author.may(Role.CURATOR):
            raise AccessDenied("Only a curator may make checkpoints.", next="Ask the data controller for the role.")
        author_id, sign = author.author_id, engine.sign
    refs: list[SegmentRef] = []
    files: dict[bytes, bytes] = {}
    compacted: dict[bytes, ContentState] = {}
    for compartment, held in loaded.contents.items():
        content = held
        if doomed:
            content = held.copy()
            content.destroy(state.sequence + 1, doomed, state.keys)
        reuse = set() if fresh else _reusable(engine, content, state.minimum.get(compartment, 1))
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
    raw = manifest.pack(author_id, sign)
    _refuse_after_destruction(engine, state)
    engine.store.put_many({checkpoint_name(object_id): data for object_id, data in files.items()})
    engine.store.put(checkpoint_name(manifest.checkpoint_id), raw)
    engine.store.flush()
    ref = CheckpointRef(manifest.checkpoint_id, file_digest(raw), len(raw), manifest.sequence)
    if not doomed:
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


def _refuse_after_destruction(engine: Engine, state: LogState) -> None:
    """Stop when a data key was destroyed since *state*: a checkpoint would keep what it sealed readable.

    Asked after the checkpoint's own key was made: a destruction that begins later retires that key's version.
    """
    now = state.copy()
    engine.log.replay(now, engine.log.anchors_from(state.sequence + 1))
    if now.destroyed.keys() != state.destroyed.keys():
        raise ConflictError(
            "A data key was destroyed while this checkpoint was made.",
            safe="Nothing of the checkpoint was stored.",
            next="Try again.",
        )


def _reusable(engine: Engine, content: ContentState, minimum: int) -> set[bytes]:
    """Ids of segments that may be shared, unless under so many keys that opening would take more than a batch.

    Only those of the newest checkpoint: what this process once loaded may have been collected since.
    """
    ref = engine.loaded.state.checkpoint
    if ref is None:
        return set()
    try:
        manifest, _ = engine.log.checkpoint(ref, engine.trusted_policy()[0])
    except IntegrityError:
        return set()
    stored = {part.object_id for part in manifest.segments if part.wrapped.version >= minimum}
    refs = [segment.ref for segment in content.catalogue.segments() if isinstance(segment.ref, SegmentRef)]
    shared = [known for known in refs if known.object_id in stored]
    return {known.object_id for known in shared} if len({known.wrapped.key_id for known in shared}) <= 16 else set()


def maintain(session: Session, *, force: bool = False) -> CheckpointReport | None:
    """Make a checkpoint when one is due (or *force*) and publish it by a commit; safe to run at any time."""
    engine = session.engine
    engine.refresh()
    if not force and not checkpoint_due(session):
        return None
    with engine.lock:
        report, ref = write_checkpoint(engine, fresh=False)
    publish(session, ref)
    return report


def publish(session: Session, ref: CheckpointRef) -> int:
    """Commit an empty collection, so that the newest link points to a checkpoint."""
    change = bare_change(session.engine, ChangeKind.COLLECT, horizon=session.engine.loaded.state.horizon)
    return submit_bare(session, change, checkpoint=ref)
