"""Everything that a host holds, whatever its name: seen, read, and never waited for."""

import os

import pytest
from conftest import Place

from sealedhealth.stores.survey import survey

NAMES = ["a", "a//b", "dir/", "x?versionId=1", "sealed::s3:%2F", "ünï", "with space", ".hidden", "*", "a+b&c", "[0-9]"]


@pytest.mark.moto
def test_keys_of_any_form(make_place):
    """Keys that fsspec takes for directories, versions or patterns are read as they are."""
    store = make_place("moto").store()  # SeaweedFS makes paths of some keys, and keeps them under others
    bucket, prefix, _ = store.fs.split_path(store.root)
    for name in NAMES:
        store.fs.call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{name}", Body=f"content of {name}".encode())
    found = survey(store)
    files = {stored.name: stored for stored in found.files()}
    assert files.keys() == set(NAMES)
    spans = [(files[name], 0, files[name].size) for name in NAMES]
    assert found.read(spans) == [f"content of {name}".encode() for name in NAMES]
    assert found.read([(files["a"], 2, 5)]) == [b"nte"]


@pytest.mark.seaweed
def test_gone_meanwhile(make_place):
    """What was deleted since it was listed is no failure of the others."""
    store = make_place("seaweed").store()
    store.put_many({"a": b"one", "b": b"two"})
    found = survey(store)
    a, b = sorted(found.files(), key=lambda stored: stored.name)
    store.delete_many(["a"])
    assert found.read([(a, 0, 3), (b, 0, 3)]) == [None, b"two"]


def test_a_disk(tmp_path):
    """Names that are no text, pipes and links: told, and neither followed nor waited for."""
    (tmp_path / os.fsdecode(b"no-\xff-text")).write_bytes(b"plain")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "empty").mkdir()
    found = survey(Place("local", str(tmp_path)).store())
    files = {stored.name: stored for stored in found.files()}
    assert {name: stored.kind for name, stored in files.items()} == {
        os.fsdecode(b"no-\xff-text"): "file",
        "pipe": "other",
        "link": "link",
        "empty": "directory",
    }
    assert found.read([(files[os.fsdecode(b"no-\xff-text")], 0, 5)]) == [b"plain"]
    assert found.read([(files["pipe"], 0, 5)]) == [None]


@pytest.mark.parametrize("kind", ["memory", "local"])
def test_shorter_than_listed(make_place, kind):
    """A file that is cut while it is read gives what is there, or nothing; it is not an error."""
    store = make_place(kind).store()
    store.put("a", b"0123456789")
    found = survey(store)
    [a] = found.files()
    store.put("a", b"012")
    assert found.read([(a, 0, 10)])[0] in {b"012", None}
