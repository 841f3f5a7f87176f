"""s3fs as this package wants it: one layer of retries, bounded answers, no redirects, and no waiting for ever."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Mapping
from io import SEEK_END, BytesIO
from typing import Any, ClassVar

from aiobotocore.httpsession import AIOHTTPSession
from aiohttp import ClientError
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from botocore.exceptions import HTTPClientError, IncompleteReadError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from sealedhealth.stores.base import PATIENCE, SLOWEST

__all__ = ["SteadyS3"]

#: An answer that breaks off is asked for so many times.
READS = 3
#: Half the seconds before the second try, at most; it doubles with each.
PAUSE = 0.5
#: Seconds that a host may ask us to wait.
LONGEST_WAIT = 20
#: Bodies up to this size go out without asking the host first whether it wants them.
UNASKED = 1 << 20
PIECE = 1 << 18
_BROKEN = (ClientError, HTTPClientError, IncompleteReadError, TimeoutError, ConnectionError)


class SteadyS3(S3FileSystem):
    """The file system of s3fs, steadied.

    Each request is retried by botocore alone, which its ``retries`` option governs; s3fs would
    run two loops of five around that.  An answer that breaks off is asked for again; one that
    is longer than what was asked for is not read to its end.  Redirects are errors.
    """

    retries = 1
    connect_timeout = 5
    read_timeout = 30
    _cache: ClassVar[dict[Any, Any]]

    async def set_session(self, refresh: bool = False, kwargs: Mapping[str, Any] = {}) -> Any:
        """The client; made at the first use."""
        before = self._s3
        client = await super().set_session(refresh=refresh, kwargs=kwargs)
        if client is not before:
            client.meta.events.register_first("needs-retry.s3", _Patience(client), unique_id="sealedhealth-patience")
        return client

    _connect = set_session
    connect = sync_wrapper(set_session)

    def _prepare_config_kwargs(self) -> dict[str, Any]:
        return {"http_session_cls": DirectSession, **super()._prepare_config_kwargs()}

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        async with asyncio.timeout(PATIENCE + _length(kwargs.get("Body")) / SLOWEST):
            for attempt in range(1, READS + 1):
                try:
                    return await super()._call_s3(method, *akwarglist, **kwargs)
                except ClientError:  # of aiohttp: an error answer that broke off, which botocore does not retry
                    if attempt == READS:
                        raise
                await _pause(attempt)
        raise AssertionError

    call_s3 = sync_wrapper(_call_s3)

    async def _cat_file(
        self, path: str, version_id: str | None = None, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        if start is None or end is None or not 0 <= start < end:
            whole: bytes = await super()._cat_file(path, version_id=version_id, start=start, end=end, **kwargs)
            return whole
        bucket, key, version = self.split_path(path)
        asked = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
        if version_id or version:
            asked["VersionId"] = version_id or version
        async with asyncio.timeout(PATIENCE + (end - start) / SLOWEST):
            for attempt in range(1, READS + 1):
                answer = await self._call_s3("get_object", **asked)
                try:
                    return await _read(answer, start, end - start)
                except _BROKEN:
                    if attempt == READS:
                        raise
                await _pause(attempt)
        raise AssertionError


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.random() * PAUSE * 2**attempt)  # noqa: S311 - no secret


async def _read(answer: Mapping[str, Any], start: int, length: int) -> bytes:
    """The body of an answer; of one that is too long, a byte more than was asked for."""
    body = answer["Body"]
    try:
        size = answer.get("ContentLength")
        if answer["ResponseMetadata"]["HTTPStatusCode"] == 200 and "ContentRange" not in answer:
            if start:
                raise OSError(errno.ENOTSUP, "The host answered with a whole object instead of a range of it.")
        else:
            length += 1
        if size is not None and size <= length:
            return await _all(body, size)
        pieces, room = [], length
        while room and (piece := await body.read(min(room, PIECE))):
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces)
    finally:
        body.close()


async def _all(body: Any, size: int) -> bytes:
    """All of a body that has *size* bytes, which the client sees to."""
    if size <= PIECE:
        data: bytes = await body.read()
        return data
    # Put together where they stay: a join would need twice the memory.
    target, at = BytesIO(bytes(size)), 0
    with target.getbuffer() as out:
        while piece := await body.read(PIECE):
            out[at : at + len(piece)] = piece
            at += len(piece)
    target.truncate(at)
    return target.getvalue()


class DirectSession(AIOHTTPSession):
    """Requests go where the client was told to send them, and nowhere else.

    aiohttp would follow a redirect to any host, and take what is sent and a session token along.
    """

    async def _get_session(self, proxy_url: str | None) -> Any:
        return _Direct(await super()._get_session(proxy_url))


class _Direct:
    def __init__(self, session: Any) -> None:
        self._session = session

    def request(self, method: str, **arguments: Any) -> Any:
        # A host that never says "100 Continue" would be waited for without end, and asking costs a round trip.
        body = arguments.get("data")
        if isinstance(body, BytesIO) and body.tell() == 0:  # what botocore makes of bytes
            body = body.getvalue()
        if _length(body) <= UNASKED:
            arguments["headers"].popall("Expect", None)
        elif method == "PUT":
            # It can refuse them before they are on their way. botocore asks for files only.
            arguments["headers"].setdefault("Expect", "100-continue")
        if isinstance(body, bytes | bytearray):
            arguments["data"] = _Body(body)
        return self._session.request(method, allow_redirects=False, **arguments)


class _Body(Payload):
    """The body of a request, sent from where it lies: aiohttp would copy all of it to learn its size."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__(data)
        self._size = len(data)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """As text, which nobody asks for."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it; each piece waits until the connection has taken the one before."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send so many bytes of it, or all."""
        with memoryview(self._value)[:content_length] as view:
            for start in range(0, len(view), PIECE):
                await writer.write(view[start : start + PIECE])


def _length(body: Any) -> int:
    """Bytes of a request's body; many when it does not tell."""
    if isinstance(body, BytesIO):
        at, end = body.tell(), body.seek(0, SEEK_END)  # not by its buffer, which would be copied
        body.seek(at)
        return end
    try:
        return len(body or b"")
    except TypeError:
        return UNASKED + 1


class _Patience:
    """Retries what botocore would not: a plain 429. Waits as long as the host asks for, within bounds.

    And keeps botocore, which asks a host that redirects for the bucket's region, from asking
    without end when that is redirected, too.
    """

    def __init__(self, client: Any) -> None:
        self._attempts: int = (client.meta.config.retries or {}).get("total_max_attempts", 1)

    def __call__(
        self, attempts: int, response: Any = None, operation: Any = None, request_dict: Any = None, **_: Any
    ) -> float | None:
        if operation.name == "HeadBucket":
            request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True
        if response is None or attempts >= self._attempts:
            return None
        answer = response[0]
        asked = answer.headers.get("retry-after", "") if answer is not None else ""
        wait = min(int(asked), LONGEST_WAIT) if asked.isascii() and asked.isdigit() else None
        if answer is None or answer.status_code not in {429, 503} or (answer.status_code == 503 and wait is None):
            return None
        return _backoff(attempts) + (wait or 0)


def _backoff(attempts: int) -> float:
    """Seconds to wait, as botocore's standard mode has it."""
    return random.random() * min(2.0 ** (attempts - 1), LONGEST_WAIT)  # noqa: S311 - no secret
