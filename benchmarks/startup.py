"""What importing costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median

from benchmarks.report import Figure, Section

HEAVY = ("s3fs", "hvac", "requests", "aiohttp", "botocore", "pandas", "pyarrow", "fsspec")
MODULES = ["sealedhealth", "sealedhealth.format", "sealedhealth.session", "sealedhealth.fs", "sealedhealth.dataset"]


def run(*, quick: bool) -> Section:
    """The section of the report."""
    section = Section(
        "Import",
        "In a new interpreter, by `-X importtime`, everything compiled before: the modules of sealedhealth alone, "
        "and with all that they import.",
        ["", "own ms", "all ms", "heavy packages loaded"],
    )
    rounds = 3 if quick else 15
    own_of = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for module in MODULES:
            _import(module, environment)
            found = [_import(module, environment) for _ in range(rounds)]
            own_of[module] = median(own for own, _ in found)
            section.row(
                f"`import {module}`",
                f"{own_of[module]:.1f}",
                f"{median(whole for _, whole in found):.1f}",
                ", ".join(_heavy(module)) or "none",
            )
    section.figure(Figure.at_most("`import sealedhealth`, of its own", own_of["sealedhealth"], 60, " ms"))
    section.figure(
        Figure.at_most("`import sealedhealth.dataset`, of its own", own_of["sealedhealth.dataset"], 60, " ms")
    )
    clients = [name for name in _heavy("sealedhealth.dataset") if name in {"s3fs", "hvac", "requests"}]
    section.figure(Figure.at_most("of s3fs, hvac, requests loaded by it", len(clients), 0))
    return section


def _import(module: str, environment: dict[str, str]) -> tuple[float, float]:
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    own = whole = 0.0
    for line in done.stderr.splitlines():
        alone, total, name = line.removeprefix("import time:").split("|")
        if name.strip().split(".")[0] == "sealedhealth":
            own += int(alone) / 1000
            # What another module imported is indented, and in the time of that one already.
            if not name[1:].startswith(" "):
                whole += int(total) / 1000
    return own, whole


def _heavy(module: str) -> list[str]:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()
