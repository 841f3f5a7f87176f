"""Small JSON documents, taken apart without belief."""

from datetime import UTC, datetime

import pytest

from sealedhealth.errors import MalformedError
from sealedhealth.log.strict import MAX_TIME_US, Fields, dump_json, load_json, microseconds

WRONG = [None, True, 1, -1, 1.5, "", "x", [], [1], {}, {"a": 1}]


def fields(**members):
    """A document with these members."""
    return Fields(members, "document")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nonsense", b"[]", b"1", b'"x"', b"null", b"\xff", b'{"a":1,"a":1}', b'{"a":NaN}', b'{"a":Infinity}',
        b'{"a":1} x', b"{'a':1}", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":{"b":1,"b":2}}',
    ],
)  # fmt: skip
def test_what_is_no_document(data):
    """Bytes that are not exactly one JSON object of distinct names are malformed, however deep or long."""
    with pytest.raises(MalformedError, match="document"):
        load_json(data, "document")


def test_round_trip():
    """What is written reads back, and is written in one way."""
    data = dump_json({"b": 1, "a": "é"})
    assert data == '{"a":"é","b":1}'.encode()
    document = load_json(data, "document")
    assert (document.integer("b", most=1), document.text("a", limit=1)) == (1, "é")
    document.finish()


def test_members_that_nobody_asked_for():
    """What is left over is refused by name."""
    with pytest.raises(MalformedError, match="extra"):
        fields(extra=1).finish()


def test_missing_member():
    """So is what is missing, or taken twice."""
    document = fields(a=1)
    document.integer("a", most=1)
    with pytest.raises(MalformedError, match="'a'"):
        document.integer("a", most=1)


@pytest.mark.parametrize(
    "value", [*WRONG, "0", "000", "0G", "0A", "0a0a", "é0", " a", "a ", "\t\n", "  ", "0x", "\u0661\u0661"]
)
def test_hexadecimal(value):
    """Hexadecimal is lower case, exact in length, and nothing else: no spaces, no other digits."""
    with pytest.raises(MalformedError):
        fields(a=value).hex("a", 1)
    assert fields(a="0a").hex("a", 1) == b"\n"


def test_hexadecimal_with_spaces_of_the_right_length():
    """Python skips spaces in hexadecimal: an id must not come out short."""
    with pytest.raises(MalformedError):
        fields(a="0a" * 15 + "  ").hex("a", 16)
    with pytest.raises(MalformedError):
        fields(a=["0a", "  "]).hexes("a", 1, limit=2)


@pytest.mark.parametrize("value", [*WRONG[:2], -1, 4, 1.0, 2.0, "2", [2], 10**30])
def test_integer(value):
    """Integers are of type int, from the least to the most."""
    with pytest.raises(MalformedError):
        fields(a=value).integer("a", least=2, most=3)
    assert [fields(a=good).integer("a", least=2, most=3) for good in (2, 3)] == [2, 3]


def test_time():
    """Times end with the year 9999, the last that Python can show."""
    assert (
        fields(a=MAX_TIME_US).time("a") == MAX_TIME_US == microseconds(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    )
    datetime.fromtimestamp(MAX_TIME_US / 1e6, UTC)
    for value in (-1, MAX_TIME_US + 1, True):
        with pytest.raises(MalformedError):
            fields(a=value).time("a")


@pytest.mark.parametrize("value", [None, 0, 1, "true", [], {}])
def test_boolean(value):
    """Booleans are true or false."""
    with pytest.raises(MalformedError):
        fields(a=value).boolean("a")
    assert fields(a=False).boolean("a") is False


@pytest.mark.parametrize("value", [None, 1, [], {}, "four", "\ud800"])
def test_text(value):
    """Text is bounded and has a UTF-8 form."""
    with pytest.raises(MalformedError):
        fields(a=value).text("a", limit=3)
    assert fields(a="").text("a", limit=3) == ""
    assert fields(a="ééé").text("a", limit=3) == "ééé"


@pytest.mark.parametrize("value", [None, 1, "x", {}, {"a": 1}, [1, 2, 3]])
def test_lists(value):
    """Lists are bounded."""
    with pytest.raises(MalformedError):
        fields(a=value).items("a", limit=2)
    with pytest.raises(MalformedError):
        fields(a=value).objects("a", limit=2)
    assert fields(a=[1, 2]).items("a", limit=2) == [1, 2]


def test_objects():
    """Nested objects are objects; errors name where they stand."""
    with pytest.raises(MalformedError):
        fields(a=[{}, 1]).objects("a", limit=2)
    with pytest.raises(MalformedError):
        fields(a=[]).object("a")
    with pytest.raises(MalformedError, match="document's a"):
        fields(a={"b": 1}).object("a").finish()


def test_has():
    """An absent member and a null one are the same, and the null is gone afterwards."""
    document = fields(a=None, b=0)
    assert not document.has("a")
    assert not document.has("c")
    assert document.has("b")
    document.integer("b", most=0)
    document.finish()
