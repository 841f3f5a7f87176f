"""The facade: what `sealedhealth.Dataset` promises, on a local store."""

import io
import os
import shutil
import subprocess
import sys
from datetime import timedelta

import pytest
from datasets import take_reading_away

import sealedhealth as sh
from sealedhealth import errors
from sealedhealth.dataset import Bar
from sealedhealth.profiles import create_keystore, disconnect, load_profile
from sealedhealth.session.engine import Engine


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a development keystore; the working directory."""
    monkeypatch.setenv("SEALEDHEALTH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    create_keystore(load_profile(), development=True)
    yield tmp_path
    disconnect()


@pytest.fixture
def ds(place):
    """An empty dataset."""
    return sh.Dataset.create("ds")


def paths(dataset):
    """Every path of the snapshot."""
    return [path for path, _ in dataset.snapshot.items()]


def write(place, name, content=b"x"):
    """A local file."""
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_import_is_light():
    """`import sealedhealth` brings in nothing heavy, and `Dataset` no client of a host and no table library."""
    script = (
        "import sys, sealedhealth\n"
        "assert sealedhealth.__version__\n"
        "light = set(sys.modules)\n"
        "assert not {'fsspec', 'cryptography', 'click', 'rich', 'nacl'} & light, light\n"
        "sealedhealth.Dataset, sealedhealth.errors\n"
        "heavy = {'s3fs', 'botocore', 'hvac', 'requests', 'pandas', 'pyarrow', 'duckdb', 'rich', 'click'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(dir(sealedhealth)) >= {'Dataset', 'errors', '__version__'}\n"
        "try:\n"
        "    sealedhealth.nope\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('no AttributeError')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_create_and_open(place):
    """A dataset is made once, has an id of its own, and opens by path, URL and id."""
    made = sh.Dataset.create("ds", grace=timedelta(days=1))
    assert made.url == f"file://{place}/ds"
    assert len(made.id) == 32
    assert made.development
    assert paths(made) == []
    for url in ("ds", f"{place}/ds/", made.url):
        assert sh.Dataset.open(url).id == made.id
    assert sh.Dataset.open("ds", dataset_id=made.id).id == made.id
    with pytest.raises(errors.InvalidInput):
        sh.Dataset.open("ds", dataset_id="nonsense")
    with pytest.raises(errors.AlreadyExists):
        sh.Dataset.create("ds")
    with pytest.raises(errors.NotFound):
        sh.Dataset.open("other")
    assert "ds" in repr(made)


def test_find(ds):
    """A URL of something inside splits into the dataset and the path; a trailing slash stays."""
    for inside in ("labs/a.csv", "labs/"):
        found, path = sh.Dataset.find(f"ds/{inside}")
        assert (found.id, path) == (ds.id, inside)
    assert sh.Dataset.find("ds/")[1] == ""


def test_transaction_is_one_commit(ds, place):
    """Everything in a transaction is one commit, whatever surface it comes through."""
    write(place, "exports/a.csv", b"aaa")
    write(place, "exports/b.csv", b"bbb")
    with ds.transaction("week 12") as transaction:
        ds.put("exports/", "labs/", progress=True)
        with ds.fs.open("labs/late.csv", "wb") as file:
            file.write(b"late")
        ds.put_stream(io.BytesIO(b"stream"), "labs/stream")
        ds.cp("labs/a.csv", "copy.csv")
        ds.mv("labs/b.csv", "moved.csv")
        ds.tag("start", 0)
        assert "copy.csv" not in paths(sh.Dataset.open("ds"))
        assert ds.rm("labs/stream") == 1
    assert transaction.result.sequence == 1
    assert ds.snapshot.sequence == 1
    assert paths(ds) == ["copy.csv", "labs/a.csv", "labs/late.csv", "moved.csv"]
    assert ds.history()[-1].message == "week 12"
    assert ds.tags == {"start": 0}
    ds.untag("start")
    assert ds.tags == {}
    with pytest.raises(errors.NotFound):
        ds.untag("start")


def test_exception_commits_nothing(ds, place):
    """An exception in a transaction leaves no commit and no object."""
    write(place, "a.csv")
    with pytest.raises(ZeroDivisionError), ds.transaction():
        ds.put("a.csv")
        raise ZeroDivisionError
    assert ds.snapshot.sequence == 0
    assert paths(ds) == []
    assert [path for path in (place / "ds/objects").rglob("*") if path.is_file()] == []
    ds.put("a.csv")
    assert paths(ds) == ["a.csv"]


def test_put_reports(ds, place):
    """A put says what it did, and reports every byte to a bar."""
    write(place, "in/a", bytes(100))
    write(place, "in/b", bytes(6 << 20))
    seen, totals = [], []
    done = ds.put("in", progress=Bar(seen.append, totals.append), message="m")
    assert (done.files, done.size, done.skipped, done.commits) == (2, 100 + (6 << 20), 0, (1,))
    assert sum(seen) == sum(totals) == done.size
    assert ds.put("in", update=True).commits == ()
    assert ds.put("in", update=True).skipped == 2
    assert ds.put(["in/a", place / "in/b"], "flat", commit_every=1).commits == (2, 3)
    with ds.transaction(), pytest.raises(errors.InvalidInput, match="transaction"):
        ds.put("in", commit_every=1)


def test_get_reports_and_restores_times(ds, place):
    """A get says what it did; times come along; what is the same is left alone on request."""
    source = write(place, "in/a", b"content")
    os.utime(source, ns=(0, 1_600_000_000_123_456_000))
    write(place, "in/b", bytes(6 << 20))
    ds.put("in")
    seen = []
    done = ds.get("in", "out", progress=Bar(seen.append))
    assert (done.files, done.size) == (2, 7 + (6 << 20))
    assert sum(seen) == done.size
    assert (place / "out/in/a").stat().st_mtime_ns == 1_600_000_000_123_456_000
    assert (place / "out/in/b").read_bytes() == bytes(6 << 20)
    assert ds.get("in", "out", update=True).skipped == 2
    (place / "out/in/a").write_bytes(b"edited!")
    assert ds.get("in", "out", update=True).files == 1
    assert (place / "out/in/a").read_bytes() == b"content"


def test_get_that_fails_leaves_what_was_there(ds, place):
    """A file that does not open is not written: the older local one stays as it was, with its time."""
    ds.put(write(place, "a", b"sealed one"))
    [sealed] = [path for path in (place / "ds/objects").rglob("*") if path.is_file()]
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    old = write(place, "out", b"older here")
    os.utime(old, ns=(0, 10**18))
    with pytest.raises(errors.IntegrityError):
        ds.get("a", "out")
    assert old.read_bytes() == b"older here"
    assert old.stat().st_mtime_ns == 10**18
    assert sorted(path.name for path in place.iterdir()) == ["a", "ds", "home", "out"]


def test_failing_stream(ds):
    """A stream that breaks in the middle commits nothing."""

    class Broken(io.RawIOBase):
        """Gives a little, then fails."""

        def __init__(self):
            self.left = 3

        def read(self, size=-1):
            """One piece after the other, then an error."""
            self.left -= 1
            if not self.left:
                raise ConnectionError
            return bytes(1 << 20)

    with pytest.raises(ConnectionError):
        ds.put_stream(Broken(), "x")
    assert ds.snapshot.sequence == 0
    with pytest.raises(errors.InvalidInput):
        ds.put_stream(io.BytesIO(), "folder/")


def test_history_of_one_path(ds, place):
    """Old snapshots are read, compared and restored, also where a file became a directory and back."""
    for content in (b"1", b"22"):
        ds.put(write(place, "a", content))
    ds.rm("a")
    ds.put(write(place, "a-file", b"333"), "a/b")
    assert [change.kind for change in ds.diff(1, 2)] == ["changed"]
    assert {(change.path, change.kind) for change in ds.diff(2)} == {("a", "removed"), ("a/b", "added")}
    assert [change.path for change in ds.diff(2, path="a/b")] == ["a/b"]
    old = ds.at(1)
    assert old.fs.cat_file("a") == b"1"
    with pytest.raises(errors.InvalidInput):
        old.rm("a")
    changes = ds.restore(2, message="back")
    assert {(change.path, change.kind) for change in changes} == {("a", "added"), ("a/b", "removed")}
    assert ds.fs.cat_file("a") == b"22"
    ds.restore(4)
    assert ds.fs.cat_file("a/b") == b"333"
    assert ds.restore(4) == []
    assert ds.snapshot.sequence == 6
    with pytest.raises(errors.NotFound):
        ds.restore(4, "nope")
    with pytest.raises(errors.NotFound):
        ds.at(99)
    with pytest.raises(errors.NotFound):
        ds.at("no-such-tag")


def test_register(ds, place):
    """A dataset that has moved opens at its new place; what is not it is refused, and the registry stays."""
    ds.put(write(place, "a"))
    (place / "ds").rename(place / "moved")
    with pytest.raises(errors.NotFound):
        sh.Dataset.open("moved")
    assert paths(sh.Dataset.register("moved", ds.id)) == ["a"]
    with pytest.raises(errors.NotFound):
        sh.Dataset.open("ds")
    shutil.copytree(place / "moved", place / "copy")
    sh.Dataset.register("copy", ds.id, also=True)
    assert paths(sh.Dataset.open("moved")) == paths(sh.Dataset.open("copy")) == ["a"]
    (place / "empty").mkdir()
    with pytest.raises(errors.SealedHealthError):
        sh.Dataset.register("empty", ds.id)
    assert paths(sh.Dataset.open("moved")) == ["a"]
    other = sh.Dataset.create("other")
    with pytest.raises(errors.ConflictError):
        sh.Dataset.register("moved", other.id)
    with pytest.raises(errors.NotFound):
        sh.Dataset.register("moved", "00" * 16)


def test_snapshots_are_pinned(ds, place):
    """Another's commits show after refresh only; own ones at once."""
    other = sh.Dataset.open("ds")
    ds.put(write(place, "a"))
    assert paths(ds) == ["a"]
    assert paths(other) == []
    assert other.refresh() == 1
    assert paths(other) == ["a"]


def test_identity_that_cannot_read(ds, place):
    """Whoever may write but not read adds files, and is refused everything else: never an empty listing."""
    ds.put(write(place, "a"))
    take_reading_away(ds.profile)
    Engine.forget(ds.url, ds.profile)
    producer = sh.Dataset.open("ds")
    assert producer.put(write(place, "b"), "in/b").commits == (2,)
    assert producer.put_stream(io.BytesIO(b"c"), "in/c").commits == (3,)
    with producer.transaction():
        producer.put("b", "in/d")
    assert [commit.message for commit in producer.history()] == [None] * 5
    for refused in (
        lambda: producer.snapshot,
        lambda: producer.get("", "out"),
        lambda: producer.rm("a"),
        lambda: producer.cp("a", "x"),
        lambda: producer.diff(1),
        lambda: producer.restore(1),
        lambda: producer.fs.ls(""),
    ):
        with pytest.raises(errors.AccessDenied):
            refused()
    assert not (place / "out").exists()


def test_upkeep(ds, place):
    """Checkpoint, rotation, rewrapping, garbage collection and verification through the facade."""
    ds.put(write(place, "a", bytes(1000)))
    ds.put(write(place, "b", bytes(2000)))
    assert ds.maintain() is None
    assert ds.maintain(force=True).entries == 2
    assert ds.rotate() == 2
    assert ds.rewrap().objects_rewritten == 0
    ds.rm("a")
    assert ds.gc(dry_run=True, grace=timedelta(0)).dropped == 1
    assert ds.gc(grace=timedelta(0)).dropped == 1
    assert ds.verify().files == 1


def test_destruction(ds, place):
    """One commit's key, then the dataset: destroyed is destroyed, and said so."""
    ds.put(write(place, "a"))
    ds.put(write(place, "b"))
    ds.cp("a", "copy")
    with pytest.raises(errors.InvalidInput):
        ds.destroy_key()
    with pytest.raises(errors.InvalidInput):
        ds.destroy_key(key_id="xyz")
    with pytest.raises(errors.NotFound):
        ds.destroy_key(key_id="00" * 16)
    [key] = ds.keys_of(1)
    assert ds.destroy_key(key_id=key.hex()).keys == (key.hex(),)
    assert ds.keys_of(1) == [key]  # a destruction that was interrupted can be done again
    assert ds.destroy_key(commit=1).keys == (key.hex(),)
    with pytest.raises(errors.KeyDestroyed):
        ds.fs.cat_file("copy")
    assert ds.fs.cat_file("b") == b"x"
    ds.destroy()
    with pytest.raises(errors.KeyDestroyed):
        sh.Dataset.open("ds")
