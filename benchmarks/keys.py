"""Rewrapping data keys after the key-encryption key was rotated."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from benchmarks.places import directory, in_memory, new_dataset
from benchmarks.report import Figure, Section, seconds
from benchmarks.small import KEY_CALLS, counted
from benchmarks.timing import timed


def run(*, quick: bool) -> Section:
    """The section of the report."""
    count = 100 if quick else 1000
    section = Section(
        "Rewrap",
        f"{count:,} data keys, each of one object, wrapped again by a new version of the key-encryption key.",
        ["", "time", "calls of the key service", "objects rewritten"],
    )
    with directory(in_memory()) as place:
        dataset = new_dataset(place / "host")
        # As if each object used its key up.
        with mock.patch("sealedhealth.keys.keyring.SealingKey.exhausted", new=True):
            for start in range(0, count, 200):
                with dataset.session.begin() as transaction:
                    for at in range(start, min(count, start + 200)):
                        transaction.put_bytes(f"{at:04}", b"x")
        dataset.rotate()
        before = _objects(place / "host")
        reports = []
        with counted() as calls:
            time = timed(lambda: reports.append(dataset.rewrap()))
        rewritten = len(before.symmetric_difference(_objects(place / "host")))
        requests = sum(calls[name] for name in KEY_CALLS)
        section.row(f"{reports[0].keys:,} data keys", seconds(time), str(requests), str(rewritten))
    section.figure(Figure.at_most(f"objects rewritten by a rewrap of {reports[0].keys:,} data keys", rewritten, 0))
    return section


def _objects(host: Path) -> set[tuple[str, int, int]]:
    found = ((path, path.stat()) for path in (host / "objects").rglob("*") if path.is_file())
    return {(str(path), status.st_ino, status.st_mtime_ns) for path, status in found}
