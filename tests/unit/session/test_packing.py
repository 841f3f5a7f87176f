"""Small files share objects: how many there are, what waits, what is left out, and what a failure leaves."""

import os
import threading
from datetime import timedelta

import pytest
from counting import CountingStore
from datasets import local_profile, write_profile

from sealedhealth.dataset import Dataset
from sealedhealth.errors import InvalidInput, StoreError
from sealedhealth.log.roster import Settings
from sealedhealth.session import create_dataset, packing

KIB = 1024


@pytest.fixture
def make(make_place, monkeypatch):
    """Make a dataset in memory with some settings and a store that counts."""

    def make(**settings):
        place = make_place("memory")
        write_profile(place.options, monkeypatch)
        session = create_dataset(place.url, local_profile(), settings=Settings(**settings))
        session.engine.store = CountingStore(session.engine.store)
        return Dataset(session)

    return make


@pytest.fixture
def ds(make):
    """One with the usual settings."""
    return make()


def objects(ds):
    """The sealed objects on the host."""
    return dict(ds.session.engine.store.inner.list("objects"))


def files(count, size=4 * KIB):
    """Contents that differ."""
    return {f"d{number % 10}/{number:05}": b"%08d" % number * (size // 8) for number in range(count)}


class TestRequests:
    """Thousands of files are a handful of requests."""

    def test_put_and_get(self, ds, tmp_path):
        """From local files and back; and checked, each object once."""
        contents = files(1500)
        for path, data in contents.items():
            (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / path).write_bytes(data)
        store = ds.session.engine.store
        ds.put(f"{tmp_path}/in/")
        assert len(objects(ds)) == 1
        assert store.requests["put"] == 1 + 2  # the change set and the link
        store.reset()
        ds.get("", tmp_path / "out")
        assert {path: (tmp_path / "out" / path).read_bytes() for path in contents} == contents
        assert sum(store.requests.values()) <= 3  # its segments, and their digests
        store.reset()
        assert ds.verify().bytes == 1500 * 4 * KIB
        assert len([name for _, name in store.log if name.startswith("objects/")]) <= 3

    def test_ten_thousand(self, ds):
        """In one transaction: three objects, a change set and a link."""
        with ds.session.begin() as staged:
            staged.put_many(files(10_000))
        assert len(objects(ds)) == 3
        assert ds.session.engine.store.requests["put"] == 3 + 2

    def test_many_closes(self, ds):
        """Files that are written one by one, with directories made and looked for in between."""
        with ds.transaction() as transaction:
            for path, data in files(50).items():
                transaction.fs.makedirs(path.partition("/")[0], exist_ok=True)
                assert not transaction.fs.exists(path)
                with transaction.fs.open(path, "wb") as file:
                    file.write(data)
                assert transaction.fs.info(path)["size"] == len(data)
        assert len(objects(ds)) == 1
        assert ds.fs.cat(list(files(50))) == files(50)

    def test_cat_asks_once_for_each_object(self, ds):
        """However many files of it are wanted, in whatever order."""
        ds.fs.pipe(files(100))
        store = ds.session.engine.store
        store.reset()
        names = sorted(files(100), reverse=True)
        assert ds.fs.cat(names) == files(100)
        assert store.calls == {"get_ranges": 1}
        assert store.requests["range"] <= 2  # segments and their digests

    def test_one_small_file_of_many(self, ds):
        """A file costs the segments that it lies in, not the pack."""
        ds.fs.pipe(files(3000))
        store = ds.session.engine.store
        store.reset()
        assert ds.fs.cat_file("d5/00005", start=8, end=24) == b"00000005" * 2
        assert store.bytes["out"] < 2 * 270 * KIB


class TestWhatShares:
    """Which files lie together."""

    def test_sizes(self, make):
        """Files below the setting share an object, in the order of their paths; others do not."""
        ds = make(pack_below=1000)
        ds.fs.pipe({"c": bytes(999), "b": bytes(1000), "a": b"1", "empty": b""})
        entry = ds.snapshot.get
        assert len(objects(ds)) == 2
        assert entry("a").object_id == entry("c").object_id == entry("empty").object_id != entry("b").object_id
        assert [entry(path).offset for path in ("a", "c", "empty")] == [0, 1, 1000]

    def test_never(self, make):
        """Zero: each file has an object."""
        ds = make(pack_below=0)
        ds.fs.pipe(files(5))
        assert len(objects(ds)) == 5

    def test_alone(self, ds):
        """A pack with one file is an object like any other."""
        ds.fs.pipe_file("a", b"abc")
        entry = ds.snapshot.get("a")
        assert (entry.offset, entry.length) == (0, 3)
        [size] = objects(ds).values()
        assert size == entry.sealed_size

    def test_full_packs(self, make):
        """No object holds more than the setting says, nor too many files."""
        ds = make(pack_size=1 << 20)
        ds.fs.pipe({f"{number}": bytes(200 * KIB) for number in range(11)})
        assert sorted(size // (200 * KIB) for size in objects(ds).values()) == [1, 5, 5]

    def test_data_keys_do_not_mix(self, make):
        """A data key that is used up ends with its pack."""
        ds = make(pack_size=1 << 20, data_key_bytes=1)
        ds.fs.pipe({f"{number}": bytes(200 * KIB) for number in range(11)})
        entries = [entry for _, entry in ds.snapshot.items()]
        assert len({entry.object_id for entry in entries}) == len({entry.data_key_id for entry in entries}) == 3
        assert len({(entry.object_id, entry.data_key_id) for entry in entries}) == 3

    def test_settings_that_change(self, ds):
        """What is written after the change follows it; what is there stays readable."""
        ds.fs.pipe(files(5))
        assert ds.change_settings(pack_below=0).pack_below == 0 == ds.settings.pack_below
        ds.fs.pipe({f"new/{path}": data for path, data in files(5).items()})
        assert len(objects(ds)) == 1 + 5
        assert len(ds.fs.cat(ds.fs.find(""))) == 10
        assert ds.change_settings(pack_below=0, grace=timedelta(days=14)) == ds.settings
        assert ds.session.sequence == 3

    @pytest.mark.parametrize(
        "bad", [{"pack_below": -1}, {"pack_below": (4 << 20) + 1}, {"pack_size": 1}, {"pack_size": 65 << 20},
                {"pack_below": 2 << 20, "pack_size": 1 << 20}, {"grace": timedelta(-1)}]
    )  # fmt: skip
    def test_bad_settings(self, ds, bad):
        """One clear error, and nothing is committed."""
        with pytest.raises(InvalidInput, match="has to be"):
            ds.change_settings(**bad)
        assert ds.session.sequence == 0


class TestStaged:
    """What waits for its commit."""

    def test_read_back(self, ds):
        """Staged files read as they will; copies and moves of what waits work, too."""
        with ds.transaction() as transaction:
            transaction.fs.pipe({"a": b"1", "b": b"2"})
            transaction.fs.cp("a", "copy")
            transaction.fs.mv("b", "moved")
            assert objects(ds) == {}
            assert transaction.fs.find("") == ["a", "copy", "moved"]
            assert transaction.fs.cat(["a", "copy", "moved"]) == {"a": b"1", "copy": b"1", "moved": b"2"}
            transaction.fs.pipe_file("late", b"3")
        assert ds.fs.cat(ds.fs.find("")) == {"a": b"1", "copy": b"1", "moved": b"2", "late": b"3"}
        assert len(objects(ds)) == 2

    def test_get_in_a_transaction(self, ds, tmp_path):
        """What is staged can be got before it is committed."""
        with ds.transaction() as transaction:
            transaction.fs.pipe_file("a", b"1")
            ds.get("a", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"1"

    def test_twice_and_deleted(self, ds):
        """What is replaced or deleted while it waits is never stored."""
        with ds.transaction() as transaction:
            transaction.fs.pipe({"a": bytes(100_000), "b": bytes(100_000)})
            transaction.fs.pipe_file("a", b"newer")
            transaction.fs.rm("b")
        [size] = objects(ds).values()
        assert size < 1000
        with ds.transaction() as transaction:
            transaction.fs.pipe_file("c", b"c")
            transaction.fs.rm("c")
        assert len(objects(ds)) == 1

    def test_stored_and_deleted(self, ds):
        """An object that was stored already and that nobody uses in the end goes at the commit."""
        with ds.transaction() as transaction:
            transaction.fs.pipe_file("a", b"a")
            assert transaction.fs.cat_file("a") == b"a"
            assert len(objects(ds)) == 1
            transaction.fs.rm("a")
            transaction.fs.pipe_file("b", b"b")
        assert len(objects(ds)) == 1
        assert ds.fs.find("") == ["b"]

    def test_abort(self, make):
        """An exception leaves no object, though packs were on their way."""
        ds = make(pack_size=1 << 20)
        with pytest.raises(ZeroDivisionError), ds.transaction() as transaction:
            transaction.fs.pipe({f"{number}": os.urandom(200 * KIB) for number in range(20)})
            raise ZeroDivisionError
        assert objects(ds) == {}

    def test_threads(self, ds):
        """Workers that close their files at the same time fill one pack."""
        with ds.transaction() as transaction:
            threads = [
                threading.Thread(target=transaction.fs.pipe_file, args=[path, data]) for path, data in files(40).items()
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert ds.fs.cat(ds.fs.find("")) == files(40)
        assert len(objects(ds)) == 1

    def test_an_upload_that_fails(self, make, monkeypatch):
        """The transaction cannot be committed any more, and leaves nothing."""
        ds = make(pack_size=1 << 20)
        store = ds.session.engine.store
        put = store.put
        failed = []

        def fail_once(name, data):
            if name.startswith("objects/") and not failed:
                failed.append(name)
                raise StoreError("The host is full.")
            put(name, data)

        monkeypatch.setattr(store, "put", fail_once)
        staged = ds.session.begin()
        with pytest.raises(StoreError):
            for number in range(40):
                staged.put_bytes(f"{number}", bytes(200 * KIB))
        with pytest.raises(StoreError):
            staged.commit()
        assert objects(ds) == {}
        assert ds.session.sequence == 0

    def test_few_packs_are_in_memory(self, make, monkeypatch):
        """Whoever puts faster than the host takes waits."""
        ds = make(pack_size=1 << 20)
        store = ds.session.engine.store
        gate = threading.Event()
        waiting, most = [], []
        put = store.put

        def slow(name, data):
            if name.startswith("objects/"):
                waiting.append(name)
                most.append(len(waiting))
                gate.wait(30)
                waiting.remove(name)
            put(name, data)

        monkeypatch.setattr(store, "put", slow)
        staged = ds.session.begin()
        writer = threading.Thread(
            target=lambda: [staged.put_bytes(f"{number}", bytes(200 * KIB)) for number in range(60)]
        )
        writer.start()
        writer.join(1)
        assert writer.is_alive()
        gate.set()
        writer.join()
        staged.commit()
        assert max(most) == packing.IN_FLIGHT
        assert len(ds.snapshot) == 60
