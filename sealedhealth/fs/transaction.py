"""Transactions of the file system: every change in one commit, or none."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fsspec.transaction import Transaction as FsspecTransaction

from sealedhealth.errors import InvalidInput

if TYPE_CHECKING:
    from sealedhealth.fs.writing import WritingFileSystem
    from sealedhealth.session import Committed, Transaction

__all__ = ["SealedTransaction"]


class SealedTransaction(FsspecTransaction):
    """What ``fs.transaction`` and ``Dataset.transaction()`` give.

    While it is open, every change through the file system that it was made from joins it, from any thread:
    writes, and also ``rm``, ``mv`` and ``cp``.  Other file systems, made from a URL for example, do not.
    Reading shows the snapshot at the start plus what has been staged.

    ``fs`` is a file system bound to it for good: give that to workers, so that what they write after its end is
    refused instead of becoming commits of their own.
    """

    #: The commit, once there is one; stays ``None`` when nothing was staged.
    result: Committed | None = None

    def __init__(self, fs: WritingFileSystem, message: str = "") -> None:
        super().__init__(fs)
        self.message = message
        self._parent = fs
        self._staged: Transaction | None = None
        self._attached = False

    @property
    def staged(self) -> Transaction:
        """The session's transaction. Raises ``InvalidInput`` before the start and after the end."""
        if self._staged is None or self._staged.closed:
            raise InvalidInput(
                "This transaction is not open.",
                safe="Nothing was changed.",
                next="Write between its start and its end, or begin another.",
            )
        return self._staged

    def start(self, *, attach: bool = True, staged: Transaction | None = None) -> None:
        """Begin, on the snapshot of now, or with a transaction that has begun.

        Raises ``InvalidInput`` when the file system has an open transaction already, or this one was used.
        """
        if attach:
            self._parent._check_free()  # noqa: SLF001 - a part of the file system, here and below
        if self._staged is not None:
            raise InvalidInput("A transaction can be used once.", next="Begin another.")
        self._staged = self._parent.session.begin(self.message) if staged is None else staged
        self.fs = self._parent._joining(self)  # noqa: SLF001
        if attach:
            self._attached = True
            self._parent._join(self)  # noqa: SLF001

    def complete(self, commit: bool = True) -> Committed | None:
        """End it: one commit with everything, or nothing at all. Harmless when repeated.

        Raises
        ------
        ConflictError
            Somebody else changed one of the paths since the start; nothing was committed.
        InvalidInput
            A file is still open for writing; nothing was committed.
        """
        if self._attached:
            self._attached = False
            self._parent._join(None)  # noqa: SLF001
        if self._staged is None or self._staged.closed:
            return self.result
        if not commit:
            self._staged.discard()
            return None
        self.result = self._staged.commit()
        return self.result

    def commit(self) -> Committed | None:
        """End it with a commit; see :meth:`complete`."""
        return self.complete()

    def discard(self) -> None:
        """End it without a commit."""
        self.complete(commit=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.complete(commit=kind is None)

    def __reduce__(self) -> Any:
        raise TypeError("A transaction cannot be pickled: it belongs to the process that began it.")
