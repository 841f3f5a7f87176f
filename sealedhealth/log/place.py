"""Where a change set was written, as it stands in its public part: one small JSON document, written in one way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sealedhealth.errors import InvalidInput, MalformedError
from sealedhealth.log.strict import dump_json, load_json
from sealedhealth.stores.location import TEXT_LIMIT, Location

__all__ = ["PLACE_LIMIT", "Written", "dump_place", "read_place", "written_at"]

PLACE_LIMIT = 2048  #: bytes of the document: every text at its longest, and written with escapes, fits


def dump_place(location: Location) -> str:
    """The document."""
    parts = ("store", "endpoint", "region", "jurisdiction")
    return dump_json({name: getattr(location, name) for name in parts}).decode()


def read_place(document: str) -> Location:
    """A place from :func:`dump_place`.

    Raises ``MalformedError`` for anything else: whoever signed it may be a thief, and what it says is shown to others.
    """
    fields = load_json(document.encode(), "location of a change set")
    values = {name: fields.text(name, limit=TEXT_LIMIT) for name in ("store", "endpoint", "region", "jurisdiction")}
    fields.finish()
    try:
        location = Location(**values)
    except InvalidInput as error:
        raise MalformedError(error.what) from None
    if dump_place(location) != document:
        raise MalformedError("The location of a change set is not written in the one way.")
    return location


@dataclass(frozen=True, slots=True)
class Written:
    """One place where change sets of a log were written."""

    location: Location | None  #: None: they do not say
    commits: int
    first: int  #: sequence of the first such commit
    last: int

    def __str__(self) -> str:
        span = f"commits {self.first} to {self.last}" if self.first != self.last else f"commit {self.first}"
        return f"{self.location or 'not recorded'}, {span}"


def written_at(places: Iterable[tuple[int, Location | None]]) -> tuple[Written, ...]:
    """Each place of *places* (sequence, location of a change set) once, in the order in which they came up."""
    sequences: dict[Location | None, set[int]] = {}
    for sequence, location in places:
        sequences.setdefault(location, set()).add(sequence)
    return tuple(Written(place, len(found), min(found), max(found)) for place, found in sequences.items())
