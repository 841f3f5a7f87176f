"""A directory that is reached over SFTP."""

from __future__ import annotations

import builtins
import itertools
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn

import paramiko
from fsspec.implementations.sftp import SFTPFileSystem

from sealedhealth.errors import AccessDenied, MissingError
from sealedhealth.stores.base import Buffer, ObjectStore, StoreWriter, Unfinished
from sealedhealth.stores.location import Location, endpoint_of

__all__ = ["SftpFiles", "SftpStore"]

#: Files begin their life under this name, beside the final one, and are renamed when whole.
TEMPORARY = ".tmp-"
CONNECT_SECONDS = 20
#: What one message of the protocol carries.
PIECE = 32 << 10


class SftpFiles(SFTPFileSystem):
    """fsspec's file system, which connects when it is used, and only to a server whose key is known.

    fsspec takes any server's word for who it is, and would show it the password.

    Parameters
    ----------
    host, port, username, ...:
        As paramiko takes them.  Keys come from ``~/.ssh`` and the agent.
    known_hosts:
        The file of known keys of servers; ``~/.ssh/known_hosts`` unless given.
    """

    def _connect(self) -> None:
        self._known_hosts = self.ssh_kwargs.pop("known_hosts", None)
        self._ftp: Any = None
        self._lock = threading.Lock()

    @property
    def ftp(self) -> Any:
        """The connection."""
        with self._lock:
            if self._ftp is None:
                self.client = paramiko.SSHClient()
                self.client.load_system_host_keys(self._known_hosts)
                self.client.set_missing_host_key_policy(_Refuse())
                try:
                    self.client.connect(self.host, **{"timeout": CONNECT_SECONDS, **self.ssh_kwargs})
                except paramiko.BadHostKeyException:
                    raise _unknown(self.host, "another key than the known one") from None
                self._ftp = self.client.open_sftp()
            return self._ftp


class _Refuse(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: Any, hostname: str, key: Any) -> NoReturn:
        del client, key
        raise _unknown(hostname, "a key that is not known")


def _unknown(host: str, what: str) -> AccessDenied:
    return AccessDenied(
        f"The SFTP server {host} shows {what}.",
        safe="It was shown no credentials.",
        next="Compare its fingerprint with what its operator says, and put its key into ~/.ssh/known_hosts.",
    )


class SftpStore(ObjectStore):
    """A directory of an SFTP server.

    A file appears under its name whole or not at all, as on a local disk.  Whether it survives a power
    cut there is up to the server: the protocol has no word for it.
    """

    def __init__(self, fs: Any, root: str, *, options: Mapping[str, object] | None = None) -> None:
        super().__init__(fs, root, options=options)
        self._kind = "sftp"
        self._endpoint = endpoint_of(f"sftp://{fs.host}:{fs.ssh_kwargs.get('port') or 22}").removesuffix(":22")
        self._url = self._scrub(f"sftp://{self._endpoint}/{self.root.lstrip('/')}")
        self._token = secrets.token_hex(6)
        self._count = itertools.count()

    @property
    def location(self) -> Location:
        return Location("sftp", self._endpoint)

    # --- writing -----------------------------------------------------------------------

    def put_many(self, objects: Mapping[str, Buffer]) -> None:
        for name, data in objects.items():
            with self.writer(name) as writer:
                writer.write(data)
                writer.commit()

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        del size_hint
        return _SftpWriter(self, name)

    def _create(self, path: str) -> tuple[str, Any]:
        """A new temporary file beside ``path``, and its name."""
        directory = path.rpartition("/")[0]
        temporary = f"{directory}/{TEMPORARY}{os.getpid():x}-{self._token}-{next(self._count):x}"
        try:
            file = self.fs.ftp.open(temporary, "wx")
        except FileNotFoundError:
            self._make(directory)
            file = self.fs.ftp.open(temporary, "wx")
        file.set_pipelined(True)  # otherwise each 32 KiB wait for an answer
        return temporary, file

    def _make(self, directory: str) -> None:
        missing = []
        while directory and not self._status(directory):
            missing.append(directory)
            directory = directory.rpartition("/")[0]
        for made in reversed(missing):
            try:
                self.fs.ftp.mkdir(made)
            except OSError:
                if not self._status(made):  # nobody else was quicker
                    raise

    def delete_many(self, names: Iterable[str]) -> None:
        for name in names:
            with suppress(MissingError):
                self._do(f"delete {name} of {self.url}", partial(self._unlink, self._path(name)))

    def _unlink(self, path: str) -> None:
        self.fs.ftp.remove(path)

    def unfinished(self) -> Iterator[Unfinished]:
        for name, status in self._walk(""):
            if name.rpartition("/")[2].startswith(TEMPORARY):
                yield Unfinished(name, datetime.fromtimestamp(status.st_mtime, UTC), status.st_size)

    def delete_unfinished(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        old = [one.name for one in self.unfinished() if one.started is not None and one.started < before]
        self.delete_many(old)
        return len(old)

    # --- reading -----------------------------------------------------------------------

    def _fetch(self, ranges: Sequence[tuple[str, int, int]]) -> Sequence[Any]:
        answers: builtins.list[Any] = []
        for name, lo, hi in ranges:
            try:
                answers.append(self._read(self._path(name), lo, hi))
            except Exception as error:  # noqa: BLE001 - the caller sorts out what each range came to
                answers.append(error)
        return answers

    def _read(self, path: str, lo: int, hi: int) -> bytes:
        with self.fs.ftp.open(path, "rb") as file:
            # The size bounds what is asked for: ranges come from lengths that the host may have chosen.
            end = min(hi, file.stat().st_size)
            return b"".join(file.readv([(start, min(PIECE, end - start)) for start in range(lo, end, PIECE)]))

    def exists(self, name: str) -> bool:
        status = self._do(f"look for {name} of {self.url}", partial(self._status, self._path(name)))
        return status is not None and stat.S_ISREG(status.st_mode)

    def _status(self, path: str) -> Any:
        try:
            return self.fs.ftp.stat(path)
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for name, status in self._walk(prefix.strip("/")):
            if not name.rpartition("/")[2].startswith(TEMPORARY):
                yield name, status.st_size

    def _walk(self, directory: str) -> Iterator[tuple[str, Any]]:
        """All files below ``directory`` and what they are; links to directories are not followed."""
        waiting = [directory]
        while waiting:
            directory = waiting.pop()
            path = self._path(directory) if directory else self.root
            try:
                entries = self._do(f"list {path} of {self.url}", partial(self.fs.ftp.listdir_attr, path))
            except MissingError:
                continue
            for entry in entries:
                name = f"{directory}/{entry.filename}".lstrip("/")
                if stat.S_ISDIR(entry.st_mode):
                    waiting.append(name)
                elif stat.S_ISREG(entry.st_mode):
                    yield name, entry


class _SftpWriter(StoreWriter):
    def __init__(self, store: SftpStore, name: str) -> None:
        self._store = store
        self._path = store._path(name)
        self._doing = f"write {name} of {store.url}"
        self._file: Any = None
        self._temporary, self._file = store._do(self._doing, partial(store._create, self._path), writing=True)

    def write(self, data: Buffer) -> None:
        file = self._open_file()
        # Given more at once, paramiko copies the rest of it for each 32 KiB.
        with memoryview(data) as view:
            for start in range(0, len(view), PIECE):
                self._store._do(self._doing, partial(file.write, bytes(view[start : start + PIECE])), writing=True)

    def commit(self) -> None:
        file, self._file = self._open_file(), None
        self._store._do(self._doing, partial(self._finish, file), writing=True)
        self._temporary = ""

    def _finish(self, file: Any) -> None:
        file.close()  # waits for the answers: what the server could not write is told here
        self._store.fs.ftp.posix_rename(self._temporary, self._path)

    def discard(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):
                file.close()
        if self._temporary:
            temporary, self._temporary = self._temporary, ""
            with suppress(MissingError):
                self._store._do(self._doing, partial(self._store._unlink, temporary))

    def _open_file(self) -> Any:
        if self._file is None:
            raise ValueError("This writer is closed.")
        return self._file
