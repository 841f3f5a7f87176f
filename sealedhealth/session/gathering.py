"""The driver's side of a job: parts that workers handed over become one commit, or nothing does.

Everything that readers would refuse is refused here, before the link takes a number: a link whose change sets
count in part would be half of a commit.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    IntegrityError,
    InvalidInput,
    MissingError,
    RosterViolation,
    SealedHealthError,
    TamperedError,
)
from sealedhealth.keys.base import DataKey
from sealedhealth.log.changeset import MAX_NEW_KEYS, ChangeKind, ChangeSet, Inventory, seal_section
from sealedhealth.log.envelope import verify_envelope
from sealedhealth.log.link import MAX_CHANGES, MAX_FILE, file_digest
from sealedhealth.log.names import change_name, object_name
from sealedhealth.log.paths import parents
from sealedhealth.log.roster import Policy, Role
from sealedhealth.log.section import MAX_ENTRIES, Put, Section
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.engine import Engine
from sealedhealth.session.handover import Job, Receipt
from sealedhealth.session.session import Session
from sealedhealth.session.transaction import Committed, Transaction

__all__ = ["MAX_PARTS", "Gathering"]

MAX_PARTS = MAX_CHANGES - 1  #: parts of one commit that stay as they are: the driver brings a change set, too
_FETCH = 256  #: parts read at once


@dataclass(frozen=True, slots=True)
class _Stored:
    """A part as it is on the store, checked."""

    receipt: Receipt
    raw: bytes
    change: ChangeSet
    section: Section | None = None  #: None: this identity cannot read
    data_key: DataKey | None = None  #: of the section


class Gathering(Transaction):
    """The transaction of a driver: what it stages itself, and the parts of its job, become one commit.

    The driver's own changes come first: what it deletes, a part may put again.
    """

    def __init__(self, session: Session, job: Job, message: str = "") -> None:
        if session.read_only:
            raise InvalidInput("This is an earlier snapshot: it cannot be changed.", next="Open the newest one.")
        session.engine.store.check_writable()
        super().__init__(session, message)
        self._started = min(self._started, job.started)
        self._job = job
        self._receipts: dict[bytes, Receipt] = {}
        self._tried = False

    @property
    def receipts(self) -> list[Receipt]:
        """What was handed over so far."""
        return list(self._receipts.values())

    def add(self, receipts: Iterable[Receipt | None]) -> None:
        """Take receipts; ``None`` is that of a worker that wrote nothing, and one that comes twice counts once.

        Raises ``InvalidInput`` for what is no receipt of this job.
        """
        with self._lock:
            self._check_open()
            for receipt in receipts:
                if receipt is None:
                    continue
                if not isinstance(receipt, Receipt):
                    raise InvalidInput(f"A {type(receipt).__name__} is no receipt of a part.")
                if receipt.job_id != self._job.job_id:
                    raise InvalidInput(
                        "This receipt is of another job.",
                        safe="Nothing is committed.",
                        next="Hand over what the workers of this very job returned.",
                    )
                if self._receipts.setdefault(receipt.attempt, receipt) != receipt:
                    raise InvalidInput("Two receipts that differ name one part.", safe="Nothing is committed.")

    # -- the commit -------------------------------------------------------------------------------

    def _commit(self) -> Committed | None:
        self._tried = True
        if self._empty and not self._receipts:
            return None
        engine = self._engine
        stored = self._open(_read_parts(engine, self._author_policy(), self.receipts))
        own = self._seal_change(os.urandom(16))
        _check_each_other(stored, own)
        linked = self._combined(stored) if len(stored) > MAX_PARTS else {s.change.change_id: s.raw for s in stored}
        given = {s.change.change_id for s in stored}
        # Those that were combined stay where they are until collection: a second try finds that they were committed.
        if fresh := {change_name(key): raw for key, raw in linked.items() if key not in given}:
            engine.store.put_many(fresh)
        sections = [s.section for s in stored if s.section is not None]
        puts = frozenset(own.puts).union(*({put.path for put in section.puts} for section in sections))
        deletes = frozenset(own.deletes).union(*(section.deletes for section in sections))
        request = self._request = replace(
            own, puts=puts, deletes=deletes - puts, touched=own.touched | puts | deletes, parts=linked
        )
        sequence = submit(engine, request)
        self._session.committed(sequence)
        unread = sum(s.receipt.files for s in stored if s.section is None)
        size = sum(sum(s.change.inventory.sizes) for s in stored) + sum(own.change.inventory.sizes)
        return Committed(sequence, len(puts) + unread, len(request.deletes), size)

    def _author_policy(self) -> Policy:
        """The newest policy, and by it who this identity is."""
        policy = self._engine.refresh().state.policy
        if policy is None:
            raise AccessDenied("The dataset has no policy.")
        self._author = self._engine.author(policy)
        return policy

    def _open(self, stored: Sequence[_Stored]) -> list[_Stored]:
        """The parts with their sections, as far as this identity can read, and all of them its to commit."""
        engine = self._engine
        foreign = [s for s in stored if s.change.author_id != self._author.author_id]
        if foreign and not self._author.may(Role.CURATOR):
            raise AccessDenied(
                f"{len(foreign)} of {len(stored)} parts of this job are by other authors, and only a curator commits"
                " what others wrote: readers would not accept it.",
                safe="Nothing is committed.",
                next="Let driver and workers use the same author, or commit as a curator.",
            )
        if engine.loaded.contents is None:
            return list(stored)
        for s in stored:
            if len(s.change.sections) != 1:
                raise _no_part(s.receipt, "It has not one sealed section.")
        wraps = {wrapped.key_id: wrapped for s in stored for wrapped in s.change.keys}
        data_keys = engine.unwrap([wraps[key] for key in {s.change.sections[0].data_key_id for s in stored}])
        opened = []
        for s in stored:
            ref = s.change.sections[0]
            data_key = data_keys.get(ref.data_key_id)
            if data_key is None:
                raise _no_part(s.receipt, "Its data key does not open.")
            try:
                section = Section.read(s.change.open_section(ref, data_key))
            except IntegrityError as error:
                raise _no_part(s.receipt, "Its sealed section does not open.") from error
            if section.tags or section.old_objects or section.notes or section.compartment_name:
                raise _no_part(s.receipt, "It does what only the driver may: copy, move, restore or tag.")
            opened.append(replace(s, section=section, data_key=data_key))
        return opened

    # -- more parts than a link names ----------------------------------------------------------------

    def _combined(self, stored: Sequence[_Stored]) -> dict[bytes, bytes]:
        """Fewer change sets of the same content: what this very author wrote is signed anew, many parts in one."""
        groups: list[list[_Stored]] = []
        linked: dict[bytes, bytes] = {}
        keys = entries = 0
        for s in stored:
            if s.section is None or s.change.author_id != self._author.author_id:
                linked[s.change.change_id] = s.raw
                continue
            size = max(len(s.section.puts), len(s.section.deletes), len(s.change.inventory))
            keys += len(s.change.keys)
            entries += size
            if not groups or keys > MAX_NEW_KEYS or entries > MAX_ENTRIES:
                groups.append([])
                keys, entries = len(s.change.keys), size
            groups[-1].append(s)
        if len(linked) + len(groups) > MAX_PARTS:
            raise InvalidInput(
                f"This job has {len(stored)} parts; one commit names {MAX_PARTS}, and only those can be combined that"
                " the driver's own author wrote and that it may read.",
                safe="Nothing is committed.",
                next=f"Write in {MAX_PARTS} tasks or fewer (coalesce, repartition), or commit as an author who wrote"
                " the parts and may read.",
            )
        for group in groups:
            if len(group) == 1:
                linked[group[0].change.change_id] = group[0].raw
            else:
                change = self._one_of(group)
                linked[change.change_id] = change.pack(self._engine.sign)
        return linked

    def _one_of(self, group: Sequence[_Stored]) -> ChangeSet:
        """One change set that brings what those of *group* would."""
        engine = self._engine
        first = group[0].change.sections[0]
        new_objects: list[tuple[int, bytes]] = []
        puts: list[Put] = []
        deletes: list[str] = []
        key_index: list[int] = []
        keys = objects = 0
        for s in group:
            if s.section is not None:
                rows = len(new_objects)
                new_objects += [(objects + index, salt) for index, salt in s.section.new_objects]
                puts += [replace(put, object_index=rows + put.object_index) for put in s.section.puts]
                deletes += s.section.deletes
            key_index += [keys + index for index in s.change.inventory.key_index]
            keys += len(s.change.keys)
            objects += len(s.change.inventory)
        section = Section(
            new_objects=tuple(new_objects),
            puts=tuple(sorted(puts, key=lambda put: put.path)),
            deletes=tuple(sorted({*deletes})),
        )
        if group[0].data_key is None:
            raise AccessDenied("Only who can read combines parts.")
        ref, sealed = seal_section(
            engine.dataset_id, first.compartment_id, group[0].data_key, os.urandom(16), section.pack()
        )
        return ChangeSet(
            dataset_id=engine.dataset_id,
            change_id=os.urandom(16),
            author_id=self._author.author_id,
            kind=ChangeKind.DATA,
            time_us=microseconds(engine.context.service.now()),
            keys=tuple(wrapped for s in group for wrapped in s.change.keys),
            inventory=Inventory(
                b"".join(s.change.inventory.object_ids for s in group),
                b"".join(s.change.inventory.roots for s in group),
                [size for s in group for size in s.change.inventory.sizes],
                key_index,
            ),
            sections=(ref,),
            location=engine.location,
            sealed=(sealed,),
        )

    # -- giving up ---------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Give the job up. Harmless when it is over.

        Objects of parts by this very author are deleted at once, if it can read and so can tell that nobody uses
        them. The rest goes by garbage collection; and everything does once a commit was tried, since a request to
        the key service may arrive late.
        """
        with self._lock:
            if self.closed:
                return
            receipts = self.receipts
            self.discard()
            if self._tried or self._engine.loaded.contents is None:
                return
            with suppress(SealedHealthError):
                loaded = self._engine.refresh()
                if loaded.state.policy is None:
                    return
                stored = _read_parts(self._engine, loaded.state.policy, receipts)
                own = [s.change.inventory for s in stored if s.change.author_id == self._author.author_id]
                ids = {i.object_ids[at : at + 16] for i in own for at in range(0, len(i.object_ids), 16)}
                for content in (loaded.contents or {}).values():
                    ids -= {item.object_id for item in content.catalogue.objects()}
                    ids -= {item.object_id for item in content.dropped.values()}
                self._engine.store.delete_many([object_name(object_id) for object_id in sorted(ids)])


def _no_part(receipt: Receipt, why: str) -> RosterViolation:
    return RosterViolation(
        f"What the receipt {receipt.attempt.hex()} names is no part that a worker hands over. {why}",
        safe="Nothing is committed.",
        next="Run its task again with this package; find out who made the receipt.",
    )


def _read_parts(engine: Engine, policy: Policy, receipts: Sequence[Receipt]) -> list[_Stored]:
    """The change sets that receipts name, as their authors signed them.

    Raises
    ------
    AlreadyExists
        Parts are committed already.
    MissingError, TamperedError
        The store does not have what a receipt names.
    RosterViolation, AccessDenied
        It was not written by an author who may.
    """
    if sum(receipt.size for receipt in receipts) > MAX_FILE:
        raise InvalidInput(
            f"What these {len(receipts)} parts say of their files is more than {MAX_FILE >> 30} GiB: too much for one"
            " commit.",
            safe="Nothing is committed.",
            next="Commit in several jobs, or write fewer and larger files.",
        )
    stored = [
        _checked(engine, policy, receipt, raw)
        for start in range(0, len(receipts), _FETCH)
        for receipt, raw in _fetch(engine, receipts[start : start + _FETCH])
    ]
    state = engine.loaded.state
    spent = [
        s
        for s in stored
        if s.change.change_id in state.changes or any(wrapped.key_id in state.keys for wrapped in s.change.keys)
    ]
    if spent:
        raise AlreadyExists(
            f"{len(spent)} of {len(stored)} parts of this job are committed already.",
            safe="That commit stands; nothing was added to it.",
            next="Look at `sealedhealth log`: the job may be done. What is missing has to be written again.",
        )
    return stored


def _fetch(engine: Engine, receipts: Sequence[Receipt]) -> Iterable[tuple[Receipt, bytes]]:
    names = [change_name(receipt.change_id) for receipt in receipts]
    found = engine.store.get_many(names, limit=max(receipt.size for receipt in receipts), missing_ok=True)
    for receipt, name in zip(receipts, names, strict=True):
        raw = found.get(name)
        if raw is None:
            raise MissingError(
                f"The store lacks the part {receipt.attempt.hex()} of this job.",
                safe="Nothing is committed.",
                next="Run its task again. If it was written to another store, correct that worker's profile.",
            )
        yield receipt, raw


def _checked(engine: Engine, policy: Policy, receipt: Receipt, raw: bytes) -> _Stored:
    if len(raw) != receipt.size or file_digest(raw) != receipt.digest:
        raise TamperedError(
            f"The part {receipt.attempt.hex()} is not what its worker handed over.",
            safe="Nothing is committed.",
            next="Run its task again.",
        )
    envelope = ChangeSet.split(raw)
    author = policy.authors.get(envelope.author_id)
    if author is None or not author.active:
        raise AccessDenied(
            f"The author of the part {receipt.attempt.hex()} is not on the roster.",
            safe="Nothing is committed.",
            next="If it was taken off while the job ran, run its tasks again as another one.",
        )
    verify_envelope(envelope, author.public_key)
    change = ChangeSet.read(envelope)
    if change.dataset_id != engine.dataset_id or change.change_id != receipt.change_id:
        raise _no_part(receipt, "It belongs to another dataset or job.")
    if change.kind is not ChangeKind.DATA or change.reused_keys:
        raise _no_part(receipt, "It does something else than adding, replacing and deleting.")
    return _Stored(receipt, raw, change)


def _check_each_other(stored: Sequence[_Stored], own: Request) -> None:
    """Raise ``ConflictError`` when two parts write one path, or a file where another one needs a directory."""
    writers: dict[str, str] = dict.fromkeys(own.puts, "the driver")
    for s in stored:
        name = f"part {s.receipt.attempt.hex()[:8]}"
        for put in s.section.puts if s.section is not None else ():
            other = writers.setdefault(put.path, name)
            if other != name:
                raise _conflict(put.path, f"is written by {other} and by {name}")
    for s in stored:
        for path in s.section.deletes if s.section is not None else ():
            if path in writers:
                raise _conflict(path, f"is deleted by one part and written by {writers[path]}")
    _check_directories(writers.keys())


def _check_directories(puts: Collection[str]) -> None:
    for path in puts:
        for parent in parents(path):
            if parent in puts:
                raise _conflict(parent, "would be a file and a directory at once")


def _conflict(path: str, why: str) -> ConflictError:
    return ConflictError(
        f"{path!r} {why}.",
        safe="Nothing of this job is committed.",
        next="Give every task files of its own names (`part.id` is different for each attempt). Of a task that ran"
        " twice, hand over one receipt.",
    )
