"""Reading small JSON documents without believing them.

Signatures are checked before this module sees a byte, so what arrives here was
written by somebody on the roster.  It is bounded and checked all the same: a
stolen producer is on the roster too.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from sealedhealth.errors import MalformedError

__all__ = ["MAX_TIME_US", "Fields", "dump_json", "load_json", "microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TIME_US = 253_402_300_799_000_000  # the end of the year 9999, in microseconds


def microseconds(time: datetime) -> int:
    """Microseconds since 1970, UTC: how the log writes times."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def dump_json(document: object) -> bytes:
    """Compact JSON in UTF-8 with sorted keys."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def load_json(data: bytes, what: str) -> Fields:
    """Parse a JSON object of a size that the caller has bounded.

    Raises
    ------
    MalformedError
        Not UTF-8, not JSON, not an object, duplicate names, NaN, or nested too deeply.
    """
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MalformedError(f"The {what} is not valid JSON.") from None
    return Fields(document, what)


class Fields:
    """The members of one JSON object, taken out one by one; :meth:`finish` refuses what is left."""

    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, dict):
            raise MalformedError(f"The {what} is not a JSON object.")
        self._left: dict[str, Any] = dict(document)
        self._what = what

    def fail(self, name: str) -> NoReturn:
        """Refuse the member called *name*."""
        raise MalformedError(f"The {self._what} has no valid '{name}'.")

    def _take(self, name: str) -> Any:
        try:
            return self._left.pop(name)
        except KeyError:
            self.fail(name)

    def has(self, name: str) -> bool:
        """Whether a member is still there and is not null; a null is taken out."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return False
        return True

    def hex(self, name: str, size: int) -> bytes:
        """*size* bytes in lower-case hexadecimal."""
        return self._hex(name, self._take(name), size)

    def _hex(self, name: str, value: object, size: int) -> bytes:
        if not isinstance(value, str) or len(value) != 2 * size or value != value.lower():
            self.fail(name)
        try:
            found = bytes.fromhex(value)
        except ValueError:
            self.fail(name)
        if len(found) != size:  # spaces are skipped
            self.fail(name)
        return found

    def hexes(self, name: str, size: int, *, limit: int) -> list[bytes]:
        """A list of at most *limit* hexadecimal strings of *size* bytes each."""
        return [self._hex(name, value, size) for value in self.items(name, limit=limit)]

    def integer(self, name: str, *, most: int, least: int = 0, absent: int | None = None) -> int:
        """An integer from *least* to *most*; when the member is not there, *absent*, if that is given."""
        if absent is not None and name not in self._left:
            return absent
        value = self._take(name)
        if type(value) is not int or not least <= value <= most:
            self.fail(name)
        return value

    def time(self, name: str) -> int:
        """Microseconds since 1970, UTC."""
        return self.integer(name, most=MAX_TIME_US)

    def boolean(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if type(value) is not bool:
            self.fail(name)
        return value

    def text(self, name: str, *, limit: int) -> str:
        """A string of at most *limit* characters that can be encoded as UTF-8."""
        value = self._take(name)
        if not isinstance(value, str) or len(value) > limit or not _encodable(value):
            self.fail(name)
        return value

    def items(self, name: str, *, limit: int) -> list[Any]:
        """A list of at most *limit* items."""
        value = self._take(name)
        if not isinstance(value, list) or len(value) > limit:
            self.fail(name)
        return value

    def objects(self, name: str, *, limit: int) -> list[Fields]:
        """A list of at most *limit* objects."""
        return [Fields(item, f"{self._what}'s {name}") for item in self.items(name, limit=limit)]

    def object(self, name: str) -> Fields:
        """A nested object."""
        return Fields(self._take(name), f"{self._what}'s {name}")

    def finish(self) -> None:
        """Refuse members that nobody asked for."""
        if self._left:
            self.fail(next(iter(self._left)))


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
