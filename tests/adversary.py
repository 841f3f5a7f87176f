"""A small world with a host, a key service and several parties, and what an adversary among them can write.

The adversary speaks the protocol itself: it signs with its own key, asks for data keys, and creates anchors, past
every check that the package's own client makes before it commits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sealedhealth.errors import AccessDenied, AlreadyExists
from sealedhealth.format import Header, Kind, SealedInfo, seal
from sealedhealth.keys import DataKey, Kek, LocalKeyService, WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, SectionRef, seal_section
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import ChangeRef, CheckpointRef, Link, file_digest
from sealedhealth.log.names import change_name, link_name, object_name
from sealedhealth.log.replay import Log
from sealedhealth.log.roster import Role, Settings
from sealedhealth.log.section import Put, Section
from sealedhealth.log.state import LogState
from sealedhealth.profiles import KeyContext, Profile, connecting, create_keystore
from sealedhealth.session import Session, create_dataset, engine, set_author
from sealedhealth.stores import open_store


class EncryptOnly:
    """A key service for producers that may ask for new data keys, and open none."""

    def __init__(self, service: LocalKeyService) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """Refused, as a producer's role in Vault has it."""
        raise AccessDenied("This identity may not unwrap.")

    def rewrap(self, wrapped: Sequence[WrappedKey]) -> list[WrappedKey]:
        """Refused."""
        raise AccessDenied("This identity may not rewrap.")


class World:
    """One dataset on a local host, its key service, and profiles for the parties."""

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self.root = root
        self.host = root / "host" / "dataset"
        self.keystore = root / "keystore"
        self.controller = self.profile("author")
        create_keystore(self.controller, development=True)
        self.session = create_dataset(str(self.host), self.controller, settings=settings)
        self.url = self.session.url
        self.dataset_id = self.session.dataset_id

    @property
    def service(self) -> LocalKeyService:
        """The key service with every right."""
        return self.session.engine.context.service  # type: ignore[return-value]

    def profile(self, name: str) -> Profile:
        """A profile of this key service with a state directory of its own."""
        return Profile(name=name, keystore=self.keystore, state=self.root / "state" / name, author=name)

    def join(
        self, name: str, *roles: Role, prefix: str = "", encrypt_only: bool = False, active: bool = True
    ) -> Profile:
        """Put somebody on the roster, or change what they may do."""
        profile = self.profile(name)
        try:
            key = self.service.create_author(name)
        except AlreadyExists:
            key = self.service.author(name)
        self.session.refresh()
        set_author(self.session, key.public_key, name=name, roles=roles, prefix=prefix, active=active)
        if encrypt_only:
            service = EncryptOnly(self.service)
            context = KeyContext(service, self.service, self.service)  # type: ignore[arg-type]
            connecting._connections[connecting._connection_key(profile)] = context
        return profile

    def open(self, profile: Profile | None = None, *, at: int | None = None, forgetful: bool = False) -> Session:
        """Open everything anew, as another process would; *forgetful*: on a machine that never saw the dataset."""
        profile = profile or self.controller
        if forgetful:
            profile = self.profile(f"stranger-{os.urandom(4).hex()}")
            profile = replace(profile, author="author")
        engine._engines.pop((self.url, profile.name), None)  # not forgotten: sessions that are open go on
        return Session.open(self.url, profile, at=at)

    def put(self, files: Mapping[str, bytes], profile: Profile | None = None) -> int:
        """Commit files and return the commit's number."""
        session = self.open(profile)
        tx = session.begin()
        tx.put_many(files)
        committed = tx.commit()
        assert committed is not None
        return committed.sequence

    def read(self, session: Session, path: str) -> bytes:
        """A whole file of the pinned snapshot."""
        entry = session.snapshot.get(path)
        assert entry is not None, path
        return session.read_ranges([(entry, 0, entry.length)])[0]

    def files(self, session: Session | None = None) -> dict[str, bytes]:
        """Every file of the newest snapshot, opened anew unless a session is given."""
        session = session or self.open()
        session.refresh()
        return {path: self.read(session, path) for path, _ in session.snapshot.items()}

    def object_file(self, path: str) -> Path:
        """Where the host has the object of a file."""
        entry = self.open().snapshot.get(path)
        assert entry is not None
        return self.host / object_name(entry.object_id)

    def newest(self) -> int:
        """The number of the newest anchor."""
        return Log(open_store(self.url, {}), self.service, self.dataset_id).newest()

    def anchor_file(self, sequence: int) -> Path:
        """Where the keystore has an anchor."""
        return self.keystore / "anchors" / self.dataset_id.hex() / f"{sequence:020d}"

    def backup(self, what: Path) -> Path:
        """A full copy of a directory, as it is now."""
        target = self.root / f"copy-{os.urandom(4).hex()}"
        shutil.copytree(what, target)
        return target

    @staticmethod
    def restore(copy: Path, what: Path) -> None:
        """Put a copy back in place of a directory."""
        shutil.rmtree(what)
        shutil.copytree(copy, what)


@dataclass
class Planted:
    """One object that an adversary makes."""

    path: str
    data: bytes
    object_id: bytes = b""  #: default: random
    key: int = 0  #: which of the change set's data keys
    store: bool = True  #: whether it is put on the store


class Adversary:
    """Writes whatever it likes with the rights of one author (or of nobody: *name* without a key on the roster)."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.service = world.service
        self.store = open_store(world.url, {})
        self.log = Log(self.store, self.service, world.dataset_id)
        policy = self.state().policy
        assert policy is not None
        self.compartment = policy.compartments[0]
        self.kek = Kek(world.dataset_id, self.compartment)
        if name == "root":
            self.author_id = ROOT_AUTHOR
        else:
            author = policy.author_of(self.service.author(name).public_key)
            self.author_id = author.author_id if author else os.urandom(16)

    def sign(self, message: bytes) -> bytes:
        """Its own signature."""
        name = self.name
        if name == "root":
            name = self.world.session.engine.root_name
        return self.service.sign(name, message)

    def state(self) -> LogState:
        """The public state, which needs no key."""
        state = self.log.start()
        self.log.replay(state, self.log.anchors_from(0))
        return state

    def data(
        self,
        planted: Iterable[Planted] = (),
        *,
        section: Section | None = None,
        keys: Sequence[WrappedKey] | None = None,
        spoil: bytes | None = None,
        **parts: Any,
    ) -> ChangeSet:
        """A data change set with these objects.

        *section* replaces the honest section, *spoil* the bytes of the sealed section (its digest is the author's),
        *keys* the wraps it brings.
        """
        data_key, wrapped = self.service.generate(self.kek)
        objects: list[tuple[Planted, SealedInfo, bytes]] = []
        for item in planted:
            object_id = item.object_id or os.urandom(16)
            header = Header(Kind.OBJECT, self.world.dataset_id, data_key.key_id, object_id)
            sealed, info = seal(data_key.object_key(Kind.OBJECT, object_id), header, item.data)
            if item.store:
                self.store.put(object_name(object_id), sealed)
            objects.append((item, info, object_id))
        if section is None:
            section = Section(
                new_objects=tuple((index, info.salt) for index, (_, info, _) in enumerate(objects)),
                puts=tuple(Put(item.path, index, 0, len(item.data), 0) for index, (item, _, _) in enumerate(objects)),
            )
        return self.seal(
            section,
            data_key,
            wrapped,
            inventory=Inventory(
                b"".join(object_id for _, _, object_id in objects),
                b"".join(info.root for _, info, _ in objects),
                [info.sealed_size for _, info, _ in objects],
                [0 for _ in objects],
            ),
            keys=keys,
            spoil=spoil,
            **parts,
        )

    def seal(
        self,
        section: Section | bytes,
        data_key: DataKey,
        wrapped: WrappedKey,
        *,
        keys: Sequence[WrappedKey] | None = None,
        spoil: bytes | None = None,
        **parts: Any,
    ) -> ChangeSet:
        """A data change set around one section (or around any bytes)."""
        plain = section if isinstance(section, bytes) else section.pack()
        ref, sealed = seal_section(self.world.dataset_id, self.compartment, data_key, os.urandom(16), plain)
        if spoil is not None:
            ref, sealed = SectionRef(ref.compartment_id, ref.data_key_id, ref.object_id, len(spoil), ref.root), spoil
        return self.change(
            ChangeKind.DATA,
            keys=tuple(keys) if keys is not None else (wrapped,),
            sections=(ref,),
            sealed=(sealed,),
            **parts,
        )

    def change(self, kind: ChangeKind, **parts: Any) -> ChangeSet:
        """A bare change set."""
        given = {
            "dataset_id": self.world.dataset_id,
            "change_id": os.urandom(16),
            "author_id": self.author_id,
            "time_us": 0,
            **parts,
        }
        return ChangeSet(kind=kind, **given)

    def link(
        self,
        files: Mapping[bytes, bytes],
        *,
        sequence: int | None = None,
        parent: bytes | None = None,
        dataset_id: bytes | None = None,
        checkpoint: CheckpointRef | None = None,
    ) -> bytes:
        """A link over change-set files by id."""
        state = self.state()
        return Link(
            dataset_id=dataset_id or self.world.dataset_id,
            sequence=state.sequence + 1 if sequence is None else sequence,
            parent=state.head if parent is None else parent,
            author_id=self.author_id,
            changes=tuple(ChangeRef(key, file_digest(raw), len(raw)) for key, raw in files.items()),
            time_us=0,
            checkpoint=checkpoint,
        ).pack(self.sign)

    def anchor(self, raw: bytes, sequence: int | None = None) -> int:
        """Create an anchor that holds *raw*, whatever it is."""
        sequence = self.state().sequence + 1 if sequence is None else sequence
        self.service.create_anchor(self.world.dataset_id, sequence, raw)
        return sequence

    def commit(self, *changes: ChangeSet | bytes, store: bool = True, **parts: Any) -> int:
        """Sign, store and anchor change sets; bytes are change-set files as they are. Returns the commit's number."""
        files: dict[bytes, bytes] = {}
        for change in changes:
            raw = change if isinstance(change, bytes) else change.pack(self.sign)
            change_id = os.urandom(16) if isinstance(change, bytes) else change.change_id
            files[change_id] = raw
            if store:
                self.store.put(change_name(change_id), raw)
        link = self.link(files, **parts)
        sequence = self.anchor(link, parts.get("sequence"))
        self.store.put(link_name(sequence), link)
        return sequence
