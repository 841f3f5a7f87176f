"""Contents: whole files, ranges, many at once, files opened, local copies."""

import errno
import io
import os
import stat
import threading

import pytest
from fsspec.callbacks import Callback

from sealedhealth.errors import IntegrityError, InvalidInput, NotFound, ServiceUnavailable, TamperedError
from sealedhealth.format import SEGMENT_SIZE
from sealedhealth.fs import SealedFileSystem

MIB = 1 << 20
DATA = os.urandom(3 * SEGMENT_SIZE + 12_345)


@pytest.fixture
def big(fs):
    """A file system with one file of several segments."""
    fs.pipe_file("big", DATA)
    return fs


def tamper(fs, path):
    """Flip one bit in the middle of the sealed object of a file."""
    store = fs.session.engine.store
    entry = fs.session.snapshot.get(path)
    name = next(name for name, _ in store.list("objects") if entry.object_id.hex() in name)
    data = bytearray(store.get(name, limit=entry.sealed_size))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


@pytest.mark.parametrize(
    "start,end", [(None, None), (0, 10), (5, None), (-7, None), (None, -7), (10, 10), (20, 10), (-5, -2), (0, 10**9)]
)
def test_ranges_are_slices(big, start, end):
    """Negative bounds count from the end, and nothing lies beyond it."""
    assert big.cat_file("big", start=start, end=end) == DATA[start:end]
    assert big.read_bytes("big", start=start, end=end) == DATA[start:end]


def test_head_tail_and_block(big):
    """The short forms."""
    assert big.head("big", 10) == DATA[:10]
    assert big.tail("big", 10) == DATA[-10:]
    assert big.tail("big", 0) == b""
    assert big.read_block("big", 100, 50) == DATA[100:150]


def test_a_large_file_whole(fs):
    """It comes as a stream."""
    data = os.urandom(9 * MIB)
    fs.pipe_file("large", data)
    assert fs.cat_file("large") == data


def test_cat_of_many_is_one_call(labs, store):
    """One concurrent call to the store for all of them."""
    found = labs.cat(["labs/a.csv", "labs/week/b.csv", "labs/empty"])
    assert found == {"labs/a.csv": b"x\n1\n", "labs/week/b.csv": b"y\n2\n3\n", "labs/empty": b""}
    assert store.calls == {"get_ranges": 1}
    assert labs.cat("labs", recursive=True) == found
    assert labs.cat("notes.txt") == b"notes"


def test_cat_and_errors(labs):
    """Files that are absent are raised, left out or returned, as asked."""
    names = ["notes.txt", "absent"]
    with pytest.raises(NotFound):
        labs.cat(names)
    assert labs.cat(names, on_error="omit") == {"notes.txt": b"notes"}
    assert isinstance(labs.cat(names, on_error="return")["absent"], NotFound)
    mapper = labs.get_mapper("labs")
    assert mapper["a.csv"] == b"x\n1\n"
    assert mapper.getitems(["a.csv", "absent"], on_error="omit") == {"a.csv": b"x\n1\n"}
    with pytest.raises(KeyError):
        mapper["absent"]


def test_cat_ranges(big, labs, store):
    """Any mix of files and ranges in one call, answered in order."""
    paths = ["big", "notes.txt", "big", "big", "absent"]
    found = big.cat_ranges(paths, [0, 1, -5, 5, 0], [10, 3, None, 5, 1])
    assert found[:4] == [DATA[:10], b"ot", DATA[-5:], b""]
    assert isinstance(found[4], NotFound)
    assert store.calls == {"get_ranges": 1}
    with pytest.raises(NotFound):
        big.cat_ranges(paths, 0, 1, on_error="raise")
    assert big.cat_ranges(["big", "big"], 0, [1, 2]) == [DATA[:1], DATA[:2]]
    with pytest.raises(InvalidInput):
        big.cat_ranges(["big"], [0, 1], [1, 2])
    with pytest.raises(TypeError):
        big.cat_ranges("big", 0, 1)


def test_a_store_that_fails_is_reported_for_each_range(labs, store, monkeypatch):
    """With on_error="return" the error stands where the bytes would."""

    def fail(_):
        raise ServiceUnavailable("gone")

    monkeypatch.setattr(store.inner, "get_ranges", fail)
    found = labs.cat_ranges(["notes.txt", "absent"], 0, None)
    assert [type(one) for one in found] == [ServiceUnavailable, NotFound]
    with pytest.raises(ServiceUnavailable):
        labs.cat_ranges(["notes.txt"], 0, None, on_error="raise")


def test_an_altered_object_is_never_returned(big):
    """Whatever is asked for and however: an IntegrityError, which no option turns into anything else."""
    tamper(big, "big")
    middle = len(DATA) // 2
    for read in [
        lambda: big.cat_file("big"),
        lambda: big.cat_file("big", start=middle, end=middle + 1),
        lambda: big.cat(["big"], on_error="omit"),
        lambda: big.cat_ranges(["big"], [middle], [middle + 1], on_error="return"),
        lambda: big.open("big").read(),
    ]:
        with pytest.raises(IntegrityError):
            read()


def test_reading_a_file(big):
    """Sequential and at random, by line, into buffers: always what was written."""
    with big.open("big") as file:
        assert file.size == len(DATA)
        assert file.seekable()
        assert file.read(10) == DATA[:10]
        assert file.read(300_000) == DATA[10:300_010]
        file.seek(-100, 2)
        assert file.read() == DATA[-100:]
        file.seek(SEGMENT_SIZE - 3)
        assert file.read(6) == DATA[SEGMENT_SIZE - 3 : SEGMENT_SIZE + 3]
        file.seek(0)
        buffer = bytearray(5)
        assert file.readinto(buffer) == 5
        assert bytes(buffer) == DATA[:5]
        file.seek(0)
        assert file.read() == DATA
        assert file.read() == b""
        assert file.details["size"] == len(DATA)


@pytest.mark.parametrize("cache_type", ["sealed", "none", "readahead", "bytes", "all", "blockcache"])
def test_any_cache_of_fsspec_may_be_chosen(big, cache_type):
    """The bytes are the same; only the requests differ."""
    with big.open("big", cache_type=cache_type, block_size=100_000) as file:
        for start in [500_000, 0, 100_000, 650_000, 99_999]:
            file.seek(start)
            assert file.read(70_000) == DATA[start : start + 70_000]


def test_lines(fs):
    """Text and bytes, with limits."""
    lines = [f"line {number}\n" for number in range(5000)]
    fs.write_text("lines", "".join(lines))
    with fs.open("lines", "r") as file:
        assert list(file) == lines
    with fs.open("lines") as file:
        assert file.readline() == b"line 0\n"
        assert file.readline(3) == b"lin"
        assert file.readline() == b"e 1\n"
        assert len(file.readlines()) == 4998
    assert fs.read_text("lines") == "".join(lines)


def test_sequential_reading_looks_ahead(fs, store):
    """Few requests for many small reads; a single read in a large file fetches no more than its segments."""
    data = os.urandom(40 * SEGMENT_SIZE)
    fs.pipe_file("series", data)
    store.reset()
    with fs.open("series") as file:
        while file.read(10_000):
            pass
    assert store.requests["range"] <= 7
    assert store.bytes["out"] < 1.01 * len(data)
    store.reset()
    with fs.open("series") as file:
        file.seek(10 * SEGMENT_SIZE + 5)
        file.read(10)
    assert store.bytes["out"] < 1.1 * SEGMENT_SIZE


def test_the_end_of_a_file_is_fetched_once(fs, store):
    """Parquet and ZIP readers begin there and come back; the digests come along in the same request."""
    data = os.urandom(20 * SEGMENT_SIZE + 99)
    fs.pipe_file("table", data)
    store.reset()
    with fs.open("table") as file:
        for step in [8, 64_000, 30_000]:
            file.seek(-step, 2)
            assert file.read(step) == data[-step:]
        assert store.requests == {"range": 1}
        file.seek(SEGMENT_SIZE)
        file.read(1000)
        file.seek(-8, 2)
        file.read()
        assert store.requests == {"range": 2}


def test_an_open_file_stays_with_its_content(big):
    """Commits meanwhile, own ones too, do not change what it reads."""
    with big.open("big") as file:
        big.pipe_file("big", b"other")
        assert file.read() == DATA
    assert big.cat_file("big") == b"other"


def test_many_threads_read_one_file(big):
    """Each gets what it asks for."""
    wrong = []

    def read(seed):
        for step in range(20):
            start = (seed * 7919 + step * 104_729) % len(DATA)
            if big.cat_file("big", start=start, end=start + 1000) != DATA[start : start + 1000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- local copies ----------------------------------------------------------------------


def test_get_a_tree_in_few_calls(fs, store, tmp_path):
    """Small files are fetched together."""
    contents = {f"in/{number % 3}/{number}": os.urandom(number) for number in range(100)}
    fs.pipe(contents)
    store.reset()
    fs.get("in", str(tmp_path / "out"), recursive=True)
    assert store.calls == {"get_ranges": 1}
    found = {
        f"in/{path.relative_to(tmp_path / 'out')}": path for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in found.items()} == contents


def test_get_large_and_small_files(big, tmp_path):
    """In order, each whole."""
    large = os.urandom(3 * MIB)
    big.pipe({"t/a": b"a", "t/b": large, "t/c": b"c"})
    big.get("t", str(tmp_path / "t"), recursive=True)
    assert [(tmp_path / "t" / name).read_bytes() for name in "abc"] == [b"a", large, b"c"]


def test_get_file_is_whole_or_nothing(big, tmp_path):
    """A failure leaves the file that was there, and nothing beside it."""
    target = tmp_path / "big"
    target.write_bytes(b"before")
    tamper(big, "big")
    with pytest.raises(TamperedError):
        big.get_file("big", str(target))
    with pytest.raises(TamperedError):
        big.get("big", str(target))
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_of_a_local_copy(big, tmp_path):
    """The umask decides for a new file; a file that is replaced keeps its own; a link stays one."""
    old = os.umask(0o027)
    try:
        big.get_file("big", tmp_path / "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "private").write_bytes(b"")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "link").symlink_to("private")
    big.get_file("big", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "private").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_get_into_a_pipe_or_an_open_file(big, tmp_path):
    """A pipe is written, not replaced; an open file is written where it stands."""
    os.mkfifo(tmp_path / "pipe")
    received = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    big.get_file("big", str(tmp_path / "pipe"))
    reader.join()
    assert received == [DATA]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    sink = io.BytesIO(b"before")
    sink.seek(0, 2)
    big.get_file("big", sink)
    assert sink.getvalue() == b"before" + DATA
    sink = io.BytesIO()
    big.get_file("big", None, outfile=sink)
    assert sink.getvalue() == DATA


def test_a_full_local_disk(big, tmp_path, monkeypatch):
    """The error of the system, and nothing left behind."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        big.get_file("big", str(tmp_path / "big"))
    assert not list(tmp_path.iterdir())


def test_progress_of_get(big, tmp_path):
    """Files are counted outside, bytes within."""

    class Bytes(Callback):
        """Counts files, and in ``children`` the bytes of each."""

        def __init__(self):
            super().__init__()
            self.children = []

        def branched(self, path_1, path_2, **_):
            self.children.append(Callback())
            return self.children[-1]

    big.pipe({"t/a": b"a" * 10, "t/b": DATA})
    counted = Bytes()
    big.get("t", str(tmp_path / "t"), recursive=True, callback=counted)
    assert (counted.size, counted.value) == (2, 2)
    assert [(child.size, child.value) for child in counted.children] == [(10, 10), (len(DATA), len(DATA))]
    one = Callback()
    big.get_file("t/b", str(tmp_path / "b"), callback=one)
    assert (one.size, one.value) == (len(DATA), len(DATA))


def test_an_earlier_snapshot(labs, session):
    """Read-only, by number or tag, through the file system too."""
    labs.pipe_file("notes.txt", b"newer")
    labs.rm("labs", recursive=True)
    with session.begin() as transaction:
        transaction.tag("first", 1)
    for at in [1, "first"]:
        earlier = SealedFileSystem(session.url, at=at, relative=True)
        assert earlier.cat_file("notes.txt") == b"notes"
        assert earlier.exists("labs/week/b.csv")
        with pytest.raises(InvalidInput):
            earlier.pipe_file("notes.txt", b"")
        assert earlier.refresh() == 1
    assert SealedFileSystem(session.url, at=0, relative=True).find("") == []
