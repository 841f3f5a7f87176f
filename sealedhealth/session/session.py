"""A session: one dataset, one profile, one pinned snapshot."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, NoReturn

from sealedhealth.errors import AccessDenied, IntegrityError, InvalidInput, KeyDestroyed, NotFound, ServiceUnavailable
from sealedhealth.format import Header, Kind
from sealedhealth.log.catalogue import Entry
from sealedhealth.log.content import DESTROYED_KEY
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import file_digest
from sealedhealth.log.names import object_name
from sealedhealth.log.replay import LogStep
from sealedhealth.log.section import Section
from sealedhealth.log.state import LogState
from sealedhealth.profiles import Profile
from sealedhealth.session.bulk import read_files
from sealedhealth.session.engine import Engine
from sealedhealth.session.snapshot import Snapshot
from sealedhealth.session.transaction import Transaction
from sealedhealth.session.urls import normal_url
from sealedhealth.stores.location import Location
from sealedhealth.transfer import Location as Stored
from sealedhealth.transfer import ObjectSource, download, read_many

__all__ = ["CommitInfo", "EntryReader", "Session"]

_SOURCES = 512  #: objects whose checked digests are kept


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """One line of the history."""

    sequence: int
    digest: str  #: SHA-384 of the link, hexadecimal
    time: datetime  #: by the key service's clock
    author: str  #: name on the roster, else its id in hexadecimal; "" for void links
    kinds: tuple[str, ...]  #: of its change sets
    message: str | None  #: None: this identity cannot read it, or its key was destroyed
    puts: int | None
    deletes: int | None
    void: str = ""  #: why the link counts for nothing
    refused: tuple[str, ...] = ()  #: why change sets of it had no effect
    locations: tuple[Location, ...] = ()  #: where its change sets were written, as their authors say


class Session:
    """A view over one dataset, pinned to a snapshot.

    Own commits move the pin; other writers' commits show after :meth:`refresh`.
    """

    def __init__(self, engine: Engine, snapshot: Snapshot | None = None) -> None:
        self.engine = engine
        self.read_only = snapshot is not None
        self._pinned = engine.loaded.snapshot() if snapshot is None else snapshot  # an empty one is falsy
        self._sources: OrderedDict[bytes, ObjectSource] = OrderedDict()

    @staticmethod
    def open(url: str, profile: Profile, *, dataset_id: bytes | None = None, at: int | str | None = None) -> Session:
        """Open the dataset whose root is *url* at its newest snapshot, or at an earlier one.

        Parameters
        ----------
        dataset_id:
            16 bytes; default: what the profile or the key service's registry says.
        at:
            A commit number or a tag: the session is read-only then.

        Raises
        ------
        NotFound
            No dataset, commit or tag of that name.
        IntegrityError
            The log, the anchors, or what this client has seen do not agree.
        AccessDenied
            The key service refuses this identity.
        """
        engine = Engine.get(normal_url(url), profile, dataset_id)
        engine.newest()
        session = Session(engine)
        return session if at is None else session.at(at)

    @property
    def url(self) -> str:
        """The root URL."""
        return self.engine.url

    @property
    def profile(self) -> Profile:
        """The profile it was opened with."""
        return self.engine.profile

    @property
    def dataset_id(self) -> bytes:
        """16 bytes."""
        return self.engine.dataset_id

    @property
    def snapshot(self) -> Snapshot:
        """The pinned snapshot. Raises ``AccessDenied`` when this identity may write but not read."""
        if not self._pinned.readable:
            raise AccessDenied(
                "This identity may not open the dataset.",
                safe="It may still add to it.",
                next="Open it with the profile of a reader.",
            )
        return self._pinned

    @property
    def pinned(self) -> Snapshot:
        """The snapshot, also for identities that cannot read: they see its number and digest."""
        return self._pinned

    @property
    def sequence(self) -> int:
        """The number of the pinned commit, also for identities that cannot read."""
        return self._pinned.sequence

    @property
    def readable(self) -> bool:
        """Whether this identity can open the dataset."""
        return self._pinned.readable

    def refresh(self) -> Snapshot:
        """Look for newer commits and pin the newest."""
        if not self.read_only:
            self._pinned = self.engine.refresh().snapshot()
        return self._pinned

    def committed(self, sequence: int) -> None:
        """Pin the newest snapshot after an own commit of this number."""
        newest = self.engine.loaded
        if newest.state.sequence < sequence:
            try:
                newest = self.engine.refresh()
            except (AccessDenied, ServiceUnavailable):
                return  # the commit stands all the same: an error would say it does not
        self._pinned = newest.snapshot()

    def at(self, where: int | str) -> Session:
        """A read-only session at a commit number or tag. Raises ``NotFound`` or ``SnapshotCollected``."""
        if isinstance(where, str):
            if where.isdigit():
                where = int(where)
            else:
                tags = self.engine.loaded.snapshot().tags
                if where not in tags:
                    raise NotFound(f"There is no tag {where!r}.", next="`sealedhealth tag URL` lists the tags.")
                where = tags[where]
        return Session(self.engine, self.engine.at(where))

    def begin(self, message: str = "") -> Transaction:
        """Begin a transaction with the pinned snapshot as its base."""
        if self.read_only:
            raise InvalidInput("This is an earlier snapshot: it cannot be changed.", next="Open the newest one.")
        self.engine.store.check_writable()  # before anything is sealed in vain
        return Transaction(self, message)

    # -- reading ------------------------------------------------------------------------------------

    def _location(self, entry: Entry) -> Stored:
        if entry.object_key == DESTROYED_KEY or entry.data_key_id in self.engine.loaded.state.destroyed:
            raise KeyDestroyed(
                "The data key of this file was destroyed: it cannot be opened any more, by anybody.",
                safe="Other files are not concerned.",
            )
        header = Header(Kind.OBJECT, self.dataset_id, entry.data_key_id, entry.object_id)
        return Stored(object_name(entry.object_id), entry.object_key, header, entry.salt, entry.root, entry.sealed_size)

    def _source(self, entry: Entry) -> ObjectSource:
        key = entry.data_key_id + entry.object_id
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = ObjectSource(self._location(entry))
            while len(self._sources) > _SOURCES:
                self._sources.popitem(last=False)
        return source

    def read_ranges(self, ranges: Sequence[tuple[Entry, int, int]]) -> list[bytes]:
        """Ranges ``(entry, start, stop)`` of files, in bytes, in one concurrent call to the store.

        Files of one object share what is fetched of it.

        Raises
        ------
        IntegrityError
            Something fetched is not what was signed; nothing is returned then.
        KeyDestroyed
            A file's data key was destroyed.
        """
        spans = []
        for entry, start, stop in ranges:
            first = min(max(start, 0), entry.length)
            last = max(first, min(stop, entry.length))
            spans.append((entry, entry.offset + first, entry.offset + last))
        return self._read_spans(spans)

    def _read_spans(self, spans: Sequence[tuple[Entry, int, int]]) -> list[bytes]:
        """Ranges of the plaintext of the objects that entries lie in."""
        wanted: dict[int, tuple[ObjectSource, list[tuple[int, int]]]] = {}
        order: list[tuple[int, int]] = []
        for entry, start, stop in spans:
            source = self._source(entry)
            own = wanted.setdefault(id(source), (source, []))[1]
            order.append((id(source), len(own)))
            own.append((start, stop))
        results = dict(zip(wanted, read_many(self.engine.store, list(wanted.values())), strict=True))
        return [results[source][index] for source, index in order]

    def read_files(self, entries: Sequence[Entry]) -> Iterator[tuple[int, bytes]]:
        """The contents of small files, each with its index in *entries*, in few requests and bounded memory.

        What lies in one object comes together, whatever the order of *entries*. Raises as :meth:`read_ranges`.
        """
        return read_files(self._read_spans, entries)

    def reader(self, entry: Entry) -> EntryReader:
        """Random access to one file."""
        return EntryReader(self, entry)

    def download(self, entry: Entry, sink: BinaryIO, *, progress: Callable[[int], None] | None = None) -> None:
        """Write a whole file to *sink* in flat memory; each segment is checked before it is written.

        Raises as :meth:`read_ranges`; what was written before is genuine, but not all of the file.
        """
        location = self._location(entry)
        if entry.offset == 0 and self._is_whole(entry):
            download(self.engine.store, location, sink, progress)
            return
        for start in range(0, entry.length, 8 << 20):
            [data] = self.read_ranges([(entry, start, start + (8 << 20))])
            sink.write(data)
            if progress is not None:
                progress(len(data))

    def _is_whole(self, entry: Entry) -> bool:
        return self._source(entry).ranges.plain_size == entry.length

    # -- history ---------------------------------------------------------------------------------------

    def history(self) -> list[CommitInfo]:
        """Every commit, oldest first, replayed and checked from the first link on."""
        engine = self.engine
        state = engine.log.start()
        steps = engine.log.replay(state, engine.log.anchors_from(0, self.sequence))
        sections = self._open_sections(state, steps)
        names = {
            author_id: note.name
            for content in (self._pinned.contents or {}).values()
            for author_id, note in content.notes.items()
        }
        names[ROOT_AUTHOR] = "root"
        refused: dict[int, list[str]] = {}
        for refusal in [*state.refusals, *self._pinned.refusals]:
            if refusal.change_id is not None:
                refused.setdefault(refusal.sequence, []).append(refusal.reason)
        return [_info(step, sections, names, tuple(refused.get(step.entry.sequence, ()))) for step in steps]

    def _open_sections(self, state: LogState, steps: Iterable[LogStep]) -> dict[bytes, Section]:
        """Sections that this identity can open, by change-set id."""
        found: dict[bytes, Section] = {}
        if not self.readable:
            return found
        wanted = [
            (accepted, ref)
            for step in steps
            for accepted in step.accepted
            for ref in accepted.change.sections
            if ref.data_key_id not in state.destroyed
        ]
        keys = self.engine.unwrap(
            list({ref.data_key_id: state.keys[ref.data_key_id].wrapped for _, ref in wanted}.values())
        )
        for accepted, ref in wanted:
            if ref.data_key_id in keys:
                try:
                    found[accepted.change.change_id] = Section.read(
                        accepted.change.open_section(ref, keys[ref.data_key_id])
                    )
                except IntegrityError:
                    continue  # listed as refused
        return found

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session holds keys: pickle its URL, profile name and commit number instead")

    def __repr__(self) -> str:
        return f"<Session {self.url} profile={self.profile.name!r} commit={self.sequence}>"


class EntryReader:
    """Random access to one file of a snapshot."""

    def __init__(self, session: Session, entry: Entry) -> None:
        self._session = session
        self._entry = entry
        self.size = entry.length  #: bytes

    def read(self, start: int, stop: int) -> bytes:
        """Bytes *start* to *stop*, cut off at the end like a slice. Raises as :meth:`Session.read_ranges`."""
        return self._session.read_ranges([(self._entry, start, stop)])[0]


def _info(
    step: LogStep, sections: dict[bytes, Section], names: dict[bytes, str], refused: tuple[str, ...]
) -> CommitInfo:
    changes = [accepted.change for accepted in step.accepted]
    opened = [sections[change.change_id] for change in changes if change.change_id in sections]
    return CommitInfo(
        sequence=step.entry.sequence,
        digest=file_digest(step.entry.link).hex(),
        time=step.entry.created,
        author=", ".join(dict.fromkeys(names.get(c.author_id, c.author_id.hex()) for c in changes)),
        kinds=tuple(str(change.kind) for change in changes),
        message="; ".join(section.message for section in opened if section.message) if opened else None,
        puts=sum(len(section.puts) for section in opened) if opened else None,
        deletes=sum(len(section.deletes) for section in opened) if opened else None,
        void=step.void,
        refused=refused,
        locations=tuple(dict.fromkeys(change.location for change in changes if change.location is not None)),
    )
