"""``replicate`` and ``verify --public`` as their users run them: output, report, exit codes."""

import json
import os
from pathlib import Path

import pytest
from datasets import local_profile, write_profile

from sealedhealth import Dataset, profiles
from sealedhealth.cli import output
from sealedhealth.cli.app import run


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset with two objects in a directory, under the profile ``local``."""
    write_profile({}, monkeypatch)
    dataset = Dataset.create(str(tmp_path / "old"), profile=local_profile())
    dataset.fs.pipe_file("large", os.urandom(400_000))
    dataset.fs.pipe_file("small", b"small")
    yield dataset
    output.set_json(False)


@pytest.fixture
def command(capsys):
    """Run a command; gives its documents, its errors and its exit code."""

    def call(*arguments):
        output.set_json(True)
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        return [json.loads(line) for line in said.out.splitlines()], [*map(json.loads, said.err.splitlines())], code

    return call


@pytest.fixture
def no_key_service(monkeypatch):
    """Any attempt to reach one fails the test."""

    def refuse(profile):
        raise AssertionError("The key service was spoken to.")

    def forbid():
        monkeypatch.setattr(profiles, "connect", refuse)

    return forbid


def largest(dataset):
    """The file of the largest object."""
    found = [path for path in Path(dataset.url.removeprefix("file://")).rglob("objects/*/*") if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size)


def test_with_an_id(dataset, tmp_path, command, no_key_service):
    """No key service is needed; the report is written, and says that nobody vouches for freshness."""
    no_key_service()
    [report], errors, code = command(
        "replicate", dataset.url, tmp_path / "new", "--id", dataset.id, "--report", tmp_path / "report.json"
    )
    assert (errors, code) == ([], 0)
    assert report["complete"]
    assert report["freshness"] == "unknown"
    assert report["copied"]["kinds"]["object"]["names"] == 2
    assert json.loads((tmp_path / "report.json").read_text()) == report
    [checked], errors, code = command("verify", "--public", tmp_path / "new", "--id", dataset.id)
    assert (errors, code) == ([], 0)
    assert checked["verified"]["kinds"]["object"]["names"] == 2
    assert checked["digest"] == report["digest"]


def test_by_the_registry(dataset, tmp_path, command):
    """Id and anchors come from the key service; after registering, the new URL opens."""
    [report], _, code = command("replicate", dataset.url, tmp_path / "new")
    assert code == 0
    assert report["freshness"] == "anchors"
    assert report["dataset"] == dataset.id
    _, _, code = command("register", dataset.id, tmp_path / "new")
    assert code == 0
    assert Dataset.open(str(tmp_path / "new"), profile=local_profile()).fs.cat_file("small") == b"small"


@pytest.mark.parametrize("harm", ["missing", "corrupted"])
def test_damaged_source(dataset, tmp_path, command, harm):
    """Named, everything else copied, exit code 5; checking the host says the same."""
    file = largest(dataset)
    name = file.relative_to(dataset.url.removeprefix("file://")).as_posix()
    file.unlink() if harm == "missing" else file.write_bytes(b"x" + file.read_bytes()[1:])
    [report], [error], code = command("replicate", dataset.url, tmp_path / "new")
    assert code == error["exit_code"] == 5
    assert report[harm] == [name]
    assert report["complete"]
    assert any(name in failure for failure in error["failures"])
    [report], [error], code = command("verify", "--public", dataset.url)
    assert code == 5
    assert report[harm] == [name]


def test_what_was_seen(dataset, tmp_path, command):
    """--head: a commit that the source has, and one that it has not."""
    commit = dataset.history()[-1]
    seen = f"{commit.sequence}:{commit.digest}"
    new = tmp_path / "new"
    [report], _, code = command("replicate", dataset.url, new, "--id", dataset.id, "--head", seen)
    assert code == 0
    assert report["freshness"] == "head"
    [error] = command("replicate", dataset.url, new, "--id", dataset.id, "--head", f"99:{commit.digest}")[1]
    assert (error["class"], error["exit_code"]) == ("RolledBack", 5)
    assert command("verify", "--public", new, "--id", dataset.id, "--head", f"99:{commit.digest}")[2] == 5


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["replicate", "{old}", "{old}"], 2),
        (["replicate", "{old}", "{old}/inside"], 2),
        (["replicate", "{old}", "{new}", "--id", "abc"], 2),
        (["replicate", "{old}", "{new}", "--head", "1:abc"], 2),
        (["replicate", "{old}", "{new}", "--to-profile", "nobody"], 2),
        (["replicate", "{new}", "{old}"], 3),
        (["replicate", "{new}", "{old}", "--id", "{id}"], 3),
        (["replicate", "{old}", "{new}", "--id", "00" * 16], 5),
        (["verify", "--public", "{new}", "--id", "{id}"], 3),
        (["verify", "--public", "{old}", "--log-only"], 2),
        (["verify", "{old}", "--no-data"], 2),
    ],
)
def test_refused(dataset, tmp_path, command, arguments, code):
    """Each bad input is one clear error, and nothing is written."""
    values = {"old": str(tmp_path / "old"), "new": str(tmp_path / "new"), "id": dataset.id}
    results, [error], status = command(*(argument.format_map(values) for argument in arguments))
    assert results == []
    assert status == error["exit_code"] == code
    assert error["what"]
    assert not (tmp_path / "new").exists()


def test_destination_outside_the_list(dataset, tmp_path, command, monkeypatch):
    """The destination's profile says where data may be written; nothing is begun elsewhere."""
    config = Path(os.environ["SEALEDHEALTH_CONFIG"])
    config.write_text(
        config.read_text() + '\n[profiles.here]\n[profiles.here.residency]\nallowed_regions = ["fr-par"]\n'
    )
    _, [error], code = command("replicate", dataset.url, tmp_path / "new", "--id", dataset.id, "--to-profile", "here")
    assert error["class"] == "ResidencyViolation"
    assert code == error["exit_code"]
    assert not (tmp_path / "new").exists()


def test_public_check_of_a_path(dataset, command):
    """A path inside a dataset is told as such, as plain ``verify`` does it, with the root that was meant."""
    for arguments in (["verify"], ["verify", "--public"]):
        _, [error], code = command(*arguments, dataset.url + "/labs")
        assert code == 2
        assert dataset.url in error["what"]
        assert "whole dataset" in error["what"]
    _, [error], code = command("replicate", dataset.url + "/labs", dataset.url + "-copy")
    assert (code, "whole dataset" in error["what"]) == (2, True)


def test_a_stale_copy_is_brought_up_to_date(dataset, tmp_path, command):
    """Registering a copy that lacks the newest commits: what helps is to copy again, and then it works."""
    assert command("replicate", dataset.url, tmp_path / "new", "--id", dataset.id)[2] == 0
    dataset.fs.pipe_file("later", b"later")
    _, [error], code = command("register", dataset.id, tmp_path / "new", "--also")
    assert code == 5
    assert f"sealedhealth replicate {dataset.url} file://{tmp_path}/new" in error["next"]
    assert command("replicate", dataset.url, tmp_path / "new", "--id", dataset.id)[2] == 0
    assert command("register", dataset.id, tmp_path / "new", "--also")[2] == 0


@pytest.mark.moto
def test_the_host_of_a_bucket_is_shown(make_place, monkeypatch, capsys):
    """Buckets of two hosts may have the same name."""
    place = make_place("moto")
    write_profile(place.options, monkeypatch)
    Dataset.create(place.url, profile=local_profile())
    output.set_json(False)
    assert run(["verify", "--public", place.url]) == 0
    assert f"at         {place.url} ({place.store().location.endpoint}, eu-west-3)" in capsys.readouterr().out


def test_human_output(dataset, tmp_path, capsys):
    """What a person reads: amounts, places, digest, and what to do next."""
    output.set_json(False)
    assert run(["replicate", dataset.url, str(tmp_path / "new"), "--id", dataset.id]) == 0
    said = capsys.readouterr()
    assert f"Dataset {dataset.id}" in said.out
    assert "every byte checked" in said.out
    assert "nobody said which commit is the newest" in said.err
    assert f"sealedhealth register {dataset.id}" in said.err
    largest(dataset).unlink()
    assert run(["verify", "--public", "--no-data", dataset.url]) == 5
    said = capsys.readouterr()
    assert "  missing    objects/" in said.out
