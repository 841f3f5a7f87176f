"""Is this the newest log? Compared with what this client saw last, and with what the store holds."""

from __future__ import annotations

from datetime import UTC, datetime

from sealedhealth.errors import AnchorRolledBack, RolledBack
from sealedhealth.keys.base import AnchorEntry
from sealedhealth.log.link import LINK_LIMIT, file_digest
from sealedhealth.log.names import link_name
from sealedhealth.log.replay import Log
from sealedhealth.log.state import LogState, VoidLink
from sealedhealth.log.voids import void_ranges

__all__ = ["check_following", "check_seen", "check_still_anchored", "check_store_not_ahead"]

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)  # a copy on the store was anchored at no time that we know


def check_seen(log: Log, state: LogState, seen_sequence: int, seen_digest: bytes) -> None:
    """Check that what this client saw last is an ancestor of what it sees now.

    Raises
    ------
    RolledBack
        The anchors end before what was seen, or hold something else there.
    """
    entry = log.anchor(seen_sequence)
    if entry is None or state.sequence < seen_sequence:
        raise AnchorRolledBack(
            f"This client has seen commit {seen_sequence}, and the key service's anchors end before it.",
            safe="Nothing was opened.",
            next="Find out whether the key service was restored from an old backup; the store still has the later log."
            " See 'Back up the keystore' in the documentation.",
        )
    if file_digest(entry.link) != seen_digest:
        raise RolledBack(
            f"Commit {seen_sequence} is not the one that this client has seen.",
            safe="Nothing was opened.",
            next="Two histories exist. Ask the data controller which one is genuine.",
        )


def check_still_anchored(state: LogState, entry: AnchorEntry | None) -> None:
    """Check that *entry*, now the anchor of the state's sequence number, is the one that the state was reached by.

    Raises
    ------
    AnchorRolledBack, RolledBack
        The anchor is gone, or is another one.
    """
    if entry is None:
        raise AnchorRolledBack(
            f"The key service had an anchor for commit {state.sequence}, and has none any more.",
            safe="Nothing was written.",
            next="Find out whether the key service was restored from an old backup; the store still has the later log."
            " See 'Back up the keystore' in the documentation.",
        )
    if state.sequence == state.head_sequence and file_digest(entry.link) != state.head:
        raise RolledBack(
            f"Commit {state.sequence} is not the one that this session began with.",
            safe="Nothing was written.",
            next="Two histories exist. Ask the data controller which one is genuine.",
        )


def check_store_not_ahead(log: Log, state: LogState) -> bool:
    """Look whether the store has a valid link after the newest anchor.

    Returns
    -------
    Whether the anchors moved on in the meantime, so that the caller has to look again.

    Raises
    ------
    AnchorRolledBack
        The log on the store goes on where the anchors end.
    """
    name = link_name(state.sequence + 1)
    return check_following(log, state, log.store.get_many([name], limit=LINK_LIMIT, missing_ok=True).get(name))


def check_following(log: Log, state: LogState, raw: bytes | None) -> bool:
    """As :func:`check_store_not_ahead`; *raw* is what the store has as the next link, if anything."""
    following = state.sequence + 1
    if raw is None:
        return False
    try:
        if not void_ranges([AnchorEntry(following, raw, _NEVER)], state.dataset_id, state.root_key):
            state.check_link(following, raw)
    except VoidLink:
        return False  # not a commit: the host may put there what it likes
    if log.anchor(following) is not None:
        return True  # committed between our two looks
    raise AnchorRolledBack(
        f"The log on the store goes on after commit {state.sequence}, where the key service's anchors end.",
        safe="Nothing was opened or written.",
        next="The key service was probably restored from an old backup: restore a newer one, or see"
        " 'Back up the keystore' in the documentation.",
    )
