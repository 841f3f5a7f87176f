"""Objects as files on a local (or mounted) disk."""

from __future__ import annotations

import builtins
import ctypes
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sealedhealth.errors import MissingError, TamperedError
from sealedhealth.stores.base import Buffer, ObjectStore, StoreWriter, Unfinished

__all__ = ["LocalStore"]

#: Files begin their life under this name, beside the final one, and are renamed when whole.
TEMPORARY = ".tmp-"
#: Up to so many files are flushed one by one; for more, one flush of the file system is cheaper.
FLUSH_ONE_BY_ONE = 64
#: Small files are written by so many threads: creating files waits for locks more than for the processor.
WRITERS = 4
PARALLEL_FROM = 32


class LocalStore(ObjectStore):
    """A directory.

    A file appears under its name whole or not at all: it is written beside it under a
    temporary name and renamed.  Nothing is sure to survive a power cut until :meth:`flush`.
    """

    fetch_size = 1 << 20  # a request costs nothing, and small buffers are used again while still in the cache

    def __init__(self, fs: Any, root: str, *, options: Mapping[str, object] | None = None) -> None:
        super().__init__(fs, root, options=options)
        self._token = secrets.token_hex(6)
        self._count = itertools.count()
        self._written = _Written()

    # --- writing -----------------------------------------------------------------------

    def put_many(self, objects: Mapping[str, Buffer]) -> None:
        items = [(self._path(name), data) for name, data in objects.items()]
        if not items:
            return
        doing = self._what("write", objects)
        if len(items) < PARALLEL_FROM:
            self._do(doing, partial(self._put_all, items), writing=True)
            return
        with ThreadPoolExecutor(WRITERS, "sealedhealth-put") as pool:
            parts = [pool.submit(self._put_all, items[start::WRITERS]) for start in range(WRITERS)]
        for part in parts:
            self._do(doing, part.result, writing=True)

    def _put_all(self, items: Sequence[tuple[str, Buffer]]) -> None:
        for path, data in items:
            temporary, file = self._create(path)
            try:
                try:
                    _write_all(file, data)
                finally:
                    os.close(file)  # network disks tell only here that they are full
                os.replace(temporary, path)
            except BaseException:
                _unlink(temporary)
                raise
            self._written.add(path)

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        del size_hint
        return _LocalWriter(self, name)

    def _create(self, path: str) -> tuple[str, int]:
        """A new temporary file beside ``path``: its name and descriptor."""
        directory = path.rpartition("/")[0]
        # The process id keeps a forked child from taking its parent's names.
        temporary = f"{directory}/{TEMPORARY}{os.getpid():x}-{self._token}-{next(self._count):x}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return temporary, os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            self._make_directory(directory)
            return temporary, os.open(temporary, flags, 0o666)

    def _make_directory(self, directory: str) -> None:
        created = []
        while directory and not os.path.isdir(directory):
            created.append(directory)
            directory = directory.rpartition("/")[0]
        for missing in reversed(created):
            with suppress(FileExistsError):
                os.mkdir(missing)
            self._written.add(missing)

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            self._do(f"delete {name} of {self.url}", partial(_unlink, self._path(name)))

    def flush(self) -> None:
        self._do(f"flush {self.url} to the disk", partial(self._written.flush, self.root), writing=True)

    def unfinished(self) -> Iterator[Unfinished]:
        top = len(self.root) + 1
        for entry in self._walk(self.root):
            if entry.name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):  # its writer was quicker
                    status = entry.stat(follow_symlinks=False)
                    yield Unfinished(entry.path[top:], datetime.fromtimestamp(status.st_mtime, UTC), status.st_size)

    def delete_unfinished(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        old = [one.name for one in self.unfinished() if one.started is not None and one.started < before]
        self.delete_many(old)
        return len(old)

    # --- reading -----------------------------------------------------------------------

    def get_many(self, names: Sequence[str], *, limit: int, missing_ok: bool = False) -> dict[str, bytes]:
        found = {}
        for name in names:
            try:
                found[name] = self._do(f"read {name} of {self.url}", partial(self._read_whole, name, limit))
            except MissingError:
                if not missing_ok:
                    raise
        return found

    def _read_whole(self, name: str, limit: int) -> bytes:
        file, size = self._open(name)
        try:
            return self._bounded(name, _read(file, 0, min(size, limit + 1)), limit)
        finally:
            os.close(file)

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> builtins.list[bytes]:
        out = [b""] * len(ranges)
        by_name: dict[str, builtins.list[int]] = {}
        for index, (name, lo, hi) in enumerate(ranges):
            if self._asks(lo, hi):
                by_name.setdefault(name, []).append(index)
        for name, indices in by_name.items():
            self._do(f"read {name} of {self.url}", partial(self._read_ranges, name, ranges, indices, out))
        return out

    def _read_ranges(
        self, name: str, ranges: Sequence[tuple[str, int, int]], indices: Sequence[int], out: builtins.list[bytes]
    ) -> None:
        file, size = self._open(name)
        try:
            for index in indices:
                _, lo, hi = ranges[index]
                # The size bounds what is allocated: ranges come from lengths that the host may have chosen.
                out[index] = self._whole(name, lo, hi, _read(file, lo, max(0, min(hi, size) - lo)))
        finally:
            os.close(file)

    def _open(self, name: str) -> tuple[int, int]:
        """Descriptor and size of a file."""
        # O_NONBLOCK: a named pipe in the place of an object must not make a reader wait for ever.
        file = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise TamperedError(
                f"{name} of {self.url} is not a file.",
                safe="It was not used.",
                next="Look for another copy of the dataset, or ask the host.",
            )
        return file, status.st_size

    def exists(self, name: str) -> bool:
        try:
            status = self._do(f"look for {name} of {self.url}", partial(os.stat, self._path(name)))
        except MissingError:
            return False
        return stat.S_ISREG(status.st_mode)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        prefix = prefix.strip("/")
        top = len(self.root) + 1
        for entry in self._walk(self._path(prefix) if prefix else self.root):
            if not entry.name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield entry.path[top:], entry.stat(follow_symlinks=False).st_size

    def _walk(self, directory: str) -> Iterator[os.DirEntry[str]]:
        """All files below ``directory``; links to directories are not followed."""
        waiting = [directory]
        while waiting:
            directory = waiting.pop()
            try:
                entries = self._do(f"list {directory}", partial(_scan, directory))
            except MissingError:
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry


class _LocalWriter(StoreWriter):
    def __init__(self, store: LocalStore, name: str) -> None:
        self._store = store
        self._path = store._path(name)
        self._doing = f"write {name} of {store.url}"
        self._file = -1
        self._temporary = ""
        self._temporary, self._file = store._do(self._doing, partial(store._create, self._path), writing=True)

    def write(self, data: Buffer) -> None:
        self._store._do(self._doing, partial(_write_all, self._open_file(), data), writing=True)

    def commit(self) -> None:
        self._open_file()
        self._store._do(self._doing, self._finish, writing=True)

    def _finish(self) -> None:
        file, self._file = self._file, -1
        os.close(file)
        os.replace(self._temporary, self._path)
        self._temporary = ""
        self._store._written.add(self._path)

    def discard(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._temporary:
            self._store._do(self._doing, partial(_unlink, self._temporary), writing=True)
            self._temporary = ""

    def _open_file(self) -> int:
        if self._file < 0:
            raise ValueError("This writer is closed.")
        return self._file

    def __del__(self) -> None:
        with suppress(Exception):  # there is nobody to tell
            self.discard()


class _Written:
    """What has been written since the last flush, and how to make it last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self._many = False

    def add(self, path: str) -> None:
        with self._lock:
            if not self._many:
                self._paths.add(path)
                self._many = len(self._paths) > FLUSH_ONE_BY_ONE

    def flush(self, root: str) -> None:
        with self._lock:
            paths, self._paths = self._paths, set()
            many, self._many = self._many, False
        try:
            if many:
                _sync_file_system(root)
                return
            for path in paths:
                _sync(path)
            # A new name lasts once its directory does.
            for directory in {path.rpartition("/")[0] for path in paths}:
                _sync(directory)
        except BaseException:
            # The kernel may report a failed write once and then forget it: do not let a second
            # try be satisfied by less.
            self._many = True
            raise


def _write_all(file: int, data: Buffer) -> None:
    written = os.write(file, data)
    if written < len(data):  # a full disk, a limit, or more than 2 GiB at once
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(file, rest) :]


def _read(file: int, start: int, length: int) -> bytes:
    """``length`` bytes from ``start``, or fewer when the file ends before."""
    data = os.pread(file, length, start)
    if len(data) == length or not data:
        return data
    pieces = [data]  # a read gives at most 2 GiB
    while data and (missing := length - sum(map(len, pieces))):
        data = os.pread(file, missing, start + length - missing)
        pieces.append(data)
    return b"".join(pieces)


def _scan(directory: str) -> builtins.list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def _sync(path: str) -> None:
    try:
        file = os.open(path or "/", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # deleted or replaced since
        return
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sync_file_system(root: str) -> None:
    """Flush the file system of ``root`` to the disk, and no other."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):  # not Linux
        os.sync()
        return
    file = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Unlike sync(2), this tells when a write failed.
        if libc.syncfs(file) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(file)
