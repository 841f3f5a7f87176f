"""A mover that is killed at any step: the destination is no dataset yet or a whole one; the next run completes it."""

import os
import shutil

import crashes
import pytest
from adversary import World

from sealedhealth.errors import MissingError, NotFound
from sealedhealth.log.names import DESCRIPTOR_NAME
from sealedhealth.replicate import PublicLog, check_host, moving, replicate
from sealedhealth.session import maintenance
from sealedhealth.stores import open_store

pytestmark = [
    # A child of fork in a test runner with threads: it never returns.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(600),
]

SAMPLE = 10  #: steps to die at in the short form


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A dataset with small objects, large ones and a checkpoint; then three more commits."""
    world = World(tmp_path_factory.mktemp("world"))
    world.put({"a": b"a", "large": os.urandom(300_000), "larger": os.urandom(600_000)})
    maintenance.maintain(world.open(), force=True)
    world.put({"b": b"b"})
    earlier = world.backup(world.host)
    for name in ("c", "d", "e"):
        world.put({name: os.urandom(300_000)})
    return world, earlier


@pytest.fixture
def move(world, monkeypatch):
    """Copy from one directory to another by somebody who has the id; 300 kB are large here."""
    monkeypatch.setattr(moving, "STREAMED", 200_000)
    monkeypatch.setattr(moving, "PART", 100_000)

    def run(source, target):
        stores = open_store(str(source), {}), open_store(str(target), {})
        report = replicate(*stores, world[0].dataset_id, pause=lambda _: None)
        assert report.error() is None
        return report.copied.files

    return run


def judge(dataset_id, target):
    """The last commit that the destination shows; -1 when it is no dataset. All that it claims is there."""
    store = open_store(str(target), {})
    try:
        public = PublicLog.read(store, dataset_id)
    except (NotFound, MissingError):
        assert not store.exists(DESCRIPTOR_NAME)
        return -1
    assert public.problems == []
    assert check_host(store, dataset_id).error() is None
    return public.sequence


@pytest.mark.parametrize("later", [False, True], ids=["first-run", "later-run"])
def test_killed(world, move, tmp_path, long_walk, later):
    """First copy and later one: dead at any step, nobody is misled, and doing it again completes it."""
    world, earlier = world
    newest = world.newest()
    before, target = tmp_path / "before", tmp_path / "target"
    if later:
        move(earlier, before)
    else:
        before.mkdir()
    start = judge(world.dataset_id, before)

    def doomed(watch):
        with watch.watching():
            move(world.host, target)
        return watch.steps

    shutil.copytree(before, target)
    _, total = crashes.child(lambda: doomed(crashes.Watch()))
    assert total > 20
    count = total + 1 if long_walk else SAMPLE
    seen = set()
    for step in sorted({round(index * total / (count - 1)) for index in range(count)}):
        shutil.rmtree(target)
        shutil.copytree(before, target)
        killed, _ = crashes.child(lambda step=step: doomed(crashes.killing(step)))
        assert killed or step >= total - 2, "steps differ from run to run"
        reached = judge(world.dataset_id, target)
        assert start <= reached <= newest
        assert later or reached in {-1, newest}
        seen.add(reached)
        move(world.host, target)
        assert judge(world.dataset_id, target) == newest
        assert move(world.host, target) == 0
    assert {start, newest} <= seen
