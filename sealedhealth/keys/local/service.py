"""The local key service: keys, anchors and registry in one keystore directory, no server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Self, SupportsIndex

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, NotFound, TamperedError
from sealedhealth.keys.base import (
    DATA_KEY_SIZE,
    AnchorEntry,
    AuthorKey,
    Capabilities,
    DataKey,
    DatasetRef,
    Kek,
    KekVersions,
    WrappedKey,
)
from sealedhealth.keys.local import signing, wrapping
from sealedhealth.keys.local.anchors import ANCHORS, LocalAnchors
from sealedhealth.keys.local.files import LOCK, TMP, KeystoreFiles, storing, sync_directory
from sealedhealth.keys.local.keyfiles import AUTHORS, KEKS, KEY_SIZE, KekRecord, KeyFiles
from sealedhealth.keys.local.passphrase import PassphraseSource
from sealedhealth.keys.local.protection import (
    MEMLIMIT_MODERATE,
    OPSLIMIT_MODERATE,
    Development,
    Mode,
    Passphrase,
    Protection,
    Settings,
    lock_master,
    new_master,
)
from sealedhealth.keys.local.registry import LocalRegistry
from sealedhealth.keys.secret import Secret

__all__ = ["LocalKeyService", "keystore_mode"]

SETTINGS = "keystore.json"
MAX_SETTINGS_SIZE = 16384
MAX_BATCH = 1024


def keystore_mode(directory: str | os.PathLike[str]) -> Mode | None:
    """``passphrase`` or ``development``; ``None`` when there is no keystore in *directory*.

    Raises ``TamperedError`` or ``UnsupportedFormat`` for a damaged one.
    """
    settings = _read_settings(KeystoreFiles(Path(directory)))
    return None if settings is None else settings.mode


class LocalKeyService:
    """The embedded key service. Implements ``KeyService``, ``AnchorStore`` and ``Registry``.

    The directory is private to its owner (mode 0700) and belongs on a local POSIX file
    system. Any number of threads and processes may use it at once. An object of this class
    refuses to be pickled: other processes open the keystore themselves.

    Parameters
    ----------
    directory:
        The keystore. Raises ``NotFound`` when there is none, ``AccessDenied`` when others
        than its owner may get in.
    passphrase:
        Asked when the passphrase is needed, and once it was right not again before
        :meth:`close`; then a wrong one is ``WrongPassphrase``. ``None`` opens a
        ``development`` keystore. A keystore of one mode is never opened as the other:
        ``AccessDenied`` without the passphrase it needs, ``InvalidInput`` with one that it
        has no use for (:func:`keystore_mode` tells them apart beforehand).
    clock:
        The service's clock, for tests.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        passphrase: PassphraseSource | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        files = KeystoreFiles(Path(directory))
        settings = _read_settings(files)
        if settings is None:
            raise NotFound(
                f"There is no keystore in {files.root}.",
                next="Make one, or check the profile and SEALEDHEALTH_HOME.",
            )
        _refuse_when_open_to_others(files.root)
        self._files = files
        self._settings = settings
        self._clock = clock
        self._protection = _protection(settings, passphrase, files.root)
        self._keys = KeyFiles(files, self._protection)
        self._anchors = LocalAnchors(files, clock)
        self._registry = LocalRegistry(files)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, passphrase: PassphraseSource | None = None) -> Self:
        """Open a keystore; the same as the constructor."""
        return cls(directory, passphrase=passphrase)

    @classmethod
    def init(
        cls,
        directory: str | os.PathLike[str],
        *,
        passphrase: PassphraseSource | None = None,
        development: bool = False,
        opslimit: int = OPSLIMIT_MODERATE,
        memlimit: int = MEMLIMIT_MODERATE,
    ) -> Self:
        """Make a keystore in *directory*, which must be empty or not exist, and open it.

        Give either a passphrase or ``development=True``, which protects nothing and is only
        for demonstrations and tests. *opslimit* and *memlimit* (bytes) are those of Argon2id.
        Raises ``AlreadyExists`` when something is there, and ``InvalidInput``.
        """
        if development == (passphrase is not None):
            raise InvalidInput("A keystore has either a passphrase or development=True.", safe="Nothing was written.")
        master = new_master()
        if passphrase is None:
            settings = Settings("development")
        else:
            _refuse_limits_out_of_bounds(opslimit, memlimit)
            settings = lock_master(master, passphrase, opslimit=opslimit, memlimit=memlimit)
        files = KeystoreFiles(Path(directory))
        make_skeleton(files)
        # The file that makes it a keystore comes last: a crash before it leaves none.
        if not files.create(SETTINGS, settings.encode()):
            raise _not_empty(files.root)
        service = cls(directory, passphrase=passphrase)
        if passphrase is not None and isinstance(service._protection, Passphrase):
            service._protection.adopt(settings, passphrase, master)  # nobody is asked twice
        return service

    def change_passphrase(
        self,
        passphrase: PassphraseSource,
        *,
        opslimit: int = OPSLIMIT_MODERATE,
        memlimit: int = MEMLIMIT_MODERATE,
    ) -> None:
        """Give the keystore another passphrase. Old backups still open with the old one.

        Raises ``InvalidInput`` for a ``development`` keystore, ``WrongPassphrase`` when the
        present passphrase is wrong.
        """
        if not isinstance(self._protection, Passphrase):
            raise InvalidInput(
                "A development keystore has no passphrase.",
                safe="Nothing was changed.",
                next="Make a new keystore with a passphrase for data that matters.",
            )
        _refuse_limits_out_of_bounds(opslimit, memlimit)
        master = self._protection.unlock()
        settings = lock_master(master, passphrase, opslimit=opslimit, memlimit=memlimit)
        with self._files.exclusive():
            self._files.replace(SETTINGS, settings.encode(), wipe=True)
        self._protection.adopt(settings, passphrase, master)

    def close(self) -> None:
        """Wipe the master key from memory. The passphrase is asked again if the service is used again."""
        self._protection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LocalKeyService {self._files.root} {self.capabilities().label}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a LocalKeyService cannot be copied or pickled: open the keystore again instead")

    # -- KeyService -----------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """See :class:`sealedhealth.keys.KeyService`. Data keys pass through this process in a rewrap."""
        development = self._settings.mode == "development"
        return Capabilities(
            label="local (development)" if development else "local",
            max_batch=MAX_BATCH,
            rewrap_without_plaintext=False,
            development=development,
        )

    def now(self) -> datetime:
        """The clock of this machine."""
        return self._clock()

    def create(self, kek: Kek) -> None:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.exclusive():
            self._keys.create_kek(kek, KekRecord(1, [_random(KEY_SIZE)]))

    def generate(self, kek: Kek) -> tuple[DataKey, WrappedKey]:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.shared():
            record = self._keys.kek(kek)
        data_key = DataKey(secrets.token_bytes(DATA_KEY_SIZE))
        return data_key, _wrap(record, kek, data_key)

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """See :class:`sealedhealth.keys.KeyService`."""
        return self._unwrap(wrapped, self._records(wrapped))

    def rewrap(self, wrapped: Sequence[WrappedKey]) -> list[WrappedKey]:
        """See :class:`sealedhealth.keys.KeyService`."""
        records = self._records(wrapped)
        keys = self._unwrap(wrapped, records)
        try:
            wrong = [item.key_id for item, key in zip(wrapped, keys, strict=True) if key.key_id != item.key_id]
            if wrong:  # wrapping it anew would lend it a version it never had
                raise _not_this_wrap(wrong[0])
            return [_wrap(records[item.kek], item.kek, key) for item, key in zip(wrapped, keys, strict=True)]
        finally:
            for key in keys:
                key.close()

    def rotate(self, kek: Kek) -> int:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.exclusive():
            record = self._keys.kek(kek)
            record.keys.append(_random(KEY_SIZE))
            self._keys.replace_kek(kek, record)
        return record.versions.latest

    def retire(self, kek: Kek, minimum: int) -> None:
        """See :class:`sealedhealth.keys.KeyService`.

        The old file is overwritten after the new one has taken its place. Copies in backups,
        in file-system snapshots and in the spare blocks of a solid-state disk are beyond
        reach; in ``passphrase`` mode those are sealed.
        """
        with self._files.exclusive():
            record = self._keys.kek(kek)
            versions = record.versions
            if not 1 <= minimum <= versions.latest:
                raise InvalidInput(
                    f"{kek.name} has versions up to {versions.latest}: the minimum cannot be {minimum}.",
                    safe="Nothing was changed.",
                    next="Rotate first if every present version is to go.",
                )
            if minimum > versions.minimum:
                kept = record.keys[minimum - versions.minimum :]
                self._keys.replace_kek(kek, KekRecord(minimum, kept))

    def versions(self, kek: Kek) -> KekVersions:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.shared():
            return self._keys.kek(kek).versions

    def create_author(self, name: str) -> AuthorKey:
        """See :class:`sealedhealth.keys.KeyService`."""
        key = signing.generate()
        with self._files.exclusive():
            self._keys.create_author(name, key)
        return AuthorKey(name, signing.public_key(key))

    def author(self, name: str) -> AuthorKey:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.shared():
            key = self._keys.author(name)
        return AuthorKey(name, signing.public_key(key))

    def sign(self, name: str, message: bytes) -> bytes:
        """See :class:`sealedhealth.keys.KeyService`."""
        with self._files.shared():
            key = self._keys.author(name)
        return signing.sign(key, message)

    # -- AnchorStore ----------------------------------------------------------------------

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        """See :class:`sealedhealth.keys.AnchorStore`. Safe among threads and processes; needs no passphrase."""
        return self._anchors.create_anchor(dataset_id, sequence, link)

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        """See :class:`sealedhealth.keys.AnchorStore`. Raises ``TamperedError`` for a damaged file."""
        return self._anchors.read_anchor(dataset_id, sequence)

    # -- Registry -------------------------------------------------------------------------

    def lookup(self, url_or_id: str) -> DatasetRef:
        """See :class:`sealedhealth.keys.Registry`."""
        return self._registry.lookup(url_or_id)

    def register(self, ref: DatasetRef) -> None:
        """See :class:`sealedhealth.keys.Registry`."""
        self._registry.register(ref)

    def datasets(self) -> list[DatasetRef]:
        """See :class:`sealedhealth.keys.Registry`. Raises ``TamperedError`` for a damaged file."""
        return self._registry.datasets()

    # -------------------------------------------------------------------------------------

    def _records(self, wrapped: Sequence[WrappedKey]) -> dict[Kek, KekRecord]:
        # Read anew each time: what another process has retired is gone at once.
        with self._files.shared():
            return {kek: self._keys.kek(kek) for kek in dict.fromkeys(item.kek for item in wrapped)}

    @staticmethod
    def _unwrap(wrapped: Sequence[WrappedKey], records: dict[Kek, KekRecord]) -> list[DataKey]:
        keys: list[DataKey] = []
        try:
            for item in wrapped:
                key = wrapping.unwrap(records[item.kek].key_of(item), item.kek, item.ciphertext)
                if key is None:
                    raise _not_this_wrap(item.key_id)
                keys.append(key)
        except BaseException:
            for key in keys:
                key.close()
            raise
        return keys


def _wrap(record: KekRecord, kek: Kek, data_key: DataKey) -> WrappedKey:
    return WrappedKey(kek, data_key.key_id, record.versions.latest, wrapping.wrap(record.newest, kek, data_key))


def _random(size: int) -> Secret:
    return Secret(secrets.token_bytes(size))


def _not_this_wrap(key_id: bytes) -> TamperedError:
    return TamperedError(
        f"The wrap of data key {key_id.hex()} is altered, or belongs to another place or version.",
        safe="Nothing was opened or changed.",
        next="Verify the dataset: its log may have been altered.",
    )


def _refuse_limits_out_of_bounds(opslimit: int, memlimit: int) -> None:
    if not Settings("passphrase", bytes(16), opslimit, memlimit).bounded():
        raise InvalidInput("The limits for Argon2id are out of bounds.", safe="Nothing was changed.")


def _read_settings(files: KeystoreFiles) -> Settings | None:
    data = files.read(SETTINGS, limit=MAX_SETTINGS_SIZE)
    return None if data is None else Settings.decode(data)


def _protection(settings: Settings, passphrase: PassphraseSource | None, root: Path) -> Protection:
    if settings.mode == "development":
        if passphrase is not None:
            raise InvalidInput(
                f"{root} is a development keystore: it has no passphrase, and protects nothing.",
                safe="It was not opened.",
                next="Check which keystore the profile names; if this is the one, open it without a passphrase.",
            )
        return Development()
    if passphrase is None:
        raise AccessDenied(
            f"The keystore in {root} needs its passphrase.",
            safe="It was not opened.",
            next="Name a file that holds it in SEALEDHEALTH_PASSPHRASE_FILE, or run in a terminal.",
        )
    return Passphrase(settings, passphrase)


def _refuse_when_open_to_others(root: Path) -> None:
    with storing("look at its directory"):
        mode = root.stat().st_mode
    if mode & 0o077:
        raise AccessDenied(
            f"Others than its owner may enter the keystore {root}.",
            safe="It was not opened.",
            next=f"chmod 700 {root}, and check who may have read it.",
        )


def make_skeleton(files: KeystoreFiles) -> None:
    """Make the directories of a keystore, if there is nothing else yet."""
    root = files.root
    parts = {LOCK, TMP, KEKS, AUTHORS, ANCHORS}
    with storing("make the keystore"):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # An earlier attempt may have been cut short: empty directories are no keystore.
        present = {path.name for path in root.iterdir()}
        if present - parts or any(any((root / part).iterdir()) for part in (KEKS, AUTHORS, ANCHORS) if part in present):
            raise _not_empty(root)
        root.chmod(0o700)
        for part in (TMP, KEKS, AUTHORS, ANCHORS):
            (root / part).mkdir(mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(root)
        sync_directory(root.parent)


def _not_empty(root: Path) -> AlreadyExists:
    return AlreadyExists(
        f"{root} is not empty.",
        safe="Nothing there was changed.",
        next="Use the keystore that is there, or choose another directory.",
    )
