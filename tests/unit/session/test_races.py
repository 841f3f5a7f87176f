"""Races for the next commit: what losing one costs, and that nobody loses for ever."""

import threading
import time
from collections import Counter

import pytest
from adversary import World
from counting import CountingStore

from sealedhealth.errors import AnchorRolledBack
from sealedhealth.keys import LocalKeyService
from sealedhealth.session import commit
from sealedhealth.session.pacing import Pace

ME, OTHER = b"m" * 16, b"o" * 16


@pytest.fixture
def world(tmp_path):
    """A dataset of one file."""
    world = World(tmp_path)
    world.put({"here": b"x"})
    return world


@pytest.fixture
def pauses(monkeypatch):
    """What a writer would have waited; it does not really wait."""
    taken = []
    monkeypatch.setattr(commit.time, "sleep", taken.append)
    return taken


@pytest.fixture
def racing(world, monkeypatch):
    """Make a session and a transaction that loses so many races: somebody else is faster by a moment."""

    def race(times, *, then=lambda: None):
        session, rival = world.open(), world.open()
        tx = session.begin()
        tx.put_bytes("mine", b"y")
        create = LocalKeyService.create_anchor
        left = list(range(times))

        def late(service, dataset_id, sequence, link):
            if left:
                with monkeypatch.context() as others:
                    others.setattr(LocalKeyService, "create_anchor", create)
                    with rival.begin() as theirs:
                        theirs.put_bytes(f"theirs {left.pop()}", b"z")
                then()
            return create(service, dataset_id, sequence, link)

        monkeypatch.setattr(LocalKeyService, "create_anchor", late)
        return session, tx

    return race


class TestLosing:
    """The loser of a race takes in what was committed, and tries again."""

    def test_everything_is_kept(self, world, racing, pauses):
        """Both the loser's and the winners' files are there."""
        _, tx = racing(3)
        tx.commit()
        assert set(world.files()) == {"here", "mine", "theirs 0", "theirs 1", "theirs 2"}
        assert len(pauses) >= 3

    def test_requests_of_a_lost_race(self, world, racing, pauses):
        """A lost race costs the store a read of the change set, and one of two links side by side."""
        counts = CountingStore(world.session.engine.store)
        session, tx = racing(1, then=counts.reset)
        session.engine.store = session.engine.log.store = counts
        tx.commit()
        assert counts.requests == Counter(get=3, put=1)  # the own link is put at the end

    def test_nobody_else_is_locked_out(self, racing, monkeypatch):
        """While the loser waits, other threads can look at the dataset."""
        session, tx = racing(1)
        seen = []

        def look(_):
            thread = threading.Thread(target=lambda: seen.append(session.engine.refresh().state.sequence), daemon=True)
            thread.start()
            thread.join(20)

        monkeypatch.setattr(commit.time, "sleep", look)
        tx.commit()
        assert len(seen) >= 1


class TestStoreAhead:
    """A commit is never made where the store has a link already that the anchors do not know."""

    def test_first_try(self, world):
        """The anchors were rolled back since the session began: nothing is written over the later log."""
        session = world.open()
        world.put({"later": b"x"})
        world.anchor_file(world.newest()).unlink()
        tx = session.begin()
        tx.put_bytes("mine", b"y")
        with pytest.raises(AnchorRolledBack):
            tx.commit()


class TestPace:
    """How long losers wait."""

    def test_no_wait_without_rivals(self):
        """Whoever writes alone never waits."""
        pace = Pace()
        pace.tried(0.1)
        pace.committed([ME] * 20)
        assert pace.pause(ME, 0) == 0

    def test_longer_with_more_rivals(self):
        """The more write, the longer the tries are spread."""
        two, ten = Pace(), Pace()
        for pace, count in ((two, 2), (ten, 10)):
            pace.tried(0.1)
            pace.committed(bytes([number]) * 16 for number in range(count))
        assert longest(ten, 1) > 3 * longest(two, 1) > 0

    def test_shorter_after_more_losses(self):
        """Whoever lost often comes first: nobody starves."""
        pace = Pace()
        pace.tried(0.1)
        pace.committed([ME, OTHER])
        assert longest(pace, 20) < longest(pace, 1) / 5

    def test_one_who_never_stops_is_one_rival(self):
        """A single fast writer does not make the others wait for each of its commits."""
        pace = Pace()
        pace.tried(0.1)
        pace.committed([OTHER] * 1000)
        assert longest(pace, 1) <= 0.2

    def test_the_winner_lets_others_catch_up(self):
        """Whoever made the newest link waits a little when others write, too."""
        pace = Pace()
        pace.tried(0.1)
        pace.committed([OTHER, ME])
        assert longest(pace, 0) > 0
        pace.committed([OTHER])
        assert longest(pace, 0) == 0

    def test_bounded(self):
        """However slow and however many: some seconds at most."""
        pace = Pace()
        pace.tried(1000)
        pace.committed(bytes([number]) * 16 for number in range(100))
        assert longest(pace, 1) <= 5

    def test_rivals_are_forgotten(self, monkeypatch):
        """Those who have not committed for a while count no more."""
        pace = Pace()
        pace.tried(0.1)
        pace.committed([OTHER, ME])
        later = time.monotonic() + 60
        monkeypatch.setattr("sealedhealth.session.pacing.time.monotonic", lambda: later)
        assert pace.rivals == 1
        assert longest(pace, 0) == 0


def longest(pace, losses):
    """The longest of many waits."""
    return max(pace.pause(ME, losses) for _ in range(200))
