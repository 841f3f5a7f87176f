"""The files of a keystore that hold keys: one for each key-encryption key, one for each author."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from sealedhealth.errors import (
    AlreadyExists,
    InvalidInput,
    KeyMissing,
    KeyRetired,
    MalformedError,
    SealedHealthError,
    TamperedError,
)
from sealedhealth.keys.base import Kek, KekVersions, WrappedKey
from sealedhealth.keys.local.files import KeystoreFiles
from sealedhealth.keys.local.protection import Protection
from sealedhealth.keys.secret import Secret

__all__ = ["AUTHORS", "AUTHOR_NAME", "KEKS", "MAX_KEY_FILE_SIZE", "KekRecord", "KeyFiles"]

KEKS = "keks"
AUTHORS = "authors"
AUTHOR_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
KEY_SIZE = 32
MAX_KEY_FILE_SIZE = 2**20
MAX_VERSIONS = (MAX_KEY_FILE_SIZE - 1024) // KEY_SIZE
_HEAD = struct.Struct(">II")


@dataclass(slots=True, repr=False)
class KekRecord:
    """The versions of one key-encryption key that still exist: *minimum* and those that follow it."""

    minimum: int
    keys: list[Secret]

    @property
    def versions(self) -> KekVersions:
        """Numbers of the oldest and newest version."""
        return KekVersions(self.minimum, self.minimum + len(self.keys) - 1)

    @property
    def newest(self) -> Secret:
        """The version that wraps new keys."""
        return self.keys[-1]

    def key_of(self, wrapped: WrappedKey) -> Secret:
        """The version that wraps *wrapped*. Raises ``KeyRetired``, ``KeyMissing`` or ``MalformedError``."""
        versions = self.versions
        if wrapped.version < 1:
            raise MalformedError(f"Version {wrapped.version} of a key-encryption key cannot exist.")
        if wrapped.version < versions.minimum:
            raise KeyRetired(
                f"Version {wrapped.version} of {wrapped.kek.name} is retired; the oldest kept is {versions.minimum}.",
                safe="Keys that were rewrapped before that still open.",
                next="Use a newer snapshot of the log, which holds the rewrapped keys.",
            )
        if wrapped.version > versions.latest:
            raise KeyMissing(
                f"There is no version {wrapped.version} of {wrapped.kek.name}; the latest here is {versions.latest}.",
                safe="Nothing was changed.",
                next="If the keystore was restored from a backup, restore a newer one.",
            )
        return self.keys[wrapped.version - versions.minimum]

    def encode(self) -> Secret:
        """The content of its file."""
        versions = self.versions
        return Secret(_HEAD.pack(versions.minimum, versions.latest) + b"".join(key.expose() for key in self.keys))

    @classmethod
    def decode(cls, content: Secret) -> KekRecord | None:
        """The inverse of :meth:`encode`; ``None`` when malformed."""
        data = content.expose()
        if len(data) < _HEAD.size:
            return None
        minimum, latest = _HEAD.unpack_from(data)
        keys = [Secret(data[start : start + KEY_SIZE]) for start in range(_HEAD.size, len(data), KEY_SIZE)]
        if not 1 <= minimum <= latest or len(data) != _HEAD.size + KEY_SIZE * (latest - minimum + 1):
            return None
        return cls(minimum, keys)


class KeyFiles:
    """Reads and writes protected files. Whoever calls it holds the lock of *files*."""

    def __init__(self, files: KeystoreFiles, protection: Protection) -> None:
        self._files = files
        self._protection = protection

    def kek(self, kek: Kek) -> KekRecord:
        """Read a key-encryption key. Raises ``KeyMissing`` or ``TamperedError``."""
        content = self._read(_kek_file(kek), kek.name)
        record = KekRecord.decode(content)
        if record is None:
            raise _damaged(kek.name)
        return record

    def create_kek(self, kek: Kek, record: KekRecord) -> None:
        """Write a new key-encryption key. Raises ``AlreadyExists``."""
        self._create(_kek_file(kek), kek.name, record.encode())

    def replace_kek(self, kek: Kek, record: KekRecord) -> None:
        """Write a key-encryption key over its file, and wipe what the file held. ``InvalidInput`` when too long."""
        if len(record.keys) > MAX_VERSIONS:
            raise InvalidInput(
                f"{kek.name} has {MAX_VERSIONS} versions already.",
                safe="Nothing was changed.",
                next="Rewrap, then retire old versions.",
            )
        name = _kek_file(kek)
        self._files.replace(name, self._protection.protect(name, record.encode()), wipe=True)

    def author(self, name: str) -> Secret:
        """Read a signing key. Raises ``KeyMissing``, ``InvalidInput`` or ``TamperedError``."""
        return self._read(_author_file(name), f"signing key {name}")

    def create_author(self, name: str, key: Secret) -> None:
        """Write a new signing key. Raises ``AlreadyExists`` or ``InvalidInput``."""
        self._create(_author_file(name), f"signing key {name}", key)

    def _read(self, name: str, what: str) -> Secret:
        content = self._reveal(name)
        if isinstance(content, SealedHealthError):
            raise content
        if content is None:
            raise KeyMissing(
                f"This keystore has no {what}.",
                safe="Nothing was changed.",
                next="Check that the profile names the right keystore.",
            )
        return content

    def _reveal(self, name: str) -> Secret | SealedHealthError | None:
        # Returns rather than raises: in development mode `stored` is the bare key, which a
        # traceback with local variables would show.
        stored = self._files.read(name, limit=MAX_KEY_FILE_SIZE)
        if stored is None:
            return None
        return self._protection.reveal(name, stored) or _damaged(name)

    def _create(self, name: str, what: str, content: Secret) -> None:
        if not self._store(name, content):
            raise AlreadyExists(
                f"This keystore has {what} already.",
                safe="It is unchanged.",
                next="Choose another name, or use the one that is there.",
            )

    def _store(self, name: str, content: Secret) -> bool:
        return self._files.create(name, self._protection.protect(name, content))


def _kek_file(kek: Kek) -> str:
    return f"{KEKS}/{kek.name}"


def _author_file(name: str) -> str:
    if not AUTHOR_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot name a signing key.",
            next="Use 1 to 128 letters, digits, '.', '_' or '-', a letter or digit first.",
        )
    return f"{AUTHORS}/{name}"


def _damaged(what: str) -> TamperedError:
    return TamperedError(
        f"The keystore's file of {what} is damaged, or belongs to another name or keystore.",
        safe="It was not used, and nothing was changed.",
        next="Restore the keystore from a backup.",
    )
