"""Following a server's clock through the ``Date`` of its answers."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import format_datetime

from sealedhealth.keys.vault.clock import ServerClock


class World:
    """A server whose clock differs from ours by some seconds."""

    def __init__(self, offset: float) -> None:
        self.local = 1000.0
        self.offset = offset
        self.clock = ServerClock(lambda: self.local)

    def server(self) -> float:
        """Seconds since 1970 on the server."""
        return 1_800_000_000 + self.local + self.offset

    def exchange(self, to: float = 0.01, back: float = 0.01) -> None:
        """Ask and hear the answer."""
        asked = self.local
        self.local += to
        date = format_datetime(datetime.fromtimestamp(int(self.server()), UTC), usegmt=True)
        self.local += back
        self.clock.heard(date, asked, self.local)

    def error(self) -> float:
        """Seconds by which we are wrong."""
        return abs((self.clock.now() - datetime.fromtimestamp(self.server(), UTC)).total_seconds())


def test_unknown_at_first():
    """Before the first answer, and long after the last, nothing is known."""
    world = World(0.0)
    assert not world.clock.known
    world.exchange()
    assert world.clock.known
    world.local += 3600
    assert not world.clock.known


def test_one_answer_is_good_to_a_second():
    """A single answer bounds the error by about half a second and the time it took."""
    for offset in (0.0, 0.3, 0.999, -12345.6):
        world = World(offset)
        world.exchange()
        assert world.error() <= 0.52


def test_several_answers_narrow_it():
    """Twenty answers at odd moments bring the error to well below a fifth of a second."""
    chance = random.Random(7)
    world = World(0.77)
    for _ in range(40):
        world.local += chance.uniform(0.1, 3)
        world.exchange(chance.uniform(0.001, 0.05), chance.uniform(0.001, 0.05))
    assert world.error() < 0.15


def test_a_server_that_is_set_right():
    """When the server's clock is moved, the new answers count."""
    world = World(0.5)
    for _ in range(5):
        world.exchange()
    world.offset += 120
    world.exchange()
    assert world.error() <= 0.55


def test_never_goes_back():
    """A server whose clock is set back does not make ours go back."""
    world = World(0.5)
    world.exchange()
    before = world.clock.now()
    world.offset -= 500
    world.exchange()
    assert world.clock.now() >= before


def test_nonsense_is_ignored():
    """A ``Date`` that is none changes nothing."""
    world = World(0.5)
    world.exchange()
    for date in ("", "yesterday", "Mon, 99 Nov 2026 99:99:99 GMT", "0"):
        world.clock.heard(date, world.local, world.local)
    assert world.error() <= 0.52
