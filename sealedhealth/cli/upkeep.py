"""``maintain``, ``gc``, ``rotate``, ``rewrap`` and ``destroy``: keeping a dataset in order, and ending it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import DURATION, confirm, open_root, verb

if TYPE_CHECKING:
    from sealedhealth.session.maintenance import CollectReport

__all__ = ["destroy_command", "gc_command", "maintain_command", "rewrap_command", "rotate_command"]


@verb("maintain")
@click.argument("url")
@click.option("--force", is_flag=True, help="Write a checkpoint even when none is due.")
def maintain_command(profile_name: str | None, url: str, force: bool) -> None:
    """Write a checkpoint of the catalogue when one is due, so that opening stays quick.

    Safe at any time, also from cron and while others write. Deletes nothing: see `gc`.

    Examples
    --------
    sealedhealth maintain s3://bucket/cardio
    17 3 * * *  sealedhealth maintain s3://bucket/cardio && sealedhealth gc s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    report = dataset.maintain(force=force)
    if report is None:
        output.emit({"checkpoint": None}, "No checkpoint is due.")
    else:
        output.emit(
            {"checkpoint": asdict(report)},
            f"Wrote a checkpoint of commit {report.sequence}: {report.entries:,} files,"
            f" {output.human_size(report.written_bytes)}.",
        )


@verb("gc")
@click.argument("url")
@click.option(
    "--grace", type=DURATION, metavar="SPAN", help="Keep what was dropped within SPAN (default: the dataset's)."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def gc_command(profile_name: str | None, url: str, grace: timedelta | None, dry_run: bool) -> None:
    """Delete sealed objects that no kept snapshot needs, and repack those that are mostly dead.

    An object goes once the commit that dropped it is older than the grace (14 days unless the dataset says otherwise)
    and no tag keeps it. When less than half of an object that small files share is in use, the rest of it is read,
    checked and sealed again under the same data key; the object goes after the grace like any other. A grace shorter
    than the dataset's breaks transactions and readers that are still at work.

    Examples
    --------
    sealedhealth gc --dry-run s3://bucket/cardio
    sealedhealth gc --grace 30d s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    report = dataset.gc(grace=grace, dry_run=dry_run)
    verb_ = "Would delete" if dry_run else "Deleted"
    waiting = f"; {report.waiting:,} unreferenced ones wait for their grace" if report.waiting else ""
    files = "1 unfinished file" if report.unfinished == 1 else f"{report.unfinished:,} unfinished files"
    unfinished = f"; {files} of writers that died removed" if report.unfinished else ""
    output.emit(
        asdict(report),
        f"{verb_} {report.dropped:,} dropped and {report.orphans:,} unreferenced objects,"
        f" {output.human_size(report.bytes)}{waiting}{unfinished}.{_repacked(report)}",
    )


def _repacked(report: CollectReport) -> str:
    if not report.repacked and not report.damaged:
        return ""
    verb_ = "Would repack" if report.dry_run else "Repacked"
    damaged = f" {report.damaged:,} could not be: see `sealedhealth verify`." if report.damaged else ""
    return (
        f" {verb_} {report.repacked:,} objects that were mostly dead: {output.human_size(report.moved)} moved,"
        f" {output.human_size(report.dead)} to be deleted after the grace.{damaged}"
    )


@verb("rotate")
@click.argument("url")
def rotate_command(profile_name: str | None, url: str) -> None:
    """Give the key-encryption key of a dataset a new version. Data keys made from now on are wrapped by it.

    What exists stays under the old version until `rewrap`.

    Examples
    --------
    sealedhealth rotate s3://bucket/cardio && sealedhealth rewrap s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    version = dataset.rotate()
    output.emit(
        {"dataset": dataset.id, "version": version},
        f"The key-encryption key is at version {version}. Move old keys to it by `rewrap`.",
    )


@verb("rewrap")
@click.argument("url")
def rewrap_command(profile_name: str | None, url: str) -> None:
    """Wrap every data key by the newest version of its key-encryption key. No object is read or written.

    Examples
    --------
    sealedhealth rewrap s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    report = dataset.rewrap()
    output.emit(
        asdict(report),
        f"Wrapped {report.keys:,} data keys by version {report.version}; {report.objects_rewritten} objects rewritten.",
    )


@verb("destroy")
@click.argument("url")
@click.option("--commit", type=click.IntRange(min=0), metavar="N", help="The data keys of commit N.")
@click.option("--key", "key_id", metavar="ID", help="One data key, by the id that `log --json` shows.")
@click.option("--dataset", "everything", is_flag=True, help="Every key of the dataset.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy_command(
    profile_name: str | None, url: str, commit: int | None, key_id: str | None, everything: bool, yes: bool
) -> None:
    """Destroy keys, so that what they sealed can never be opened again, by anybody, wherever copies lie.

    Say what: the data keys of a commit, one data key, or the whole dataset. Asks for the id to be typed, unless --yes.
    Every older checkpoint and key-encryption key version goes with them; all other files stay readable. Backups of the
    keystore still hold the keys: destroy those as well.

    Examples
    --------
    sealedhealth destroy --commit 12 s3://bucket/cardio
    sealedhealth destroy --dataset --yes s3://bucket/cardio
    """
    if (commit is not None) + (key_id is not None) + everything != 1:
        raise click.UsageError("Say what to destroy: one of --commit N, --key ID and --dataset.")
    dataset = open_root(url, profile_name)
    if everything:
        confirm(f"Destroying every key of {dataset.url}", dataset.id, yes=yes)
        dataset.destroy()
        output.emit(
            {"dataset": dataset.id, "destroyed": True},
            f"Every key of dataset {dataset.id} is destroyed. What lies at {dataset.url} is noise now: delete it.",
        )
        return
    what = f"the data keys of commit {commit} in {dataset.url}" if commit is not None else f"the data key {key_id}"
    confirm(f"Destroying {what}", str(key_id) if commit is None else dataset.id, yes=yes)
    report = dataset.destroy_key(commit=commit, key_id=key_id)
    output.emit(
        asdict(report),
        f"Destroyed {len(report.keys)} data key{'' if len(report.keys) == 1 else 's'};"
        f" {report.proved} {'wrap was' if report.proved == 1 else 'wraps were'} tried and none opens any more."
        f" {report.survivors} other key{'' if report.survivors == 1 else 's'} wrapped again.",
    )
