"""Clocks: contestants take turns, and wait until nobody else keeps the machine busy."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

CALM = 0.05  # share of all processors that others may take
PATIENCE = 40.0  # seconds that a race waits for that, in all


class Race:
    """Seconds that each contestant took in each round, and what share of the machine others took meanwhile."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seconds: dict[str, list[float]] = {}
        self.others: list[float] = []
        self._give_up = time.perf_counter()

    def run(
        self, contestants: Mapping[str, Callable[[], object]], *, between: Callable[[], object] | None = None
    ) -> Race:
        """Let all contestants run once a round, every second round in the other order; *between* is not timed."""
        self._give_up = time.perf_counter() + PATIENCE
        for turn in range(self.rounds):
            order = list(contestants.items())
            for name, action in order if turn % 2 == 0 else reversed(order):
                others, seconds = self._measure(action, between)
                self.seconds.setdefault(name, []).append(seconds)
                self.others.append(others)
        return self

    def _measure(self, action: Callable[[], object], between: Callable[[], object] | None) -> tuple[float, float]:
        gc.collect()
        while time.perf_counter() < self._give_up:
            watch = _Others()
            time.sleep(0.05)
            if watch.share() <= CALM:
                break
        watch = _Others()
        seconds = timed(action)
        others = watch.share()
        if between is not None:
            between()
        return others, seconds

    def median(self, name: str) -> float:
        """Seconds, the median of the rounds."""
        return median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """How many times faster than *reference*: the median of what each round says."""
        return median(b / a for a, b in zip(self.seconds[name], self.seconds[reference], strict=True))

    @property
    def disturbance(self) -> str:
        """What else the machine did, in words."""
        return f"Other processes took {median(self.others):.0%} of the machine meanwhile (median)."


class _Others:
    """Watches the processor time that is not ours; the kernel counts it in hundredths of a second."""

    def __init__(self) -> None:
        self._since = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]]
        idle = fields[3] + fields[4]
        busy = (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - sum(os.times()[:4])

    def share(self) -> float:
        """Of all processors since the start, between 0 and 1."""
        (start, before), (stop, after) = self._since, self._now()
        return max(0.0, (after - before) / ((stop - start) * (os.cpu_count() or 1)))


def in_new_process(function: str, *arguments: Any) -> dict[str, Any]:
    """Run ``module:function`` of this package in a process of its own; returns what the function returns."""
    command = [sys.executable, "-m", "benchmarks.timing", function, json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(kind: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most (the kernel counts both)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{kind}:")[1].split()[0]) / 1024


def timed(action: Callable[[], object]) -> float:
    """Seconds of an action, once."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measured(action: Callable[[], object]) -> dict[str, float]:
    """Seconds of an action and MiB that memory grew by at its peak."""
    before = memory("VmRSS")
    seconds = timed(action)
    return {"seconds": seconds, "peak": max(0.0, memory("VmHWM") - before)}


def main() -> None:
    """The other side of :func:`in_new_process`."""
    import importlib

    module, name = sys.argv[1].split(":")
    result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(*json.loads(sys.argv[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
