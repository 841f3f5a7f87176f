"""Distributed writes: what many workers wrote is one commit, or nothing is.

The workers are in this process, except where the tests say otherwise.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from unittest import mock

import pytest
from adversary import World
from counting import CountingStore

from sealedhealth.dataset import Dataset, DistributedTask
from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    InvalidInput,
    MissingError,
    RolledBack,
    ServiceUnavailable,
    SnapshotCollected,
)
from sealedhealth.log.names import change_name, object_name
from sealedhealth.log.roster import Role, Settings
from sealedhealth.session import gathering
from sealedhealth.session.maintenance import collect, destroy_keys
from sealedhealth.session.verify import verify


@pytest.fixture
def world(tmp_path):
    """A dataset with one file."""
    world = World(tmp_path)
    world.put({"before": b"before"})
    return world


@pytest.fixture
def ds(world):
    """It, as the driver has it."""
    return Dataset(world.open())


def work(world, job, files, profile=None):
    """A worker in this process: its receipt."""
    task = pickle.loads(pickle.dumps(job.task))
    with task.open(profile=profile or world.controller) as part:
        part.put_many(files)
    return pickle.loads(pickle.dumps(part.receipt))


def paths(session):
    """Every path of a snapshot."""
    return {path for path, _ in session.snapshot.items()}


def stored(world):
    """Names of all objects and change sets on the store."""
    store = world.session.engine.store
    return {name for place in ("objects", ".sealedhealth/changes") for name, _ in store.list(place)}


# -- one commit ------------------------------------------------------------------------------------


def test_one_commit(world, ds):
    """Nothing shows before the commit; afterwards all of it does, with the driver's message, everywhere."""
    with ds.distribute("labs, week 12") as job:
        receipts = [work(world, job, {f"labs/{n}": b"%d" % n, f"large/{n}": b"x" * 300_000}) for n in range(5)]
        assert paths(world.open(forgetful=True)) == {"before"}
        job.add(*receipts)
    assert job.result.sequence == 2
    assert (job.result.puts, job.result.deletes) == (10, 0)
    assert job.result.sealed_bytes > 5 * 300_000
    assert ds.snapshot.sequence == 2
    reader = world.open(forgetful=True)
    assert world.read(reader, "labs/3") == b"3"
    assert len(paths(reader)) == 11
    [commit] = reader.history()[2:]
    assert (commit.message, commit.puts, commit.author, commit.refused) == ("labs, week 12", 10, "author", ())
    assert verify(reader).files == 11


def test_the_commit_has_a_data_key_per_worker(world, ds):
    """Each is fresh, so what one worker's key opens is what it wrote."""
    with ds.distribute() as job:
        job.add(*(work(world, job, {f"{n}": b"x"}) for n in range(3)))
    keys = {ds.snapshot.get(f"{n}").data_key_id for n in range(3)}
    assert len(keys) == 3
    key = ds.snapshot.get("1").data_key_id
    destroy_keys(world.open(), [key])
    assert paths(world.open(forgetful=True)) == {"before", "0", "2"}


def test_threads(world, ds):
    """Workers that are threads of the driver."""
    with ThreadPoolExecutor(4) as pool, ds.distribute() as job:
        for receipt in pool.map(lambda n: work(world, job, {f"{n}": b"%d" % n}), range(12)):
            job.add(receipt)
    assert {path for path, _ in ds.snapshot.items()} == {"before", *map(str, range(12))}


def test_nothing_written(world, ds):
    """A worker without anything to write has no receipt, and a job without any makes no commit."""
    with ds.distribute("nothing") as job:
        receipt = work(world, job, {})
        assert receipt is None
        job.add(receipt)
    assert job.result is None
    assert world.newest() == 1


def test_file_system_of_a_part(world, ds):
    """It shows base and own writes, reads them, and is of no use after the end."""
    with ds.distribute() as job:
        with job.task.open(profile=world.controller) as part:
            with part.fs.open(f"out/{part.id}.csv", "wb") as file:
                file.write(b"1;2")
            assert part.fs.cat_file(f"out/{part.id}.csv") == b"1;2"
            assert part.fs.cat_file("before") == b"before"
            with pytest.raises(InvalidInput, match="not finished"):
                _ = part.receipt
        with pytest.raises(InvalidInput):
            part.fs.pipe_file("late", b"x")
        job.add(part.receipt)
    assert {path for path, _ in ds.snapshot.items()} == {"before", f"out/{part.id}.csv"}


def test_writer_of_a_part(world, ds):
    """A stream; what is discarded is not there, and what is still open at the end fails the part."""
    with ds.distribute() as job:
        with job.task.open(profile=world.controller) as part:
            writer = part.writer("kept")
            writer.write(b"kept")
            writer.close()
            part.writer("dropped").discard()
        job.add(part.receipt)
        late = job.task.open(profile=world.controller)
        late.writer("open").write(b"x")
        with pytest.raises(InvalidInput, match="still open"):
            late.finish()
        assert late.receipt is None
    assert {path for path, _ in ds.snapshot.items()} == {"before", "kept"}


def test_driver_changes_in_the_same_commit(world, ds):
    """The driver's come first: a directory is replaced by what the workers write, under the same names or others."""
    world.put({"out/0": b"old", "out/1": b"old"})
    ds.refresh()
    with ds.distribute("overwrite") as job:
        job.fs.rm("out", recursive=True)
        job.fs.pipe_file("out/_SUCCESS", b"")
        job.add(work(world, job, {"out/0": b"new"}), work(world, job, {"out/2": b"new"}))
    assert ds.fs.cat("out", recursive=True) == {"out/0": b"new", "out/2": b"new", "out/_SUCCESS": b""}
    assert (job.result.puts, job.result.deletes) == (3, 1)
    assert world.files(world.open(forgetful=True)).keys() == {"before", "out/0", "out/2", "out/_SUCCESS"}


def test_delete_in_a_part(world, ds):
    """A curator's worker deletes, too."""
    with ds.distribute() as job:
        with job.task.open(profile=world.controller) as part:
            part.delete("before")
            part.put_bytes("after", b"x")
        job.add(part.receipt)
    assert paths(world.open(forgetful=True)) == {"after"}


def test_what_only_the_driver_does(world, ds):
    """Copies, moves, restores and tags of a part could not be checked for conflicts."""
    with ds.distribute() as job, job.task.open(profile=world.controller) as part:
        staged = part._part
        for change in (
            lambda: part.fs.cp_file("before", "copy"),
            lambda: part.fs.mv("before", "moved"),
            lambda: staged.restore("x", ds.snapshot.get("before")),
            lambda: staged.tag("x"),
            lambda: staged.untag("x"),
        ):
            with pytest.raises(InvalidInput, match="the driver"):
                change()


def test_everybody_starts_from_the_same_snapshot(world, ds):
    """A worker that starts after somebody else's commit sees the job's base, not that commit."""
    with ds.distribute() as job:
        world.put({"later": b"later"})
        for _ in range(2):
            with job.task.open(profile=world.controller) as part:
                assert set(part.fs.find("")) == {"before"}
                part.put_bytes(f"from/{part.id}", b"x")
            job.add(part.receipt)
    assert len(paths(world.open(forgetful=True))) == 4  # merged: other paths


def test_parts_are_of_the_newest_policy(world, ds):
    """An author who was taken off the roster while the job ran commits nothing."""
    profile = world.join("worker", Role.PRODUCER)
    ds.refresh()
    with suppress(AccessDenied), ds.distribute() as job:
        receipt = work(world, job, {"x": b"x"}, profile)
        world.join("worker", Role.PRODUCER, active=False)
        with pytest.raises(AccessDenied, match="not on the roster"):
            job.commit([receipt])
    assert paths(world.open(forgetful=True)) == {"before"}


# -- nothing -------------------------------------------------------------------------------------


def test_failed_stage(world, ds):
    """An exception in the driver's block commits nothing, and the objects go at once."""
    before = stored(world)
    with pytest.raises(RuntimeError), ds.distribute() as job:
        job.add(work(world, job, {"a": b"x" * 300_000}))
        raise RuntimeError
    assert world.newest() == 1
    assert not {name for name in stored(world) - before if name.startswith("objects")}
    with pytest.raises(InvalidInput):
        job.commit()
    job.abort()  # harmless


def test_failed_task(world, ds):
    """An exception in a worker leaves nothing on the store."""
    before = stored(world)
    with ds.distribute() as job:
        with pytest.raises(RuntimeError), job.task.open(profile=world.controller) as part:
            part.put_bytes("a", b"x" * 300_000)
            raise RuntimeError
        assert part.receipt is None
        assert stored(world) == before


def test_collection_takes_what_is_left(world, ds):
    """Not while the job may still commit; all of an aborted or forgotten one after the grace."""
    before = stored(world)
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x" * 300_000, "small": b"x"})
    collect(world.open())
    assert job.commit([receipt]).puts == 2
    after = stored(world)
    forgotten = ds.distribute()
    work(world, forgotten, {"b": b"x" * 300_000, "tiny": b"x"})
    assert stored(world) - after
    collect(world.open(), grace=timedelta(0))
    assert stored(world) == after
    assert before < after
    verify(world.open())


def test_same_path_in_two_parts(world, ds):
    """Say a task that ran twice: nothing is committed, and the path is named."""
    job = ds.distribute()
    receipts = [work(world, job, {"twice": b"1"}) for _ in range(2)]
    with pytest.raises(ConflictError, match="'twice' is written by part"):
        job.commit(receipts)
    assert world.newest() == 1


def test_speculative_attempt(world, ds):
    """Two attempts of one task: the one whose receipt is handed over counts; the other goes by collection."""
    with ds.distribute() as job:
        first, _lost = (work(world, job, {"twice": b"%d" % n}) for n in range(2))
        job.add(first, first)
        job.add(first)
    assert ds.fs.cat_file("twice") == b"0"
    collect(world.open(), grace=timedelta(0))
    assert world.files(world.open(forgetful=True)) == {"before": b"before", "twice": b"0"}


@pytest.mark.parametrize("first, second", [("a", "a/b"), ("a/b/c", "a")])
def test_file_and_directory(world, ds, first, second):
    """One part's file where another one needs a directory."""
    job = ds.distribute()
    with pytest.raises(ConflictError, match="file and a directory"):
        job.commit([work(world, job, {first: b"x"}), work(world, job, {second: b"x"})])
    assert world.newest() == 1


def test_written_and_deleted(world, ds):
    """One part deletes what another one writes."""
    job = ds.distribute()
    with job.task.open(profile=world.controller) as part:
        part.delete("before")
    with pytest.raises(ConflictError, match="deleted by one part"):
        job.commit([part.receipt, work(world, job, {"before": b"x"})])
    assert world.newest() == 1


def test_conflict_with_the_driver(world, ds):
    """The driver's own file in the way of a part's."""
    job = ds.distribute()
    job.fs.pipe_file("x", b"driver")
    with pytest.raises(ConflictError, match="written by the driver and by part"):
        job.commit([work(world, job, {"x": b"x"})])


@pytest.mark.parametrize(
    "theirs, ours", [("labs", "labs"), ("labs/1", "labs"), ("labs", "labs/1"), ("before", "before")]
)
def test_conflict_with_a_later_commit(world, ds, theirs, ours):
    """Somebody else wrote what a part writes since the base."""
    job = ds.distribute()
    receipt = work(world, job, {ours: b"ours", "other": b"x"})
    world.put({theirs: b"theirs"})
    with pytest.raises(ConflictError):
        job.commit([receipt])
    assert "other" not in paths(world.open(forgetful=True))


def test_too_old(world, ds):
    """A job older than half of the grace does not commit; its parts refuse before they are stored."""
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x"})
    late = ds.session.engine.context.service.now() + timedelta(days=8)
    with mock.patch.object(type(ds.session.engine.context.service), "now", return_value=late):
        with pytest.raises(AccessDenied, match="longer than half"):
            work(world, job, {"b": b"x"})
        with pytest.raises(AccessDenied, match="longer than half"):
            job.commit([receipt])
        with pytest.raises(AccessDenied, match="longer than half"):
            job.task.resume(profile=world.controller).commit([receipt])
    assert world.newest() == 1


def test_earlier_snapshot(ds):
    """It cannot be written to, by a job neither."""
    with pytest.raises(InvalidInput, match="earlier snapshot"):
        ds.at(0).distribute()


def test_other_history(world, ds, tmp_path):
    """A worker that does not see the commit that the job starts from writes nothing."""
    job = ds.distribute()
    ahead = {**job.task.to_json(), "base": 99}
    with pytest.raises(RolledBack, match="starts from commit 99"):
        DistributedTask.from_json(ahead).open(profile=world.controller)
    other = {**job.task.to_json(), "head": "00" * 48}
    with pytest.raises(RolledBack, match="not the one"):
        DistributedTask.from_json(other).open(profile=world.controller)
    with pytest.raises(InvalidInput, match="no profile"):
        job.task.open(profile="no-such-profile")


def test_what_is_no_receipt(world, ds):
    """Said at once, and by its kind."""
    job = ds.distribute()
    with pytest.raises(InvalidInput, match="str is no receipt"):
        job.add("receipt")
    with pytest.raises(InvalidInput, match="another job"):
        job.add(work(world, ds.distribute(), {"x": b"x"}))
    job.abort()


def test_part_is_gone(world, ds):
    """Its change set was deleted from the store."""
    job = ds.distribute()
    receipt = work(world, job, {"x": b"x"})
    world.session.engine.store.delete_many([change_name(receipt.change_id)])
    with pytest.raises(MissingError, match="lacks the part"):
        job.commit([receipt])
    assert world.newest() == 1


def test_nothing_travels_but_task_and_receipt(world, ds):
    """Jobs and parts cannot be pickled, and say what to send instead."""
    job = ds.distribute()
    part = job.task.open(profile=world.controller)
    for thing, says in [(job, "send its task"), (part, "send the task")]:
        with pytest.raises(TypeError, match=says):
            pickle.dumps(thing)
    part.discard()
    job.abort()


# -- committing elsewhere, and again --------------------------------------------------------------------


def test_resume(world, ds):
    """The job is committed by another process than began it, from its task alone."""
    job = ds.distribute("lost")
    receipts = [work(world, job, {f"{n}": b"x"}) for n in range(2)]
    world.put({"later": b"x"})
    again = DistributedTask.from_json(job.task.to_json()).resume("resumed", profile=world.controller)
    assert again.commit(receipts).sequence == 3
    assert world.open(forgetful=True).history()[3].message == "resumed"
    with pytest.raises(AlreadyExists, match="2 of 2 parts"):
        job.commit(receipts)
    with pytest.raises(AlreadyExists):
        job.task.resume(profile=world.controller).commit(receipts[:1])
    assert world.newest() == 3


def test_resumed_abort_deletes_nothing(world, ds):
    """Another process may be committing."""
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x" * 300_000})
    before = stored(world)
    job.task.resume(profile=world.controller).abort([receipt])
    assert stored(world) == before
    assert job.commit([receipt]).puts == 1


def test_abort_after_a_commit_that_may_have_happened(world, ds):
    """The key service took the anchor and its answer was lost: nothing of the job may be deleted."""
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x" * 300_000})
    service = type(ds.session.engine.context.anchors)
    create, read, down = service.create_anchor, service.read_anchor, []

    def lost(self, *arguments):
        create(self, *arguments)
        down.append(True)
        raise ServiceUnavailable("lost")

    def answer(self, *arguments):
        if down:
            raise ServiceUnavailable("down")
        return read(self, *arguments)

    with (
        mock.patch.object(service, "create_anchor", lost),
        mock.patch.object(service, "read_anchor", answer),
        pytest.raises(ServiceUnavailable, match="either happened entirely or not at all"),
    ):
        job.commit([receipt])
    job.abort([receipt])
    assert world.files(world.open(forgetful=True))["a"] == b"x" * 300_000
    with pytest.raises(AlreadyExists):
        job.task.resume(profile=world.controller).commit([receipt])


def test_abort_leaves_what_is_in_use(world, ds):
    """The job was committed by another process: giving it up here takes nothing away."""
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x" * 300_000})
    job.task.resume(profile=world.controller).commit([receipt])
    job.abort([receipt])
    assert verify(world.open(forgetful=True)).files == 2


def test_a_lost_race(world, ds):
    """Somebody else takes the number: the job's link is made anew, with all its parts."""
    job = ds.distribute()
    receipts = [work(world, job, {f"{n}": b"x"}) for n in range(3)]
    service = type(ds.session.engine.context.anchors)
    real, rivals = service.create_anchor, ["rival"]

    def raced(self, *arguments):
        if rivals:
            world.put({rivals.pop(): b"faster"})
        return real(self, *arguments)

    with mock.patch.object(service, "create_anchor", raced):
        assert job.commit(receipts).sequence == 3
    assert paths(world.open(forgetful=True)) == {"before", "rival", "0", "1", "2"}


# -- authors ------------------------------------------------------------------------------------------


def test_workers_of_other_authors(world, ds):
    """A curator commits what producers wrote, each under its own prefix; the history names them."""
    profiles = [world.join(name, Role.PRODUCER, prefix=name) for name in ("lille", "lyon")]
    ds.refresh()
    with ds.distribute("both") as job:
        job.add(*(work(world, job, {f"{p.name}/x": b"x"}, p) for p in profiles))
    assert job.result.puts == 2
    assert world.open(forgetful=True).history()[-1].author == "author, lille, lyon"


def test_producer_commits_its_own_workers(world):
    """No curator is needed where driver and workers are one author."""
    profile = world.join("lille", Role.PRODUCER, prefix="lille")
    ds = Dataset(world.open(profile))
    with ds.distribute() as job:
        job.add(*(work(world, job, {f"lille/{n}": b"x"}, profile) for n in range(2)))
        with pytest.raises(AccessDenied, match="its place is 'lille/'"):
            work(world, job, {"elsewhere": b"x"}, profile)
    assert paths(world.open(forgetful=True)) == {"before", "lille/0", "lille/1"}


def test_producer_cannot_commit_what_others_wrote(world):
    """Readers would refuse it: said before anything is committed."""
    lille, lyon = (world.join(name, Role.PRODUCER) for name in ("lille", "lyon"))
    job = Dataset(world.open(lille)).distribute()
    newest = world.newest()
    with pytest.raises(AccessDenied, match="1 of 2 parts of this job are by other authors"):
        job.commit([work(world, job, {"1": b"x"}, lille), work(world, job, {"2": b"x"}, lyon)])
    assert world.newest() == newest


def test_encrypt_only(world):
    """Driver and workers that cannot open anything: one commit all the same."""
    profile = world.join("lille", Role.PRODUCER, prefix="lille", encrypt_only=True)
    ds = Dataset(world.open(profile))
    with ds.distribute("blind") as job:
        receipts = [work(world, job, {f"lille/{n}": b"x" * 300_000, f"lille/small{n}": b""}, profile) for n in range(3)]
        world.put({"meanwhile": b"x"})
        receipts.append(work(world, job, {"lille/late": b"x"}, profile))
        job.add(*receipts)
    assert job.result.puts == 7
    assert len(paths(world.open(forgetful=True))) == 9
    assert world.open(forgetful=True).history()[-1].message == "blind"
    blind = ds.distribute()
    receipt = work(world, blind, {"lille/x": b"x" * 300_000}, profile)
    before = stored(world)
    blind.abort([receipt])  # cannot tell what is in use
    assert stored(world) == before


# -- many parts ------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch):
    """Links of four parts, change sets of three keys."""
    monkeypatch.setattr(gathering, "MAX_PARTS", 4)
    monkeypatch.setattr(gathering, "MAX_NEW_KEYS", 3)


def test_combined(world, ds, narrow):
    """More parts than a link names are signed anew by their author, some in one, and read the same."""
    world.put({"gone": b"x"})
    ds.refresh()
    files = {f"{n}/{side}": b"%d" % n * size for n in range(9) for side, size in (("small", 9), ("large", 300_000))}
    job = ds.distribute("many")
    receipts = [work(world, job, {p: d for p, d in files.items() if p.startswith(f"{n}/")}) for n in range(9)]
    with job.task.open(profile=world.controller) as part:
        part.delete("gone")
    committed = job.commit([*receipts, part.receipt])
    assert (committed.puts, committed.deletes) == (18, 1)
    reader = world.open(forgetful=True)
    assert world.files(reader) == {"before": b"before", **files}
    [commit] = reader.history()[3:]
    assert (len(commit.kinds), commit.message, commit.puts, commit.refused) == (5, "many", 18, ())
    with pytest.raises(AlreadyExists):
        job.task.resume(profile=world.controller).commit(receipts)
    collect(world.open(), grace=timedelta(0))
    assert verify(world.open(forgetful=True)).files == 19
    with pytest.raises(SnapshotCollected):  # parts and base are gone: nothing is committed twice
        job.task.resume(profile=world.controller).commit(receipts)


def test_combined_with_others(world, ds, narrow):
    """Only what the driver's own author wrote is signed anew; others' parts stay theirs, and may be too many."""
    profile = world.join("lille", Role.PRODUCER, prefix="lille")
    ds.refresh()
    with ds.distribute() as job:
        job.add(*(work(world, job, {f"{n}": b"x"}) for n in range(6)))
        job.add(*(work(world, job, {f"lille/{n}": b"x"}, profile) for n in range(2)))
    commit = world.open(forgetful=True).history()[-1]
    assert commit.puts == 8
    assert "lille" in commit.author
    newest = world.newest()
    job = ds.distribute()
    receipts = [work(world, job, {f"lille/more/{n}": b"x"}, profile) for n in range(5)]
    with pytest.raises(InvalidInput, match="5 parts; one commit names 4"):
        job.commit(receipts)
    assert world.newest() == newest


def test_encrypt_only_cannot_combine(world, narrow):
    """The error has the numbers."""
    profile = world.join("lille", Role.PRODUCER, encrypt_only=True)
    job = Dataset(world.open(profile)).distribute()
    newest = world.newest()
    receipts = [work(world, job, {f"{n}": b"x"}, profile) for n in range(5)]
    with pytest.raises(InvalidInput, match="5 parts; one commit names 4"):
        job.commit(receipts)
    assert world.newest() == newest


def test_combined_race(world, ds, narrow):
    """Numbers that others take do not matter to combined parts either."""
    job = ds.distribute()
    receipts = [work(world, job, {f"{n}": b"x"}) for n in range(7)]
    world.put({"rival": b"x"})
    assert job.commit(receipts).puts == 7
    assert len(paths(world.open(forgetful=True))) == 9


@pytest.mark.parametrize("parts, change_sets", [(255, 256), (300, 3)])
def test_at_the_true_bound(world, ds, parts, change_sets):
    """As many parts as a link has room for are linked as they are; of more, the driver makes few."""
    with ds.distribute() as job:
        job.add(*(work(world, job, {f"{n % 7}/{n}": b"%d" % n}) for n in range(parts)))
    reader = world.open(forgetful=True)
    assert len(paths(reader)) == parts + 1
    assert world.read(reader, "4/200") == b"200"
    assert len(reader.history()[-1].kinds) == change_sets
    assert reader.history()[-1].refused == ()


def test_requests(world, ds, monkeypatch):
    """A part costs its objects and one file; a commit one request for each part, and one to unwrap all their keys."""
    engine = ds.session.engine
    with ds.distribute("to begin with") as job:
        job.add(work(world, job, {"warm": b"x"}))
    counted = CountingStore(engine.store)
    monkeypatch.setattr(engine, "store", counted)
    service = mock.Mock(wraps=engine.context.service)
    monkeypatch.setattr(engine.keyring, "_service", service)
    job = ds.distribute()
    receipts = [work(world, job, {f"{n}/{file}": b"x" for file in range(50)}) for n in range(20)]
    assert counted.requests == {"put": 40}
    assert service.generate.call_count == 20
    assert service.unwrap.call_count == 0
    counted.reset()
    job.commit(receipts)
    # The driver's own change set and the link; the copies of this link and the next are looked for.
    assert counted.requests["put"] == 2
    assert counted.requests["get"] <= 20 + 3
    assert service.unwrap.call_count == 1


def test_shared_link(world, ds):
    """A job and single commits of the same process that are ready at once still fit into links."""
    with ThreadPoolExecutor(6) as pool, ds.distribute() as job:
        job.add(*(work(world, job, {f"{n}": b"x"}) for n in range(20)))
        others = [pool.submit(world.put, {f"other/{n}": b"x"}) for n in range(5)]
        job.commit()
        for other in others:
            other.result()
    assert len(paths(world.open(forgetful=True))) == 26


def test_grace_of_the_dataset(tmp_path):
    """A dataset of a short grace gives its jobs half of that."""
    world = World(tmp_path, Settings(grace_s=3600))
    job = Dataset(world.open()).distribute()
    receipt = work(world, job, {"a": b"x"})
    late = world.service.now() + timedelta(minutes=31)
    with (
        mock.patch.object(type(world.service), "now", return_value=late),
        pytest.raises(AccessDenied, match="longer than half"),
    ):
        job.commit([receipt])


def test_object_names_are_the_parts_own(world, ds):
    """The driver's commit names exactly what the workers stored: nothing is sealed or stored twice."""
    job = ds.distribute()
    receipt = work(world, job, {"a": b"x" * 300_000})
    objects = {name for name in stored(world) if name.startswith("objects")}
    job.commit([receipt])
    assert {name for name in stored(world) if name.startswith("objects")} == objects
    assert object_name(ds.snapshot.get("a").object_id) in objects
