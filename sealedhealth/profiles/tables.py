"""The tables of a profile about stores: ``store`` and ``residency``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealedhealth.errors import InvalidInput
from sealedhealth.stores.location import endpoint_of
from sealedhealth.stores.presets import Preset, preset, preset_of
from sealedhealth.stores.residency import THIS_MACHINE, Residency, named_endpoints

__all__ = ["StoreTables", "read_stores", "refuse_unknown"]

# Store options that are secrets. They belong to the store's own credential chain (environment, credentials file,
# instance role), never into a file that is copied around and pasted into tickets.
_SECRET_OPTION = re.compile("secret|password|passwd|token|credential|account_key|sas|connection_string", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/@]*:[^/@]*@")
_LISTS = ("allowed_endpoints", "allowed_regions", "allowed_jurisdictions")
_RESIDENCY = ("jurisdiction", *_LISTS)
_JURISDICTION = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_WORD = re.compile(r"[\x21-\x7e]{1,256}")


@dataclass(frozen=True, slots=True)
class StoreTables:
    """What a profile says about stores."""

    options: Mapping[str, Any] = field(repr=False)  #: of the fsspec file system
    preset: Preset | None
    residency: Residency


def read_stores(name: str, table: Mapping[str, Any], path: Path) -> StoreTables:
    """Read and check the tables ``store`` and ``residency`` of the profile *name* in the file *path*.

    Raises
    ------
    InvalidInput
        An unknown key, a wrong type, a secret, an unknown preset or region, or a jurisdiction that contradicts what
        is known of the endpoint.
    """
    where = f"[profiles.{name}.store] of {path}"
    given = dict(table.get("store", {}))
    _refuse_secrets(given, path, f"[profiles.{name}.store]")
    chosen = _preset(given, where)
    options = chosen.options(given) if chosen else given
    return StoreTables(
        options, chosen, _residency(table.get("residency", {}), options, f"[profiles.{name}.residency] of {path}")
    )


def _preset(given: dict[str, Any], where: str) -> Preset | None:
    """The preset that the table names, whose keys are taken out of it."""
    words = {key: given.pop(key) for key in ("preset", "region") if key in given}
    for key, value in words.items():
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"'{key}' in {where} has to be text.")
    for table in ("client_kwargs", "config_kwargs"):
        if not isinstance(given.get(table, {}), dict):
            raise InvalidInput(f"'{table}' in {where} has to be a table.")
    if "preset" in words:
        try:
            return preset(words["preset"], words.get("region", ""))
        except InvalidInput as error:
            raise InvalidInput(f"{error.what} It is named in {where}.", next=error.next) from None
    if "region" in words:
        raise InvalidInput(
            f"'region' in {where} goes with a preset, and there is none.",
            next=f'Without one, s3fs takes it as client_kwargs = {{region_name = "{words["region"]}"}}.',
        )
    return None


def _residency(table: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Residency:
    refuse_unknown(table, _RESIDENCY, f"in {where}")
    jurisdiction = table.get("jurisdiction", "")
    if "jurisdiction" in table:
        _country(jurisdiction, "jurisdiction", where)
    lists = {key: _list(table[key], key, where) if key in table else () for key in _LISTS}
    for country in lists["allowed_jurisdictions"]:
        _country(country, "allowed_jurisdictions", where)
    lists["allowed_endpoints"] = tuple(_endpoint(text, where) for text in lists["allowed_endpoints"])
    named = named_endpoints(options)
    for endpoint in named:
        known = preset_of(endpoint)
        if known is not None and jurisdiction not in {"", known.jurisdiction}:
            raise InvalidInput(
                f"jurisdiction = {jurisdiction!r} in {where} contradicts the profile's store: "
                f"{endpoint} is in {known.jurisdiction}.",
                next="Correct one of the two.",
            )
    return Residency(jurisdiction, tuple(dict.fromkeys((*named, *lists["allowed_endpoints"]))), **lists)


def _list(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and _WORD.fullmatch(v) for v in value):
        raise InvalidInput(
            f"'{key}' in {where} has to be a list of at least one word.",
            next="Leave it out if there shall be no such list.",
        )
    return tuple(value)


def _endpoint(text: str, where: str) -> str:
    """An entry of ``allowed_endpoints`` in the form that stores tell."""
    if text == THIS_MACHINE:
        return text
    scheme, _, host = text.rpartition("://")
    found = "" if any(character in host for character in "/@?#") else endpoint_of(f"{scheme or 'https'}://{host}")
    if not found:
        raise InvalidInput(
            f"{text!r} in allowed_endpoints in {where} is no endpoint.",
            next=f"Write HOST, HOST:PORT, or {THIS_MACHINE} for directories of this machine.",
        )
    return found


def _country(value: Any, key: str, where: str) -> None:
    if not isinstance(value, str) or not _JURISDICTION.fullmatch(value):
        raise InvalidInput(
            f"{value!r} as {key} in {where} is no code of a country.",
            next="Write two capital letters of ISO 3166, such as FR; EU is taken, too.",
        )


def refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    """Raise ``InvalidInput`` for a key that is not *known*; *where* says whereabouts, as in "in [profiles.a]"."""
    for key in table:
        if key not in known:
            raise InvalidInput(f"Unknown key '{key}' {where}.", next=f"Known keys: {', '.join(known)}.")


def _refuse_secrets(options: Mapping[str, Any], path: Path, where: str) -> None:
    for key, value in options.items():
        if _SECRET_OPTION.search(key) or (isinstance(value, str) and _URL_WITH_PASSWORD.match(value)):
            raise InvalidInput(
                f"'{key}' in {where} of {path} is a secret, and a profile must not hold any.",
                next="Give it to the store by its own means: environment variables, a credentials file, or a role.",
            )
        if isinstance(value, dict):
            _refuse_secrets(value, path, where)
