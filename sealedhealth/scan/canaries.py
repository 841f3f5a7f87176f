"""Canaries: texts that must not be found, every way of writing them that is looked for, and the search itself.

A false alarm in ciphertext has to be impossible in practice, so every form that is
looked for has eight bytes or more: ciphertext is random, and a mebibyte of it holds eight
given bytes with a probability of 2**-44.  Identifiers in names and in the log are
hexadecimal digits, of which a canary could be made up: such a one needs twelve.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sealedhealth.errors import InvalidInput

__all__ = ["Canary", "Hit", "Needles", "read_canaries"]

MIN_LENGTH = 8  #: characters, and so bytes of the shortest form
MIN_HEX_LENGTH = 12  #: characters of a canary that could be a part of an identifier
MAX_LENGTH = 1024  #: characters
MAX_CANARIES = 1000
_FILE_LIMIT = 4 << 20
_HEX = re.compile(r"[0-9a-fA-F]+")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_BLOCK = 4096  #: bytes that are searched together, once canaries can be in them


@dataclass(frozen=True, slots=True)
class Canary:
    """A text that must not be found.

    Raises :class:`~sealedhealth.errors.InvalidInput` for one that is too short to be told from chance, or too long.
    """

    text: str = field(repr=False)
    label: str  #: what it is called in reports, which do not repeat it

    def __post_init__(self) -> None:
        length = len(unicodedata.normalize("NFC", self.text))
        if length > MAX_LENGTH:
            raise _unfit(self.label, f"has {length} characters; {MAX_LENGTH} are the most.", "Use a part of it.")
        if length < MIN_LENGTH:
            raise _unfit(
                self.label,
                f"has {length} characters; fewer than {MIN_LENGTH} could be found by chance.",
                "Use a longer text, such as a name together with a date.",
            )
        if length < MIN_HEX_LENGTH and _HEX.fullmatch(self.text):
            raise _unfit(
                self.label,
                f"is {length} hexadecimal digits; fewer than {MIN_HEX_LENGTH} could be a part of an identifier.",
                "Use more of what stands around it, such as the separator and the next field.",
            )

    @property
    def digest(self) -> str:
        """Four hexadecimal digits of its SHA-256: enough to recognise it, too little to guess it by."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:4]


def _unfit(label: str, what: str, following: str) -> InvalidInput:
    return InvalidInput(f"The canary at {label} {what}", safe="Nothing was looked at.", next=following)


def read_canaries(files: Iterable[str | Path]) -> list[Canary]:
    """The canaries in text files: UTF-8, one a line; blank lines and repeated ones do not count.

    Raises
    ------
    InvalidInput
        A file is no text, or a canary cannot be used.
    OSError
        A file cannot be read.
    """
    found: dict[str, Canary] = {}
    for file in map(Path, files):
        with file.open("rb") as opened:
            data = opened.read(_FILE_LIMIT + 1)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"The canary file {file} is not UTF-8 text (byte {error.start}).",
                safe="Nothing was looked at.",
                next="Save it as UTF-8, one canary a line.",
            ) from None
        if len(data) > _FILE_LIMIT:
            raise InvalidInput(f"The canary file {file} is larger than {_FILE_LIMIT >> 20} MiB.")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                found.setdefault(line.strip(), Canary(line.strip(), f"{file.name}, line {number}"))
    if len(found) > MAX_CANARIES:
        raise InvalidInput(
            f"There are {len(found)} canaries; {MAX_CANARIES} are the most.", next="Take a sample: a few find a leak."
        )
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Hit:
    """A canary that was found."""

    start: int  #: bytes from the start of what was searched
    end: int
    canary: Canary
    form: str  #: how it was written, such as "UTF-16-LE, base64"


class Needles:
    """All forms of all canaries, and a search for them that costs the same for one as for hundreds.

    Two sieves, since a regular expression of thousands of alternatives is slow.  Ciphertext has no long runs of the few
    bytes that canaries are written with.  In what has, every form contains a whole word of 4 or 8 bytes at an address
    that is a multiple of that: these are looked up, and where one is known the form is compared.
    """

    def __init__(self, canaries: Sequence[Canary]) -> None:
        forms: dict[bytes, dict[str, Hit]] = {}
        for canary in canaries:
            for name, form in _forms(canary.text):  # some forms have two names: the first one counts
                forms.setdefault(form, {}).setdefault(canary.text, Hit(0, len(form), canary, name))
        self.longest = max(map(len, forms), default=0)  #: bytes of the longest form
        self._shortest = min(map(len, forms), default=MIN_LENGTH)
        used = frozenset(byte for form in forms for byte in form)
        self._classes = bytes(byte in used for byte in range(256))
        self._run = b"\1" * self._shortest
        # A form at any address holds a whole word when it has twice a word's bytes but one.
        self._size = 8 if self._shortest >= 15 else 4
        self._words: dict[int, list[tuple[int, bytes, tuple[Hit, ...]]]] = {}
        for form, hits in forms.items():
            for before in range(self._size):  # bytes of the form before its first whole word
                word = int.from_bytes(form[before : before + self._size], sys.byteorder)
                self._words.setdefault(word, []).append((before, form, tuple(hits.values())))

    def __bool__(self) -> bool:
        return bool(self._words)

    def __call__(self, data: bytes, new_from: int = 0) -> Iterator[Hit]:
        """Every form that occurs in *data* and ends behind byte *new_from*."""
        if not self._words or len(data) < self._shortest:
            return
        classes = data.translate(self._classes)
        start = classes.find(self._run)
        while start >= 0:
            stop = classes.find(b"\0", start + max(_BLOCK, self._shortest))
            stop = len(data) if stop < 0 else stop
            yield from self._in_block(data, start, stop, new_from)
            start = classes.find(self._run, stop)

    def _in_block(self, data: bytes, start: int, stop: int, new_from: int) -> Iterator[Hit]:
        size = self._size
        first = -(-start // size) * size
        view = memoryview(data)[first : first + (stop - first) // size * size]
        words = view.cast("Q") if size == 8 else view.cast("I")
        if self._words.keys().isdisjoint(words):
            return
        for index in [index for index, word in enumerate(words) if word in self._words]:
            for before, form, hits in self._words[words[index]]:
                at = first + index * size - before
                if at >= start and at + len(form) > new_from and data.startswith(form, at):
                    for hit in hits:
                        yield Hit(at, at + len(form), hit.canary, hit.form)


def _forms(text: str) -> Iterator[tuple[str, bytes]]:
    """How *text* may be written: name of the form, bytes."""
    # Accented letters have two spellings, and file systems change one into the other.
    for spelling in dict.fromkeys((text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")))):
        if len(spelling) < MIN_LENGTH:
            continue
        for encoding in ("UTF-8", "UTF-16-LE", "UTF-16-BE", "Latin-1"):
            try:
                raw = spelling.encode(encoding)
            except UnicodeEncodeError:
                continue
            yield encoding, raw
            yield f"{encoding}, hexadecimal", raw.hex().encode()
            yield f"{encoding}, hexadecimal", raw.hex().upper().encode()
            for shift in range(3):
                coded = _base64(raw, shift)
                yield f"{encoding}, base64", coded
                yield f"{encoding}, base64 for URLs", coded.translate(_URL_SAFE)
        yield "JSON", json.dumps(spelling)[1:-1].encode()
        for safe in ("", "/"):
            percent = quote(spelling, safe=safe)
            yield "percent-encoded", percent.encode()
            yield "percent-encoded", re.sub("%..", lambda code: code[0].lower(), percent).encode()
            yield "percent-encoded", percent.replace("%20", "+").encode()


def _base64(raw: bytes, shift: int) -> bytes:
    """Those characters of a longer base64 text that *raw* alone decides, when it begins *shift* bytes into a triple."""
    coded = base64.b64encode(bytes(shift) + raw + bytes(2))
    first = -(-8 * shift // 6)
    last = 8 * (shift + len(raw)) // 6
    return coded[first:last]
