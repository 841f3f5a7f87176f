"""After a key service was restored from an old backup: anchor again what the store still has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealedhealth.errors import AnchorTaken, KeyMissing, NotFound
from sealedhealth.keys.base import DatasetRef, PolicyRef
from sealedhealth.log.changeset import CHANGE_SET_LIMIT
from sealedhealth.log.link import LINK_LIMIT, Link
from sealedhealth.log.names import change_name, link_name
from sealedhealth.log.state import LogState, VoidLink
from sealedhealth.profiles import Profile
from sealedhealth.session.engine import Engine
from sealedhealth.session.urls import normal_url

__all__ = ["ReanchorReport", "reanchor"]

_GAP = 16  #: most numbers in a row that nobody's valid link had
_LOST = b"void: the link of this number was lost with the key service's backup"


@dataclass(frozen=True, slots=True)
class ReanchorReport:
    """What was found on the store beyond the anchors, and anchored again."""

    dataset: str  #: id, hexadecimal
    before: int  #: newest commit that the key service knew
    after: int  #: newest commit now
    digest: str  #: of the newest link, hexadecimal: the same as before the loss, if nothing is missing
    lost_keys: int  #: data keys wrapped by versions that the restored key service does not have


def reanchor(url: str, profile: Profile, *, dry_run: bool = False) -> ReanchorReport:
    """Create again the anchors that a restored key service has lost, from the links on the store.

    Each link is checked as every reader checks it: signed by somebody on the roster, in its
    place, after the one before. So a host can forge nothing here; but it can hold back the
    newest commits, which nothing but the digest can show. Compare that with what another
    client saw last before the loss.

    Raises
    ------
    NotFound
        The key service does not have even the first anchor: the dataset has to be in the backup.
    AccessDenied
        Only who may create anchors, and record policies, can do this: the data controller.
    IntegrityError
        A change set on the store is not the one that its link names.
    """
    engine = Engine.get(normal_url(url), profile)
    state = engine.log.start()
    entries = engine.log.anchors_from(0)
    if not entries:
        raise NotFound(
            f"The key service has no anchor of dataset {engine.dataset_id.hex()}.",
            safe="Nothing was changed.",
            next="Restore a backup from after the dataset was made.",
        )
    engine.log.replay(state, entries)
    before = state.sequence
    while (found := _next_link(engine, state)) is not None:
        missing, raw, link = found
        files = {change.change_id: engine.store.get(change_name(change.change_id), limit=CHANGE_SET_LIMIT)
                 for change in link.changes}  # fmt: skip
        trial = state.copy()
        _skip(trial, missing)
        trial.advance(link, raw, files)
        if not dry_run:
            for sequence in missing:
                _create(engine, sequence, _LOST)
            _create(engine, link.sequence, raw)
        state = trial
    if not dry_run:
        _record_policy(engine, state)
        Engine.forget(engine.url, profile)
    return ReanchorReport(engine.dataset_id.hex(), before, state.sequence, state.head.hex(), _lost_keys(engine, state))


def _next_link(engine: Engine, state: LogState) -> tuple[list[int], bytes, Link] | None:
    """The next valid link on the store, and the numbers before it that have none."""
    first = state.sequence + 1
    names = {sequence: link_name(sequence) for sequence in range(first, first + _GAP)}
    stored = engine.store.get_many(list(names.values()), limit=LINK_LIMIT, missing_ok=True)
    trial = state.copy()
    missing: list[int] = []
    for sequence, name in names.items():
        raw = stored.get(name)
        if raw is not None:
            try:
                return missing, raw, trial.check_link(sequence, raw)
            except VoidLink:
                pass
        _skip(trial, [sequence])
        missing.append(sequence)
    return None


def _skip(state: LogState, sequences: Sequence[int]) -> None:
    for sequence in sequences:
        state.skip(sequence, "lost with the key service's backup")


def _create(engine: Engine, sequence: int, link: bytes) -> None:
    try:
        engine.context.anchors.create_anchor(engine.dataset_id, sequence, link)
    except AnchorTaken:
        entry = engine.log.anchor(sequence)
        if entry is None or entry.link != link:
            raise


def _record_policy(engine: Engine, state: LogState) -> None:
    """Have the registry name the newest policy of the log again."""
    known = engine.context.registry.lookup(engine.dataset_id.hex())
    policy, named = state.policy, state.policy_ref
    if policy is None or named is None or (known.policy is not None and known.policy.version >= policy.version):
        return
    ref = PolicyRef(policy.version, named.change_id, named.digest)
    engine.context.registry.register(DatasetRef(known.dataset_id, known.urls, ref, known.destroyed))


def _lost_keys(engine: Engine, state: LogState) -> int:
    """How many live data keys are wrapped by versions that are not there."""
    lost = 0
    latest: dict[bytes, int] = {}
    for wrapped in state.live_keys():
        compartment = wrapped.kek.compartment_id
        if compartment not in latest:
            try:
                latest[compartment] = engine.context.service.versions(wrapped.kek).latest
            except KeyMissing:
                latest[compartment] = 0
        lost += wrapped.version > latest[compartment]
    return lost
