"""``sealedhealth keystore``: make, list, copy and restore the local keystore, and change its passphrase."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import help_text, profile, verb
from sealedhealth.errors import InvalidInput

if TYPE_CHECKING:
    from sealedhealth.profiles import Profile

__all__ = ["keystore_command"]


@click.group(
    "keystore",
    short_help="Make, list, copy and restore the local keystore",
    help=help_text(
        """
        The keystore: the directory that holds the keys, the anchors and the registry of datasets.

        A keystore is protected by a passphrase. With --development it is protected by file permissions alone: for
        demonstrations and tests with data that is public anyway, and labelled so in every listing.
        """
    ),
)
def keystore_command() -> None:
    """Group of verbs."""


@verb("init")
@click.option("--development", is_flag=True, help="Without a passphrase: not for real data.")
def _init(profile_name: str | None, development: bool) -> None:
    """Make a keystore.

    The passphrase is asked for twice on the terminal, or read from the file that SEALEDHEALTH_PASSPHRASE_FILE or the
    profile names; it needs 8 characters or more. Where the keystore goes: the profile's `keystore`, else `keystore` in
    SEALEDHEALTH_HOME, else in the platform's directory for data (Linux: ~/.local/share/sealedhealth).

    Examples
    --------
    sealedhealth keystore init
    SEALEDHEALTH_PASSPHRASE_FILE=/run/secrets/phrase sealedhealth keystore init
    """
    from sealedhealth.profiles import create_keystore

    chosen = _with_keystore(profile_name)
    context = create_keystore(chosen, development=development)
    output.emit(
        {"keystore": str(chosen.keystore), "label": context.service.capabilities().label, "created": True},
        f"Made the keystore {chosen.keystore} [{context.service.capabilities().label}].\n"
        "Back it up after each commit: `sealedhealth keystore backup FILE`.",
    )


@verb("list")
def _list(profile_name: str | None) -> None:
    """List the keystore and the datasets it holds keys for. Needs no passphrase.

    Examples
    --------
    sealedhealth keystore list
    sealedhealth keystore list --profile cardio-job --json
    """
    from sealedhealth.keys.local import LocalKeyService, keystore_mode

    chosen = _with_keystore(profile_name)
    development = keystore_mode(chosen.keystore) == "development"
    service = LocalKeyService.open(chosen.keystore, passphrase=None if development else _not_needed)
    label = service.capabilities().label
    output.emit(
        {"keystore": str(chosen.keystore), "label": label, "profile": chosen.name},
        f"{chosen.keystore} [{label}]",
    )
    datasets = service.datasets()
    for ref in datasets:
        output.emit({"dataset": ref.dataset_id.hex(), "urls": list(ref.urls), "destroyed": ref.destroyed})
    if datasets:
        output.table(
            ["DATASET", "STATE", "URL"],
            [
                [ref.dataset_id.hex(), "destroyed" if ref.destroyed else "in use", " ".join(ref.urls) or "-"]
                for ref in datasets
            ],
        )
    else:
        output.line("No dataset yet.")


def _with_keystore(profile_name: str | None) -> Profile:
    """The profile. Raises ``InvalidInput`` when its keys are in a Vault."""
    chosen = profile(profile_name)
    if chosen.vault is not None:
        raise InvalidInput(
            f"The profile {chosen.name!r} keeps its keys in a Vault, not in a local keystore.",
            next="`sealedhealth vault list` shows its datasets; those who run the Vault back it up.",
        )
    return chosen


def _not_needed() -> str:
    raise AssertionError("the registry is not under the passphrase")


@verb("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--development", is_flag=True, help="Allow it for a development keystore: the copy holds bare keys.")
def _backup(profile_name: str | None, file: Path, development: bool) -> None:
    """Copy the keystore into one new FILE.

    Keys stay sealed in it, under the passphrase of this moment. It also holds the anchors, which say what the latest
    commit of each dataset is: a restored backup that is older than the last commit is noticed and refused
    (AnchorRolledBack), so back up after each commit. A backup keeps keys that are destroyed later: delete it when that
    matters. FILE must not lie in the local store of a dataset.

    Examples
    --------
    sealedhealth keystore backup /media/safe/keystore-2026-03-01.zip
    """
    from sealedhealth.keys.local import backup

    chosen = _with_keystore(profile_name)
    backup(chosen.keystore, file, allow_development=development)
    output.emit({"keystore": str(chosen.keystore), "backup": str(file)}, f"Wrote {file}.")


@verb("restore")
@click.argument("file", type=click.Path(path_type=Path))
def _restore(profile_name: str | None, file: Path) -> None:
    """Make the keystore from a backup FILE. There must be no keystore yet.

    Examples
    --------
    sealedhealth keystore restore /media/safe/keystore-2026-03-01.zip
    """
    from sealedhealth.keys.local import restore

    chosen = _with_keystore(profile_name)
    restore(file, chosen.keystore)
    output.emit({"keystore": str(chosen.keystore), "restored": str(file)}, f"Restored {chosen.keystore}.")


@verb("passphrase")
@click.option(
    "--new-file", type=click.Path(path_type=Path), metavar="FILE", help="Read the new passphrase from FILE, do not ask."
)
def _passphrase(profile_name: str | None, new_file: Path | None) -> None:
    """Give the keystore another passphrase.

    The new one is asked for twice on the terminal, or read from FILE, which only you may be able to read. The present
    one comes from where it always does. Keys, datasets and running programs are not affected. Backups made before
    still open with the old passphrase: where that matters, destroy them and take a new one.

    Examples
    --------
    sealedhealth keystore passphrase
    sealedhealth keystore passphrase --new-file /run/secrets/new-phrase
    """
    from sealedhealth.profiles import change_passphrase

    chosen = _with_keystore(profile_name)
    change_passphrase(chosen, new_file)
    output.emit(
        {"keystore": str(chosen.keystore), "changed": True},
        f"{chosen.keystore} has another passphrase; older backups still open with the old one.",
    )
    if chosen.passphrase_file is not None:
        output.note(f"{chosen.passphrase_file} has to hold it from now on.")


for _command in (_init, _list, _backup, _restore, _passphrase):
    keystore_command.add_command(_command)
