"""What data tools do with the file system: pandas, pyarrow, duckdb, zipfile. Round trips, and requests to S3."""

import json
import zipfile

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from counting import s3_requests
from datasets import make_session
from fsspec.mapping import FSMap

from sealedhealth.errors import AccessDenied, NotFound
from sealedhealth.fs import SealedFileSystem


@pytest.fixture(params=["local", pytest.param("moto", marks=pytest.mark.moto)])
def session(request, make_place, monkeypatch):
    """An empty dataset, on the local disk and on S3."""
    return make_session(make_place(request.param), monkeypatch)


@pytest.fixture
def fs(session):
    """Its file system."""
    return SealedFileSystem(session=session)


@pytest.fixture
def frame():
    """Rows of a small table."""
    return pd.DataFrame({"person": range(1000), "drug": [f"drug {number % 7}" for number in range(1000)]})


@pytest.mark.parametrize("form", ["sealed::{}", "sealed+{}"])
def test_pandas_by_url(session, frame, form):
    """CSV, compressed CSV, Parquet and JSON, written and read by a URL and a profile's name."""
    url = form.format(session.url)
    options = {"sealed": {"profile": "local"}} if "::" in url else {"profile": "local"}
    frame.to_csv(f"{url}/f.csv", index=False, storage_options=options)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/f.csv", storage_options=options), frame)
    frame.to_csv(f"{url}/f.csv.gz", index=False, compression="gzip", storage_options=options)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/f.csv.gz", compression="gzip", storage_options=options), frame)
    frame.to_parquet(f"{url}/f.parquet", storage_options=options)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/f.parquet", storage_options=options), frame)
    frame.to_json(f"{url}/f.json", storage_options=options)
    pd.testing.assert_frame_equal(pd.read_json(f"{url}/f.json", storage_options=options), frame)
    with fsspec.open(f"{url}/f.csv.gz", "rb", **options) as file:
        assert file.read(2) == b"\x1f\x8b"


def test_pandas_infers_compression_from_the_spelled_out_form(session, frame):
    """From a chained URL it does not, and writes uncompressed without a word: its own limit, shown here."""
    frame.to_csv(f"sealed+{session.url}/f.csv.gz", index=False)
    frame.to_csv(f"sealed::{session.url}/g.csv.gz", index=False)
    fs = SealedFileSystem(session.url, relative=True)
    assert fs.head("f.csv.gz", 2) == b"\x1f\x8b"
    assert fs.head("g.csv.gz", 2) != b"\x1f\x8b"
    pd.testing.assert_frame_equal(pd.read_csv(f"sealed+{session.url}/f.csv.gz"), frame)


def test_pandas_with_the_file_system(fs, frame):
    """Names relative to the dataset, in a transaction that it joins."""
    with fs.transaction:
        frame.to_parquet("labs/late.parquet", filesystem=fs)
        with fs.open("labs/late.csv", "w") as file:
            frame.to_csv(file, index=False)
    assert fs.session.sequence == 1
    pd.testing.assert_frame_equal(pd.read_parquet("labs/late.parquet", filesystem=fs), frame)
    with fs.open("labs/late.csv") as file:
        pd.testing.assert_frame_equal(pd.read_csv(file), frame)
    assert fs.modified("labs/late.csv").tzinfo is not None


def test_pandas_partitions(fs, session, frame):
    """A directory of files, one commit."""
    with fs.transaction:
        frame.to_parquet("parts", partition_cols=["drug"], filesystem=fs)
    assert session.sequence == 1
    again = pd.read_parquet("parts", filesystem=fs)
    assert sorted(again["person"]) == sorted(frame["person"])
    assert len(pd.read_parquet("parts", filesystem=fs, filters=[("drug", "==", "drug 3")])) == 143


def test_pyarrow(fs, frame):
    """Datasets, tables, CSV and its own view of a file system."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with fs.transaction:
        pa.dataset.write_dataset(table, "d", filesystem=fs, format="parquet", partitioning=["drug"])
        with fs.open("f.csv", "wb") as file:
            pa.csv.write_csv(table, file)
    assert pa.dataset.dataset("d", filesystem=fs, partitioning=["drug"]).to_table().num_rows == 1000
    with fs.open("f.csv") as file:
        assert pa.csv.read_csv(file).to_pylist() == table.to_pylist()
    arrow = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs))
    [info] = arrow.get_file_info(["f.csv"])
    assert (info.type, info.size) == (pa.fs.FileType.File, fs.size("f.csv"))
    assert info.mtime == fs.modified("f.csv")
    assert arrow.get_file_info(["absent"])[0].type == pa.fs.FileType.NotFound
    with arrow.open_output_stream("g.csv") as stream:
        stream.write(b"1")
    arrow.move("g.csv", "h.csv")
    arrow.copy_file("h.csv", "i.csv")
    arrow.delete_file("h.csv")
    arrow.create_dir("made")
    arrow.delete_dir("d")
    assert fs.find("") == ["f.csv", "i.csv"]
    with pytest.raises(FileNotFoundError):
        arrow.open_input_file("absent")


def test_duckdb(fs, session, frame):
    """By a registered file system: patterns, several files, and a COPY that is there afterwards."""
    with fs.transaction:
        frame[:500].to_parquet("t/1.parquet", filesystem=fs)
        frame[500:].to_parquet("t/2.parquet", filesystem=fs)
    connection = duckdb.connect()
    connection.register_filesystem(fs)
    assert connection.sql("select count(*), sum(person) from 'sealed://t/*.parquet'").fetchall() == [(1000, 499_500)]
    assert connection.sql(f"select count(*) from '{fs.unstrip_protocol('t/1.parquet')}'").fetchall() == [(500,)]
    connection.sql("copy (select 42 as x) to 'sealed://out/x.parquet'")
    fs.refresh()
    assert pd.read_parquet("out/x.parquet", filesystem=fs)["x"].tolist() == [42]
    assert fs.find("out") == ["out/x.parquet"]
    by_url = SealedFileSystem(session.url)
    other = duckdb.connect()
    other.register_filesystem(by_url)
    name = by_url.unstrip_protocol(by_url._name("t/1.parquet"))
    assert other.sql(f"select count(*) from '{name}'").fetchall() == [(500,)]


def test_mappings_numpy_and_zip(fs):
    """Whatever takes a file or a mapping."""
    mapper = FSMap("map", fs)
    mapper.setitems({"a": b"1", "b/c": b"2"})
    assert dict(mapper) == {"a": b"1", "b/c": b"2"}
    del mapper["a"]
    assert list(mapper) == ["b/c"]
    array = np.arange(1000)
    with fs.open("array.npy", "wb") as file:
        np.save(file, array)
    with fs.open("array.npy") as file:
        assert (np.load(file) == array).all()
    with fs.open("files.zip", "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner", b"inside")
    with fs.open("files.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("inner") == b"inside"
    with fs.open("j.json", "w") as file:
        json.dump({"é": 1}, file)
    assert json.loads(fs.read_text("j.json")) == {"é": 1}


def test_errors_as_tools_know_them(fs):
    """FileNotFoundError and PermissionError, by class."""
    with pytest.raises(FileNotFoundError):
        pd.read_csv(f"sealed::{fs.session.url}/absent.csv")
    assert issubclass(NotFound, FileNotFoundError)
    assert issubclass(AccessDenied, PermissionError)


# --- requests ------------------------------------------------------------------------------


@pytest.fixture
def wide():
    """A Parquet file of 40 columns and many segments, by bytes."""
    rng = np.random.default_rng(1)
    columns = {f"c{number}": rng.integers(0, 1 << 60, 20_000) for number in range(40)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=5_000)
    return sink.getvalue().to_pybytes()


def count(read):
    """GETs and all requests that a call makes."""
    with s3_requests() as requests:
        read()
    operations = [operation for operation, _ in requests]
    return operations.count("get_object"), operations


@pytest.mark.moto
@pytest.mark.parametrize("cache_type", ["none", "readahead"])
@pytest.mark.parametrize("pre_buffer", [True, False])
def test_parquet_costs_no_more_requests_than_the_bare_store(make_place, monkeypatch, wide, cache_type, pre_buffer):
    """The footer and one column of a committed file, beside s3fs on the same file unsealed."""
    place = make_place("moto")
    fs = SealedFileSystem(session=make_session(place, monkeypatch))
    fs.pipe_file("wide.parquet", wide)
    bare = fsspec.filesystem("s3", **place.options, default_cache_type=cache_type, skip_instance_cache=True)
    plain = place.url.removeprefix("s3://") + "-plain.parquet"
    bare.pipe_file(plain, wide)

    def read(filesystem, path):
        with filesystem.open(path) as file:
            return pq.ParquetFile(file, pre_buffer=pre_buffer).read(columns=["c17"])

    expected, _ = count(lambda: read(bare, plain))
    found, operations = count(lambda: read(fs, "wide.parquet"))
    assert found <= expected
    assert set(operations) == {"get_object"}
    found, operations = count(lambda: pq.read_table("wide.parquet", columns=["c17"], filesystem=fs))
    expected, _ = count(lambda: pq.read_table(plain, columns=["c17"], filesystem=bare))
    assert found <= expected
    assert set(operations) == {"get_object"}


@pytest.mark.moto
def test_opening_by_url_costs_little(make_place, monkeypatch, wide):
    """Once the catalogue is in the process, another instance asks the host for next to nothing."""
    session = make_session(make_place("moto"), monkeypatch)
    SealedFileSystem(session=session).pipe({f"f{number}": b"1" for number in range(50)})
    _, operations = count(lambda: SealedFileSystem(f"{session.url}/f1").find(session.url.removeprefix("s3://")))
    assert len(operations) <= 1
