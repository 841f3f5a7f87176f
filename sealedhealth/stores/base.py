"""Where sealed bytes lie: a thin layer over fsspec that fits every host.

Nothing here trusts the host.  Lengths are checked, sizes are bounded before anything is
fetched, and whether the bytes are the right ones is for the layers above to check.
"""

from __future__ import annotations

import builtins
import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial, wraps
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from sealedhealth.errors import InvalidPath, MissingError, TamperedError, TruncatedError
from sealedhealth.stores.errors import Scrubber, is_missing, is_range_outside, translate
from sealedhealth.stores.location import Location

__all__ = ["Buffer", "ObjectStore", "StoreWriter", "Unfinished"]

Buffer = bytes | bytearray | memoryview
_T = TypeVar("_T")

#: The methods by which a store's content changes.
CHANGES = frozenset({"put", "put_many", "writer", "delete_many", "delete_unfinished"})
#: Bytes that the general writer keeps in memory before it goes on in a temporary file.
SPOOL_SIZE = 8 << 20

#: Seconds that a request may take with all its retries, and bytes per second at which it may take longer.
PATIENCE, SLOWEST = 300, 16 << 10


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An object that somebody began to write and has neither committed nor discarded.

    Attributes
    ----------
    name:
        Its name, relative to the root; on a local disk that of the temporary file.
    started:
        When it was begun, or last written to where the host tells only that; ``None`` when it tells neither.
        By the host's clock.
    size:
        Bytes that the host keeps of it, or ``None`` when it does not say.
    """

    name: str
    started: datetime | None
    size: int | None


class StoreWriter(ABC):
    """Writes one object in pieces; it appears whole at :meth:`commit`, or not at all.

    As a context manager it discards what was not committed, whatever ended the block.
    """

    @abstractmethod
    def write(self, data: Buffer) -> None:
        """Add ``data``.  Bytes are taken over or copied: the caller may reuse a buffer."""

    @abstractmethod
    def commit(self) -> None:
        """Make the object appear under its name, replacing what was there."""

    @abstractmethod
    def discard(self) -> None:
        """Forget everything written, on the host too.  Nothing happens after a commit."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _guarded(method: Callable[..., _T]) -> Callable[..., _T]:
    """*method*, which changes what lies on the host, and before it whether the profile allows any change there."""

    @wraps(method)
    def guarded(store: ObjectStore, *arguments: Any, **keywords: Any) -> _T:
        store.check_writable()
        return method(store, *arguments, **keywords)

    return guarded


class ObjectStore:
    """One dataset's place on a host.

    Names are relative to the root, with ``/``, such as ``objects/3f/...``.  Instances may
    be used by many threads.  They hold the host's credentials, so they are never pickled
    and show only their URL.

    Every method raises :class:`~sealedhealth.errors.AccessDenied` when the host refuses,
    :class:`~sealedhealth.errors.StoreError` when it is full, and
    :class:`~sealedhealth.errors.ServiceUnavailable` when it cannot be reached.

    Parameters
    ----------
    fs:
        An fsspec file system, without a cache of listings.
    root:
        The path of the dataset on it.
    options:
        What ``fs`` was made with: to keep the secrets in it out of errors.
    """

    #: Bytes worth one request when an object is read from end to end.
    fetch_size = 8 << 20
    #: How often a range that ends too early is asked for again.
    rereads = 0

    def __init__(self, fs: Any, root: str, *, options: Mapping[str, object] | None = None) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self._scrub = Scrubber(options)
        self._kind: str = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        self._url: str = self._scrub(self.root if "://" in self.root else f"{self._kind}://{self.root}")
        self._rule: Callable[[Location], None] | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        # Here, so that no kind of store can be without: each brings its own way to write.
        for name in CHANGES & vars(cls).keys():
            setattr(cls, name, _guarded(vars(cls)[name]))

    def restrict(self, rule: Callable[[Location], None]) -> None:
        """Have *rule* asked before every change, with :attr:`location`: it raises when nothing may be written there."""
        self._rule = rule

    def check_writable(self) -> None:
        """Raise ``ResidencyViolation`` when the profile does not allow writing here. No request is made."""
        if self._rule is not None:
            self._rule(self.location)

    @property
    def url(self) -> str:
        """Where this is, without credentials: the same place always has the same text."""
        return self._url

    @property
    def location(self) -> Location:
        """Where this is, as its client has it: what it really uses, not what it was asked to. No request is made.

        The endpoint is empty when this kind of host has none or does not tell.
        """
        return Location(self._kind)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A store holds the host's credentials and is never pickled: open it again by its profile.")

    # --- writing -----------------------------------------------------------------------

    def put(self, name: str, data: Buffer) -> None:
        """Write one object, replacing what was there."""
        self.put_many({name: data})

    @_guarded
    def put_many(self, objects: Mapping[str, Buffer]) -> None:
        """Write many objects at once, concurrently; no order is promised."""
        if not objects:
            return
        values = {self._path(name): bytes(data) for name, data in objects.items()}
        self._do(self._what("write", objects), lambda: self.fs.pipe(values), writing=True)

    @_guarded
    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        """Write one object in pieces with bounded memory.

        Parameters
        ----------
        name:
            Its name.
        size_hint:
            Roughly how many bytes will come, when known: a host that takes an object in
            a limited number of parts then gets parts that are large enough.
        """
        del size_hint
        return _SpooledWriter(self, name)

    @_guarded
    def delete_many(self, names: Iterable[str]) -> None:
        """Delete objects; those that are absent already are none's business."""
        for name in names:
            path = self._path(name)
            try:
                self._do(f"delete {name} of {self.url}", partial(self.fs.rm_file, path))
            except MissingError:
                continue

    def flush(self) -> None:
        """Return when everything written before survives a power cut.

        Object stores promise that with each answer, so only the local disk has work here.
        """

    def unfinished(self) -> Iterator[Unfinished]:
        """What is being written, or what writers that died left behind: no listing shows it, but it may cost money.

        Nothing on a host whose writers leave nothing: there an object is sent when it is whole.
        """
        return iter(())

    @_guarded
    def delete_unfinished(self, older_than: timedelta) -> int:
        """Delete what writers that died left behind, and say how many there were.

        Parameters
        ----------
        older_than:
            Younger ones may belong to a writer that is still alive and stay.
        """
        del older_than
        return 0

    # --- reading -----------------------------------------------------------------------

    def get(self, name: str, *, limit: int) -> bytes:
        """Read one object whole, in one request.

        Parameters
        ----------
        name:
            Its name.
        limit:
            The largest size in bytes that it may have; never more than ``limit`` + 1 bytes are
            asked for.

        Raises
        ------
        MissingError
            It is absent.
        TamperedError
            It is larger than ``limit``.
        """
        return self.get_many([name], limit=limit)[name]

    def get_many(self, names: Sequence[str], *, limit: int, missing_ok: bool = False) -> dict[str, bytes]:
        """Read many objects whole, one request each, all at once.

        Like :meth:`get`; with ``missing_ok`` absent ones are left out instead of raising.
        """
        if not names:
            return {}
        asked = [(name, 0, limit + 1) for name in names]
        answers = self._do(self._what("read", names), lambda: self._fetch(asked))
        found: dict[str, bytes] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, Exception):
                if is_range_outside(answer):  # how some hosts say that an object is empty
                    found[name] = b""
                elif not (missing_ok and is_missing(answer)):
                    self._raise(answer, f"read {name} of {self.url}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[name] = self._bounded(name, answer, limit)
        return found

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> builtins.list[bytes]:
        """Read byte ranges of objects, one request each, all at once.

        Parameters
        ----------
        ranges:
            ``(name, start, stop)``, in bytes from the start of the object, ``stop`` excluded.

        Raises
        ------
        MissingError
            An object is absent.
        TruncatedError
            An answer is shorter or longer than was asked for.
        """
        asked = [(name, lo, hi) for name, lo, hi in ranges if self._asks(lo, hi)]
        answers: Iterator[Any] = iter(())
        if asked:
            doing = self._what("read", [name for name, _, _ in ranges])
            answers = iter(self._do(doing, lambda: self._reread(asked, [*self._fetch(asked)])))
        out = []
        for name, lo, hi in ranges:
            data = next(answers) if hi > lo else b""
            if isinstance(data, Exception):
                if is_range_outside(data):
                    data = b""
                else:
                    self._raise(data, f"read {name} of {self.url}")
            elif isinstance(data, BaseException):
                raise data
            out.append(self._whole(name, lo, hi, data))
        return out

    def exists(self, name: str) -> bool:
        """Whether the host has this object; errors are raised, never taken for a no."""
        # One ranged read costs one request on every host; fsspec's own exists() costs up to
        # three on S3 and turns a refusal into False.
        answers = self._do(f"look for {name} of {self.url}", lambda: self._fetch([(name, 0, 1)]))
        if isinstance(answers[0], Exception) and not is_range_outside(answers[0]):
            if is_missing(answers[0]):
                return False
            self._raise(answers[0], f"look for {name} of {self.url}")
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes of all objects in the directory ``prefix``, at any depth.

        The whole dataset for an empty prefix.  Unfinished writes are not listed.
        """
        path = self._path(prefix.strip("/")) if prefix.strip("/") else self.root
        try:
            found = self._do(f"list {prefix or 'everything'} of {self.url}", lambda: self.fs.find(path, detail=True))
        except MissingError:
            return
        top = len(self._bare(self.root)) + 1
        for key, info in found.items():
            name = self._bare(key)[top:]
            if name and not name.endswith("/"):  # some consoles mark directories by an empty object
                yield name, int(info["size"])

    # --- for the subclasses ------------------------------------------------------------

    def _reread(self, ranges: Sequence[tuple[str, int, int]], answers: builtins.list[Any]) -> builtins.list[Any]:
        """*answers*, after what ends too early was asked for again: the end can have been lost on its way."""
        for _ in range(self.rereads):
            short = [
                index
                for index, (_, lo, hi) in enumerate(ranges)
                if isinstance(answers[index], bytes) and len(answers[index]) < hi - lo
            ]
            if not short:
                break
            for index, answer in zip(short, self._fetch([ranges[index] for index in short]), strict=True):
                answers[index] = answer
        return answers

    def _fetch(self, ranges: Sequence[tuple[str, int, int]]) -> Sequence[Any]:
        """The bytes of each range, as far as the object goes, or what the client raised for it; all at once."""
        # Keywords only: the second positional argument of s3fs is a version id.
        answers: Sequence[Any] = self.fs.cat_ranges(
            [self._path(name) for name, _, _ in ranges],
            starts=[lo for _, lo, _ in ranges],
            ends=[hi for _, _, hi in ranges],
            on_error="return",
        )
        return answers

    def _path(self, name: str) -> str:
        if not name or name[0] == "/" or ".." in name.split("/"):
            raise InvalidPath(f"{name!r} is not the name of an object.")
        return f"{self.root}/{name}"

    @staticmethod
    def _bare(path: str) -> str:
        return path.lstrip("/")

    @staticmethod
    def _asks(lo: int, hi: int) -> bool:
        if lo < 0 or hi < lo:
            raise ValueError(f"There is no range from {lo} to {hi}.")
        return hi > lo

    def _what(self, verb: str, names: Iterable[str]) -> str:
        names = list(names)
        rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{verb} {names[0]}{rest} of {self.url}"

    def _bounded(self, name: str, data: bytes, limit: int) -> bytes:
        if len(data) > limit:
            raise TamperedError(
                f"{name} of {self.url} is larger than it may be ({limit} bytes).",
                safe="It was not used.",
                next="Look for another copy of the dataset, or ask the host.",
            )
        return data

    def _whole(self, name: str, lo: int, hi: int, data: bytes) -> bytes:
        if len(data) != hi - lo:
            raise TruncatedError(
                f"{name} of {self.url} gave {len(data)} bytes instead of {hi - lo} from byte {lo} on.",
                safe="They were not used.",
                next="Look for another copy of the dataset, or ask the host.",
            )
        return data

    def _do(self, doing: str, action: Callable[[], _T], *, writing: bool = False) -> _T:
        """Run ``action``; what the client raises leaves as an error of this package."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - sorted out by translate(), which returns programs' mistakes as they are
            raised, cause = self._translate(error, doing, writing=writing)
        # Outside the handler: the original, which may carry a request, is not the new error's context.
        raise raised from cause

    def _raise(self, error: Exception, doing: str, *, writing: bool = False) -> NoReturn:
        raised, cause = self._translate(error, doing, writing=writing)
        raise raised from cause

    def _translate(self, error: Exception, doing: str, *, writing: bool = False) -> tuple[Exception, Exception | None]:
        endpoint, hint = self._tried()
        return translate(error, doing=doing, scrub=self._scrub, writing=writing, endpoint=endpoint, hint=hint)

    def _tried(self) -> tuple[str, str]:
        """For errors: the endpoint that requests go to, if that can be told, and what may be wrong with it."""
        return "", ""


class _SpooledWriter(StoreWriter):
    """For any fsspec file system: keeps the pieces here and uploads them at the commit.

    File systems differ in what their own writers do when abandoned; some make a truncated
    object appear.  What is kept on the local disk meanwhile is ciphertext.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._path = store._path(name)
        self._doing = f"write {name} of {store.url}"
        self._memory: io.BytesIO | None = io.BytesIO()
        self._disk: tempfile._TemporaryFileWrapper[bytes] | None = None

    def write(self, data: Buffer) -> None:
        self._store._do(self._doing, partial(self._write, data), writing=True)

    def _write(self, data: Buffer) -> None:
        if self._memory is not None:
            if self._memory.tell() + len(data) <= SPOOL_SIZE:
                self._memory.write(data)
                return
            self._disk = tempfile.NamedTemporaryFile(prefix="sealedhealth-")  # noqa: SIM115 - closed by discard
            self._disk.write(self._memory.getbuffer())
            self._memory = None
        if self._disk is None:
            raise ValueError("This writer is closed.")
        self._disk.write(data)

    def commit(self) -> None:
        self._store._do(self._doing, self._upload, writing=True)
        self.discard()

    def _upload(self) -> None:
        if self._memory is not None:
            self._store.fs.pipe_file(self._path, self._memory.getvalue())
        elif self._disk is not None:
            self._disk.flush()
            self._store.fs.put_file(self._disk.name, self._path)
        else:
            raise ValueError("This writer is closed.")

    def discard(self) -> None:
        self._memory = None
        if self._disk is not None:
            self._disk.close()
            self._disk = None
