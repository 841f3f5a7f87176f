"""From a profile to an open key service: one connection per process, and passphrases."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, KeyMissing
from sealedhealth.profiles.profile import Profile

if TYPE_CHECKING:
    from sealedhealth.keys.base import AnchorStore, KeyService, Registry

__all__ = [
    "MIN_PASSPHRASE",
    "KeyContext",
    "PassphrasePrompt",
    "change_passphrase",
    "connect",
    "create_keystore",
    "disconnect",
    "set_passphrase_prompt",
    "substitute",
]

MIN_PASSPHRASE = 8  #: characters of a new passphrase


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
