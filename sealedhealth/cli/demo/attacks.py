"""What a host, or a thief with an old backup, might try; each attempt is undone afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sealedhealth.errors import IntegrityError

if TYPE_CHECKING:
    from sealedhealth.dataset import Dataset

__all__ = ["Attack", "Outcome", "Places", "attacks", "try_attack"]


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are during the demonstration."""

    host: Path
    old_host: Path  #: a copy of the host, made before the second commit
    anchors: Path | None  #: in the keystore; None when they are out of reach, in a Vault
    old_anchors: Path  #: a copy of the same age
    state: Path  #: what this client remembers

    def object(self, dataset: Dataset, path: str) -> Path:
        """The sealed object behind a logical path."""
        entry = dataset.snapshot.get(path)
        assert entry is not None
        name = entry.object_id.hex()
        return self.host / "objects" / name[:2] / name


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt."""

    what: str
    victim: str  #: the path that a job then tries to read
    do: Callable[[], None]
    touched: tuple[Path, ...]  #: put back afterwards


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    what: str
    refused: bool
    error: str  #: class of the error
    message: str


def attacks(dataset: Dataset, places: Places, first: str, second: str) -> Iterator[Attack]:
    """The attempts, on the files *first* and *second*."""
    one, two = places.object(dataset, first), places.object(dataset, second)

    def flip() -> None:
        data = bytearray(one.read_bytes())
        data[len(data) // 2] ^= 0x01
        one.write_bytes(data)

    def swap() -> None:
        here, there = one.read_bytes(), two.read_bytes()
        one.write_bytes(there)
        two.write_bytes(here)

    def truncate() -> None:
        data = one.read_bytes()
        one.write_bytes(data[: len(data) * 2 // 3])

    def old_host() -> None:
        _replace(places.host, places.old_host)

    def old_anchors() -> None:
        assert places.anchors is not None
        _replace(places.anchors, places.old_anchors)

    def old_anchors_new_client() -> None:
        old_anchors()
        shutil.rmtree(places.state)

    def both_old() -> None:
        old_host()
        old_anchors()

    yield Attack("flip one bit of a sealed object", first, flip, (one,))
    yield Attack("swap two sealed objects", first, swap, (one, two))
    yield Attack("cut a sealed object short", first, truncate, (one,))
    yield Attack("put yesterday's copy of the host back", first, old_host, (places.host,))
    if places.anchors is None:
        return
    yield Attack(
        "put yesterday's anchors back, for a new client",
        first,
        old_anchors_new_client,
        (places.anchors, places.state),
    )
    yield Attack("put both back, for a client that was here today", first, both_old, (places.host, places.anchors))


def try_attack(attack: Attack, scratch: Path, read: Callable[[str], object]) -> Outcome:
    """Make an attempt, have a job *read* its victim, and put everything back."""
    with _undone(attack.touched, scratch):
        attack.do()
        try:
            read(attack.victim)
        except IntegrityError as error:
            return Outcome(attack.what, True, type(error).__name__, error.what)
    return Outcome(attack.what, False, "", "It was not noticed!")


@contextmanager
def _undone(touched: tuple[Path, ...], scratch: Path) -> Iterator[None]:
    copies = [(path, scratch / str(index)) for index, path in enumerate(touched)]
    for path, copy in copies:
        _replace(copy, path)
    try:
        yield
    finally:
        for path, copy in copies:
            _replace(path, copy)
        shutil.rmtree(scratch)


def _replace(target: Path, source: Path) -> None:
    """Make *target* a copy of *source*, a file or a directory."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        target.write_bytes(source.read_bytes())
