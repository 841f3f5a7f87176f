"""The column container: a small JSON head and columns of equal things, strictly bounded.

::

    "SHC1" | u32le length of the head | head | columns, one after the other

    head = {"columns": [[name, type, stored bytes, expanded bytes], ...],
            "fields": {name: value, ...}, "rows": {table: rows, ...}, "schema": "segment/1"}

The head is compact JSON with sorted keys, and columns are sorted by name: there is one way to write a head, and a
reader refuses any other. Types of columns are ``bytes:N`` (N bytes a row), ``u32`` and ``u64`` (little-endian) and
``text`` (UTF-8, a line feed between rows). ``+z`` after a type says that the column is compressed by zlib. An optional
column that is all zero (or empty lines) is left out, and so is an optional table without rows.

Reading takes time and memory in proportion to what its schema allows, whatever the bytes say.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sealedhealth.errors import InvalidInput, MalformedError, UnsupportedFormat
from sealedhealth.log.strict import dump_json

__all__ = ["Column", "Content", "Field", "FieldValue", "Schema", "decode", "encode"]

MAGIC = b"SHC1"
START = 8  #: bytes before the head
ZLIB_LEVEL = 1  # on sizes, times and sorted names level 6 saves little and takes several times as long

FieldValue = str | int | bool | bytes

_MEMBERS = {"columns", "fields", "rows", "schema"}
_WIDTHS = {"u32": 4, "u64": 8, "text": 0}
_CODES = {"u32": "I", "u64": "Q"}  # 4 and 8 bytes wherever CPython runs


@dataclass(frozen=True, slots=True)
class Field:
    """One value in the head."""

    type: type[str | int | bool | bytes]  #: bytes are written in hexadecimal
    limit: int = 0  #: str: most bytes in UTF-8; int: largest value, the smallest is 0; bytes: exact size
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    type: str  #: ``bytes:N``, ``u32``, ``u64`` or ``text``
    table: str  #: columns of one table have the same number of rows
    compress: bool = False  #: try zlib; the column is stored plain when that is not smaller
    optional: bool = False  #: left out when it is all zero or all empty lines; the reader supplies them
    width: int = field(init=False)  #: bytes a row; 0 for text

    def __post_init__(self) -> None:
        width = _WIDTHS.get(self.type)
        if width is None:
            match = re.fullmatch(r"bytes:([1-9][0-9]{0,3})", self.type)
            if match is None:
                raise ValueError(f"unknown column type {self.type!r}")
            width = int(match[1])
        object.__setattr__(self, "width", width)


@dataclass(frozen=True, slots=True)
class Schema:
    """What one kind of container holds."""

    name: str  #: name and version, such as ``segment/1``; written into the head and checked
    fields: Mapping[str, Field]
    columns: Mapping[str, Column]
    tables: Mapping[str, int]  #: most rows of each table
    max_expanded: int  #: most bytes of all columns together, expanded
    optional_tables: frozenset[str] = frozenset()  #: not written when they have no rows; their columns are optional

    @property
    def max_head(self) -> int:
        """Most bytes of a head: JSON takes up to six for one byte of a string."""
        values = sum(6 * item.limit if item.type in {str, bytes} else 20 for item in self.fields.values())
        return 4096 + 256 * (len(self.columns) + len(self.fields) + len(self.tables)) + values


class Content:
    """What a container holds, checked against its schema."""

    def __init__(
        self,
        schema: Schema,
        fields: dict[str, FieldValue],
        rows: dict[str, int],
        raw: dict[str, bytes],
    ) -> None:
        self.fields = fields  #: optional fields that were left out are absent
        self.rows = rows  #: rows of each table
        self._schema = schema
        self._raw = raw

    def __repr__(self) -> str:
        return f"<Content of {self._schema.name}, rows {self.rows}>"  # no values: they may be keys

    def string(self, name: str) -> str:
        """A field of type str; ``""`` when it was left out."""
        return str(self.fields.get(name, ""))

    def integer(self, name: str) -> int:
        """A field of type int; 0 when it was left out."""
        return int(self.fields.get(name, 0))

    def binary(self, name: str) -> bytes:
        """A field of type bytes; ``b""`` when it was left out."""
        value = self.fields.get(name, b"")
        assert isinstance(value, bytes)
        return value

    def has(self, name: str) -> bool:
        """Whether a column was there, rather than left out."""
        return name in self._raw

    def blob(self, name: str) -> bytes:
        """A ``bytes:N`` column, all rows one after the other."""
        raw = self._raw.get(name)
        column = self._schema.columns[name]
        return bytes(self.rows[column.table] * column.width) if raw is None else raw

    def blobs(self, name: str) -> list[bytes]:
        """A ``bytes:N`` column, cut into rows."""
        blob, width = self.blob(name), self._schema.columns[name].width
        return [blob[at : at + width] for at in range(0, len(blob), width)]

    def numbers(self, name: str) -> array[int]:
        """A ``u32`` or ``u64`` column."""
        numbers = array(_CODES[self._schema.columns[name].type], self.blob(name))
        if sys.byteorder == "big":
            numbers.byteswap()
        return numbers

    def utf8(self, name: str) -> bytes:
        """A ``text`` column as it is stored: valid UTF-8, a line feed between rows."""
        raw = self._raw.get(name)
        return b"\n" * (self.rows[self._schema.columns[name].table] - 1) if raw is None else raw

    def lines(self, name: str) -> list[str]:
        """A ``text`` column, cut into rows."""
        return self.utf8(name).decode().split("\n") if self.rows[self._schema.columns[name].table] else []


# -- writing -----------------------------------------------------------------------------------


def encode(
    schema: Schema,
    *,
    rows: Mapping[str, int],
    fields: Mapping[str, FieldValue],
    columns: Mapping[str, bytes | array[int] | Sequence[int] | Sequence[str] | Sequence[bytes]],
) -> bytes:
    """The bytes of a container. The same input gives the same bytes, as long as zlib does.

    ``bytes:N`` columns are given as rows or joined, integers as an array or as rows, text as rows or as joined UTF-8.

    Raises ``InvalidInput`` when the values do not fit the schema and its bounds.
    """
    if rows.keys() != schema.tables.keys() or any(not 0 <= rows[name] <= most for name, most in schema.tables.items()):
        raise InvalidInput(f"A {schema.name} cannot have these numbers of rows: {dict(rows)}.")
    if not columns.keys() <= schema.columns.keys():
        raise InvalidInput(f"A {schema.name} does not have all of these columns: {sorted(columns)}.")
    listed: list[list[object]] = []
    bodies: list[bytes] = []
    room = schema.max_expanded
    for name, column in sorted(schema.columns.items()):
        if name not in columns:
            if not column.optional:
                raise InvalidInput(f"The column '{name}' of a {schema.name} is missing.")
            continue
        raw = _pack(column, columns[name], rows[column.table], f"{schema.name}: {name}")
        room -= len(raw)
        if column.optional and not raw.strip(b"\0" if column.width else b"\n"):
            continue
        body, kind = raw, column.type
        if column.compress:
            squeezed = zlib.compress(raw, ZLIB_LEVEL)
            if len(squeezed) < len(raw):
                body, kind = squeezed, column.type + "+z"
        listed.append([name, kind, len(body), len(raw)])
        bodies.append(body)
    head = dump_json(
        {
            "columns": listed,
            "fields": _pack_fields(schema, fields),
            "rows": {name: count for name, count in rows.items() if count or name not in schema.optional_tables},
            "schema": schema.name,
        }
    )
    if room < 0 or len(head) > schema.max_head:
        raise InvalidInput(f"This is more than one {schema.name} can hold.", next="Split it.")
    return b"".join([MAGIC, len(head).to_bytes(4, "little"), head, *bodies])


def _pack(column: Column, value: Any, rows: int, name: str) -> bytes:
    """The expanded form of a column."""
    if column.type == "text":
        try:
            raw = value if isinstance(value, bytes) else "\n".join(value).encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"The column '{name}' has an unpaired surrogate.") from None
        given = raw.count(b"\n") + 1 if rows or raw else 0
    elif column.type in _CODES:
        try:
            numbers = array(_CODES[column.type], value)
        except (OverflowError, TypeError):
            raise InvalidInput(f"The column '{name}' has a value out of range.") from None
        given = len(numbers)
        if sys.byteorder == "big":
            numbers.byteswap()
        raw = numbers.tobytes()
    else:
        if not isinstance(value, bytes):
            if any(len(row) != column.width for row in value):
                raise InvalidInput(f"The column '{name}' has a row of a wrong size.")
            value = b"".join(value)
        raw = value
        given = -1 if len(raw) % column.width else len(raw) // column.width
    if given != rows:
        raise InvalidInput(f"The column '{name}' does not have {rows} rows, or a row of it has a line feed.")
    return raw


def _pack_fields(schema: Schema, fields: Mapping[str, FieldValue]) -> dict[str, object]:
    packed: dict[str, object] = {}
    for name, value in fields.items():
        packed[name] = value.hex() if isinstance(value, bytes) else value
    if _read_fields(schema, packed) != dict(fields):
        raise InvalidInput(f"The fields do not fit a {schema.name}.", next="Shorten them.")
    return packed


# -- reading ------------------------------------------------------------------------------------


def decode(schema: Schema, data: bytes) -> Content:
    """What a container holds.

    Raises
    ------
    UnsupportedFormat
        It is of a version that this release does not know.
    MalformedError
        It breaks the format or the bounds of *schema*.
    """
    head, at = _read_head(schema, data)
    fields = _read_fields(schema, head["fields"])
    rows = _read_rows(schema, head["rows"])
    if fields is None or rows is None or not isinstance(head["columns"], list):
        _refuse(schema, "its fields or rows do not fit")
    raw: dict[str, bytes] = {}
    room = schema.max_expanded
    last = ""
    for item in head["columns"]:
        name, squeezed, stored, expanded = _read_listing(schema, item)
        column = schema.columns[name]
        if name <= last:
            _refuse(schema, "its columns are not sorted, or one stands twice")
        last = name
        # Each length is checked before the bytes it promises are touched.
        if not (stored < expanded if squeezed else stored == expanded) or expanded > room or stored > len(data) - at:
            _refuse(schema, f"the sizes of column '{name}' do not fit")
        if column.width and expanded != column.width * rows[column.table]:
            _refuse(schema, f"column '{name}' does not have the rows of its table")
        body = bytes(data[at : at + stored])
        at += stored
        room -= expanded
        if squeezed:
            body = _expand(schema, name, body, expanded)
        if column.type == "text" and not _is_text(body, rows[column.table]):
            _refuse(schema, f"column '{name}' is not UTF-8, or does not have the rows of its table")
        raw[name] = body
    if at != len(data):
        _refuse(schema, "bytes follow its last column")
    if any(name not in raw and not column.optional for name, column in schema.columns.items()):
        _refuse(schema, "a column is missing")
    return Content(schema, fields, rows, raw)


def _refuse(schema: Schema, problem: str) -> NoReturn:
    raise MalformedError(
        f"A part of the log ({schema.name}) breaks the format: {problem}.",
        safe="Nothing of it was used.",
        next="Restore it from a copy; if every copy is the same, find out what its author runs.",
    ) from None


def _read_head(schema: Schema, data: bytes) -> tuple[dict[str, Any], int]:
    if data[:3] != MAGIC[:3] or len(data) < START:
        _refuse(schema, "it does not start as a column container")
    if data[:4] != MAGIC:
        raise UnsupportedFormat("A part of the log is of an unknown version.", next="Upgrade sealedhealth.")
    size = int.from_bytes(data[4:START], "little")
    if size > min(schema.max_head, len(data) - START):
        _refuse(schema, "its head is longer than it may be")
    head = bytes(data[START : START + size])
    members: Any = None
    try:
        members = json.loads(head)
        # Writing it again gives other bytes for a name that stands twice, spaces or a needless escape, and fails for
        # NaN or an unpaired surrogate.
        fits = isinstance(members, dict) and members.keys() == _MEMBERS and dump_json(members) == head
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        _refuse(schema, "its head is not written in the one way")
    if members["schema"] != schema.name:
        if isinstance(members["schema"], str) and members["schema"].split("/")[0] == schema.name.split("/")[0]:
            raise UnsupportedFormat("A part of the log is of an unknown version.", next="Upgrade sealedhealth.")
        _refuse(schema, "it is something else")
    return members, START + size


def _read_fields(schema: Schema, given: object) -> dict[str, FieldValue] | None:
    """The fields, or None when they do not fit."""
    if not isinstance(given, dict) or not given.keys() <= schema.fields.keys():
        return None
    fields: dict[str, FieldValue] = {}
    for name, spec in schema.fields.items():
        if name not in given:
            if not spec.optional:
                return None
            continue
        value = _read_field(spec, given[name])
        if value is None:
            return None
        fields[name] = value
    return fields


def _read_field(spec: Field, value: object) -> FieldValue | None:
    match value:
        case str() if spec.type is bytes:
            digits = len(value) == 2 * spec.limit and not value.strip("0123456789abcdef")
            return bytes.fromhex(value) if digits else None
        case str() if spec.type is str:
            try:
                return value if len(value.encode()) <= spec.limit else None
            except UnicodeEncodeError:
                return None
        case bool():
            return value if spec.type is bool else None
        case int() if spec.type is int and 0 <= value <= spec.limit:
            return value
    return None


def _read_rows(schema: Schema, given: object) -> dict[str, int] | None:
    required = schema.tables.keys() - schema.optional_tables
    if not isinstance(given, dict) or not required <= given.keys() <= schema.tables.keys():
        return None
    if any(type(rows) is not int or not 0 <= rows <= schema.tables[name] for name, rows in given.items()):
        return None
    if any(not given.get(name, 1) for name in schema.optional_tables):
        return None  # there is one way to have no rows
    return {name: given.get(name, 0) for name in schema.tables}


def _read_listing(schema: Schema, item: object) -> tuple[str, bool, int, int]:
    if isinstance(item, list) and [type(part) for part in item] == [str, str, int, int] and item[0] in schema.columns:
        name, kind, stored, expanded = item
        squeezed = kind == schema.columns[name].type + "+z"
        if (squeezed or kind == schema.columns[name].type) and stored >= 0 and expanded >= 0:
            return name, squeezed, stored, expanded
    _refuse(schema, "its list of columns does not fit")


def _expand(schema: Schema, name: str, body: bytes, size: int) -> bytes:
    """Decompress to exactly *size* bytes; never makes more than one byte beyond."""
    stream = zlib.decompressobj()
    try:
        expanded = stream.decompress(body, size + 1)  # 0 would mean: without bound
    except zlib.error:
        expanded = b""
    if len(expanded) != size or not stream.eof or stream.unused_data:
        _refuse(schema, f"column '{name}' does not expand to its size")
    return expanded


def _is_text(body: bytes, rows: int) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return body.count(b"\n") == rows - 1 if rows else not body
