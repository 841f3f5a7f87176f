"""One test for each way in which wrapper file systems have been seen to go wrong."""

import csv
import gc
import gzip
import io
import json
import pickle
import subprocess
import sys

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from counting import CountingStore, s3_requests
from datasets import make_session, take_reading_away, write_profile
from fsspec.callbacks import TqdmCallback

from sealedhealth.errors import AccessDenied, InvalidInput, TamperedError, TruncatedError
from sealedhealth.fs import ManyCommitsWarning, SealedFileSystem

MIB = 1 << 20


class Stop(Exception):
    """What goes wrong in these tests."""


@pytest.fixture
def session(quick_place, monkeypatch):
    """An empty dataset, in memory and on the local disk in turn."""
    return make_session(quick_place, monkeypatch)


@pytest.fixture
def fs(session):
    """Its file system."""
    return SealedFileSystem(session=session)


@pytest.fixture
def url(session):
    """The dataset as a chained URL."""
    return f"sealed::{session.url}"


@pytest.fixture
def s3(s3_place, monkeypatch):
    """The file system of an empty dataset, on each S3 server in turn."""
    return SealedFileSystem(session=make_session(s3_place, monkeypatch))


@pytest.fixture
def table():
    """A table whose file takes several segments."""
    return pa.table({name: pa.array(range(number, 200_000 + number)) for number, name in enumerate("abcdef")})


def objects(fs):
    """What the host holds of sealed objects."""
    return dict(fs.session.engine.store.list("objects"))


def replace_object(fs, path, change):
    """Let the host replace the object of a file by what *change* makes of its bytes."""
    store = fs.session.engine.store
    object_id = fs.session.snapshot.get(path).object_id.hex()
    [(name, size)] = [item for item in store.list("objects") if object_id in item[0]]
    store.put(name, change(store.get(name, limit=size)))


def test_1_ranges_are_asked_for_by_keyword(s3):
    """The second positional argument of s3fs' _cat_file is a version id: the bytes would be wrong ones."""
    data = bytes(range(256)) * 4096
    s3.pipe_file("f", data)
    assert s3.cat_file("f", start=300_000, end=300_010) == data[300_000:300_010]
    assert s3.cat_file("f", 300_000, 300_010) == data[300_000:300_010]
    assert s3.cat_ranges(["f", "f"], [0, 700_000], [5, 700_005]) == [data[:5], data[700_000:700_005]]
    with s3_requests() as requests:
        s3.cat_file("f", start=300_000, end=300_010)
    assert all("Range" in arguments and "VersionId" not in arguments for _, arguments in requests)


def test_2_leaving_by_an_exception_commits_nothing(fs):
    """Fsspec's own files commit then: a crashed producer left a valid, truncated object."""
    with pytest.raises(Stop), fs.open("f", "wb") as file:
        file.write(bytes(MIB))
        raise Stop
    assert not fs.exists("f")
    assert not objects(fs)


def test_3_no_secret_travels_and_none_is_shared(fs, session, monkeypatch):
    """Options travelled in pickles, JSON and cache keys; left out of the key, two users shared one instance."""
    write_profile({}, monkeypatch, names=("local", "second"))
    with pytest.raises(InvalidInput):
        SealedFileSystem(session.url, target_options={"secret": "hunter2"})
    one, two = SealedFileSystem(session.url), SealedFileSystem(session.url, profile="second")
    assert one._fs_token != two._fs_token
    assert one.session.engine is not two.session.engine
    for form in [pickle.dumps(one), one.to_json(include_password=False).encode(), repr(one).encode()]:
        assert b"local" in form
        assert b"secret" not in form
    assert one.storage_options.keys() == {"fo", "profile", "dataset_id", "pin"}


def test_4_caches_around_it(fs, url, session, tmp_path):
    """A cache above it holds plaintext: only the user can ask for that. One below it is not looked through."""
    fs.pipe_file("f", b"plain text of a patient")
    with pytest.raises(InvalidInput, match="profile"):
        fsspec.open(f"sealed::simplecache::{session.url}/f").open()
    above = {"cache_storage": str(tmp_path / "cache")}
    with fsspec.open(f"simplecache::{url}/f", simplecache=above) as file:
        assert file.read() == b"plain text of a patient"
    assert any(path.read_bytes() == b"plain text of a patient" for path in (tmp_path / "cache").iterdir())


def test_5_sizes_are_signed(fs):
    """A size is what the log says, whatever the host serves; what is shorter or shifted is refused."""
    data = bytes(600_000)
    for number, change in enumerate([lambda old: old[:-100_000], lambda old: b"\0" + old, lambda _: b""]):
        fs.pipe_file(f"f{number}", data)
        replace_object(fs, f"f{number}", change)
        assert fs.size(f"f{number}") == len(data)
        with pytest.raises((TruncatedError, TamperedError)):
            fs.cat_file(f"f{number}")
        with pytest.raises((TruncatedError, TamperedError)), fs.open(f"f{number}") as file:
            file.seek(-10, 2)
            file.read()
    fs.pipe_file("longer", data)
    replace_object(fs, "longer", lambda old: old + bytes(100_000))
    assert fs.cat_file("longer") == data  # what follows the object is never asked for


def test_6_info_costs_nothing(fs, session, table):
    """One column read asked for info eight times, 64 ranges 64 times: each was a request."""
    pq.write_table(table, "t.parquet", filesystem=fs)
    session.engine.store = CountingStore(session.engine.store)
    for _ in range(100):
        fs.info("t.parquet")
    assert not session.engine.store.calls
    fs.cat_ranges(["t.parquet"] * 64, list(range(64)), [number + 1 for number in range(64)])
    assert session.engine.store.calls == {"get_ranges": 1}


def test_7_cat_ranges_raises_on_tampering(fs):
    """Its default is to return errors among the bytes, where a caller may overlook them."""
    fs.pipe_file("good", bytes(1000))
    fs.pipe_file("bad", bytes(1000))  # in an object of its own
    replace_object(fs, "bad", lambda old: old[:-1] + bytes([old[-1] ^ 1]))
    for on_error in ["return", "raise"]:
        with pytest.raises(TamperedError):
            fs.cat_ranges(["good", "bad"], [0, 0], [10, 10], on_error=on_error)
    assert fs.cat_ranges(["good"], [0], [10]) == [bytes(10)]


def test_8_an_edit_of_the_same_size_shows(fs):
    """Fsspec's rsync compares sizes only unless told otherwise: the version, checksum and time tell."""
    fs.pipe_file("from/f", b"old")
    before = fs.info("from/f"), fs.checksum("from/f"), fs.ukey("from/f")
    fs.pipe_file("from/f", b"new")
    after = fs.info("from/f"), fs.checksum("from/f"), fs.ukey("from/f")
    assert before[0]["size"] == after[0]["size"]
    assert before[0]["version"] != after[0]["version"]
    assert before[0]["mtime"] < after[0]["mtime"]
    assert before[1] != after[1]
    assert before[2] != after[2]


def test_9_progress_bars(fs, tmp_path):
    """TqdmCallback counts the bytes of put_file and get_file."""
    (tmp_path / "f").write_bytes(bytes(3 * MIB))
    shown = io.StringIO()
    for copy in [lambda bar: fs.put_file(str(tmp_path / "f"), "f", callback=bar),
                 lambda bar: fs.get_file("f", str(tmp_path / "g"), callback=bar)]:  # fmt: skip
        with TqdmCallback(tqdm_kwargs={"file": shown, "unit": "B"}) as bar:
            copy(bar)
            assert (bar.size, bar.value) == (3 * MIB, 3 * MIB)
    assert "100%" in shown.getvalue()


def test_10_one_large_write_is_an_upload_in_parts(s3):
    """s3fs makes one part of one write; ours are parts of several MiB whatever was written at once."""
    data = bytes(20 * MIB)
    with s3_requests() as requests, s3.open("f", "wb") as file:
        file.write(data)
    parts = [arguments for operation, arguments in requests if operation == "upload_part"]
    assert len(parts) >= 3
    assert s3.cat_file("f") == data


def test_10_importing_costs_no_client():
    """s3fs takes half a second to import: only when used."""
    code = (
        "import sys, sealedhealth.fs; print([name for name in ('s3fs', 'botocore', 'pandas') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_11_instances_share_one_catalogue_and_none_is_stale(fs, url, session):
    """Fsspec caches instances per thread: stale listings, and several catalogues in one process."""
    assert not SealedFileSystem.cachable
    for number in range(5):
        pd.DataFrame({"a": [number]}).to_csv(f"{url}/f.csv", index=False)
        assert pd.read_csv(f"{url}/f.csv")["a"].tolist() == [number]
    made = [fsspec.filesystem("sealed", fo=session.url) for _ in range(3)]
    assert len({id(one.session.engine) for one in made}) == 1


# --- trap 12: whoever calls nothing but close() ------------------------------------------


def broken_rows():
    """A table that cannot be written to its end."""
    yield ["a"]
    raise Stop


class Unwritable:
    """Something that json cannot dump."""


def by_pandas(fs, url):
    """A value that fails in the middle of the file."""

    class Value:
        """It cannot be written."""

        def __str__(self):
            raise Stop

    pd.DataFrame({"a": ["x" * 1000] * 10_000 + [Value()]}).to_csv(f"{url}/f")


def by_fsspec_open(fs, url):
    """The context of fsspec.open."""
    with fsspec.open(f"{url}/f", "wb") as file:
        file.write(b"half")
        raise Stop


def by_text_mode(fs, url):
    """A text wrapper."""
    with fs.open("f", "w") as file:
        csv.writer(file).writerows(broken_rows())


def by_gzip(fs, url):
    """A compressor around an open file."""
    with fs.open("f", "wb") as file, gzip.open(file, "wb") as compressed:
        compressed.write(b"half")
        raise Stop


def by_gzip_of_fsspec(fs, url):
    """A compressor of fsspec."""
    with fsspec.open(f"{url}/f", "wt", compression="gzip") as file:
        file.write("half")
        raise Stop


def by_json(fs, url):
    """An object that cannot be serialised, after others."""
    with fs.open("f", "w") as file:
        json.dump(["x" * 100_000, Unwritable()], file)


def by_parquet_writer(fs, url):
    """A row group, then an exception; the writer adds a valid footer when it is closed."""
    batch = pa.table({"a": [1]})
    with pq.ParquetWriter("f", batch.schema, filesystem=fs) as writer:
        writer.write_table(batch)
        raise Stop


def by_finally(fs, url):
    """close() in a finally clause."""
    file = fs.open("f", "wb")
    try:
        file.write(b"half")
        raise Stop
    finally:
        file.close()


def by_abandoning(fs, url):
    """No close at all."""
    fs.open("f", "wb").write(b"half")
    fs.open("f", "w").write("half")
    gc.collect()
    raise Stop


@pytest.mark.parametrize(
    "write",
    [
        by_pandas,
        by_fsspec_open,
        by_text_mode,
        by_gzip,
        by_gzip_of_fsspec,
        by_json,
        by_parquet_writer,
        by_finally,
        by_abandoning,
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_12_a_writer_that_only_closes_commits_nothing(fs, url, write):
    """Half a file is never committed, and nothing stays on the host."""
    fs.pipe_file("f", b"whole")
    before = objects(fs)
    with pytest.raises((Stop, TypeError)):
        write(fs, url)
    gc.collect()
    fs.refresh()
    assert fs.cat_file("f") == b"whole"
    assert objects(fs) == before


def test_13_transactions_cover_every_change_and_nobody_elses(fs, url, session):
    """Fsspec's own left out rm, mv and cp, hid one's own writes, and swallowed an unrelated to_csv(url)."""
    fs.pipe({"a": b"1", "b": b"2", "c": b"3"})
    with pytest.raises(Stop), fs.transaction:
        fs.rm("a")
        fs.mv("b", "moved")
        fs.cp_file("c", "copied")
        fs.pipe_file("own", b"4")
        assert fs.find("") == ["c", "copied", "moved", "own"]
        assert fs.cat_file("own") == b"4"
        pd.DataFrame({"x": [1]}).to_csv(f"{url}/unrelated.csv")
        raise Stop
    fs.refresh()
    assert fs.find("") == ["a", "b", "c", "unrelated.csv"]


def test_14_partitioned_writes_in_one_commit(fs, table):
    """Pyarrow made 64 files and 129 directories, and replaced them one by one with readers seeing holes."""
    parts = pa.table({"part": [number % 32 for number in range(640)], "x": list(range(640))})

    def write():
        pa.dataset.write_dataset(
            parts, "t", filesystem=fs, format="parquet", partitioning=["part"], existing_data_behavior="delete_matching"
        )

    before = fs.session.sequence
    for count in [1, 2]:
        with fs.transaction:
            write()
            write()
        assert fs.session.sequence == before + count
    assert pa.dataset.dataset("t", filesystem=fs, partitioning=["part"]).count_rows() == 640
    with pytest.warns(ManyCommitsWarning, match="transaction"):
        write()


def test_15_exists_does_not_hide_what_is_wrong(fs, session):
    """Fsspec turns every exception into a no: an attack or a missing right would look like an empty dataset."""
    fs.pipe_file("f", b"1")
    take_reading_away(session.profile)
    blind = SealedFileSystem(session.url, relative=True)
    for look in [blind.exists, blind.isfile, blind.isdir, blind.lexists]:
        with pytest.raises(AccessDenied):
            look("f")
    for listing in [blind.ls, blind.find, blind.glob]:
        with pytest.raises(PermissionError):
            listing("f*")


def test_16_files_can_be_sought(fs, table):
    """A pipe cannot, and Parquet readers then fail: files are real random access."""
    pq.write_table(table, "t.parquet", filesystem=fs)
    with fs.open("t.parquet") as file:
        assert file.seekable()
        assert pq.ParquetFile(file).metadata.num_rows == table.num_rows


def test_17_duckdb_without_a_place_to_spill(fs, table, tmp_path, monkeypatch):
    """Plaintext can go to the local disk when memory is short: with these settings it does not."""
    import duckdb

    monkeypatch.chdir(tmp_path)
    pq.write_table(table, "t.parquet", filesystem=fs)
    connection = duckdb.connect(config={"temp_directory": "", "max_temp_directory_size": "0B"})
    connection.register_filesystem(fs)
    [(total,)] = connection.sql("select sum(b) from 'sealed://t.parquet'").fetchall()
    assert total == sum(range(1, 200_001))
    assert not list(tmp_path.rglob("*.tmp"))
