"""``put``, ``get`` and ``cat``: between this machine and a dataset."""

from __future__ import annotations

import sys
from typing import cast

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import SIZE, at_option, message_option, open_dataset, verb
from sealedhealth.dataset.plan import Links, inside
from sealedhealth.errors import NotFound

__all__ = ["cat_command", "get_command", "put_command"]


@verb("put")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True)
@click.argument("url", metavar="URL[/PATH]")
@click.option("--update", is_flag=True, help="Leave out files whose size and modification time are there already.")
@click.option("--commit-every", type=SIZE, metavar="SIZE", help="Commit whenever so much is sealed, such as 10GiB.")
@click.option(
    "--links",
    type=click.Choice(["refuse", "follow", "skip"]),
    default="refuse",
    show_default=True,
    help="Symbolic links inside a directory.",
)
@message_option
def put_command(
    profile_name: str | None,
    sources: tuple[str, ...],
    url: str,
    update: bool,
    commit_every: int | None,
    links: str,
    message: str,
) -> None:
    """Seal files and directories of this machine, and commit them.

    One commit, whole or not at all; with --commit-every, several. An interrupted put leaves the last commit whole:
    run it again with --update.

    What goes where
    ---------------
    put a.csv URL            the file URL/a.csv
    put a.csv URL/b.csv      the file URL/b.csv
    put a.csv URL/labs/      the file URL/labs/a.csv (also without the slash, when labs is a directory)
    put labs URL             the directory URL/labs: a directory goes under its own name
    put labs/ URL            what is in labs, right under URL: a trailing slash means the content
    put a.csv labs URL/x     URL/x/a.csv and URL/x/labs: several sources go into a directory
    put - URL/a.csv          standard input as URL/a.csv

    Symbolic links and directories named as SRC are followed. Inside a directory, links are refused unless --links says
    otherwise; devices, sockets and pipes always are. Empty directories are not kept. Names are kept in Unicode's form
    NFC; refused are control characters, backslashes, names that are not UTF-8, and paths above 4096 bytes.

    What comes in by a pipe is committed when the pipe ends, also when the program that fills it has failed: put cannot
    know. Where that can happen, write to a file first, and put that when the program has succeeded.

    Examples
    --------
    sealedhealth put exports/ s3://bucket/cardio/labs -m "labs, week 12"
    sealedhealth put --update --commit-every 10GiB /data/imaging s3://bucket/cardio
    pg_dump cohort > /secure/tmp/dump.sql && sealedhealth put /secure/tmp/dump.sql s3://bucket/cardio
    gzip < dump.sql | sealedhealth put - s3://bucket/cardio/dump.sql.gz
    """
    dataset, path = open_dataset(url, profile_name)
    with output.progress("sealing") as bar:
        if "-" in sources:
            if len(sources) > 1:
                raise click.UsageError("Standard input (-) cannot be put together with other sources.")
            done = dataset.put_stream(sys.stdin.buffer, path, message=message, progress=bar)
        else:
            done = dataset.put(
                list(sources),
                path,
                update=update,
                links=cast("Links", links),
                commit_every=commit_every,
                message=message,
                progress=bar,
            )
    commits = f", commit {_numbers(done.commits)}" if done.commits else ", nothing to commit"
    skipped = f", {done.skipped:,} unchanged" if done.skipped else ""
    output.emit(
        {"files": done.files, "bytes": done.size, "skipped": done.skipped, "commits": list(done.commits)},
        f"Sealed {_files(done.files)}, {output.human_size(done.size)}{skipped}{commits}.",
    )


@verb("get")
@click.argument("url", metavar="URL[/PATH]")
@click.argument("destination", metavar="DEST")
@click.option("--update", is_flag=True, help="Leave alone files of the same size and modification time.")
@at_option
def get_command(profile_name: str | None, url: str, destination: str, update: bool, at: int | str | None) -> None:
    """Open files and directories into local ones. What arrives is PLAINTEXT.

    Every byte is checked against the signed log before it is written, and each file appears under its name whole or
    not at all. Modification times come along.

    What goes where
    ---------------
    get URL/a.csv DEST       DEST/a.csv when DEST is a directory or ends with a slash, else the file DEST
    get URL/labs DEST        DEST/labs: a directory arrives under its own name
    get URL/labs/ DEST       what is in labs, right under DEST
    get URL DEST             what is in the dataset, right under DEST

    Examples
    --------
    sealedhealth get s3://bucket/cardio/labs /secure/work
    sealedhealth get --at 12 s3://bucket/cardio/labs/late.parquet .
    """
    dataset, path = open_dataset(url, profile_name, at)
    with output.progress("opening") as bar:
        done = dataset.get(path, destination, update=update, progress=bar)
    skipped = f", {done.skipped:,} unchanged" if done.skipped else ""
    output.emit(
        {
            "files": done.files,
            "bytes": done.size,
            "skipped": done.skipped,
            "snapshot": dataset.snapshot.sequence,
            "destination": destination,
        },
        f"Opened {_files(done.files)}, {output.human_size(done.size)}{skipped}, of commit {dataset.snapshot.sequence}.",
    )


@verb("cat")
@click.argument("urls", metavar="URL/PATH...", nargs=-1, required=True)
@at_option
def cat_command(profile_name: str | None, urls: tuple[str, ...], at: int | str | None) -> None:
    """Write the content of files to standard output, in order.

    Nothing is written that is not checked first: after a failure what came out is genuine, but not all. With --json
    standard output still is the content; only errors are JSON.

    Examples
    --------
    sealedhealth cat s3://bucket/cardio/labs/notes.txt | less
    """
    for url in urls:
        dataset, path = open_dataset(url, profile_name, at)
        logical = inside(path)
        entry = dataset.snapshot.get(logical) if logical else None
        if entry is None:
            what = (
                f"{logical or 'The root'} is a directory."
                if dataset.snapshot.is_dir(logical)
                else f"There is no {logical}."
            )
            raise NotFound(what, next="Name a file; `sealedhealth ls` lists them.")
        dataset.session.download(entry, output.binary())
    output.binary().flush()


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _numbers(sequences: tuple[int, ...]) -> str:
    if len(sequences) < 3:
        return " and ".join(str(sequence) for sequence in sequences)
    return f"{sequences[0]} to {sequences[-1]}"
