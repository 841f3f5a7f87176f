r"""Logical paths: the names that files have inside a dataset, and their one canonical form.

A canonical path

* is relative, with ``/`` between its parts;
* has no empty part, no ``.`` and no ``..``;
* is in Unicode normalisation form NFC;
* has no control character (Unicode category Cc), no line or paragraph separator (U+2028, U+2029), no lone surrogate
  (which has no UTF-8 form) and no backslash;
* takes at most 4096 bytes in UTF-8.

NFC is the only thing that is mended, so that the two spellings of an accented name are the same file. Everything else
is refused: guessing what ``a//b`` or ``a/../b`` was meant to be is how path traversal starts. A backslash is refused
although an object store would take it, because Windows reads it as a separator: ``labs/..\..\x`` must not leave the
folder that a download goes to. Names that only some file systems dislike (``aux``, ``a:b``, a trailing dot) are
allowed; whoever writes to a local file system checks those.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NoReturn

from sealedhealth.errors import InvalidPath, MalformedError

__all__ = ["MAX_PATH_BYTES", "canonical", "check_canonical", "is_under", "lines_are_canonical", "parents"]

MAX_PATH_BYTES = 4096  #: longest canonical path, in bytes of UTF-8

# Canonical composition never makes one UTF-8 byte out of more than two characters. A longer string is refused before it
# is normalised, because sorting a long run of combining characters takes quadratic time.
_MAX_CHARACTERS = 2 * MAX_PATH_BYTES
_SHOWN = 80  # characters of a path in an error

_FORBIDDEN = r"\x00-\x1f\x7f-\x9f\\\u2028\u2029\ud800-\udfff"
# Possessive quantifiers: no backtracking, one pass over the path.
_PART = rf"(?!\.{{1,2}}+(?:/|\Z))[^/{_FORBIDDEN}]++"
_FORM = re.compile(rf"{_PART}(?:/{_PART})*+")
_FORBIDDEN_CHARACTER = re.compile(f"[{_FORBIDDEN}]")

# For many paths at once: line feeds become separators, forbidden ASCII becomes NUL.
_FLAT = bytes(b"/\0"[c != 0x0A] if c < 0x20 or c in {0x5C, 0x7F} else c for c in range(256))
_FORBIDDEN_FLAT = (b"\0", b"//", b"/./", b"/../")
_FORBIDDEN_BEYOND_ASCII = re.compile(r"[\x80-\x9f\u2028\u2029\ud800-\udfff]")


def canonical(path: str, *, new: bool = False) -> str:
    """The canonical form of *path*.

    Pass ``new=True`` for a path that is about to be written: characters that the Unicode tables of this Python do not
    have yet are refused then, because a later version could normalise them differently.

    Raises ``InvalidPath`` when *path* has no canonical form.
    """
    if not _FORM.fullmatch(path) or len(path) > _MAX_CHARACTERS:
        _refuse(path)
    if path.isascii():
        normal = path
        size = len(path)
    else:
        normal = unicodedata.normalize("NFC", path)
        size = len(normal.encode())
    if size > MAX_PATH_BYTES or (new and _unassigned(normal)):
        _refuse(path)
    return normal


def check_canonical(path: str) -> str:
    """*path* itself, when it is canonical: for paths that were read from a log.

    Raises ``MalformedError`` otherwise.
    """
    try:
        if canonical(path) == path:
            return path
    except InvalidPath:
        pass
    raise MalformedError(
        "The log holds a path that is not in canonical form.",
        safe="Nothing was read from it.",
        next="Find out what its author runs: sealedhealth does not write such paths.",
    )


def lines_are_canonical(text: str) -> bool:
    """Whether each line of *text* is canonical, without a call for each path.

    *text* has a line feed between paths, and none after the last one.
    """
    data = text.encode(errors="surrogatepass")
    flat = b"/%b/" % data.translate(_FLAT)
    if any(bad in flat for bad in _FORBIDDEN_FLAT) or max(map(len, data.split(b"\n"))) > MAX_PATH_BYTES:
        return False
    return text.isascii() or (unicodedata.is_normalized("NFC", text) and not _FORBIDDEN_BEYOND_ASCII.search(text))


def is_under(path: str, prefix: str) -> bool:
    """Whether *path* is *prefix* itself or lies in the directory *prefix*; everything is under ``""``."""
    return not prefix or path == prefix or path.startswith(prefix + "/")


def parents(path: str) -> list[str]:
    """The directories that *path* lies in, nearest first, without the root: ``a/b/c`` gives ``["a/b", "a"]``."""
    found = []
    cut = path.rfind("/")
    while cut > 0:
        found.append(path[:cut])
        cut = path.rfind("/", 0, cut)
    return found


def _unassigned(path: str) -> bool:
    return not path.isascii() and any(unicodedata.category(character) == "Cn" for character in path)


def _refuse(path: str) -> NoReturn:
    """Say what is wrong with a path that has no canonical form."""
    parts = path.split("/")
    fix = "Use a relative path with '/' between its parts, such as 'labs/week-12.parquet'."
    if not path:
        problem = "it is empty"
    elif found := _FORBIDDEN_CHARACTER.search(path):
        if found[0] == "\\":
            problem = "it holds a backslash, which Windows takes for a separator"
            fix = "Put '/' between its parts, or rename the file."
        else:
            problem = f"it holds the control or unpaired character U+{ord(found[0]):04X}"
            fix = "Rename the file."
    elif path.startswith("/"):
        problem = "it starts with '/'"
    elif path.endswith("/"):
        problem = "it ends with '/'"
    elif "" in parts:
        problem = "it has an empty part ('//')"
    elif "." in parts or ".." in parts:
        problem = "it has a part '.' or '..'"
    elif len(path) > _MAX_CHARACTERS or len(unicodedata.normalize("NFC", path).encode()) > MAX_PATH_BYTES:
        problem = f"it takes more than {MAX_PATH_BYTES} bytes in UTF-8"
        fix = "Shorten it."
    else:
        problem = f"it holds a character that Unicode {unicodedata.unidata_version} does not have yet"
        fix = "Rename the file, or use a newer Python."
    shown = path if len(path) <= _SHOWN else path[:_SHOWN] + "…"
    raise InvalidPath(f"The path {shown!r} cannot be used: {problem}.", safe="Nothing was read or written.", next=fix)
