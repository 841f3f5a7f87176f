"""Change sets without sections: rewraps, tombstones, collections."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sealedhealth.errors import AccessDenied
from sealedhealth.keys.base import WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import CheckpointRef
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.engine import Engine
from sealedhealth.session.session import Session

__all__ = ["bare_change", "submit_bare"]


def bare_change(
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
    """A change set of *kind* by this identity, or by the root key; see :class:`ChangeSet` for its parts."""
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
        location=engine.location,
    )


def submit_bare(session: Session, change: ChangeSet, *, checkpoint: CheckpointRef | None = None) -> int:
    """Sign and commit a bare change set; *checkpoint* is what later links shall point to. Returns the commit."""
    engine = session.engine
    sign = engine.sign_as_root if change.author_id == ROOT_AUTHOR else engine.sign
    sequence = submit(engine, Request(change=change, raw=change.pack(sign), checkpoint=checkpoint))
    session.committed(sequence)
    return sequence
