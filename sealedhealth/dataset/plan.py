"""Which local file becomes which logical path, and back. Decided whole before a byte moves."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sealedhealth.errors import InvalidInput, NotFound
from sealedhealth.log.paths import canonical

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import View

__all__ = ["Links", "Upload", "batches", "inside", "join", "plan_get", "plan_put"]

#: What to do about symbolic links inside a directory that is put.
Links = Literal["refuse", "follow", "skip"]

_SAFE = "Nothing was sealed."


@dataclass(frozen=True, slots=True)
class Upload:
    """One local file to seal."""

    source: str
    path: str  #: logical path, canonical
    size: int  #: bytes
    mtime_us: int  #: modification time, microseconds since 1970 UTC


def inside(path: str) -> str:
    """The canonical form of a path inside a dataset; ``""`` and ``"/"`` are its root. Raises ``InvalidPath``."""
    path = path.strip("/")
    return canonical(path) if path else ""


def join(folder: str, name: str) -> str:
    """*name* in the logical directory *folder*."""
    return f"{folder}/{name}" if folder else name


# --- put ----------------------------------------------------------------------------------


def plan_put(sources: Sequence[str], target: str, view: View | None, *, links: Links = "refuse") -> list[Upload]:
    """What putting *sources* at *target* seals, sorted by path.

    A directory goes under *target* by its own name; with a trailing slash (or as ``.``) its content does. A file
    goes into *target* when that ends with a slash, is a directory or the root, or when there are several sources;
    otherwise it gets that very path. *view* tells which directories exist; ``None`` when this identity cannot read.

    Raises
    ------
    NotFound
        A source does not exist.
    InvalidInput
        A symbolic link (unless *links* says what to do), device, socket or pipe inside a directory; two sources for
        one path; a name that cannot be a path.
    """
    folder = inside(target)
    into = len(sources) > 1 or not folder or target.endswith("/") or (view is not None and view.is_dir(folder))
    found: dict[str, Upload] = {}
    for source in sources:
        for upload in _source(os.fspath(source), folder, into=into, links=links):
            if upload.path in found:
                raise InvalidInput(
                    f"{found[upload.path].source} and {upload.source} would both become {upload.path}.",
                    safe=_SAFE,
                    next="Put them under different paths.",
                )
            found[upload.path] = upload
    for path in found:
        above = path.rpartition("/")[0]
        while above:
            if above in found:
                raise InvalidInput(
                    f"{above} would be a file and a directory at once.",
                    safe=_SAFE,
                    next="Put them under different paths.",
                )
            above = above.rpartition("/")[0]
    return [found[path] for path in sorted(found)]


def _source(source: str, folder: str, *, into: bool, links: Links) -> Iterator[Upload]:
    try:
        status = os.stat(source)  # noqa: PTH116 - strings throughout: this runs for a million files
    except FileNotFoundError:
        raise NotFound(f"There is no {source}.", safe=_SAFE, next="Check the source path.") from None
    name = os.path.basename(source)  # noqa: PTH119
    if stat.S_ISDIR(status.st_mode):
        top = folder if name in {"", ".", ".."} else join(folder, name)
        yield from _directory(source.rstrip("/") or "/", top, links, ((status.st_dev, status.st_ino),))
    elif stat.S_ISREG(status.st_mode):
        yield _upload(source, join(folder, name) if into else folder, status)
    else:
        raise InvalidInput(
            f"{source} is neither a file nor a directory.",
            safe=_SAFE,
            next="Pipe its content to `sealedhealth put - URL/path` if that is what you mean.",
        )


def _directory(source: str, folder: str, links: Links, chain: tuple[tuple[int, int], ...]) -> Iterator[Upload]:
    with os.scandir(source) as listing:
        items = sorted(listing, key=lambda item: item.name)
    for item in items:
        path = join(folder, item.name)
        if item.is_symlink():
            if links == "skip":
                continue
            if links == "refuse":
                raise InvalidInput(
                    f"{item.path} is a symbolic link.",
                    safe=_SAFE,
                    next="Say what to do with links: --links follow, or --links skip.",
                )
        try:
            status = item.stat()
        except FileNotFoundError:
            raise NotFound(
                f"{item.path} leads nowhere, or has just been deleted.",
                safe=_SAFE,
                next="Mend the link, or leave links out: --links skip.",
            ) from None
        if stat.S_ISDIR(status.st_mode):
            here = (status.st_dev, status.st_ino)
            if here in chain:
                raise InvalidInput(
                    f"{item.path} leads back to a directory above it.",
                    safe=_SAFE,
                    next="Remove the link, or leave links out: --links skip.",
                )
            yield from _directory(item.path, path, links, (*chain, here))
        elif stat.S_ISREG(status.st_mode):
            yield _upload(item.path, path, status)
        else:
            raise InvalidInput(
                f"{item.path} is a device, socket or pipe.", safe=_SAFE, next="Move it out of the directory."
            )


def _upload(source: str, path: str, status: os.stat_result) -> Upload:
    return Upload(source, canonical(path, new=True), status.st_size, max(status.st_mtime_ns // 1000, 0))


def batches(uploads: Sequence[Upload], size: int | None) -> Iterator[list[Upload]]:
    """*uploads* in order, in runs that end once they hold *size* bytes; ``None``: all in one."""
    batch: list[Upload] = []
    held = 0
    for upload in uploads:
        batch.append(upload)
        held += upload.size
        if size is not None and held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


# --- get ----------------------------------------------------------------------------------


def plan_get(view: View, path: str, destination: str) -> list[tuple[str, Entry, str]]:
    """What getting *path* writes: logical path, entry, local path.

    The mirror of :func:`plan_put`: a directory arrives in *destination* by its own name; with a trailing slash, or
    when it is the root, its content does. A file arrives in *destination* when that is a directory or ends with a
    slash, and under that very name otherwise. Raises ``NotFound``.
    """
    logical = inside(path)
    entry = view.get(logical) if logical else None
    if entry is not None:
        into = destination.endswith("/") or os.path.isdir(destination)  # noqa: PTH112
        return [(logical, entry, _local(destination, logical.rpartition("/")[2]) if into else destination)]
    if not view.is_dir(logical):
        raise NotFound(f"There is no {logical} in this snapshot.", next="See what there is with `sealedhealth ls`.")
    contents_only = not logical or path.endswith("/")
    cut = len(logical) + 1 if contents_only and logical else len(logical) - len(logical.rpartition("/")[2])
    return [(name, item, _local(destination, name[cut:])) for name, item in view.items(logical)]


def _local(folder: str, relative: str) -> str:
    """*relative*, a canonical path, below the local *folder*."""
    parts = relative.split("/")
    if os.name == "nt" and any(":" in part or part.endswith((".", " ")) for part in parts):
        raise InvalidInput(f"{relative} cannot be the name of a file on Windows.", next="Rename it in the dataset.")
    return os.path.join(folder, *parts)  # noqa: PTH118
