"""Each commit says where it was written; a move shows in the history."""

import uuid
from dataclasses import replace

import pytest
from datasets import local_profile, make_session

from sealedhealth import Dataset
from sealedhealth.log.place import Written, written_at
from sealedhealth.log.roster import Role
from sealedhealth.session import Session, create_dataset, set_author
from sealedhealth.session.maintenance import collect, destroy_keys, maintain, rewrap, rotate
from sealedhealth.session.verify import verify
from sealedhealth.stores import open_store
from sealedhealth.stores.location import Location
from sealedhealth.stores.residency import Residency

MEMORY, HERE = Location("memory", jurisdiction="FR"), Location("file", jurisdiction="FR")


@pytest.fixture
def profile():
    """A profile that declares where its stores are."""
    return replace(local_profile(), residency=Residency(jurisdiction="FR"))


def put(session, path, data=b"x"):
    """Commit one file."""
    tx = session.begin()
    tx.put_many({path: data})
    tx.commit()


def copy(url, target):
    """Every file of a store to another, as a mover without keys makes it."""
    source, sink = open_store(url, {}), open_store(target, {})
    for name, _ in [item for place in ("objects", ".sealedhealth") for item in source.list(place)]:
        sink.put(name, source.get(name, limit=1 << 20))


def test_every_kind_of_commit(profile):
    """Policies, data, tags, rewraps, collections and tombstones all say it, whoever signs them."""
    session = create_dataset(f"memory://{uuid.uuid4().hex}/dataset", profile)
    put(session, "doomed")
    doomed = session.snapshot.get("doomed").data_key_id
    set_author(session, bytes([4]) + bytes(96), name="x", roles=[Role.PRODUCER])
    put(session, "a")
    put(session, "a", b"y")
    maintain(session, force=True)
    rotate(session)
    rewrap(session)
    collect(session, grace=session.engine.context.service.now() - session.engine.context.service.now())
    destroy_keys(session, [doomed])
    history = session.history()
    assert {kind for commit in history for kind in commit.kinds} == {"policy", "data", "collect", "rewrap", "destroy"}
    assert {commit.locations for commit in history} == {(MEMORY,)}


def test_commits_before_and_after_a_move(profile, tmp_path):
    """Earlier commits keep the place they were written at, for whoever reads them at the new one."""
    session = create_dataset(f"memory://{uuid.uuid4().hex}/dataset", profile)
    put(session, "before")
    target = str(tmp_path / "moved")
    copy(session.url, target)
    moved = Dataset.register(target, session.dataset_id.hex(), profile=profile).session
    put(moved, "after")
    assert [commit.locations for commit in moved.history()] == [(MEMORY,), (MEMORY,), (HERE,)]
    report = verify(Session.open(target, profile))
    assert report.locations == (Written(MEMORY, 2, 0, 1), Written(HERE, 1, 2, 2))
    assert [str(place) for place in report.locations] == ["memory (FR), commits 0 to 1", "file (FR), commit 2"]


@pytest.mark.moto
def test_endpoint_and_region(make_place, monkeypatch):
    """On S3 a commit says endpoint and region, and neither bucket nor path nor key."""
    place = make_place("moto")
    session = make_session(place, monkeypatch)
    put(session, "a")
    [location] = {location for commit in session.history() for location in commit.locations}
    assert location.store == "s3"
    assert location.endpoint == place.options["endpoint_url"].removeprefix("http://")
    assert location.region == session.engine.location.region
    bucket = place.url.split("/")[2]
    assert not any(word in str(location) for word in (bucket, place.options["key"], place.options["secret"]))


def test_places_are_counted_by_commit():
    """Two change sets of one link are one commit; those that say nothing are counted as such."""
    places = [(0, None), (1, MEMORY), (1, MEMORY), (1, HERE), (5, MEMORY)]
    assert written_at(places) == (Written(None, 1, 0, 0), Written(MEMORY, 2, 1, 5), Written(HERE, 1, 1, 1))
    assert str(written_at(places)[0]) == "not recorded, commit 0"
    assert written_at([]) == ()
