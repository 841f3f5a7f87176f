"""Clocks: contestants take turns, so that what else the machine does hits all of them alike."""

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


class Race:
    """Seconds that each contestant took in each round."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seconds: dict[str, list[float]] = {}

    def run(
        self, contestants: Mapping[str, Callable[[], object]], *, between: Callable[[], object] | None = None
    ) -> Race:
        """Let all contestants run once a round, every second round in the other order; *between* is not timed."""
        for turn in range(self.rounds):
            order = list(contestants.items())
            for name, action in order if turn % 2 == 0 else reversed(order):
                gc.collect()
                start = time.perf_counter()
                action()
                self.seconds.setdefault(name, []).append(time.perf_counter() - start)
                if between is not None:
                    between()
        return self

    def median(self, name: str) -> float:
        """Seconds, the median of the rounds."""
        return median(self.seconds[name])

    def ratio(self, name: str, reference: str) -> float:
        """How many times faster than *reference*: the median of what each round says."""
        return median(b / a for a, b in zip(self.seconds[name], self.seconds[reference], strict=True))


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
