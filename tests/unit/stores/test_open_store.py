"""From a URL to a store, without a request and without a heavy import."""

import importlib
import subprocess
import sys

import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.stores import open_store
from sealedhealth.stores.s3 import S3Store, s3_options

SECRET = {"key": "AKIAEXAMPLE", "secret": "wJalrXUtnFEMI"}


def test_importing_stores_imports_no_client():
    """Neither s3fs nor fsspec is loaded before a store is opened, and s3fs only for S3."""
    code = (
        "import sys, sealedhealth.stores as s; heavy = {'fsspec', 's3fs', 'botocore', 'aiohttp', 'requests', 'pandas'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "s.open_store('/tmp/nowhere'); s.open_store('memory://nowhere');"
        "assert not (heavy - {'fsspec'}) & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "s3a://bucket/prefix/"])
def test_s3(url):
    """S3 needs no connection to be opened; its URL has one spelling and no credentials."""
    store = open_store(url, SECRET)
    assert isinstance(store, S3Store)
    assert store.url == "s3://bucket/prefix"
    assert repr(store) == "S3Store('s3://bucket/prefix')"


def test_s3_settings_of_the_caller_win():
    """Defaults are filled in around what the caller sets, which is not changed."""
    given = {"config_kwargs": {"max_pool_connections": 3}, "key": "x"}
    made = s3_options(given)
    assert made["config_kwargs"]["max_pool_connections"] == 3
    assert made["config_kwargs"]["request_checksum_calculation"] == "when_required"
    assert given == {"config_kwargs": {"max_pool_connections": 3}, "key": "x"}


@pytest.mark.parametrize("url", ["s3://AKIAEXAMPLE:wJalrXUtnFEMI@bucket/x", "sftp://me:hunter2@host/x"])
def test_a_password_in_a_url_is_refused(url):
    """URLs end up in logs and histories: credentials belong elsewhere, and the error does not repeat them."""
    with pytest.raises(InvalidInput) as caught:
        open_store(url)
    assert "wJalrXUtnFEMI" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "nosuch://host/x", "a\0b"])
def test_urls_that_are_none(url):
    """One clear error."""
    with pytest.raises(InvalidInput):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["s3://a/x", "s3://no spaces/x", f"s3://bucket/{'x' * 1000}", f"s3://bucket/{'é' * 500}"]
)
def test_names_that_s3_cannot_hold(url):
    """Told when the store is opened, as a mistake in the URL; not as a host that cannot be reached."""
    with pytest.raises(InvalidInput, match=r"name of a bucket|too long"):
        open_store(url, SECRET)


@pytest.mark.parametrize("url,extra", [("az://box/x", "azure"), ("abfss://box/x", "azure"), ("gs://box/x", "gcs")])
def test_the_extra_to_install_is_named(monkeypatch, url, extra):
    """For each kind of host that this package has an extra for."""

    def refuse(*_, **__):
        raise ImportError("not here", name="client")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(InvalidInput, match=rf"pip install 'sealedhealth\[{extra}\]'"):
        open_store(url, SECRET)


def test_the_extra_for_sftp_is_named(monkeypatch):
    """Its client is asked for by this package itself."""
    for module in ("sealedhealth.stores.sftp", "fsspec.implementations.sftp"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(InvalidInput, match=r"pip install 'sealedhealth\[sftp\]'"):
        open_store("sftp://host/x")


def test_options_that_contradict_are_refused():
    """The client's complaint becomes one clear error; no value is shown."""
    with pytest.raises(InvalidInput) as caught:
        open_store("s3://bucket/x", {**SECRET, "username": "AKIAEXAMPLE2"})
    assert "AKIAEXAMPLE" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules, "sealedhealth.stores.s3client", raising=False)
    importlib.import_module("fsspec.registry")  # as an attribute of fsspec it is hidden by a dict
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(InvalidInput, match=r"pip install 'sealedhealth\[s3\]'"):
        open_store("s3://bucket/x", SECRET)


def test_missing_package_of_another_protocol(monkeypatch):
    """Only what exists is named: there is no extra for each protocol of fsspec."""

    def refuse(*_, **__):
        raise ImportError("no aiohttp", name="aiohttp")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(InvalidInput) as caught:
        open_store("https://example.org/x")
    assert "sealedhealth[" not in str(caught.value)
    assert "https://https" not in str(caught.value)


def test_full_stops():
    """What the client says ends with one full stop."""
    with pytest.raises(InvalidInput) as caught:
        open_store("nope://x")
    assert ".." not in str(caught.value)
