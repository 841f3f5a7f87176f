"""Eight processes that write to one dataset as fast as they can: commits a second, by the distance to the Vault."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.hosts.servers import BUCKET, Host, far_away, openbao, seaweed
from benchmarks.places import directory, in_memory
from benchmarks.report import Section, seconds
from sealedhealth.keys.vault import TokenVariableLogin, VaultClient, VaultConfig
from sealedhealth.keys.vault.client import Call
from sealedhealth.keys.vault.policies import Mounts
from sealedhealth.keys.vault.setup import apply, server_plan
from sealedhealth.keys.vault.table import VaultTable
from sealedhealth.log.roster import Role
from sealedhealth.profiles import Profile, connect, disconnect, load_profile
from sealedhealth.session import Session, create_dataset, set_author

MOUNTS = Mounts()
TOKEN = "SEALEDHEALTH_BENCH_TOKEN"
WRITERS = 8
DISTANCES_MS = (0, 5, 20)
#: A producer signs, asks for new data keys and creates anchors; it opens nothing.
POLICY = f"""
path "{MOUNTS.transit}/decrypt/*" {{ capabilities = ["deny"] }}
path "*" {{ capabilities = ["create", "read", "update", "list", "sudo"] }}
"""


def run(*, quick: bool) -> Section:
    """The section of the report."""
    duration = 2.0 if quick else 8.0
    section = Section(
        "Many writers",
        f"{WRITERS} processes, each a producer, commit one file of 1 KiB after another to one dataset on SeaweedFS for "
        f"{duration:g} s; OpenBao is behind a proxy that holds each request back. Races lost are tries at a number "
        "that somebody else took first. `alone` is one writer.",
        ["to the Vault", "alone: commits/s", f"{WRITERS}: commits/s", "median commit", "slowest", "races lost/commit"],
    )
    found = {}
    with _world() as (host, near, place):
        for distance in DISTANCES_MS:
            with far_away(near, distance) as address:
                alone = _let_loose(place, host, address, 1, duration / 2)
                found[distance] = alone, _let_loose(place, host, address, WRITERS, duration)
    for distance, (alone, crowd) in found.items():
        section.row(
            f"{distance} ms",
            f"{_rate(alone):.1f}",
            f"{_rate(crowd):.1f}",
            seconds(median(time for found in crowd for time in found["times"])),
            seconds(max(time for found in crowd for time in found["times"])),
            f"{sum(found['lost'] for found in crowd) / sum(len(found['times']) for found in crowd):.2f}",
        )
    return section


def _rate(found: list[dict[str, Any]]) -> float:
    return sum(len(one["times"]) / one["seconds"] for one in found)


@contextmanager
def _world() -> Iterator[tuple[Host, str, Path]]:
    root = secrets.token_hex(16)
    with ExitStack() as stack:
        place = stack.enter_context(directory(in_memory()))
        host = stack.enter_context(seaweed())
        near = stack.enter_context(openbao(root))
        os.environ[TOKEN] = root
        admin = VaultClient(VaultConfig(near), TokenVariableLogin(TOKEN))
        list(apply(server_plan(MOUNTS), admin))
        founder = _profile(place, host, near, "founder")
        session = create_dataset(f"s3://{BUCKET}/dataset", founder)
        for number in range(WRITERS):
            name = f"writer{number}"
            key = connect(founder).service.create_author(name)
            set_author(session, key.public_key, name=name, roles=[Role.PRODUCER], prefix=name)
        admin.write("sys/policies/acl/bench-producer", {"policy": POLICY})
        answer = admin.request("POST", "auth/token/create", {"policies": ["bench-producer"], "ttl": "1h"})
        admin.close()
        os.environ[TOKEN] = answer.body["auth"]["client_token"]
        yield host, near, place
        disconnect()


def _profile(place: Path, host: Host, address: str, author: str) -> Profile:
    table = VaultTable(VaultConfig(address), TokenVariableLogin(TOKEN), MOUNTS, None)
    return replace(
        load_profile(),
        name=author,
        author=author,
        keys="vault",
        vault=table,
        store=host.options,
        state=place / "state" / f"{author}-{os.getpid()}",
    )


def _let_loose(place: Path, host: Host, address: str, count: int, duration: float) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.hosts.writers", "s3fs", "hvac"])
    barrier = context.Barrier(count)
    results = context.SimpleQueue()
    arguments = (place, host, address, dict(os.environ), duration, barrier, results)
    processes = [context.Process(target=_write, args=(number, *arguments), daemon=True) for number in range(count)]
    for process in processes:
        process.start()
    found = [json.loads(results.get()) for _ in processes]
    for process in processes:
        process.join()
    return found


def _write(
    number: int,
    place: Path,
    host: Host,
    address: str,
    environment: dict[str, str],
    duration: float,
    barrier: Any,
    results: Any,
) -> None:
    os.environ.update(environment)
    profile = _profile(place, host, address, f"writer{number}")
    session = Session.open(f"s3://{BUCKET}/dataset", profile)
    offered = 0

    def observe(call: Call) -> None:
        nonlocal offered
        offered += call.method == "POST" and "/anchors/" in call.path

    getattr(connect(profile).service, "client").observe = observe  # noqa: B009 - only a Vault's service has one
    times: list[float] = []
    data = os.urandom(1024)
    _commit(session, f"writer{number}/warm", data)
    barrier.wait()
    begun, offered = time.perf_counter(), 0
    while time.perf_counter() < begun + duration:
        start = time.perf_counter()
        _commit(session, f"writer{number}/{len(times)}", data)
        times.append(time.perf_counter() - start)
    took = time.perf_counter() - begun
    results.put(json.dumps({"times": times, "seconds": took, "lost": offered - len(times)}))


def _commit(session: Session, path: str, data: bytes) -> None:
    with session.begin() as transaction:
        transaction.put_bytes(path, data)
