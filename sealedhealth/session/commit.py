"""Committing: a change set becomes part of the log when the key service takes its link as an anchor.

Order: objects, change set, barrier, anchor, copy of the link on the store.  The
anchor is the commit.  Commits that are ready at the same moment in one process
share a link.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sealedhealth.errors import (
    AccessDenied,
    AnchorTaken,
    ConflictError,
    IntegrityError,
    SealedHealthError,
    ServiceUnavailable,
)
from sealedhealth.keys.base import AnchorEntry, DataKey
from sealedhealth.log.changeset import ChangeSet
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.freshness import check_following, check_still_anchored
from sealedhealth.log.link import LINK_LIMIT, MAX_CHANGES, ChangeRef, CheckpointRef, Link, file_digest
from sealedhealth.log.names import change_name, link_name
from sealedhealth.log.paths import parents
from sealedhealth.log.replay import LogStep
from sealedhealth.log.strict import microseconds
from sealedhealth.session.snapshot import Snapshot

if TYPE_CHECKING:
    from sealedhealth.session.engine import Engine, Loaded

__all__ = ["CommitQueue", "Request", "submit"]

_ATTEMPTS = 200  #: races lost in a row before giving up


@dataclass
class Request:
    """One change set that wants to be committed, perhaps with parts of it that other processes wrote."""

    change: ChangeSet
    raw: bytes = field(repr=False)
    keys: Mapping[bytes, DataKey] = field(default_factory=dict, repr=False)
    base: Snapshot | None = None  #: what the writer saw; None: it cannot read, and conflicts with nobody
    touched: frozenset[str] = field(default=frozenset(), repr=False)  #: paths read or written
    puts: Collection[str] = field(default=(), repr=False)
    deletes: Collection[str] = field(default=(), repr=False)
    checkpoint: CheckpointRef | None = None  #: a new hint, by authors who may set it
    parts: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)  #: more change sets, stored by their writers
    error: BaseException | None = None
    sequence: int | None = None
    taken: bool = False  #: somebody's batch has it
    offered: bool = False  #: the key service was given a link that names it, and did not surely refuse

    @property
    def files(self) -> dict[bytes, bytes]:
        """The files of every change set that is committed by this, by id."""
        return {self.change.change_id: self.raw, **self.parts}

    @property
    def undecided(self) -> bool:
        """Whether it may be a part of the log, whatever was reported: what it names has to stay."""
        return self.offered or (self.taken and not self.settled)

    @property
    def settled(self) -> bool:
        """Whether it is committed or has failed."""
        return self.error is not None or self.sequence is not None


class CommitQueue:
    """Requests of one engine that wait for the next link."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: list[Request] = []
        self._mutex = threading.Lock()
        self._turn = threading.Lock()  # whoever holds it commits for everybody who waits
        self._open: dict[bytes, Request] = {}  # reported as failed, although they may be a part of the log, by change

    def commit(self, request: Request) -> int:
        """Commit and return the sequence number.

        Raises
        ------
        ConflictError
            Somebody else changed the same path since the writer's base.
        AccessDenied
            The roster does not allow it.
        ServiceUnavailable
            The key service or the store failed; the message says whether the commit may have happened.
        """
        with self._mutex:
            self._waiting.append(request)
        try:
            with self._turn:
                if not request.settled:
                    _commit_batch(self._engine, self._batch_with(request))
        finally:
            with self._mutex:  # whoever was interrupted while waiting must not be committed by the next one
                self._waiting = [r for r in self._waiting if r is not request]
        if request.error is not None:
            if request.offered:
                self._open[request.change.change_id] = request
            raise request.error
        if request.sequence is None:
            raise SealedHealthError("A commit was neither made nor refused.")
        return request.sequence

    def recognise(self, steps: Sequence[LogStep]) -> None:
        """Note which commits that were reported as failed turn out to be in the log."""
        for link in (step.link for step in steps):
            if self._open and isinstance(link, Link):
                for ref in link.changes:
                    if ref.change_id in self._open:
                        self._open[ref.change_id].sequence = link.sequence

    def came_true(self) -> list[Request]:
        """Own commits that were reported as failed and are in the log all the same."""
        return [request for request in [*self._open.values()] if request.sequence is not None]

    def _batch_with(self, request: Request) -> list[Request]:
        """Take *request* and those of the same author that wait, too."""
        with self._mutex:
            author = request.change.author_id
            batch, room = [], MAX_CHANGES - len(request.files)
            for other in self._waiting:
                if other is not request and other.change.author_id == author and len(other.files) <= room:
                    batch.append(other)
                    room -= len(other.files)
            batch.append(request)
            self._waiting = [r for r in self._waiting if r not in batch]
            for taken in batch:
                taken.taken = True
        return batch


def submit(engine: Engine, request: Request) -> int:
    """Store the change set's file and commit it; see :meth:`CommitQueue.commit`."""
    engine.store.put(change_name(request.change.change_id), request.raw)
    engine.store.flush()
    return engine.queue.commit(request)


def _commit_batch(engine: Engine, batch: Sequence[Request]) -> None:
    pace = engine.pace
    try:
        pending = list(batch)
        for losses in range(_ATTEMPTS):
            if pause := pace.pause(batch[0].change.author_id, losses):
                time.sleep(pause)
            with engine.lock:
                begun = time.monotonic()
                if losses:
                    engine.follow(pace.rivals)
                pending = _without_conflicts(engine.loaded, pending, engine.queue.came_true())
                if not pending:
                    return
                try:
                    if _try_once(engine, pending):
                        return
                except AccessDenied:
                    if len(pending) == 1:
                        raise
                    # One of several is at fault, and the others shall not suffer: each by itself.
                    for request in pending:
                        _commit_batch(engine, [request])
                    return
                finally:
                    pace.tried(time.monotonic() - begun)
        raise ConflictError(
            "Other writers were faster every time.",
            safe="Nothing of this transaction is committed.",
            next="Try again, and commit larger groups of files at once.",
        )
    except BaseException as error:
        for request in batch:
            if not request.settled:
                request.error = error
        if not isinstance(error, Exception):
            raise


def _try_once(engine: Engine, pending: Sequence[Request]) -> bool:
    """Build the link after the newest commit and anchor it. False when somebody else was first."""
    loaded = engine.loaded
    state = loaded.state
    service = engine.context.service
    by_root = pending[0].change.author_id == ROOT_AUTHOR
    files = {key: raw for request in pending for key, raw in request.files.items()}
    keys = {key: value for request in pending for key, value in request.keys.items()}
    link = Link(
        dataset_id=engine.dataset_id,
        sequence=state.sequence + 1,
        parent=state.head,
        author_id=pending[0].change.author_id,
        changes=tuple(ChangeRef(key, file_digest(raw), len(raw)) for key, raw in files.items()),
        time_us=microseconds(service.now()),
        checkpoint=next((r.checkpoint for r in pending if r.checkpoint), None) or state.checkpoint,
    )
    sign = engine.sign_as_root if by_root else engine.sign
    moved, raw = engine.log.at_once(lambda: _check_place(engine, loaded), lambda: link.pack(sign))
    if moved:
        return False
    if len(raw) > LINK_LIMIT:
        raise SealedHealthError("Too many change sets for one link.")
    # Judge the link as every reader will, before it takes a number.
    trial = state.copy()
    known = len(trial.refusals)
    try:
        accepted = trial.advance(trial.check_link(link.sequence, raw), raw, files)
    except IntegrityError as error:
        raise AccessDenied(f"Readers would not accept this commit: {error.what}") from error
    refused = [refusal.reason for refusal in trial.refusals[known:]]
    if not refused and any(request.parts for request in pending):
        # What others wrote counts whole or not at all: also what stands in sealed sections is judged before.
        step = LogStep(AnchorEntry(link.sequence, raw, service.now()), link, tuple(accepted))
        refused = engine.refused_inside(trial, step, keys)
    if refused:
        raise AccessDenied(
            f"Readers would not accept this commit: {refused[-1]}",
            safe="Nothing was committed.",
            next="Ask the data controller which role and prefix this author has; if a key was rotated, try again.",
        )
    for request in pending:
        request.offered = True
    entry = _anchor(engine, link, raw, pending)
    if entry is None:
        return False
    for request in pending:
        request.sequence = link.sequence
    # From here on the commit stands, whatever happens next.
    fresh = state.copy()
    steps = engine.log.replay(fresh, [entry], files)
    engine.adopt(fresh, steps, keys)
    engine.store.put(link_name(link.sequence), raw)
    engine.healed = link.sequence
    return True


def _anchor(engine: Engine, link: Link, raw: bytes, pending: Sequence[Request]) -> AnchorEntry | None:
    """Offer the link to the key service. None when somebody else was first."""
    try:
        return engine.context.anchors.create_anchor(engine.dataset_id, link.sequence, raw)
    except AnchorTaken:
        entry = engine.log.anchor(link.sequence)
    except (AccessDenied, ServiceUnavailable) as error:
        # The request may have arrived although its answer did not, or was done only in part.
        try:
            entry = engine.log.anchor(link.sequence)
        except SealedHealthError:
            raise ServiceUnavailable(
                f"The key service stopped answering while commit {link.sequence} was made.",
                safe="The dataset is whole; the commit either happened entirely or not at all.",
                next="Look at `sealedhealth log` before you try again.",
            ) from error
        if entry is None:
            if isinstance(error, AccessDenied):  # a refusal is final, a request that was lost may still arrive
                _withdraw(pending)
            raise
    if entry is not None and entry.link == raw:
        return entry
    _withdraw(pending)
    return None


def _withdraw(pending: Sequence[Request]) -> None:
    for request in pending:
        request.offered = False


def _check_place(engine: Engine, loaded: Loaded) -> bool:
    """Check that the log ends here, on the store as well as by its anchors. True when others moved on meanwhile.

    Puts the previous link on the store again when its author crashed before doing so.
    """
    state = loaded.state
    entry = engine.log.anchor(state.sequence) if state.sequence >= 0 else None
    if state.sequence >= 0:
        check_still_anchored(state, entry)
    previous, following = link_name(max(0, state.sequence)), link_name(state.sequence + 1)
    copies = engine.store.get_many(
        [following] if engine.healed >= state.sequence else [previous, following], limit=LINK_LIMIT, missing_ok=True
    )
    if entry is not None and engine.healed < state.sequence:
        if copies.get(previous) != entry.link:
            engine.store.put(previous, entry.link)
        engine.healed = state.sequence
    return check_following(engine.log, state, copies.get(following))


def _without_conflicts(loaded: Loaded, pending: Sequence[Request], own: Sequence[Request]) -> list[Request]:
    """The requests that may go on; the others get their ConflictError."""
    going: list[Request] = []
    taken: set[str] = set()
    files: set[str] = set()  # put by those before
    directories: set[str] = set()
    current = loaded.snapshot()
    for request in pending:
        above = {parent for path in request.puts for parent in parents(path)}
        error = _conflict(request, current, taken, sorted((above & files) | (directories & {*request.puts})), own)
        if error is None:
            going.append(request)
            taken |= request.touched
            files.update(request.puts)
            directories |= above
        else:
            request.error = error
    return going


def _conflict(
    request: Request, current: Snapshot, taken: set[str], clashes: list[str], own: Sequence[Request]
) -> ConflictError | None:
    base = request.base
    if base is None or base.contents is None or current.contents is None:
        return None
    changed = next(iter(sorted(request.touched & taken)), None)
    if changed is None and base.sequence != current.sequence:
        changed = _changed_since(base, current, request.touched, own)
    if changed is not None:
        return ConflictError(
            f"Somebody else changed {changed!r} since this change began (commit {base.sequence}).",
            safe="Their version is committed; nothing of this transaction is.",
            next="Look at the new version, then make the change again.",
        )
    found = (content.catalogue.clash(request.puts, request.deletes) for content in current.contents.values())
    clash = next((path for path in [*clashes, *found] if path is not None), None)
    if clash is not None:
        return ConflictError(
            f"{clash!r} would be a file and a directory at once.",
            safe="Nothing of this transaction is committed.",
            next="Choose another name.",
        )
    return None


def _changed_since(base: Snapshot, current: Snapshot, touched: frozenset[str], own: Sequence[Request]) -> str | None:
    """A touched path whose content is not the one it had, unless it is by this session's *own* hand."""
    for path in sorted(touched):
        before, after = base.get(path), current.get(path)
        if (before and before.content) == (after and after.content):
            continue
        # The writer was told that these may have failed, and makes the change again: no reason to refuse it.
        if not any(path in earlier.deletes if after is None else after.sequence == earlier.sequence for earlier in own):
            return path
    return None
