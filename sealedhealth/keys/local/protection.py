"""How the files of a keystore that hold keys are protected.

``passphrase``: a random master key seals each file with secretbox (XSalsa20-Poly1305); it is
itself sealed under a key that Argon2id makes of the passphrase. Each file has a key of its
own, derived from the master key and the file's name, so that files cannot be swapped.

``development``: no protection but the permissions of the directory, and a digest against
accidents. Neither mode ever reads the files of the other.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from sealedhealth.errors import ServiceUnavailable, TamperedError, UnsupportedFormat, WrongPassphrase
from sealedhealth.keys.local.passphrase import PassphraseSource, read_passphrase
from sealedhealth.keys.secret import HiddenBytes, Secret

__all__ = [
    "MEMLIMIT_MODERATE",
    "OPSLIMIT_MODERATE",
    "Development",
    "Mode",
    "Passphrase",
    "Protection",
    "Settings",
    "lock_master",
    "new_master",
]

Mode = Literal["passphrase", "development"]

FORMAT = "sealedhealth keystore"
VERSION = 1
MASTER_SIZE = 32
SALT_SIZE = 16
# libsodium's own "moderate": about a second, and 256 MiB that a guesser must pay for each try
OPSLIMIT_MODERATE = 3
MEMLIMIT_MODERATE = 256 * 2**20
# bounds of what is believed when read: no altered file may make a client run for hours or eat all memory
MAX_OPSLIMIT = 32
MIN_MEMLIMIT = 8192
MAX_MEMLIMIT = 2 * 2**30
_DEVELOPMENT_MAGIC = b"SHKD\x01"
_PASSPHRASE_MAGIC = b"SHKP\x01"


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``keystore.json`` says: the mode, and how the passphrase opens the master key."""

    mode: Mode
    salt: bytes = b""
    opslimit: int = 0
    memlimit: int = 0
    master: bytes = b""  #: the master key, sealed

    def encode(self) -> bytes:
        """The bytes of ``keystore.json``."""
        content: dict[str, object] = {"format": FORMAT, "version": VERSION, "mode": self.mode}
        if self.mode == "passphrase":
            content["kdf"] = {
                "algorithm": "argon2id",
                "salt": self.salt.hex(),
                "opslimit": self.opslimit,
                "memlimit": self.memlimit,
            }
            content["master"] = self.master.hex()
        content["checksum"] = _checksum(content)
        return (json.dumps(content, indent=2) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Settings:
        """Read ``keystore.json``. Raises ``TamperedError`` or ``UnsupportedFormat``.

        The checksum tells an accident from a wrong passphrase, no more than that.
        """
        damaged = TamperedError(
            "The keystore's keystore.json is damaged.",
            safe="No key was read, and nothing was changed.",
            next="Restore the keystore from a backup.",
        )
        try:
            content = json.loads(data)
            checksum = content.pop("checksum")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            raise damaged from None
        if content.get("format") != FORMAT or checksum != _checksum(content):
            raise damaged
        if content.get("version") != VERSION or content.get("mode") not in {"passphrase", "development"}:
            raise UnsupportedFormat(
                "This keystore is of a format that this release does not know.",
                safe="Nothing was changed.",
                next="Use a newer release.",
            )
        mode = cast("Mode", content["mode"])
        if mode == "development":
            return cls(mode)
        try:
            kdf = content["kdf"]
            settings = cls(
                mode, bytes.fromhex(kdf["salt"]), kdf["opslimit"], kdf["memlimit"], bytes.fromhex(content["master"])
            )
            known = kdf["algorithm"] == "argon2id"
        except (KeyError, TypeError, ValueError):
            raise damaged from None
        if not known or not settings.bounded():
            raise UnsupportedFormat(
                "The keystore asks for a key derivation that this release does not know, or beyond its bounds.",
                safe="Nothing was changed.",
                next="Restore the keystore from a backup, or use a newer release.",
            )
        return settings

    def bounded(self) -> bool:
        """Whether the key derivation stays within what this release is willing to run."""
        return (
            len(self.salt) == SALT_SIZE
            and type(self.opslimit) is int
            and type(self.memlimit) is int
            and 1 <= self.opslimit <= MAX_OPSLIMIT
            and MIN_MEMLIMIT <= self.memlimit <= MAX_MEMLIMIT
        )


class Protection(Protocol):
    """Seals and opens the files that hold keys."""

    def protect(self, name: str, content: Secret) -> bytes:
        """The bytes to store under *name*."""
        ...

    def reveal(self, name: str, stored: bytes) -> Secret | None:
        """What :meth:`protect` was given, or ``None`` when *stored* is not what it returned for *name*."""
        ...

    def close(self) -> None:
        """Forget whatever is held in memory."""
        ...


class Development:
    """No protection: digests against accidents only."""

    def protect(self, name: str, content: Secret) -> bytes:
        """Frame *content*, bare."""
        return HiddenBytes(_DEVELOPMENT_MAGIC + _digest(name, content.expose()) + content.expose())

    def reveal(self, name: str, stored: bytes) -> Secret | None:
        """Check the frame."""
        start = len(_DEVELOPMENT_MAGIC)
        if not stored.startswith(_DEVELOPMENT_MAGIC) or stored[start : start + 32] != _digest(
            name, stored[start + 32 :]
        ):
            return None
        return Secret(stored[start + 32 :])

    def close(self) -> None:
        """Nothing is held."""


class Passphrase:
    """Protection by a master key that a passphrase opens, asked for when first needed and then only once."""

    def __init__(self, settings: Settings, source: PassphraseSource) -> None:
        self._settings = settings
        self._source = source
        self._master: Secret | None = None
        self._lock = threading.Lock()  # so that one passphrase is asked for once, whoever comes first

    def adopt(self, settings: Settings, source: PassphraseSource, master: Secret) -> None:
        """Use what :func:`lock_master` made of *master* from now on."""
        with self._lock:
            self._settings, self._source, self._master = settings, source, master

    def protect(self, name: str, content: Secret) -> bytes:
        """Seal *content* under the key of *name*. Raises ``WrongPassphrase``."""
        return _PASSPHRASE_MAGIC + _seal(_file_key(self.unlock(), name), content)

    def reveal(self, name: str, stored: bytes) -> Secret | None:
        """Open what was sealed under the key of *name*. Raises ``WrongPassphrase``."""
        master = self.unlock()
        if not stored.startswith(_PASSPHRASE_MAGIC):
            return None
        return _open(_file_key(master, name), stored[len(_PASSPHRASE_MAGIC) :])

    def unlock(self) -> Secret:
        """The master key. Raises ``WrongPassphrase``."""
        with self._lock:
            if self._master is None:
                settings = self._settings
                passphrase = read_passphrase(self._source)
                key = _stretch(passphrase, settings.salt, settings.opslimit, settings.memlimit)
                master = _open(key, settings.master)
                if master is None:
                    raise WrongPassphrase(
                        "The passphrase does not open this keystore.",
                        safe="Nothing was changed.",
                        next="Try again, or check which keystore is in use.",
                    )
                self._master = master
            return self._master

    def close(self) -> None:
        """Wipe the master key; the passphrase is asked for again when needed."""
        with self._lock:
            if self._master is not None:
                self._master.close()
                self._master = None


def new_master() -> Secret:
    """A random master key."""
    return Secret(secrets.token_bytes(MASTER_SIZE))


def lock_master(master: Secret, source: PassphraseSource, *, opslimit: int, memlimit: int) -> Settings:
    """Seal *master* under a passphrase, asked for once. Raises ``InvalidInput`` when that is empty or too long."""
    salt = secrets.token_bytes(SALT_SIZE)
    key = _stretch(read_passphrase(source), salt, opslimit, memlimit)
    return Settings("passphrase", salt, opslimit, memlimit, _seal(key, master))


def _stretch(passphrase: Secret, salt: bytes, opslimit: int, memlimit: int) -> Secret:
    key = _argon2id(passphrase, salt, opslimit, memlimit)
    if key is None:
        raise ServiceUnavailable(
            f"There is not enough memory to check the passphrase: {memlimit >> 20} MiB are needed.",
            safe="Nothing was changed.",
            next="Free memory, or run on a larger machine.",
        )
    return key


def _argon2id(passphrase: Secret, salt: bytes, opslimit: int, memlimit: int) -> Secret | None:
    # Errors of libraries end here: their frames hold keys that a traceback could show.
    import nacl.exceptions
    import nacl.pwhash.argon2id

    try:
        return Secret(nacl.pwhash.argon2id.kdf(MASTER_SIZE, passphrase.expose(), salt, opslimit, memlimit))
    except (nacl.exceptions.RuntimeError, MemoryError):
        return None


def _seal(key: Secret, content: Secret) -> bytes:
    import nacl.secret

    return bytes(nacl.secret.SecretBox(key.expose()).encrypt(content.expose()))


def _open(key: Secret, sealed: bytes) -> Secret | None:
    import nacl.exceptions
    import nacl.secret

    try:
        return Secret(nacl.secret.SecretBox(key.expose()).decrypt(sealed))
    except (nacl.exceptions.CryptoError, nacl.exceptions.ValueError):  # altered, or shorter than a nonce
        return None


def _file_key(master: Secret, name: str) -> Secret:
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    info = b"sealedhealth/v1/keystore\0" + name.encode()
    return Secret(HKDFExpand(SHA512(), MASTER_SIZE, info).derive(master.expose()))


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def _checksum(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
