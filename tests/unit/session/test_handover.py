"""Tasks and receipts: small, strict, and of no use to whoever steals them."""

import json
import os
import pickle

import pytest

from sealedhealth.errors import InvalidInput, MalformedError
from sealedhealth.log.strict import MAX_TIME_US
from sealedhealth.session.handover import Job, Receipt, part_id

JOB = Job("s3://host/ds", "cardio", bytes(16), b"j" * 16, 7, bytes(48), 1_000_000)
RECEIPT = Receipt(b"j" * 16, b"a" * 16, bytes(48), 900, 2, 4096)


@pytest.mark.parametrize("thing", [JOB, RECEIPT])
def test_there_and_back(thing):
    """As a pickle, as a JSON object and as its text, in few bytes."""
    kind, text = type(thing), json.dumps(thing.to_json())
    assert pickle.loads(pickle.dumps(thing)) == thing
    assert kind.from_json(thing.to_json()) == kind.from_json(text) == kind.from_json(text.encode()) == thing
    assert len(text) < 400
    assert len(pickle.dumps(thing)) < 400


@pytest.mark.parametrize(
    "thing, changed",
    [
        (JOB, {"base": -1}),
        (JOB, {"base": "7"}),
        (JOB, {"head": "00"}),
        (JOB, {"job": "J" * 32}),
        (JOB, {"started": MAX_TIME_US + 1}),
        (JOB, {"url": 1}),
        (JOB, {"profile": "x" * 257}),
        (JOB, {"token": "s.secret"}),
        (RECEIPT, {"size": 0}),
        (RECEIPT, {"size": 1 << 40}),
        (RECEIPT, {"size": True}),
        (RECEIPT, {"files": 1.0}),
        (RECEIPT, {"attempt": None}),
        (RECEIPT, {"digest": "g" * 96}),
        (RECEIPT, {"change": "00" * 16}),
    ],
)
def test_strict(thing, changed):
    """What has another form, or more in it, is refused."""
    with pytest.raises(MalformedError):
        type(thing).from_json({**thing.to_json(), **changed})


@pytest.mark.parametrize("kind", [Job, Receipt])
@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"job": "", "job": ""}', b"\xff", "[" * 10000])
def test_no_json(kind, text):
    """Text that is none of it."""
    with pytest.raises(MalformedError):
        kind.from_json(text)


def test_too_long():
    """Lengths are bounded before anything is parsed."""
    with pytest.raises(InvalidInput):
        Receipt.from_json(json.dumps(RECEIPT.to_json()) + " " * 20000)


def test_the_id_of_a_part_depends_on_job_and_attempt():
    """So that no receipt of a job can be made that names the change set of anything else."""
    job, attempt = os.urandom(16), os.urandom(16)
    ids = {part_id(job, attempt), part_id(attempt, job), part_id(job, job), part_id(attempt, attempt)}
    assert len(ids) == 4
    assert part_id(b"j" * 16, b"a" * 16).hex() == "a55fd357f9496afd82a2036ad21a0fb3"
    assert Receipt(job, attempt, bytes(48), 1, 0, 0).change_id == part_id(job, attempt)
