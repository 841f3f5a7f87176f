"""What the public part of the log adds up to: a pure state machine, no key, no I/O.

Feed it the anchored links in order, each with its change-set files.  It decides,
the same way for every client:

* A link is **void** when its signature, author, parent, sequence or dataset is
  wrong, or when it repeats a change set.  Its sequence number is spent, nothing
  else happens: whoever may create anchors can waste numbers, not break a dataset.
* A change-set file whose bytes are not the ones that the link names is the
  host's doing and an **error**: it is never skipped.
* A change set is **refused** when the link is valid but the change set's author
  may not do what it does.  It has no effect and is reported.

Whether an author stayed under its path prefix is not public; ``content.py``
decides that when it opens the sealed sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sealedhealth.errors import IntegrityError, MalformedError, RosterViolation, TamperedError, UnsupportedFormat
from sealedhealth.keys.base import WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet
from sealedhealth.log.envelope import ROOT_AUTHOR, verify_envelope
from sealedhealth.log.link import ChangeRef, CheckpointRef, Descriptor, Link, file_digest
from sealedhealth.log.roster import Policy, Role
from sealedhealth.log.voids import VoidRange

__all__ = ["Accepted", "KeyRecord", "LogState", "Refusal", "VoidLink"]


class VoidLink(RosterViolation):
    """An anchored link that counts for nothing; the reason is its message."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A data key that the log has introduced."""

    wrapped: WrappedKey
    sequence: int  #: of the commit that introduced it
    kind: ChangeKind  #: of the change set that introduced it


@dataclass(frozen=True, slots=True)
class Refusal:
    """A void link, or a change set that had no effect."""

    sequence: int
    reason: str
    change_id: bytes | None = None  #: None: the whole link


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change set that counts, and where it stands."""

    sequence: int
    change: ChangeSet
    policy: Policy  #: in force when it was committed


@dataclass(slots=True)
class LogState:
    """The public state after the anchor of :attr:`sequence`."""

    dataset_id: bytes
    root_key: bytes
    sequence: int  #: last anchor seen, void or not; -1 before the first
    head: bytes  #: digest of the last valid link (of the descriptor before the first)
    head_sequence: int  #: sequence of the last valid link
    policy: Policy | None = None
    policy_ref: ChangeRef | None = None
    policy_sequence: int = -1
    keys: dict[bytes, KeyRecord] = field(default_factory=dict)
    changes: set[bytes] = field(default_factory=set)
    destroyed: dict[bytes, int] = field(default_factory=dict)  #: data key id -> sequence of the tombstone
    minimum: dict[bytes, int] = field(default_factory=dict)  #: compartment -> oldest KEK version that may wrap
    horizon: int = 0  #: snapshots older than this may miss objects that were collected
    checkpoint: CheckpointRef | None = None  #: newest hint by an author who may make one
    voids: tuple[VoidRange, ...] = ()  #: what the root key has taken back so far
    refusals: tuple[Refusal, ...] = ()

    @classmethod
    def initial(cls, descriptor: Descriptor, descriptor_file: bytes) -> LogState:
        """The state before the first commit."""
        return cls(
            dataset_id=descriptor.dataset_id,
            root_key=descriptor.root_key,
            sequence=-1,
            head=file_digest(descriptor_file),
            head_sequence=-1,
        )

    def copy(self) -> LogState:
        """An independent copy."""
        return replace(
            self,
            keys=dict(self.keys),
            changes=set(self.changes),
            destroyed=dict(self.destroyed),
            minimum=dict(self.minimum),
        )

    # -- links ---------------------------------------------------------------------

    def check_link(self, sequence: int, raw: bytes) -> Link:
        """The link anchored at *sequence*, checked against this state.

        Raises
        ------
        VoidLink
            The link counts for nothing.
        """
        if sequence != self.sequence + 1:
            raise ValueError("links are replayed in order")
        try:
            envelope = Link.split(raw)
            verify_envelope(envelope, self._committer_key(envelope.author_id))
            link = Link.read(envelope)
        except (MalformedError, TamperedError, UnsupportedFormat, RosterViolation) as error:
            raise VoidLink(error.what) from None
        if link.dataset_id != self.dataset_id:
            raise VoidLink("The link belongs to another dataset.")
        if link.sequence != sequence:
            raise VoidLink(f"The link says that it is number {link.sequence}.")
        if link.parent != self.head:
            raise VoidLink("The link's parent is not the last commit.")
        if any(change.change_id in self.changes for change in link.changes):
            raise VoidLink("The link repeats a change set that is committed already.")
        return link

    def _committer_key(self, author_id: bytes) -> bytes:
        if author_id == ROOT_AUTHOR:
            return self.root_key
        author = self.policy.authors.get(author_id) if self.policy else None
        if author is None or not author.may(*Role):
            raise RosterViolation("The link's author is not on the roster.")
        return author.public_key

    def skip(self, sequence: int, reason: str) -> None:
        """Record that the anchor at *sequence* is void."""
        self.sequence = sequence
        self.refusals = (*self.refusals, Refusal(sequence, reason))

    def advance(self, link: Link, raw: bytes, files: Mapping[bytes, bytes]) -> list[Accepted]:
        """Apply a link that :meth:`check_link` returned; *files* are its change-set files by id.

        Raises
        ------
        TamperedError
            A file is not the one that the link names. The state is unchanged.
        """
        for ref in link.changes:
            data = files[ref.change_id]
            if len(data) != ref.size or file_digest(data) != ref.digest:
                raise TamperedError(
                    f"The change set {ref.change_id.hex()} is not the one that commit {link.sequence} names.",
                    safe="Nothing of it was used.",
                    next="Restore this file of the store from a copy: every correct copy has the same bytes.",
                )
        accepted: list[Accepted] = []
        for ref in link.changes:
            self.changes.add(ref.change_id)
            try:
                change = self._read_change(ref, files[ref.change_id])
                self._apply(link, ref, change)
            except IntegrityError as error:
                self.refusals = (*self.refusals, Refusal(link.sequence, error.what, ref.change_id))
                continue
            if self.policy is None:
                raise MalformedError("The first commit of a dataset has to be a policy.")
            accepted.append(Accepted(link.sequence, change, self.policy))
        if link.checkpoint is not None and self._may(link.author_id, Role.CURATOR):
            self.checkpoint = link.checkpoint
        self.sequence = self.head_sequence = link.sequence
        self.head = file_digest(raw)
        return accepted

    # -- change sets ------------------------------------------------------------------

    def _may(self, author_id: bytes, *roles: Role) -> bool:
        if author_id == ROOT_AUTHOR:
            return True
        author = self.policy.authors.get(author_id) if self.policy else None
        return author is not None and author.may(*roles)

    def _read_change(self, ref: ChangeRef, data: bytes) -> ChangeSet:
        envelope = ChangeSet.split(data)
        author_id = envelope.author_id
        if author_id == ROOT_AUTHOR:
            key = self.root_key
        else:
            author = self.policy.authors.get(author_id) if self.policy else None
            if author is None or not author.active:
                raise RosterViolation("Its author is not on the roster.")
            key = author.public_key
        verify_envelope(envelope, key)
        change = ChangeSet.read(envelope)
        if change.dataset_id != self.dataset_id or change.change_id != ref.change_id:
            raise RosterViolation("It belongs to another dataset, or to another place in the log.")
        return change

    def _apply(self, link: Link, ref: ChangeRef, change: ChangeSet) -> None:
        """Check everything first, then change the state: a refused change set leaves no trace."""
        if change.author_id != link.author_id and not self._may(link.author_id, Role.CURATOR):
            # Else a thief could commit what its author was told is not committed, and has taken back.
            raise RosterViolation("It was linked by somebody who is neither its author nor a curator.")
        self._check_rights(change)
        self._check_keys(change)
        self._check_reused(change)
        match change.kind:
            case ChangeKind.POLICY:
                policy = change.policy
                if policy is None or policy.version != (self.policy.version if self.policy else 0) + 1:
                    raise RosterViolation("It is not the next version of the policy.")
                self.policy, self.policy_ref, self.policy_sequence = policy, ref, link.sequence
            case ChangeKind.DESTROY:
                self._check_destroy(change)
                self.destroyed.update(dict.fromkeys(change.destroyed, link.sequence))
                self.minimum.update(change.minimum)
            case ChangeKind.COLLECT:
                if change.horizon > link.sequence:
                    raise RosterViolation("It collects what is not committed yet.")
                self.horizon = max(self.horizon, change.horizon)
            case ChangeKind.DATA | ChangeKind.REWRAP:
                pass
        for wrapped in change.keys:
            known = self.keys.get(wrapped.key_id)
            self.keys[wrapped.key_id] = (
                replace(known, wrapped=wrapped) if known else KeyRecord(wrapped, link.sequence, change.kind)
            )

    def _check_rights(self, change: ChangeSet) -> None:
        needed = {
            ChangeKind.DATA: (Role.PRODUCER, Role.CURATOR),
            ChangeKind.REWRAP: (Role.ROTATOR,),
            ChangeKind.COLLECT: (Role.CURATOR,),
            ChangeKind.POLICY: (),
            ChangeKind.DESTROY: (),
        }[change.kind]
        if not self._may(change.author_id, *needed):
            raise RosterViolation(f"Its author has no role that may commit a {change.kind} change set.")
        if change.author_id != ROOT_AUTHOR and self.policy is not None:
            author = self.policy.authors[change.author_id]
            touched = {wrapped.kek.compartment_id for wrapped in change.keys}
            touched |= {section.compartment_id for section in change.sections}
            if not touched <= author.compartments:
                raise RosterViolation("It touches a compartment that its author has no part in.")

    def _check_keys(self, change: ChangeSet) -> None:
        ids = [wrapped.key_id for wrapped in change.keys]
        if len(set(ids)) != len(ids):
            raise RosterViolation("It introduces a data key twice.")
        compartments = set(change.policy.compartments if change.policy else ())
        compartments |= set(self.policy.compartments if self.policy else ())
        for wrapped in change.keys:
            known = self.keys.get(wrapped.key_id)
            compartment = wrapped.kek.compartment_id
            if wrapped.kek.dataset_id != self.dataset_id or compartment not in compartments:
                raise RosterViolation("It wraps a data key for an unknown compartment.")
            if wrapped.version < self.minimum.get(compartment, 1):
                raise RosterViolation("It wraps a data key by a key-encryption key version that is retired.")
            if change.kind is ChangeKind.REWRAP:
                if known is None or known.wrapped.kek != wrapped.kek or wrapped.key_id in self.destroyed:
                    raise RosterViolation("It rewraps a data key that is unknown, destroyed or elsewhere.")
                if wrapped.version < known.wrapped.version:
                    raise RosterViolation("It goes back to an older key-encryption key version.")
            elif known is not None:
                raise RosterViolation("It introduces a data key that the log has already.")

    def _check_reused(self, change: ChangeSet) -> None:
        """Objects under data keys of earlier commits: a curator moves what is sealed under them, nobody else."""
        if change.reused_keys and not self._may(change.author_id, Role.CURATOR):
            raise RosterViolation("Its author may not seal under a data key of an earlier commit.")
        for reused in change.reused_keys:
            known = self.keys.get(reused.key_id)
            if known is None or known.wrapped.kek.compartment_id != reused.compartment_id:
                raise RosterViolation("It reuses a data key that is unknown or of another compartment.")
            if reused.key_id in self.destroyed:
                raise RosterViolation("It reuses a data key that was destroyed.")
            if known.kind is not ChangeKind.DATA:
                # A destruction of all data names the keys of data only: nothing may hide under another one.
                raise RosterViolation("It reuses a data key that seals no data.")

    def _check_destroy(self, change: ChangeSet) -> None:
        if not set(change.destroyed) <= self.keys.keys():
            raise RosterViolation("It destroys a data key that the log does not have.")
        for compartment, version in change.minimum.items():
            if version < self.minimum.get(compartment, 1):
                raise RosterViolation("It lowers the minimum version of a key-encryption key.")

    # -- answers ------------------------------------------------------------------------

    def live_keys(self) -> Sequence[WrappedKey]:
        """The wrapped keys that have not been destroyed."""
        return [record.wrapped for key_id, record in self.keys.items() if key_id not in self.destroyed]
