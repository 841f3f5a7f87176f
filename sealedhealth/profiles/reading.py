"""Reading the profile file: strictly, since a setting that is silently ignored is believed to be in force."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealedhealth.errors import InvalidInput, InvalidPath
from sealedhealth.log.paths import canonical
from sealedhealth.profiles.places import config_path, home, path_of
from sealedhealth.profiles.profile import Profile
from sealedhealth.profiles.tables import read_stores, refuse_unknown

if TYPE_CHECKING:
    from sealedhealth.keys.vault.table import VaultTable

__all__ = ["DEFAULT_PROFILE", "load_profile", "profile_names"]

DEFAULT_PROFILE = "local"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATASET_ID = re.compile(r"[0-9a-f]{32}")
_TEXT_KEYS = ("keys", "keystore", "author", "state", "passphrase_file", "prefix")
_TABLE_KEYS = ("store", "datasets", "vault", "residency")
_KEY_SERVICES = ("local", "vault")
_KEYSTORE_KEYS = ("keystore", "passphrase_file")  # of the local key service only
_CONFIG_LIMIT = 1 << 20


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
    refuse_unknown(document, ("profiles",), f"at the top of {path}")
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
    refuse_unknown(table, (*_TEXT_KEYS, *_TABLE_KEYS), f"in {where} of {path}")
    for key in _TEXT_KEYS:
        if key in table and (not isinstance(table[key], str) or not table[key]):
            raise InvalidInput(f"'{key}' in {where} of {path} has to be text.")
    for key in _TABLE_KEYS:
        if not isinstance(table.get(key, {}), dict):
            raise InvalidInput(f"'{key}' in {where} of {path} has to be a table: [profiles.{name}.{key}].")
    read_stores(name, table, path)
    _check_prefix(table, where, path)
    if table.get("keys", "local") not in _KEY_SERVICES:
        raise InvalidInput(
            f"keys = {table['keys']!r} in {where} of {path} is not a key service of this release.",
            next=f"Known: {', '.join(_KEY_SERVICES)}.",
        )
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


def _check_prefix(table: Mapping[str, Any], where: str, path: Path) -> None:
    if "prefix" not in table:
        return
    try:
        same = canonical(table["prefix"]) == table["prefix"]
    except InvalidPath:
        same = False
    if not same:
        raise InvalidInput(
            f"prefix = {table['prefix']!r} in {where} of {path} is no directory of a dataset.",
            next="Write it without '/' at the ends, such as hospital/lille.",
        )


def _profile(name: str, table: Mapping[str, Any]) -> Profile:
    def text(key: str) -> str | None:
        return os.environ.get(f"SEALEDHEALTH_{key.upper()}") or table.get(key)

    def place(key: str) -> Path | None:
        value = text(key)
        return path_of(value) if value else None

    stores = read_stores(name, table, config_path())
    return Profile(
        name=name,
        keys=table.get("keys", "local"),
        keystore=place("keystore") or home() / "keystore",
        state=place("state") or home() / "state",
        author=text("author") or "author",
        store=stores.options,
        preset=stores.preset,
        residency=stores.residency,
        prefix=table.get("prefix", ""),
        dataset_ids={url.rstrip("/"): dataset_id for url, dataset_id in table.get("datasets", {}).items()},
        passphrase_file=place("passphrase_file"),
        vault=_vault(name, table["vault"]) if "vault" in table else None,
    )


def _vault(name: str, table: Mapping[str, Any]) -> VaultTable:
    from sealedhealth.keys.vault.table import read_table

    return read_table(table, f"[profiles.{name}.vault] of {config_path()}", path_of)
