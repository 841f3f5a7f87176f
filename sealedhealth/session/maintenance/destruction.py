"""Destroying keys, on the assumption that the host keeps everything."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sealedhealth.errors import AccessDenied, IntegrityError, InvalidInput, KeyRetired, NotFound
from sealedhealth.keys.base import WrappedKey
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.session.destroyed import end_keys, mark_destroyed
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance.changes import bare_change, submit_bare
from sealedhealth.session.maintenance.checkpoints import publish, write_checkpoint
from sealedhealth.session.maintenance.rotation import rewrap
from sealedhealth.session.session import Session

__all__ = ["DestroyReport", "destroy_dataset", "destroy_keys"]


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

    Rotate; write a fresh checkpoint; commit the tombstone; rotate again; rewrap the survivors
    and check them; write another fresh checkpoint; retire every older version of the
    key-encryption key, which also destroys the keys of all earlier checkpoints; then try every
    wrap of the doomed keys that was ever committed. After an interruption, do it again: only
    the last steps destroy.

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
    # The tombstone itself points to a checkpoint without the doomed names, so that the dataset opens at every moment.
    with engine.lock:
        _, ref = write_checkpoint(engine, fresh=True, doomed=frozenset(key_ids))
    change = bare_change(engine, ChangeKind.DESTROY, by_root=True, destroyed=key_ids, minimum=minimum)
    tombstone = submit_bare(session, change, checkpoint=ref)
    # Somebody who did not know of the tombstone may have sealed a checkpoint with the doomed keys in it under the
    # version of before: that version has to go as well. Whoever uses the next one sees the tombstone.
    minimum = {c: service.rotate(engine.kek(c)) for c in compartments}
    submit_bare(session, bare_change(engine, ChangeKind.DESTROY, by_root=True, minimum=minimum))
    survivors = rewrap(session)
    with engine.lock:
        _, ref = write_checkpoint(engine, fresh=True)
    publish(session, ref)
    _check_survivors(engine, compartments)
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
    submit_bare(session, bare_change(engine, ChangeKind.DESTROY, by_root=True, destroyed=doomed, minimum=minimum))
    end_keys(engine, minimum)
    for wrapped in wraps:
        _must_fail(engine, wrapped)
    mark_destroyed(engine)
    Engine.forget(engine.url, engine.profile)
