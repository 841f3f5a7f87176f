"""Changing a dataset: every call is one commit, or joins the open transaction."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput
from sealedhealth.fs.files import SealedWriter
from sealedhealth.fs.reading import ReadingFileSystem
from sealedhealth.fs.transaction import SealedTransaction
from sealedhealth.fs.transfers import Upload, upload_all
from sealedhealth.log.paths import is_under

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import Transaction, View

__all__ = ["ManyCommitsWarning", "WritingFileSystem"]

_MANY = 20
_MANY_WITHIN = 60.0  # seconds


class ManyCommitsWarning(UserWarning):
    """Many commits of one file each in a short time: they belong in a transaction."""


class WritingFileSystem(ReadingFileSystem):
    """What goes into a dataset."""

    transaction_type = SealedTransaction
    #: The open transaction that changes join.
    _active: SealedTransaction | None = None
    #: The same, or one that has not begun, as fsspec keeps it.
    _transaction: SealedTransaction | None

    def _view(self) -> View:
        return self._active.staged.outline if self._active is not None else self.session.snapshot

    def _content(self, path: Any) -> Entry:
        if self._active is not None:
            self._active.staged.settle()
        return super()._content(path)

    # --- transactions ------------------------------------------------------------------

    def new_transaction(self, message: str = "") -> SealedTransaction:
        """A transaction with a message for the history: the same object as :attr:`transaction` from now on.

        Raises ``InvalidInput`` while one is open.
        """
        self._check_free()
        transaction = SealedTransaction(self, message)
        self._transaction = transaction
        return transaction

    def start_transaction(self) -> SealedTransaction:
        """Begin a transaction; every change joins it until :meth:`end_transaction`."""
        transaction = self.new_transaction()
        transaction.start()
        return transaction

    def end_transaction(self) -> None:
        """Commit the transaction that is open."""
        self.transaction.complete()

    def _joining(self, transaction: SealedTransaction) -> Self:
        """A file system like this one, bound to a transaction for good."""
        return self._clone(_active=transaction, _transaction=transaction)

    def _join(self, transaction: SealedTransaction | None) -> None:
        """Let changes join *transaction* from now on, or none."""
        self._active = transaction
        self._transaction = transaction

    def _check_free(self) -> None:
        if self._active is not None:
            raise InvalidInput(
                "This file system has an open transaction, and transactions do not nest.",
                safe="The open one goes on.",
                next="Use the open one, or a second Dataset for changes that do not belong to it.",
            )

    @contextmanager
    def _change(self, *, single: bool = False) -> Iterator[tuple[Self, Transaction]]:
        """A file system in which one change is made: in the open transaction, else in one of its own."""
        if self._active is not None:
            yield self, self._active.staged
            return
        own = SealedTransaction(self)
        own.start(attach=False)
        try:
            yield own.fs, own.staged
        except BaseException:
            own.discard()
            raise
        own.complete()
        if single:
            self._count_commit()

    def _count_commit(self) -> None:
        if _commits.count(self.fsid) == _MANY:
            warnings.warn(
                f"{_MANY} commits of one file each within a minute. Each costs requests to the key service and a"
                " link in the log: put what belongs together into one transaction, `with fs.transaction:`.",
                ManyCommitsWarning,
                stacklevel=5,
            )

    # --- writing files -----------------------------------------------------------------

    def _open(self, path: str, mode: str = "rb", *args: Any, autocommit: bool = True, **kwargs: Any) -> Any:
        if mode not in {"wb", "xb"}:
            return super()._open(path, mode, *args, **kwargs)
        logical = self._target(path)
        if self._active is not None:
            return SealedWriter(path, mode, self._active.staged.writer(logical, exclusive=mode == "xb"))
        own = SealedTransaction(self)
        own.start(attach=False)
        try:
            writer = own.staged.writer(logical, exclusive=mode == "xb")
        except BaseException:
            own.discard()
            raise
        return SealedWriter(path, mode, writer, own=own, autocommit=autocommit, committed=self._count_commit)

    def _target(self, path: Any) -> str:
        """The logical path of a file to write."""
        logical = self._logical(path, new=True)
        if not logical:
            raise InvalidInput(f"{path!r} is a directory.", safe="Nothing was written.", next="Name a file in it.")
        self._made.discard(logical)
        return logical

    def pipe_file(self, path: Any, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Write one file. With mode "create" raises ``AlreadyExists`` when there is one."""
        logical = self._target(path)
        with self._change(single=True) as (_fs, staged):
            staged.put_bytes(logical, value, exclusive=mode == "create")

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Write one file, or a mapping of names to contents in one commit."""
        if isinstance(path, str):
            self.pipe_file(path, value, **kwargs)
        elif isinstance(path, Mapping):
            items = {self._target(name): content for name, content in path.items()}
            if len(items) != len(path):
                raise InvalidInput("Two of these names are one path.", safe="Nothing was written.")
            with self._change() as (inner, staged):
                if kwargs.get("mode") == "create":
                    for name in path:
                        inner._refuse_existing(name)  # noqa: SLF001 - the same class
                staged.put_many(items)
        else:
            raise InvalidInput("pipe() takes a name and a value, or a mapping.")

    def _refuse_existing(self, path: Any) -> None:
        if self.exists(path):
            raise AlreadyExists(f"{path!r} exists already.", safe="It is unchanged.", next="Choose another name.")

    def put_file(
        self, lpath: Any, rpath: Any, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Seal one local file. With mode "create" raises ``AlreadyExists`` when there is one."""
        source = os.fspath(lpath)
        if os.path.isdir(source):  # noqa: PTH112 - strings throughout
            self.makedirs(rpath, exist_ok=True)
            return
        logical = self._target(rpath)
        if self._queue is not None:
            if mode == "create":
                self._refuse_existing(rpath)
            self._queue.append(Upload(source, logical))
            return
        size = os.stat(source).st_size  # noqa: PTH116 - as above
        with self._change(single=True) as (inner, staged):
            if mode == "create":
                inner._refuse_existing(rpath)  # noqa: SLF001 - the same class
            callback.set_size(size)
            staged.put_files([(source, logical)], progress=callback.relative_update)

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Seal local files, in one commit; see fsspec."""
        with self._change() as (inner, staged):
            queue: list[Upload] = []
            collector = inner._clone(_queue=queue)  # noqa: SLF001 - the same class
            super(WritingFileSystem, collector).put(lpath, rpath, recursive=recursive, maxdepth=maxdepth, **kwargs)
            upload_all(staged, queue, callback)

    def isdir(self, path: Any) -> bool:
        """Whether there is a directory of this name; raises as :meth:`exists` does."""
        try:
            return super().isdir(path)
        except AccessDenied:
            if self._queue is None:
                raise
            return False  # put() wonders whether to write into it; an identity that only writes cannot know

    def touch(self, path: Any, truncate: bool = True, **_: Any) -> None:
        """Write an empty file; with ``truncate=False`` only where there is none."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    # --- deleting, copying, moving -----------------------------------------------------

    def rm_file(self, path: Any) -> None:
        """Delete one file; its name is no pattern. Raises ``NotFound``."""
        self._entry(path)
        with self._change(single=True) as (_fs, staged):
            staged.delete(self._logical(path))

    def _rm(self, path: Any) -> None:
        self.rm_file(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files, in one commit; directories with *recursive*.

        Raises ``NotFound``, and ``InvalidInput`` for a directory without *recursive*.
        """
        with self._change(single=isinstance(path, str) and not recursive) as (inner, staged):
            files, made = [], []
            for name in inner.expand_path(path, recursive=recursive, maxdepth=maxdepth):
                if inner.isfile(name):
                    files.append(self._logical(name))
                elif not inner.isdir(name):
                    raise self._missing(name)
                elif recursive or not inner.ls(name):
                    made.append(self._logical(name))
                else:
                    raise InvalidInput(
                        f"{name!r} is a directory.", safe="Nothing was deleted.", next="Use recursive=True."
                    )
            for logical in files:
                staged.delete(logical)
        if maxdepth is None:
            self._made.difference_update(made)

    def cp_file(self, path1: Any, path2: Any, **_: Any) -> None:
        """Copy one file; no byte is sealed anew. Raises ``NotFound``."""
        if not self.isfile(path1) and self.isdir(path1):
            self.makedirs(path2, exist_ok=True)
            return
        source = self._logical(path1)
        with self._change(single=True) as (_fs, staged):
            staged.copy(source, self._target(path2))

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files within the dataset, in one commit; see fsspec. No byte is sealed anew."""
        with self._change() as (inner, _staged):
            super(WritingFileSystem, inner).copy(
                path1, path2, recursive=recursive, maxdepth=maxdepth, on_error=on_error, **kwargs
            )

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Move files within the dataset, in one commit; see fsspec.

        Raises ``InvalidInput`` for a directory into itself.
        """
        if isinstance(path1, str) and isinstance(path2, str):
            source, target = self._logical(path1), self._logical(path2)
            if source == target:
                return
            if is_under(target, source) and self.isdir(path1):
                raise InvalidInput(f"{path1!r} cannot be moved into itself.", safe="Nothing was moved.")
        with self._change() as (inner, _staged):
            inner.copy(path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise")
            inner.rm(path1, recursive=recursive, maxdepth=maxdepth)


class _CommitCounter:
    """Counts commits of one file each, by dataset, over the last minute; file systems come and go by the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def count(self, dataset: str) -> int:
        """Note one, and say how many there were; starts anew after the number that warns."""
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault(dataset, deque())
            times.append(now)
            while now - times[0] > _MANY_WITHIN:
                times.popleft()
            count = len(times)
            if count >= _MANY:
                times.clear()
            return count


_commits = _CommitCounter()


def _forget_after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _commits
    _commits = _CommitCounter()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
