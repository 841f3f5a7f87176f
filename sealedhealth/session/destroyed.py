"""A dataset that was destroyed, or nearly: found out when it does not open."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from sealedhealth.errors import AccessDenied, KeyDestroyed
from sealedhealth.keys.base import DatasetRef

if TYPE_CHECKING:
    from sealedhealth.session.engine import Engine

__all__ = ["end_keys", "mark_destroyed", "refuse_destroyed"]


def refuse_destroyed(engine: Engine, newest: int) -> None:
    """Raise ``KeyDestroyed`` when the log up to anchor *newest* ends the dataset; return when it does not.

    Whoever destroyed it may have died between its last commit and the last key: what the
    root key ordered is finished, if this identity can.
    """
    state = engine.log.start()
    engine.log.replay(state, engine.log.anchors_from(0, newest))
    if not state.minimum or any(
        key.version >= state.minimum.get(key.kek.compartment_id, 0) for key in state.live_keys()
    ):
        return
    with suppress(AccessDenied):
        end_keys(engine, state.minimum)
        mark_destroyed(engine)
    raise KeyDestroyed(f"The dataset at {engine.url} was destroyed: its keys are gone.")


def end_keys(engine: Engine, compartments: Iterable[bytes]) -> None:
    """Retire every version of the key-encryption keys that anything was ever wrapped by.

    Rotated first: somebody who did not know of the tombstone may have used the newest version meanwhile.
    """
    service = engine.context.service
    for compartment in compartments:
        kek = engine.kek(compartment)
        service.retire(kek, service.rotate(kek))


def mark_destroyed(engine: Engine) -> None:
    """Record with the key service that the dataset is no more."""
    ref = engine.context.registry.lookup(engine.dataset_id.hex())
    engine.context.registry.register(DatasetRef(ref.dataset_id, ref.urls, ref.policy, destroyed=True))
