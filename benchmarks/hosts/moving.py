"""Moving a dataset from one host to another with no key, beside a plain copy between the same two."""

from __future__ import annotations

import os
from collections.abc import Callable

from benchmarks.hosts.places import new_dataset, plain
from benchmarks.hosts.servers import BUCKET, Host, seaweed
from benchmarks.places import directory, in_memory, make_file
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import Race, in_new_process, measured, timed
from sealedhealth.log.roster import Settings
from sealedhealth.replicate import replicate
from sealedhealth.stores import open_store

COPY = "s3fs, get and put of each file"
OURS = "**sealedhealth** `replicate`"


def run(*, quick: bool) -> Section:
    """The section of the report."""
    files, size, objects = (4, 16 << 20, 300) if quick else (4, 128 << 20, 10_000)
    section = Section(
        "Moving between hosts",
        f"From one SeaweedFS to another: {files} files of {size >> 20} MiB, and a dataset of {objects:,} objects, of "
        "which nothing changed since the last run. Everything copied is checked against the log. The plain copy gets "
        "each file and puts it again, with s3fs's defaults.",
        ["", "time", "ratio"],
    )
    with directory(in_memory()) as place, seaweed() as source, seaweed() as target:
        dataset = new_dataset(source, "large")
        for number in range(files):
            dataset.put(str(make_file(place / "file", size)), f"file{number}")
        identity = dataset.session.dataset_id
        turns = iter(range(10**6))
        there: list[str] = []

        def move() -> None:
            there.append(f"large{next(turns)}")
            _move(source, target, "large", there[-1], identity)

        race = Race(1 if quick else 3).run(
            {OURS: move, COPY: lambda: _copy(source, target, place / "between")},
            between=lambda: _remove(target, there),
        )
        memory = in_new_process(
            "hosts.moving:moved", source.endpoint, target.endpoint, "large", "memory", identity.hex()
        )
        many = new_dataset(source, "many", settings=Settings(pack_below=0))
        with many.session.begin() as transaction:
            transaction.put_many({f"d{number % 20}/{number}": b"x" * 1024 for number in range(objects)})
        first = timed(lambda: _move(source, target, "many", "moved", many.session.dataset_id))
        again = timed(lambda: _move(source, target, "many", "moved", many.session.dataset_id))
    for name in race.seconds:
        section.row(name, seconds(race.median(name)), f"{race.ratio(name, COPY):.2f}")
    section.row(f"`replicate` of {objects:,} objects of 1 KiB, all new", seconds(first), "")
    section.row(f"`replicate` of {objects:,} objects, nothing new", seconds(again), "")
    section.figure(Figure.at_least("replicate / plain copy", race.ratio(OURS, COPY), 0.9))
    section.figure(Figure.at_most("memory that replicate adds", memory["peak"], 100, " MiB"))
    section.figure(Figure.at_most(f"replicate of {objects:,} unchanged objects", again, 5, " s"))
    section.about += f" {race.disturbance}"
    return section


def _move(source: Host, target: Host, name: str, to: str, identity: bytes) -> None:
    stores = (
        open_store(f"s3://{BUCKET}/{name}", source.options),
        open_store(f"s3://{BUCKET}/{to}", target.options),
    )
    report = replicate(*stores, identity)
    assert not report.findings, report.findings


def moved(source_url: str, target_url: str, name: str, to: str, identity: str) -> dict[str, float]:
    """Move, in a new process."""
    source, target = Host(source_url), Host(target_url)
    # what loading the client takes is not what moving takes
    open_store(f"s3://{BUCKET}/{name}", source.options).exists(".sealedhealth/dataset.json")
    open_store(f"s3://{BUCKET}/{to}", target.options).exists(".sealedhealth/dataset.json")
    return measured(lambda: _move(source, target, name, to, bytes.fromhex(identity)))


def _copy(source: Host, target: Host, between: os.PathLike[str]) -> None:
    theirs, ours = plain(source), plain(target)
    for path in theirs.find(f"{BUCKET}/large"):
        theirs.get_file(path, str(between))
        ours.put_file(str(between), path)


def _remove(target: Host, names: list[str]) -> None:
    fs: Callable[..., object] = plain(target).rm
    if names:
        fs(f"{BUCKET}/{names.pop()}", recursive=True)
