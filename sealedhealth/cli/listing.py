"""``ls`` and ``du``: what a snapshot holds, from the catalogue alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import at_option, open_dataset, verb
from sealedhealth.dataset.plan import inside, join
from sealedhealth.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sealedhealth.log.entry import Entry
    from sealedhealth.session import View

__all__ = ["du_command", "ls_command"]


@verb("ls")
@click.argument("url", metavar="URL[/PATH]")
@click.option("-l", "--long", "long", is_flag=True, help="Size in bytes, modification time (UTC) and name.")
@click.option("-R", "--recursive", is_flag=True, help="Every file under it, by its path.")
@at_option
def ls_command(profile_name: str | None, url: str, long: bool, recursive: bool, at: int | str | None) -> None:
    """List a directory, or a file. Directories end with a slash.

    Costs no request to the store beyond opening the dataset.

    Examples
    --------
    sealedhealth ls -l s3://bucket/cardio/labs
    sealedhealth ls -R --at before-audit --json s3://bucket/cardio
    """
    dataset, path = open_dataset(url, profile_name, at)
    for name, full, entry in _listed(dataset.snapshot, inside(path), recursive=recursive):
        output.emit(_document(full, entry), _line(name, entry) if long else output.safe(_name(name, entry)))


def _listed(view: View, path: str, *, recursive: bool) -> Iterator[tuple[str, str, Entry | None]]:
    """Name to show, full path, entry (``None`` for a directory)."""
    entry = view.get(path) if path else None
    if entry is not None:
        yield path.rpartition("/")[2], path, entry
    elif not view.is_dir(path):
        raise NotFound(f"There is no {path} in this snapshot.", next="List a directory above it.")
    elif recursive:
        cut = len(path) + 1 if path else 0
        for full, file in view.items(path):
            yield full[cut:], full, file
    else:
        for name, child in view.children(path):
            yield name, join(path, name), child


def _document(path: str, entry: Entry | None) -> dict[str, object]:
    if entry is None:
        return {"path": path, "type": "directory"}
    return {
        "path": path,
        "type": "file",
        "size": entry.size,
        "mtime": _time(entry),
        "commit": entry.sequence,
    }


def _name(name: str, entry: Entry | None) -> str:
    return name if entry is not None else f"{name}/"


def _line(name: str, entry: Entry | None) -> str:
    size, time = ("-", "-") if entry is None else (str(entry.size), output.timestamp(_time(entry)))
    return f"{size:>14}  {time:<20}  {output.safe(_name(name, entry))}"


def _time(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.mtime_us // 1_000_000, UTC)


@verb("du")
@click.argument("url", metavar="URL[/PATH]")
@click.option("-s", "--summary", is_flag=True, help="The total only.")
@click.option("-b", "--bytes", "exact", is_flag=True, help="Sizes in bytes.")
@at_option
def du_command(profile_name: str | None, url: str, summary: bool, exact: bool, at: int | str | None) -> None:
    """Add up what the files of each directory take, as plaintext and as stored.

    What older snapshots hold, and objects that garbage collection has not taken yet, are not in it.

    Examples
    --------
    sealedhealth du s3://bucket/cardio
    sealedhealth du -s -b s3://bucket/cardio/labs
    """
    dataset, path = open_dataset(url, profile_name, at)
    view, top = dataset.snapshot, inside(path)
    if top and view.get(top) is None and not view.is_dir(top):
        raise NotFound(f"There is no {top} in this snapshot.", next="List a directory above it.")
    names = [] if summary or view.get(top) is not None else [join(top, name) for name, _ in view.children(top)]
    rows = []
    for name in [*names, top]:
        files, size, sealed = _usage(view, name)
        output.emit({"path": name, "files": files, "bytes": size, "sealed_bytes": sealed})
        shown = [str(number) if exact else output.human_size(number) for number in (size, sealed)]
        rows.append([f"{files:,}", *shown, name or "total"])
    output.table(["FILES", "SIZE", "STORED", "PATH"], rows, right=(0, 1, 2))


def _usage(view: View, path: str) -> tuple[int, int, int]:
    """Files, their bytes, and the bytes of the sealed objects they are in (each object once)."""
    files = size = 0
    objects: dict[bytes, int] = {}
    for _, entry in view.items(path):
        files += 1
        size += entry.size
        objects[entry.object_id] = entry.sealed_size
    return files, size, sum(objects.values())
