import json
import sys
import tracemalloc
import zlib
from array import array

import pytest

from sealedhealth.errors import InvalidInput, MalformedError, UnsupportedFormat
from sealedhealth.log.columns import Column, Field, Schema, decode, encode

SCHEMA = Schema(
    name="sample/1",
    fields={
        "title": Field(str, 20),
        "at": Field(int, 1000),
        "id": Field(bytes, 4),
        "flag": Field(bool),
        "more": Field(str, 5, optional=True),
    },
    columns={
        "key": Column("bytes:4", "row"),
        "size": Column("u64", "row", compress=True),
        "index": Column("u32", "row", compress=True, optional=True),
        "path": Column("text", "row", compress=True),
        "tag": Column("text", "tag", optional=True),
    },
    tables={"row": 100_000, "tag": 3},
    max_expanded=1 << 20,
)
FIELDS = {"title": "été", "at": 7, "id": b"abcd", "flag": False}


def sample(rows=3, **columns):
    """A container with a few rows."""
    given = {
        "key": bytes(4 * rows),
        "size": array("Q", [2**64 - 1] * rows),
        "path": ["é"] * rows,
        **columns,
    }
    return encode(SCHEMA, rows={"row": rows, "tag": 0}, fields=FIELDS, columns=given)


def parts(data):
    """The head of a container, parsed, and the columns."""
    size = int.from_bytes(data[4:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def whole(head, body):
    """A container with this head, given as an object or as bytes."""
    if not isinstance(head, bytes):
        head = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return b"SHC1" + len(head).to_bytes(4, "little") + head + body


def test_round_trip():
    """Everything comes back, by type."""
    data = sample(key=[b"aaaa", b"bbbb", b"cccc"], index=[0, 5, 2**32 - 1], path=["x", "", "漢"])
    content = decode(SCHEMA, data)
    assert content.fields == FIELDS
    assert content.rows == {"row": 3, "tag": 0}
    assert (content.string("title"), content.integer("at"), content.binary("id")) == ("été", 7, b"abcd")
    assert content.string("more") == ""
    assert content.blob("key") == b"aaaabbbbcccc"
    assert content.blobs("key") == [b"aaaa", b"bbbb", b"cccc"]
    assert content.numbers("size") == array("Q", [2**64 - 1] * 3)
    assert list(content.numbers("index")) == [0, 5, 2**32 - 1]
    assert content.lines("path") == ["x", "", "漢"]
    assert content.utf8("path") == "x\n\n漢".encode()
    assert content.lines("tag") == []


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows(rows):
    """No row, and one row that is an empty line, are told apart."""
    content = decode(SCHEMA, sample(rows, path=[""] * rows))
    assert content.lines("path") == [""] * rows
    assert len(content.numbers("size")) == rows


def test_zeros_are_left_out():
    """An optional column of zeros or empty lines takes no room, and reads as it was."""
    given = sample(index=[0, 0, 0])
    assert given == sample()
    content = decode(SCHEMA, given)
    assert not content.has("index")
    assert content.has("size")
    assert content.numbers("index") == array("I", [0, 0, 0])
    data = encode(
        SCHEMA,
        rows={"row": 0, "tag": 2},
        fields=FIELDS,
        columns={"key": b"", "size": [], "path": [], "tag": ["", ""]},
    )
    assert decode(SCHEMA, data).lines("tag") == ["", ""]
    assert decode(SCHEMA, data).utf8("tag") == b"\n"


def test_same_input_same_bytes():
    """Encoding does not depend on the order in which things are given."""
    columns = {"key": bytes(12), "size": [1, 2, 3], "path": ["a", "b", "c"]}
    rows = {"row": 3, "tag": 0}
    turned = dict(reversed(FIELDS.items())), dict(reversed(columns.items()))
    one = encode(SCHEMA, rows=rows, fields=FIELDS, columns=columns)
    assert one == encode(SCHEMA, rows=dict(reversed(rows.items())), fields=turned[0], columns=turned[1])


def test_little_endian_everywhere(monkeypatch):
    """Integers are stored little-endian; a big-endian host turns them round both ways."""
    assert b"\x01\x00\x00\x00\x00\x02\x00\x00" in sample(2, index=[1, 512], path=["a", "b"])
    monkeypatch.setattr(sys, "byteorder", "big")
    data = sample(2, index=[1, 512])
    assert b"\x00\x00\x00\x01\x00\x00\x02\x00" in data
    assert list(decode(SCHEMA, data).numbers("index")) == [1, 512]


def test_small_columns_are_not_compressed():
    """Compression is used only where it saves something, and says so."""
    kinds = {name: kind for name, kind, _, _ in parts(sample(1))[0]["columns"]}
    assert kinds["size"] == "u64"
    kinds = {name: kind for name, kind, _, _ in parts(sample(1000))[0]["columns"]}
    assert kinds["size"] == "u64+z"


def test_repr_shows_no_values():
    """Columns can hold keys: repr shows how many rows there are, no more."""
    assert "row" in repr(decode(SCHEMA, sample(key=b"sssssecretss")))
    assert "ecret" not in repr(decode(SCHEMA, sample(key=b"sssssecretss")))


@pytest.mark.parametrize(
    "columns",
    [
        {"key": bytes(11)},
        {"key": bytes(16)},
        {"key": [b"aaaa", b"bbb", b"ccccc"]},
        {"size": [1, 2]},
        {"size": [1, 2, -1]},
        {"size": [1, 2, 2**64]},
        {"size": [1, 2, 0.5]},
        {"path": ["a", "b"]},
        {"path": ["a", "b", "c\nd"]},
        {"path": ["a", "b", "\ud800"]},
        {"other": bytes(12)},
        {"path": ["x" * 400_000] * 3},
    ],
    ids=lambda columns: ascii(columns)[:30],
)
def test_encode_refuses_columns(columns):
    """What does not fit the schema is refused when it is written, not when it is read."""
    with pytest.raises(InvalidInput):
        sample(**columns)


@pytest.mark.parametrize(
    "change",
    [
        {"title": None},
        {"title": "x" * 21},
        {"title": "é" * 11},
        {"title": "\ud800"},
        {"title": 1},
        {"at": 1001},
        {"at": -1},
        {"at": True},
        {"id": b"abc"},
        {"flag": 0},
        {"other": 1},
    ],
    ids=ascii,
)
def test_encode_refuses_fields(change):
    """The same for fields."""
    with pytest.raises(InvalidInput):
        encode(
            SCHEMA,
            rows={"row": 0, "tag": 0},
            fields=FIELDS | change,
            columns={"key": b"", "size": [], "path": []},
        )


@pytest.mark.parametrize("rows", [{"row": 0}, {"row": 100_001, "tag": 0}, {"row": -1, "tag": 0}, {"row": 0, "tags": 0}])
def test_encode_refuses_rows(rows):
    """The same for numbers of rows."""
    with pytest.raises(InvalidInput):
        encode(SCHEMA, rows=rows, fields=FIELDS, columns={"key": b"", "size": [], "path": []})


def test_encode_needs_every_column():
    """A column that is not optional has to be given."""
    with pytest.raises(InvalidInput):
        encode(SCHEMA, rows={"row": 0, "tag": 0}, fields=FIELDS, columns={"key": b"", "size": []})


def test_unknown_column_type():
    """A schema with a wrong type is a mistake that shows at once."""
    for type_ in ("u16", "bytes:0", "bytes:x", "bytes:00001", "text+z"):
        with pytest.raises(ValueError, match="column type"):
            Column(type_, "row")


# -- reading what is not right -------------------------------------------------------------------


def refused(data):
    """Whether a container is refused as malformed."""
    with pytest.raises(MalformedError) as caught:
        decode(SCHEMA, data)
    assert caught.value.next
    return True


def test_cut_and_longer():
    """A container that ends early anywhere, or goes on, is refused."""
    data = sample()
    for end in range(len(data)):
        refused(data[:end])
    refused(data + b"\0")


def test_other_versions_are_named():
    """A later version of the container or of its schema is not called malformed."""
    data = sample()
    with pytest.raises(UnsupportedFormat):
        decode(SCHEMA, b"SHC2" + data[4:])
    with pytest.raises(UnsupportedFormat):
        decode(SCHEMA, data.replace(b"sample/1", b"sample/2"))
    refused(data.replace(b"sample/1", b"simple/1"))
    head, body = parts(data)
    refused(whole(head | {"schema": 1}, body))


def test_head_is_bounded():
    """A head longer than its schema can need is refused before it is parsed."""
    refused(b"SHC1" + (2**32 - 1).to_bytes(4, "little") + b"{")
    refused(whole(b"[" * (SCHEMA.max_head + 1), b""))
    refused(whole(b"[" * SCHEMA.max_head, b""))
    refused(whole(b'{"a":' * (SCHEMA.max_head // 5), b""))
    refused(whole(b"1" * SCHEMA.max_head, b""))


def test_head_is_canonical():
    """Spaces, other orders, repeated names, needless escapes, NaN and unpaired surrogates are refused."""
    head, body = parts(sample())
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert decode(SCHEMA, whole(text.encode(), body))
    for old, new in [
        ('"at":7', '"at": 7'),
        ('"at":7', '"at":7,"at":7'),
        ('"at":7', '"at":7.0'),
        ('"at":7', '"at":7e0'),
        ('"at":7', '"at":NaN'),
        ('"at":7', '"at":Infinity'),
        ('"at":7', '"at":-0'),
        ("été", "\\u00e9té"),
        ("été", "\\ud800"),
        ('{"columns"', '{"columms":1,"columns"'),
    ]:
        assert old in text
        refused(whole(text.replace(old, new).encode(), body))
    refused(whole(text.encode("utf-16"), body))
    refused(whole(text.replace("été", "x").encode() + b" ", body))
    refused(whole(b"[]", body))


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"title": "a", "at": 1, "id": "61626364"},
        FIELDS | {"id": "61626364", "other": 1},
        FIELDS | {"id": "6162636"},
        FIELDS | {"id": "6162636G"},
        FIELDS | {"id": "616263AA"},
        FIELDS | {"id": "\uff161626364"},
        FIELDS | {"id": "61626364", "title": "x" * 21},
        FIELDS | {"id": "61626364", "title": None},
        FIELDS | {"id": "61626364", "title": ["a"]},
        FIELDS | {"id": "61626364", "at": 1001},
        FIELDS | {"id": "61626364", "at": -1},
        FIELDS | {"id": "61626364", "at": True},
        FIELDS | {"id": "61626364", "flag": 1},
        FIELDS | {"id": "61626364", "more": 1},
    ],
    ids=ascii,
)
def test_fields_that_do_not_fit(fields):
    """Fields that are missing, unknown, of another type or out of bounds are refused."""
    head, body = parts(sample())
    assert refused(whole(head | {"fields": fields}, body))


@pytest.mark.parametrize(
    "rows",
    [None, {}, {"row": 3}, {"row": 3, "tag": 4}, {"row": 2, "tag": 0}, {"row": True, "tag": 0}, {"row": 3.0, "tag": 0}],
    ids=ascii,
)
def test_rows_that_do_not_fit(rows):
    """Numbers of rows out of bounds, or not those of the columns, are refused."""
    head, body = parts(sample())
    assert refused(whole(head | {"rows": rows}, body))


LATER = Schema(
    name="sample/1",
    fields=SCHEMA.fields,
    columns={**SCHEMA.columns, "late": Column("bytes:2", "late", optional=True)},
    tables={**SCHEMA.tables, "late": 4},
    max_expanded=1 << 20,
    optional_tables=frozenset(["late"]),
)


def test_optional_table():
    """A table that came later is not there when it has no rows: bytes stay as they were, and old ones are read."""
    columns = {"key": bytes(4), "size": [1], "path": ["x"]}
    empty = encode(LATER, rows={"row": 1, "tag": 0, "late": 0}, fields=FIELDS, columns=columns)
    assert empty == encode(SCHEMA, rows={"row": 1, "tag": 0}, fields=FIELDS, columns=columns)
    assert decode(LATER, empty).rows == {"row": 1, "tag": 0, "late": 0}
    assert decode(LATER, empty).blobs("late") == []
    full = encode(LATER, rows={"row": 1, "tag": 0, "late": 2}, fields=FIELDS, columns={**columns, "late": b"abcd"})
    assert decode(LATER, full).blobs("late") == [b"ab", b"cd"]
    assert refused(full)


@pytest.mark.parametrize("rows", [0, -1, 5, True, None, "1"])
def test_optional_table_out_of_bounds(rows):
    """There is one way to have no rows: the table is left out."""
    columns = {"key": bytes(4), "size": [1], "path": ["x"]}
    head, body = parts(encode(SCHEMA, rows={"row": 1, "tag": 0}, fields=FIELDS, columns=columns))
    with pytest.raises(MalformedError):
        decode(LATER, whole(head | {"rows": {"row": 1, "tag": 0, "late": rows}}, body))


def test_columns_that_do_not_fit():
    """Columns that are missing, unknown, repeated, out of order or of another type are refused."""
    head, body = parts(sample())
    key, path, size = head["columns"]
    assert [key[0], path[0], size[0]] == ["key", "path", "size"]
    lengths = [key[2], path[2], size[2]]
    assert sum(lengths) == len(body)
    bad = [
        None,
        {},
        [key, path],
        [path, key, size],
        [key, key, path, size],
        [key, path, size, ["zzz", "u32", 0, 0]],
        [["key", "bytes:5", *key[2:]], path, size],
        [["key", "bytes:4+z", *key[2:]], path, size],
        [["key", "bytes:4", 12, 16], path, size],
        [["key", "bytes:4", 16, 16], path, size],
        [["key", "bytes:4", -12, -12], path, size],
        [["key", "bytes:4", True, True], path, size],
        [["key", "bytes:4", 12.0, 12], path, size],
        [["key", "bytes:4", 10**30, 10**30], path, size],
        [["key", "bytes:4", 12], path, size],
        [[[], "bytes:4", 12, 12], path, size],
        ["key", path, size],
    ]
    for columns in bad:
        assert refused(whole(head | {"columns": columns}, body))


def test_missing_column():
    """A column that is not optional has to be there even when it has no rows."""
    head, body = parts(sample(0))
    assert not body
    for left_out in range(3):
        columns = [item for index, item in enumerate(head["columns"]) if index != left_out]
        assert refused(whole(head | {"columns": columns}, b""))


def test_text_is_checked():
    """Text that is not UTF-8, or has other rows than its table, is refused."""
    head, body = parts(sample(path=["ab", "cd", "ef"]))
    assert body.count(b"ab\ncd\nef") == 1
    for text in (b"ab\ncd\n\xff\xff", b"ab\ncd\xc3\xa9\xc3", b"ab\ncdxef", b"ab\n\nd\nef", b"ab\ncd\n\xed\xa0"):
        assert len(text) == 8
        refused(whole(head, body.replace(b"ab\ncd\nef", text)))


def test_zip_bomb():
    """A column that expands to far more than it may is refused for the memory of the bound, whatever it claims."""
    squeezed = zlib.compress(b"\n" * (100 << 20))
    assert len(squeezed) < 1 << 20
    head, body = parts(sample(3, path=["", "", ""]))
    key, path, size = head["columns"]
    bombs = [
        whole(
            head | {"columns": [key, ["path", "text+z", len(squeezed), claimed], size]},
            body[: key[2]] + squeezed + body[key[2] + path[2] :],
        )
        for claimed in (100 << 20, 1 << 20, (1 << 20) - 100)
    ]
    tracemalloc.start()
    for data in bombs:
        refused(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_expansion_is_exact():
    """A compressed column that expands to less or more, is cut, or is followed by something, is refused."""
    head, body = parts(sample(1000))
    names = [item[0] for item in head["columns"]]
    at = names.index("size")
    start = sum(item[2] for item in head["columns"][:at])
    name, kind, stored, expanded = head["columns"][at]
    squeezed = body[start : start + stored]
    raw = zlib.decompress(squeezed)
    wrong = bytearray(squeezed)
    wrong[-1] ^= 1  # its checksum
    for replaced in (
        zlib.compress(raw[:-8]),
        zlib.compress(raw + bytes(8)),
        squeezed[:-1],
        squeezed[:-4],
        squeezed + b"\0",
        squeezed + squeezed,
        bytes(wrong),
        b"",
        b"\xff" * 20,
    ):
        columns = list(head["columns"])
        columns[at] = [name, kind, len(replaced), expanded]
        refused(whole(head | {"columns": columns}, body[:start] + replaced + body[start + stored :]))
    columns[at] = [name, kind, stored, expanded]
    assert decode(SCHEMA, whole(head | {"columns": columns}, body))
