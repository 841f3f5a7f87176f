"""A dataset moves from one real host to another by somebody without a key; its keys stay in OpenBao."""

import os
from dataclasses import replace

import pytest
from conftest import Place
from datasets import ENVIRONMENT
from vault_world import MOUNTS, VaultWorld

from sealedhealth import Dataset
from sealedhealth.errors import IntegrityError, MissingError
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.keys.vault.setup import apply, dataset_plan
from sealedhealth.profiles import connect
from sealedhealth.replicate import check_host, moving, replicate
from sealedhealth.session import Session

pytestmark = [pytest.mark.seaweed, pytest.mark.vault]

FILES = {
    "labs/small.csv": b"patient;value\n" * 10,
    "labs/other.csv": b"x" * 5000,
    "scans/large.bin": os.urandom(1_500_000),
}


@pytest.fixture
def old_place(make_place) -> Place:
    """The host that is left."""
    return make_place("seaweed")


@pytest.fixture
def world(tmp_path, vault_server, old_place, monkeypatch):
    """A dataset on SeaweedFS with a data controller and a reader in OpenBao."""
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", "")
    for option, variable in ENVIRONMENT.items():
        if option in old_place.options:
            monkeypatch.setenv(variable, old_place.options[option])
    options = {key: value for key, value in old_place.options.items() if key not in ENVIRONMENT}
    world = VaultWorld(tmp_path, vault_server, host=old_place.url, store=options)
    yield world
    world.close()


def test_move(world, old_place, host_place, monkeypatch):
    """Replicated without a key, registered, read by the new URL only; the old host can do what it likes."""
    monkeypatch.setattr(moving, "STREAMED", 1_000_000)
    world.put(FILES)
    world.put({"labs/other.csv": b"newer"})
    reader = world.enrol("job", VaultRole.READER)
    expected = {**FILES, "labs/other.csv": b"newer"}
    old, new = old_place.store(), host_place.store()

    report = replicate(old, new, world.dataset_id)
    assert report.error() is None
    assert report.destination["store"] == new.location.store != ""
    again = replicate(old, new, world.dataset_id, anchors=connect(world.controller).anchors, check=True)
    assert again.error() is None
    assert again.copied.files == 0
    assert check_host(new, world.dataset_id).error() is None

    there = replace(world.controller, store=host_place.options)
    moved = Dataset.register(host_place.url, world.dataset_id.hex(), profile=there)
    assert moved.url == host_place.url
    # Policies name the URL's entry in the registry: `sealedhealth vault setup URL` does this.
    list(apply(dataset_plan(MOUNTS, replace(world.keys, urls=(moved.url,))), world.admin))

    for name in [name for name, _ in old.list("")]:
        old.put(name, b"gone")
    reading = Session.open(host_place.url, replace(reader, store=host_place.options))
    assert {path: reading.read_ranges([(entry, 0, entry.length)])[0] for path, entry in reading.snapshot.items()} == (
        expected
    )
    with pytest.raises(IntegrityError):
        check_host(old, world.dataset_id)

    moved.fs.pipe_file("labs/after.csv", b"after the move")
    newest = moved.history()[-1]
    assert newest.locations[0].store == new.location.store
    assert newest.locations[0].endpoint == new.location.endpoint
    assert moved.history()[1].locations[0].endpoint == old.location.endpoint
    assert check_host(new, world.dataset_id, anchors=connect(there).anchors).error() is None


def test_damaged_on_its_way(world, old_place, host_place):
    """A lost and an altered object are named; the rest arrives, and heals with the next run."""
    world.put({"a": os.urandom(400_000), "b": os.urandom(400_000), "c": b"c"})
    old, new = old_place.store(), host_place.store()
    big = [(name, size) for name, size in old.list("objects") if size > 300_000]
    kept = {name: old.get(name, limit=size) for name, size in big}
    (lost, _), (altered, _) = big
    old.delete_many([lost])
    old.put(altered, b"\0" + kept[altered][1:])
    report = replicate(old, new, world.dataset_id)
    assert report.missing == [lost]
    assert report.corrupted == [altered]
    assert isinstance(report.error(), IntegrityError)
    assert not isinstance(report.error(), MissingError)
    assert {name for name, _ in new.list("objects")}.isdisjoint(kept)
    for name, data in kept.items():
        old.put(name, data)
    assert replicate(old, new, world.dataset_id).copied.names == {"object": 2}
    assert check_host(new, world.dataset_id).error() is None
