"""The location of a change set: small, printable, written in one way."""

import json

import pytest

from sealedhealth.errors import MalformedError
from sealedhealth.log.place import PLACE_LIMIT, dump_place, read_place
from sealedhealth.log.strict import dump_json
from sealedhealth.stores.location import TEXT_LIMIT, Location

PLACE = Location("s3", "s3.gra.io.cloud.ovh.net:8333", "gra", "FR")
DOCUMENT = {"store": "s3", "endpoint": "s3.gra.io.cloud.ovh.net:8333", "region": "gra", "jurisdiction": "FR"}


@pytest.mark.parametrize(
    "location",
    [PLACE, Location("file"), Location("memory", jurisdiction="FR"), Location("s3", "[::1]:9000"),
     Location("x" * TEXT_LIMIT, "h" * TEXT_LIMIT, '"' * TEXT_LIMIT, "\\" * TEXT_LIMIT)],
)  # fmt: skip
def test_round_trip(location):
    """A place comes back as it was, the longest one too."""
    document = dump_place(location)
    assert read_place(document) == location
    assert len(document.encode()) <= PLACE_LIMIT


@pytest.mark.parametrize("name", DOCUMENT)
@pytest.mark.parametrize("value", [None, 1, True, [], {}, "\n", "\x7f", "\u202e", "é", "a" * (TEXT_LIMIT + 1)])
def test_each_part(name, value):
    """A part of another type, too long, or that no terminal should be given is malformed; so is one left out."""
    with pytest.raises(MalformedError):
        read_place(dump_json({**DOCUMENT, name: value}).decode())
    with pytest.raises(MalformedError):
        read_place(dump_json({part: text for part, text in DOCUMENT.items() if part != name}).decode())


@pytest.mark.parametrize(
    "endpoint", ["host/bucket", "user:password@host", "https://host", "host:port", "host ", "h?x=1"]
)
def test_endpoint_holds_no_more_than_the_host(endpoint):
    """No bucket, path, user or query passes for an endpoint."""
    with pytest.raises(MalformedError):
        read_place(dump_json({**DOCUMENT, "endpoint": endpoint}).decode())


@pytest.mark.parametrize(
    "document",
    ["", "null", "[]", "x", json.dumps(DOCUMENT), dump_json(DOCUMENT).decode() + " ",
     dump_json({**DOCUMENT, "more": ""}).decode(), dump_json({**DOCUMENT, "store": ""}).decode(),
     dump_json(DOCUMENT).decode().replace('"gra"', '"gr\\u0061"'),
     dump_json(DOCUMENT).decode().replace('"store"', '"region":"gra","store"')],
)  # fmt: skip
def test_other_documents(document):
    """Anything but the one form is malformed: what a reader shows is what was signed."""
    with pytest.raises(MalformedError):
        read_place(document)
