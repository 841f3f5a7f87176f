"""A dataset whose writer is killed at any step: the last commit opens whole, and work goes on.

Each operation runs in a child that dies at its first, second, third ... step that changes a
disk, each time on a fresh copy of the same world, until one run gets through.  A process that
knows nothing of it then finds what was there before or what should be there after, and
nothing in between.  Every step of a put is always walked; of the other operations a sample,
and all of them with ``--long``.
"""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace

import crashes
import operations
import pytest

from sealedhealth.errors import AccessDenied, KeyDestroyed, NotFound
from sealedhealth.keys import Kek
from sealedhealth.log.roster import Role
from sealedhealth.profiles import connect, create_keystore
from sealedhealth.session import Session, create_dataset, maintenance, set_author
from sealedhealth.session.verify import verify

pytestmark = [
    # A child of fork in a test runner with threads: it never returns.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.timeout(1200),
]

SAMPLE = 12  #: steps of an operation in the short form
WALK = 130  #: steps in the long form: all but of the operation that repeats itself forty times


@pytest.fixture(scope="module")
def world():
    """A machine with a dataset of seven commits, dropped objects, a tag, and files to put."""
    with crashes.new_world() as world, crashes.small_streams():
        crashes.child(lambda: operations.build(world))
        world.keep()
        yield world


def steps_of(total, *, whole):
    """The steps to die at: all, or a sample with first and last ones; one more than there are gets through."""
    count = WALK if whole else SAMPLE
    if total < count:
        return list(range(total + 1))
    return sorted({round(index * total / (count - 1)) for index in range(count)})


def walk(world, run, check, *, whole):
    """Kill *run* at its steps; *check* judges what is left. Returns how many steps there are, and the verdicts."""

    def doomed(watch):
        session = world.open()
        with watch.watching():
            run(world, session)
        return watch.steps

    world.reset()
    _, total = crashes.child(lambda: doomed(crashes.Watch()))
    verdicts = []
    for step in steps_of(total, whole=whole):
        world.reset()
        killed, _ = crashes.child(lambda step=step: doomed(crashes.killing(step)))
        assert killed or step >= total - 2, "steps differ from run to run"
        try:
            verdicts.append(crashes.child(lambda killed=killed: check(killed))[1])
        except crashes.Died as died:
            pytest.fail(f"after death at step {step} of {total}:\n{died}")
    return total, verdicts


OPERATIONS = {**operations.OPERATIONS, "combine": operations.COMBINE}


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed(world, name, long_walk, record_property):
    """Whatever was under way: all of it or nothing, everything committed before is whole, and work goes on."""
    operation = OPERATIONS[name]
    allowed = [operations.BEFORE, operation.outcome()] if operation.after else [{}, operations.BEFORE]

    def check(killed):
        where = allowed if killed else allowed[1:]
        return crashes.judge(world, where, tags={"baseline": operations.BASELINE}) + len(allowed) - len(where)

    total, verdicts = walk(world, operation.run, check, whole=operation.whole or long_walk)
    record_property("steps", total)
    assert total >= operation.steps
    assert verdicts[-1] == 1
    assert verdicts[0] == (0 if operation.after else 1)


def test_destroying_a_key(world, long_walk, record_property):
    """Until a key is gone everything opens; afterwards all else does. Doing it again finishes what was begun."""
    spared = {path: data for path, data in operations.BEFORE.items() if path != "doomed.csv"}

    def doomed_key(session):
        records = session.engine.loaded.state.keys.items()
        return [key_id for key_id, record in records if record.sequence == 3]

    def run(_, session):
        maintenance.destroy_keys(session, doomed_key(session))

    def check(killed):
        session = world.open()
        found = crashes.contents(session) if killed else spared
        assert found in [operations.BEFORE, spared], crashes.summary(found)
        verify(session)
        report = maintenance.destroy_keys(session, doomed_key(session))  # once more, and this time to the end
        assert report.proved > 0
        crashes.judge(world, [spared], tags={"baseline": operations.BASELINE})
        return found == spared

    total, verdicts = walk(world, run, check, whole=long_walk)
    record_property("steps", total)
    assert total > 40
    assert verdicts == sorted(verdicts)


def test_destroying_a_dataset(world, long_walk, record_property):
    """A dataset that was being destroyed can be destroyed to the end, and its place be used again."""

    def run(_, session):
        maintenance.destroy_dataset(session)

    def check(killed):
        service = connect(world.profile).service
        registry = connect(world.profile).registry
        if not registry.lookup("file://" + world.url).destroyed:
            assert killed
            with suppress(KeyDestroyed):  # when only the record of it was missing
                run(world, world.open())
        assert registry.lookup("file://" + world.url).destroyed
        with pytest.raises(KeyDestroyed):
            world.open()
        for kek in (world.profile.keystore / "keks").iterdir():
            dataset, compartment = (bytes.fromhex(part) for part in kek.name.split("-")[-2:])
            assert service.versions(Kek(dataset, compartment)).minimum > 1

    total, _ = walk(world, run, check, whole=long_walk)
    record_property("steps", total)
    assert total > 20


def test_creating(world, long_walk, record_property):
    """A dataset whose creation was cut short is not there, or is there whole and empty; it can be made again."""

    def prepare():
        world.reset()
        shutil.rmtree(world.work)
        world.work.mkdir()
        create_keystore(world.profile, development=True)

    def run():
        create_dataset(world.url, world.profile)

    def check(killed):
        try:
            session = world.open()
        except NotFound:
            assert killed
            session = create_dataset(world.url, world.profile)
            created = False
        else:
            created = True
        assert session.sequence == 0
        crashes.judge(world, [{}])
        return created

    def attempt(watch):
        with watch.watching():
            run()
        return watch.steps

    crashes.child(prepare)
    _, total = crashes.child(lambda: attempt(crashes.Watch()))
    verdicts = []
    for step in steps_of(total, whole=True):
        crashes.child(prepare)
        killed, _ = crashes.child(lambda step=step: attempt(crashes.killing(step)))
        try:
            verdicts.append(crashes.child(lambda killed=killed: check(killed))[1])
        except crashes.Died as died:
            pytest.fail(f"after death at step {step} of {total}:\n{died}")
    record_property("steps", total)
    assert total > 30
    assert verdicts == sorted(verdicts)


def test_first_opening(world):
    """A client that dies while it notes down what it saw opens the dataset the next time."""

    def run(_, session):
        pass

    def forget(world):
        shutil.rmtree(world.profile.state)

    for step in range(20):
        world.reset()
        crashes.child(lambda: forget(world))

        def attempt(step=step):
            with crashes.killing(step).watching():
                world.open()

        killed, _ = crashes.child(attempt)
        crashes.child(lambda: crashes.judge(world, [operations.BEFORE], tags={"baseline": operations.BASELINE}))
        if not killed:
            break
    assert 2 < step < 19


def test_killed_among_others(world):
    """Of several processes that commit at once and are killed, whatever was reported as committed is there, whole."""
    world.reset()
    reading, writing = os.pipe()
    writers = 4

    def write(writer):
        os.close(reading)
        session = world.open()
        for number in range(1000):
            with session.begin(f"{writer}") as staged:
                staged.put_bytes(f"{writer}/{number}", b"%d of %d" % (number, writer))
            os.write(writing, b"%d %d\n" % (writer, number))

    processes = [crashes.start(lambda writer=writer: write(writer)) for writer in range(writers)]
    os.close(writing)
    reported = b""
    rest = random.Random(3)
    while processes:
        reported += os.read(reading, 4096)
        if reported.count(b"\n") > 6 * (writers - len(processes) + 1):
            time.sleep(rest.random() / 20)
            process = processes.pop()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    with os.fdopen(reading, "rb") as pipe:
        reported += pipe.read()

    def check():
        found = crashes.contents(world.open())
        names = [tuple(map(int, line.split())) for line in reported.splitlines()]
        assert len(names) > 6 * writers
        assert {f"{writer}/{number}" for writer, number in names} <= found.keys(), "a reported commit is lost"
        more = [name.split("/") for name in found.keys() - operations.BEFORE.keys()]
        made = {f"{writer}/{number}": f"{number} of {writer}".encode() for writer, number in more}
        assert found == {**operations.BEFORE, **made}
        assert len(made) <= len(names) + writers
        crashes.judge(world, [found], tags={"baseline": operations.BASELINE})

    crashes.child(check)


def test_taking_a_curator_off_the_roster(world, long_walk, record_property):
    """A dataset opens at every moment while the curator who made its last checkpoint is taken off the roster."""
    second = replace(world.profile, name="second", author="second")

    def prepare():
        world.reset()
        key = connect(world.profile).service.create_author("second")
        set_author(world.open(), key.public_key, name="second", roles=list(Role))
        maintenance.maintain(Session.open(world.url, second), force=True)
        for tag in ("first", "second"):  # "second" names a commit that points to this checkpoint
            with world.open().begin() as staged:
                staged.tag(tag)

    def run(watch):
        session = world.open()
        key = connect(world.profile).service.author("second")
        with watch.watching():
            set_author(session, key.public_key, name="second", roles=[], active=False)
        return watch.steps

    def check(killed):
        session = world.open()
        assert crashes.contents(session) == operations.BEFORE
        verify(session)
        if killed:  # once more, to the end
            run(crashes.Watch())
        crashes.judge(world, [operations.BEFORE], tags={"baseline": operations.BASELINE, "second": operations.BEFORE})
        with pytest.raises(AccessDenied):
            Session.open(world.url, second).begin()

    crashes.child(prepare)
    _, total = crashes.child(lambda: run(crashes.Watch()))
    for step in steps_of(total, whole=long_walk):
        crashes.child(prepare)
        killed, _ = crashes.child(lambda step=step: run(crashes.killing(step)))
        try:
            crashes.child(lambda killed=killed: check(killed))
        except crashes.Died as died:
            pytest.fail(f"after death at step {step} of {total}:\n{died}")
    record_property("steps", total)
    assert total > 20
