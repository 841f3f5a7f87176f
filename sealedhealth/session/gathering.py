"""The driver's side of a job: parts that workers handed over become one commit, or nothing does.

Everything that readers would refuse is refused here, before the link takes a number: a link whose change sets
count in part would be half of a commit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from sealedhealth.errors import (
    AccessDenied,
    InvalidInput,
    SealedHealthError,
)
from sealedhealth.log.changeset import MAX_NEW_KEYS, ChangeKind, ChangeSet, Inventory, seal_section
from sealedhealth.log.link import MAX_CHANGES
from sealedhealth.log.names import change_name, object_name
from sealedhealth.log.roster import Policy, Role
from sealedhealth.log.section import MAX_ENTRIES, Put, Section
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import submit
from sealedhealth.session.handover import Job, Receipt
from sealedhealth.session.parts import StoredPart, check_each_other, opened_parts, read_parts
from sealedhealth.session.session import Session
from sealedhealth.session.transaction import Committed, Transaction
from sealedhealth.stores import Location

__all__ = ["MAX_PARTS", "Gathering"]

MAX_PARTS = MAX_CHANGES - 1  #: parts of one commit that stay as they are: the driver brings a change set, too


@dataclass(slots=True)
class _Group:
    """Parts that become one change set."""

    location: Location | None
    parts: list[StoredPart] = field(default_factory=list)
    keys: int = 0
    entries: int = 0

    def takes(self, s: StoredPart) -> bool:
        """Whether there is room."""
        room = self.keys + len(s.change.keys) <= MAX_NEW_KEYS and self.entries + _entries(s) <= MAX_ENTRIES
        return room and s.change.location == self.location

    def add(self, s: StoredPart) -> None:
        """Take one more."""
        self.parts.append(s)
        self.keys += len(s.change.keys)
        self.entries += _entries(s)


def _entries(s: StoredPart) -> int:
    section = s.section or Section()
    return max(len(section.puts), len(section.deletes), len(section.new_objects), len(s.change.inventory))


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
        if self._empty and not self._receipts:
            return None
        engine = self._engine
        stored = self._open(read_parts(engine, self._author_policy(), self.receipts))
        own = self._seal_change(os.urandom(16))
        check_each_other(stored, own)
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

    def _open(self, stored: Sequence[StoredPart]) -> list[StoredPart]:
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
        return opened_parts(engine, stored)

    # -- more parts than a link names ----------------------------------------------------------------

    def _combined(self, stored: Sequence[StoredPart]) -> dict[bytes, bytes]:
        """Fewer change sets of the same content: what this very author wrote is signed anew, many parts in one."""
        groups: list[_Group] = []
        linked: dict[bytes, bytes] = {}
        for s in stored:
            mine = s.change.author_id == self._author.author_id
            if s.section is None or not mine or s.change.sections[0].compartment_id != self._compartment:
                linked[s.change.change_id] = s.raw
                continue
            # Of parts that were written at one place: a change set says of all its objects where that was.
            group = next((g for g in groups if g.takes(s)), None)
            if group is None:
                groups.append(group := _Group(s.change.location))
            group.add(s)
        if len(linked) + len(groups) > MAX_PARTS:
            raise InvalidInput(
                f"This job has {len(stored)} parts; one commit names {MAX_PARTS}, and only those can be combined that"
                " the driver's own author wrote and that it may read.",
                safe="Nothing is committed.",
                next=f"Write in {MAX_PARTS} tasks or fewer (coalesce, repartition), or commit as an author who wrote"
                " the parts and may read.",
            )
        for group in groups:
            if len(group.parts) == 1:
                linked[group.parts[0].change.change_id] = group.parts[0].raw
            else:
                change = self._one_of(group.parts)
                linked[change.change_id] = change.pack(self._engine.sign)
        return linked

    def _one_of(self, group: Sequence[StoredPart]) -> ChangeSet:
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
            location=group[0].change.location,
            sealed=(sealed,),
        )

    # -- giving up ---------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Give the job up. Harmless when it is over, also by a commit that failed: that may have happened all the same.

        Objects of parts by this very author are deleted at once, if it can read and so can tell that nobody uses
        them. The rest goes by garbage collection.
        """
        with self._lock:
            if self.closed:
                return
            receipts = self.receipts
            self.discard()
            if self._engine.loaded.contents is None:
                return
            with suppress(SealedHealthError):
                loaded = self._engine.refresh()
                if loaded.state.policy is None:
                    return
                stored = read_parts(self._engine, loaded.state.policy, receipts)
                own = [s.change.inventory for s in stored if s.change.author_id == self._author.author_id]
                ids = {i.object_ids[at : at + 16] for i in own for at in range(0, len(i.object_ids), 16)}
                for content in (loaded.contents or {}).values():
                    ids -= {item.object_id for item in content.catalogue.objects()}
                    ids -= {item.object_id for item in content.dropped.values()}
                self._engine.store.delete_many([object_name(object_id) for object_id in sorted(ids)])
