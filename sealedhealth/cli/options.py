"""Options and values that verbs share."""

from __future__ import annotations

import getpass
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sealedhealth.cli import output

if TYPE_CHECKING:
    from sealedhealth.dataset import Dataset
    from sealedhealth.keys.vault.client import VaultClient
    from sealedhealth.profiles import Profile

__all__ = [
    "DURATION",
    "SIZE",
    "SNAPSHOT",
    "at_option",
    "can_ask",
    "common",
    "confirm",
    "message_option",
    "open_dataset",
    "open_root",
    "profile",
    "settings_options",
    "vault_client",
]

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Size(click.ParamType[int]):
    """A number of bytes: ``500000``, ``256M``, ``1GiB`` (1024), ``5GB`` (1000)."""

    name = "size"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    _FORM = re.compile(r"(\d{1,15})\s*([KMGT]?)(iB|B)?", re.IGNORECASE)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = self._FORM.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size; use for example 256M, 1GiB or 5GB.", param, ctx)
        number, prefix, suffix = match.groups()
        base = 1000 if prefix and (suffix or "").upper() == "B" else 1024
        size = int(number) * base ** " KMGT".index(prefix.upper() or " ")
        if size == 0 and not self._zero:
            self.fail("a size has to be above zero.", param, ctx)
        return int(size)


class _Duration(click.ParamType[timedelta]):
    """A time span: ``14d``, ``36h``, ``90m``, ``30s``."""

    name = "duration"
    _UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # noqa: RUF012 - a constant
    _FORM = re.compile(r"(\d{1,7})([smhd])")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = self._FORM.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a time span; use for example 14d, 36h or 90m.", param, ctx)
        return timedelta(seconds=int(match[1]) * self._UNITS[match[2]])


class _Snapshot(click.ParamType["int | str"]):
    """The number of a commit, or a tag."""

    name = "n|tag"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> int | str:
        text = str(value)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text


SIZE = _Size()
DURATION = _Duration()
SNAPSHOT = _Snapshot()


def help_text(text: str) -> str:
    """*text* as click wants it: headings with a colon, and indented or headed paragraphs with their line ends kept."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_paragraph(part) for part in paragraphs)


def _paragraph(text: str) -> str:
    heading = re.match(r"(.+)\n-+\n", text)
    if heading:
        body = textwrap.indent(textwrap.dedent(text[heading.end() :]), "  ")
        return f"\b\n{heading[1]}:\n{body}"
    return f"\b\n{text}" if "\n " in text else text


def summary(text: str) -> str:
    """The first sentence of a help text, for lists of verbs."""
    return re.split(r"[.:](?=\s|$)", text, maxsplit=1)[0].replace("\n", " ")


def verb(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the verb called *name*, with ``--profile`` and ``--json``; its docstring is the manual page."""

    def decorate(function: Callable[..., None]) -> click.Command:
        text = help_text(function.__doc__ or "")
        return click.command(name, help=text, short_help=summary(text))(common(function))

    return decorate


def _set_json(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    output.set_json(value)


def common(command: _Command) -> _Command:
    """``--profile`` and ``--json``."""
    command = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_set_json,
        help="Results as JSON lines on standard output, errors as JSON on standard error.",
    )(command)
    return click.option(
        "--profile",
        "profile_name",
        metavar="NAME",
        help="Profile to use (default: $SEALEDHEALTH_PROFILE, else 'local').",
    )(command)


def settings_options(command: _Command) -> _Command:
    """Decorator: what the data controller decides for a whole dataset."""
    for option in (
        click.option(
            "--pack-size",
            type=SIZE,
            metavar="SIZE",
            help="Most bytes of an object that files share: 1MiB to 64MiB (16MiB unless set).",
        ),
        click.option(
            "--pack-below",
            type=_Size(zero=True),
            metavar="SIZE",
            help="Smaller files share sealed objects: up to 4MiB (256KiB unless set); 0: none does.",
        ),
        click.option(
            "--grace",
            type=DURATION,
            metavar="SPAN",
            help="How long garbage collection keeps what was dropped (14d unless set).",
        ),
    ):
        command = option(command)
    return command


def at_option(command: _Command) -> _Command:
    """``--at``."""
    return click.option(
        "--at",
        type=SNAPSHOT,
        metavar="N|TAG",
        help="Read the snapshot of commit N, or of a tag, instead of the latest.",
    )(command)


def message_option(command: _Command) -> _Command:
    """``-m``."""
    return click.option("-m", "--message", default="", metavar="TEXT", help="What this commit is about (sealed).")(
        command
    )


def profile(name: str | None) -> Profile:
    """The profile; passphrases are asked for on the terminal, if there is one."""
    from sealedhealth import profiles

    profiles.set_passphrase_prompt(_ask_passphrase if can_ask() else None)
    return profiles.load_profile(name)


def vault_client(chosen: Profile) -> VaultClient:
    """The connection to the Vault of a profile. Raises ``InvalidInput`` when its keys are in no Vault."""
    from sealedhealth.errors import InvalidInput
    from sealedhealth.profiles import connect

    if chosen.vault is None:
        raise InvalidInput(
            f"The profile {chosen.name!r} keeps its keys in a local keystore, not in a Vault.",
            next='Name a profile that has keys = "vault".',
        )
    client: VaultClient = getattr(connect(chosen).service, "client")  # noqa: B009 - only a Vault's service has one
    return client


def open_dataset(url: str, profile_name: str | None, at: int | str | None = None) -> tuple[Dataset, str]:
    """The dataset that *url* is in, and the path inside it. Warns when its keys are in a development keystore."""
    from sealedhealth.dataset import Dataset

    dataset, path = Dataset.find(url, profile=profile(profile_name), at=at)
    warn_development(dataset)
    return dataset, path


def open_root(url: str, profile_name: str | None, at: int | str | None = None) -> Dataset:
    """The dataset at *url*, for verbs that are about all of it. A path inside it is a usage error."""
    dataset, path = open_dataset(url, profile_name, at)
    if path:
        raise click.UsageError(f"This is about a whole dataset, not about a path in it. Name {dataset.url}")
    return dataset


def warn_development(dataset: Dataset) -> None:
    """Say on standard error that the keys are not protected, when they are not."""
    if dataset.development:
        output.note(f"note: keys are in a development keystore ({dataset.profile.keystore}): not for real data")


def confirm(what: str, expected: str, *, yes: bool) -> None:
    """Have the user type *expected* before something that cannot be undone. Raises ``click.Abort`` or a usage error."""
    if yes:
        return
    if not _has_terminal():
        raise click.UsageError(
            f"{what} cannot be undone, and there is no terminal to confirm on. Pass --yes if you mean it."
        )
    output.note(f"{what} cannot be undone.")
    typed = click.prompt(f"Type {expected} to go on", err=True, default="", show_default=False)
    if typed.strip() != expected:
        raise click.UsageError("That is not it; nothing was done.")


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def can_ask() -> bool:
    """Whether a passphrase can be asked for: on the terminal itself, since standard input may be data."""
    if not sys.stderr.isatty():
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _ask_passphrase(keystore: Path, *, creating: bool) -> str:
    """The passphrase, typed on the terminal; twice for a new one."""
    if not creating:
        return getpass.getpass(f"Passphrase of {keystore}: ")
    from sealedhealth.profiles import MIN_PASSPHRASE

    output.note(
        "Without the keystore and its passphrase nothing sealed can ever be opened: keep copies of both, apart."
    )
    while True:
        answer = getpass.getpass(f"New passphrase for {keystore}: ")
        if len(answer) < MIN_PASSPHRASE:
            output.note(f"It needs at least {MIN_PASSPHRASE} characters.")
        elif getpass.getpass("Again: ") == answer:
            return answer
        else:
            output.note("The two differ.")
