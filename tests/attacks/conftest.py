"""A fresh world for each attack."""

import shutil
import tempfile
from pathlib import Path

import pytest
from adversary import World

from sealedhealth.log.roster import Role


@pytest.fixture
def world(tmp_path):
    """A dataset with two files of its controller, who also curates; in memory where that is a directory."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    world = World(root)
    world.put({"shared/one": b"one", "shared/two": b"two" * 1000})
    yield world
    shutil.rmtree(root)


@pytest.fixture
def thief(world):
    """The profile of a producer, confined to ``hospital/``, whose key was stolen; it has committed one honest file."""
    profile = world.join("producer", Role.PRODUCER, prefix="hospital")
    world.put({"hospital/honest": b"honest"}, profile)
    return profile


@pytest.fixture
def honest():
    """What the dataset holds once the producer has joined."""
    return {"shared/one": b"one", "shared/two": b"two" * 1000, "hospital/honest": b"honest"}
