"""Taking back commits that nobody can read, by the data controller.

Whoever has an author's key and may create anchors can commit a link to a change set that nobody has.
Nobody skips what is missing: the host could leave out any commit like that. So the data controller, and
nobody else, says that it does not count: by a link of the root key that takes back the anchors from there on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sealedhealth.errors import AnchorTaken, ConflictError, MissingError, TamperedError
from sealedhealth.keys.base import AnchorEntry
from sealedhealth.log.changeset import CHANGE_SET_LIMIT, ChangeKind, ChangeSet
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import ChangeRef, Link, file_digest
from sealedhealth.log.names import change_name, link_name
from sealedhealth.log.replay import Log
from sealedhealth.log.state import Accepted, LogState
from sealedhealth.log.strict import microseconds
from sealedhealth.profiles import Profile
from sealedhealth.session.engine import Engine
from sealedhealth.session.recovery import refuse_strangers
from sealedhealth.session.urls import normal_url

__all__ = ["VoidReport", "void_commits"]

_ATTEMPTS = 50  #: anchors that somebody else may create while this one is made
_MOST = 200  #: change sets that are committed again at most, in the same link


@dataclass(frozen=True, slots=True)
class VoidReport:
    """What is taken back, and what of it is committed again; nothing yet if this was a dry run."""

    dataset: str  #: id, hexadecimal
    first: int | None  #: the first commit that is taken back; None: every commit can be read
    last: int  #: the last one, or the newest commit
    commit: int | None  #: the commit that says so
    author: str  #: id of whoever committed the first, hexadecimal; "root" for the root key
    missing: tuple[str, ...]  #: change sets that nobody can read, hexadecimal
    again: tuple[str, ...]  #: change sets that are committed again, hexadecimal


@dataclass(slots=True)
class _Found:
    """How far the log can be read, and what comes after."""

    before: LogState  #: the state before the first commit that cannot be read
    first: Link
    missing: list[ChangeRef]
    accepted: list[tuple[ChangeRef, Accepted]]  #: of the commits from there on


def void_commits(url: str, profile: Profile, *, dry_run: bool = False) -> VoidReport:
    """Take back every commit from the first on that has a change set which the store does not have as it was signed.

    Change sets of those commits that can be read, and counted, are committed again in the same link.

    Raises
    ------
    AccessDenied
        This identity does not have the dataset's root key.
    ConflictError
        Keys were destroyed since, or there are more change sets than one commit takes: only the file helps.
    """
    url = normal_url(url)
    engine = Engine.get(url, profile)
    refuse_strangers(engine)
    for _ in range(_ATTEMPTS):
        entries = engine.log.anchors_from(0)
        found = _diagnose(engine.log, entries)
        last = len(entries) - 1
        if found is None:
            return VoidReport(engine.dataset_id.hex(), None, last, None, "", (), ())
        raw, files = _link(engine, found, last)
        report = VoidReport(
            dataset=engine.dataset_id.hex(),
            first=found.first.sequence,
            last=last,
            commit=last + 1,
            author="root" if found.first.author_id == ROOT_AUTHOR else found.first.author_id.hex(),
            missing=tuple(ref.change_id.hex() for ref in found.missing),
            again=tuple(ref.change_id.hex() for ref, _ in found.accepted),
        )
        if dry_run:
            return report
        engine.store.put_many(files)
        engine.store.flush()
        try:
            engine.context.anchors.create_anchor(engine.dataset_id, last + 1, raw)
        except AnchorTaken:
            entry = engine.log.anchor(last + 1)
            if entry is None or entry.link != raw:
                continue
        engine.store.put(link_name(last + 1), raw)
        engine.store.flush()
        return report
    raise ConflictError(
        "Somebody else was faster every time.",
        safe="Nothing was taken back.",
        next="Withdraw the right to create anchors from whoever does that, in the key service, then try again.",
    )


def _diagnose(log: Log, entries: Sequence[AnchorEntry]) -> _Found | None:
    """Read on past what cannot be read, as if it had been refused. None when everything can be read."""
    log.learn(entries)
    state = log.start()
    found: _Found | None = None
    for entry in entries:
        before = state.copy()
        try:
            [step] = log.replay(state, [entry])
            accepted, link = step.accepted, step.link
        except (MissingError, TamperedError):
            state = before.copy()
            link = state.check_link(entry.sequence, entry.link)
            files = _readable(log, link)
            lacking = [ref for ref in link.changes if ref.change_id not in files]
            whole = replace(link, changes=tuple(ref for ref in link.changes if ref.change_id in files))
            accepted = tuple(state.advance(whole, entry.link, files))
            state.changes |= {ref.change_id for ref in lacking}
            if found is None:
                found = _Found(before, link, [], [])
            found.missing += lacking
        if found is not None and link is not None:
            refs = {ref.change_id: ref for ref in link.changes}
            found.accepted += [(refs[item.change.change_id], item) for item in accepted]
    return found


def _readable(log: Log, link: Link) -> dict[bytes, bytes]:
    """Those change sets of a link that the store has as they were signed."""
    files: dict[bytes, bytes] = {}
    for ref in link.changes:
        name = change_name(ref.change_id)
        try:
            data = log.store.get_many([name], limit=min(ref.size, CHANGE_SET_LIMIT), missing_ok=True).get(name)
        except TamperedError:
            continue  # longer than it was signed
        if data is not None and len(data) == ref.size and file_digest(data) == ref.digest:
            files[ref.change_id] = data
    return files


def _link(engine: Engine, found: _Found, last: int) -> tuple[bytes, dict[str, bytes]]:
    """The link that takes everything from the first unreadable commit to *last* back, and the files it needs."""
    before = found.before
    if before.policy is None:
        raise MissingError("The first commit of the dataset is missing: there is nothing to go back to.")
    if len(found.accepted) > _MOST or any(item.change.kind is ChangeKind.DESTROY for _, item in found.accepted):
        raise ConflictError(
            "Data keys were destroyed since the commit that cannot be read, or too much was committed.",
            safe="Nothing was taken back.",
            next="Restore the missing change set: whoever has read the dataset since then was given it.",
        )
    files = {ref.change_id: engine.store.get(change_name(ref.change_id), limit=ref.size) for ref, _ in found.accepted}
    refs = [ref for ref, _ in found.accepted]
    if not refs:
        ref, raw = _nothing(engine, before)
        refs, files = [ref], {ref.change_id: raw}
    link = Link(
        dataset_id=engine.dataset_id,
        sequence=last + 1,
        parent=before.head,
        author_id=ROOT_AUTHOR,
        changes=tuple(refs),
        time_us=microseconds(engine.context.service.now()),
        checkpoint=before.checkpoint,
        void=found.first.sequence,
    )
    packed = link.pack(engine.sign_as_root)
    # Judged as every reader will: what counted before has to count again.
    trial = before.copy()
    trial.sequence = last
    known = len(trial.refusals)
    trial.advance(trial.check_link(last + 1, packed), packed, files)
    if len(trial.refusals) > known:
        raise ConflictError(
            f"A change set that counted would not count again: {trial.refusals[-1].reason}",
            safe="Nothing was taken back.",
            next="Restore the missing change set: whoever has read the dataset since then was given it.",
        )
    return packed, {change_name(change_id): data for change_id, data in files.items()}


def _nothing(engine: Engine, before: LogState) -> tuple[ChangeRef, bytes]:
    """A change set that does nothing: a link has to name one."""
    change = ChangeSet(
        dataset_id=engine.dataset_id,
        change_id=os.urandom(16),
        author_id=ROOT_AUTHOR,
        kind=ChangeKind.COLLECT,
        time_us=microseconds(engine.context.service.now()),
        horizon=before.horizon,
        location=engine.location,
    )
    raw = change.pack(engine.sign_as_root)
    return ChangeRef(change.change_id, file_digest(raw), len(raw)), raw
