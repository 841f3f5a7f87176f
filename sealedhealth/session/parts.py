"""Parts of a job as they are on the store: read, and checked before a driver commits them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    IntegrityError,
    InvalidInput,
    MissingError,
    RosterViolation,
    TamperedError,
)
from sealedhealth.keys.base import DataKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet
from sealedhealth.log.envelope import verify_envelope
from sealedhealth.log.link import MAX_FILE, file_digest
from sealedhealth.log.names import change_name
from sealedhealth.log.roster import Policy
from sealedhealth.log.section import Section
from sealedhealth.session.commit import Request
from sealedhealth.session.engine import Engine
from sealedhealth.session.handover import Receipt

__all__ = ["StoredPart", "check_each_other", "opened_parts", "read_parts"]

_FETCH = 256  #: parts read at once


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as it is on the store, checked."""

    receipt: Receipt
    raw: bytes
    change: ChangeSet
    section: Section | None = None  #: None: this identity cannot read
    data_key: DataKey | None = None  #: of the section


def _no_part(receipt: Receipt, why: str) -> RosterViolation:
    return RosterViolation(
        f"What the receipt {receipt.attempt.hex()} names is no part that a worker hands over. {why}",
        safe="Nothing is committed.",
        next="Run its task again with this package; find out who made the receipt.",
    )


def read_parts(engine: Engine, policy: Policy, receipts: Sequence[Receipt]) -> list[StoredPart]:
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


def _checked(engine: Engine, policy: Policy, receipt: Receipt, raw: bytes) -> StoredPart:
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
    return StoredPart(receipt, raw, change)


def opened_parts(engine: Engine, stored: Sequence[StoredPart]) -> list[StoredPart]:
    """The same with their sections and the data keys of these, unwrapped in one batch.

    Raises ``RosterViolation`` for a part that readers would refuse, or that does what only a driver may.
    """
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
        # When parts are combined, what lies outside of one would lie in the next.
        if any(put.object_index >= len(section.new_objects) for put in section.puts) or any(
            index >= len(s.change.inventory) for index, _ in section.new_objects
        ):
            raise _no_part(s.receipt, "An entry points outside of its objects.")
        opened.append(replace(s, section=section, data_key=data_key))
    return opened


def check_each_other(stored: Sequence[StoredPart], own: Request) -> None:
    """Raise ``ConflictError`` when two parts write one path, or one deletes what another one writes.

    A file where another part needs a directory shows when all of it is held against the snapshot.
    """
    writers: dict[str, str] = dict.fromkeys(own.puts, "the driver")
    for s in stored:
        name = f"part {s.receipt.attempt.hex()}"
        for put in s.section.puts if s.section is not None else ():
            other = writers.setdefault(put.path, name)
            if other != name:
                raise _conflict(put.path, f"is written by {other} and by {name}")
    for s in stored:
        for path in s.section.deletes if s.section is not None else ():
            if path in writers:
                raise _conflict(path, f"is deleted by one part and written by {writers[path]}")


def _conflict(path: str, why: str) -> ConflictError:
    return ConflictError(
        f"{path!r} {why}.",
        safe="Nothing of this job is committed.",
        next="Give every task files of its own names (`part.id` is different for each attempt). Of a task that ran"
        " twice, hand over one receipt.",
    )
