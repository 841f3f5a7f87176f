"""The half of the file system that the catalogue answers: names, sizes, times. No request to the host."""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.core import split_protocol
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.registry import get_filesystem_class
from fsspec.utils import stringify_path

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, InvalidPath, NotFound
from sealedhealth.log.paths import canonical, is_under, parents

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import View

__all__ = ["PROTOCOLS", "CatalogueFileSystem", "store_path"]

#: What the entry points in ``pyproject.toml`` register.
STORES = ("file", "local", "memory", "s3", "s3a", "az", "abfs", "abfss", "gs", "gcs", "sftp")
PROTOCOLS = ("sealed", *(f"sealed+{store}" for store in STORES))
_SEALED_URL = re.compile(r"sealed(?:\+([a-z0-9]+))?://")


class CatalogueFileSystem(ChainedFileSystem):
    """Listing, looking up and finding, over whatever view the subclass has.

    Directories are what the paths of files imply.  Those made by ``mkdir`` live in this instance only.
    """

    cachable = False
    protocol: ClassVar[tuple[str, ...]] = PROTOCOLS
    root_marker = ""

    #: What stands before a logical path in the names of this instance: the path of the root on the store when it
    #: was made from a URL, else nothing.
    _prefix: str
    #: Directories made by mkdir, as logical paths; shared with the file systems of transactions.
    _made: set[str]

    @abstractmethod
    def _view(self) -> View:
        """What is read now. Raises ``AccessDenied`` for an identity that cannot read."""

    # --- names -------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple)):
            return [cls._strip_protocol(one) for one in path]
        text: str = stringify_path(path)
        if text.startswith("sealed::"):
            text = store_path(text.removeprefix("sealed::"))
        elif match := _SEALED_URL.match(text):
            rest = text[match.end() :]
            text = store_path(f"{match[1]}://{rest}") if match[1] else rest
        # Both spellings of an accented letter are one name; patterns are compared with names in this form.
        return unicodedata.normalize("NFC", text).rstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        """*name* with a protocol, in the form that duckdb hands back to this file system."""
        return f"sealed://{self._strip_protocol(name)}"

    def _logical(self, path: Any, *, new: bool = False) -> str:
        """The logical path of a name of this instance; ``""`` is the root. Raises ``InvalidPath``."""
        name = self._strip_protocol(path)
        if self._prefix:
            if name != self._prefix and not name.startswith(self._prefix + "/"):
                raise InvalidPath(
                    f"{name!r} lies outside the dataset at {self._prefix!r}.",
                    next="Names of this file system start with the path of the dataset's root.",
                )
            name = name[len(self._prefix) + 1 :]
        return canonical(name, new=new) if name else ""

    def _name(self, logical: str) -> str:
        if not self._prefix:
            return logical
        return f"{self._prefix}/{logical}" if logical else self._prefix

    # --- one path ----------------------------------------------------------------------

    def _is_directory(self, view: View, logical: str) -> bool:
        return not logical or logical in self._made or view.is_dir(logical)

    def _entry(self, path: Any) -> Entry:
        """The file at *path*. Raises ``NotFound``."""
        logical = self._logical(path)
        view = self._view()
        entry = view.get(logical) if logical else None
        if entry is None:
            if self._is_directory(view, logical):
                raise NotFound(f"{path!r} is a directory.", next="Name a file in it.")
            raise self._missing(path)
        return entry

    def _missing(self, path: Any) -> NotFound:
        return NotFound(
            f"There is no {self._strip_protocol(path)!r} in this snapshot.",
            next="List the directory, or call refresh() if it was committed since.",
        )

    def _file_info(self, logical: str, entry: Entry) -> dict[str, Any]:
        modified = entry.mtime_us / 1e6
        return {
            "name": self._name(logical),
            "size": entry.size,
            "type": "file",
            "mtime": modified,
            "created": modified,
            "sequence": entry.sequence,
            # Objects are immutable and their ids random: equal exactly when the content is the same write's.
            "version": f"{entry.object_id.hex()}-{entry.offset:x}",
        }

    def _directory_info(self, logical: str) -> dict[str, Any]:
        return {"name": self._name(logical), "size": 0, "type": "directory"}

    def info(self, path: Any, **_: Any) -> dict[str, Any]:
        """Name, size in bytes, type; for a file also ``mtime`` and ``created`` (seconds since 1970, UTC), the
        ``sequence`` of the commit that wrote it, and ``version``, which changes with every write.

        Raises ``NotFound``.
        """
        logical = self._logical(path)
        view = self._view()
        if logical and (entry := view.get(logical)) is not None:
            return self._file_info(logical, entry)
        if self._is_directory(view, logical):
            return self._directory_info(logical)
        raise self._missing(path)

    def exists(self, path: Any, **_: Any) -> bool:
        """Whether there is a file or directory. Errors of integrity and access are raised, never taken for a no."""
        return self.isfile(path) or self.isdir(path)

    def lexists(self, path: Any, **_: Any) -> bool:
        """Same as :meth:`exists`: there are no links."""
        return self.exists(path)

    def isfile(self, path: Any) -> bool:
        """Whether there is a file of this name; raises as :meth:`exists` does."""
        view = self._view()
        try:
            logical = self._logical(path)
        except InvalidPath:
            return False
        return bool(logical) and view.get(logical) is not None

    def isdir(self, path: Any) -> bool:
        """Whether there is a directory of this name; raises as :meth:`exists` does."""
        view = self._view()
        try:
            logical = self._logical(path)
        except InvalidPath:
            return False
        return self._is_directory(view, logical) and not (logical and view.get(logical) is not None)

    def checksum(self, path: Any) -> int:
        """A number that changes with every write of the file."""
        entry = self._entry(path)
        return int.from_bytes(sha256(b"%b-%d" % (entry.object_id, entry.offset)).digest()[:8])

    def ukey(self, path: Any) -> str:
        """A text that changes with every write of the file."""
        return str(self.info(path).get("version", "directory"))

    def modified(self, path: Any) -> datetime:
        """When the file was written, aware, UTC."""
        return datetime.fromtimestamp(self._entry(path).mtime_us / 1e6, UTC)

    def created(self, path: Any) -> datetime:
        """Same as :meth:`modified`: every write makes a new object."""
        return self.modified(path)

    # --- many paths --------------------------------------------------------------------

    def ls(self, path: Any, detail: bool = True, **_: Any) -> list[Any]:
        """The entries of a directory, or the one of a file.

        Raises ``NotFound``, and ``AccessDenied`` for an identity that can write but not read.
        """
        logical = self._logical(path)
        view = self._view()
        if logical and (entry := view.get(logical)) is not None:
            found = {logical: self._file_info(logical, entry)}
        elif self._is_directory(view, logical):
            start = logical + "/" if logical else ""
            found = {}
            for name, child in view.children(logical):
                inner = start + name
                found[inner] = self._directory_info(inner) if child is None else self._file_info(inner, child)
            for made in self._made:
                if made.startswith(start) and "/" not in made[len(start) :]:
                    found.setdefault(made, self._directory_info(made))
        else:
            raise self._missing(path)
        infos = [found[key] for key in sorted(found)]
        return infos if detail else [info["name"] for info in infos]

    def walk(self, path: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As ``os.walk``; see fsspec. Raises ``AccessDenied`` for an identity that cannot read."""
        self._view()  # fsspec would take a refusal for an empty directory
        walked: Iterator[Any] = super().walk(path, *args, **kwargs)
        return walked

    def find(
        self, path: Any, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any
    ) -> Any:
        """All files under *path*, by name; a mapping to their ``info`` with *detail*."""
        if maxdepth is not None:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        view = self._view()
        logical = self._logical(path)
        if detail and not withdirs:  # one after the other: a hundred thousand entries at once would take time and room
            return {(info := self._file_info(*item))["name"]: info for item in view.items(logical)}
        files: dict[str, Entry] = dict(view.items(logical))
        found: dict[str, Any] = dict.fromkeys(self._directories(view, files, logical)) if withdirs else {}
        found.update(files)
        order = sorted(found) if withdirs else list(found)
        if not detail:
            return [self._name(inner) for inner in order]
        infos = (
            self._directory_info(inner) if (entry := found[inner]) is None else self._file_info(inner, entry)
            for inner in order
        )
        return {info["name"]: info for info in infos}

    def _directories(self, view: View, files: dict[str, Entry], logical: str) -> set[str]:
        """The directories at and under *logical*; the root only when it has a name."""
        found = {made for made in self._made if is_under(made, logical)}
        last = ""
        for inner in files:
            parent = inner.rpartition("/")[0]
            if parent != last:  # files come sorted: most have the parent of the one before
                found.update(part for part in parents(inner) if is_under(part, logical))
                last = parent
        if self._name(logical) and self._is_directory(view, logical):
            found.add(logical)
        return found - files.keys()

    def du(
        self, path: Any, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        """Bytes of the files under *path*, or with ``total=False`` a mapping of names to bytes."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def expand_path(self, path: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Names that a pattern, a directory or a list stands for; see fsspec. Raises ``NotFound``."""
        try:
            expanded: list[str] = super().expand_path(path, *args, **kwargs)
        except NotFound:
            raise
        except FileNotFoundError:
            raise self._missing(path if isinstance(path, str) else str(path)) from None
        return expanded

    # --- directories -------------------------------------------------------------------

    def mkdir(self, path: Any, create_parents: bool = True, **_: Any) -> None:
        """Make a directory, in this instance only: a dataset holds files.

        Raises ``AlreadyExists``; ``NotFound`` without its parent and ``create_parents``.
        """
        logical = self._logical(path, new=True)
        if not create_parents and "/" in logical:
            view = self._view_if_readable()
            parent = logical.rpartition("/")[0]
            if view is not None and not self._is_directory(view, parent):
                raise self._missing(self._name(parent))
        self.makedirs(path, exist_ok=False)

    def makedirs(self, path: Any, exist_ok: bool = False) -> None:
        """Make a directory and those above it, in this instance only. Raises ``AlreadyExists``."""
        logical = self._logical(path, new=True)
        view = self._view_if_readable()
        above = [logical, *parents(logical)] if logical else []
        if view is not None:
            for part in above:
                if view.get(part) is not None:
                    raise AlreadyExists(f"{self._name(part)!r} is a file.", next="Choose another name.")
        exists = logical in self._made or not logical or (view is not None and view.is_dir(logical))
        if exists and not exist_ok:
            raise AlreadyExists(f"The directory {self._name(logical)!r} exists.")
        self._made.update(above)

    def rmdir(self, path: Any) -> None:
        """Remove an empty directory. Raises ``NotFound``, and ``InvalidInput`` when it is not empty or a file."""
        logical = self._logical(path)
        if self.ls(path) and self.isdir(path):
            raise InvalidInput(f"{path!r} is not empty.", next="Use rm(..., recursive=True).")
        if logical not in self._made:
            raise InvalidInput(f"{path!r} is not a directory.")
        self._made.discard(logical)

    def _view_if_readable(self) -> View | None:
        """The view, or nothing for an identity that may write but not read."""
        try:
            return self._view()
        except AccessDenied:
            return None


def store_path(url: str) -> str:
    """A path on the store as its own file system spells it."""
    store = get_filesystem_class(split_protocol(url)[0] or "file")
    stripped: str = store._strip_protocol(url)  # noqa: SLF001 - how file systems of fsspec say it
    return stripped
