"""One large file: from a file system in memory to itself, beside peers, a plain copy and SHA-256 alone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import PIECE, Copy, all_peers
from benchmarks.places import directory, in_memory, make_file, new_dataset
from benchmarks.report import Figure, Section, rate
from benchmarks.timing import Race, in_new_process, measured
from sealedhealth import Dataset

OURS = "**sealedhealth** put, get"
SHA = "SHA-256 alone, one thread"
COPY = "plain copy"


def run(*, quick: bool) -> Section:
    """The section of the report."""
    size = (32 if quick else 512) << 20
    section = Section(
        "One large file",
        f"{size >> 20} MiB from one file to another on tmpfs; put and get with the commit and the checks of the log. "
        "Ratios are to SHA-256 alone.",
        ["", "seal MB/s", "ratio", "open MB/s", "ratio"],
    )
    with directory(in_memory()) as place:
        seal, opened = _race(place, size, rounds=2 if quick else 5)
    section.about += f" {opened.disturbance}"
    for name in seal.seconds:
        section.row(
            name,
            rate(size, seal.median(name)),
            f"{seal.ratio(name, SHA):.2f}",
            rate(size, opened.median(name)),
            f"{opened.ratio(name, SHA):.2f}",
        )
    section.figure(Figure.at_least("put of a large file on tmpfs / SHA-256 on one core", seal.ratio(OURS, SHA), 0.85))
    section.figure(Figure.at_least("get of a large file on tmpfs / SHA-256 on one core", opened.ratio(OURS, SHA), 0.85))
    peers = [name for name in seal.seconds if name not in {OURS, SHA, COPY}]
    for verb, race in (("put", seal), ("get", opened)):
        worst = min(race.ratio(OURS, name) for name in peers)
        section.figure(Figure.at_least(f"{verb} of a large file on tmpfs / fastest peer", worst, 1.0))
    _huge(section, (1 if quick else 4) << 30)
    return section


def _race(place: Path, size: int, rounds: int) -> tuple[Race, Race]:
    source = make_file(place / "source", size)
    target = place / "target"
    host = place / "written"
    read, written = new_dataset(place / "read"), new_dataset(host)
    read.put(str(source), "file")
    sealers: dict[str, Callable[[], object]] = {
        OURS: lambda: written.put(str(source), "file"),
        SHA: lambda: _digest(source),
        COPY: lambda: shutil.copyfile(source, target),
    }
    openers = {**sealers, OURS: lambda: read.get("file", str(target))}
    for peer in all_peers()[:-1]:  # 4 KiB frames would take minutes
        sealed = place / peer.name.replace(" ", "-")
        _between(peer.encrypt, source, sealed)
        sealers[peer.name] = lambda peer=peer: _between(peer.encrypt, source, target)
        openers[peer.name] = lambda peer=peer, sealed=sealed: _between(peer.decrypt, sealed, target)

    def clean() -> None:
        # Pages that were used before are quicker to get than new ones: each contestant finds as many.
        target.unlink(missing_ok=True)
        shutil.rmtree(host / "objects", ignore_errors=True)

    return Race(rounds).run(sealers, between=clean), Race(rounds).run(openers, between=clean)


def _digest(path: Path) -> None:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])


def _between(copy: Copy, source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        copy(reader, writer)


# -- memory -----------------------------------------------------------------------------------------


def _huge(section: Section, size: int) -> None:
    shown = f"{size >> 30} GiB"
    with directory(in_memory()) as place:
        source = place / "source"
        with source.open("wb") as file:
            file.truncate(size)  # a hole: takes no memory
        new_dataset(place / "host")
        put = in_new_process("files:put_huge", str(place / "host"), str(source))
        get = in_new_process("files:get_huge", str(place / "host"), "/dev/null")
    section.figure(Figure.at_most(f"memory that put of {shown} adds", put["peak"], 64, " MiB"))
    section.figure(Figure.at_most(f"memory that get of {shown} adds", get["peak"], 64, " MiB"))


def put_huge(url: str, source: str) -> dict[str, float]:
    """Put one file, in a new process."""
    dataset = Dataset.open(url)
    return measured(lambda: dataset.put(source, "file"))


def get_huge(url: str, target: str) -> dict[str, float]:
    """Get one file, in a new process."""
    dataset = Dataset.open(url)
    return measured(lambda: dataset.get("file", target))
