"""Small files of the state directory: replaced whole, durably, with nothing left lying about."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["replace_file"]

_TEMPORARY = ".tmp-"
_ABANDONED_S = 3600  #: a temporary file this old belongs to nobody who still lives, in seconds


def replace_file(path: Path, data: bytes) -> None:
    """Write *data* in place of a file: after a crash the old one is there or the new one. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # Without this, a power cut could leave an empty file under the name.
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    _sweep(path.parent)


def _sweep(directory: Path) -> None:
    """Remove what processes that were killed left behind."""
    before = time.time() - _ABANDONED_S
    for path in directory.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
