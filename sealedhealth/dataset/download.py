"""Opening files into local ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fsspec.callbacks import Callback

from sealedhealth.fs.transfers import Download, download_all

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import Session

__all__ = ["download", "up_to_date"]


def download(session: Session, wanted: Sequence[tuple[str, Entry, str]], advance: Callable[[int], None]) -> None:
    """Write each entry to its local path, whole and checked or not at all; *advance* counts bytes."""
    mtimes = {target: entry.mtime_us for _, entry, target in wanted}
    download_all(session, [Download(*item) for item in wanted], _Files(mtimes, advance))


def up_to_date(entry: Entry, target: str) -> bool:
    """Whether the local file has the entry's size and modification time."""
    try:
        status = os.stat(target)  # noqa: PTH116 - strings throughout
    except OSError:
        return False
    return (status.st_size, max(status.st_mtime_ns // 1000, 0)) == (entry.size, entry.mtime_us)


class _Files(Callback):
    """What the transfer reports to: passes bytes on, and gives each finished file its modification time."""

    def __init__(self, mtimes: dict[str, int], advance: Callable[[int], None]) -> None:
        super().__init__()
        self._mtimes = mtimes
        self._advance = advance

    def branched(self, path_1: str, path_2: str, **_: object) -> Callback:  # noqa: ARG002 - fsspec's signature
        return _File(path_2, self._mtimes[path_2], self._advance)


class _File(Callback):
    """One file; left after the file has got its name."""

    def __init__(self, target: str, mtime_us: int, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._target = target
        self._mtime_us = mtime_us
        self._advance = advance

    def relative_update(self, inc: int = 1) -> None:
        self._advance(inc)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Not after an error: the file that was there before keeps its own time. A device or pipe has none to set.
        if kind is None:
            with suppress(OSError):
                os.utime(self._target, ns=(self._mtime_us * 1000, self._mtime_us * 1000))
