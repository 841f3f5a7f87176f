"""Reading contents: files, ranges, copies to local files."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Self

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.utils import isfilelike

from sealedhealth.errors import IntegrityError, InvalidInput, NotFound
from sealedhealth.fs.files import CompressedFile, SealedReader
from sealedhealth.fs.listing import CatalogueFileSystem
from sealedhealth.fs.transfers import Download, download_all, download_one, local_file

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import Session

__all__ = ["ReadingFileSystem"]

_STREAM_FROM = 8 << 20  # whole files from this size are streamed: opening them in order is faster than by ranges


class ReadingFileSystem(CatalogueFileSystem):
    """What comes out of a dataset: everything was checked before it is returned."""

    session: Session
    #: When set, get_file and put_file note down what they are asked for instead of doing it.
    _queue: list[Any] | None = None

    def _clone(self, **changed: Any) -> Self:
        """A file system that shares everything with this one but the attributes in *changed*."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, **changed)
        return other

    # --- files -------------------------------------------------------------------------

    def _content(self, path: Any) -> Entry:
        """The file at *path*, to be read: whatever is staged of it is on the store. Raises ``NotFound``."""
        return self._entry(path)

    def open(
        self,
        path: Any,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file; see fsspec. Modes r, w and x.

        Raises
        ------
        NotFound
            No such file to read.
        AlreadyExists
            Mode x, and there is one.
        InvalidInput
            Another mode: sealed objects are immutable, so nothing can be appended or updated in place.
        """
        plain = {"block_size": block_size, "cache_options": cache_options, **kwargs}
        if "b" not in mode:
            return super().open(path, mode, compression=compression, **plain)
        raw = super().open(path, mode, **plain)
        codec = get_compression(self._strip_protocol(path), compression)
        return raw if codec is None else CompressedFile(compr[codec](raw, mode=mode[0]), raw)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        cache_type: str = "sealed",
        **_: Any,
    ) -> Any:
        if mode != "rb":
            raise InvalidInput(
                f"Mode {mode!r} is not possible: sealed objects are immutable.",
                next="Read the file and write it anew ('wb'), or write another beside it.",
            )
        entry = self._content(path)
        return SealedReader(
            self,
            path,
            self.session.reader(entry),
            self._file_info(self._logical(path), entry),
            block_size=block_size,
            cache_type=cache_type,
            cache_options=cache_options,
        )

    # --- contents ----------------------------------------------------------------------

    def cat_file(self, path: Any, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The content of a file, or of a range of it; negative bounds count from the end."""
        entry = self._content(path)
        first, last = _bounds(start, end, entry.size)
        if last - first == entry.size >= _STREAM_FROM:
            sink = io.BytesIO()
            self.session.download(entry, sink)
            return sink.getvalue()
        return self.session.read_ranges([(entry, first, last)])[0]

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any) -> Any:
        """The content of one file, or a mapping of names to contents, all fetched in one call.

        ``on_error`` may be "omit" or "return" for files that cannot be read; an ``IntegrityError`` is raised
        whatever it says.
        """
        names = self.expand_path(path, recursive=recursive)
        if len(names) == 1 and not isinstance(path, list) and names[0] == self._strip_protocol(path):
            return self.cat_file(names[0], **kwargs)
        if recursive:
            names = [name for name in names if not self.isdir(name)]
        answers = self.cat_ranges(names, kwargs.get("start"), kwargs.get("end"), on_error=on_error)
        return {
            name: answer
            for name, answer in zip(names, answers, strict=True)
            if not (on_error == "omit" and isinstance(answer, Exception))
        }

    def cat_ranges(
        self,
        paths: list[Any],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of files, in one concurrent call to the store.

        With ``on_error="return"`` errors stand in the answer where bytes would, except an ``IntegrityError``,
        which is always raised.
        """
        del max_gap  # neighbours share segments; the range reader merges them
        if not isinstance(paths, list):
            raise TypeError("paths has to be a list")
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(starts) == len(ends) == len(paths):
            raise InvalidInput("paths, starts and ends have to be of one length.")
        answers: list[Any] = [None] * len(paths)
        wanted: list[tuple[int, tuple[Entry, int, int]]] = []
        for index, (path, start, end) in enumerate(zip(paths, starts, ends, strict=True)):
            try:
                entry = self._content(path)
            except (NotFound, InvalidInput) as error:
                if on_error == "raise":
                    raise
                answers[index] = error
            else:
                wanted.append((index, (entry, *_bounds(start, end, entry.size))))
        try:
            contents: list[Any] = list(self.session.read_ranges([one for _, one in wanted]))
        except IntegrityError:
            raise
        except Exception as error:
            if on_error == "raise":
                raise
            contents = [error] * len(wanted)
        for (index, _one), content in zip(wanted, contents, strict=True):
            answers[index] = content
        return answers

    def head(self, path: Any, size: int = 1024) -> bytes:
        """The first *size* bytes of a file."""
        return self.cat_file(path, start=0, end=size)

    def tail(self, path: Any, size: int = 1024) -> bytes:
        """The last *size* bytes of a file."""
        return self.cat_file(path, start=-size) if size else b""

    # --- to local files ----------------------------------------------------------------

    def get_file(
        self,
        rpath: Any,
        lpath: Any = None,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_: Any,
    ) -> None:
        """Copy one file to a local one, which appears whole or not at all; or into an open binary file."""
        sink = outfile if outfile is not None else lpath if isfilelike(lpath) else None
        if sink is None and self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)  # noqa: PTH103 - strings throughout
            return
        entry = self._content(rpath)
        if sink is not None:
            download_one(self.session, entry, sink, callback)
        elif self._queue is not None:
            self._queue.append(Download(self._strip_protocol(rpath), entry, os.fspath(lpath)))
        else:
            with local_file(os.fspath(lpath)) as file:
                download_one(self.session, entry, file, callback)

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files to local ones; see fsspec. Small files are fetched many at a time."""
        queue: list[Download] = []
        collector = self._clone(_queue=queue)
        super(ReadingFileSystem, collector).get(rpath, lpath, recursive=recursive, maxdepth=maxdepth, **kwargs)
        download_all(self.session, queue, callback)


def _bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """A range within a file of ``size`` bytes, as slices take it."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)
