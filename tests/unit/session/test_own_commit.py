"""A commit that either happened or not: the next attempt in the same session does not conflict with it."""

import uuid
from unittest import mock

import pytest
from datasets import local_profile

from sealedhealth.errors import ConflictError, ServiceUnavailable
from sealedhealth.keys import LocalKeyService
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.engine import Engine


@pytest.fixture
def session():
    """A dataset in memory with three files."""
    session = create_dataset(f"memory://{uuid.uuid4().hex}/dataset", local_profile())
    with session.begin() as staged:
        staged.put_many({"a.csv": b"a", "b.csv": b"b", "c.csv": b"c"})
    return session


def read(session):
    """What a process sees that knows nothing yet."""
    Engine.forget(session.url, session.profile)
    fresh = Session.open(session.url, session.profile)
    entries = dict(fresh.snapshot.items())
    data = fresh.read_ranges([(entry, 0, entry.size) for entry in entries.values()])
    return {path: bytes(content) for path, content in zip(entries, data, strict=True)}


def elsewhere(session):
    """A session of another process."""
    with mock.patch.dict("sealedhealth.session.engine._engines", clear=True):
        return Session.open(session.url, session.profile)


class Late:
    """A key service that loses the answer to the next anchor, and says nothing more until it is back."""

    def __init__(self, monkeypatch, *, arrives):
        self.down = False
        self.sent = []
        self._arrives = arrives
        self._create, self._read = LocalKeyService.create_anchor, LocalKeyService.read_anchor
        # Functions, so that they are given the service as a method is.
        monkeypatch.setattr(LocalKeyService, "create_anchor", lambda *given: self._anchor(*given))  # noqa: PLW0108
        monkeypatch.setattr(LocalKeyService, "read_anchor", lambda *given: self._look(*given))  # noqa: PLW0108

    def _anchor(self, *arguments):
        if not self.sent:
            self.down = True
            self.sent.append(arguments)
            if self._arrives == "at once":
                self._create(*arguments)
        if self.down:
            raise ServiceUnavailable("No answer.")
        return self._create(*arguments)

    def _look(self, *arguments):
        if self.down:
            raise ServiceUnavailable("No answer.")
        return self._read(*arguments)

    def come_back(self):
        """Answer again; a request that was still on its way arrives now."""
        self.down = False
        if self._arrives == "later":
            self._create(*self.sent[0])


def change(session):
    """Replace, add, move and delete."""
    with session.begin("change") as staged:
        staged.put_many({"a.csv": b"a, newer", "new.csv": b"new"})
        staged.move("b.csv", "moved.csv")
        staged.delete("c.csv")


AFTER = {"a.csv": b"a, newer", "new.csv": b"new", "moved.csv": b"b"}


@pytest.mark.parametrize("arrives", ["at once", "later", "never"])
def test_the_next_attempt_works(session, monkeypatch, arrives):
    """Whatever became of the first: the same change is made again, and nobody is blamed for the first."""
    service = Late(monkeypatch, arrives=arrives)
    with pytest.raises(ServiceUnavailable, match="either happened"):
        change(session)
    service.come_back()
    change(session)
    session.refresh()
    assert session.sequence == (2 if arrives == "never" else 3)
    assert read(session) == AFTER


def test_another_change_of_the_same_path(session, monkeypatch):
    """The later one of this session's own changes stands."""
    service = Late(monkeypatch, arrives="at once")
    with pytest.raises(ServiceUnavailable):
        change(session)
    service.come_back()
    with session.begin() as staged:
        staged.put_many({"a.csv": b"a, newest", "c.csv": b"c, again"})
    assert read(session) == {**AFTER, "a.csv": b"a, newest", "c.csv": b"c, again"}


def test_somebody_else_wrote_after_it(session, monkeypatch):
    """What others wrote over this session's own commit is theirs: a conflict as ever."""
    service = Late(monkeypatch, arrives="at once")
    with pytest.raises(ServiceUnavailable):
        change(session)
    service.come_back()
    open_still = [session.begin(), session.begin()]
    with elsewhere(session).begin() as theirs:
        theirs.put_many({"a.csv": b"theirs", "c.csv": b"theirs"})
    for path, staged in zip(("a.csv", "c.csv"), open_still, strict=True):
        staged.put_bytes(path, b"mine")
        with pytest.raises(ConflictError, match="Somebody else"):
            staged.commit()
