"""A proxy between a store's client and a real store: sees every request, and does harm when told to.

It forwards what the client signed as it is, ``Host`` included: with the proxy as the client's endpoint the
signatures stay valid.  Bodies are streamed in both directions.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 1 << 16

# --- what is asked for ---------------------------------------------------------------------


def operation(method: str, target: str) -> str:
    """What a request is called in the documentation of S3 or of Azure Blob Storage."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "x-ms-version" in query or "comp" in query or "restype" in query:
        return _azure(method, query)
    table = [
        ("PUT", "partNumber", "UploadPart"),
        ("PUT", None, "PutObject"),
        ("POST", "uploads", "CreateMultipartUpload"),
        ("POST", "uploadId", "CompleteMultipartUpload"),
        ("POST", "delete", "DeleteObjects"),
        ("DELETE", "uploadId", "AbortMultipartUpload"),
        ("DELETE", None, "DeleteObject"),
        ("HEAD", None, "HeadObject"),
        ("GET", "uploads", "ListMultipartUploads"),
        ("GET", "list-type", "ListObjectsV2"),
        ("GET", None, "GetObject"),
    ]
    return next((name for verb, key, name in table if verb == method and (key is None or key in query)), method)


def _azure(method: str, query: dict[str, list[str]]) -> str:
    comp = query.get("comp", [""])[0]
    names = {
        "block": "PutBlock",
        "blocklist": "PutBlockList" if method == "PUT" else "GetBlockList",
        "list": "ListBlobs",
        "batch": "Batch",
    }
    return names.get(comp, f"{method} {comp}".strip())


@dataclass
class Seen:
    """A request that came to the proxy."""

    operation: str
    path: str  #: decoded, without the query
    query: str
    headers: dict[str, str]  #: names in lower case
    status: int = 0  #: what was answered; 0: nothing

    def __str__(self) -> str:
        return f"{self.operation} {self.path}"


# --- one request on its way ------------------------------------------------------------------


class Exchange:
    """One request, and what a fault can do with it."""

    def __init__(self, proxy: StoreProxy, handler: BaseHTTPRequestHandler) -> None:
        self.proxy = proxy
        self.handler = handler
        self.method = handler.command
        self.length = int(handler.headers.get("Content-Length") or 0)
        self._unread = self.length
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        name = operation(self.method, handler.path)
        if "x-ms-version" in headers:
            query = parse_qs(parts.query, keep_blank_values=True)
            plain = {"PUT": "PutBlob", "GET": "GetBlob", "HEAD": "GetBlobProperties", "DELETE": "DeleteBlob"}
            name = _azure(self.method, query) if "comp" in query else plain.get(self.method, self.method)
        self.seen = Seen(name, unquote(parts.path), parts.query, headers)

    def body(self) -> Iterator[bytes]:
        """The rest of the request's body, in pieces."""
        while self._unread:
            piece = self.handler.rfile.read(min(PIECE, self._unread))
            if not piece:
                raise ConnectionError("The client went away.")
            self._unread -= len(piece)
            yield piece

    def swallow(self) -> None:
        """Read the body and forget it."""
        for _ in self.body():
            pass

    def forward(self, upto: int | None = None) -> http.client.HTTPResponse:
        """Send the request to the server; with *upto* the connection breaks after so many bytes of the body."""
        connection = http.client.HTTPConnection(self.proxy.host, self.proxy.port, timeout=60)
        connection.putrequest(self.method, self.handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.handler.headers.items():
            if name.lower() not in {"connection", "expect"}:
                connection.putheader(name, value)
        connection.endheaders()
        sent = 0
        for piece in self.body():
            if upto is not None and sent + len(piece) > upto:
                connection.send(piece[: upto - sent])
                _reset(connection.sock)
                raise ConnectionError("Cut on purpose.")
            connection.send(piece)
            sent += len(piece)
        return connection.getresponse()

    def relay(self, response: http.client.HTTPResponse, *, upto: int | None = None, drip: float = 0.0) -> None:
        """Hand the server's answer on; with *upto* the connection breaks after so many bytes of it."""
        self._head(response.status, response.getheaders(), response.getheader("Content-Length"))
        sent = 0
        while self.method != "HEAD" and (piece := response.read(1 if drip else PIECE)):
            if upto is not None and sent + len(piece) > upto:
                self.handler.wfile.write(piece[: upto - sent])
                self.handler.wfile.flush()
                self.reset()
                return
            self._write(piece, response.getheader("Content-Length") is None)
            sent += len(piece)
            time.sleep(drip)
        if response.getheader("Content-Length") is None and self.method != "HEAD" and response.status not in {204, 304}:
            self.handler.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> None:
        """Answer in the server's place."""
        self.swallow()
        kept = [(name, value) for name, value in headers or [] if name.lower() != "content-length"]
        self._head(status, kept, str(len(body)))
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def error(self, status: int, code: str, headers: list[tuple[str, str]] | None = None) -> None:
        """Answer with an error in the form of the host's kind."""
        body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>Said by the proxy.</Message>"
        azure = [("x-ms-error-code", code)] if "x-ms-version" in self.seen.headers else []
        kind = [("Content-Type", "application/xml"), *azure]
        self.answer(status, f"{body}</Error>".encode() if code else b"", [*kind, *(headers or [])])

    def reset(self) -> None:
        """Break the connection to the client."""
        self.handler.close_connection = True
        _reset(self.handler.connection)

    def _head(self, status: int, headers: list[tuple[str, str]], length: str | None) -> None:
        self.seen.status = status
        self.handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.handler.send_header(name, value)
        if length is not None:
            self.handler.send_header("Content-Length", length)
        elif self.method != "HEAD" and status not in {204, 304}:
            self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()

    def _write(self, piece: bytes, chunked: bool) -> None:
        self.handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError):
        connection.close()


# --- faults ------------------------------------------------------------------------------------

Fault = Callable[[Exchange], None]


def refused(status: int, code: str = "", *headers: tuple[str, str]) -> Fault:
    """An error instead of doing what was asked for."""
    return lambda exchange: exchange.error(status, code, list(headers))


def dropped(exchange: Exchange) -> None:
    """The connection breaks before the request is carried out."""
    exchange.swallow()
    exchange.reset()


def broken_upload(exchange: Exchange) -> None:
    """The connection breaks in the middle of the request's body, for the server, too."""
    try:
        exchange.forward(upto=exchange.length // 2).read()
    finally:
        exchange.reset()


def lost(exchange: Exchange) -> None:
    """The request is carried out, and its answer is lost."""
    exchange.forward().read()
    exchange.reset()


def cut(exchange: Exchange) -> None:
    """The connection breaks in the middle of the answer."""
    response = exchange.forward()
    exchange.relay(response, upto=int(response.getheader("Content-Length") or 2) // 2)


def changed(change: Callable[[bytes], bytes]) -> Fault:
    """The answer's body is another one, its length fits."""

    def fault(exchange: Exchange) -> None:
        response = exchange.forward()
        body = response.read()
        if response.status < 300 and body:
            body = change(body)
        exchange.answer(response.status, body, response.getheaders())

    return fault


shorter = changed(lambda body: body[:-1])
longer = changed(lambda body: body + b"x")
flipped = changed(lambda body: body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :])


def whole(fetch: Callable[[str], bytes]) -> Fault:
    """The whole object with 200, as from a host that knows no ranges; *fetch* gets it by its path."""
    return lambda exchange: exchange.answer(200, fetch(exchange.seen.path))


def redirected(location: str, status: int = 307) -> Fault:
    """Go elsewhere."""
    return lambda exchange: exchange.error(status, "TemporaryRedirect", [("Location", location)])


def silent(exchange: Exchange) -> None:
    """Nothing ever comes."""
    exchange.swallow()
    exchange.proxy.closing.wait(120)


def deaf(exchange: Exchange) -> None:
    """The request's body is not even read."""
    exchange.proxy.closing.wait(120)


def dripping(seconds: float) -> Fault:
    """The answer comes byte by byte."""
    return lambda exchange: exchange.relay(exchange.forward(), drip=seconds)


def late(seconds: float) -> Fault:
    """All is well, after a while."""

    def fault(exchange: Exchange) -> None:
        response = exchange.forward()
        time.sleep(seconds)
        exchange.relay(response)

    return fault


class Replay:
    """Remembers the first answer for each address, and gives it ever after: a cache that nobody told of changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {}

    def __call__(self, exchange: Exchange) -> None:
        key = f"{exchange.seen} {exchange.seen.query} {exchange.seen.headers.get('range', '')}"
        if key not in self._known:
            response = exchange.forward()
            self._known[key] = response.status, response.getheaders(), response.read()
        status, headers, body = self._known[key]
        exchange.answer(status, body, headers)


# --- the proxy -----------------------------------------------------------------------------------


@dataclass
class Rule:
    """Which requests a fault happens to."""

    fault: Fault
    where: re.Pattern[str]  #: looked for in "Operation /path"
    after: int  #: so many of them are let through first
    times: int  #: how many of them it happens to; -1: all
    happened: int = 0


class _Server(ThreadingHTTPServer):
    """Clients that give up are what the tests are about: no word about them."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class StoreProxy:
    """Listens on loopback and forwards to a store, except where a rule says otherwise."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.seen: list[Seen] = []
        self.closing = threading.Event()
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = PIECE

            def handle_expect_100(self) -> bool:
                answered = super().handle_expect_100()
                self.wfile.flush()
                return answered

            def handle_any(self) -> None:
                exchange = Exchange(proxy, self)
                fault = proxy._fault(exchange.seen)
                try:
                    if fault is None:
                        exchange.relay(exchange.forward())
                    else:
                        fault(exchange)
                    self.wfile.flush()
                except (OSError, http.client.HTTPException, ValueError):
                    exchange.reset()

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - as http.server wants it

            def log_message(self, *args: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def when(self, where: str, fault: Fault, *, after: int = 0, times: int = 1) -> Rule:
        """From now on *fault* happens to requests whose "Operation /path" matches *where*."""
        rule = Rule(fault, re.compile(where), after, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Be honest from now on, and forget what was seen."""
        with self._lock:
            self._rules = []
            self.seen = []

    def count(self, where: str = "") -> int:
        """How many requests matched since the last :meth:`clear`."""
        return sum(re.search(where, str(seen)) is not None for seen in self.seen)

    def operations(self) -> list[str]:
        """The operations that were asked for, in order."""
        return [seen.operation for seen in self.seen]

    def _fault(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            for rule in self._rules:
                if rule.times and rule.where.search(str(seen)):
                    if rule.after:
                        rule.after -= 1
                        continue
                    rule.times -= 1
                    rule.happened += 1
                    return rule.fault
        return None

    def close(self) -> None:
        """Stop."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def store_proxy(target: str) -> Iterator[StoreProxy]:
    """A proxy in front of the store at *target*."""
    proxy = StoreProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
