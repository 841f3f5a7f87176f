"""Verifying a dataset: the whole log from its root of trust, the checkpoint, and every byte."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from operator import itemgetter

from sealedhealth.errors import IntegrityError
from sealedhealth.log.catalogue import Catalogue
from sealedhealth.log.content import ContentState
from sealedhealth.log.link import LINK_LIMIT
from sealedhealth.log.names import link_name
from sealedhealth.log.place import Written, written_at
from sealedhealth.log.replay import LogStep
from sealedhealth.log.state import LogState
from sealedhealth.session.checking import check_files
from sealedhealth.session.engine import Engine, Loaded
from sealedhealth.session.session import Session

__all__ = ["VerificationFailed", "VerifyReport", "verify"]

_SHOWN = 5  #: failures named in the error's message
_ON_ITS_WAY = timedelta(minutes=1)  #: a commit this young may have an anchor and no copy on the store yet


class VerificationFailed(IntegrityError):
    """Something did not verify; ``failures`` lists all of it, ``report`` what was looked at."""

    def __init__(self, what: str, *, failures: tuple[str, ...] = (), report: VerifyReport | None = None) -> None:
        super().__init__(
            what,
            safe="Everything not named was checked and is genuine.",
            next="Restore the named parts of the store from a copy; a correct copy has the same bytes.",
        )
        self.failures = failures
        self.report = report


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked."""

    dataset: str  #: id, hexadecimal
    sequence: int
    commits: int  #: anchored links replayed from the first on
    void: int  #: of them, links that count for nothing
    refused: tuple[str, ...]  #: change sets that broke the roster's rules and had no effect
    files: int
    bytes: int  #: plaintext bytes opened; 0 when data was left out
    destroyed: int  #: files whose key was destroyed on purpose
    checkpoint: int | None  #: commit of the checkpoint that was compared with the log
    locations: tuple[Written, ...] = ()  #: where the change sets were written, as their authors say
    failures: tuple[str, ...] = field(default=())


def verify(session: Session, *, data: bool = True, progress: Callable[[int], None] | None = None) -> VerifyReport:
    """Check everything that this identity can check.

    The log is replayed from the root of trust without any checkpoint; links on the store
    are compared with the anchors, the checkpoint with the replay, and, with *data*, every
    file of the pinned snapshot is fetched and opened.

    Parameters
    ----------
    progress:
        Called with the number of plaintext bytes checked since the last call.

    Raises
    ------
    VerificationFailed
        With everything that failed. Parts of the log that cannot be replayed at all raise
        their own error.
    """
    engine = session.engine
    engine.refresh()
    session.refresh()
    trusted, _ = engine.trusted_policy()
    failures: list[str] = []
    state = engine.log.start()
    steps = engine.log.replay(state, engine.log.anchors_from(0, session.sequence))
    failures += _compare_links(engine, steps)
    checkpointed = engine.load(session.sequence, trusted)
    failures += _compare_states(checkpointed.state, state)
    replayed: Loaded | None = None
    if not state.destroyed:
        # After a destruction the log before it cannot be opened any more: the checkpoint is all there is.
        replayed = engine.opened(state, steps, {})
        failures += _compare_contents(checkpointed, replayed)
    checked = check_files(session, data=data, progress=progress)
    failures += checked.failures
    refusals = [r for r in state.refusals if r.change_id is not None]
    refusals += [r for content in ((replayed or checkpointed).contents or {}).values() for r in content.refusals]
    report = VerifyReport(
        dataset=engine.dataset_id.hex(),
        sequence=session.sequence,
        commits=len(steps),
        void=sum(step.link is None for step in steps),
        refused=tuple(f"commit {r.sequence}: {r.reason}" for r in refusals),
        files=checked.files,
        bytes=checked.bytes,
        destroyed=checked.destroyed,
        checkpoint=state.checkpoint.sequence if state.checkpoint else None,
        locations=written_at((item.sequence, item.change.location) for step in steps for item in step.accepted),
        failures=tuple(failures),
    )
    if failures:
        shown = "; ".join(failure.rstrip(".") for failure in failures[:_SHOWN])
        checks = "1 check" if len(failures) == 1 else f"{len(failures)} checks"
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        raise VerificationFailed(f"{checks} failed: {shown}{more}.", failures=tuple(failures), report=report)
    return report


def _compare_links(engine: Engine, steps: list[LogStep]) -> list[str]:
    """The store's copies of the links, which movers and keyless checks depend on."""
    names = {link_name(step.entry.sequence): step for step in steps}
    copies = engine.store.get_many(list(names), limit=LINK_LIMIT, missing_ok=True)
    wrong = []
    for name, step in names.items():
        age = engine.context.service.now() - step.entry.created
        if step.link is None or (name not in copies and age < _ON_ITS_WAY):
            continue
        if copies.get(name) != step.entry.link:
            wrong.append(f"{name} is missing or not the anchored link")
    return wrong


def _compare_states(checkpointed: LogState, replayed: LogState) -> list[str]:
    """The public table of the checkpoint: keys, change sets, tombstones, policy."""
    names = ("head", "policy", "keys", "changes", "destroyed", "minimum", "horizon", "policy_sequence", "voids")
    return [
        f"the checkpoint says something else of the log's {name.replace('_', ' ')} than the log"
        for name in names
        if getattr(checkpointed, name) != getattr(replayed, name)
    ]


def _compare_contents(checkpointed: Loaded, replayed: Loaded) -> list[str]:
    """A curator who signs a false checkpoint is found here: replay says what producers really committed."""
    if checkpointed.contents is None or replayed.contents is None:
        return []
    wrong = []
    for compartment, content in replayed.contents.items():
        other = checkpointed.contents.get(compartment, ContentState(compartment))
        wrong += [
            f"the checkpoint says something else of {path!r} than the log"
            for path in _unequal(content.catalogue, other.catalogue)
        ]
        wrong += [
            f"the checkpoint has other {name} than the log"
            for name in ("tags", "notes", "name", "dropped", "shared", "born")
            if getattr(content, name) != getattr(other, name)
        ]
    return wrong


def _unequal(left: Catalogue, right: Catalogue) -> Iterator[str]:
    """Paths whose entries differ in anything, digests and keys included: ``Catalogue.diff`` looks at ids only."""
    merged = heapq.merge(left.items(), right.items(), key=itemgetter(0))
    for path, pair in groupby(merged, key=itemgetter(0)):
        entries = [entry for _, entry in pair]
        if len(entries) != 2 or entries[0] != entries[1]:
            yield path
