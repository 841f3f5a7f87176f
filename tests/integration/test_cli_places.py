"""What `profile` and `doctor` say about places: endpoints, residency, and buckets that do not answer as they should."""

import json
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from datasets import local_profile, write_profile

from sealedhealth.cli import app, output
from sealedhealth.profiles import create_keystore, disconnect, load_profile
from sealedhealth.session import create_dataset


@pytest.fixture(autouse=True)
def _anew():
    """Each test begins and ends without connections, outside JSON mode."""
    output.set_json(False)
    yield
    output.set_json(False)
    disconnect()


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The profile file."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))
    return path


@pytest.fixture
def run(capsys):
    """Runs a command in JSON mode; gives what it printed, document by document, those of errors too."""

    def run(*arguments, code=0):
        assert app.run([*arguments, "--json"]) == code, capsys.readouterr()
        said = capsys.readouterr()
        return [json.loads(line) for line in (said.out + said.err).splitlines()]

    return run


@pytest.fixture
def findings(run):
    """What doctor finds, by check."""

    def findings(*arguments, code=0):
        return {row["check"]: (row["state"], row["detail"]) for row in run("doctor", *arguments, code=code)}

    return findings


class TestProfile:
    """Profiles are written, shown and checked with presets and lists."""

    def test_init_and_show(self, run, config):
        """What the options say is in the file, and is shown as it is in effect."""
        run(
            *("profile", "init", "chu", "--preset", "ovhcloud", "--region", "gra", "--jurisdiction", "FR"),
            *("--allow-endpoint", "s3.gra.io.cloud.ovh.net", "--allow-endpoint", "s3.sbg.io.cloud.ovh.net"),
            *("--allow-region", "gra", "--allow-jurisdiction", "FR", "--store", "anon=true"),
        )
        assert tomllib.loads(config.read_text())["profiles"]["chu"] == {
            "store": {"preset": "ovhcloud", "region": "gra", "anon": True},
            "residency": {
                "jurisdiction": "FR",
                "allowed_endpoints": ["s3.gra.io.cloud.ovh.net", "s3.sbg.io.cloud.ovh.net"],
                "allowed_regions": ["gra"],
                "allowed_jurisdictions": ["FR"],
            },
        }
        [shown] = run("profile", "show", "chu")
        assert shown["preset"] == "ovhcloud gra"
        assert shown["store"]["endpoint_url"] == "https://s3.gra.io.cloud.ovh.net"
        assert shown["residency"]["allowed_regions"] == ["gra"]

    def test_init_leaves_no_profile_that_cannot_be_read(self, run, config):
        """An unknown region is refused, and the file is as it was."""
        [error] = run("profile", "init", "chu", "--preset", "scaleway", "--region", "lille", code=2)
        assert "fr-par, nl-ams" in error["next"]
        assert not config.exists() or not config.read_text()

    def test_presets(self, run):
        """Every region that is known, with its country."""
        rows = run("profile", "presets")
        assert {
            "preset": "scaleway", "region": "fr-par", "endpoint": "s3.fr-par.scw.cloud", "jurisdiction": "FR"
        } in rows  # fmt: skip

    def test_check(self, run, config, monkeypatch):
        """Without a request: where a URL would be, what the environment does to that, and whether it may be written."""
        config.write_text('[profiles.chu.residency]\nallowed_endpoints = ["s3.hospital.example"]\n')
        assert run("profile", "check", "chu") == [{"profile": "chu"}]
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.hospital.example")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "lille")
        [found] = run("profile", "check", "chu", "s3://bucket/cardio")
        assert found == {
            "profile": "chu",
            "url": "s3://bucket/cardio",
            "store": "s3",
            "endpoint": "s3.hospital.example",
            "region": "lille",
            "jurisdiction": "",
            "writing_allowed": True,
        }
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
        found, error = run("profile", "check", "chu", "s3://bucket/cardio", code=4)
        assert not found["writing_allowed"]
        assert error["class"] == "ResidencyViolation"

    def test_check_tells_what_the_profile_says_only(self, run, config, capsys):
        """Nobody asked the host: whether there is such a bucket, and credentials for it, is not what is told."""
        config.write_text('[profiles.chu.store]\nendpoint_url = "http://127.0.0.1:9"\n')
        run("profile", "check", "chu", "s3://no-such-bucket/cardio")
        output.set_json(False)
        assert app.run(["profile", "check", "chu", "s3://no-such-bucket/cardio"]) == 0
        said = capsys.readouterr().out
        assert "writable" not in said
        assert "writing allowed      by the profile; the host was not asked" in said
        assert "region               -" in said


class TestDoctor:
    """One clear line for each thing that is, or is not, as it should be; nothing is written."""

    @pytest.fixture
    def place(self, make_place, monkeypatch):
        """A place on moto under the profile ``local``."""
        place = make_place("moto")
        write_profile(place.options, monkeypatch)
        local_profile()
        return place

    def residency(self, monkeypatch, text):
        """Add a table to the profile ``local``."""
        path = Path(load_profile().state).parent / "profiles.toml"
        path.write_text(path.read_text() + f"\n[profiles.local.residency]\n{text}\n")

    @pytest.mark.moto
    def test_a_dataset(self, place, findings, monkeypatch):
        """Where it is, what is declared, that writing is allowed, and that the host answers."""
        create_dataset(place.url, load_profile())
        host = urlsplit(place.options["endpoint_url"]).netloc
        self.residency(monkeypatch, f'jurisdiction = "FR"\nallowed_endpoints = ["{host}"]')
        found = findings(place.url)
        assert found["residency"] == ("ok", f"writing is allowed to these only: endpoints: {host}")
        assert found["store"] == ("ok", f"s3, endpoint {host}, region eu-west-3")
        assert found["store jurisdiction"] == ("ok", "FR, as declared: nothing measures it")
        assert found["store writing"] == ("ok", "the profile allows it here")
        assert found["store listing"][0] == "ok"
        assert found["store reading"] == ("ok", "a dataset is there")
        assert found["dataset"][0] == "ok"

    @pytest.mark.moto
    def test_nothing_there_yet(self, place, findings):
        """An empty place in a bucket is fine as a store; only the dataset is missing."""
        found = findings(place.url, code=3)
        assert found["store reading"] == ("ok", "no dataset has its root there")
        assert found["dataset"][0] == "failed"

    @pytest.mark.moto
    def test_a_place_that_the_profile_does_not_allow(self, place, findings, monkeypatch):
        """A warning: a reader may well read there. A declaration for another endpoint is not taken for one of this."""
        create_dataset(place.url, load_profile())
        self.residency(monkeypatch, 'jurisdiction = "FR"\nallowed_endpoints = ["s3.fr-par.scw.cloud"]')
        found = findings(place.url)
        state, detail = found["store writing"]
        assert state == "warning"
        assert "not in allowed_endpoints. Reading is possible." in detail
        assert found["reading"][0] == "ok"

    @pytest.mark.moto
    def test_no_bucket(self, place, findings):
        """A bucket that does not exist is said in one line, and is not taken for an empty one."""
        found = findings("s3://no-such-bucket-here/x", code=3)
        assert found["store listing"] == (
            "failed",
            "the bucket of s3://no-such-bucket-here/x does not exist, or is elsewhere",
        )
        assert "dataset" not in found

    @pytest.mark.seaweed
    def test_wrong_credentials(self, make_place, findings, monkeypatch):
        """Credentials that the host does not know: it refuses, and the line says whose they are."""
        place = make_place("seaweed")
        write_profile({**place.options, "key": "a-stranger", "secret": "hunter2"}, monkeypatch)
        local_profile()
        found = findings(place.url, code=4)
        assert found["store listing"][0] == "warning"
        assert found["store reading"][0] == "failed"
        assert "does not know these credentials" in found["store reading"][1]
        assert not any("hunter2" in detail for _, detail in found.values())

    def test_nobody_there(self, config, findings):
        """An endpoint that does not answer."""
        config.write_text('[profiles.local.store]\nendpoint_url = "http://127.0.0.1:9"\nanon = true\n')
        create_keystore(load_profile(), development=True)
        found = findings("s3://bucket/x", code=7)
        assert found["store"][1].startswith("s3, endpoint 127.0.0.1:9")
        assert found["store listing"][0] == "failed"
        assert "dataset" not in found
