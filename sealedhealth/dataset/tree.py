"""Walks over the files of a view: what a recursive change touches, and how two snapshots differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sealedhealth.dataset.plan import inside, join
from sealedhealth.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from sealedhealth.log.entry import Entry
    from sealedhealth.session import View

__all__ = ["Change", "differences", "files_under", "pairs"]


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two snapshots."""

    kind: Literal["added", "changed", "removed"]
    path: str
    before: int | None  #: bytes in the first snapshot
    after: int | None  #: bytes in the second


def files_under(view: View, path: str, *, recursive: bool) -> list[tuple[str, Entry]]:
    """The file *path*, or with *recursive* every file under it. Raises ``NotFound``."""
    entry = view.get(path) if path else None
    if entry is not None:
        return [(path, entry)]
    if not view.is_dir(path):
        raise NotFound(f"There is no {path}.", safe="Nothing was changed.", next="See `sealedhealth ls`.")
    if not recursive:
        raise InvalidInput(
            f"{path or 'The root'} is a directory.", safe="Nothing was changed.", next="Say so: -r, or recursive=True."
        )
    return list(view.items(path))


def pairs(view: View, source: str, target: str, *, recursive: bool) -> list[tuple[str, str]]:
    """Which file becomes which when *source* is copied or moved to *target*."""
    old, new = inside(source), inside(target)
    files = files_under(view, old, recursive=recursive)
    is_file = view.get(old) is not None if old else False
    if not old:
        raise InvalidInput("The root of a dataset cannot be copied or moved.", safe="Nothing was changed.")
    if not new or target.endswith("/") or (view.is_dir(new) and view.get(new) is None):
        new = join(new, old.rpartition("/")[2])
    if new == old or (not is_file and new.startswith(old + "/")):
        raise InvalidInput(f"{old} cannot be copied or moved to {new}.", safe="Nothing was changed.")
    return [(name, new + name[len(old) :]) for name, _ in files]


def differences(before: View, after: View, path: str) -> Iterator[Change]:
    """Both sides are sorted by path: one pass over each."""
    left, right = before.items(path), after.items(path)
    old, new = next(left, None), next(right, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None
            yield Change("removed", old[0], old[1].size, None)
            old = next(left, None)
        elif old is None or new[0] < old[0]:
            yield Change("added", new[0], None, new[1].size)
            new = next(right, None)
        else:
            if old[1].content != new[1].content:
                yield Change("changed", new[0], old[1].size, new[1].size)
            old, new = next(left, None), next(right, None)
