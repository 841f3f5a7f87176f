"""How long a client of S3 waits before it tries again."""

import random
from types import SimpleNamespace

import pytest

pytest.importorskip("s3fs")

from sealedhealth.stores.s3client import LONGEST_WAIT, _backoff, _length, _Patience


def answer(status, **headers):
    """What botocore hands to those who decide on a retry."""
    return SimpleNamespace(status_code=status, headers=headers), {}


def patience(attempts=4):
    """The one who decides, of a client that makes so many attempts."""
    config = SimpleNamespace(retries={"total_max_attempts": attempts})
    decide = _Patience(SimpleNamespace(meta=SimpleNamespace(config=config)))
    operation = SimpleNamespace(name="GetObject")
    return lambda attempt, given: decide(attempts=attempt, response=given, operation=operation, request_dict={})


def test_waits_grow_and_are_random(monkeypatch):
    """Up to 1, 2, 4 seconds and so on to a bound; clients that failed together do not come back together."""
    monkeypatch.setattr(random, "random", lambda: 1.0)
    assert [_backoff(attempt) for attempt in (1, 2, 3, 4, 5, 6, 20)] == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT]
    monkeypatch.undo()
    assert len({_backoff(3) for _ in range(50)}) > 10


@pytest.mark.parametrize("status, headers", [(429, {}), (429, {"retry-after": "3"}), (503, {"retry-after": "3"})])
def test_what_botocore_would_not_wait_for(status, headers):
    """A 429 is retried, and ``Retry-After`` is kept to, until the attempts are used up."""
    decide = patience()
    for attempt in (1, 2, 3):
        wait = decide(attempt, answer(status, **headers))
        assert int(headers.get("retry-after", 0)) <= wait <= int(headers.get("retry-after", 0)) + 2 ** (attempt - 1)
    assert decide(4, answer(status, **headers)) is None
    assert patience(attempts=1)(1, answer(status, **headers)) is None


@pytest.mark.parametrize("given", ["soon", "-1", "1.5", "\u0663", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_other_texts_are_no_seconds(given):
    """Then a 503 is left to botocore, and a 429 waits as if nothing were asked."""
    assert patience()(1, answer(503, **{"retry-after": given})) is None
    assert patience()(1, answer(429, **{"retry-after": given})) <= 1


def test_a_host_cannot_make_us_wait_for_long():
    """However long it asks for."""
    assert patience()(1, answer(503, **{"retry-after": "999999"})) <= LONGEST_WAIT + 1


@pytest.mark.parametrize("given", [None, answer(200), answer(404), answer(500), answer(503)])
def test_the_rest_is_left_to_botocore(given):
    """Including answers that never came."""
    assert patience()(1, given) is None


def test_regions_are_not_asked_for_without_end():
    """After a redirect botocore asks for the bucket's region; that question's own redirect ends it."""
    request = {"context": {}}
    config = SimpleNamespace(retries=None)
    decide = _Patience(SimpleNamespace(meta=SimpleNamespace(config=config)))
    decide(attempts=1, response=answer(307), operation=SimpleNamespace(name="HeadBucket"), request_dict=request)
    assert request["context"]["s3_redirect"]["redirected"]


def test_lengths_of_bodies():
    """Of every form that a body comes in; what does not tell counts as long."""
    import io

    assert [_length(body) for body in (None, b"", b"abc", bytearray(4), io.BytesIO(b"12345"))] == [0, 0, 3, 4, 5]
    assert _length(iter([])) > 1 << 20
