"""Files of the file system: readers over one entry, writers that never commit by accident."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from fsspec.spec import AbstractBufferedFile

from sealedhealth.errors import InvalidInput, SealedHealthError
from sealedhealth.fs.cache import DEFAULT_BLOCK_SIZE

if TYPE_CHECKING:
    from sealedhealth.session import EntryReader, EntryWriter

__all__ = ["CompressedFile", "SealedReader", "SealedWriter", "Settlement"]

logger = logging.getLogger("sealedhealth.fs")

_BUFFER = 256 << 10  # writers of CSV and JSON write a few bytes at a time


class SealedReader(AbstractBufferedFile):
    """One file opened for reading.

    It stays with the content that it was opened on, whatever is committed meanwhile.  Every byte was checked
    against the signed log before it is returned.
    """

    DEFAULT_BLOCK_SIZE = DEFAULT_BLOCK_SIZE

    def __init__(
        self,
        fs: Any,
        path: str,
        reader: EntryReader,
        details: dict[str, Any],
        *,
        block_size: int | None = None,
        cache_type: str = "sealed",
        cache_options: dict[str, Any] | None = None,
    ) -> None:
        self._reader = reader
        self._details = details
        super().__init__(
            fs,
            path,
            "rb",
            block_size,
            cache_type=cache_type,
            cache_options=cache_options,
            size=details["size"],
        )

    def _fetch_range(self, start: int, end: int) -> bytes:
        return self._reader.read(start, min(end, self.size))

    def readline(self, size: int | None = -1, /) -> bytes:
        """One line, or *size* bytes of it."""
        # fsspec's own copies a whole block for every line.
        line: bytes = self.readuntil(b"\n", 8192)
        if size is not None and 0 <= size < len(line):
            self.seek(size - len(line), 1)
            line = line[:size]
        return line


class Settlement(Protocol):
    """What a writer does with the transaction that it opened for itself."""

    def commit(self) -> object:
        """Make the file visible."""

    def discard(self) -> None:
        """Forget it."""


class SealedWriter(io.RawIOBase):
    """One file opened for writing.

    Nothing is visible before ``close()``.  ``close()`` discards when an exception has come up since the file was
    opened: pandas, gzip, text wrappers and ParquetWriter call nothing else, whatever went wrong.  A file that is
    abandoned without being closed is discarded.

    Parameters
    ----------
    path:
        For messages.
    writer:
        Takes the content; closing it stages the file in its transaction.
    own:
        The transaction, when it is this file's alone; it is committed when the file is closed.
    autocommit:
        False leaves that commit to :meth:`commit`.
    committed:
        Called after that commit.
    """

    def __init__(
        self,
        path: str,
        mode: str,
        writer: EntryWriter,
        *,
        own: Settlement | None = None,
        autocommit: bool = True,
        committed: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.mode = mode
        self.autocommit = autocommit
        self._writer = writer
        self._own = own
        self._committed = committed
        self._buffer = bytearray()
        self._written = 0
        self._failed = False
        self._abandoned = False
        # An exception that was being handled already has nothing to do with this file.
        self._seen = sys.exc_info()[1]

    # --- the stream --------------------------------------------------------------------

    def writable(self) -> bool:
        """Whether it is still open."""
        return not self.closed

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    @property
    def loc(self) -> int:
        """Bytes written so far, as fsspec's own files call it."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Add ``data``, any object with the buffer interface, and return its size in bytes."""
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        view = memoryview(data).cast("B")
        try:
            if len(self._buffer) + len(view) < _BUFFER:
                self._buffer += view
            else:
                self._drain()
                if len(view) < _BUFFER:
                    self._buffer += view
                else:
                    self._writer.write(view)
        except BaseException:
            self._failed = True
            raise
        self._written += len(view)
        return len(view)

    def _drain(self) -> None:
        if self._buffer:
            self._writer.write(bytes(self._buffer))
            self._buffer.clear()

    # --- its end -----------------------------------------------------------------------

    def close(self) -> None:
        """Finish the file: commit it, or stage it in the transaction that it was opened in.

        Discards it instead when an exception came up since it was opened.  Raises what committing raises.
        """
        if self.closed:
            return
        error = sys.exc_info()[1]
        unwinding = error is not None and error is not self._seen
        if self._abandoned or self._failed or unwinding:
            self.discard()
            if self._failed and not (unwinding or self._abandoned):
                raise SealedHealthError(
                    f"An earlier write to {self.path!r} failed.",
                    safe="The file was discarded; nothing was committed.",
                    next="Write it again.",
                )
            if self._abandoned:
                logger.warning("%r was never closed: it was discarded", self.path)
            elif unwinding:
                logger.warning(
                    "%r was closed while %s was being handled: it was discarded", self.path, type(error).__name__
                )
            return
        try:
            if self._writer.closed:
                raise InvalidInput(
                    f"The transaction that {self.path!r} was opened in is over.",
                    safe="The file was discarded.",
                    next="Close files before their transaction ends.",
                )
            self._drain()
            self._writer.close()
            if self.autocommit:
                self._settle()
        except BaseException:
            self.discard()
            raise
        self._finish()

    def commit(self) -> None:
        """Make a file visible that was opened with ``autocommit=False`` and has been closed."""
        self.close()
        self._settle()

    def _settle(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.commit()
            if self._committed is not None:
                self._committed()

    def discard(self) -> None:
        """Forget the file. Harmless after a commit and when repeated."""
        try:
            if not self.closed:
                self._writer.discard()
            own, self._own = self._own, None
            if own is not None:
                own.discard()
        finally:
            self._finish()

    def _finish(self) -> None:
        if not self.closed:
            self._buffer = bytearray()
            self._seen = None
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or kind is not None:
            self.discard()
        else:
            self.close()

    def __del__(self) -> None:
        if hasattr(self, "_seen"):
            self._abandoned = True
            self.close()
            self.discard()  # what waits for commit(), too

    def _dealloc_warn(self, _: object) -> None:
        # Text and buffered wrappers of the standard library call this before close() when they are abandoned.
        self._abandoned = True

    def __reduce__(self) -> NoReturn:
        raise TypeError("A file that is being written cannot be pickled: open it where it is written.")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}>"


class CompressedFile(io.BufferedIOBase):
    """A compressor or decompressor together with the file below it.

    The ones of the standard library leave the file below open when they are closed; a file below that is being
    written would then be discarded.
    """

    def __init__(self, codec: Any, raw: Any) -> None:
        super().__init__()
        self._codec = codec
        self._raw = raw
        self.mode = raw.mode

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return "r" in self.mode

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return "r" not in self.mode

    def seekable(self) -> bool:
        """Whether the codec can go back; never when writing."""
        return self.readable() and bool(self._codec.seekable())

    def read(self, size: int | None = -1, /) -> bytes:
        """Decompressed bytes."""
        data: bytes = self._codec.read(-1 if size is None else size)
        return data

    def read1(self, size: int = -1, /) -> bytes:
        """Decompressed bytes, as many as come at once."""
        data: bytes = self._codec.read1(size) if hasattr(self._codec, "read1") else self._codec.read(size)
        return data

    def write(self, data: Any, /) -> int:
        """Compress *data*."""
        return int(self._codec.write(data))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move within the decompressed content."""
        return int(self._codec.seek(offset, whence))

    def tell(self) -> int:
        """The position in the decompressed content."""
        return int(self._codec.tell())

    def discard(self) -> None:
        """Forget what was written."""
        if self.closed:
            return
        with suppress(Exception):  # let go in good order: some complain when they are collected open
            self._codec.close()
        if self.writable():
            self._raw.discard()
        self._end()

    def close(self) -> None:
        """Finish the codec and then the file below, which discards after an exception."""
        if self.closed:
            return
        try:
            self._codec.close()
        finally:  # when the compressor failed, the exception is in flight, and the file below discards
            self._raw.close()
            self._end()

    def _end(self) -> None:
        if not self.closed:
            self._codec = None
            super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.writable():
            self.discard()
        else:
            self.close()

    def __del__(self) -> None:
        if hasattr(self, "mode"):
            self._dealloc_warn(self)
            self.close()

    def _dealloc_warn(self, source: object) -> None:
        if self.writable():
            self._raw._dealloc_warn(source)  # noqa: SLF001 - a protocol of io

    def __enter__(self) -> Self:
        return self
