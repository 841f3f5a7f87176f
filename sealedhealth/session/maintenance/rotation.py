"""Rotating key-encryption keys, and wrapping data keys again."""

from __future__ import annotations

from dataclasses import dataclass, field

from sealedhealth.errors import AccessDenied
from sealedhealth.keys.base import WrappedKey
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.roster import Role
from sealedhealth.session.maintenance.changes import bare_change, submit_bare
from sealedhealth.session.session import Session

__all__ = ["RewrapReport", "rewrap", "rotate"]


_BATCH = 1000  #: keys in one rewrap commit


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
        submit_bare(session, bare_change(engine, ChangeKind.REWRAP, keys=fresh))
        commits += 1
    return RewrapReport(len(stale), commits, max(latest.values(), default=0))
