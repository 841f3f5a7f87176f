"""The clock of a server, known through the ``Date`` of its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

__all__ = ["ServerClock"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_AGE_S = 600.0


class ServerClock:
    """Follows a server's clock.

    ``Date`` has whole seconds, so each answer says only that the server's clock stood between
    that second and the next at some moment between request and answer. The bounds of several
    answers together narrow the offset to well below a second. It never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._low = self._high = 0.0  #: bounds of server time minus local monotonic time, in seconds
        self._seen = -MAX_AGE_S * 2
        self._last = _EPOCH
        self._lock = threading.Lock()

    def heard(self, date: str, asked: float, answered: float) -> None:
        """Learn from the ``Date`` of an answer; *asked* and *answered* are monotonic seconds."""
        try:
            second = (parsedate_to_datetime(date) - _EPOCH).total_seconds()
        except (TypeError, ValueError):
            return
        low, high = second - answered, second + 1 - asked
        with self._lock:
            if answered - self._seen < MAX_AGE_S and max(low, self._low) <= min(high, self._high):
                low, high = max(low, self._low), min(high, self._high)
            self._low, self._high, self._seen = low, high, answered

    @property
    def known(self) -> bool:
        """Whether an answer has been heard lately."""
        return self._clock() - self._seen < MAX_AGE_S

    def now(self) -> datetime:
        """The server's time, as far as it is known."""
        with self._lock:
            seconds = self._clock() + (self._low + self._high) / 2
            self._last = max(self._last, _EPOCH + timedelta(seconds=seconds))
            return self._last
