"""Commits of one process that are ready at the same moment."""

import threading

import pytest
from adversary import World

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied, ConflictError
from sealedhealth.session import commit


@pytest.fixture
def world(tmp_path):
    """A dataset of one file."""
    world = World(tmp_path)
    world.put({"here": b"x"})
    return world


def together(session, transactions):
    """Commit transactions at the same moment; returns what each raised, or None."""
    errors = [None] * len(transactions)

    def run(index):
        try:
            transactions[index].commit()
        except (AccessDenied, ConflictError) as error:
            errors[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(transactions))]
    queue = session.engine.queue
    with queue._turn:
        for thread in threads:
            thread.start()
        while len(queue._waiting) < len(threads):
            pass
    for thread in threads:
        thread.join()
    return errors


def staged(session, *paths):
    """A transaction that puts these paths."""
    tx = session.begin(", ".join(paths))
    tx.put_many(dict.fromkeys(paths, b"y"))
    return tx


def test_independent_changes_share_a_link(world):
    """Changes of different paths that are ready together are one commit."""
    session = world.open()
    before = world.newest()
    assert together(session, [staged(session, f"file {n}") for n in range(5)]) == [None] * 5
    assert world.newest() == before + 1
    assert set(world.files()) == {"here", *(f"file {n}" for n in range(5))}
    assert len(world.open().history()[-1].kinds) == 5


def test_parts_count(world, monkeypatch):
    """A link has room for so many change sets, the parts of distributed writes among them."""
    monkeypatch.setattr(commit, "MAX_CHANGES", 4)
    session = world.open()
    job = Dataset(session).distribute()
    for n in range(3):
        with job.task.open(profile=world.controller) as part:
            part.put_bytes(f"part {n}", b"x")
        job.add(part.receipt)
    before = world.newest()
    assert together(session, [job, *(staged(session, f"file {n}") for n in range(5))]) == [None] * 6
    assert all(len(info.kinds) <= 4 for info in world.open().history()[before + 1 :])
    assert len(world.files()) == 9


def test_same_path(world):
    """Of two that change one path, one is told so."""
    session = world.open()
    errors = together(session, [staged(session, "same"), staged(session, "same", "other")])
    assert sorted(error is None for error in errors) == [False, True]


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a"), ("a", "a/b/c")])
def test_file_and_directory(world, paths):
    """Of two that together would make a name a file and a directory, one is told so."""
    session = world.open()
    errors = together(session, [staged(session, path) for path in paths])
    assert sorted(error is None for error in errors) == [False, True]
    assert len(world.files()) == 2


def test_one_that_is_refused(world, monkeypatch):
    """A change that readers would not accept fails alone; those that were ready with it are committed."""
    session = world.open()
    real = commit._try_once

    def judge(engine, pending):
        if any("bad" in request.puts for request in pending):
            raise AccessDenied("Readers would not accept this commit.")
        return real(engine, pending)

    monkeypatch.setattr(commit, "_try_once", judge)
    first, second, third = together(session, [staged(session, path) for path in ("one", "bad", "two")])
    assert (first, third) == (None, None)
    assert isinstance(second, AccessDenied)
    assert set(world.files()) == {"here", "one", "two"}
