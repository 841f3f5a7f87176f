"""A process killed at any system call of a local write leaves whole objects only."""

import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from sealedhealth.stores import open_store

# Kills itself right before its n-th system call that changes the disk.
PROGRAM = """
import os, signal, sys
from sealedhealth.stores import open_store

root, action, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])

def counted(function):
    def call(*args, **options):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call

store = open_store(root)
for name in ("open", "write", "close", "replace", "mkdir", "fsync", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
if action == "put":
    store.put_many({"objects/old": b"after" * 100, "objects/new/a": b"after" * 100, "objects/new/b": b"after" * 100})
else:
    with store.writer("objects/old") as writer:
        writer.write(b"after" * 50)
        writer.write(b"after" * 50)
        writer.commit()
store.flush()
"""


@pytest.mark.parametrize("action", ["put", "write"])
def test_every_step(tmp_path, action):
    """Old or new version whole, no half object, leftovers invisible and removable; and every step was reached."""
    killed = 0
    while True:
        root = tmp_path / str(killed)
        store = open_store(str(root))
        store.put("objects/old", b"before")
        command = [sys.executable, "-c", PROGRAM, str(root), action, str(killed)]
        status = subprocess.run(command, check=False).returncode
        names = dict(store.list(""))
        assert names.pop("objects/old") in {6, 500}
        assert set(names) <= {"objects/new/a", "objects/new/b"}
        assert store.get("objects/old", limit=500) in {b"before", b"after" * 100}
        assert all(data == b"after" * 100 for data in store.get_many(list(names), limit=500).values())
        store.delete_unfinished(timedelta(seconds=-60))
        assert not list(root.rglob(".tmp-*"))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
    assert killed >= 8
    assert store.get("objects/old", limit=500) == b"after" * 100
