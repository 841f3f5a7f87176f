"""Distributed writes with keys in a real OpenBao: every process logs in as itself, with the least rights that do."""

from __future__ import annotations

import multiprocessing
import pickle
import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from datasets import write_part
from vault_servers import VaultServer
from vault_world import VaultWorld

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.log.roster import Role
from sealedhealth.profiles import disconnect

pytestmark = pytest.mark.vault


@pytest.fixture
def world(tmp_path: Path, vault_server: VaultServer, monkeypatch: Any) -> Iterator[VaultWorld]:
    """A dataset whose keys and anchors are in OpenBao."""
    for name in ("SEALEDHEALTH_CONFIG", "SEALEDHEALTH_TEST_ROOT_TOKEN"):
        monkeypatch.setenv(name, "")  # put back afterwards
    made = VaultWorld(tmp_path, vault_server)
    yield made
    made.close()


def test_encrypt_only_workers(world: VaultWorld) -> None:
    """Processes that log in as a producer, which may unwrap nothing, write; the same one commits."""
    profile = world.join("lille", VaultRole.PRODUCER, Role.PRODUCER, prefix="lille")
    ds = Dataset(world.open(profile))
    files = [{f"lille/{number}": b"%d" % number} for number in range(4)]
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
        ds.distribute("by a producer") as job,
    ):
        receipts = list(pool.map(write_part, [job.task] * 4, files))
        job.add(*receipts)
    assert world.files() == {path: data for one in files for path, data in one.items()}
    assert world.open(world.controller).history()[-1].message == "by a producer"
    secrets = [Path(profile.vault.login.secret_id_file).read_text(), world.token(profile), world.server.root_token]
    for thing in (job.task, *receipts):
        for secret in secrets:
            assert secret.encode() not in pickle.dumps(thing)


def test_curator_commits_what_producers_wrote(world: VaultWorld) -> None:
    """Each under its own identity and prefix; a producer cannot do it for another."""
    curator = world.join("curator", VaultRole.CURATOR, Role.CURATOR)
    producers = [world.join(name, VaultRole.PRODUCER, Role.PRODUCER, prefix=name) for name in ("lille", "lyon")]
    job = Dataset(world.open(curator)).distribute()
    receipts = []
    for profile in producers:
        with job.task.open(profile=profile) as part:
            part.put_bytes(f"{profile.author.partition('-')[0]}/x", b"x")
        receipts.append(part.receipt)
    with pytest.raises(AccessDenied, match="1 of 2 parts"):
        job.task.resume(profile=producers[0]).commit(receipts)
    assert job.commit(receipts).puts == 2
    assert set(world.files()) == {"lille/x", "lyon/x"}


def test_token_revoked_in_the_middle(world: VaultWorld) -> None:
    """The worker says so, and the stage commits nothing."""
    curator = world.join("curator", VaultRole.CURATOR, Role.CURATOR)
    profile = world.join("lille", VaultRole.PRODUCER, Role.PRODUCER, prefix="lille")
    job = Dataset(world.open(curator)).distribute()
    part = job.task.open(profile=profile)
    part.put_bytes("lille/small", b"x")
    Path(profile.vault.login.secret_id_file).write_text(str(uuid.uuid4()))  # nor does it get another token
    accessors = world.server.raw.must("LIST", "auth/token/accessors")["data"]["keys"]
    for accessor in accessors:
        status, found = world.server.raw("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        if status == 200 and profile.author in str(found["data"]):
            world.server.raw.must("POST", "auth/token/revoke-accessor", {"accessor": accessor})
    with pytest.raises(AccessDenied):
        part.finish()
    assert part.receipt is None
    job.abort()
    disconnect()
    assert world.files() == {}
