"""Datasets in memory, and their file systems."""

import pytest
from counting import CountingStore
from datasets import make_session

from sealedhealth.fs import SealedFileSystem


@pytest.fixture
def session(make_place, monkeypatch):
    """A new, empty dataset."""
    return make_session(make_place("memory"), monkeypatch)


@pytest.fixture
def fs(session):
    """Its file system, with names relative to its root."""
    return SealedFileSystem(session=session)


@pytest.fixture
def store(session):
    """Its store, counted from now on."""
    session.engine.store = CountingStore(session.engine.store)
    return session.engine.store


@pytest.fixture
def labs(fs):
    """The same file system with a few files in it, by one commit."""
    fs.pipe({"labs/a.csv": b"x\n1\n", "labs/week/b.csv": b"y\n2\n3\n", "notes.txt": b"notes", "labs/empty": b""})
    return fs


@pytest.fixture
def commits(session):
    """How many commits there are."""

    def count():
        session.refresh()
        return session.sequence

    return count
