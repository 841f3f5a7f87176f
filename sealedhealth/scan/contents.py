"""Looking into what passes by: a search that goes on inside compressed parts, in bounded memory and time.

Bytes are pushed in, in order, in pieces of any size.  Wherever something compressed seems
to begin, in whatever it is embedded, the library for it is given what follows, and what
that makes of it is searched in the same way.  Most such beginnings are chance (ciphertext
has every two bytes once in 64 KiB) and end after a few bytes.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from sealedhealth.scan.canaries import Hit, Needles

__all__ = ["Budget", "Contents", "Found", "zstd_opener"]

MAX_DEPTH = 4  #: levels of compression inside each other
MAX_OPEN = 32  #: compressed parts of one stream that are looked into at the same time
MAX_HITS = 10_000  #: places of one stream where canaries are found, before the search of it ends
PARQUET_MAGIC = b"PAR1"
_INPUT = 1 << 14  #: bytes given to a library at once
_OUTPUT = 1 << 20  #: bytes taken from a library at once
_KEEP = 64 << 20  #: bytes of a Parquet file inside something compressed
_MEMORY = 256 << 20  #: bytes that a library may use for one compressed part
_ZIP_LOCAL = struct.Struct("<4xHHH4xIIIHH")  # what a member of a zip file begins with, after its signature
_ZIP_ENCRYPTED = 1
_ZIP_DEFLATED = 8
_ZIP_FOUND_BY_THEMSELVES = frozenset({0, 12, 93, 95})  # stored, bzip2, zstd, xz: these have signatures of their own


@dataclass(frozen=True, slots=True)
class Found:
    """A canary, and how one gets from the file to it."""

    hit: Hit
    offset: int  #: where in the file it, or the outermost compressed part that it is in, begins
    inside: tuple[str, ...]  #: kinds of compression, outermost first


@dataclass(slots=True)
class Budget:
    """How far compressed parts of one file may expand, all together."""

    left: int  #: bytes
    spent: int = 0
    notes: set[str] = field(default_factory=set)  #: what was not looked into, and why

    def spend(self, count: int) -> bool:
        """Whether *count* bytes more may be looked at."""
        self.left -= count
        self.spent += count
        if self.left < 0:
            self.notes.add("expands more than a hundredfold")
        return self.left >= 0


class _Library(Protocol):
    """What ``bz2``, ``lzma`` and ``compression.zstd`` have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Zlib:
    """``zlib`` in that form."""

    def __init__(self, window: int) -> None:
        self._library = zlib.decompressobj(window)
        self._waiting = b""
        self._full = False

    @property
    def eof(self) -> bool:
        return self._library.eof

    @property
    def needs_input(self) -> bool:
        return not self._waiting and not self._full

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._library.decompress(self._waiting + data, max_length)
        self._waiting = self._library.unconsumed_tail
        self._full = len(out) == max_length  # there may be more that needs no further input
        return out


class _ZipMember:
    """A member of a zip file, from its signature on. The list at the end is not needed, and may be missing."""

    def __init__(self, notes: set[str]) -> None:
        self._head = b""
        self._notes = notes
        self._body: _Zlib | None = None
        self.eof = False

    @property
    def needs_input(self) -> bool:
        return self._body is None or self._body.needs_input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._body is None:
            self._head += data
            size = _ZIP_LOCAL.size
            if len(self._head) < size:
                return b""
            version, flags, method, *_, name, extra = _ZIP_LOCAL.unpack_from(self._head)
            known = version < 100 and method < 100
            if known and (flags & _ZIP_ENCRYPTED or method not in {_ZIP_DEFLATED, *_ZIP_FOUND_BY_THEMSELVES}):
                self._notes.add("zip: encrypted" if flags & _ZIP_ENCRYPTED else f"zip: compression method {method}")
            if not known or flags & _ZIP_ENCRYPTED or method != _ZIP_DEFLATED:
                self.eof = True
                return b""
            if len(self._head) < size + name + extra:
                return b""
            self._body, data = _Zlib(-15), self._head[size + name + extra :]
        out = self._body.decompress(data, max_length)
        self.eof = self._body.eof
        return out


def zstd_opener() -> Callable[[], _Library] | None:
    """The standard library's decompressor for zstd (Python 3.14), or its backport; ``None`` without either."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        options = {module.DecompressionParameter.window_log_max: 27}
        return lambda: module.ZstdDecompressor(options=options)
    return None


_Opener = Callable[[set[str]], _Library]


@cache
def _openers() -> dict[str, tuple[re.Pattern[bytes], _Opener]]:
    """By kind: what it begins with, and what opens it."""
    openers: dict[str, tuple[re.Pattern[bytes], _Opener]] = {
        "gzip": (re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"), lambda _: _Zlib(31)),
        "zlib": (re.compile(rb"\x78[\x01\x5e\x9c\xda]"), lambda _: _Zlib(15)),
        "zip": (re.compile(rb"PK\x03\x04"), _ZipMember),
        "bzip2": (re.compile(rb"BZh[1-9]1AY&SY"), lambda _: bz2.BZ2Decompressor()),
        "xz": (re.compile(rb"\xfd7zXZ\x00"), lambda _: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)),
    }
    zstd = zstd_opener()
    if zstd is not None:
        openers["zstd"] = (re.compile(rb"\x28\xb5\x2f\xfd"), lambda _: zstd())
    return openers


_LONGEST_MAGIC = 10
_FAILURES = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError)


class _Member:
    """One compressed part that is being looked into."""

    def __init__(self, library: _Library, inner: Contents, budget: Budget) -> None:
        self._library = library
        self._inner = inner
        self._budget = budget
        self.done = False

    def feed(self, data: memoryview) -> None:
        for start in range(0, len(data), _INPUT):
            if self.done:
                return
            self._feed(bytes(data[start : start + _INPUT]))

    def _feed(self, data: bytes) -> None:
        try:
            while self._budget.left >= 0:
                out = self._library.decompress(data, _OUTPUT)
                if out and self._budget.spend(len(out)):
                    self._inner.feed(out)
                if self._library.eof or self._inner.enough:
                    self.finish()
                    return
                if self._library.needs_input:
                    return
                data = b""
            self.finish()
        except _FAILURES as error:
            # Chance, or cut short, or damaged: what came out before that has been searched.
            if isinstance(error, lzma.LZMAError) and "emory" in str(error):
                self._budget.notes.add("xz: needs too much memory")
            self.finish()
        except Exception as error:
            if type(error).__name__ != "ZstdError":  # its module may not exist
                raise
            self.finish()

    def finish(self) -> None:
        self.done = True
        self._inner.finish()


class Contents:
    """Searches a stream of bytes for canaries, and whatever is compressed in it.

    Parameters
    ----------
    needles:
        What is looked for.
    found:
        Called for every place where a canary is found.
    budget:
        Bounds what compressed parts may expand to; gathers what could not be looked into.
    parquet:
        Called with the whole content of a compressed part that is a Parquet file.
    """

    def __init__(
        self,
        needles: Needles,
        found: Callable[[Found], None],
        budget: Budget,
        *,
        parquet: Callable[[bytes, Callable[[bytes], None], Budget], None] | None = None,
        inside: tuple[str, ...] = (),
        offset: int = 0,
    ) -> None:
        self._needles = needles
        self._found = found
        self._budget = budget
        self._parquet = parquet
        self._inside = inside
        self._offset = offset
        self._tail = b""
        self._start = 0  #: of the tail, in the stream
        self._overlap = max(needles.longest, _LONGEST_MAGIC) - 1
        self._openers = _openers() if len(inside) < MAX_DEPTH else {}
        self._open: list[_Member] = []
        self._hits = 0
        #: the start of a compressed part, and all of it when that is a Parquet file, which cannot be streamed
        self._kept: bytearray | None = bytearray() if inside and parquet is not None else None
        self.parquet_at: list[int] = []  #: where the signature of Parquet stands in an uncompressed stream

    @property
    def enough(self) -> bool:
        """Whether so much was found that the rest does not matter."""
        return self._hits >= MAX_HITS

    def feed(self, data: bytes) -> None:
        """Search the next piece."""
        if self.enough:
            return
        self._keep(data)
        view = memoryview(data)
        for member in self._open:
            member.feed(view)
        window = self._tail + data
        for hit in self._needles(window, len(self._tail)):
            self._report(hit)
        self._look_into(window)
        self._open = [member for member in self._open if not member.done]
        cut = max(0, len(window) - self._overlap)
        self._tail = window[cut:]
        self._start += cut

    def finish(self) -> None:
        """The stream ends here."""
        for member in self._open:
            member.finish()
        self._open = []
        if self._kept and self._parquet is not None:
            kept, self._kept = bytes(self._kept), None
            inner = self._inner("Parquet", 0)
            self._parquet(kept, inner.feed, self._budget)
            self._hits += inner._hits  # noqa: SLF001 - its own kind

    def _report(self, hit: Hit) -> None:
        self._hits += 1
        at = self._start + hit.start
        self._found(Found(hit, self._offset if self._inside else at, self._inside))

    def _inner(self, kind: str, at: int) -> Contents:
        return Contents(
            self._needles,
            self._found,
            self._budget,
            parquet=self._parquet,
            inside=(*self._inside, kind),
            offset=self._offset if self._inside else at,
        )

    def _look_into(self, window: bytes) -> None:
        for at, kind, opener in self._beginnings(window):
            if self._budget.left < 0:
                return
            self._open = [member for member in self._open if not member.done]
            if len(self._open) >= MAX_OPEN:
                self._budget.notes.add("more compressed parts at once than are looked into")
                return
            member = _Member(opener(self._budget.notes), self._inner(kind, self._start + at), self._budget)
            member.feed(memoryview(window)[at:])
            if not member.done:
                self._open.append(member)

    def _beginnings(self, window: bytes) -> Iterator[tuple[int, str, _Opener]]:
        """What seems to be the start of something compressed, and was not whole in the piece before."""
        for kind, (pattern, opener) in self._openers.items():
            for match in pattern.finditer(window):
                if match.end() > len(self._tail):
                    yield match.start(), kind, opener
        if not self._inside:
            at = window.find(PARQUET_MAGIC)
            while at >= 0:
                if at + len(PARQUET_MAGIC) > len(self._tail):
                    self.parquet_at.append(self._start + at)
                at = window.find(PARQUET_MAGIC, at + 1)

    def _keep(self, data: bytes) -> None:
        if self._kept is None:
            return
        self._kept += data
        if not self._kept.startswith(PARQUET_MAGIC[: len(self._kept)]):
            self._kept = None
        elif len(self._kept) > _KEEP:
            self._kept = None
            self._budget.notes.add(f"compressed Parquet of more than {_KEEP >> 20} MiB")
