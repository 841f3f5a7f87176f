"""Reading the log: anchors say what is the latest, the store says the rest, nothing is believed unchecked.

The I/O around the pure parts: :class:`Log` finds the newest anchor, checks links
and change sets in order, loads checkpoints, and opens what the caller may open.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from sealedhealth.errors import ConflictError, IntegrityError, MissingError, RosterViolation, TamperedError
from sealedhealth.keys.base import AnchorEntry, AnchorIndex, AnchorStore, PolicyRef
from sealedhealth.log.changeset import CHANGE_SET_LIMIT, ChangeSet
from sealedhealth.log.checkpoint import MANIFEST_LIMIT, Manifest
from sealedhealth.log.envelope import ROOT_AUTHOR, verify_envelope
from sealedhealth.log.link import DESCRIPTOR_SIZE, ChangeRef, CheckpointRef, Descriptor, Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, checkpoint_name
from sealedhealth.log.roster import Policy, Role
from sealedhealth.log.state import Accepted, LogState, VoidLink
from sealedhealth.log.voids import VoidRange, void_ranges, voided_by
from sealedhealth.stores import ObjectStore

__all__ = ["Log", "LogStep", "Rewound"]

_A = TypeVar("_A")
_B = TypeVar("_B")

_PROBES = 8  #: anchors read at once
_PREFETCH = 128 << 20  #: bytes of change sets fetched ahead of their links


class Rewound(ConflictError):
    """The data controller took back commits that a state already stands on: it has to be made anew."""


@dataclass(frozen=True, slots=True)
class LogStep:
    """One anchor, replayed."""

    entry: AnchorEntry
    link: Link | None  #: None when void
    accepted: tuple[Accepted, ...] = ()
    void: str = ""  #: why the link counts for nothing


@dataclass(slots=True)
class Log:
    """The log of one dataset on one store, under one key service."""

    store: ObjectStore
    anchors: AnchorStore
    dataset_id: bytes
    descriptor: Descriptor = field(init=False)
    _initial: LogState = field(init=False, repr=False)
    _pool: ThreadPoolExecutor = field(init=False, repr=False)
    _policies: dict[bytes, Policy] = field(init=False, repr=False, default_factory=dict)
    voids: frozenset[VoidRange] = field(init=False, repr=False, default=frozenset())  #: all that it knows of

    def __post_init__(self) -> None:
        raw = self.store.get(DESCRIPTOR_NAME, limit=DESCRIPTOR_SIZE)
        self.descriptor = Descriptor.load(raw, dataset_id=self.dataset_id)
        self._initial = LogState.initial(self.descriptor, raw)
        self._pool = ThreadPoolExecutor(_PROBES, thread_name_prefix="sealedhealth-anchors")

    # -- anchors --------------------------------------------------------------------------

    def anchor(self, sequence: int) -> AnchorEntry | None:
        """The anchor of one sequence number."""
        return self.anchors.read_anchor(self.dataset_id, sequence)

    def anchors_from(self, first: int, last: int | None = None, *, expected: int = 1) -> list[AnchorEntry]:
        """Every anchor from *first* to *last*, or to the last before a gap.

        So many as *expected* are asked for at once, then more: usually there is nothing new.
        """
        found: list[AnchorEntry] = []
        while last is None or first + len(found) <= last:
            start = first + len(found)
            stop = start + (_PROBES if found else min(_PROBES, expected))
            numbers = range(start, stop if last is None else min(stop, last + 1))
            for entry in self._pool.map(self.anchor, numbers) if len(numbers) > 1 else map(self.anchor, numbers):
                if entry is None:
                    return found
                found.append(entry)
        return found

    def at_once(self, one: Callable[[], _A], other: Callable[[], _B]) -> tuple[_A, _B]:
        """The results of two things that wait for servers, done side by side; errors of the first come first."""
        begun = self._pool.submit(one)
        try:
            second = other()
        finally:
            first = begun.result()
        return first, second

    def anchors_after(self, sequence: int) -> tuple[AnchorEntry | None, list[AnchorEntry]]:
        """The anchor of *sequence*, and every one after it to the last before a gap."""
        newest, following = self._pool.map(self.anchor, (sequence, sequence + 1))
        return newest, [] if following is None else [following, *self.anchors_from(sequence + 2)]

    def newest(self, least: int = -1) -> int:
        """The sequence number of the newest anchor, at least *least*; -1 when there is none.

        Probes in growing steps, then halves: entries are contiguous as long as nobody wasted
        numbers, and :meth:`anchors_from` finds out when somebody did.
        """
        found = self.anchors.last_anchor(self.dataset_id, least) if isinstance(self.anchors, AnchorIndex) else None
        if found is not None:
            return found
        low, step = least, 1
        while self.anchor(low + step) is not None:
            low += step
            step *= 2
        return self._last_before(low + step, low)

    def _last_before(self, high: int, low: int = -1) -> int:
        """An anchor after which there is none, between one that is there (*low*) and one that is not (*high*)."""
        while high - low > 1:
            middle = (low + high) // 2
            if self.anchor(middle) is None:
                high = middle
            else:
                low = middle
        return low

    # -- starting points ---------------------------------------------------------------------

    def start(self) -> LogState:
        """The state before the first commit."""
        return self._initial.copy()

    def policy(self, ref: PolicyRef) -> Policy:
        """The policy that the key service's registry or a checkpoint names, read from the store and checked."""
        known = self._policies.get(ref.digest)
        if known is None:
            name = change_name(ref.change_id)
            raw = self.store.get(name, limit=CHANGE_SET_LIMIT)
            if file_digest(raw) != ref.digest:
                raise TamperedError(f"The policy on the store ({name}) is not the one that was committed.")
            known = self._policies[ref.digest] = self._read_policy(raw)
        if known.version != ref.version:
            raise RosterViolation("A policy is not of the version that names it.")
        return known

    def _read_policy(self, raw: bytes) -> Policy:
        envelope = ChangeSet.split(raw)
        if envelope.author_id != ROOT_AUTHOR:
            raise RosterViolation("A policy is not signed by the root key.")
        verify_envelope(envelope, self.descriptor.root_key)
        change = ChangeSet.read(envelope)
        if change.policy is None or change.dataset_id != self.dataset_id:
            raise RosterViolation("A policy belongs to another dataset, or is none.")
        return change.policy

    def checkpoint(self, ref: CheckpointRef, trusted: Policy) -> tuple[Manifest, LogState]:
        """Load and check a checkpoint manifest; *trusted* is the newest policy known.

        Raises
        ------
        MissingError, IntegrityError
            It is not there, or not a checkpoint by a curator of *trusted* for the anchored link.
        """
        raw = self.store.get(checkpoint_name(ref.checkpoint_id), limit=min(MANIFEST_LIMIT, ref.size))
        if file_digest(raw) != ref.digest:
            raise TamperedError("A checkpoint on the store is not the one that the log names.")
        envelope = Manifest.split(raw)
        if envelope.author_id == ROOT_AUTHOR:
            key = self.descriptor.root_key
        else:
            author = trusted.authors.get(envelope.author_id)
            if author is None or not author.may(Role.CURATOR):
                raise RosterViolation("A checkpoint is not signed by a curator of the roster.")
            key = author.public_key
        verify_envelope(envelope, key)
        manifest = Manifest.read(envelope)
        if (manifest.dataset_id, manifest.checkpoint_id, manifest.sequence) != (
            self.dataset_id,
            ref.checkpoint_id,
            ref.sequence,
        ):
            raise RosterViolation("A checkpoint belongs to another dataset or commit.")
        entry = self.anchor(manifest.sequence)
        if entry is None or file_digest(entry.link) != manifest.link:
            raise RosterViolation("A checkpoint is bound to a link that was not committed.")
        state = manifest.restore(self._initial)
        self.voids |= set(state.voids)
        named = manifest.policy_ref
        policy = self.policy(PolicyRef(manifest.policy_version, named.change_id, named.digest))
        state.policy = policy
        state.checkpoint = ref
        return manifest, state

    def nearest_checkpoint(self, newest: int, trusted: Policy) -> tuple[Manifest, LogState] | None:
        """The checkpoint that the links up to *newest* point to; ``None`` when there is none.

        A link is believed for nothing but where to look, and only when a curator or the root key
        signed it: a stolen producer could point to nothing, or far into the past.

        Raises
        ------
        MissingError, IntegrityError
            The checkpoint that the link points to is missing, forged or altered.
        """
        sequence = newest + 1
        while sequence > 0:
            sequence -= 1
            if voided_by(sequence, self.voids) is not None:
                continue
            entry = self.anchor(sequence)
            if entry is None:
                # Somebody wasted numbers far ahead: the log, or more of that, ends before this gap.
                sequence = self._last_before(sequence) + 1
                continue
            try:
                link = self._believed(entry.link, trusted)
            except IntegrityError:
                continue
            if (link.dataset_id, link.sequence) != (self.dataset_id, sequence):
                continue  # a genuine link in a foreign place: replayed by somebody who may create anchors
            self.learn([entry])
            hint = link.checkpoint
            if hint is not None and hint.sequence <= sequence and voided_by(hint.sequence, self.voids) is None:
                return self.checkpoint(hint, trusted)
        return None

    def _believed(self, raw: bytes, trusted: Policy) -> Link:
        envelope = Link.split(raw)
        author = trusted.authors.get(envelope.author_id)
        if envelope.author_id == ROOT_AUTHOR:
            verify_envelope(envelope, self.descriptor.root_key)
        elif author is None or not author.may(Role.CURATOR):
            raise RosterViolation("The link's author is no curator of the roster.")
        else:
            verify_envelope(envelope, author.public_key)
        return Link.read(envelope)

    # -- replay ------------------------------------------------------------------------------

    def learn(self, entries: Iterable[AnchorEntry]) -> None:
        """Note what the root key takes back in links among *entries*."""
        self.voids |= void_ranges(entries, self.dataset_id, self.descriptor.root_key)

    def taken_back(self, state: LogState, sequence: int) -> str:
        """Why the anchor *sequence*, which comes next, counts for nothing whatever it holds; empty when it may count.

        Notes in *state* what that anchor itself takes back.
        """
        state.voids += tuple(sorted(found for found in self.voids if found[1] == sequence))
        by = voided_by(sequence, self.voids)
        return "" if by is None else f"The data controller took it back in commit {by}."

    def replay(
        self, state: LogState, entries: Sequence[AnchorEntry], known: Mapping[bytes, bytes] | None = None
    ) -> list[LogStep]:
        """Advance *state* (changed in place) over *entries*; *known* are change-set files at hand.

        Raises
        ------
        MissingError
            The store lacks a change set of a valid link.
        TamperedError
            A change set is not the one that was committed.
        Rewound
            The root key took back what *state* stands on; :meth:`nearest_checkpoint` now knows.
        """
        known = known or {}
        self.learn(entries)
        if voided_by(state.head_sequence, self.voids) is not None:
            raise Rewound(
                "The data controller took back commits that this process had read.",
                safe="Nothing of them counts; what came before is as it was.",
                next="Try again.",
            )
        fetched = {**known, **self._prefetch(entries, known)}
        steps: list[LogStep] = []
        for index, entry in enumerate(entries):
            reason = self.taken_back(state, entry.sequence)
            if reason:
                state.skip(entry.sequence, reason)
                steps.append(LogStep(entry, None, void=reason))
                continue
            try:
                link = state.check_link(entry.sequence, entry.link)
            except VoidLink as void:
                state.skip(entry.sequence, void.what)
                steps.append(LogStep(entry, None, void=void.what))
                continue
            if any(ref.change_id not in fetched for ref in link.changes):
                fetched = {**known, **self._prefetch(entries[index:], known)}
            lacking = [ref for ref in link.changes if ref.change_id not in fetched]
            if lacking:
                fetched |= self._fetch(lacking)
                lacking = [ref for ref in lacking if ref.change_id not in fetched]
            if lacking:
                raise MissingError(
                    f"The store lacks the change set {lacking[0].change_id.hex()} of commit {link.sequence}.",
                    safe="Nothing was skipped: a commit counts whole or not at all.",
                    next=f"Restore {change_name(lacking[0].change_id)} from a copy of the store. If an older copy"
                    " was put back as a whole, put the newest one back. If nobody ever had this file, the data"
                    " controller can take the commit back: `sealedhealth void`.",
                )
            accepted = state.advance(link, entry.link, {ref.change_id: fetched[ref.change_id] for ref in link.changes})
            for ref in link.changes:
                del fetched[ref.change_id]
            steps.append(LogStep(entry, link, tuple(accepted)))
        return steps

    def _prefetch(self, entries: Sequence[AnchorEntry], known: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """The change sets that the next links name, in one go; whether a link counts is decided later.

        Those of the first link, and of as many more as say that they fit into a bounded memory.
        """
        wanted: dict[bytes, ChangeRef] = {}
        total = 0
        for entry in entries:
            if voided_by(entry.sequence, self.voids) is not None:
                continue
            try:
                link = Link.read(Link.split(entry.link))
            except IntegrityError:
                continue
            total += sum(ref.size for ref in link.changes)
            if wanted and total > _PREFETCH:
                break
            wanted |= {ref.change_id: ref for ref in link.changes if ref.change_id not in known}
        try:
            return self._fetch(wanted.values())
        except TamperedError:
            return {}  # a void link may say what it likes of sizes: each link is fetched for itself then

    def _fetch(self, refs: Collection[ChangeRef]) -> dict[bytes, bytes]:
        """Those change sets that the store has, by id."""
        names = {change_name(ref.change_id): ref.change_id for ref in refs}
        largest = max((ref.size for ref in refs), default=0)
        files = self.store.get_many(list(names), limit=largest, missing_ok=True)
        return {names[name]: data for name, data in files.items()}
