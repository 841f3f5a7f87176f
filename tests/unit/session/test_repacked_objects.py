"""What garbage collection makes of objects that are younger than their data key."""

from datetime import timedelta

import pytest
from adversary import World
from repacking import commit_repack

from sealedhealth.log.names import object_name
from sealedhealth.session.maintenance import collect, maintain


@pytest.fixture
def world(tmp_path):
    """A dataset with two files in one commit, which a tag names, and a later commit in which they are one object."""
    world = World(tmp_path)
    world.put({"a": b"a", "b": b"b"})
    session = world.open()
    with session.begin() as tx:
        tx.tag("kept", session.sequence)
    commit_repack(world.open(), ["a", "b"])
    return world


def stored(world, *entries):
    """Whether the host has the object of each entry."""
    return [(world.host / object_name(entry.object_id)).exists() for entry in entries]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_tag_keeps_what_it_names_and_no_more(world, checkpointed):
    """A tag from before keeps the objects that the files lay in then, not the one they were moved into since."""
    if checkpointed:
        maintain(world.open(), force=True)
    session = world.open()
    before = [session.at("kept").snapshot.get(path) for path in "ab"]
    packed = session.snapshot.get("a")
    collect(session, grace=timedelta(0))
    assert stored(world, *before, packed) == [True, True, True]
    with world.open().begin() as tx:
        tx.delete("a")
        tx.delete("b")
    collect(world.open(), grace=timedelta(0))
    assert stored(world, *before, packed) == [True, True, False]
    assert world.read(world.open().at("kept"), "b") == b"b"


def test_tag_of_the_repacked_snapshot_keeps_its_object(world):
    """A tag from after keeps the object."""
    session = world.open()
    packed = session.snapshot.get("a")
    with session.begin() as tx:
        tx.tag("later", session.sequence)
    with world.open().begin() as tx:
        tx.delete("a")
        tx.delete("b")
    collect(world.open(), grace=timedelta(0))
    assert stored(world, packed) == [True]
    assert world.read(world.open().at("later"), "b") == b"b"


def test_last_file_takes_the_object_along(world):
    """Without tags an object goes once none of its files is left."""
    packed = world.open().snapshot.get("a")
    with world.open().begin() as tx:
        tx.untag("kept")
        tx.delete("a")
    collect(world.open(), grace=timedelta(0))
    assert stored(world, packed) == [True]
    assert world.files() == {"b": b"b"}
    with world.open().begin() as tx:
        tx.delete("b")
    collect(world.open(), grace=timedelta(0))
    assert stored(world, packed) == [False]


def test_reader_who_never_saw_the_first_commit(world):
    """A reader who starts from a checkpoint asks for the old data key, which no later commit brings."""
    maintain(world.open(), force=True)
    sequence = commit_repack(world.open(), ["b"])
    session = world.open(forgetful=True)
    assert session.engine.loaded.tail >= 1
    assert session.snapshot.get("b").sequence == sequence
    assert world.files(session) == {"a": b"a", "b": b"b"}
