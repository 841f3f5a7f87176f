"""How long whoever lost a race for the next commit waits before trying again.

Of several writers exactly one gets the next number; the others did their work for nothing, and
if all came back at once, they would do so again. Each waits for a random time that fits the number
of writers there seem to be, and the shorter, the more races it lost: nobody starves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

__all__ = ["Pace"]

_LONGEST_S = 5.0
_RECENT_S = 20.0  #: links whose authors count
_SPREAD = 2.0  #: tries that fit into the longest wait, for each rival
_FORGET = 0.1  #: how fast a try that took longer is believed


class Pace:
    """What one process knows of those who write to a dataset."""

    def __init__(self) -> None:
        self._authors: dict[bytes, float] = {}  # when the last link of each was seen
        self._last = b""  # author of the newest link
        self._try_s = 0.0  # what a try takes when nothing is in its way

    @property
    def rivals(self) -> int:
        """How many seem to write, at least one.

        All who look at the same log find the same number: if each went by its own experience, whoever
        won would go on winning.
        """
        since = time.monotonic() - _RECENT_S
        return max(1, sum(seen > since for seen in self._authors.values()))

    def committed(self, authors: Iterable[bytes]) -> None:
        """Links were committed, by these authors."""
        now = time.monotonic()
        for self._last in authors:
            self._authors[self._last] = now

    def tried(self, seconds: float) -> None:
        """A try took so long, won or lost."""
        slower = self._try_s > 0 and seconds > self._try_s
        self._try_s += (_FORGET if slower else 1) * (seconds - self._try_s)

    def pause(self, author: bytes, losses: int) -> float:
        """Seconds to wait before the next try, after so many races lost in a row."""
        rivals = self.rivals
        if losses:
            longest = _SPREAD * rivals * self._try_s / losses
        else:
            # Who made the newest link is ahead of all others, who have to read it first: it lets them catch up.
            longest = _SPREAD * self._try_s if rivals > 1 and self._last == author else 0.0
        return random.uniform(0, min(_LONGEST_S, longest))  # noqa: S311 - no secret: it only spreads the tries
