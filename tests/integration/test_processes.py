"""Many processes commit to one dataset at once; nothing is lost, and nobody sees half of a commit."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from adversary import World

from sealedhealth.log.roster import Role
from sealedhealth.session.maintenance import maintain
from sealedhealth.session.verify import verify

PROCESSES = 8
OWN = 5  #: commits of each process under its own directory
SHARED = 2  #: commits of each process to a file that all of them change

WORKER = """
import sys
from pathlib import Path
from sealedhealth.errors import ConflictError
from sealedhealth.profiles import Profile
from sealedhealth.session import Session

root, url, name, author, own, shared = sys.argv[1:]
profile = Profile(name=author, keystore=Path(root, "keystore"), state=Path(root, "state", name), author=author)
session = Session.open(url, profile)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(own)):
    with session.begin(f"{name}, {number}") as tx:
        tx.put_many({f"{name}/{number}/left": b"%d" % number, f"{name}/{number}/right": b"%d" % number})
lost = 0
for _ in range(int(shared)):
    while True:
        session.refresh()
        entry = session.snapshot.get("counter")
        [value] = session.read_ranges([(entry, 0, entry.length)])
        tx = session.begin("count")
        tx.put_bytes("counter", b"%d" % (int(value) + 1))
        try:
            tx.commit()
            break
        except ConflictError:
            lost += 1
print("lost", lost, flush=True)
"""


@pytest.fixture
def workers(tmp_path):
    """A dataset with a counter, and a way to start processes on it that wait for a line before they commit."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    world = World(root)
    world.put({"counter": b"0"})
    started = []

    def start(author="author"):
        arguments = [str(root), world.url, f"process-{len(started)}", author, str(OWN), str(SHARED)]
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield world, start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    shutil.rmtree(root)


def whole(snapshot):
    """A snapshot holds both files of each commit, or neither."""
    paths = {path for path, _ in snapshot.items()} - {"counter"}
    sides = {side: {path.removesuffix(side) for path in paths if path.endswith(side)} for side in ("left", "right")}
    assert sides["left"] == sides["right"]
    return len(sides["left"])


def test_eight_processes_commit_at_once(workers):
    """Eight processes, two authors among them, and a reader and a curator who keep looking and checkpointing."""
    world, start = workers
    world.join("second", Role.PRODUCER, Role.CURATOR)
    first = world.newest() + 1
    processes = [start("second" if number % 2 else "author") for number in range(PROCESSES)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    session = world.open()
    seen, rounds = 0, 0
    while any(process.poll() is None for process in processes):
        snapshot = session.refresh()
        assert whole(snapshot) >= seen
        seen = whole(snapshot)
        rounds += 1
        if rounds % 5 == 0:
            maintain(session, force=True)
    assert [process.wait() for process in processes] == [0] * PROCESSES
    session = world.open(forgetful=True)
    history = session.history()[first:]
    assert not any(commit.void or commit.refused for commit in history)
    messages = [commit.message for commit in history if commit.message]
    expected = [f"process-{process}, {number}" for process in range(PROCESSES) for number in range(OWN)]
    assert sorted(messages) == sorted(expected + ["count"] * (PROCESSES * SHARED))
    assert whole(session.snapshot) == PROCESSES * OWN
    assert world.read(session, "counter") == b"%d" % (PROCESSES * SHARED)
    for process in range(PROCESSES):
        # In the order in which each process committed.
        own = [m for m in messages if m.startswith(f"process-{process},")]
        assert own == [f"process-{process}, {number}" for number in range(OWN)]
    verify(world.open())
