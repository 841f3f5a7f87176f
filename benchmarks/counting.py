"""Counting requests: of a sealed dataset's store, and of any file system in memory."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Self
from unittest import mock

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from sealedhealth.session.engine import Engine
from sealedhealth.stores import ObjectStore

REQUESTS = ("put", "put_many", "writer", "delete_many", "get", "get_many", "get_ranges", "exists", "list")


class CountedStore:
    """Counts the calls of an engine's store while the block runs."""

    def __init__(self, engine: Engine) -> None:
        self._store: ObjectStore = engine.store
        self.requests = 0

    def _count(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any, **more: Any) -> Any:
            self.requests += 1
            return method(*arguments, **more)

        return call

    def __enter__(self) -> Self:
        self._patch = mock.patch.multiple(self._store, **{name: self._count(name) for name in REQUESTS})
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


class CountedFileSystem(MemoryFileSystem):
    """Behaves like an object store: files are read by ranges, and every request is counted."""

    protocol = "counted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    requests: ClassVar[Counter[str]] = Counter()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("counted:/"))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """A HEAD."""
        self.requests["HEAD"] += 1
        return super().info(path, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """A GET."""
        self.requests["GET"] += 1
        path = self._strip_protocol(path)
        if path not in self.store:
            raise FileNotFoundError(path)
        return self.store[path].getvalue()[start:end]

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, block_size, **kwargs)
        return _RangedFile(self, path, mode, block_size or "default", **kwargs)


class _RangedFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)


fsspec.register_implementation("counted", CountedFileSystem, clobber=True)
