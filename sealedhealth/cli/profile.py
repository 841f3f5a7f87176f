"""``sealedhealth profile``: write, list and show profiles."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import help_text, profile, verb
from sealedhealth.errors import AlreadyExists, InvalidInput, ResidencyViolation

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
@click.option("--prefix", metavar="PATH", help="Directory of a dataset that this identity puts its files under.")
@click.option("--store", "store", metavar="KEY=VALUE", multiple=True, help="Option of the store; may be repeated.")
@click.option("--preset", metavar="HOST", help="Host that is known by name: ovhcloud, scaleway.")
@click.option("--region", metavar="REGION", help="Region of that host; `profile presets` lists them.")
@click.option("--jurisdiction", metavar="COUNTRY", help="Where the store is, such as FR: a declaration.")
@click.option("--allow-endpoint", metavar="HOST[:PORT]", multiple=True, help="Write to this endpoint; may be repeated.")
@click.option("--allow-region", metavar="REGION", multiple=True, help="Write to this region; may be repeated.")
@click.option("--allow-jurisdiction", metavar="COUNTRY", multiple=True, help="Write to this country; may be repeated.")
def _init(
    profile_name: str | None,
    name: str,
    keystore: str | None,
    author: str | None,
    passphrase_file: str | None,
    prefix: str | None,
    store: tuple[str, ...],
    preset: str | None,
    region: str | None,
    jurisdiction: str | None,
    **allowed: tuple[str, ...],
) -> None:
    """Add the profile NAME to the profile file, which is made when there is none.

    Values of --store are TOML (true, 3, "text"); what is none is taken as text. Credentials do not belong there: the
    store finds them by its own means, such as AWS_PROFILE. With any --allow-... the profile refuses to write anywhere
    else, whatever the environment says; it reads everywhere.

    Examples
    --------
    sealedhealth profile init chu-lille --keystore ~/keys/chu-lille
    sealedhealth profile init job --store endpoint_url=https://s3.example.org --store anon=false
    sealedhealth profile init ovh --preset ovhcloud --region gra --allow-jurisdiction FR
    """
    del profile_name
    from sealedhealth.profiles import config_path, load_profile

    path = config_path()
    lines = [f"[profiles.{_toml(name)}]"]
    places = (("keystore", keystore), ("author", author), ("passphrase_file", passphrase_file), ("prefix", prefix))
    for key, value in places:
        if value is not None:
            lines.append(f"{key} = {_toml(value)}")
    words = [f"{key} = {_toml(value)}" for key, value in (("preset", preset), ("region", region)) if value is not None]
    if store or words:
        lines += ["", f"[profiles.{_toml(name)}.store]", *words]
        lines += [_option(item) for item in store]
    rules = [f"jurisdiction = {_toml(jurisdiction)}"] if jurisdiction is not None else []
    for key, values in allowed.items():
        if values:
            rules.append(f"{key.replace('allow_', 'allowed_')}s = [{', '.join(map(_toml, values))}]")
    if rules:
        lines += ["", f"[profiles.{_toml(name)}.residency]", *rules]
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


@verb("presets")
def _presets(profile_name: str | None) -> None:
    """List the hosts that are known by name, with their regions, endpoints and countries.

    Examples
    --------
    sealedhealth profile presets
    """
    del profile_name
    from sealedhealth.stores.presets import PRESETS

    rows = []
    for item in PRESETS:
        rows.append([item.name, item.region, item.endpoint, item.jurisdiction])
        output.emit(dict(zip(("preset", "region", "endpoint", "jurisdiction"), rows[-1], strict=True)))
    output.table(["PRESET", "REGION", "ENDPOINT", "JURISDICTION"], rows)


@verb("check")
@click.argument("name")
@click.argument("url", required=False)
def _check(profile_name: str | None, name: str, url: str | None) -> None:
    """Check the profile NAME, and tell where URL is under it and whether the profile allows writing there.

    No request is made: what is told is what the store's client would use, the environment and its own files included.
    Whether there is such a bucket, and credentials for it, `doctor URL` asks the host.
    Ends with exit code 4 when the profile does not allow writing to URL.

    Examples
    --------
    sealedhealth profile check chu-lille
    sealedhealth profile check chu-lille s3://bucket/cardio
    """
    del profile_name
    from sealedhealth.session import normal_url

    found = profile(name)
    if url is None:
        output.emit({"profile": found.name}, f"{found.name}: nothing is wrong with it")
        return
    store = found.open_store(normal_url(url))
    location = found.locate(store.location)
    refused: ResidencyViolation | None = None
    try:
        store.check_writable()
    except ResidencyViolation as error:
        refused = error
    document = {"profile": found.name, "url": store.url, **asdict(location), "writing_allowed": refused is None}
    shown = {key: value or None for key, value in document.items() if key != "writing_allowed"}
    by = "by the profile; the host was not asked" if refused is None else "no"
    output.emit(document, output.fields({**shown, "writing_allowed": by}))
    if refused is not None:
        raise refused


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
            "prefix": found.prefix or None,
            **_stores(found),
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
        "prefix": found.prefix or None,
        **_stores(found),
        "datasets": dict(found.dataset_ids),
    }


def _stores(found: Any) -> dict[str, Any]:
    residency = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(found.residency).items()
    }
    del residency["endpoints"]  # what others say
    return {
        "preset": f"{found.preset.name} {found.preset.region}" if found.preset else None,
        "store": dict(found.store),
        "residency": {key: value for key, value in residency.items() if value},
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


for _command in (_init, _presets, _list, _show, _check):
    profile_command.add_command(_command)
