"""Repacking: what is left of objects that are mostly dead is sealed again, together, under the same data key.

The files keep their paths and times. The old objects are dropped by the commit, and go after the grace like
all others, so that old snapshots and tags go on working until then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sealedhealth.errors import AccessDenied, ConflictError, IntegrityError
from sealedhealth.format import plain_size
from sealedhealth.keys.base import DataKey, WrappedKey
from sealedhealth.keys.keyring import SealingKey
from sealedhealth.log.catalogue import Catalogue
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, ReusedKey, seal_section
from sealedhealth.log.content import DESTROYED_KEY
from sealedhealth.log.entry import Entry
from sealedhealth.log.section import Put, Section
from sealedhealth.log.strict import microseconds
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.engine import Engine, Loaded
from sealedhealth.session.packing import Packer, Part
from sealedhealth.session.sealing import NewObject, ObjectSealer
from sealedhealth.session.session import Session

__all__ = ["RepackReport", "repack"]

#: An object is repacked when the files that live in it are less than this part of it.
LIVE_PART = 0.5
#: And only when so many dead bytes of one data key go with it: each repack is a commit.
LEAST_DEAD = 1 << 20
#: Objects with a larger file are none that this package packs: they are left alone.
LARGEST = 4 << 20
#: One commit moves so many files or bytes at most: what it did is kept when a later one fails.
BATCH_FILES = 1 << 16
BATCH_BYTES = 1 << 30

_ATTEMPTS = 5
_MESSAGE = "repack"


@dataclass(slots=True)
class RepackReport:
    """What repacking did, or would do."""

    objects: int = 0  #: mostly dead objects whose files were moved
    files: int = 0  #: files moved into other objects
    bytes: int = 0  #: of these files
    dead: int = 0  #: bytes that go with the old objects once their grace is over
    damaged: int = 0  #: objects that could not be moved because they do not open: verify names them


@dataclass(slots=True)
class _Candidate:
    """A mostly dead object, and what lives in it."""

    dead: int  #: bytes of the object that no file uses
    files: list[tuple[str, Entry]] = field(default_factory=list)


def repack(session: Session, *, dry_run: bool = False) -> RepackReport:
    """Move the files out of objects that are mostly dead. The caller is a curator who reads everything.

    Objects that a tag keeps stay as they are: moving their files would free nothing.
    A file that somebody else changes meanwhile is left to them.
    """
    report = RepackReport()
    engine = session.engine
    for compartment, key_id, candidates in _groups(engine.loaded):
        if dry_run:
            _count(report, candidates)
            continue
        wrapped = engine.loaded.state.keys[key_id].wrapped
        data_key = engine.unwrap([wrapped]).get(key_id)
        if data_key is None:
            report.damaged += len(candidates)
            continue
        for batch in _batches(candidates):
            _Move(session, compartment, wrapped, data_key).perform(batch, report)
    return report


def _count(report: RepackReport, candidates: Sequence[_Candidate]) -> None:
    report.objects += len(candidates)
    report.files += sum(len(candidate.files) for candidate in candidates)
    report.bytes += sum(entry.length for candidate in candidates for _, entry in candidate.files)
    report.dead += sum(candidate.dead for candidate in candidates)


# -- what is worth it ---------------------------------------------------------------------------


def _groups(loaded: Loaded) -> list[tuple[bytes, bytes, list[_Candidate]]]:
    """Objects to repack by compartment and data key: none but the files of one key share an object."""
    groups: dict[tuple[bytes, bytes], list[_Candidate]] = {}
    last_tag = max(loaded.snapshot().tags.values(), default=-1)
    for compartment, content in (loaded.contents or {}).items():
        for uid, candidate in _mostly_dead(content.catalogue).items():
            _, entry = candidate.files[0]
            record = loaded.state.keys.get(entry.data_key_id)
            if record is None or record.kind is not ChangeKind.DATA:
                continue
            gone = entry.data_key_id in loaded.state.destroyed or entry.object_key == DESTROYED_KEY
            if not gone and last_tag < (content.born.get(uid) or record.sequence):
                groups.setdefault((compartment, entry.data_key_id), []).append(candidate)
    return [
        (compartment, key_id, candidates)
        for (compartment, key_id), candidates in groups.items()
        if sum(candidate.dead for candidate in candidates) >= LEAST_DEAD
    ]


def _mostly_dead(catalogue: Catalogue) -> dict[bytes, _Candidate]:
    """The objects that small files share and of which most is dead, by data key id and object id."""
    lengths: dict[bytes, int] = {}
    for _, entry in catalogue.items():  # noqa: PERF102 - no dict
        if entry.length < plain_size(entry.sealed_size):  # else it is all there is in the object
            uid = entry.data_key_id + entry.object_id
            lengths[uid] = lengths.get(uid, 0) + entry.length
    if not lengths:
        return {}
    found: dict[bytes, _Candidate] = {}
    for path, entry in catalogue.items():
        uid = entry.data_key_id + entry.object_id
        if uid in lengths:
            found.setdefault(uid, _Candidate(plain_size(entry.sealed_size))).files.append((path, entry))
    for uid in lengths:
        candidate = found[uid]
        spans = {(entry.offset, entry.length) for _, entry in candidate.files}  # copies are there once
        live = sum(length for _, length in spans)
        # An author can make entries overlap as it likes: what looks full is left alone, and so is what is large.
        if live >= LIVE_PART * candidate.dead or max(length for _, length in spans) > LARGEST:
            del found[uid]
        else:
            candidate.dead -= live
    return found


def _batches(candidates: Sequence[_Candidate]) -> Iterator[list[_Candidate]]:
    batch: list[_Candidate] = []
    files = size = 0
    for candidate in candidates:
        own = sum(entry.length for _, entry in candidate.files)
        if batch and (files + len(candidate.files) > BATCH_FILES or size + own > BATCH_BYTES):
            yield batch
            batch, files, size = [], 0, 0
        batch.append(candidate)
        files += len(candidate.files)
        size += own
    if batch:
        yield batch


# -- moving --------------------------------------------------------------------------------------


class _Resealer(ObjectSealer):
    """Seals under a data key of an earlier commit."""

    def __init__(self, engine: Engine, compartment: bytes, wrapped: WrappedKey, data_key: DataKey) -> None:
        policy = engine.loaded.state.policy
        if policy is None:
            raise AccessDenied("The dataset has no policy.")
        super().__init__(engine, compartment, policy.settings)
        self.packer = Packer(self, policy.settings)
        self._reused = SealingKey(data_key, wrapped)

    def key(self, length: int = 0) -> SealingKey:  # noqa: ARG002 - its bounds were those of the run that made it
        """The one data key."""
        return self._reused

    def close(self) -> None:
        """Leave the key alone: it is the keyring's."""


class _Move:
    """One commit that moves files under one data key."""

    def __init__(self, session: Session, compartment: bytes, wrapped: WrappedKey, data_key: DataKey) -> None:
        self._session = session
        self._engine = session.engine
        self._compartment = compartment
        self._data_key = data_key
        self._sealer = _Resealer(session.engine, compartment, wrapped, data_key)

    def perform(self, batch: Sequence[_Candidate], report: RepackReport) -> None:
        """Read, seal, commit; count what was done. What does not open stays where it is."""
        request: Request | None = None
        done = False
        try:
            parts, damaged = self._seal(batch)
            report.damaged += len(damaged)
            moved = [candidate for candidate in batch if id(candidate) not in damaged]
            files = {path: entry for candidate in moved for path, entry in candidate.files}
            for _ in range(_ATTEMPTS):
                files = self._unchanged(files)
                if not files:
                    break
                request = self._request(files, parts)
                try:
                    sequence = submit(self._engine, request)
                except ConflictError:  # somebody changed one of the files: that one is theirs
                    self._engine.refresh()
                except AccessDenied:
                    if self._data_key.key_id not in self._engine.refresh().state.destroyed:
                        raise
                else:
                    done = True
                    self._session.committed(sequence)
                    _count(report, moved)
                    report.files -= sum(len(candidate.files) for candidate in moved) - len(files)
                    break
        finally:
            self._tidy(request, done=done)

    def _seal(self, batch: Sequence[_Candidate]) -> tuple[dict[tuple[bytes, int, int], Part], set[int]]:
        """The new place of each content, by the old one; and the candidates that do not open, by ``id()``."""
        parts: dict[tuple[bytes, int, int], Part] = {}
        damaged: set[int] = set()
        packer = self._sealer.packer
        reader = Session(self._engine)
        for candidate in batch:
            contents: dict[tuple[bytes, int, int], tuple[str, Entry]] = {}
            for path, entry in candidate.files:
                contents.setdefault(_place(entry), (path, entry))
            wanted = list(contents.values())
            own: dict[tuple[bytes, int, int], Part] = {}
            try:
                for number, data in reader.read_files([entry for _, entry in wanted]):
                    path, entry = wanted[number]
                    own[_place(entry)] = packer.add(path, data, entry.mtime_us)
            except IntegrityError:
                for part in own.values():
                    part.uses = 0
                damaged.add(id(candidate))
            else:
                parts |= own
        packer.settle()
        return parts, damaged

    def _unchanged(self, files: Mapping[str, Entry]) -> dict[str, Entry]:
        content = (self._engine.loaded.contents or {}).get(self._compartment)
        if content is None or self._data_key.key_id in self._engine.loaded.state.destroyed:
            return {}
        now = ((path, entry, content.catalogue.get(path)) for path, entry in files.items())
        return {path: entry for path, entry, there in now if there is not None and there.content == entry.content}

    def _request(self, files: Mapping[str, Entry], parts: Mapping[tuple[bytes, int, int], Part]) -> Request:
        engine = self._engine
        loaded = engine.loaded
        policy = loaded.state.policy
        if policy is None:
            raise AccessDenied("The dataset has no policy.")
        new: dict[bytes, tuple[int, NewObject]] = {}
        puts: list[Put] = []
        for path, entry in sorted(files.items()):
            target = parts[_place(entry)].entry(0)
            index, _ = new.setdefault(target.object_id, (len(new), self._sealer.objects[target.object_id]))
            puts.append(Put(path, index, target.offset, target.length, entry.mtime_us))
        objects = [item for _, item in new.values()]
        section = Section(
            message=_MESSAGE,
            new_objects=tuple((index, item.info.salt) for index, item in enumerate(objects)),
            puts=tuple(puts),
        )
        ref, sealed = seal_section(engine.dataset_id, self._compartment, self._data_key, os.urandom(16), section.pack())
        change = ChangeSet(
            dataset_id=engine.dataset_id,
            change_id=os.urandom(16),
            author_id=engine.author(policy).author_id,
            kind=ChangeKind.DATA,
            time_us=microseconds(engine.context.service.now()),
            reused_keys=(ReusedKey(self._data_key.key_id, self._compartment),),
            inventory=Inventory(
                b"".join(item.object_id for item in objects),
                b"".join(item.info.root for item in objects),
                [item.info.sealed_size for item in objects],
                [0] * len(objects),
            ),
            sections=(ref,),
            sealed=(sealed,),
            location=engine.location,
        )
        return Request(
            change=change,
            raw=change.pack(engine.sign),
            keys={self._data_key.key_id: self._data_key},
            base=loaded.snapshot(),
            touched=frozenset(files),
            puts=frozenset(files),
        )

    def _tidy(self, request: Request | None, *, done: bool) -> None:
        """Leave nothing behind that no commit names."""
        self._sealer.packer.discard()
        if request is None or done or not request.undecided:
            named = request.change.inventory.object_ids if request is not None and done else b""
            kept = {named[at : at + 16] for at in range(0, len(named), 16)}
            self._sealer.drop(self._sealer.objects.keys() - kept)


def _place(entry: Entry) -> tuple[bytes, int, int]:
    return entry.data_key_id + entry.object_id, entry.offset, entry.length
