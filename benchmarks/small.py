"""Many small objects in one transaction, beside a plain copy by fsspec to the same disk."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from fsspec.implementations.local import LocalFileSystem

from benchmarks.places import directory, in_memory, make_file, new_dataset
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import Race
from sealedhealth.keys.local import LocalKeyService

OURS = "**sealedhealth** put"
PLAIN = "fsspec put"
BACK = "**sealedhealth** get"
KEY_CALLS = ("create", "generate", "unwrap", "rewrap", "sign")
ANCHOR_CALLS = ("create_anchor", "read_anchor")


def run(*, quick: bool) -> Section:
    """The section of the report."""
    count = 1000 if quick else 10_000
    section = Section(
        "Many small objects",
        f"{count:,} files of 4 KiB put in one transaction, and got again, beside `fsspec` copying the directory. "
        "On the disk put ends with a flush, so that the commit survives a power cut; fsspec leaves that to the system.",
        ["", "put", "fsspec put", "ratio", "get"],
    )
    for name, parent in (("disk", None), ("tmpfs", in_memory())):
        with directory(parent) as place:
            source = place / "source"
            source.mkdir()
            for number in range(count):
                make_file(source / f"{number:05}.json", 4096)
            race, keys, anchors = _race(place, source, rounds=2 if quick else 3)
        section.row(
            name,
            *(seconds(race.median(key)) for key in (OURS, PLAIN)),
            f"{1 / race.ratio(OURS, PLAIN):.2f}",
            seconds(race.median(BACK)),
        )
        if name == "disk":
            slower = 1 / race.ratio(OURS, PLAIN)
            section.figure(Figure.at_most(f"{count:,} files of 4 KiB put on disk / fsspec put", slower, 2))
            section.figure(Figure.at_most(f"calls of the key service by a put of {count:,} objects", keys, 2))
            section.about += f" A put called the key service {keys} times and the anchors {anchors} times."
    return section


def _race(place: Path, source: Path, rounds: int) -> tuple[Race, int, int]:
    plain, host, back = place / "plain", place / "host", place / "back"
    fs = LocalFileSystem()
    dataset = new_dataset(host)
    dataset.put(f"{source}/", "warm")
    turn = iter(range(10**9))
    with counted() as calls:
        dataset.put(f"{source}/", "counted")
    race = Race(rounds).run(
        {
            OURS: lambda: dataset.put(f"{source}/", f"d{next(turn)}"),
            PLAIN: lambda: fs.put(f"{source}/", f"{plain}/", recursive=True),
            BACK: lambda: dataset.get("warm/", f"{back}/"),
        },
        between=lambda: [shutil.rmtree(path, ignore_errors=True) for path in (plain, back)],
    )
    return race, sum(calls[name] for name in KEY_CALLS), sum(calls[name] for name in ANCHOR_CALLS)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the calls of the local key service meanwhile; on a remote one each is a request."""
    calls: Counter[str] = Counter()

    def count(name: str, method: object) -> object:
        def call(*arguments: object, **more: object) -> object:
            calls[name] += 1
            return method(*arguments, **more)  # type: ignore[operator]

        return call

    with ExitStack() as stack:
        for name in (*KEY_CALLS, *ANCHOR_CALLS):
            patched = count(name, getattr(LocalKeyService, name))
            stack.enter_context(mock.patch.object(LocalKeyService, name, patched))
        yield calls
