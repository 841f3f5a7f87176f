"""Where benchmarks keep their datasets: made for them, gone afterwards, with a development keystore."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sealedhealth import Dataset
from sealedhealth.profiles import create_keystore, load_profile

MEMORY = "/dev/shm"


@contextmanager
def directory(parent: str | None = None) -> Iterator[Path]:
    """A new directory, by default on the disk of the temporary directory; the home of the keystore lies in it."""
    path = Path(tempfile.mkdtemp(prefix="sealedhealth-bench-", dir=parent))
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("SEALEDHEALTH_"):
            del os.environ[name]
    os.environ["SEALEDHEALTH_HOME"] = str(path / "home")
    try:
        create_keystore(load_profile(), development=True)
        yield path
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(path)


def in_memory() -> str | None:
    """The directory of a file system in memory, where there is one."""
    return MEMORY if Path(MEMORY).is_dir() else None


def new_dataset(path: Path) -> Dataset:
    """An empty dataset."""
    return Dataset.create(str(path))


def make_file(path: Path, size: int) -> Path:
    """A file of random bytes (the same 16 MiB again and again)."""
    block = os.urandom(min(size, 16 << 20))
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
    return path
