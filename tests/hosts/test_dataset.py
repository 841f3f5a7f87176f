"""A dataset's whole life on Azure Blob Storage and on rclone's S3, which ignores conditional writes."""

import os
import subprocess
import sys
from datetime import timedelta

import fsspec
import numpy as np
import pandas as pd
import pytest
from counting import azure_requests, s3_requests
from datasets import local_profile, write_profile

import sealedhealth as sh
from sealedhealth.errors import NotFound
from sealedhealth.profiles import disconnect
from sealedhealth.stores import open_store

MIB = 1 << 20
WRITER = """
import sys, sealedhealth as sh
url, name, count = sys.argv[1:]
for number in range(int(count)):
    ds = sh.Dataset.open(url)
    with ds.transaction(f"{name} {number}"):
        with ds.fs.open(f"{name}/{number}", "wb") as file:
            file.write(f"{name} {number}".encode() * 1000)
        with ds.fs.open(f"{name}/latest", "wb") as file:
            file.write(str(number).encode())
"""


@pytest.fixture
def place(host_place, monkeypatch):
    """An empty place on each host, a profile that reaches it, and credentials where its client looks for them."""
    write_profile(host_place.options, monkeypatch)
    local_profile()
    yield host_place
    disconnect()


@pytest.fixture
def ds(place):
    """An empty dataset."""
    return sh.Dataset.create(place.url)


def reopened(dataset):
    """As another job sees it."""
    disconnect()
    return sh.Dataset.open(dataset.url)


def stored(place):
    """The names on the host, and the sizes."""
    return dict(open_store(place.url, place.options).list(""))


def test_its_whole_life(ds, place, tmp_path):
    """Created, filled, read in ranges, overwritten, copied, moved, checked, swept: the same as on a local disk."""
    large = os.urandom(40 * MIB)  # several segments and several parts
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "large.bin").write_bytes(large)
    for number in range(50):
        (tmp_path / "in" / f"small-{number:02}.txt").write_text(f"patient {number}")
    ds.put(f"{tmp_path}/in/", "data/")
    ds = reopened(ds)
    assert len(ds.fs.ls("data", detail=False)) == 51
    assert ds.fs.cat_ranges(["data/large.bin"] * 3, [0, 20 * MIB - 7, 39 * MIB], [10, 20 * MIB + 7, 40 * MIB]) == [
        large[:10],
        large[20 * MIB - 7 : 20 * MIB + 7],
        large[39 * MIB :],
    ]
    first = ds.session.sequence

    (tmp_path / "in" / "large.bin").write_bytes(large[::-1])
    ds.put(f"{tmp_path}/in/large.bin", "data/large.bin")
    ds.cp("data/small-00.txt", "copy.txt")
    ds.mv("data/small-01.txt", "moved.txt")
    ds.rm("data/small-02.txt")
    ds = reopened(ds)
    ds.get("data/", tmp_path / "out")
    assert (tmp_path / "out" / "large.bin").read_bytes() == large[::-1]
    assert ds.fs.cat("copy.txt") == b"patient 0"
    assert not ds.fs.exists("data/small-02.txt")
    assert ds.at(first).fs.cat("data/small-02.txt") == b"patient 2"
    ds.verify()

    before = stored(place)
    assert ds.gc(grace=timedelta(0)).dropped >= 1
    gone = before.keys() - stored(place).keys()
    assert max(before[name] for name in gone) > 40 * MIB
    ds = reopened(ds)
    ds.verify()
    assert ds.fs.cat_file("data/large.bin", start=0, end=5) == large[::-1][:5]
    assert list(open_store(place.url, place.options).unfinished()) == []


def test_data_tools(ds, place):
    """Reached by URL from pandas and fsspec, with the credentials of the environment."""
    frame = pd.DataFrame({"person": np.arange(10_000), "drug": [f"drug {n % 7}" for n in range(10_000)]})
    frame.to_parquet(f"sealed::{place.url}/drugs.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(f"sealed::{place.url}/drugs.parquet"), frame)
    pd.testing.assert_frame_equal(
        pd.read_parquet(f"sealed+{place.url}/drugs.parquet", columns=["drug"]), frame[["drug"]]
    )
    with fsspec.open(f"sealed::{place.url}/note.txt", "w") as file:
        file.write("sealed")
    assert reopened(ds).fs.cat("note.txt") == b"sealed"


def test_three_writers(ds):
    """Three processes commit to one dataset at once; nothing is lost, and no writer hears anything of the others."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, ds.url, f"writer-{number}", "4"], stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said.decode()[-2000:]
    ds = reopened(ds)
    for number in range(3):
        for turn in range(4):
            assert ds.fs.cat(f"writer-{number}/{turn}") == f"writer-{number} {turn}".encode() * 1000
        assert ds.fs.cat(f"writer-{number}/latest") == b"3"
    ds.verify()


def test_no_write_is_conditional(ds, place):
    """The anchors decide races, not the host: what a commit asks of it, every host can do."""
    with s3_requests() as s3, azure_requests() as azure:
        with ds.transaction("both"):
            with ds.fs.open("small", "wb") as file:
                file.write(b"x")
            with ds.fs.open("large", "wb") as file:
                file.write(os.urandom(20 * MIB))
        ds.maintain(force=True)
    assert s3 or azure
    for _, arguments in s3:
        assert not {"IfMatch", "IfNoneMatch"} & set(arguments)
    for _, _, headers in azure:
        assert not {"if-match", "if-none-match"} & {name.lower() for name in headers}


@pytest.mark.rclone
def test_this_host_really_ignores_conditions(make_place):
    """Otherwise the tests above would prove nothing: what must not replace replaces, and is told that all is well."""
    store = make_place("rclone").store()
    store.put("name", b"first")
    bucket, key = store.root.split("/", 1)
    store.fs.call_s3("put_object", Bucket=bucket, Key=f"{key}/name", Body=b"second", IfNoneMatch="*")
    assert store.get("name", limit=10) == b"second"


def test_a_place_without_a_dataset(place):
    """The key service says that there is none, whatever lies on the host."""
    with pytest.raises(NotFound):
        sh.Dataset.open(place.url)
