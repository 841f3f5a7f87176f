"""Whoever can set an environment variable, name a bucket or mistype a URL does not move writes out of the profile."""

import ast
import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from datasets import write_profile
from servers import REGION

import sealedhealth
from sealedhealth.cli import app
from sealedhealth.dataset import Dataset
from sealedhealth.errors import InvalidInput, ResidencyViolation
from sealedhealth.profiles import connect, create_keystore, disconnect, load_profile
from sealedhealth.session import create_dataset
from sealedhealth.stores import ObjectStore, open_store
from sealedhealth.stores.base import CHANGES
from sealedhealth.stores.location import Location
from sealedhealth.stores.residency import Residency

pytestmark = pytest.mark.moto


@pytest.fixture
def here(make_place):
    """A place on moto by the name that the profile allows."""
    return make_place("moto")


@pytest.fixture
def port(here):
    """The port of that server: by the name ``localhost`` it plays the host abroad."""
    return urlsplit(here.options["endpoint_url"]).port


@pytest.fixture
def profile(here, monkeypatch):
    """Writes a profile with lines of residency, and a store table that names the endpoint or does not."""

    def write(*lines, names_endpoint=True):
        options = here.options if names_endpoint else {k: here.options[k] for k in ("key", "secret")}
        write_profile(options, monkeypatch)
        path = Path(os.environ["SEALEDHEALTH_CONFIG"])
        path.write_text("\n".join([path.read_text(), "[profiles.local.residency]", *lines]))
        disconnect()
        found = load_profile("local")
        if not found.keystore.exists():
            create_keystore(found, development=True)
        return found

    return write


def held(place):
    """Everything that the server holds at a place, whoever asks."""
    store = open_store(place.url, place.options)
    return {name: hashlib.sha256(store.get(name, limit=size)).hexdigest() for name, size in store.list("")}


def keys_of(profile):
    """Every file of the keystore."""
    return sorted(str(path) for path in profile.keystore.rglob("*") if path.is_file())


class TestEndpoint:
    """What counts is where the client really sends its requests."""

    @pytest.mark.parametrize("way", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE"])
    def test_an_environment_variable_does_not_move_writes_abroad(self, here, port, profile, way, monkeypatch, tmp_path):
        """Not one byte, and no key is made: creating a dataset is refused where the environment moved the client."""
        found = profile(f'allowed_endpoints = ["127.0.0.1:{port}"]', names_endpoint=False)
        value = f"http://localhost:{port}"
        if way == "AWS_CONFIG_FILE":
            (tmp_path / "aws").write_text(f"[default]\nendpoint_url = {value}\n")
            value = str(tmp_path / "aws")
        monkeypatch.setenv(way, value)
        monkeypatch.setenv("AWS_REGION", REGION)
        before = keys_of(found)
        with pytest.raises(ResidencyViolation, match=rf"localhost:{port}.*allowed_endpoints.*127\.0\.0\.1:{port}"):
            create_dataset(here.url, found)
        assert held(here) == {}
        assert keys_of(found) == before

    def test_what_the_profile_says_wins_over_the_environment(self, here, port, profile, monkeypatch):
        """An endpoint in the profile is used whatever the environment says."""
        found = profile(f'allowed_endpoints = ["127.0.0.1:{port}"]')
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
        session = create_dataset(here.url, found)
        assert session.engine.location.endpoint == f"127.0.0.1:{port}"

    def test_a_declared_jurisdiction_does_not_follow_the_client_abroad(self, here, port, profile, monkeypatch):
        """The declaration is about the endpoints that the profile names: another one is nowhere in particular."""
        found = profile('jurisdiction = "FR"', 'allowed_jurisdictions = ["FR"]', names_endpoint=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
        with pytest.raises(ResidencyViolation, match="its jurisdiction is not known"):
            create_dataset(here.url, found)
        assert held(here) == {}

    def test_a_region_is_no_label_that_the_environment_may_stick_on(self, here, port, profile, monkeypatch):
        """A client told that this is fr-par, at a host that is not: refused."""
        found = profile('allowed_regions = ["fr-par"]', names_endpoint=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
        monkeypatch.setenv("AWS_REGION", "fr-par")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "fr-par")
        with pytest.raises(ResidencyViolation, match="its region is not known"):
            create_dataset(here.url, found)
        assert held(here) == {}

    def test_a_client_that_is_made_anew_is_looked_at_anew(self, here, port, profile, monkeypatch):
        """A connection that s3fs makes again takes the environment of that moment: the next write is refused."""
        found = profile(f'allowed_endpoints = ["127.0.0.1:{port}"]', names_endpoint=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        store = found.open_store(here.url)
        store.put("one", b"1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{port}")
        store.fs.connect(refresh=True)
        with pytest.raises(ResidencyViolation):
            store.put("two", b"2")
        assert set(held(here)) == {"one"}

    def test_an_access_point_abroad_gets_nothing(self, monkeypatch):
        """The name of a bucket can be that of an access point in another region: no request to write leaves."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        rule = Residency(allowed_endpoints=("s3.eu-west-3.amazonaws.com",)).check
        url = "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/elsewhere/dataset"
        store = open_store(url, {"client_kwargs": {"region_name": "eu-west-3"}}, rule=rule)
        with pytest.raises(ResidencyViolation, match="us-east-1"):
            store.put("one", b"1")

    def test_a_store_without_a_rule_is_not_watched_by_that_of_another(self, here, port):
        """Two profiles that reach the same bucket alike do not share a client: one's rule is not the other's."""
        strict = open_store(here.url, here.options, rule=Residency(allowed_endpoints=("elsewhere",)).check)
        free = open_store(here.url, here.options)
        with pytest.raises(ResidencyViolation):
            strict.put("one", b"1")
        free.put("two", b"2")
        assert set(held(here)) == {"two"}


class TestDataset:
    """A dataset that lies where the profile does not allow it can be read, and changed in no way."""

    @pytest.fixture
    def abroad(self, here, port, profile):
        """The dataset opened by a profile that allows another endpoint only; and what the host held then."""
        found = profile('jurisdiction = "FR"')
        create_dataset(here.url, found)
        dataset = Dataset.open(here.url, profile=found)
        with dataset.fs.open("a/one", "wb") as file:
            file.write(b"first")
        with dataset.fs.open("a/two", "wb") as file:
            file.write(b"second")
        dataset.rm("a/two")
        strict = profile('allowed_endpoints = ["s3.fr-par.scw.cloud"]')
        return Dataset.open(here.url, profile=strict), held(here)

    def test_it_is_read(self, abroad):
        """Reading moves nothing to a host: files, history and verification stay possible."""
        dataset, _ = abroad
        assert dataset.fs.cat_file("a/one") == b"first"
        assert len(list(dataset.history())) == 4
        assert dataset.verify()

    @pytest.mark.parametrize(
        "change",
        [
            lambda d: d.fs.pipe_file("a/three", b"third"),
            lambda d: d.rm("a/one"),
            lambda d: d.fs.mv("a/one", "b/one"),
            lambda d: d.fs.open("a/three", "wb").write(b"third"),
            lambda d: d.maintain(force=True),
            lambda d: d.gc(),
            lambda d: (d.rotate(), d.rewrap()),
            lambda d: d.tag("t"),
            lambda d: d.destroy_key(commit=1),
            lambda d: d.destroy(),
        ],
        ids=["put", "rm", "mv", "open", "maintain", "gc", "rewrap", "tag", "destroy_key", "destroy"],
    )
    def test_no_writer_gets_past_the_list(self, abroad, here, change):
        """Files, deletions and every kind of upkeep: refused, and what the host holds is the same afterwards."""
        dataset, before = abroad
        with pytest.raises(ResidencyViolation):
            change(dataset)
        assert held(here) == before
        assert Dataset.open(here.url, profile=dataset.profile).fs.cat_file("a/one") == b"first"


class TestMoving:
    """A profile's list binds the destination of a copy; from where it is read is free."""

    def test_a_copy_is_not_made_abroad(self, here, profile, tmp_path, capsys):
        """The destination is refused before one file is there."""
        found = profile('allowed_endpoints = ["file://"]')
        source = create_dataset(str(tmp_path / "home"), found)
        assert app.run(["replicate", str(tmp_path / "home"), here.url, "--id", source.dataset_id.hex()]) == 4
        assert "not in allowed_endpoints" in capsys.readouterr().err
        assert held(here) == {}

    def test_a_dataset_can_be_brought_home(self, here, profile, tmp_path):
        """What lies where the profile would not write is copied to where it may."""
        source = create_dataset(here.url, profile('jurisdiction = "FR"'))
        Dataset.open(here.url).fs.pipe_file("a/one", b"first")
        before = held(here)
        found = profile('allowed_endpoints = ["file://"]')
        home = tmp_path / "home"
        assert app.run(["replicate", here.url, str(home), "--id", source.dataset_id.hex()]) == 0
        assert app.run(["register", source.dataset_id.hex(), str(home)]) == 0
        assert Dataset.open(str(home), profile=found).fs.cat_file("a/one") == b"first"
        assert held(here) == before


class TestStores:
    """No kind of store has a way around."""

    @pytest.mark.parametrize("kind", ["memory", "local", "moto"])
    @pytest.mark.parametrize("method", sorted(CHANGES))
    def test_every_change_asks_first(self, kind, method, make_place):
        """Each way to change something is refused before the host hears of it."""
        from datetime import timedelta

        place = make_place(kind)
        open_store(place.url, place.options).put("old", b"old")
        store = open_store(place.url, place.options, rule=Residency(allowed_regions=("mars",)).check)
        arguments = {
            "put": ("new", b"new"),
            "put_many": ({"new": b"new"},),
            "writer": ("new",),
            "delete_many": (["old"],),
            "delete_unfinished": (timedelta(0),),
        }[method]
        with pytest.raises(ResidencyViolation):
            getattr(store, method)(*arguments)
        assert set(held(place)) == {"old"}
        assert store.get("old", limit=3) == b"old"

    def test_a_new_kind_of_store_asks_too(self):
        """A subclass that brings its own way to write cannot forget to ask."""

        class Careless(ObjectStore):
            def put_many(self, objects):
                raise AssertionError(objects)

        from fsspec.implementations.memory import MemoryFileSystem

        store = Careless(MemoryFileSystem(), "/careless")
        store.restrict(Residency(allowed_regions=("mars",)).check)
        with pytest.raises(ResidencyViolation):
            store.put_many({"new": b"new"})

    def test_a_directory_is_not_made_where_none_is_allowed(self, profile, tmp_path):
        """A path in the place of the bucket's URL: the local disk is a place like another."""
        found = profile('allowed_endpoints = ["s3.fr-par.scw.cloud"]')
        with pytest.raises(ResidencyViolation, match="file://"):
            create_dataset(str(tmp_path / "dataset"), found)
        assert not (tmp_path / "dataset").exists()

    def test_a_store_that_tells_no_endpoint_is_refused(self):
        """What is not known is not allowed."""
        for rule in (
            Residency(allowed_endpoints=("s3.example.org",)),
            Residency(jurisdiction="FR", allowed_jurisdictions=("FR",)),
            Residency(allowed_regions=("fr-par",)),
        ):
            with pytest.raises(ResidencyViolation):
                rule.check(Location("sftp"))
            with pytest.raises(ResidencyViolation):
                rule.check(Location("s3", "", "fr-par"))

    def test_a_preset_is_not_carried_to_another_kind_of_host(self, profile):
        """An az:// URL under a profile for an S3 host is an error, not a connection to somewhere."""
        found = profile('jurisdiction = "FR"')
        from dataclasses import replace

        from sealedhealth.stores.presets import preset

        found = replace(found, preset=preset("scaleway", "fr-par"))
        with pytest.raises(InvalidInput, match=r"scaleway, which is no host of az:// URLs"):
            found.open_store("az://container/dataset")


def test_only_profiles_open_stores():
    """No part of the package reaches a store around the profile, and thereby around its lists."""
    source = Path(sealedhealth.__file__).parent
    opening = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sealedhealth.stores")
        and "open_store" in {name.name for name in node.names}
    }  # fmt: skip
    assert opening == {"profiles/profile.py"}


def test_connecting_is_untouched(profile):
    """A list for stores says nothing about the key service, which has its own."""
    found = profile('allowed_endpoints = ["s3.fr-par.scw.cloud"]')
    assert connect(found).service
