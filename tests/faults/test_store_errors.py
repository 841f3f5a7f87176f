"""A host that fails at any request, before or after it did what it was asked for.

The host is a store in memory behind the general client, so this covers what holds for every
host: one error as the store reported it, the last commit whole, and a second try that works.
"""

import itertools
import os
import uuid
from datetime import timedelta
from unittest import mock

import crashes
import pytest
from failing import failing_host

from sealedhealth.errors import AccessDenied, SealedHealthError, ServiceUnavailable, StoreError
from sealedhealth.keys import Keyring, LocalKeyService
from sealedhealth.profiles import Profile, create_keystore
from sealedhealth.session import Session, create_dataset, maintenance
from sealedhealth.session.engine import Engine
from sealedhealth.session.verify import verify

LARGE = os.urandom(300_000)
BEFORE = {"a.csv": b"a", "b.csv": b"b", "large.bin": LARGE}
AFTER = {"a.csv": b"a, newer", "c.csv": b"b", "large.bin": LARGE[::-1], "new.csv": b"new"}
ERRORS = (ServiceUnavailable, StoreError, AccessDenied)


@pytest.fixture
def profile(tmp_path):
    """A machine with a keystore."""
    profile = Profile("local", keystore=tmp_path / "keystore", state=tmp_path / "state")
    with mock.patch("os.fsync"), crashes.small_streams():
        create_keystore(profile, development=True)
        yield profile


def new_dataset(profile):
    """A dataset in memory with a few files."""
    session = create_dataset(f"memory://{uuid.uuid4().hex}/dataset", profile)
    with session.begin() as staged:
        staged.put_many(BEFORE)
    return session


@pytest.fixture
def session(profile):
    """One dataset."""
    return new_dataset(profile)


def anew(session):
    """What a process sees that knows nothing yet."""
    Engine.forget(session.url, session.profile)
    return Session.open(session.url, session.profile)


def change(session):
    """One transaction of every kind of change."""
    with session.begin("change") as staged:
        staged.put_many({"a.csv": AFTER["a.csv"], "new.csv": AFTER["new.csv"]})
        staged.put_bytes("large.bin", AFTER["large.bin"])
        staged.move("b.csv", "c.csv")


def tidy(session):
    """Checkpoint, then collect."""
    maintenance.maintain(session, force=True)
    maintenance.collect(session, grace=timedelta(0))


def attempt(session, run, fails, *, lost=False):
    """Run something on a failing host: its requests, and the error if there was one."""
    with failing_host(session) as host:
        host.fails, host.lost = fails, lost
        try:
            run(session)
        except SealedHealthError as error:
            return host, error
    return host, None


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer-lost"])
@pytest.mark.parametrize("always", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("run, after", [(change, AFTER), (tidy, BEFORE)], ids=["change", "tidy"])
def test_failing_requests(profile, run, after, always, lost):
    """At every request: one error as it came and the last commit whole, or none and the change made."""
    failures = 0
    for number in itertools.count():
        expected = ERRORS[number % len(ERRORS)]

        def fails(now, number=number, expected=expected):
            return expected if (now >= number if always else now == number) else None

        session = new_dataset(profile)
        host, error = attempt(session, run, fails, lost=lost)
        if len(host.log) <= number:
            break
        failures += error is not None
        where = f"{host.log[number]} (request {number}): {error!r}"
        assert error is None or type(error) is expected, where
        assert crashes.contents(anew(session)) == (BEFORE if error else after), where
        if error is not None:
            run(Session.open(session.url, profile))
        session = anew(session)
        assert crashes.contents(session) == after, where
        verify(session)
    assert failures > 4
    assert number > 8


def test_retry_on_the_same_session(session):
    """The session whose transaction failed can be used for the next try."""
    _, error = attempt(session, change, lambda now: StoreError if now == 0 else None)
    assert isinstance(error, StoreError)
    change(session)
    assert crashes.contents(session) == AFTER


def test_everything_fails_after_the_commit(session):
    """Once the anchor exists no error says that the commit failed, even when not a byte can be read any more."""
    create = LocalKeyService.create_anchor
    done = []

    def create_anchor(*arguments):
        done.append(create(*arguments))
        return done[0]

    broken = mock.patch.object(session.engine, "adopt", side_effect=ServiceUnavailable("No."))
    with broken, mock.patch.object(LocalKeyService, "create_anchor", create_anchor):
        _, error = attempt(session, change, lambda _: ServiceUnavailable if done else None)
    assert error is None
    session.refresh()
    assert crashes.contents(session) == AFTER
    with session.begin() as staged:
        staged.put_bytes("a.csv", b"a, once more")
    assert crashes.contents(anew(session)) == {**AFTER, "a.csv": b"a, once more"}


def test_stream_that_cannot_be_finished(profile):
    """A large file whose last request fails leaves nothing unfinished on the host: its upload is given up."""
    host, _ = attempt(new_dataset(profile), change, lambda _: None)
    last = host.log.index("commit")
    host, error = attempt(new_dataset(profile), change, lambda now: StoreError if now == last else None)
    assert host.log[last:] == ["commit", "discard"]  # the small files were in a pack that was not sealed yet
    assert isinstance(error, StoreError)


def test_discarding_on_a_host_that_is_gone(session):
    """When nothing can be cleaned up either, the first error is the one that is told, and the keys are wiped."""
    staged = session.begin()
    gone = []

    def run(_):
        with staged:
            staged.put_bytes("small.csv", b"small")
            writer = staged.writer("large.bin")
            writer.write(LARGE)
            gone.append(True)
            writer.write(LARGE)

    _, error = attempt(session, run, lambda _: StoreError if gone else None)
    assert isinstance(error, StoreError)
    assert staged.closed
    assert all(key.closed for key in staged._sealer.data_keys.values())
    assert crashes.contents(anew(session)) == BEFORE


def test_checkpoint_that_was_not_stored(session):
    """Segments that never reached the host are not shared by the next checkpoint."""
    for number in range(6):
        for fresh in (False, True):
            attempt(
                session,
                lambda session, fresh=fresh: maintenance.checkpoint(session, fresh=fresh),
                lambda now, number=number: StoreError if now == number else None,
            )
            maintenance.maintain(session, force=True)
            session = anew(session)
            assert crashes.contents(session) == BEFORE
            verify(session)


def test_checkpoint_that_waits_for_its_commit(session):
    """Garbage collection spares a checkpoint that this process wrote and that its next commit will point to."""
    maintenance.checkpoint(session)
    maintenance.collect(session, grace=timedelta(0))
    change(session)
    session = anew(session)
    assert crashes.contents(session) == AFTER
    verify(session)


def test_segments_that_were_collected(session):
    """A process that has run for long does not share segments that others have replaced and collected since."""
    maintenance.maintain(session, force=True)
    session = anew(session)
    old = session.engine
    Engine.forget(session.url, session.profile)
    old.keyring = Keyring(old.context.service)
    other = Session.open(session.url, session.profile)
    maintenance.checkpoint(other, fresh=True)
    with other.begin() as staged:
        staged.tag("published")
    maintenance.collect(other, grace=timedelta(0))
    report = maintenance.maintain(session, force=True)
    assert report.reused == 0
    session = anew(session)
    assert crashes.contents(session) == BEFORE
    verify(session)
