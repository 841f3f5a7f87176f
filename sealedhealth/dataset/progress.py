"""Progress bars on standard error, for work that takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Bar", "bar_for", "progress_bar"]


class Bar:
    """What long work reports to; does nothing by itself.

    Parameters
    ----------
    advance:
        Called with the bytes or items done since the last call.
    total:
        Called with how many bytes or items there are, when that is known.
    """

    def __init__(
        self, advance: Callable[[int], object] | None = None, total: Callable[[int], object] | None = None
    ) -> None:
        self._advance = advance
        self._total = total

    def advance(self, amount: int) -> None:
        """*amount* more bytes or items are done."""
        if self._advance is not None:
            self._advance(amount)

    def total(self, amount: int) -> None:
        """There are *amount* bytes or items in all."""
        if self._total is not None:
            self._total(amount)


@contextmanager
def progress_bar(what: str, *, items: bool = False, quiet: bool = False) -> Iterator[Bar]:
    """A bar labelled *what* while the block runs; none when *quiet* or when nobody watches standard error.

    Counts bytes, or *items*.
    """
    if quiet or not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn()]
    columns += [MofNCompleteColumn()] if items else [DownloadColumn(binary_units=True), TransferSpeedColumn()]
    columns.append(TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield Bar(lambda amount: bars.advance(task, amount), lambda amount: bars.update(task, total=amount))


@contextmanager
def bar_for(progress: bool | Bar, what: str) -> Iterator[Bar]:
    """What an argument ``progress=`` stands for: the caller's own bar, one on the terminal, or none."""
    if isinstance(progress, Bar):
        yield progress
    else:
        with progress_bar(what, quiet=not progress) as bar:
            yield bar
