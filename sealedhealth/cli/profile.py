"""``sealedhealth profile``: write, list and show profiles."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import help_text, profile, verb
from sealedhealth.errors import AlreadyExists, InvalidInput

__all__ = ["profile_command"]


@click.group(
    "profile",
    short_help="Write, list and show profiles",
    help=help_text(
        """
        Profiles: names for a keystore, a signing identity and the options of a store.

        They are tables of a TOML file ($SEALEDHEALTH_CONFIG, else config.toml in the platform's configuration
        directory) and hold no secret. `local` exists without any file.
        """
    ),
)
def profile_command() -> None:
    """Group of verbs."""


@verb("init")
@click.argument("name")
@click.option("--keystore", metavar="DIR", help="Directory of the keystore (default: in SEALEDHEALTH_HOME).")
@click.option("--author", metavar="KEY", help="Name of the signing key in the keystore (default: author).")
@click.option("--passphrase-file", metavar="FILE", help="File that holds the keystore's passphrase.")
@click.option("--store", "store", metavar="KEY=VALUE", multiple=True, help="Option of the store; may be repeated.")
def _init(
    profile_name: str | None,
    name: str,
    keystore: str | None,
    author: str | None,
    passphrase_file: str | None,
    store: tuple[str, ...],
) -> None:
    """Add the profile NAME to the profile file, which is made when there is none.

    Values of --store are TOML (true, 3, "text"); what is none is taken as text. Credentials do not belong there: the
    store finds them by its own means, such as AWS_PROFILE.

    Examples
    --------
    sealedhealth profile init chu-lille --keystore ~/keys/chu-lille
    sealedhealth profile init job --store endpoint_url=https://s3.example.org --store anon=false
    """
    del profile_name
    from sealedhealth.profiles import config_path, load_profile

    path = config_path()
    lines = [f"[profiles.{_toml(name)}]"]
    for key, value in (("keystore", keystore), ("author", author), ("passphrase_file", passphrase_file)):
        if value is not None:
            lines.append(f"{key} = {_toml(value)}")
    if store:
        lines += ["", f"[profiles.{_toml(name)}.store]"]
        lines += [_option(item) for item in store]
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    _check_new(before, "\n".join(lines), name)
    text = before + ("\n" if before else "") + "\n".join(lines) + "\n"
    _replace(path, text)
    try:
        made = load_profile(name)
    except InvalidInput:
        # What was there before is put back: one bad option must not break every other profile.
        if before:
            _replace(path, before)
        else:
            path.unlink()
        raise
    output.emit({**_document(made), "file": str(path)}, f"Added {name} to {path}.")


@verb("list")
def _list(profile_name: str | None) -> None:
    """List the profiles, and the keystore of each.

    Examples
    --------
    sealedhealth profile list
    """
    del profile_name
    from sealedhealth.profiles import load_profile, profile_names

    rows = []
    for name in profile_names():
        found = _document(load_profile(name))
        output.emit(found)
        rows.append([name, found["label"], found["keystore"] or found["vault"]])
    output.table(["PROFILE", "KEYS", "KEYSTORE"], rows)


@verb("show")
@click.argument("name", required=False)
def _show(profile_name: str | None, name: str | None) -> None:
    """Show one profile as it is in effect: file, defaults and environment together.

    Examples
    --------
    sealedhealth profile show
    sealedhealth profile show chu-lille --json
    """
    document = _document(profile(name or profile_name))
    output.emit(document, "\n".join(f"{key:<16} {output.safe(_text(value))}" for key, value in document.items()))


def _document(found: Any) -> dict[str, Any]:
    from sealedhealth.keys.local import keystore_mode

    if found.vault is not None:
        config = found.vault.config
        return {
            "profile": found.name,
            "keys": found.keys,
            "label": f"vault ({config.host}, {config.jurisdiction})",
            "keystore": None,
            "vault": config.address,
            "namespace": config.namespace or None,
            "jurisdiction": config.jurisdiction,
            "allowed_hosts": ", ".join(config.allowed_hosts),
            "ca_file": str(config.ca_file) if config.ca_file else None,
            "login": type(found.vault.login).__name__.removesuffix("Login"),
            "role": found.vault.role,
            "state": str(found.state),
            "author": found.author,
            "store": dict(found.store),
            "datasets": dict(found.dataset_ids),
        }
    mode = keystore_mode(found.keystore)
    label = {None: "local (no keystore yet)", "development": "local (development)"}.get(mode, "local")
    return {
        "profile": found.name,
        "keys": found.keys,
        "label": label,
        "keystore": str(found.keystore),
        "state": str(found.state),
        "author": found.author,
        "passphrase_file": str(found.passphrase_file) if found.passphrase_file else None,
        "store": dict(found.store),
        "datasets": dict(found.dataset_ids),
    }


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check_new(before: str, added: str, name: str) -> None:
    """Refuse a name that is taken and values that TOML cannot hold, before anything is written."""
    import tomllib

    try:
        if name in tomllib.loads(before).get("profiles", {}):
            raise AlreadyExists(f"There is a profile {name} already.", safe="It is unchanged.")
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"The profile file is not valid TOML: {error}.", safe="It is unchanged.") from None
    try:
        tomllib.loads(added)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            f"A name or value cannot be written as TOML: {error}.", safe="Nothing was written."
        ) from None


def _toml(text: str) -> str:
    """*text* as a basic string of TOML, whose escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _option(item: str) -> str:
    """``KEY=VALUE`` as a line of TOML; a value that is no TOML is text."""
    import tomllib

    key, separator, value = item.partition("=")
    if not separator or not key:
        raise InvalidInput(f"--store takes KEY=VALUE, not {key!r}.")
    try:
        tomllib.loads(f"x = {value}")
    except tomllib.TOMLDecodeError:
        value = _toml(value)
    return f"{_toml(key)} = {value}"


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).replace(path)


for _command in (_init, _list, _show):
    profile_command.add_command(_command)
