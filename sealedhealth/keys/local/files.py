"""The files of a keystore: small, private, durable, and either whole or not there.

Every write goes to ``tmp/`` first, is synced, and then gets its name in one step, so a crash
at any moment leaves the old file or the new one. Whoever changes keys holds the lock
exclusively; whoever reads keys or creates anchors shares it. What a crash left in ``tmp/``
is wiped by the next exclusive holder: nobody else can be writing there then.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sealedhealth.errors import AccessDenied, InvalidInput, SealedHealthError, ServiceUnavailable

__all__ = ["KeystoreFiles", "storing", "sync_directory", "write_synced"]

LOCK = "lock"
TMP = "tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class KeystoreFiles:
    """Reads and writes below one keystore directory; names are relative, ``/`` between parts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While inside, no key changes. Not to be nested."""
        with self._locked(exclusive=False):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While inside, nobody else reads keys or writes anything. Not to be nested."""
        with self._locked(exclusive=True):
            self._sweep()
            yield

    def read(self, name: str, *, limit: int) -> bytes | None:
        """The file, or ``None`` when there is none; at most one byte more than *limit*."""
        with storing(f"read {name}"):
            try:
                with (self.root / name).open("rb") as file:
                    return file.read(limit + 1)
            except FileNotFoundError:
                return None

    def create(self, name: str, data: bytes) -> bool:
        """Write a new file, durably; ``False`` when there is one by that name already."""
        path = self.root / name
        with storing(f"write {name}"):
            temporary = self._write_temporary(data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in _NO_LINKS:
                    raise InvalidInput(
                        f"The file system that holds {self.root} has no hard links.",
                        safe="Nothing was changed.",
                        next="Keep the keystore on a local POSIX file system.",
                    ) from error
                raise
            finally:
                with suppress(OSError):
                    temporary.unlink()
                # Also when somebody else's file is there: what is reported as taken must stay taken.
                sync_directory(path.parent)
            return True

    def replace(self, name: str, data: bytes, *, wipe: bool = False) -> None:
        """Write a file, durably, in place of the one by that name.

        With *wipe*, the old file's bytes are overwritten afterwards (not before: a crash must
        never leave neither): as good as gone where the disk writes in place, and no worse
        than a plain removal where it does not.
        """
        path = self.root / name
        with storing(f"write {name}"):
            old = os.open(path, os.O_RDWR | os.O_CLOEXEC) if wipe else None
            try:
                temporary = self._write_temporary(data)
                try:
                    temporary.replace(path)
                except BaseException:
                    with suppress(OSError):
                        _remove_wiped(temporary)
                    raise
                sync_directory(path.parent)
                if old is not None:
                    with suppress(OSError):  # the change is made; the old bytes have no name any more
                        _overwrite(old)
            finally:
                if old is not None:
                    os.close(old)

    def make_directory(self, name: str) -> None:
        """Make a private directory, durably, if there is none."""
        path = self.root / name
        with storing(f"make {name}"):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)

    def _write_temporary(self, data: bytes) -> Path:
        path = self.root / TMP / secrets.token_hex(8)
        try:
            write_synced(path, data)
        except BaseException:
            with suppress(OSError):
                _remove_wiped(path)
            raise
        return path

    def _sweep(self) -> None:
        with storing("clean up"):
            for path in (self.root / TMP).iterdir():
                _remove_wiped(path)

    @contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        try:
            import fcntl
        except ImportError as error:
            raise InvalidInput(
                "The local key service needs POSIX file locks, which this system does not have.",
                next="Use another key service on this machine.",
            ) from error
        with storing("lock the keystore"):
            # Each holder opens the file anew: so threads of one process exclude each other, too.
            flags = os.O_RDWR if exclusive else os.O_RDONLY
            descriptor = os.open(self.root / LOCK, flags | os.O_CLOEXEC)
        try:
            with storing("lock the keystore"):
                fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new private file and sync its bytes (not its directory)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing(action: str) -> Iterator[None]:
    """Turn errors of the file system into ours; *action* completes "could not"."""
    try:
        yield
    except SealedHealthError:
        raise
    except OSError as error:
        safe = "The keystore is whole; only this change may be missing from it."
        if error.errno in _FULL:
            raise ServiceUnavailable(
                f"The disk that holds the keystore is full: could not {action}.",
                safe=safe,
                next="Make room and try again.",
            ) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise AccessDenied(
                f"The keystore's permissions do not allow this: could not {action}.",
                safe=safe,
                next="Run as the keystore's owner, on a file system that can be written.",
            ) from error
        raise ServiceUnavailable(
            f"The keystore's disk failed: could not {action} ({error.strerror}).",
            safe=safe,
            next="Check the disk and the keystore directory.",
        ) from error


def _remove_wiped(path: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # An anchor that got its name before a crash still shares its bytes with this file.
            if os.fstat(descriptor).st_nlink == 1:
                with suppress(OSError):  # a disk that cannot write can often still remove
                    _overwrite(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()


def _overwrite(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    os.pwrite(descriptor, bytes(size), 0)
    os.fsync(descriptor)
