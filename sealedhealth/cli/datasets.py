"""``create``, ``log``, ``diff``, ``tag``, ``restore`` and ``verify``: a dataset and its history."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import (
    SNAPSHOT,
    at_option,
    can_ask,
    message_option,
    open_dataset,
    open_root,
    profile,
    settings_options,
    verb,
    warn_development,
)
from sealedhealth.cli.replicate import check_public

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sealedhealth.dataset import Change

__all__ = [
    "create_command",
    "diff_command",
    "log_command",
    "register_command",
    "restore_command",
    "tag_command",
    "verify_command",
]


@verb("create")
@click.argument("url")
@settings_options
def create_command(
    profile_name: str | None, url: str, grace: timedelta | None, pack_below: int | None, pack_size: int | None
) -> None:
    """Make a new, empty dataset at URL: a store's URL or a local directory.

    The keys are made in the keystore of the profile, or in its Vault. The first time, on a terminal, the keystore is
    made as well: a passphrase is asked for. Without a terminal, make it beforehand with `sealedhealth keystore init`.

    Examples
    --------
    sealedhealth create s3://bucket/cardio-2026
    sealedhealth create --profile chu-lille /mnt/export/cardio-2026
    """
    _warn_of_place(url)
    from sealedhealth.dataset import Dataset
    from sealedhealth.keys.local import keystore_mode
    from sealedhealth.profiles import create_keystore

    chosen = profile(profile_name)
    if chosen.vault is None and keystore_mode(chosen.keystore) is None and can_ask():
        output.note(f"There is no keystore yet: one is made in {chosen.keystore}.")
        create_keystore(chosen)
    dataset = Dataset.create(url, profile=chosen, grace=grace, pack_below=pack_below, pack_size=pack_size)
    warn_development(dataset)
    if chosen.vault is not None:
        place, next_step = (
            chosen.vault.config.address,
            "`sealedhealth vault setup URL` makes the policies of its roles.",
        )
    else:
        place, next_step = str(chosen.keystore), "back that up."
    output.emit(
        {
            "dataset": dataset.id,
            "url": dataset.url,
            "keystore": None if chosen.vault else place,
            "vault": place if chosen.vault else None,
            "development": dataset.development,
        },
        f"Made dataset {dataset.id}\n  at {dataset.url}\n  keys in {place}: {next_step}",
    )


def _warn_of_place(url: str) -> None:
    """Say what a new dataset at *url* does not do for what is there, when somebody could believe otherwise."""
    from pathlib import Path

    from sealedhealth.session import normal_url

    scheme, _, rest = normal_url(url).partition("://")
    if scheme == "memory":
        output.warn("memory:// is the memory of this command: the dataset is gone when it ends")
    if scheme != "file":
        return
    with suppress(OSError):
        if any(item.name not in {".sealedhealth", "objects"} for item in Path(rest).iterdir()):
            output.warn(
                f"{rest} holds files already: they stay there as plaintext, for its host to see; `put` seals copies"
            )


@verb("register")
@click.argument("dataset_id", metavar="ID")
@click.argument("url")
@click.option("--also", is_flag=True, help="Keep the places where it was, too: this is a second copy.")
def register_command(profile_name: str | None, dataset_id: str, url: str, also: bool) -> None:
    """Say that the dataset ID, which this keystore has keys for, now lies at URL: after a move or a copy.

    `keystore list`, or `vault list`, shows the ids. The store at URL is opened and checked before anything changes for
    good: what a store says about itself is not believed. Bring a copy up to date by `replicate` first.

    Examples
    --------
    sealedhealth register 5d2a2c640c13d7ced94baeb3b5b53e8a s3://new-host/cardio
    """
    from sealedhealth.dataset import Dataset

    dataset = Dataset.register(url, dataset_id, profile=profile(profile_name), also=also)
    warn_development(dataset)
    output.emit(
        {"dataset": dataset.id, "url": dataset.url, "commit": dataset.session.sequence},
        f"Dataset {dataset.id} is at {dataset.url}, commit {dataset.session.sequence}.",
    )


@verb("log")
@click.argument("url")
@click.option("-n", "--number", type=click.IntRange(min=1), metavar="N", help="The latest N commits only.")
def log_command(profile_name: str | None, url: str, number: int | None) -> None:
    """Show the history, newest first: every commit, checked from the first on.

    Examples
    --------
    sealedhealth log s3://bucket/cardio
    sealedhealth log -n 5 --json s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    tags: dict[int, list[str]] = {}
    if dataset.session.readable:
        for name, sequence in sorted(dataset.tags.items()):
            tags.setdefault(sequence, []).append(name)
    commits = dataset.history()[::-1][:number]
    rows = []
    for commit in commits:
        output.emit(
            {
                "commit": commit.sequence,
                "time": commit.time,
                "author": commit.author,
                "kinds": list(commit.kinds),
                "message": commit.message,
                "put": commit.puts,
                "deleted": commit.deletes,
                "digest": commit.digest,
                "keys": [key_id.hex() for key_id in dataset.keys_of(commit.sequence)],
                "tags": tags.get(commit.sequence, []),
                "void": commit.void or None,
                "refused": list(commit.refused),
                "locations": [asdict(location) for location in commit.locations],
            }
        )
        trouble = [f"void: {commit.void}"] if commit.void else [f"refused: {reason}" for reason in commit.refused]
        labels = [f"[{name}]" for name in tags.get(commit.sequence, [])]
        rows.append(
            [
                str(commit.sequence),
                output.timestamp(commit.time),
                commit.author or "-",
                _count(commit.puts),
                _count(commit.deletes),
                "; ".join(map(str, commit.locations)) or "-",
                " ".join([*labels, commit.message or _kinds(commit.kinds), *trouble]),
            ]
        )
    output.table(["COMMIT", "TIME", "AUTHOR", "PUT", "DEL", "WHERE", "MESSAGE"], rows, right=(0, 3, 4))


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _kinds(kinds: Iterable[str]) -> str:
    special = [kind for kind in kinds if kind != "data"]
    return f"({', '.join(special)})" if special else ""


@verb("diff")
@click.argument("url", metavar="URL[/PATH]")
@click.argument("first", metavar="FROM", type=SNAPSHOT, required=False)
@click.argument("second", metavar="TO", type=SNAPSHOT, required=False)
def diff_command(profile_name: str | None, url: str, first: int | str | None, second: int | str | None) -> None:
    """Show which files changed between two snapshots, each a commit number or a tag.

    TO is the latest when it is left out, FROM the one before it. A is added, M changed, D removed.

    Examples
    --------
    sealedhealth diff s3://bucket/cardio
    sealedhealth diff s3://bucket/cardio/labs before-audit 12
    """
    dataset, path = open_dataset(url, profile_name)
    if first is None:
        first = max(dataset.snapshot.sequence - 1, 0)
    _show_changes(dataset.diff(first, second, path=path))


def _show_changes(changes: Iterable[Change]) -> None:
    letters = {"added": "A", "changed": "M", "removed": "D"}
    for change in changes:
        output.emit(
            {"change": change.kind, "path": change.path, "before": change.before, "after": change.after},
            f"{letters[change.kind]}  {output.safe(change.path)}",
        )


@verb("tag")
@click.argument("url")
@click.argument("name", required=False)
@click.option("-d", "--delete", is_flag=True, help="Take the tag away.")
@click.option("--at", type=SNAPSHOT, metavar="N|TAG", help="The snapshot to name (default: the latest).")
def tag_command(profile_name: str | None, url: str, name: str | None, delete: bool, at: int | str | None) -> None:
    """Name a snapshot, or list the names. Garbage collection keeps tagged snapshots.

    Examples
    --------
    sealedhealth tag s3://bucket/cardio before-audit
    sealedhealth tag s3://bucket/cardio published --at 12
    sealedhealth tag s3://bucket/cardio
    sealedhealth tag s3://bucket/cardio published --delete
    """
    dataset = open_root(url, profile_name)
    if name is None:
        if delete or at is not None:
            raise click.UsageError("Which tag? Give its NAME.")
        tags = sorted(dataset.tags.items())
        for tag, sequence in tags:
            output.emit({"tag": tag, "commit": sequence})
        output.table(["COMMIT", "TAG"], [[str(sequence), tag] for tag, sequence in tags], right=(0,))
    elif delete:
        if at is not None:
            raise click.UsageError("--delete and --at do not go together.")
        dataset.untag(name)
        output.emit({"tag": name, "deleted": True}, f"Took the tag {output.safe(name)} away.")
    else:
        sequence = dataset.tag(name, at)
        output.emit({"tag": name, "commit": sequence}, f"Commit {sequence} is now {output.safe(name)}.")


@verb("restore")
@click.argument("url", metavar="URL[/PATH]")
@click.option("--at", type=SNAPSHOT, metavar="N|TAG", required=True, help="The snapshot to go back to.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@message_option
def restore_command(profile_name: str | None, url: str, at: int | str, dry_run: bool, message: str) -> None:
    """Make a dataset, directory or file what it was in an earlier snapshot, by a new commit.

    History stays: a restore can itself be undone by another. Nothing is sealed again.

    Examples
    --------
    sealedhealth restore s3://bucket/cardio --at before-audit
    sealedhealth restore s3://bucket/cardio/labs --at 12 --dry-run
    """
    dataset, path = open_dataset(url, profile_name)
    if dry_run:
        _show_changes(dataset.diff(dataset.snapshot.sequence, at, path=path))
        return
    changes = dataset.restore(at, path, message=message)
    _show_changes(changes)
    output.emit({"commit": dataset.snapshot.sequence if changes else None})
    output.note(f"Commit {dataset.snapshot.sequence}." if changes else "Nothing differs; no commit was made.")


@verb("verify")
@click.argument("url")
@click.option("--log-only", is_flag=True, help="The log and its signatures only, no objects.")
@at_option
@click.option("--public", is_flag=True, help="Without any key: log, digests of all files, bytes of all objects.")
@click.option("--id", "dataset_id", metavar="HEX", help="With --public: the dataset's id; no key service is spoken to.")
@click.option("--anchors", is_flag=True, help="With --public and --id: ask the key service for the newest commit.")
@click.option("--head", metavar="N:DIGEST", help="With --public: a commit that a client saw; the store has to hold it.")
@click.option("--no-data", is_flag=True, help="With --public: names and sizes of objects only, by one listing.")
def verify_command(
    profile_name: str | None,
    url: str,
    log_only: bool,
    at: int | str | None,
    public: bool,
    dataset_id: str | None,
    anchors: bool,
    head: str | None,
    no_data: bool,
) -> None:
    """Check a dataset: every signature of the log, and every byte of every object of the snapshot.

    Everything that is not what its author signed is named, with exit code 5. With --public it is checked by whoever
    may read the store and holds no key: the chain of links from the dataset's id down, the digests of all files of the
    log, and every object against its signed root. Which commit is the newest only the key service's anchors say: they
    are read unless --id is given. Without them, compare with what a client saw (--head).

    Examples
    --------
    sealedhealth verify s3://bucket/cardio
    sealedhealth verify --log-only --json s3://bucket/cardio
    sealedhealth verify --public s3://bucket/cardio --id 5d2a2c640c13d7ced94baeb3b5b53e8a
    """
    if public:
        if log_only or at is not None:
            raise click.UsageError("--public checks the whole log; use --no-data to leave the objects' bytes out.")
        check_public(profile_name, url, dataset_id, anchors=anchors, head=head, data=not no_data)
        return
    if dataset_id or anchors or head or no_data:
        raise click.UsageError("--id, --anchors, --head and --no-data go with --public.")
    dataset = open_root(url, profile_name, at)
    with output.progress("verifying") as bar:
        report = dataset.verify(data=not log_only, progress=bar)
    shown = {**asdict(report), "locations": "; ".join(map(str, report.locations))}
    output.emit(
        {"dataset": dataset.id, "verified": True, **asdict(report)},
        f"Dataset {dataset.id} is what its authors signed.\n" + output.fields(shown),
    )
