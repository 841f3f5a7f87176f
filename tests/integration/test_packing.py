"""Small files on real hosts: put, got, repacked while others write, kept by tags, and never lost."""

import threading
from datetime import timedelta

import pytest
from datasets import make_session

from sealedhealth.dataset import Dataset
from sealedhealth.errors import SnapshotCollected
from sealedhealth.session import Session
from sealedhealth.session.maintenance import repack

NOW = timedelta(0)
KINDS = ["memory", pytest.param("seaweed", marks=pytest.mark.seaweed)]


@pytest.fixture(params=KINDS)
def ds(request, make_place, monkeypatch):
    """A dataset that repacks however little there is to gain."""
    monkeypatch.setattr(repack, "LEAST_DEAD", 1)
    return Dataset(make_session(make_place(request.param), monkeypatch))


def files(folder, count=60):
    """Contents that differ, together more than a segment."""
    return {f"{folder}/{number:03}": f"{folder}{number}".encode() * 2500 for number in range(count)}


def objects(ds):
    """How many sealed objects the host has."""
    return len(list(ds.session.engine.store.list("objects")))


def contents(ds):
    """Everything in it."""
    return ds.fs.cat(ds.fs.find(""))


def remove(ds, folder, keep):
    """Delete all files of a folder but the first few; what is left."""
    with ds.transaction():
        for path in sorted(files(folder))[keep:]:
            ds.rm(path)
    return {path: data for path, data in files(folder).items() if path in sorted(files(folder))[:keep]}


def test_a_life(ds, tmp_path):
    """Put, got, thinned out, repacked, collected; times and paths stay, old snapshots until they are collected."""
    for path, data in files("in", 400).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    ds.put(tmp_path / "in")
    assert objects(ds) == 1
    ds.get("in", tmp_path / "out")
    assert {f"in/{path.name}": path.read_bytes() for path in (tmp_path / "out/in").iterdir()} == files("in", 400)
    with ds.transaction():
        for path in sorted(files("in", 400))[10:]:
            ds.rm(path)
    before = {path: (entry.mtime_us, entry.length) for path, entry in ds.snapshot.items()}
    dry = ds.gc(dry_run=True)
    assert (dry.repacked, ds.session.sequence) == (1, 2)
    done = ds.gc()
    assert (done.repacked, done.moved, done.dead) == (dry.repacked, dry.moved, dry.dead)
    assert done.damaged == 0
    assert objects(ds) == 2
    assert {path: (entry.mtime_us, entry.length) for path, entry in ds.snapshot.items()} == before
    kept = {path: data for path, data in files("in", 400).items() if path in before}
    assert contents(ds) == kept
    assert ds.at(1).fs.cat_file("in/399") == files("in", 400)["in/399"]
    assert ds.gc(grace=NOW).dropped == 1
    assert objects(ds) == 1
    assert contents(ds) == kept
    with pytest.raises(SnapshotCollected):
        ds.at(1)
    assert ds.verify().failures == ()
    assert ds.gc(grace=NOW).repacked == 0


def test_a_tag_keeps_its_packs(ds):
    """Moving their files would free nothing; without the tag it does."""
    ds.fs.pipe(files("a"))
    ds.tag("kept")
    left = remove(ds, "a", 5)
    assert ds.gc(grace=NOW).repacked == 0
    assert contents(ds.at("kept")) == files("a")
    ds.untag("kept")
    assert ds.gc(grace=NOW).repacked == 1
    assert contents(ds) == left
    assert objects(ds) == 1


def test_a_tag_made_later_keeps_the_old_pack(ds):
    """Of a snapshot from before the repacking, as long as that is not collected."""
    ds.fs.pipe(files("a"))
    remove(ds, "a", 5)
    ds.gc()
    ds.tag("late", 1)
    ds.gc(grace=NOW)
    assert contents(ds.at("late")) == files("a")


def test_somebody_changes_a_file_meanwhile(ds, monkeypatch):
    """What is changed between reading and committing is theirs; the rest is moved."""
    ds.fs.pipe(files("a"))
    left = remove(ds, "a", 5)
    other = Dataset(Session(ds.session.engine))
    seal = repack._Move._seal

    def sealed(self, batch):
        done = seal(self, batch)
        other.fs.pipe_file("a/000", b"theirs")
        other.fs.rm("a/001")
        return done

    monkeypatch.setattr(repack._Move, "_seal", sealed)
    ds.gc()
    ds.refresh()
    del left["a/001"]
    assert contents(ds) == {**left, "a/000": b"theirs"}
    assert ds.snapshot.get("a/002").sequence > ds.snapshot.get("a/000").sequence
    ds.gc(grace=NOW)
    assert contents(ds) == {**left, "a/000": b"theirs"}
    assert ds.verify().failures == ()


def test_everything_was_changed_meanwhile(ds, monkeypatch):
    """Then nothing is committed, and nothing is left on the host."""
    ds.fs.pipe(files("a"))
    remove(ds, "a", 2)
    other = Dataset(Session(ds.session.engine))
    seal = repack._Move._seal

    def sealed(self, batch):
        done = seal(self, batch)
        other.rm("a", recursive=True)
        return done

    monkeypatch.setattr(repack._Move, "_seal", sealed)
    assert ds.gc().repacked == 0
    assert objects(ds) == 1


def test_what_does_not_open_stays(ds):
    """A damaged pack is left where it is and counted; the others are moved."""
    ds.fs.pipe(files("a"))
    ds.fs.pipe(files("b"))
    store = ds.session.engine.store
    damaged = ds.snapshot.get("a/000").object_id.hex()
    [name] = [name for name, _ in store.list("objects") if damaged in name]
    data = bytearray(store.get(name, limit=1 << 30))
    data[300] ^= 1
    store.put(name, data)
    remove(ds, "a", 5)
    left = remove(ds, "b", 5)
    report = ds.gc()
    assert (report.repacked, report.damaged) == (1, 1)
    assert {path: ds.fs.cat_file(path) for path in left} == left


def test_producers_go_on_while_files_are_moved(ds):
    """Several collections beside a producer that adds, replaces and deletes: all that it was told is there."""
    expected = files("base")
    ds.fs.pipe(expected)
    expected = remove(ds, "base", 20)
    done = threading.Event()
    problems = []

    def collect():
        while not done.is_set():
            try:
                Dataset(Session(ds.session.engine)).gc()
            except Exception as error:  # noqa: BLE001 - reported by the test
                problems.append(error)
                return

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(8):
            new = files(f"new{number}", 12)
            with ds.transaction() as transaction:
                transaction.fs.pipe(new)
            ds.refresh()
            with ds.transaction():
                for path in sorted(new)[2:]:
                    ds.rm(path)
            expected |= {path: new[path] for path in sorted(new)[:2]}
    finally:
        done.set()
        collector.join()
    assert problems == []
    ds.refresh()
    assert contents(ds) == expected
    ds.gc(grace=NOW)
    assert contents(ds) == expected
    assert ds.verify().failures == ()
