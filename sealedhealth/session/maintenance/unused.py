"""Objects that the log claims and that nobody can ever want: without a word about them, keyless checks miss them."""

from __future__ import annotations

from collections.abc import Collection

from sealedhealth.replicate.public import PublicLog
from sealedhealth.session.engine import Engine, Loaded

__all__ = ["unused_claims"]


def unused_claims(engine: Engine, loaded: Loaded, wanted: Collection[bytes]) -> list[bytes]:
    """Ids of objects that committed change sets name, while no path of any snapshot uses them.

    An author can name objects that no path of its own uses, outside of its prefix, or that it never
    uploaded. Only whoever reads the paths can tell; a mover has to take such an object for a missing one.

    Parameters
    ----------
    wanted:
        Ids of all objects that some snapshot still uses.
    """
    public = PublicLog.read(engine.store, engine.dataset_id, anchors=engine.context.anchors)
    return [
        object_id
        for object_id, claims in public.files.claims
        # What came after our own look may be in use.
        if object_id not in wanted and all(public.origins[one.origin][0] <= loaded.state.sequence for one in claims)
    ]
