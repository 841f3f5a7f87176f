"""What the client of S3 does with the bodies of requests and answers: they are large, so nothing copies them."""

import asyncio
import io
from types import SimpleNamespace

import pytest

pytest.importorskip("s3fs")

from multidict import CIMultiDict

from sealedhealth.stores.s3client import PIECE, UNASKED, _Direct, _read

LONG = bytes(range(256)) * (UNASKED // 256 + 1)


def sent(body, method="PUT", **headers):
    """What aiohttp gets to see of a request."""
    session = SimpleNamespace(request=lambda _, **arguments: arguments)
    return _Direct(session).request(method, data=body, headers=CIMultiDict(headers))


@pytest.mark.parametrize("form", [bytes, bytearray])
def test_bytes_are_sent_from_where_they_lie(form):
    """As botocore hands them on: ``bytes`` in a file, a ``bytearray`` as it is."""
    data = form(LONG)
    body = io.BytesIO(data) if form is bytes else data
    payload = sent(body)["data"]
    assert payload._value is data
    assert payload.size == len(data)


def test_a_file_that_was_begun_is_left_alone():
    """What was read of it is not to be sent."""
    body = io.BytesIO(LONG)
    body.seek(5)
    assert sent(body)["data"] is body


@pytest.mark.parametrize("length, wanted", [(None, LONG), (len(LONG), LONG), (10, LONG[:10]), (0, b"")])
def test_all_of_it_is_sent_and_again(length, wanted):
    """In order, in bounded pieces; a second time when a connection turns out to be closed."""
    payload = sent(io.BytesIO(LONG))["data"]
    for _ in range(2):
        pieces = []

        class Writer:
            async def write(self, piece, pieces=pieces):
                pieces.append(bytes(piece))

        asyncio.run(payload.write_with_length(Writer(), length))
        assert b"".join(pieces) == wanted
        assert max(map(len, pieces), default=0) <= PIECE


@pytest.mark.parametrize("body", [io.BytesIO(LONG), bytearray(LONG)])
def test_the_host_is_asked_before_a_long_body(body):
    """In whatever form it is: a host that refuses need not take it."""
    assert sent(body)["headers"]["Expect"] == "100-continue"


@pytest.mark.parametrize("body", [io.BytesIO(b"short"), bytearray(b"short"), None])
def test_the_host_is_not_asked_before_a_short_one(body):
    """Also where botocore would: it costs a round trip."""
    assert "Expect" not in sent(body, Expect="100-continue")["headers"]
    assert "Expect" not in sent(body)["headers"]


@pytest.mark.parametrize("step", [1_000, PIECE, 10**9])
@pytest.mark.parametrize("size", [0, 5, PIECE, PIECE + 1, 3 * PIECE + 7])
def test_answers_come_whole(size, step):
    """Whatever pieces they arrive in."""
    data = (LONG * 2)[:size]
    stream, closed = io.BytesIO(data), []

    async def read(amount=-1):
        return stream.read(min(step, amount)) if amount >= 0 else stream.read()

    body = SimpleNamespace(read=read, close=lambda: closed.append(True))
    answer = {"Body": body, "ContentLength": size, "ContentRange": "", "ResponseMetadata": {"HTTPStatusCode": 206}}
    assert asyncio.run(_read(answer, 0, size)) == data
    assert closed
