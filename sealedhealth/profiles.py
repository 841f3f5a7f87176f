"""Profiles: names that stand for a key service, store options and places on this machine.

A profile holds no secret.  It is read from a TOML file, strictly: a key that is not
known is refused, since a misspelt setting that is silently ignored can weaken what
the user believes is in force::

    [profiles.chu-lille]
    keystore = "~/keys/chu-lille"           # default: <home>/keystore
    author = "author"                       # name of the signing key
    passphrase_file = "/run/secrets/phrase" # default: ask on the terminal

    [profiles.chu-lille.store]              # options of the object store's file system
    endpoint_url = "https://s3.example.org"

    [profiles.chu-lille.datasets]           # ids pinned by hand, beside the registry's
    "s3://bucket/cardio-2026" = "8d1c…32 hexadecimal digits"

A profile whose keys are in a Vault says which one, under whose law it runs, and the only
hosts that may ever be spoken to; anything else is refused before a byte is sent::

    [profiles.cardio-job]
    keys = "vault"
    author = "job-7"

    [profiles.cardio-job.vault]
    address = "https://vault.example.fr:8200"
    allowed_hosts = ["vault.example.fr"]
    jurisdiction = "FR"
    ca_file = "/etc/sealedhealth/vault-ca.pem"   # default: the system's
    namespace = "health"                         # default: none
    role = "reader"                              # what `doctor` measures its rights against

    [profiles.cardio-job.vault.auth]
    method = "approle"                           # or jwt, kubernetes, cert, token
    role_id = "6e4b…"
    wrapped_secret_id_file = "/run/secrets/wrapped-secret-id"

``local`` exists without any file.  Nothing here ever falls back to a development
keystore: that has to be asked for by name when a keystore is made.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, KeyMissing

if TYPE_CHECKING:
    from sealedhealth.keys.base import AnchorStore, KeyService, Registry
    from sealedhealth.keys.vault.table import VaultTable

__all__ = [
    "MIN_PASSPHRASE",
    "KeyContext",
    "PassphrasePrompt",
    "Profile",
    "change_passphrase",
    "config_path",
    "connect",
    "create_keystore",
    "disconnect",
    "home",
    "load_profile",
    "profile_names",
    "set_passphrase_prompt",
    "substitute",
]

DEFAULT_PROFILE = "local"
MIN_PASSPHRASE = 8  #: characters of a new passphrase

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATASET_ID = re.compile(r"[0-9a-f]{32}")
_TEXT_KEYS = ("keys", "keystore", "author", "state", "passphrase_file")
_TABLE_KEYS = ("store", "datasets", "vault")
_KEY_SERVICES = ("local", "vault")
_KEYSTORE_KEYS = ("keystore", "passphrase_file")  # of the local key service only
# Store options that are secrets. They belong to the store's own credential chain (environment, credentials file,
# instance role), never into a file that is copied around and pasted into tickets.
_SECRET_OPTION = re.compile("secret|password|passwd|token|credential|account_key|sas|connection_string", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/@]*:[^/@]*@")
_CONFIG_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Profile:
    """Where keys, signing identity and store options come from. Holds no secret.

    Parameters
    ----------
    name:
        The name that travels in URLs' options and pickles.
    keystore:
        Directory of the local keystore.
    state:
        Directory of what this client saw last of each dataset.
    keys:
        Kind of key service: ``local`` or ``vault``.
    author:
        Name of the signing key in the key service.
    store:
        Options of the object store's fsspec file system.
    dataset_ids:
        URL to hexadecimal dataset id, for datasets that the registry does not know.
    passphrase_file:
        File that holds the keystore's passphrase, if it may be read from one.
    vault:
        How to reach the Vault and log in, if the keys are in one.
    """

    name: str
    keystore: Path
    state: Path
    keys: str = "local"
    author: str = "author"
    store: Mapping[str, Any] = field(default_factory=dict, repr=False)
    dataset_ids: Mapping[str, str] = field(default_factory=dict)
    passphrase_file: Path | None = None
    vault: VaultTable | None = None


@dataclass(frozen=True, slots=True)
class KeyContext:
    """An open connection to whatever holds the keys; one object may play all three parts."""

    service: KeyService
    anchors: AnchorStore
    registry: Registry


class PassphrasePrompt(Protocol):
    """Asks a human for a passphrase."""

    def __call__(self, keystore: Path, *, creating: bool) -> str:
        """The passphrase of *keystore*; asks twice when *creating*."""
        ...


# --- places -------------------------------------------------------------------------------


def _platform_dir(kind: str) -> Path:
    """The directory for this user's ``config`` or ``data`` files on this platform."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "sealedhealth"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "sealedhealth"
    variable, default = {"config": ("XDG_CONFIG_HOME", ".config"), "data": ("XDG_DATA_HOME", ".local/share")}[kind]
    base = os.environ.get(variable, "")
    # The XDG specification says that relative values are to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / default) / "sealedhealth"


def home() -> Path:
    """Directory of the default keystore and state: ``$SEALEDHEALTH_HOME``, else the platform's data directory."""
    given = os.environ.get("SEALEDHEALTH_HOME")
    return _path(given) if given else _platform_dir("data")


def config_path() -> Path:
    """The profile file: ``$SEALEDHEALTH_CONFIG``, else ``config.toml`` in the platform's config directory."""
    given = os.environ.get("SEALEDHEALTH_CONFIG")
    return _path(given) if given else _platform_dir("config") / "config.toml"


def _path(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - resolve() would follow links


# --- reading ------------------------------------------------------------------------------


def profile_names() -> list[str]:
    """Every name that :func:`load_profile` knows, sorted. Raises ``InvalidInput``."""
    return sorted({DEFAULT_PROFILE, *_tables()})


def load_profile(name: str | None = None) -> Profile:
    """The profile called *name*; ``None`` means ``$SEALEDHEALTH_PROFILE``, else ``local``.

    ``SEALEDHEALTH_KEYSTORE``, ``SEALEDHEALTH_AUTHOR``, ``SEALEDHEALTH_STATE`` and
    ``SEALEDHEALTH_PASSPHRASE_FILE`` override what the file says; ``SEALEDHEALTH_VAULT_ADDRESS``
    overrides a Vault's address, within the hosts that the profile allows.

    Raises
    ------
    InvalidInput
        No such profile, or a profile file that cannot be used: unknown key, wrong type, a secret in it, a Vault
        outside the hosts that the profile allows, or one that would be spoken to in clear.
    """
    name = name or os.environ.get("SEALEDHEALTH_PROFILE") or DEFAULT_PROFILE
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a profile.",
            next="Use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit.",
        )
    tables = _tables()
    if name not in tables and name != DEFAULT_PROFILE:
        raise InvalidInput(
            f"There is no profile {name!r} in {config_path()}.",
            next=f"Known profiles: {', '.join(profile_names())}. Make it with `sealedhealth profile init {name}`.",
        )
    return _profile(name, tables.get(name, {}))


def _tables() -> dict[str, dict[str, Any]]:
    """The tables of the profile file by name, every one of them checked."""
    path = config_path()
    try:
        with path.open("rb") as file:
            data = file.read(_CONFIG_LIMIT + 1)
    except FileNotFoundError:
        if os.environ.get("SEALEDHEALTH_CONFIG"):
            raise InvalidInput(
                f"SEALEDHEALTH_CONFIG names {path}, which does not exist.",
                next="Correct or unset it, or make the file with `sealedhealth profile init NAME`.",
            ) from None
        return {}
    except OSError as error:
        raise InvalidInput(f"The profile file {path} cannot be read: {error.strerror}.") from error
    if len(data) > _CONFIG_LIMIT:
        raise InvalidInput(f"The profile file {path} is larger than 1 MiB.")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The profile file {path} is not valid TOML: {error}.") from None
    _refuse_unknown(document, ("profiles",), path, "at the top")
    tables = document.get("profiles", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidInput(f"'profiles' in {path} has to hold tables: [profiles.NAME].")
    for name, table in tables.items():
        _check(name, table, path)
    return tables


def _check(name: str, table: Mapping[str, Any], path: Path) -> None:
    where = f"[profiles.{name}]"
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} in {path} cannot be the name of a profile.")
    _refuse_unknown(table, (*_TEXT_KEYS, *_TABLE_KEYS), path, f"in {where}")
    for key in _TEXT_KEYS:
        if key in table and (not isinstance(table[key], str) or not table[key]):
            raise InvalidInput(f"'{key}' in {where} of {path} has to be text.")
    for key in _TABLE_KEYS:
        if not isinstance(table.get(key, {}), dict):
            raise InvalidInput(f"'{key}' in {where} of {path} has to be a table: [profiles.{name}.{key}].")
    if table.get("keys", "local") not in _KEY_SERVICES:
        raise InvalidInput(
            f"keys = {table['keys']!r} in {where} of {path} is not a key service of this release.",
            next=f"Known: {', '.join(_KEY_SERVICES)}.",
        )
    _refuse_secrets(table.get("store", {}), path, f"[profiles.{name}.store]")
    if (table.get("keys") == "vault") != ("vault" in table):
        raise InvalidInput(
            f'{where} of {path} needs both keys = "vault" and a table [profiles.{name}.vault], or neither.',
            next="A profile's keys are in one place: say which.",
        )
    for key in _KEYSTORE_KEYS:
        if "vault" in table and key in table:
            raise InvalidInput(f"'{key}' in {where} of {path} is for a local keystore, and its keys are in a Vault.")
    for url, dataset_id in table.get("datasets", {}).items():
        if not isinstance(dataset_id, str) or not _DATASET_ID.fullmatch(dataset_id):
            raise InvalidInput(f"The id of {url!r} in {where} of {path} is not 32 lower-case hexadecimal digits.")


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(f"Unknown key '{key}' {where} of {path}.", next=f"Known keys: {', '.join(known)}.")


def _refuse_secrets(options: Mapping[str, Any], path: Path, where: str) -> None:
    for key, value in options.items():
        if _SECRET_OPTION.search(key) or (isinstance(value, str) and _URL_WITH_PASSWORD.match(value)):
            raise InvalidInput(
                f"'{key}' in {where} of {path} is a secret, and a profile must not hold any.",
                next="Give it to the store by its own means: environment variables, a credentials file, or a role.",
            )
        if isinstance(value, dict):
            _refuse_secrets(value, path, where)


def _profile(name: str, table: Mapping[str, Any]) -> Profile:
    def text(key: str) -> str | None:
        return os.environ.get(f"SEALEDHEALTH_{key.upper()}") or table.get(key)

    def place(key: str) -> Path | None:
        value = text(key)
        return _path(value) if value else None

    return Profile(
        name=name,
        keys=table.get("keys", "local"),
        keystore=place("keystore") or home() / "keystore",
        state=place("state") or home() / "state",
        author=text("author") or "author",
        store=table.get("store", {}),
        dataset_ids={url.rstrip("/"): dataset_id for url, dataset_id in table.get("datasets", {}).items()},
        passphrase_file=place("passphrase_file"),
        vault=_vault(name, table["vault"]) if "vault" in table else None,
    )


def _vault(name: str, table: Mapping[str, Any]) -> VaultTable:
    from sealedhealth.keys.vault.table import read_table

    return read_table(table, f"[profiles.{name}.vault] of {config_path()}", _path)


# --- connecting ---------------------------------------------------------------------------

_lock = threading.Lock()
_connections: dict[tuple[object, ...], KeyContext] = {}
_prompt: PassphrasePrompt | None = None


def _forget_after_fork() -> None:
    """A child of fork opens its own connections: locks and sockets of the parent must not be shared."""
    global _lock
    _lock = threading.Lock()
    _connections.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def set_passphrase_prompt(prompt: PassphrasePrompt | None) -> None:
    """Install what asks a human for a passphrase (the command line does, on a terminal), or remove it."""
    global _prompt
    _prompt = prompt


def connect(profile: Profile) -> KeyContext:
    """Open the key service of *profile*; the same connection again within one process.

    Raises
    ------
    AccessDenied
        There is no keystore, or it needs a passphrase and nothing supplies one.
    WrongPassphrase
        The passphrase does not open the keystore.
    """
    key = _connection_key(profile)
    with _lock:
        context = _connections.get(key)
        if context is None:
            context = _connections[key] = _connect_vault(profile) if profile.vault else _connect_local(profile)
        return context


def _connect_vault(profile: Profile) -> KeyContext:
    from sealedhealth.keys.vault import VaultKeyService

    assert profile.vault is not None
    service = VaultKeyService(profile.vault.config, profile.vault.login)
    return KeyContext(service, service, service)


def _connect_local(profile: Profile) -> KeyContext:
    from sealedhealth.keys.local import LocalKeyService, keystore_mode

    mode = keystore_mode(profile.keystore)
    if mode is None:
        raise AccessDenied(
            f"There is no keystore at {profile.keystore}, and without one nothing can be sealed or opened.",
            next="Make one with `sealedhealth keystore init`, or name another profile or SEALEDHEALTH_HOME.",
        )
    source = None if mode == "development" else lambda: _passphrase(profile, creating=False)
    service = LocalKeyService.open(profile.keystore, passphrase=source)
    # Asked for now: later, a wrong passphrase could be taken for an identity that may not read.
    with suppress(KeyMissing):
        service.author(profile.author)
    return KeyContext(service, service, service)


@contextmanager
def substitute(profile: Profile, make: Callable[[KeyContext], KeyContext]) -> Iterator[None]:
    """Have :func:`connect` give what *make* makes of the connection of *profile*, until the end of the block."""
    context = connect(profile)
    key = _connection_key(profile)
    with _lock:
        _connections[key] = make(context)
    try:
        yield
    finally:
        with _lock:
            _connections[key] = context


def create_keystore(profile: Profile, *, development: bool = False) -> KeyContext:
    """Make the local keystore of *profile* and open it.

    A *development* keystore is protected by file permissions alone, needs no passphrase, and is labelled so
    everywhere.

    Raises
    ------
    AlreadyExists
        There is a keystore already.
    AccessDenied
        A passphrase is needed and nothing supplies one.
    InvalidInput
        It is shorter than :data:`MIN_PASSPHRASE` characters.
    """
    from sealedhealth.keys.local import LocalKeyService, keystore_mode

    if profile.vault is not None:
        raise InvalidInput(
            f"The keys of profile {profile.name!r} are in a Vault: it has no keystore.",
            next="`sealedhealth vault setup` sets a Vault up.",
        )
    if keystore_mode(profile.keystore) is not None:
        raise AlreadyExists(f"There is a keystore at {profile.keystore} already.", safe="It is unchanged.")
    # Typed once by the user, needed twice: to make the keystore and to open it. Later it is asked for like any other.
    answers = [] if development else [_long_enough(_passphrase(profile, creating=True))] * 2

    def source() -> str | bytes:
        return answers.pop() if answers else _passphrase(profile, creating=False)

    service = LocalKeyService.init(
        profile.keystore, passphrase=None if development else source, development=development
    )
    context = KeyContext(service, service, service)
    with _lock:
        _connections[_connection_key(profile)] = context
    return context


def change_passphrase(profile: Profile, new_file: Path | None = None) -> None:
    """Give the local keystore of *profile* another passphrase: what *new_file* holds, or what a human types.

    Raises
    ------
    WrongPassphrase
        The present passphrase does not open the keystore.
    InvalidInput
        The new one is too short, or this is a development keystore.
    """
    from sealedhealth.keys.local import LocalKeyService, read_passphrase_file

    service = connect(profile).service
    if not isinstance(service, LocalKeyService):
        raise InvalidInput("Only a local keystore has a passphrase.", safe="Nothing was changed.")
    if new_file is not None:
        answer: str | bytes = read_passphrase_file(new_file)
    elif _prompt is not None:
        answer = _prompt(profile.keystore, creating=True)
    else:
        raise AccessDenied(
            "There is no terminal to ask for the new passphrase on.",
            safe="Nothing was changed.",
            next="Put it in a file only you can read, and name that: --new-file FILE.",
        )
    service.change_passphrase(lambda: _long_enough(answer))


def _long_enough(given: str | bytes) -> str | bytes:
    """*given*, when it is long enough for a new passphrase. Raises ``InvalidInput``."""
    text = given.decode(errors="replace") if isinstance(given, bytes) else given
    if len(text) < MIN_PASSPHRASE:
        raise InvalidInput(
            f"A new passphrase needs at least {MIN_PASSPHRASE} characters.",
            safe="Nothing was made or changed.",
            next="Take a longer one, such as four or more random words.",
        )
    return given


def disconnect() -> None:
    """Close every connection of this process; the next :func:`connect` asks again."""
    with _lock:
        for context in _connections.values():
            close = getattr(context.service, "close", None)
            if close is not None:
                close()
        _connections.clear()


def _connection_key(profile: Profile) -> tuple[object, ...]:
    return profile.name, profile.keys, profile.keystore, profile.passphrase_file, profile.vault


def _passphrase(profile: Profile, *, creating: bool) -> str | bytes:
    """The keystore's passphrase from the profile's file, the installed prompt or the terminal; never kept."""
    from sealedhealth.keys.local import read_passphrase_file

    if profile.passphrase_file is not None:
        return read_passphrase_file(profile.passphrase_file)
    if _prompt is not None:
        return _prompt(profile.keystore, creating=creating)
    if not creating and sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"Passphrase of {profile.keystore}: ")
    raise AccessDenied(
        f"The keystore at {profile.keystore} needs a passphrase, and there is no terminal to ask on.",
        next="Put the passphrase in a file only you can read and name it in SEALEDHEALTH_PASSPHRASE_FILE.",
    )
