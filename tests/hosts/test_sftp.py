"""SFTP, against the server of asyncssh: every operation of a store, and who is believed to be the server."""

import os
import traceback
from datetime import timedelta

import pytest
from datasets import local_profile, write_profile

import sealedhealth as sh
from sealedhealth.errors import AccessDenied, ServiceUnavailable
from sealedhealth.profiles import disconnect
from sealedhealth.stores import open_store
from sealedhealth.testing import StoreConformance

pytestmark = pytest.mark.sftp
NAME = "objects/3f/3f00"


@pytest.fixture
def place(make_place):
    """An empty place on the server."""
    return make_place("sftp")


class TestSftp(StoreConformance):
    """The public kit."""

    @pytest.fixture
    def open_at(self, place):
        """An empty place on the server."""
        return lambda suffix: open_store(f"{place.url}{suffix}", place.options)


def said(error):
    """All that an error can show."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


def test_opening_connects_to_nobody(place):
    """Nothing is sent before the first operation; the URL and the location say host and port, and no user."""
    store = open_store("sftp://nobody@sftp.hospital.invalid/data", {"password": "hunter2-hunter2"})
    assert store.url == "sftp://sftp.hospital.invalid/data"
    assert store.location.endpoint == "sftp.hospital.invalid"
    assert place.store().location.endpoint == f"127.0.0.1:{place.options['port']}"


def test_a_server_whose_key_is_unknown(place, tmp_path):
    """A man in the middle would be believed by paramiko as fsspec sets it up."""
    (tmp_path / "known").write_text("")
    store = open_store(place.url, {**place.options, "known_hosts": str(tmp_path / "known")})
    with pytest.raises(AccessDenied, match="not known"):
        store.put(NAME, b"x")


def test_a_server_whose_key_has_changed(place, tmp_path):
    """The same when another key is known for it."""
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIJ3Z0sLq5d0cJq0m9Q3ZQ1yQe3v0m1s9Jm1n2q3w4e5r"
    (tmp_path / "known").write_text(f"[127.0.0.1]:{place.options['port']} ssh-ed25519 {other}\n")
    store = open_store(place.url, {**place.options, "known_hosts": str(tmp_path / "known")})
    with pytest.raises(AccessDenied, match="another key"):
        store.exists(NAME)


def test_a_password(place, sftp_server):
    """A program may give one; a wrong one is access denied, and not shown."""
    options = {**place.options, "key_filename": None}
    open_store(place.url, {**options, "password": sftp_server.password}).put(NAME, b"x")
    store = open_store(place.url, {**options, "password": "hunter2-hunter2"})
    with pytest.raises(AccessDenied) as caught:
        store.get(NAME, limit=10)
    assert "hunter2" not in said(caught.value)


def test_a_server_that_is_not_there(place):
    """One clear error."""
    store = open_store(place.url, {**place.options, "port": 9})
    with pytest.raises(ServiceUnavailable):
        store.get(NAME, limit=10)


def test_a_dataset(place, monkeypatch, tmp_path):
    """Made, filled, opened anew, swept and checked."""
    write_profile(place.options, monkeypatch)
    local_profile()
    ds = sh.Dataset.create(place.url)
    data = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(data)
    ds.put(tmp_path / "large", "large")
    with ds.transaction("many"):
        for number in range(20):
            with ds.fs.open(f"small/{number}", "wb") as file:
                file.write(b"%d" % number)
    ds.rm("small/3")
    disconnect()
    ds = sh.Dataset.open(place.url)
    assert ds.fs.cat_file("large", start=1 << 20, end=2 << 20) == data[1 << 20 : 2 << 20]
    assert len(ds.fs.ls("small")) == 19
    ds.gc(grace=timedelta(0))
    ds.verify()
    disconnect()
