"""What differs between two catalogues."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from sealedhealth.log.entry import Entry
from sealedhealth.log.segment import Segment

__all__ = ["Difference", "diff_segments", "differ"]

Difference = tuple[str, Entry | None, Entry | None]  #: a path, the entry before and the entry after


def differ(difference: Difference) -> bool:
    """Whether the two entries are different stored bytes."""
    _, before, after = difference
    return (before and before.content) != (after and after.content)


def diff_segments(
    left: Sequence[Segment], right: Sequence[Segment], *, ignore: Collection[str]
) -> Iterator[Difference]:
    """What differs between two sorted lists of segments, apart from the paths to *ignore*.

    Time in proportion to the segments that the two do not share.
    """
    shared = _shared(left, right)
    return _diff_rows(_rows(left, shared, ignore), _rows(right, shared, ignore))


class _Row(NamedTuple):
    """A row of a segment, with its path."""

    path: bytes
    segment: Segment
    row: int


def _shared(left: Sequence[Segment], right: Sequence[Segment]) -> set[int]:
    """``id`` of the segments that are on both sides: the same in memory, or read from the same place."""
    same = {id(segment) for segment in left} & {id(segment) for segment in right}
    refs = {segment.ref for segment in left} & {segment.ref for segment in right} - {None}
    return same | {id(segment) for segment in (*left, *right) if segment.ref in refs}


def _rows(segments: Sequence[Segment], shared: set[int], ignore: Collection[str]) -> Iterator[_Row]:
    for segment in segments:
        if id(segment) not in shared:
            for row, path in enumerate(segment.paths(0, len(segment))):
                if not ignore or path.decode() not in ignore:
                    yield _Row(path, segment, row)


def _diff_rows(left: Iterator[_Row], right: Iterator[_Row]) -> Iterator[Difference]:
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine.path < theirs.path):
            assert mine is not None
            yield mine.path.decode(), mine.segment.entry(mine.row), None
            mine = next(left, None)
        elif mine is None or theirs.path < mine.path:
            yield theirs.path.decode(), None, theirs.segment.entry(theirs.row)
            theirs = next(right, None)
        else:
            if mine.segment.content(mine.row) != theirs.segment.content(theirs.row):
                yield mine.path.decode(), mine.segment.entry(mine.row), theirs.segment.entry(theirs.row)
            mine, theirs = next(left, None), next(right, None)
