"""Data keys of earlier commits, and places that are none: what thieves, curators and late-comers make of them."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import Adversary
from repacking import commit_repack, repack

from sealedhealth.errors import AccessDenied
from sealedhealth.log import changeset
from sealedhealth.log.columns import Field
from sealedhealth.log.names import change_name
from sealedhealth.log.place import PLACE_LIMIT
from sealedhealth.log.roster import Role
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.maintenance import collect, destroy_keys, maintain
from sealedhealth.session.verify import verify
from sealedhealth.stores.location import Location


def told(world, sequence):
    """What anybody who opens the dataset anew is told of a commit."""
    return world.open(forgetful=True).history()[sequence]


def goes_on(world, honest):
    """Nothing is lost, others still commit, and all of it verifies."""
    assert world.files(world.open(forgetful=True)) == honest
    world.put({"shared/later": b"later"})
    assert world.files(world.open(forgetful=True)) == {**honest, "shared/later": b"later"}
    verify(world.open())


def key_of(world, path):
    """The data key that a file lies under."""
    return world.open().snapshot.get(path).data_key_id


# -- a stolen producer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [["hospital/honest"], ["shared/one", "shared/two"]])
def test_stolen_producer_reuses_a_data_key(world, thief, honest, paths):
    """Even with a data key that leaked, its own or another's, it seals nothing under what the log has already."""
    bad = Adversary(world, "producer")
    change = repack(world.open(), paths, author_id=bad.author_id)
    sequence = bad.commit(change)
    assert "earlier commit" in told(world, sequence).refused[0]
    goes_on(world, honest)


def test_stolen_producer_sends_its_repack_through_a_curator(world, thief, honest):
    """A curator's link does not lend it the right: what counts is who signed the change set."""
    bad, curator = Adversary(world, "producer"), Adversary(world, "author")
    raw = repack(world.open(), ["hospital/honest"], author_id=bad.author_id).pack(bad.sign)
    change_id = os.urandom(16)
    bad.store.put(change_name(change_id), raw)
    sequence = curator.anchor(curator.link({change_id: raw}))
    assert told(world, sequence).refused
    goes_on(world, honest)


PLACES = [
    "", "nonsense", "[]", '{"store":"s3"}', '{"endpoint":"h/b","jurisdiction":"","region":"","store":"s3"}',
    '{"endpoint":"","jurisdiction":"\\u001b[2J","region":"","store":"s3"}', "[" * 2000, "x" * (PLACE_LIMIT + 1),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
def test_stolen_producer_says_a_place_that_is_none(world, thief, honest, place, monkeypatch):
    """Its change set is refused like one with any other wrong part; nobody is stopped, nothing reaches a terminal."""
    bad = Adversary(world, "producer")
    fields = {**changeset._SCHEMA.fields, "location": Field(str, 1 << 16, optional=True)}
    with monkeypatch.context() as patch:
        patch.setattr(changeset, "dump_place", lambda location: place)
        patch.setattr(changeset, "_SCHEMA", replace(changeset._SCHEMA, fields=fields))
        change = bad.data(location=Location("file"))
        raw = change.pack(bad.sign)
    bad.store.put(change_name(change.change_id), raw)
    sequence = bad.anchor(bad.link({change.change_id: raw}))
    assert told(world, sequence).refused
    assert told(world, sequence).locations == ()
    goes_on(world, honest)


# -- a curator ----------------------------------------------------------------------------------------------


def test_repack_is_its_curators_commit(world, thief, honest):
    """Whose bytes a commit moves says nothing of who signed it: the history names the curator."""
    sequence = commit_repack(world.open(), ["hospital/honest"])
    commit = told(world, sequence)
    assert (commit.author, commit.refused) == ("author", ())
    assert key_of(world, "hospital/honest") in world.open().engine.loaded.state.keys
    goes_on(world, honest)


def test_curator_signs_a_repack_in_the_name_of_the_producer(world, thief, honest):
    """It holds the data key, not the producer's signing key: the change set is refused, or its link is void."""
    world.join("curator", Role.CURATOR)
    curator = Adversary(world, "curator")
    producer_id = Adversary(world, "producer").author_id
    forged = repack(world.open(), ["hospital/honest"], author_id=producer_id)
    refused = curator.commit(forged)
    curator.author_id = producer_id
    void = curator.commit(replace(forged, change_id=os.urandom(16)))
    assert "signature" in told(world, refused).refused[0]
    assert "signature" in told(world, void).void
    goes_on(world, honest)


def test_repack_by_the_id_of_an_object_in_use(world, thief, honest):
    """Two objects never count as one: collecting garbage would take the file of the other with it."""
    session = world.open()
    taken = session.snapshot.get("shared/one").object_id
    copy = world.backup(world.host / "objects")
    change = repack(session, ["shared/two"], object_id=taken)
    world.restore(copy, world.host / "objects")  # the host keeps the first, whatever is written over it
    sequence = Adversary(world, "author").commit(change)
    assert "there already" in told(world, sequence).refused[0]
    collect(world.open(), grace=timedelta(0))
    goes_on(world, honest)


# -- after a destruction ----------------------------------------------------------------------------------


def test_destroyed_key_seals_nothing(world, thief, honest):
    """A curator who kept the data key, or signed before, brings nothing back under it."""
    change = repack(world.open(), ["shared/one", "shared/two"])
    destroy_keys(world.open(), [change.reused_keys[0].key_id])
    sequence = Adversary(world, "author").commit(change)
    assert "destroyed" in told(world, sequence).refused[0]
    goes_on(world, {"hospital/honest": honest["hospital/honest"]})


def test_client_does_not_begin_what_is_refused(world):
    """An honest collector that comes too late is told so, and nothing of it is committed."""
    session = world.open()
    change = repack(session, ["shared/one"])
    destroy_keys(world.open(), [change.reused_keys[0].key_id])
    newest = world.newest()
    with pytest.raises(AccessDenied, match="destroyed"):
        submit(session.engine, Request(change=change, raw=change.pack(session.engine.sign)))
    assert world.newest() == newest


def test_destruction_follows_what_was_repacked(world, thief, honest):
    """Names and content end together, wherever they were moved: no data key that is left opens either."""
    doomed = key_of(world, "shared/one")
    sequence = commit_repack(world.open(), ["shared/one", "shared/two"])
    maintain(world.open(), force=True)
    session = world.open()
    entry = session.snapshot.get("shared/one")
    assert entry.data_key_id == doomed
    assert entry.sequence == sequence
    destroy_keys(session, [doomed])
    left = world.open(forgetful=True)
    assert world.files(left) == {"hospital/honest": honest["hospital/honest"]}
    opened = left._open_sections(left.engine.loaded.state, left.engine.log.replay(
        left.engine.log.start(), left.engine.log.anchors_from(0)))  # fmt: skip
    assert opened
    assert not any("shared/one" in {put.path for put in section.puts} for section in opened.values())
    goes_on(world, {"hospital/honest": honest["hospital/honest"]})
