"""How the demonstration looks: titles, tables, code; readable at 80 columns, silent in JSON mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sealedhealth.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from sealedhealth.cli.demo.attacks import Outcome

__all__ = ["Stage"]

_WIDTH = 92


class Stage:
    """A console of at most 92 columns."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(highlight=False)
        self._console = Console(width=min(console.width if console.is_terminal else _WIDTH, _WIDTH), highlight=False)
        self._quiet = output.json_mode()

    def title(self, text: str) -> None:
        """A heading."""
        if not self._quiet:
            self._console.print()
            self._console.print(text, style="bold cyan", markup=False)
            self._console.print("─" * len(text), style="cyan", markup=False)

    def say(self, text: str) -> None:
        """A paragraph."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def code(self, text: str) -> None:
        """A line of code or a command."""
        if not self._quiet:
            self._console.print(f"    {text}", style="green", markup=False, soft_wrap=True)

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """A table."""
        from rich.text import Text

        table = self._table()
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="right" if index in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self._print(table)

    def side_by_side(self, rows: Sequence[tuple[str, int, bytes, str, int, bytes]], more: int) -> None:
        """What was written on the left, what the host sees of it on the right."""
        from rich.text import Text

        table = self._table((0, 0))  # 80 columns are enough
        for heading in ("written", "size", "begins"):
            table.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
        for heading in ("│ object", "size", "begins"):
            table.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
        for path, size, start, name, sealed_size, sealed_start in rows:
            left = (path, _size(size), _text(start))
            right = (f"│ {name}", _size(sealed_size), sealed_start.hex(" "))
            table.add_row(*map(Text, left + right))
        table.add_row(f"… {more} more", "", "", f"│ … {more} more", "", "")
        self._print(table)

    def outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Attempts, and how each ended."""
        if self._quiet:
            return
        for outcome in outcomes:
            mark, style = ("refused", "bold green") if outcome.refused else ("NOT NOTICED", "bold red")
            self._console.print(f"{mark:>11}  ", style=style, end="", markup=False)
            self._console.print(f"{outcome.what}: {outcome.error}", markup=False)
            self._console.print(_indented(outcome.message, self._console.width), style="dim", markup=False)

    def _table(self, padding: tuple[int, int] = (0, 1)) -> Table:
        from rich import box
        from rich.table import Table

        return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False)

    def _print(self, table: Table) -> None:
        if not self._quiet:
            self._console.print()
            self._console.print(table, markup=False)
            self._console.print()


def _size(size: int) -> str:
    return f"{-(-size // 1024):,} KiB"


def _text(data: bytes) -> str:
    return "".join(character if character.isprintable() else "." for character in data.decode("latin-1"))


def _indented(text: str, width: int) -> str:
    import textwrap

    return textwrap.fill(text, width - 1, initial_indent=" " * 13, subsequent_indent=" " * 13)
