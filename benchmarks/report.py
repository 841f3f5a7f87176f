"""Tables in Markdown, and figures beside their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class Figure:
    """One figure and its target."""

    name: str
    value: str
    target: str
    reached: bool

    @classmethod
    def at_least(cls, name: str, value: float, target: float, unit: str = "") -> Self:
        """A figure that should be large."""
        return cls(name, f"{value:.2f}{unit}", f"≥ {target:g}{unit}", value >= target)

    @classmethod
    def at_most(cls, name: str, value: float, target: float, unit: str = "") -> Self:
        """A figure that should be small."""
        return cls(name, f"{value:.3g}{unit}", f"≤ {target:g}{unit}", value <= target)


@dataclass
class Section:
    """One table, with what it is about and the figures that follow from it."""

    title: str
    about: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def row(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    def figure(self, figure: Figure) -> None:
        """Add a figure."""
        self.figures.append(figure)

    def markdown(self) -> str:
        """The section as text."""
        return f"## {self.title}\n\n{self.about}\n\n{table(self.head, self.rows)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, marks, *rows]) + "\n"


def summary(sections: Sequence[Section]) -> str:
    """All figures that have a target."""
    rows = [
        (figure.name, figure.value, figure.target, "yes" if figure.reached else "**no**")
        for section in sections
        for figure in section.figures
    ]
    return table(["figure", "measured", "target", "reached"], rows)


def rate(size: int, seconds: float) -> str:
    """MB/s, of a million bytes."""
    return f"{size / seconds / 1e6:,.0f}"


def seconds(value: float) -> str:
    """A duration, in the unit that fits it."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
