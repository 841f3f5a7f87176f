"""Between local files and a dataset: whole files or nothing, small ones in batches."""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from fsspec.callbacks import Callback

from sealedhealth.errors import SealedHealthError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import Session, Transaction

__all__ = ["Download", "Upload", "download_all", "download_one", "local_file", "upload_all"]

_SMALL = 1 << 20
_PART = re.compile(r"\.sealedhealth-[0-9a-f]{16}\.part")
_LEFT_OVER = 60  #: seconds without a write after which a file may be one that nobody writes any more


@dataclass(frozen=True, slots=True)
class Download:
    """One file to fetch."""

    name: str
    entry: Entry
    target: str  #: local path


@dataclass(frozen=True, slots=True)
class Upload:
    """One local file to seal."""

    source: str
    path: str  #: logical path


@contextmanager
def local_file(target: str) -> Iterator[BinaryIO]:
    """A local file to write, which appears under its name whole or, after an exception, not at all.

    A device or pipe is written directly.
    """
    target = os.path.realpath(target)  # a link stays one
    try:
        mode = os.stat(target).st_mode  # noqa: PTH116 - one call for kind and permissions
    except FileNotFoundError:
        mode = None
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        with open(target, "wb") as direct:  # noqa: PTH123 - as os.stat
            yield direct
        return
    try:
        with _whole(target, mode) as file:
            yield file
    except SealedHealthError:
        raise
    except OSError as error:
        # Of the disk: it names the file that was asked for, not the one beside it that nobody has heard of.
        raise OSError(error.errno, error.strerror, target) from None


@contextmanager
def _whole(target: str, mode: int | None) -> Iterator[BinaryIO]:
    folder = os.path.dirname(target)  # noqa: PTH120 - strings throughout
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    temporary = os.path.join(folder, f".sealedhealth-{secrets.token_hex(8)}.part")  # noqa: PTH118
    # 0o666: the user named this file, so the umask decides, as for any other
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            _lock(descriptor)
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
            yield file
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def _lock(descriptor: int) -> bool:
    """Mark a file as somebody's who is alive; whether nobody else has. The mark goes with the process."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # marked by another, or a file system that knows no marks
        return False
    return True


def sweep(folder: str) -> None:
    """Remove what was left in *folder* by a download that was killed."""
    with suppress(OSError), os.scandir(folder) as listing:
        for item in listing:
            if _PART.fullmatch(item.name) and time.time() - item.stat(follow_symlinks=False).st_mtime > _LEFT_OVER:
                descriptor = os.open(item.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if _lock(descriptor):
                        os.unlink(item.path)  # noqa: PTH108
                finally:
                    os.close(descriptor)


def download_one(session: Session, entry: Entry, sink: BinaryIO, callback: Callback) -> None:
    """Write the content of one file to ``sink``, checked, with flat memory."""
    callback.set_size(entry.size)
    if entry.size <= _SMALL:
        sink.write(session.read_ranges([(entry, 0, entry.size)])[0])
        callback.relative_update(entry.size)
    else:
        session.download(entry, sink, progress=callback.relative_update)


def download_all(session: Session, files: Sequence[Download], callback: Callback) -> None:
    """Fetch files, the small ones many at a time; ``callback`` counts files, its branches count bytes."""
    callback.set_size(len(files))
    for folder in {os.path.dirname(file.target) or os.curdir for file in files}:  # noqa: PTH120
        sweep(folder)
    small = [file for file in files if file.entry.size <= _SMALL]
    for index, content in session.read_files([file.entry for file in small]):
        file = small[index]
        with callback.branched(file.name, file.target) as child:
            child.set_size(len(content))
            with local_file(file.target) as sink:
                sink.write(content)
            child.relative_update(len(content))
        callback.relative_update(1)
    for file in files:
        if file.entry.size > _SMALL:
            with callback.branched(file.name, file.target) as child, local_file(file.target) as sink:
                download_one(session, file.entry, sink, child)
            callback.relative_update(1)


def upload_all(staged: Transaction, files: Sequence[Upload], callback: Callback) -> None:
    """Seal local files into a transaction; ``callback`` counts files, its branches count bytes."""
    callback.set_size(len(files))
    progress = _Progress(files, callback)
    staged.put_files([(file.source, file.path) for file in files], progress=progress.add)
    progress.finish()


class _Progress:
    """Turns a count of bytes into counts of files, as if one file came after the other."""

    def __init__(self, files: Sequence[Upload], callback: Callback) -> None:
        self._callback = callback
        self._files = [(file, os.stat(file.source).st_size) for file in files]  # noqa: PTH116 - many small calls
        self._next = 0
        self._seen = 0

    def add(self, count: int) -> None:
        self._seen += count
        while self._next < len(self._files) and self._seen >= self._files[self._next][1]:
            self._seen -= self._files[self._next][1]
            self._one()

    def finish(self) -> None:
        """Report whatever the sizes left open: a file may have changed since it was measured."""
        while self._next < len(self._files):
            self._one()

    def _one(self) -> None:
        file, size = self._files[self._next]
        self._next += 1
        with self._callback.branched(file.source, file.path) as child:
            child.set_size(size)
            child.relative_update(size)
        self._callback.relative_update(1)
