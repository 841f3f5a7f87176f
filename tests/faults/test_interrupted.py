"""What is stopped half way: by Ctrl-C, by a disk that is really full, by a host that stops answering."""

import os
import resource
import threading
import time

import crashes
import operations
import pytest

from sealedhealth.dataset import Dataset
from sealedhealth.errors import ServiceUnavailable, StoreError
from sealedhealth.session import Session
from sealedhealth.session.engine import Engine
from sealedhealth.stores.local import LocalStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(1200),
]

LARGE = os.urandom(20 << 20)  # several reads of the store


@pytest.fixture(scope="module")
def world():
    """A machine with a dataset of several commits."""
    with crashes.new_world() as world, crashes.small_streams():
        crashes.child(lambda: operations.build(world))
        world.keep()
        yield world


@pytest.fixture
def reset(world):
    """Begin with the world as it was made."""
    world.reset()
    return world


# --- Ctrl-C --------------------------------------------------------------------------------


def interrupted(world, operation, step):
    """Press Ctrl-C at a step; whether the operation was still under way."""

    def at(now, _):
        if now == step:
            raise KeyboardInterrupt

    session = world.open()
    try:
        with crashes.Watch(at).watching():
            operation.run(world, session)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("name", ["put-small", "put-large", "edit"])
def test_interrupted_transaction(world, name, long_walk):
    """Nothing or everything is committed, the process can go on, and garbage collection finds what is left."""
    operation = operations.OPERATIONS[name]
    allowed = [operations.BEFORE, operation.outcome()]

    def attempt(step):
        stopped = interrupted(world, operation, step)
        found = crashes.contents(world.open())
        assert found in allowed
        if found == operations.BEFORE:
            operation.run(world, world.open())
        assert crashes.contents(world.open()) == allowed[1]
        return stopped, found == allowed[1]

    verdicts = []
    for step in range(0, 60, 1 if long_walk else 4):
        world.reset()
        try:
            _, (stopped, committed) = crashes.child(lambda step=step: attempt(step))
            crashes.child(lambda: crashes.judge(world, allowed[1:], tags={"baseline": operations.BASELINE}))
        except crashes.Died as died:
            pytest.fail(f"interrupted at step {step}:\n{died}")
        verdicts.append(committed)
        if not stopped:
            break
    assert verdicts[0] is False
    assert verdicts[-1] is True


def test_interrupted_while_others_commit(reset):
    """A transaction that was interrupted while it waited for its turn is not committed by whoever comes next."""

    class Interrupted:
        def __enter__(self):
            raise KeyboardInterrupt

        def __exit__(self, *_):
            pass

    def run():
        session = reset.open()
        queue = session.engine.queue
        with session.begin() as other:
            other.put_bytes("other.csv", b"other")
            staged = session.begin()
            staged.put_bytes("interrupted.csv", b"interrupted")
            turn, queue._turn = queue._turn, Interrupted()
            with pytest.raises(KeyboardInterrupt):
                staged.commit()
            queue._turn = turn
        after = {**operations.BEFORE, "other.csv": b"other"}
        assert crashes.contents(session) == after
        crashes.judge(reset, [after])

    crashes.child(run)


def test_interrupted_in_somebody_elses_batch(reset):
    """A transaction that was interrupted while another thread committed it along keeps what it sealed."""

    def run():
        session = reset.open()
        queue = session.engine.queue

        class Waiting:
            """A lock whose holder is interrupted when somebody else has committed its request."""

            def __enter__(self):
                queue._turn = turn
                with session.begin() as other:
                    other.put_bytes("other.csv", b"other")
                raise KeyboardInterrupt

            def __exit__(self, *_):
                pass

        staged = session.begin()
        staged.put_bytes("along.csv", b"along")
        turn, queue._turn = queue._turn, Waiting()
        with pytest.raises(KeyboardInterrupt):
            staged.commit()
        after = {**operations.BEFORE, "other.csv": b"other", "along.csv": b"along"}
        assert crashes.contents(reset.open()) == after
        crashes.judge(reset, [after])

    crashes.child(run)


def test_forked_while_hashing(reset):
    """A child of fork seals and opens large files although the threads of its parent are not there."""

    def run():
        session = reset.open()
        with session.begin() as staged:
            staged.put_bytes("parent.bin", LARGE)

        def seal():
            again = Session.open(reset.url, reset.profile)
            with again.begin() as more:
                more.put_bytes("child.bin", LARGE[::-1])
            return crashes.contents(again)["child.bin"] == LARGE[::-1]

        assert crashes.child(seal) == (False, True)

    crashes.child(run)


# --- full disks ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["put-large", "edit"])
@pytest.mark.parametrize("limit", [0, 100, 2000, 150_000])
def test_disk_without_room(world, name, limit):
    """The system itself refuses to let files grow, after a part of them: one clear error, and later all is well."""
    operation = operations.OPERATIONS[name]
    world.reset()

    def run():
        session = world.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        error = None
        try:
            operation.run(world, session)
        except ServiceUnavailable as raised:
            error = raised
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert crashes.contents(world.open()) == (operations.BEFORE if error else operation.outcome())
        if error is not None:
            operation.run(world, session)
        return type(error)

    _, kind = crashes.child(run)
    crashes.child(lambda: crashes.judge(world, [operation.outcome()]))
    assert kind is StoreError or (kind is type(None) and limit > 1000)


# --- reading -------------------------------------------------------------------------------


@pytest.fixture
def large(reset):
    """A dataset with a file that takes several reads."""

    def put():
        with reset.open().begin() as staged:
            staged.put_bytes("data/large.bin", LARGE)
            staged.put_bytes("data/small.csv", b"small, new")

    crashes.child(put)
    # This process may have seen another run of the same world, and would notice.
    Engine.forget("file://" + reset.url, reset.profile)
    return reset


@pytest.mark.parametrize("answers", [0, 1, 2])
@pytest.mark.parametrize("old", [None, b"the user's own file"])
def test_host_that_stops_during_get(large, answers, old, tmp_path, monkeypatch):
    """The destination is as it was: no part of the file under its name, nor anything beside it."""
    target = tmp_path / "here" / "large.bin"
    target.parent.mkdir()
    if old is not None:
        target.write_bytes(old)
    dataset = Dataset.open(large.url, profile=large.profile)
    get_ranges = LocalStore.get_ranges
    lock = threading.Lock()
    calls = []

    def failing(self, ranges):
        with lock:
            calls.append(ranges)
            if len(calls) > answers:
                raise ServiceUnavailable("The host does not answer.")
        time.sleep(0.05)  # so that what came before is on its way to the disk
        return get_ranges(self, ranges)

    monkeypatch.setattr(LocalStore, "get_ranges", failing)
    with pytest.raises(ServiceUnavailable):
        dataset.get("data/large.bin", target)
    assert [path.name for path in target.parent.iterdir()] == ([] if old is None else ["large.bin"])
    assert old is None or target.read_bytes() == old
    monkeypatch.undo()
    dataset.get("data/large.bin", target)
    assert target.read_bytes() == LARGE


def test_killed_during_get(large, tmp_path):
    """At every step a file is there whole under its name, or not at all."""
    target = tmp_path / "here"

    def attempt(step):
        dataset = Dataset.open(large.url, profile=large.profile)
        with crashes.killing(step).watching():
            dataset.get("data", target)

    expected = {"large.bin": LARGE, "small.csv": b"small, new"}
    killed, step = True, 0
    while killed:
        killed, _ = crashes.child(lambda step=step: attempt(step))
        found = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert all(expected[name] == data for name, data in found.items() if not name.startswith(".sealedhealth-"))
        step += 1
    assert step > 4
    assert {name: data for name, data in found.items() if name[0] != "."} == expected


def test_interrupted_get(large, tmp_path):
    """Ctrl-C during a get leaves nothing of the file, under no name."""
    dataset = Dataset.open(large.url, profile=large.profile)
    target = tmp_path / "here"
    stopped, step = True, 0
    while stopped:

        def at(now, _, step=step):
            if now == step:
                raise KeyboardInterrupt

        try:
            with crashes.Watch(at).watching():
                dataset.get("data/large.bin", target / "large.bin")
            stopped = False
        except KeyboardInterrupt:
            assert not target.exists() or not list(target.iterdir())
        step += 1
    assert (target / "large.bin").read_bytes() == LARGE
    assert step > 2
