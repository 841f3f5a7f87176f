"""Reading parts of files: random ranges, and the requests that a Parquet reader makes."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from benchmarks.counting import CountedFileSystem
from benchmarks.places import directory, in_memory, make_file, new_dataset
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import Race
from sealedhealth import Dataset

RANGE = 64 << 10


def run(*, quick: bool) -> Section:
    """The section of the report."""
    size = (32 if quick else 512) << 20
    section = Section(
        "Reading parts of files",
        f"Random ranges of 64 KiB out of a file of {size >> 20} MiB on tmpfs, beside a plain read of the same ranges. "
        "A range is checked by whole segments of 256 KiB, of which it touches one or two.",
        ["", "per range", "MB/s"],
    )
    with directory(in_memory()) as place:
        _ranges(section, place, size, rounds=3 if quick else 7)
    with directory(in_memory()) as place:
        _parquet(section, place, rows=20_000 if quick else 500_000)
    return section


def _ranges(section: Section, place: Path, size: int, rounds: int) -> None:
    source = make_file(place / "source", size)
    dataset = new_dataset(place / "host")
    dataset.put(str(source), "file")
    entry = dataset.snapshot.get("file")
    assert entry is not None
    rng = random.Random(1)
    starts = [rng.randrange(size - RANGE) for _ in range(256)]
    reader = dataset.session.reader(entry)
    plain = os.open(source, os.O_RDONLY)
    contestants: dict[str, Callable[[], object]] = {
        "**sealedhealth**, one after the other": lambda: [reader.read(at, at + RANGE) for at in starts],
        "**sealedhealth**, 16 in a call": lambda: [
            dataset.session.read_ranges([(entry, at, at + RANGE) for at in starts[first : first + 16]])
            for first in range(0, len(starts), 16)
        ],
        "**sealedhealth** `fs.cat_file`": lambda: [dataset.fs.cat_file("file", at, at + RANGE) for at in starts],
        "plain read": lambda: [os.pread(plain, RANGE, at) for at in starts],
    }
    race = Race(rounds).run(contestants)
    os.close(plain)
    for name in contestants:
        each = race.median(name) / len(starts)
        section.row(name, seconds(each), f"{RANGE / each / 1e6:,.0f}")


def _parquet(section: Section, place: Path, rows: int) -> None:
    rng = random.Random(2)
    columns = {f"c{number}": [rng.random() for _ in range(rows)] for number in range(8)}
    name = str(place / "table.parquet")
    pq.write_table(pa.table(columns), name, use_dictionary=False)
    bare = CountedFileSystem()
    bare.pipe_file("/bare/table.parquet", Path(name).read_bytes())
    dataset = Dataset.create("counted://host/dataset")
    dataset.put(name, "table.parquet")
    stored = _requests(bare, "/bare/table.parquet")
    sealed = _requests(dataset.fs, "table.parquet")
    section.about += (
        f" A Parquet file of {Path(name).stat().st_size / 1e6:.0f} MB, footer and one column of eight read by pyarrow: "
        f"{stored['HEAD']} HEAD and {stored['GET']} GET on the bare store, "
        f"{sealed['HEAD']} HEAD and {sealed['GET']} GET when sealed and committed."
    )
    section.figure(Figure.at_most("requests for a Parquet footer and one column", sealed.total(), stored["GET"]))


def _requests(fs: AbstractFileSystem, path: str) -> Counter[str]:
    CountedFileSystem.requests.clear()
    with fs.open(path, "rb") as file:
        pq.ParquetFile(file).read(columns=["c3"])
    return Counter(CountedFileSystem.requests)
