import random

from hypothesis import given, settings
from hypothesis import strategies as st

from sealedhealth.errors import MalformedError, UnsupportedFormat
from sealedhealth.log.columns import Column, Field, Schema, decode, encode

SCHEMA = Schema(
    name="sample/1",
    fields={
        "title": Field(str, 100),
        "at": Field(int, 2**63),
        "id": Field(bytes, 4),
        "flag": Field(bool),
        "more": Field(str, 100, optional=True),
    },
    columns={
        "key": Column("bytes:3", "row"),
        "size": Column("u64", "row", compress=True),
        "index": Column("u32", "row", compress=True, optional=True),
        "path": Column("text", "row", compress=True),
        "tag": Column("text", "tag", optional=True),
    },
    tables={"row": 1000, "tag": 1000},
    max_expanded=1 << 20,
)

line = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=20)


@st.composite
def contents(draw):
    """Values that fit the schema."""
    rows = draw(st.integers(0, 40))
    tags = draw(st.lists(line, max_size=5))

    def column(each):
        return draw(st.lists(each, min_size=rows, max_size=rows))

    fields = {
        "title": draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=25)),
        "at": draw(st.integers(0, 2**63)),
        "id": draw(st.binary(min_size=4, max_size=4)),
        "flag": draw(st.booleans()),
    }
    if draw(st.booleans()):
        fields["more"] = draw(line)
    columns = {
        "key": column(st.binary(min_size=3, max_size=3)),
        "size": column(st.integers(0, 2**64 - 1) | st.just(7)),
        "index": column(st.integers(0, 2**32 - 1) | st.just(0)),
        "path": column(line | st.just("aaaaaaaaaaaaaaaa")),
        "tag": tags,
    }
    return {"row": rows, "tag": len(tags)}, fields, columns


@given(contents())
def test_round_trip(values):
    """Whatever fits the schema comes back as it was, and there is one way to write it."""
    rows, fields, columns = values
    data = encode(SCHEMA, rows=rows, fields=fields, columns=columns)
    content = decode(SCHEMA, data)
    assert content.fields == fields
    assert content.rows == rows
    assert content.blobs("key") == columns["key"]
    assert list(content.numbers("size")) == columns["size"]
    assert list(content.numbers("index")) == columns["index"]
    assert content.lines("path") == columns["path"]
    assert content.lines("tag") == columns["tag"]
    again = encode(
        SCHEMA,
        rows=content.rows,
        fields=content.fields,
        columns={
            "key": content.blob("key"),
            "size": content.numbers("size"),
            "index": content.numbers("index"),
            "path": content.utf8("path"),
            "tag": content.utf8("tag") if rows["tag"] else [],
        },
    )
    assert again == data


def corrupted(data, chance):
    """Some bytes changed, added, moved or taken away."""
    data = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        length = chance.choice([1, 1, 1, 2, 4, 8, 50])
        match chance.randrange(5):
            case 0:
                data[at : at + length] = chance.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = chance.randbytes(length)
            case 3:
                start = chance.randrange(len(data) + 1)
                data[at:at] = data[start : start + length]
            case _ if at < len(data):
                data[at] = chance.choice(b'0123456789{}[],:"\0\n\xff')
    return bytes(data)


@settings(max_examples=300)
@given(contents(), st.integers(0, 2**32))
def test_corruption(values, seed):
    """A damaged container is refused as such, or reads within its schema: no other error, no hang, no expansion."""
    rows, fields, columns = values
    data = encode(SCHEMA, rows=rows, fields=fields, columns=columns)
    chance = random.Random(seed)
    for _ in range(20):
        try:
            content = decode(SCHEMA, corrupted(data, chance))
        except (MalformedError, UnsupportedFormat):
            continue
        assert content.rows["row"] <= 1000
        assert len(content.lines("path")) == len(content.blobs("key")) == len(content.numbers("size"))
        assert sum(len(content.utf8(name)) for name in ("path", "tag")) <= SCHEMA.max_expanded


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_noise(head, body):
    """Random bytes are refused, with or without the right start."""
    for data in (head, b"SHC1" + head, b"SHC1" + len(head).to_bytes(4, "little") + head + body):
        try:
            decode(SCHEMA, data)
        except (MalformedError, UnsupportedFormat):
            continue
        raise AssertionError("noise was accepted")
