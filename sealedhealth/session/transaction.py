"""Transactions: everything staged in one commits together, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, Self

from sealedhealth.errors import AccessDenied, AlreadyExists, ConflictError, InvalidInput, NotFound, SealedHealthError
from sealedhealth.keys.base import WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, seal_section
from sealedhealth.log.entry import Entry
from sealedhealth.log.paths import canonical, is_under, parents
from sealedhealth.log.roster import Role
from sealedhealth.log.section import MAX_MESSAGE, ObjectRow, Put, Section, check_tags
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.packing import Packer, Part
from sealedhealth.session.sealing import SMALL, EntryWriter, NewObject, ObjectSealer
from sealedhealth.session.snapshot import Snapshot, View
from sealedhealth.session.staging import Staging
from sealedhealth.stores import Buffer
from sealedhealth.transfer import PIECE

if TYPE_CHECKING:
    from sealedhealth.session.session import Session

__all__ = ["Committed", "EntryWriter", "Transaction"]

_BATCH_BYTES = 16 << 20
_BATCH_COUNT = 2048

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction became."""

    sequence: int
    puts: int
    deletes: int
    sealed_bytes: int  #: bytes of the sealed objects it stored


class Transaction:
    """Stages changes; nothing is visible to others until :meth:`commit`.

    Made by :meth:`Session.begin`. Usable from several threads at once. As a context
    manager it commits, or discards when the block raises.
    """

    def __init__(self, session: Session, message: str = "") -> None:
        if len(message) > MAX_MESSAGE:
            raise InvalidInput(f"A commit message has at most {MAX_MESSAGE} characters.")
        self._session = session
        self._engine = engine = session.engine
        loaded = engine.loaded
        policy = loaded.state.policy
        if policy is None:
            raise AccessDenied("The dataset has no policy yet.")
        self._policy = policy
        self._author = engine.author(policy)
        if not self._author.may(Role.PRODUCER, Role.CURATOR):
            raise AccessDenied(
                "This identity may not write to the dataset.",
                next="Ask the data controller for the role of a producer.",
            )
        self.message = message
        self.base: Snapshot | None = session.snapshot if loaded.contents is not None else None
        self._compartment = next(c for c in policy.compartments if c in self._author.compartments)
        self._started = engine.context.service.now()
        self._lock = threading.RLock()
        self._sealer = ObjectSealer(engine, self._compartment, policy.settings)
        self._packer = Packer(self._sealer, policy.settings)
        self._staging = Staging(self.base, self._compartment, self._packer)
        self._reads: set[str] = set()
        self._tags: dict[str, int | None] = {}
        self._no_files: set[str] = set()  # directories: looked up, and neither they nor what they lie in is a file
        self._writers: set[EntryWriter] = set()
        self._request: Request | None = None  # objects are only deleted when they surely belong to no commit
        self.closed = False

    # -- what it sees ---------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """Base plus what is staged; everything in it can be read. Raises ``AccessDenied`` when this identity cannot.

        What waits in an open pack goes to the store for that: :attr:`outline` does without.
        """
        with self._lock:
            self._staging.outline()  # an identity that cannot read shall not change what is stored
            self._staging.settle()
            return self._staging.outline()

    @property
    def outline(self) -> View:
        """Base plus what is staged, to list: :meth:`settle` before anything of it is read."""
        with self._lock:
            return self._staging.outline()

    def settle(self) -> None:
        """Bring everything staged to the store, so that entries of a later :attr:`outline` can be read."""
        with self._lock:
            self._check_open()
            self._staging.settle()

    # -- putting ----------------------------------------------------------------------------------

    def writer(
        self, path: str, *, exclusive: bool = False, mtime_us: int | None = None, size_hint: int | None = None
    ) -> EntryWriter:
        """A writer that stages *path* when it is closed.

        Parameters
        ----------
        exclusive:
            Raise ``AlreadyExists`` when the path is there already.
        mtime_us:
            Modification time in microseconds since 1970; default: now.
        size_hint:
            Expected size in bytes, so that the store can choose its parts.
        """
        path = self._prepare(path, exclusive=exclusive)
        with self._lock:
            finished = partial(self._finished, mtime_us=mtime_us)
            writer = EntryWriter(self._sealer, path, finished, size_hint=size_hint)
            self._writers.add(writer)
            return writer

    def _finished(self, writer: EntryWriter, content: bytes | NewObject, *, mtime_us: int | None) -> None:
        if isinstance(content, bytes):
            self._put_small([(writer.path, content, mtime_us)])
        else:
            at = self._sealer.now_us() if mtime_us is None else mtime_us
            with self._lock:
                self._stage(writer.path, content.entry(at, self._staging.sequence))
        with self._lock:
            self._writers.discard(writer)

    def put_bytes(self, path: str, data: Buffer, *, exclusive: bool = False, mtime_us: int | None = None) -> None:
        """Stage the content of one path."""
        if memoryview(data).nbytes > SMALL:
            writer = self.writer(path, exclusive=exclusive, mtime_us=mtime_us)
            try:
                writer.write(data)
                writer.close()
            except BaseException:
                writer.discard()
                raise
            return
        self._put_small([(self._prepare(path, exclusive=exclusive), data, mtime_us)])

    def put_many(self, items: Mapping[str, Buffer]) -> None:
        """Stage many contents at once."""
        batch: list[tuple[str, Buffer, int | None]] = []
        size = 0
        for path, data in sorted(items.items()):
            batch.append((self._prepare(path), data, None))
            size += memoryview(data).nbytes
            if size >= _BATCH_BYTES or len(batch) >= _BATCH_COUNT:
                self._put_small(batch)
                batch, size = [], 0
        self._put_small(batch)

    def put_files(self, pairs: Iterable[tuple[str, str]], *, progress: Progress | None = None) -> None:
        """Stage local files under paths; small ones in batches, large ones streamed.

        Parameters
        ----------
        pairs:
            Local file name and path in the dataset.
        progress:
            Called with the number of plaintext bytes sealed since the last call.

        Raises
        ------
        ConflictError
            Somebody wrote to a file while it was read; the transaction should be discarded.
        """
        small: list[tuple[str, Buffer, int | None]] = []
        size = 0
        for local, path in pairs:
            with open(local, "rb", buffering=0) as file:  # noqa: PTH123 - ten thousand times, and Path is slow
                status = os.fstat(file.fileno())
                mtime_us = max(0, status.st_mtime_ns // 1000)
                if status.st_size > SMALL:
                    self._put_large(file, path, status.st_size, mtime_us, progress)
                    _check_unchanged(file, local, status)
                    continue
                data = file.readall()
                _check_unchanged(file, local, status)
            small.append((self._prepare(path), data, mtime_us))
            size += len(data)
            if size >= _BATCH_BYTES or len(small) >= _BATCH_COUNT:
                self._put_small(small, progress)
                small, size = [], 0
        self._put_small(small, progress)

    def _put_large(self, file: FileIO, path: str, size: int, mtime_us: int, progress: Progress | None) -> None:
        writer = self.writer(path, mtime_us=mtime_us, size_hint=size)
        try:
            while data := file.read(PIECE):
                writer.write(data)
                if progress is not None:
                    progress(len(data))
            writer.close()
        except BaseException:
            writer.discard()
            raise

    def _put_small(self, items: Sequence[tuple[str, Buffer, int | None]], progress: Progress | None = None) -> None:
        """Stage contents that are in memory: the smallest in packs, the others as objects of their own, at once."""
        if not items:
            return
        self._check_open()
        now = self._sealer.now_us() if any(mtime_us is None for _, _, mtime_us in items) else 0
        alone: list[tuple[str, Buffer, int]] = []
        with self._lock:
            for path, data, given in items:
                mtime_us = now if given is None else given
                if self._packer.takes(memoryview(data).nbytes):
                    self._stage(path, self._packer.add(path, data, mtime_us))
                else:
                    alone.append((path, data, mtime_us))
        objects = self._sealer.seal_many([data for _, data, _ in alone]) if alone else []
        with self._lock:
            for (path, _, mtime_us), new in zip(alone, objects, strict=True):
                self._stage(path, new.entry(mtime_us, self._staging.sequence))
        if progress is not None:
            progress(sum(memoryview(data).nbytes for _, data, _ in items))

    def _prepare(self, path: str, *, exclusive: bool = False) -> str:
        """Check that *path* may be put and return its canonical form."""
        path = canonical(path, new=True)
        with self._lock:
            self._check_open()
            self._check_declared_prefix(path)
            if self.base is None and not exclusive:
                return path
            self._check_prefix(path)
            if exclusive and self.base is None:
                raise AccessDenied("Without the right to read, nobody can tell whether a file exists already.")
            if exclusive and self._staging.get(path) is not None:
                raise AlreadyExists(f"{path!r} exists already.", safe="It is unchanged.")
            if self._staging.is_dir(path):
                raise InvalidInput(f"{path!r} is a directory.", next="Put the file under another name.")
            for parent in parents(path):
                if parent in self._no_files:
                    break  # then what it lies in is none either
                if self._staging.get(parent) is not None:
                    raise InvalidInput(f"{parent!r} is a file: nothing can lie under it.")
            self._no_files.update(parents(path)[:1])
        return path

    def _check_declared_prefix(self, path: str) -> None:
        """What the profile says of this identity's place: all that can be known of it without the right to read."""
        place = self._engine.profile.prefix
        if not is_under(path, place):
            raise AccessDenied(
                f"This identity may not put {path!r}: by its profile, its place is '{place}/'.",
                safe="Nothing was changed.",
                next="Put it under that directory, or correct 'prefix' in the profile.",
            )

    def _check_prefix(self, path: str) -> None:
        """Say at once what readers would refuse after the commit."""
        if self._author.may(Role.CURATOR) or self.base is None or self.base.contents is None:
            return
        content = self.base.contents.get(self._compartment)
        note = content.notes.get(self._author.author_id) if content else None
        if note is None or not is_under(path, note.prefix):
            raise AccessDenied(
                f"This identity may not put {path!r}: its place is {note.prefix + '/' if note else 'nowhere'!r}.",
                safe="Nothing was changed.",
                next="Put it under that directory, or ask the data controller for another prefix.",
            )

    def _stage(self, path: str, content: Entry | Part) -> None:
        self._check_open()
        self._staging.put(path, content)
        self._no_files.discard(path)

    # -- deleting, copying, moving, tagging ----------------------------------------------------------

    def delete(self, path: str) -> None:
        """Stage the removal of one file. Raises ``NotFound``."""
        path = canonical(path)
        with self._lock:
            self._need_curator("delete")
            self._found(path)
            self._staging.delete(path)

    def copy(self, source: str, target: str) -> None:
        """Stage a copy of one file; its bytes are not read, sealed or stored again. Raises ``NotFound``."""
        source = canonical(source)
        with self._lock:
            self._need_curator("copy")
            content = self._found(source)
            target = self._prepare(target)
            self._reads.add(source)
            self._staging.copy(content, target)
            self._no_files.discard(target)

    def move(self, source: str, target: str) -> None:
        """Stage a move of one file. Raises ``NotFound``."""
        with self._lock:
            if canonical(source) != canonical(target):
                self.copy(source, target)
                self.delete(source)

    def restore(self, path: str, entry: Entry) -> None:
        """Stage an entry of an earlier snapshot under *path*."""
        with self._lock:
            self._need_curator("restore")
            self._stage(self._prepare(path), entry)

    def tag(self, name: str, sequence: int | None = None) -> None:
        """Stage a tag for a commit (default: the base of this transaction), which keeps it from collection."""
        with self._lock:
            self._need_curator("tag")
            _check_tag(name)
            if sequence is None:
                sequence = self._session.snapshot.sequence
            if not 0 <= sequence <= self._engine.loaded.state.sequence:
                raise NotFound(f"There is no commit {sequence} to tag.")
            if sequence < self._engine.loaded.state.horizon:
                self._engine.at(sequence)  # says that it was collected
            self._tags[name] = sequence

    def untag(self, name: str) -> None:
        """Stage the removal of a tag. Raises ``NotFound``."""
        with self._lock:
            self._need_curator("remove tags")
            if name not in self._tags and name not in self._session.snapshot.tags:
                raise NotFound(
                    f"There is no tag {name!r}.",
                    safe="Nothing was changed.",
                    next="`sealedhealth tag URL` lists the tags.",
                )
            self._tags[name] = None

    def _found(self, path: str) -> Entry | Part:
        content = self._staging.get(path)
        if content is None:
            raise NotFound(f"There is no file {path!r}.")
        return content

    def _need_curator(self, what: str) -> None:
        self._check_open()
        if not self._author.may(Role.CURATOR):
            raise AccessDenied(
                f"This identity may not {what}: it may only add and replace.",
                safe="Nothing was changed.",
                next="Ask the data controller for the role of a curator.",
            )

    def _check_open(self) -> None:
        if self.closed:
            raise InvalidInput("This transaction is over.", next="Begin another one.")

    # -- the end ------------------------------------------------------------------------------------------

    def commit(self) -> Committed | None:
        """Make everything staged the next commit; ``None`` when nothing was staged.

        The transaction is over either way.

        Raises
        ------
        ConflictError
            A path of this transaction was changed by somebody else since its base.
        AccessDenied
            The roster does not allow it, or the transaction took too long.
        """
        with self._lock:
            self._check_open()
            if any(not writer.closed for writer in self._writers):
                self.discard()
                raise InvalidInput("A file of this transaction is still open for writing.", next="Close it first.")
            try:
                return self._commit()
            except BaseException:
                self.discard()
                raise
            finally:
                self._finish()

    @property
    def _empty(self) -> bool:
        return not (self._staging.puts or self._staging.deletes or self._tags)

    def _commit(self) -> Committed | None:
        if self._empty:
            return None
        request = self._request = self._seal_change(os.urandom(16))
        sequence = submit(self._engine, request)
        self._session.committed(sequence)
        inventory = request.change.inventory
        return Committed(sequence, len(request.puts), len(request.deletes), sum(inventory.sizes))

    def _seal_change(self, change_id: bytes) -> Request:
        """Everything staged as a signed change set, with what there is to know of it when it is committed."""
        staging = self._staging
        engine = self._engine
        age = engine.context.service.now() - self._started
        grace = timedelta(seconds=self._policy.settings.grace_s)
        if age > grace / 2:
            raise AccessDenied(
                f"This transaction has been open for {age}, longer than half of the dataset's grace ({grace}).",
                safe="Nothing of it is committed: garbage collection could have taken its objects.",
                next="Run it again in smaller parts.",
            )
        self._packer.settle()
        puts = staging.entries()
        sealing = self._sealer.key()
        wrapped = self._fresh_wraps()
        section, inventory = self._section(puts, wrapped)
        ref, sealed = seal_section(
            engine.dataset_id, self._compartment, sealing.data_key, os.urandom(16), section.pack()
        )
        change = ChangeSet(
            dataset_id=engine.dataset_id,
            change_id=change_id,
            author_id=self._author.author_id,
            kind=ChangeKind.DATA,
            time_us=microseconds(engine.context.service.now()),
            keys=tuple(wrapped),
            inventory=inventory,
            sections=(ref,),
            location=engine.location,
            sealed=(sealed,),
        )
        return Request(
            change=change,
            raw=change.pack(engine.sign),
            keys=self._sealer.data_keys,
            base=self.base,
            touched=frozenset({*puts, *staging.deletes, *self._reads}),
            puts=frozenset(puts),
            deletes=frozenset(staging.deletes),
        )

    def _fresh_wraps(self) -> list[WrappedKey]:
        """The wraps of this transaction's data keys, renewed when the KEK was retired meanwhile."""
        wrapped = self._sealer.wrapped
        minimum = self._engine.loaded.state.minimum.get(self._compartment, 1)
        if all(item.version >= minimum for item in wrapped):
            return wrapped
        return self._engine.context.service.rewrap(wrapped)

    def _section(self, puts: Mapping[str, Entry], wrapped: Sequence[WrappedKey]) -> tuple[Section, Inventory]:
        index = {item.key_id: position for position, item in enumerate(wrapped)}
        used = {entry.object_id for entry in puts.values()}
        objects = self._sealer.objects
        new = [item for object_id, item in objects.items() if object_id in used]
        self._sealer.drop(object_id for object_id in objects if object_id not in used)
        rows: dict[bytes, int] = {item.object_id: position for position, item in enumerate(new)}
        old: list[ObjectRow] = []
        staged: list[Put] = []
        for path, entry in sorted(puts.items()):
            uid = entry.object_id if entry.object_id in objects else entry.data_key_id + entry.object_id
            if uid not in rows:
                rows[uid] = len(new) + len(old)
                old.append(ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size))
            staged.append(Put(path, rows[uid], entry.offset, entry.length, entry.mtime_us))
        section = Section(
            message=self.message,
            new_objects=tuple((position, item.info.salt) for position, item in enumerate(new)),
            old_objects=tuple(old),
            puts=tuple(staged),
            deletes=tuple(sorted(self._staging.deletes)),
            tags=dict(self._tags),
        )
        inventory = Inventory(
            b"".join(item.object_id for item in new),
            b"".join(item.info.root for item in new),
            [item.info.sealed_size for item in new],
            [index[item.data_key_id] for item in new],
        )
        return section, inventory

    def discard(self) -> None:
        """Forget everything staged and delete its objects. Harmless when the transaction is over."""
        with self._lock:
            if self.closed:
                return
            for writer in list(self._writers):
                writer.discard()
            self._packer.discard()
            if self._request is None or not self._request.undecided:
                self._sealer.drop(self._sealer.objects)
            self._finish()

    def _finish(self) -> None:
        self.closed = True
        self._packer.discard()
        self._sealer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.discard()
        elif not self.closed:
            self.commit()


def _check_unchanged(file: FileIO, local: str, before: os.stat_result) -> None:
    """Refuse a file that somebody wrote to in the meantime: its bytes could be of two versions."""
    after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ConflictError(
            f"{local} changed while it was read.",
            safe="Nothing of this transaction is committed.",
            next="Wait until whoever writes it has finished, then put it again.",
        )


def _check_tag(name: str) -> None:
    try:
        check_tags([name])
    except SealedHealthError as error:
        raise InvalidInput(
            f"{name!r} cannot be a tag.", next="Use up to 256 printable characters, not only digits, without '/'."
        ) from error
