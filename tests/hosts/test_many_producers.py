"""Many at once on real servers: producers, readers and a curator, each a process, around one dataset.

SeaweedFS holds it, OpenBao its keys and anchors, and everybody has the least rights that do.
The short form is 8 producers of 6 transactions; ``--long`` makes it 50.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import many
import pytest
import servers
import vault_servers
from conftest import BUCKET
from vault_world import VaultWorld

from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.log.names import change_name, link_name
from sealedhealth.log.roster import Role
from sealedhealth.session.maintenance import collect
from sealedhealth.session.verify import verify

pytestmark = [pytest.mark.vault, pytest.mark.seaweed]

PRODUCERS = 8
PATIENCE_S = 900  # of the long form, on a machine that does something else


@pytest.fixture
def world(
    tmp_path: Path, vault_server: vault_servers.VaultServer, seaweed_server: servers.S3Server, monkeypatch: Any
) -> Iterator[VaultWorld]:
    """A dataset on SeaweedFS whose keys and anchors are in OpenBao."""
    for name in ("SEALEDHEALTH_CONFIG", "SEALEDHEALTH_TEST_ROOT_TOKEN"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed_server.secret)
    store = {key: value for key, value in seaweed_server.options.items() if key not in {"key", "secret"}}
    made = VaultWorld(tmp_path, vault_server, host=f"s3://{BUCKET}/many-{os.urandom(6).hex()}", store=store)
    yield made
    made.close()


@pytest.mark.timeout(2 * PATIENCE_S)
def test_many_producers_lose_nothing(world: VaultWorld, tmp_path: Path, long_walk: bool) -> None:
    """Producers, one of them killed, readers, a curator: everything acknowledged is there, whole, in one history."""
    count, patience = (50, PATIENCE_S) if long_walk else (6, 120)
    producers = {
        f"p{number}": world.join(f"p{number}", VaultRole.PRODUCER, Role.PRODUCER, prefix=f"p{number}")
        for number in range(PRODUCERS)
    }
    reader, newcomer = (world.enrol(name, VaultRole.READER) for name in ("reader", "newcomer"))
    curator = world.join("curator", VaultRole.CURATOR, Role.CURATOR)
    victim = producers["p0"]
    with many.crowd(tmp_path / "told", world.url) as crowd:
        killed = crowd.start(many.produce, victim.name, "p0", 1, count)
        for prefix in list(producers)[1:]:
            crowd.start(many.produce, producers[prefix].name, prefix, 1, count)
        crowd.start(many.watch, reader.name, False)
        crowd.start(many.watch, newcomer.name, True)
        crowd.start(many.keep, curator.name, 60.0)
        crowd.wait(lambda: len(crowd.told("ready")) == PRODUCERS, 60)
        begun = time.monotonic()
        crowd.go()
        crowd.wait(lambda: len(crowd.told("token", victim.name)) >= count // 2, patience)
        killed.kill()
        killed.join()
        done = len(crowd.told("token", victim.name))
        crowd.start(many.produce, victim.name, "p0", done + 1, count)
        crowd.wait(lambda: len(crowd.told("token")) >= PRODUCERS * count, patience)
        seconds = time.monotonic() - begun
        crowd.end()
        acknowledged = crowd.told("token")
        looks = crowd.told("looks")
    # pytest --log-cli-level=INFO shows it
    logging.getLogger(__name__).info("%s", _figures(acknowledged, seconds))

    assert len(looks) == 2
    session = world.open(reader)
    assert many.inspect(session, max(line["sequence"] for line in looks)) == ""
    _one_history(session.history(), acknowledged, count)
    files = {path for path, _ in session.snapshot.items()}
    assert files == {
        path
        for prefix in producers
        for path in [
            *(f"{prefix}/{place}" for place in many.TOGETHER),
            *(many.name_of(prefix, number) for number in range(1, count + 1)),
        ]
    }
    assert verify(session).files == len(files)
    _nothing_is_left_over(world, curator)
    verify(world.open(reader))


def _one_history(history: list[Any], acknowledged: list[dict[str, Any]], count: int) -> None:
    """Every acknowledged transaction is one commit, at the number that its producer was told."""
    made = {info.message: info.sequence for info in history if info.message and info.author.startswith("p")}
    assert sorted(info.sequence for info in history) == list(range(len(history)))
    assert not [info for info in history if info.void or info.refused]
    for line in acknowledged:
        assert made.pop(line["token"]) == line["sequence"]
    # What the killed producer was not told any more may have been committed: once, and its own.
    assert [token.split()[0] for token in made] in ([], ["p0"])
    assert len(acknowledged) == PRODUCERS * count
    for _, lines in itertools.groupby(sorted(acknowledged, key=_producer), key=_producer):
        sequences = [line["sequence"] for line in lines]
        assert sequences == sorted(sequences)


def _producer(line: dict[str, Any]) -> str:
    return str(line["token"].split()[0])


def _nothing_is_left_over(world: VaultWorld, curator: Any) -> None:
    """After a collection with no grace the store has what the log names, and nothing else."""
    session = world.open(curator)
    for _ in range(2):
        collect(session, grace=timedelta(0))
    session = world.open(curator)
    loaded = session.engine.loaded
    objects = {item.object_id for content in (loaded.contents or {}).values() for item in content.catalogue.objects()}
    on_store = {name for name, _ in session.engine.store.list("objects")}
    assert {name.rpartition("/")[2] for name in on_store} == {object_id.hex() for object_id in objects}
    changes = {name for name, _ in session.engine.store.list(".sealedhealth/changes")}
    assert changes == {change_name(change_id) for change_id in loaded.state.changes}
    links = {name for name, _ in session.engine.store.list(".sealedhealth/log")}
    assert links == {link_name(sequence) for sequence in range(loaded.state.sequence + 1)}


def _figures(acknowledged: list[dict[str, Any]], seconds: float) -> str:
    """What it took, for the report of the run."""
    lost = [line["lost"] for line in acknowledged]
    return (
        f"{len(acknowledged)} commits in {seconds:.1f} s, {len(acknowledged) / seconds:.2f} a second; "
        f"{sum(lost) / len(lost):.2f} races lost per commit, {max(lost)} at most; "
        f"slowest commit {max(line['seconds'] for line in acknowledged):.2f} s"
    )
