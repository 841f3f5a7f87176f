"""Everything that is done to a dataset on a real S3 server, with a fault at each of its requests.

Whatever happens on the way to the host: what passes is not noticed, and what does not is one
error; what is committed stays, nothing else is, and the next attempt works.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import crashes
import pytest
from datasets import make_session
from store_proxy import (
    Replay,
    broken_upload,
    cut,
    dropped,
    flipped,
    longer,
    lost,
    redirected,
    refused,
    shorter,
)

from sealedhealth.errors import (
    AccessDenied,
    IntegrityError,
    SealedHealthError,
    ServiceUnavailable,
    StoreError,
    Throttled,
    TruncatedError,
)
from sealedhealth.session import Session, maintenance
from sealedhealth.session.engine import Engine
from sealedhealth.session.verify import verify

pytestmark = [pytest.mark.seaweed, pytest.mark.usefixtures("hasty"), pytest.mark.timeout(1800)]

LARGE = os.urandom(5_300 << 10)  # two parts
BEFORE = {"a.csv": b"a", "b.csv": b"b", "large.bin": LARGE}


class World:
    """A dataset behind the proxy, and what has to be in it."""

    def __init__(self, session, proxy):
        self.session = session
        self.proxy = proxy
        self.expected = {}
        self.turn = 0

    def anew(self):
        """What a process sees that knows nothing yet, of a host that is honest again."""
        self.proxy.clear()
        Engine.forget(self.session.url, self.session.profile)
        self.session = Session.open(self.session.url, self.session.profile)
        return self.session

    def check(self, expected, where):
        """The dataset holds this, whole."""
        assert crashes.summary(crashes.contents(self.anew())) == crashes.summary(expected), where
        self.expected = expected


@pytest.fixture
def world(proxied, s3_proxy, monkeypatch):
    """A dataset with a few files; large objects have parts as small as a server takes."""
    monkeypatch.setattr("sealedhealth.stores.s3._S3Writer.part_size", 5 << 20)
    world = World(make_session(proxied, monkeypatch), s3_proxy)
    with world.session.begin("first") as staged:
        staged.put_many({path: data for path, data in BEFORE.items() if path != "large.bin"})
        staged.put_bytes("large.bin", LARGE)
    world.check(BEFORE, "at first")
    return world


# --- what is done --------------------------------------------------------------------------


def put_small(world):
    """Replace one small file and add another."""
    files = {"a.csv": b"a %d" % world.turn, "new.csv": b"new %d" % world.turn}
    with world.session.begin("small") as staged:
        staged.put_many(files)
    return files


def put_large(world):
    """Replace a file of several parts."""
    data = bytes([world.turn % 256]) + LARGE[1:]
    with world.session.begin("large") as staged:
        staged.put_bytes("large.bin", data)
    return {"large.bin": data}


def edit(world):
    """Move, copy and tag."""
    source, target = ("b.csv", "c.csv") if "b.csv" in world.expected else ("c.csv", "b.csv")
    with world.session.begin("edit") as staged:
        staged.move(source, target)
        staged.copy("large.bin", "copy.bin")
        staged.tag("edited")
    return {source: None, target: b"b", "copy.bin": world.expected["large.bin"]}


def reopen(world):
    """Open the dataset in a process that knows nothing."""
    Engine.forget(world.session.url, world.session.profile)
    world.session = Session.open(world.session.url, world.session.profile)
    assert world.session.snapshot.get("a.csv") is not None
    return {}


def read_ranges(world):
    """Read a few ranges of a small and of a large file."""
    entries = {path: world.session.snapshot.get(path) for path in ("a.csv", "large.bin")}
    wanted = [(entries["large.bin"], 5, 9), (entries["large.bin"], 3_000_000, 3_000_100), (entries["a.csv"], 0, 1)]
    large = world.expected["large.bin"]
    assert list(map(bytes, world.session.read_ranges(wanted))) == [large[5:9], large[3_000_000:3_000_100], b"a"]
    return {}


def get_whole(world):
    """Read everything."""
    assert crashes.contents(world.session) == world.expected
    return {}


def checkpoint(world):
    """Write a checkpoint and publish it."""
    maintenance.maintain(world.session, force=True)
    return {}


def collect(world):
    """List and delete what nothing needs, at once."""
    maintenance.collect(world.session, grace=timedelta(0))
    return {}


OPERATIONS = {
    run.__name__: run for run in (put_small, put_large, edit, reopen, read_ranges, get_whole, checkpoint, collect)
}


@dataclass(frozen=True)
class Harm:
    """A fault, and what may come of it."""

    fault: Callable
    errors: tuple[type[SealedHealthError], ...] = ()  #: of exactly these classes, or of no class
    says: str = ""
    times: int = 1


UNUSABLE = (ServiceUnavailable, StoreError, TruncatedError)
HARMS = {
    # once: not noticed
    "500": Harm(refused(500, "InternalError")),
    "503": Harm(refused(503, "SlowDown")),
    "429": Harm(refused(429)),
    "dropped": Harm(dropped),
    "broken-upload": Harm(broken_upload),
    "lost": Harm(lost),
    "cut": Harm(cut),
    # from then on: one error
    "500-on": Harm(refused(500, "InternalError"), (ServiceUnavailable,), times=-1),
    "503-on": Harm(refused(503, "SlowDown"), (Throttled,), times=-1),
    "dropped-on": Harm(dropped, (ServiceUnavailable,), times=-1),
    "lost-on": Harm(lost, (ServiceUnavailable,), times=-1),
    "expired-on": Harm(refused(403, "ExpiredToken"), (AccessDenied,), "expired", times=-1),
    "redirected-on": Harm(redirected("http://127.0.0.1:9/elsewhere"), (StoreError,), "another address", times=-1),
    # answers that are not what they should be: never taken for what they are not
    "shorter-on": Harm(shorter, (*UNUSABLE, IntegrityError), times=-1),
    "longer-on": Harm(longer, (*UNUSABLE, IntegrityError), times=-1),
    "flipped": Harm(flipped, (*UNUSABLE, IntegrityError)),
    "flipped-on": Harm(flipped, (*UNUSABLE, IntegrityError), times=-1),
}


def attempt(world, run):
    """Do something: what it comes to, or the error."""
    world.turn += 1
    after = dict(world.expected)
    try:
        changed = run(world)
    except SealedHealthError as error:
        return after, error
    after |= changed
    return {path: data for path, data in after.items() if data is not None}, None


def walk(world, run, harm, position):
    """One step: the fault happens at a request; returns whether there was such a request."""
    world.anew()
    world.proxy.clear()
    where = f"{run.__name__}, {harm} at request {position}"
    rule = world.proxy.when("", HARMS[harm].fault, after=position, times=HARMS[harm].times)
    after, error = attempt(world, run)
    seen = [str(seen) for seen in world.proxy.seen][position : position + 3]
    where = f"{where} ({seen}): {error!r}"
    if error is not None:
        allowed = HARMS[harm].errors
        assert type(error) in allowed or (IntegrityError in allowed and isinstance(error, IntegrityError)), where
        assert HARMS[harm].says in str(error), where
    world.check(after, where)
    if error is not None:
        world.proxy.clear()
        after, error = attempt(world, run)
        assert error is None, f"the next attempt, after {where}"
        world.check(after, where)
    return rule.happened > 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_faults_at_every_request(world, name, long_walk):
    """Of each operation; the short form takes every other fault at one request each."""
    run = OPERATIONS[name]
    assert attempt(world, run)[1] is None
    world.check(crashes.contents(world.anew()), "honest")
    attempt(world, run)
    world.check(crashes.contents(world.anew()), "honest")
    world.proxy.clear()
    attempt(world, run)
    count = world.proxy.count()
    assert count > 0
    world.check(crashes.contents(world.anew()), "honest")
    happened = steps = 0
    turn = [*OPERATIONS].index(name)
    for index, harm in enumerate(HARMS):
        if long_walk or (index + turn) % 2:
            for position in range(count + 3) if long_walk else [(index + turn // 2) % count]:
                happened += walk(world, run, harm, position)
                steps += 1
    assert happened >= steps * 0.6
    world.anew()
    verify(world.session)


# --- a host that lives in the past --------------------------------------------------------------


@pytest.mark.parametrize("run", [reopen, checkpoint, collect])
def test_a_host_that_repeats_itself(world, run):
    """Answers from long ago: work goes on or is an error, and nothing that is needed is deleted."""
    for where in ("List", "GetObject"):
        past = Replay()
        world.proxy.when(where, past, times=-1)
        for step in (reopen, get_whole, collect):
            with suppress(SealedHealthError):
                attempt(world, step)
        world.anew()
        for _ in range(2):
            world.check(attempt(world, put_small)[0], "honest")
        world.proxy.when(where, past, times=-1)
        after, error = attempt(world, run)
        assert error is None or isinstance(error, IntegrityError | ServiceUnavailable)
        world.check(after, f"{where}: {error!r}")
    after, error = attempt(world, run)
    assert error is None
    world.check(after, "honest again")
    verify(world.session)


def test_a_listing_that_leaves_something_out(world):
    """Garbage that is not listed waits for the next collection; what is listed though deleted is no error."""
    for _ in range(2):
        world.check(attempt(world, put_small)[0], "honest")
    past = Replay()
    world.proxy.when("List", past, times=-1)
    maintenance.collect(world.session, grace=timedelta(0))
    maintenance.collect(world.session, grace=timedelta(0))
    world.check(world.expected, "collected twice from one listing")
    maintenance.collect(world.session, grace=timedelta(0))
    assert maintenance.collect(world.session, grace=timedelta(0)).orphans == 0


# --- other bytes ------------------------------------------------------------------------------------


def test_other_bytes_are_never_asked_for_again(world):
    """Neither by us nor by a layer below: one request, one IntegrityError."""
    entry = world.session.snapshot.get("large.bin")
    world.proxy.clear()
    world.proxy.when("GetObject", flipped, times=-1)
    with pytest.raises(IntegrityError):
        world.session.read_ranges([(entry, 3_000_000, 3_000_100)])
    assert world.proxy.count() == 1


# --- what is left of uploads --------------------------------------------------------------------------


def test_no_upload_stays_behind(world):
    """What a writer could neither finish nor abort is found by garbage collection."""
    world.proxy.when("UploadPart", refused(403, "ExpiredToken"), times=-1)
    world.proxy.when("Abort", refused(403, "ExpiredToken"), times=-1)
    _, error = attempt(world, put_large)
    assert isinstance(error, AccessDenied)
    world.anew()
    store = world.session.engine.store
    assert len(list(store.unfinished())) == 1
    assert maintenance.collect(world.session).unfinished == 0  # it may belong to somebody alive
    assert maintenance.collect(world.session, grace=timedelta(seconds=-60)).unfinished == 1
    assert list(store.unfinished()) == []
    world.check(BEFORE, "collected")
