"""Large datasets: loading their catalogue, opening and listing them, and what a small commit writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from unittest import mock

from benchmarks.counting import CountedStore
from benchmarks.places import directory, in_memory, make_file, new_dataset
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import in_new_process, measured, timed
from sealedhealth import Dataset
from sealedhealth.format import Header, Kind, open_sealed, seal, sealed_size
from sealedhealth.log.catalogue import Catalogue, Segment
from sealedhealth.log.entry import Entry
from sealedhealth.stores import Buffer
from sealedhealth.stores.local import LocalStore

KEY = bytes(32)
HEADER = Header(Kind.CHECKPOINT_SECTION, bytes(16), bytes(16), bytes(16))
TARGETS = {100_000: (0.3, 80), 1_000_000: (2.0, 300)}
COMMIT = 100


def run(*, quick: bool) -> Section:
    """The section of the report."""
    section = Section(
        "Large datasets",
        "Loading a catalogue opens, checks and decodes its sealed segments in a new process, store and key service "
        "aside; memory is what that process grew by. Opening is `Dataset.open` in a new process, with the local key "
        "service, after a checkpoint; listing is `fs.ls` of one directory of 5,000 files and `fs.find` of all.",
        ["", "load", "memory", "`Dataset.open`", "memory", "`ls`", "`find`"],
    )
    with directory(in_memory()) as place:
        for count in (1000, 10_000) if quick else (10_000, 100_000, 1_000_000):
            _write_segments(place / str(count), count)
            loads = [in_new_process("catalogue:load", str(place / str(count))) for _ in range(3)]
            load = sorted(loads, key=lambda found: found["seconds"])[1]
            cells = [seconds(load["seconds"]), f"{load['peak']:.0f} MiB"]
            if count in TARGETS:
                time, memory = TARGETS[count]
                section.figure(Figure.at_most(f"catalogue of {count:,}: load", load["seconds"], time, " s"))
                section.figure(Figure.at_most(f"catalogue of {count:,}: memory", load["peak"], memory, " MiB"))
            cells += _real(section, place / "hosts" / str(count), count)
            section.row(f"{count:,} entries", *cells)
    return section


# -- the catalogue alone ------------------------------------------------------------------------------


def _entries(count: int) -> Iterator[tuple[str, Entry]]:
    keys = [os.urandom(16) for _ in range(count // 10_000 + 1)]
    for number in range(count):
        blob = os.urandom(104)
        yield (
            f"exports/2026-{number // 5000:03}/labs-of-patient-{number:07}.parquet",
            Entry(
                object_id=blob[:16],
                object_key=blob[16:48],
                data_key_id=keys[number // 10_000],
                salt=blob[48:72],
                root=blob[72:],
                sealed_size=sealed_size(number),
                offset=0,
                length=number,
                mtime_us=1_790_000_000_000_000 + 977_777 * number,
                sequence=number // 1000,
            ),
        )


def _write_segments(place: Path, count: int) -> None:
    place.mkdir()
    catalogue = Catalogue.empty()
    entries = _entries(count)
    while part := dict(islice(entries, 200_000)):
        catalogue = catalogue.apply(part)
    for number, segment in enumerate(catalogue.segments()):
        sealed, info = seal(KEY, HEADER, segment.encode())
        (place / f"{number:05}").write_bytes(info.root + sealed)


def load(place: str) -> dict[str, float]:
    """Load a catalogue, in a new process."""
    kept = []

    def read() -> None:
        segments = []
        for path in sorted(Path(place).iterdir()):
            data = path.read_bytes()
            segments.append(Segment.decode(open_sealed(KEY, HEADER, data[32:], root=data[:32])))
        kept.append(Catalogue.from_segments(segments))

    return measured(read)


# -- a dataset ------------------------------------------------------------------------------------------


def _real(section: Section, host: Path, count: int) -> list[str]:
    dataset = new_dataset(host)
    with mock.patch.object(LocalStore, "put_many", _without_objects):
        for start in range(0, count, 50_000):
            with dataset.session.begin() as transaction:
                transaction.put_many(
                    {f"d/{at // 5000:03}/{at:07}.json": b"x" for at in range(start, min(count, start + 50_000))}
                )
    dataset.maintain(force=True)
    found = [in_new_process("catalogue:open_dataset", str(host)) for _ in range(3)]
    opened = sorted(found, key=lambda one: one["seconds"])[1]
    section.figure(Figure.at_most(f"requests of the store to list {count:,} objects", opened["requests"], 0))

    before = _log_bytes(host)
    source = make_file(host.parent / f"object-{count}", 4096)
    with dataset.session.begin("more") as transaction:
        transaction.put_files([(str(source), f"more/{at}.json") for at in range(COMMIT)])
    written = _log_bytes(host) - before
    section.figure(Figure.at_most(f"commit of {COMMIT} objects into {count:,} writes", written / 1000, 200, " kB"))
    return [
        seconds(opened["seconds"]),
        f"{opened['peak']:.0f} MiB",
        seconds(opened["ls"]),
        seconds(opened["find"]),
    ]


_put_many = LocalStore.put_many


def _without_objects(store: LocalStore, objects: Mapping[str, Buffer]) -> None:
    """Store the log alone: a million files would take longer to delete than all the rest."""
    _put_many(store, {name: data for name, data in objects.items() if not name.startswith("objects/")})


def _log_bytes(host: Path) -> int:
    return sum(path.stat().st_size for path in (host / ".sealedhealth").rglob("*") if path.is_file())


def open_dataset(url: str) -> dict[str, float]:
    """Open a dataset and list it, in a new process."""
    opened: list[Dataset] = []

    def action() -> None:
        dataset = Dataset.open(url)
        assert len(dataset.snapshot)
        opened.append(dataset)

    result = measured(action)
    with CountedStore(opened[0].session.engine) as counted:
        result["ls"] = timed(lambda: opened[0].fs.ls("d/000", detail=True))
        result["find"] = timed(lambda: opened[0].fs.find("", detail=True))
    result["requests"] = counted.requests
    return result
