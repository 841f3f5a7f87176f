"""``rm``, ``cp`` and ``mv``: inside one dataset; nothing is sealed or opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import message_option, open_dataset, verb
from sealedhealth.errors import InvalidInput

if TYPE_CHECKING:
    from sealedhealth.dataset import Dataset

__all__ = ["cp_command", "mv_command", "rm_command"]


@verb("rm")
@click.argument("urls", metavar="URL/PATH...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Directories, with everything under them.")
@message_option
def rm_command(profile_name: str | None, urls: tuple[str, ...], recursive: bool, message: str) -> None:
    """Delete files, in one commit. They stay in older snapshots until garbage collection.

    To make what was sealed unreadable for good, see `sealedhealth destroy`.

    Examples
    --------
    sealedhealth rm s3://bucket/cardio/labs/late.parquet
    sealedhealth rm -r s3://bucket/cardio/tmp -m "scratch files"
    """
    dataset, paths = _same_dataset(urls, profile_name)
    with dataset.transaction(message) as transaction:
        count = sum(dataset.rm(path, recursive=recursive) for path in paths)
    _report("Deleted", count, transaction.result)


@verb("cp")
@click.argument("source", metavar="URL/FROM")
@click.argument("target", metavar="URL/TO")
@click.option("-r", "--recursive", is_flag=True, help="Directories, with everything under them.")
@message_option
def cp_command(profile_name: str | None, source: str, target: str, recursive: bool, message: str) -> None:
    """Copy files inside a dataset. No object is read or stored again.

    As in the shell: FROM goes into TO when that is a directory or ends with a slash, and becomes TO otherwise.

    Examples
    --------
    sealedhealth cp s3://bucket/cardio/labs/a.csv s3://bucket/cardio/archive/
    sealedhealth cp -r s3://bucket/cardio/labs s3://bucket/cardio/labs-2026-03
    """
    dataset, (old, new) = _same_dataset((source, target), profile_name)
    with dataset.transaction(message) as transaction:
        count = dataset.cp(old, new, recursive=recursive)
    _report("Copied", count, transaction.result)


@verb("mv")
@click.argument("source", metavar="URL/FROM")
@click.argument("target", metavar="URL/TO")
@message_option
def mv_command(profile_name: str | None, source: str, target: str, message: str) -> None:
    """Move or rename files and directories inside a dataset. No object is read or stored again.

    As in the shell: FROM goes into TO when that is a directory or ends with a slash, and becomes TO otherwise.

    Examples
    --------
    sealedhealth mv s3://bucket/cardio/labs/late.parquet s3://bucket/cardio/labs/week-12.parquet
    """
    dataset, (old, new) = _same_dataset((source, target), profile_name)
    with dataset.transaction(message) as transaction:
        count = dataset.mv(old, new)
    _report("Moved", count, transaction.result)


def _same_dataset(urls: tuple[str, ...], profile_name: str | None) -> tuple[Dataset, list[str]]:
    dataset, first = open_dataset(urls[0], profile_name)
    paths = [first]
    for url in urls[1:]:
        root, path = dataset.locate(url)
        if root != dataset.url:
            raise InvalidInput(
                f"{url} is not in {dataset.url}.",
                safe="Nothing was changed.",
                next="Between datasets, use get and put.",
            )
        paths.append(path)
    return dataset, paths


def _report(done: str, count: int, commit: object) -> None:
    sequence = getattr(commit, "sequence", None)
    files = "1 file" if count == 1 else f"{count:,} files"
    output.emit({"files": count, "commit": sequence}, f"{done} {files}, commit {sequence}.")
