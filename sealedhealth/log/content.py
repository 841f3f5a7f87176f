"""What the sealed part of the log adds up to: catalogues, tags, and what was dropped.

Pure, like ``state.py``: it is handed opened sections and object keys.  A section
that breaks the rules of the roster (outside the author's prefix, deleting without
being a curator, naming objects that its change set does not bring) has no effect
and is reported, so that a stolen producer cannot make a dataset unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sealedhealth.errors import IntegrityError, RosterViolation
from sealedhealth.format import Kind, plain_size
from sealedhealth.keys.base import DataKey
from sealedhealth.log.catalogue import Catalogue, Entry
from sealedhealth.log.changeset import ChangeKind, ChangeSet
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.paths import is_under
from sealedhealth.log.roster import Role
from sealedhealth.log.section import AuthorNote, ObjectRow, Section
from sealedhealth.log.state import Accepted, KeyRecord, Refusal

__all__ = ["ContentState", "Dropped"]

DESTROYED_KEY = bytes(32)  #: stands for the object key of an object whose data key was destroyed


@dataclass(frozen=True, slots=True)
class Dropped:
    """An object that no path of the newest snapshot uses any more."""

    object_id: bytes
    data_key_id: bytes
    dropped: int  #: sequence of the commit that dropped it
    sealed_size: int
    born: int = 0  #: sequence of the commit that brought it, when an earlier one brought its data key; else 0


@dataclass(slots=True)
class ContentState:
    """The content of one compartment after a commit."""

    compartment_id: bytes
    catalogue: Catalogue = field(default_factory=Catalogue.empty)
    tags: dict[str, int] = field(default_factory=dict, repr=False)
    dropped: dict[bytes, Dropped] = field(default_factory=dict)
    shared: dict[bytes, int] = field(default_factory=dict)  #: uses of objects that several entries use
    born: dict[bytes, int] = field(default_factory=dict)  #: of objects in use that are younger than their data key
    notes: dict[bytes, AuthorNote] = field(default_factory=dict, repr=False)
    name: str = field(default="", repr=False)
    refusals: tuple[Refusal, ...] = ()

    def copy(self) -> ContentState:
        """An independent copy (the catalogue is immutable and shared)."""
        return replace(
            self,
            tags=dict(self.tags),
            dropped=dict(self.dropped),
            shared=dict(self.shared),
            born=dict(self.born),
            notes=dict(self.notes),
        )

    # -- applying ------------------------------------------------------------------------

    def apply(
        self,
        accepted: Accepted,
        section: Section,
        key_of: Callable[[bytes], DataKey | None],
    ) -> None:
        """Apply one opened section.

        *key_of* gives the data key of an id; ``None`` means that the key was destroyed.
        """
        change = accepted.change
        try:
            self._check(accepted, section)
            rows = self._rows(change, section)
            moved = self._moved(change, section, rows)
            puts = self._entries(accepted, section, rows, key_of)
        except IntegrityError as error:
            self.refuse(accepted, error.what)
            return
        if change.kind is ChangeKind.POLICY:
            self.notes = dict(section.notes)
            self.name = section.compartment_name
        fresh = {row.data_key_id + row.object_id for row in rows[: len(section.new_objects)]}
        self.born.update(dict.fromkeys(moved & {_uid(entry) for entry in puts.values()}, accepted.sequence))
        self._account(accepted.sequence, puts, section.deletes, fresh)
        if puts or section.deletes:
            self.catalogue = self.catalogue.apply(puts, section.deletes)
        for tag, sequence in section.tags.items():
            if sequence is None:
                self.tags.pop(tag, None)
            else:
                self.tags[tag] = sequence

    def refuse(self, accepted: Accepted, reason: str) -> None:
        """Record that a change set has no effect in this compartment."""
        self.refusals = (*self.refusals, Refusal(accepted.sequence, reason, accepted.change.change_id))

    def _check(self, accepted: Accepted, section: Section) -> None:
        change = accepted.change
        if change.kind is ChangeKind.POLICY:
            if section.puts or section.deletes or section.tags:
                raise RosterViolation("A policy change set changes paths.")
            return
        if section.notes or section.compartment_name:
            raise RosterViolation("A change set that is no policy names authors.")
        if change.author_id == ROOT_AUTHOR:
            return
        author = accepted.policy.authors[change.author_id]
        if author.may(Role.CURATOR):
            return
        if section.deletes or section.tags or section.old_objects:
            raise RosterViolation("Its author may add and replace, but not delete, move or tag.")
        note = self.notes.get(change.author_id)
        if note is None:
            raise RosterViolation("Its author has no path prefix in this compartment.")
        if not all(is_under(put.path, note.prefix) for put in section.puts):
            raise RosterViolation("It puts a path outside its author's prefix.")

    def _rows(self, change: ChangeSet, section: Section) -> list[ObjectRow]:
        """The objects that the section's entries may use: the change set's own, then older ones."""
        rows: list[ObjectRow] = []
        for index, salt in section.new_objects:
            rows.append(change.object_row(index, salt, self.compartment_id))
        rows.extend(section.old_objects)
        return rows

    def _moved(self, change: ChangeSet, section: Section, rows: list[ObjectRow]) -> set[bytes]:
        """The new objects that are sealed under data keys of earlier commits: nothing else may go by their ids."""
        own = {wrapped.key_id for wrapped in change.keys}
        new = rows[: len(section.new_objects)]
        moved = {row.data_key_id + row.object_id for row in new if row.data_key_id not in own}
        if moved and (not self.dropped.keys().isdisjoint(moved) or self.catalogue.uses(moved)):
            raise RosterViolation("It brings an object that is there already.")
        return moved

    def _entries(
        self,
        accepted: Accepted,
        section: Section,
        rows: list[ObjectRow],
        key_of: Callable[[bytes], DataKey | None],
    ) -> dict[str, Entry]:
        keys: list[bytes] = []
        sizes: list[int] = []
        for row in rows:
            data_key = key_of(row.data_key_id)
            keys.append(DESTROYED_KEY if data_key is None else data_key.object_key(Kind.OBJECT, row.object_id))
            sizes.append(plain_size(row.sealed_size))
        puts: dict[str, Entry] = {}
        for put in section.puts:
            if put.object_index >= len(rows) or put.offset + put.length > sizes[put.object_index]:
                raise RosterViolation("An entry points outside of its object.")
            if put.path in puts:
                raise RosterViolation("A path stands twice in one change set.")
            row = rows[put.object_index]
            puts[put.path] = Entry(
                object_id=row.object_id,
                object_key=keys[put.object_index],
                data_key_id=row.data_key_id,
                salt=row.salt,
                root=row.root,
                sealed_size=row.sealed_size,
                offset=put.offset,
                length=put.length,
                mtime_us=put.mtime_us,
                sequence=accepted.sequence,
            )
        return puts

    # -- which objects are still in use ------------------------------------------------------

    def _account(
        self, sequence: int, puts: Mapping[str, Entry], deletes: Iterable[str], fresh: Collection[bytes]
    ) -> None:
        """Keep count of the uses of each object; *fresh* are this change set's own.

        Objects are told apart by data key and object id together: an author can repeat
        somebody else's object id, but not a data key.
        """
        gone = [old for path in {*puts, *deletes} if (old := self.catalogue.get(path)) is not None]
        uses: dict[bytes, int] = {}
        for old in gone:
            uses.setdefault(_uid(old), self.shared.get(_uid(old), 1))
        # Count the new uses before the lost ones: a move must not drop its object in between.
        for entry in puts.values():
            uid = _uid(entry)
            if uid not in uses:
                uses[uid] = 0 if uid in fresh or self._revive(uid) else self.shared.get(uid, 1)
            uses[uid] += 1
        for old in gone:
            uid = _uid(old)
            uses[uid] -= 1
            if uses[uid] == 0:
                born = self.born.pop(uid, 0)
                self.dropped[uid] = Dropped(old.object_id, old.data_key_id, sequence, old.sealed_size, born)
        for uid, count in uses.items():
            if count > 1:
                self.shared[uid] = count
            else:
                self.shared.pop(uid, None)

    def _revive(self, uid: bytes) -> bool:
        """Take an object out of what was dropped; False when it is not there."""
        dropped = self.dropped.pop(uid, None)
        if dropped is not None and dropped.born:
            self.born[uid] = dropped.born
        return dropped is not None

    # -- destruction and collection -----------------------------------------------------------

    def destroy(self, sequence: int, key_ids: Collection[bytes], keys: Mapping[bytes, KeyRecord]) -> None:
        """Forget what the destroyed data keys sealed: names, sizes and object keys.

        Entries that a later commit made under its own key (a move, a copy) keep their name,
        which is sealed under that key, and say ``KeyDestroyed`` when read.
        """
        forget: list[str] = []
        keep: dict[str, Entry] = {}
        for path, entry in self.catalogue.items():
            if entry.data_key_id not in key_ids:
                continue
            # A commit that brought the key, or that sealed the object anew under it, holds the name under it, too.
            if entry.sequence in {keys[entry.data_key_id].sequence, self.born.get(_uid(entry))}:
                forget.append(path)
            else:
                keep[path] = replace(entry, object_key=DESTROYED_KEY)
        if forget or keep:
            self._account(sequence, {}, forget, ())
            self.catalogue = self.catalogue.apply(keep, forget)

    def collected(self, object_ids: Collection[bytes]) -> None:
        """Forget dropped objects that garbage collection has deleted."""
        for uid in [uid for uid, dropped in self.dropped.items() if dropped.object_id in object_ids]:
            del self.dropped[uid]


def _uid(entry: Entry) -> bytes:
    return entry.data_key_id + entry.object_id
