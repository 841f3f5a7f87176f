"""The sealed section of a change set."""

import contextlib

import pytest

from sealedhealth.errors import IntegrityError, InvalidInput, MalformedError
from sealedhealth.log.columns import encode
from sealedhealth.log.link import MAX_SEQUENCE
from sealedhealth.log.section import _SCHEMA, MAX_MESSAGE, NOT_A_TAG, AuthorNote, ObjectRow, Put, Section
from sealedhealth.log.strict import MAX_TIME_US

ROW = ObjectRow(b"o" * 16, b"k" * 16, b"s" * 24, b"r" * 32, 1000)
FULL = Section(
    message="week 12 é",
    new_objects=((0, b"s" * 24), (3, b"t" * 24)),
    old_objects=(ROW,),
    puts=(Put("a", 0, 0, 5, 7), Put("d/é", 2, 1 << 40, 1 << 41, MAX_TIME_US)),
    deletes=("x", "y/z"),
    tags={"release": 4, "old": None},
)
NOTES = Section(notes={b"a" * 16: AuthorNote("Hôpital nord", "labs/north")}, compartment_name="default")


def plain(section):
    """A section with lists instead of arrays."""
    return [
        section.message, list(section.new_objects), list(section.old_objects), list(section.puts),
        list(section.deletes), dict(section.tags), dict(section.notes), section.compartment_name,
    ]  # fmt: skip


@pytest.mark.parametrize("section", [Section(), FULL, NOTES])
def test_round_trip(section):
    """A section comes back as it was."""
    assert plain(Section.read(section.pack())) == plain(section)


def forged(fields=None, rows=None, **columns):
    """A section around these columns, written without any check but the container's."""
    counts = {"new": 0, "old": 0, "put": 0, "delete": 0, "tag": 0, **(rows or {})}
    given = {"new_index": [], "new_salt": b"", "put_path": [], "put_object": [], "put_length": [], "put_mtime": []}
    return encode(_SCHEMA, rows=counts, fields={"message": "", **(fields or {})}, columns={**given, **columns})


PATHS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a"]
PATHS += ["a\0", "a\tb", "a\\b", "e\u0301", "a\u2028b", "x" * 4097]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_not_canonical(path):
    """Puts and deletes of anything but canonical paths are malformed; so are prefixes."""
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"put": 1}, put_path=[path], put_object=[0], put_length=[0], put_mtime=[0]))
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"delete": 2}, delete_path=["fine", path]))
    if path:
        with pytest.raises(MalformedError):
            Section.read(Section(notes={b"a" * 16: AuthorNote("name", path)}).pack())


@pytest.mark.parametrize("mtime", [MAX_TIME_US + 1, (1 << 63), (1 << 64) - 1])
def test_time_that_does_not_exist(mtime):
    """Modification times end with the year 9999: a listing can show each."""
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"put": 1}, put_path=["a"], put_object=[0], put_length=[0], put_mtime=[mtime]))


@pytest.mark.parametrize("name", ["", "1", "007", "a/b", "a\0", "a\x7f", "x" * 257, "\u0661"])
def test_tag_that_cannot_be(name):
    """A tag is printable, no path, and no number."""
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"tag": 1}, tag_name=[name], tag_sequence=[1]))


def test_tags():
    """Each tag once; a commit that can exist, or none."""
    read = Section.read(forged(rows={"tag": 2}, tag_name=["a", "b"], tag_sequence=[MAX_SEQUENCE, NOT_A_TAG]))
    assert read.tags == {"a": MAX_SEQUENCE, "b": None}
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"tag": 2}, tag_name=["a", "a"], tag_sequence=[1, 2]))
    with pytest.raises(MalformedError):
        Section.read(forged(rows={"tag": 1}, tag_name=["a"], tag_sequence=[MAX_SEQUENCE + 1]))


def test_message():
    """A message has its bound, in characters."""
    assert Section.read(Section(message="é" * MAX_MESSAGE).pack()).message == "é" * MAX_MESSAGE
    with pytest.raises(MalformedError):
        Section.read(forged({"message": "a" * (MAX_MESSAGE + 1)}))
    with pytest.raises(InvalidInput):
        forged({"message": "a" * (4 * MAX_MESSAGE + 1)})


@pytest.mark.parametrize(
    "notes",
    [
        "[]", "{}", '{"notes":1}', '{"notes":[1]}', '{"notes":[{}]}', '{"notes":[],"more":1}',
        '{"notes":[{"id":"00","name":"n","prefix":""}]}', '{"notes":[{"id":"%s","name":1,"prefix":""}]}' % ("00" * 16),
        '{"notes":[{"id":"%s","name":"n","prefix":"","more":1}]}' % ("00" * 16),
        '{{"notes":[{{"id":"{}","name":"{}","prefix":""}}]}}'.format("00" * 16, "n" * 257),
    ],
)  # fmt: skip
def test_names_of_authors(notes):
    """The sealed half of the roster is as strict as the public one."""
    with pytest.raises(MalformedError):
        Section.read(forged({"notes": notes}))


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_any_byte(at):
    """Whatever byte an author gets wrong, the error is one of ours."""
    data = bytearray(FULL.pack())
    data[at % len(data)] ^= 0x11
    with contextlib.suppress(IntegrityError):
        Section.read(bytes(data))


def test_salts_out_of_sight():
    """Salts are no part of a listing."""
    assert "ssss" not in repr(FULL)
