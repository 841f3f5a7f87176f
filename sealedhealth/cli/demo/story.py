"""The demonstration from beginning to end: producer, host, job, attacks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealedhealth.cli import output
from sealedhealth.cli.demo.attacks import Outcome, Places, attacks, try_attack
from sealedhealth.cli.demo.data import SMALLEST_CELL, DrugPairs, count_drug_pairs, export_tables
from sealedhealth.cli.demo.stage import Stage
from sealedhealth.dataset import Dataset
from sealedhealth.errors import InvalidInput, SealedHealthError
from sealedhealth.profiles import connect, create_keystore, disconnect, load_profile
from sealedhealth.session.engine import Engine

if TYPE_CHECKING:
    from sealedhealth.cli.demo.vault import Bao

__all__ = ["tell"]

_PROFILE = "demo"
_SHOWN = ("concept", "drug_era", "person")
_AFTER_SALT = 64 + 24
# Long enough that random bytes do not spell them.
_WORDS = (b"PERSON_ID", b"Acetaminophen", b"Gastrointestinal", b"drug_era", b".parquet")


def tell(keep: Path | None, *, vault: bool = False) -> dict[str, Any]:
    """Run the whole demonstration, with the keys in a keystore or in a Vault of its own; what came out of it."""
    started = time.monotonic()
    with _place(keep) as place, _own_profile(place):
        if vault:
            from sealedhealth.cli.demo.vault import running

            with running(place) as server:
                summary = _VaultStory(place, server).run()
        else:
            summary = _Story(place).run()
    summary["seconds"] = round(time.monotonic() - started, 1)
    stage = Stage()
    if keep is None:
        stage.say(f"That took {summary['seconds']} s. Everything it wrote is gone again.")
    else:
        config = place / "profiles.toml"
        stage.say(f"That took {summary['seconds']} s. Look around, and delete {place} when done:")
        stage.code(f"export SEALEDHEALTH_CONFIG={config} SEALEDHEALTH_PROFILE={_PROFILE}")
        stage.code(f"sealedhealth ls -l {place / 'host'}/csv")
        summary["kept"] = str(place)
    return summary


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    """The directory in which everything happens; it is removed at the end, unless it is to be kept."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="sealedhealth-demo-") as folder:
            yield Path(folder)
        return
    place = Path(os.path.abspath(keep))  # noqa: PTH100 - not resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InvalidInput(f"{place} is not empty.", safe="It is unchanged.", next="Name a new directory.")
    place.mkdir(parents=True, exist_ok=True)
    yield place


@contextmanager
def _own_profile(place: Path) -> Iterator[None]:
    """Whatever the user has configured is out of sight: the demonstration has its own profile and keystore."""
    before = {name: value for name, value in os.environ.items() if name.startswith("SEALEDHEALTH_")}
    config = place / "profiles.toml"
    lines = [f"[profiles.{_PROFILE}]", *(f'{key} = "{place / key}"' for key in ("keystore", "state"))]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in before:
        del os.environ[name]
    os.environ["SEALEDHEALTH_CONFIG"] = str(config)
    try:
        yield
    finally:
        del os.environ["SEALEDHEALTH_CONFIG"]
        os.environ.update(before)
        disconnect()


class _Story:
    """The steps, in order; each adds to :attr:`summary`."""

    writer = _PROFILE  #: the profile that seals
    keys_are_in = "a keystore [{}: this demonstration only]"

    def __init__(self, place: Path) -> None:
        self.place = place
        self.host = place / "host"
        self.hospital = place / "hospital"
        self.url = self.host.as_uri()
        self.stage = Stage()
        self.summary: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """All of it. Raises when an attack goes unnoticed."""
        self.seal()
        self.show_host()
        self.work()
        self.attack()
        return self.summary

    # --- the producer -----------------------------------------------------------------

    def prepare(self) -> str:
        """Make the keys and the dataset; the key service's label."""
        profile = load_profile(_PROFILE)
        label = create_keystore(profile, development=True).service.capabilities().label
        Dataset.create(self.url, profile=profile)
        self.stage.code("sealedhealth create host")
        return label

    def seal(self) -> None:
        """Write the tables, and seal them into the host's directory."""
        stage = self.stage
        stage.title("1. A hospital seals its data before it leaves the machine")
        rows = export_tables(self.hospital)
        label = self.prepare()
        dataset = Dataset.open(self.url, profile=self.writer)
        clock = time.monotonic()
        done = dataset.put(f"{self.hospital}/", message="GiBleed, first export")
        took = time.monotonic() - clock
        stage.say(
            f"GiBleed: {rows['person']:,} synthetic persons in {len(rows)} OMOP tables, {sum(rows.values()):,} rows,"
            f" as Parquet and CSV."
        )
        stage.code('sealedhealth put hospital/ host -m "GiBleed, first export"')
        stage.say(
            f"{done.files} files, {output.human_size(done.size)}, sealed in {took:.1f} s, in one commit."
            f" The keys stay in {self.keys_are_in.format(label)} that the host never sees."
        )
        self.summary |= {
            "persons": rows["person"],
            "tables": len(rows),
            "rows": sum(rows.values()),
            "keys": label,
            "sealed": {"files": done.files, "bytes": done.size, "seconds": round(took, 3)},
        }

    # --- the host ---------------------------------------------------------------------

    def show_host(self) -> None:
        """Side by side: what the producer wrote, and what the host sees of it."""
        stage = self.stage
        stage.title("2. What the hospital wrote, and what the foreign host sees of it")
        snapshot = Dataset.open(self.url, profile=_PROFILE).snapshot
        rows = []
        for path, entry in snapshot.items():
            name = entry.object_id.hex()
            sealed = (self.host / "objects" / name[:2] / name).read_bytes()
            plain = (self.hospital / path).read_bytes()
            rows.append((path, len(plain), plain[:8], f"{name[:9]}…", len(sealed), sealed[_AFTER_SALT:][:4]))
        chosen = [row for row in rows if row[0].partition("/")[2].partition(".")[0] in _SHOWN]
        stage.side_by_side(chosen, len(rows) - len(chosen))
        files = [path for path in self.host.rglob("*") if path.is_file()]
        found = _count_words(files)
        words = ", ".join(word.decode() for word in _WORDS)
        stage.say(
            f"Every object begins with {_AFTER_SALT} public bytes (format, random ids, salt); shown is what follows."
            f" The host has {len(files)} files. Searched for {words}: {found} hits."
        )
        self.summary["host"] = {"files": len(files), "bytes": sum(path.stat().st_size for path in files), "hits": found}

    # --- the job ----------------------------------------------------------------------

    def work(self) -> None:
        """Open the tables with pandas, and compute something real."""
        import pandas as pd

        stage = self.stage
        stage.title("3. A job opens it with pandas, and computes")
        stage.code('ds = sealedhealth.Dataset.open("host", profile="demo")')
        stage.code('pd.read_parquet("sealed::…/parquet/drug_era.parquet",')
        stage.code('                storage_options={"sealed": {"profile": "demo"}})')
        stage.code('pd.read_csv(ds.fs.open("csv/concept.csv"))')
        clock = time.monotonic()
        dataset = Dataset.open(self.url, profile=_PROFILE)
        options = {"sealed": {"profile": _PROFILE}}
        eras = pd.read_parquet(f"sealed::{self.url}/parquet/drug_era.parquet", storage_options=options)
        conditions = pd.read_parquet("parquet/condition_occurrence.parquet", filesystem=dataset.fs)
        with dataset.fs.open("csv/concept.csv") as file:
            concepts = pd.read_csv(file)
        pairs = count_drug_pairs(conditions, eras, concepts)
        took = time.monotonic() - clock
        self._show_pairs(pairs, took)
        self.summary["job"] = {**asdict(pairs), "smallest_cell": SMALLEST_CELL, "seconds": round(took, 3)}

    def _show_pairs(self, pairs: DrugPairs, took: float) -> None:
        self.stage.say(
            f"{pairs.bleeders} persons had a gastrointestinal bleed. Drugs taken at the same time before the first one:"
        )
        self.stage.table(
            ["drug", "with", "persons"], [[a, b, f"{persons}"] for a, b, persons in pairs.shown[:8]], right=(2,)
        )
        rest = len(pairs.shown) - len(pairs.shown[:8])
        self.stage.say(
            f"… and {rest} more pairs. {pairs.suppressed} pairs of fewer than {SMALLEST_CELL} persons are suppressed."
            f" Opened and computed in {took:.1f} s."
        )

    # --- the attacks ------------------------------------------------------------------

    def attack(self) -> None:
        """A second commit; then everything that a host could try."""
        stage = self.stage
        stage.title("4. The host, or a thief with an old backup, meddles")
        places = self.places()
        shutil.copytree(places.host, places.old_host)
        if places.anchors is not None:
            shutil.copytree(places.anchors, places.old_anchors)
        Dataset.open(self.url, profile=self.writer).put(
            str(self.hospital / "csv" / "person.csv"), "csv/person-corrected.csv", message="a correction"
        )
        victims = ("parquet/drug_era.parquet", "parquet/measurement.parquet")
        scratch = self.place / "scratch"
        scratch.mkdir()
        dataset = Dataset.open(self.url, profile=_PROFILE)
        outcomes = [try_attack(attack, scratch, self._read_anew) for attack in attacks(dataset, places, *victims)]
        outcomes += self.thefts()
        stage.outcomes(outcomes)
        self._read_anew(victims[0])
        report = Dataset.open(self.url, profile=_PROFILE).verify()
        stage.say(f"Everything put right again: {report.files} files and {report.commits} commits verify.")
        for folder in (places.old_host, places.old_anchors):
            shutil.rmtree(folder, ignore_errors=True)
        self.summary["attacks"] = [asdict(outcome) for outcome in outcomes]
        self.summary["verified"] = {"files": report.files, "commits": report.commits}
        _refuse_unnoticed(outcomes)

    def places(self) -> Places:
        """What can be meddled with."""
        profile = load_profile(_PROFILE)
        anchors = profile.keystore / "anchors"
        return Places(self.host, self.place / "old-host", anchors, self.place / "old-anchors", profile.state)

    def thefts(self) -> list[Outcome]:
        """What a thief of credentials tries; with one keystore for everybody, that is everything."""
        return []

    def _read_anew(self, path: str) -> bytes:
        """Read as a job that has just started, with nothing in memory."""
        disconnect()
        Engine.forget(self.url, load_profile(_PROFILE))
        content: bytes = Dataset.open(self.url, profile=_PROFILE).fs.cat_file(path)
        return content


class _VaultStory(_Story):
    """The same with a member of its own for each part, and no keystore."""

    writer = "demo-hospital"
    keys_are_in = "{}, a real OpenBao,"

    def __init__(self, place: Path, server: Bao) -> None:
        super().__init__(place)
        self.server = server

    def prepare(self) -> str:
        """Set a Vault up from nothing."""
        calls = self.server.set_up(self.url)
        label = connect(load_profile(_PROFILE)).service.capabilities().label
        for line in (
            "sealedhealth vault setup --yes",
            "sealedhealth create host --profile demo-dpo",
            "sealedhealth vault setup host --yes",
            "sealedhealth vault enrol demo-hospital producer host --yes",
            "sealedhealth vault author demo-hospital host --role producer",
            "sealedhealth vault enrol demo reader host --yes",
        ):
            self.stage.code(line)
        self.stage.say(
            f"Mounts, policies and roles by {calls} API calls, which --dry-run prints for review. The hospital gets new"
            " data keys and can open none; the job opens and can neither write nor sign."
        )
        self.summary["setup_calls"] = calls
        return label

    def places(self) -> Places:
        """The anchors are out of reach."""
        state = load_profile(_PROFILE).state
        return Places(self.host, self.place / "old-host", None, self.place / "old-anchors", state)

    def thefts(self) -> list[Outcome]:
        """The hospital's credentials are stolen."""
        return list(self.server.thefts())


def _count_words(files: list[Path]) -> int:
    """How often words of the data, or file names, occur in what the host holds, contents and names."""
    return sum(
        data.count(word) for path in files for data in (path.read_bytes(), path.name.encode()) for word in _WORDS
    )


def _refuse_unnoticed(outcomes: list[Outcome]) -> None:
    unnoticed = [outcome.what for outcome in outcomes if not outcome.refused]
    if unnoticed:
        raise SealedHealthError(f"Not noticed: {'; '.join(unnoticed)}.", next="Report this: it must not happen.")
