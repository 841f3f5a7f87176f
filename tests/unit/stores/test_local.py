"""What is special about the local disk: atomic files, flushing, full and read-only disks."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from sealedhealth.errors import AccessDenied, ServiceUnavailable, StoreError, TamperedError
from sealedhealth.stores import local, open_store

NAME = "objects/3f/3f00"


@pytest.fixture
def root(tmp_path):
    """The directory of the store; it does not exist yet."""
    return tmp_path / "host" / "dataset"


@pytest.fixture
def store(root):
    """A store in an absent directory."""
    return open_store(str(root))


def leftovers(root):
    """Temporary files below a directory."""
    return [path.name for path in root.rglob(".tmp-*")]


def fail_with(number, after=0):
    """A stand-in for os.write that fails with an error number after so many calls."""
    calls = []
    genuine = os.write

    def write(file, data):
        calls.append(file)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return genuine(file, data)

    return write


def test_files_have_the_modes_of_other_files(store, root):
    """The umask decides who may read: what lies there is ciphertext."""
    before = os.umask(0o027)
    try:
        store.put(NAME, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / NAME).stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "objects").stat().st_mode) == 0o750


def test_a_relative_path_and_a_file_url_are_the_same_place(store, root, monkeypatch):
    """The URL of a store is absolute however it was given."""
    monkeypatch.chdir(root.parent.parent)
    assert open_store("host/dataset").url == open_store(f"file://{root}/").url == store.url == f"file://{root}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("count", [1, 40])
def test_full_disk(store, root, monkeypatch, number, count):
    """A full disk or quota is a StoreError; the old object stays, no temporary file does."""
    names = [f"objects/{n:02x}/x" for n in range(count)]
    store.put_many(dict.fromkeys(names, b"before"))
    monkeypatch.setattr(os, "write", fail_with(number))
    with pytest.raises(StoreError) as caught:
        store.put_many(dict.fromkeys(names, b"after"))
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == number
    assert "space" in str(caught.value)
    assert store.get_many(names, limit=10) == dict.fromkeys(names, b"before")
    assert leftovers(root) == []


def test_full_disk_in_a_writer(store, root, monkeypatch):
    """A writer that cannot write raises StoreError and leaves nothing once discarded."""
    with pytest.raises(StoreError), store.writer(NAME) as writer:
        writer.write(b"first")
        monkeypatch.setattr(os, "write", fail_with(errno.ENOSPC))
        writer.write(b"second")
    assert not store.exists(NAME)
    assert leftovers(root) == []


def test_full_disk_told_at_close(store, root, monkeypatch):
    """A network disk that tells only at close() that it is full loses nothing either."""
    genuine = os.close

    def close(file):
        writable = os.get_inheritable(file) is False and os.fstat(file).st_size == 5
        genuine(file)
        if writable:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    store.put(NAME, b"old")
    monkeypatch.setattr(os, "close", close)
    with pytest.raises(StoreError):
        store.put(NAME, b"after")
    monkeypatch.undo()
    assert store.get(NAME, limit=10) == b"old"
    assert leftovers(root) == []


def test_a_real_limit_on_file_size(store, root):
    """The kernel's own refusal in the middle of a file, not a simulated one."""
    store.put(NAME, b"before")
    code = f"""
import resource, sys
from sealedhealth.errors import StoreError
from sealedhealth.stores import open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = open_store({str(root)!r})
try:
    store.put({NAME!r}, bytes(200_000))
except StoreError:
    sys.exit(42)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 42
    assert store.get(NAME, limit=10) == b"before"
    assert leftovers(root) == []


@pytest.mark.parametrize("operation", ["put", "writer", "get", "exists", "list", "delete"])
def test_permission_denied(store, monkeypatch, operation):
    """A refusal is AccessDenied from every operation, and never an empty answer."""
    store.put(NAME, b"x")

    def refuse(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/somewhere")

    for function in ("open", "stat", "scandir", "unlink"):
        monkeypatch.setattr(os, function, refuse)
    operations = {
        "put": lambda: store.put(NAME, b"y"),
        "writer": lambda: store.writer(NAME),
        "get": lambda: store.get(NAME, limit=9),
        "exists": lambda: store.exists(NAME),
        "list": lambda: list(store.list("objects")),
        "delete": lambda: store.delete_many([NAME]),
    }
    with pytest.raises(AccessDenied):
        operations[operation]()


def test_a_broken_disk(store, monkeypatch):
    """An I/O error is ServiceUnavailable."""
    monkeypatch.setattr(os, "write", fail_with(errno.EIO))
    with pytest.raises(ServiceUnavailable):
        store.put(NAME, b"x")


def test_a_programs_mistake_stays_one(store):
    """A wrong argument is a TypeError, not a broken host."""
    with pytest.raises(TypeError):
        store.put(NAME, "text")


def test_a_directory_or_a_pipe_is_no_object(store, root):
    """A host that puts something else in an object's place makes nobody wait and nothing open."""
    (root / "objects" / "00").mkdir(parents=True)
    os.mkfifo(root / "objects" / "pipe")
    for name in ("objects/00", "objects/pipe"):
        with pytest.raises(TamperedError):
            store.get(name, limit=10)
        with pytest.raises(TamperedError):
            store.get_ranges([(name, 0, 5)])
        assert not store.exists(name)
    assert list(store.list("")) == []


def test_links_to_directories_are_not_followed(store, root, tmp_path):
    """Listing, which garbage collection deletes by, stays inside the dataset."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    store.put(NAME, b"x")
    (root / "objects" / "link").symlink_to(outside)
    assert list(store.list("")) == [(NAME, 1)]


def test_a_huge_range_allocates_nothing(store):
    """Asking for more than the file has is found out before memory is set aside."""
    store.put(NAME, b"x" * 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TamperedError):
        store.get_ranges([(NAME, 0, 1 << 40)])
    with pytest.raises(TamperedError):
        store.get_ranges([(NAME, 1 << 40, 1 << 41)])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_more_than_one_write_and_read(store, monkeypatch):
    """The system may write and read less than asked for; the rest follows."""
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, 5), start))
    data = os.urandom(100)
    store.put(NAME, data)
    with store.writer("objects/00/w") as writer:
        writer.write(data)
        writer.commit()
    assert store.get_many([NAME, "objects/00/w"], limit=100) == {NAME: data, "objects/00/w": data}
    assert store.get_ranges([(NAME, 3, 50)]) == [data[3:50]]


def test_writers_do_not_disturb_each_other(store):
    """Threads that write one name at once leave one of the versions, whole."""
    versions = [bytes([n]) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=store.put, args=(NAME, version)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get(NAME, limit=200_000) in versions


def test_a_removed_directory_is_made_again(store, root):
    """A directory that vanished between two writes is made again."""
    store.put(NAME, b"x")
    (root / NAME).unlink()
    (root / "objects" / "3f").rmdir()
    store.put(NAME, b"y")
    assert store.get(NAME, limit=1) == b"y"


# --- flush -----------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch):
    """The paths that fsync was called for, and "everything" for a file system as a whole."""
    seen = []
    fsync, sync_all = os.fsync, local._sync_file_system

    def record(file):
        seen.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        fsync(file)

    def record_all(path):
        seen.append("everything")
        sync_all(path)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(local, "_sync_file_system", record_all)
    return seen


def test_flush_syncs_files_and_new_directories(store, root, synced):
    """Each file, its directory, and the directories above that were made for it."""
    root.parent.mkdir()
    store.put(NAME, b"x")
    store.flush()
    here = str(root)
    assert set(synced) == {str(root.parent), here, f"{here}/objects", f"{here}/objects/3f", f"{here}/{NAME}"}


def test_flush_of_nothing_does_nothing(store, synced):
    """What was flushed already is not flushed again."""
    store.put(NAME, b"x")
    store.flush()
    synced.clear()
    store.flush()
    assert synced == []


def test_flush_of_many_syncs_the_file_system_once(store, synced):
    """Beyond some dozens of files one call is cheaper than one for each."""
    store.put_many({f"objects/{n:04x}": b"x" for n in range(200)})
    store.flush()
    assert synced == ["everything"]


def test_flush_covers_writers(store, root, synced):
    """An object written in pieces is flushed like one that was put."""
    with store.writer(NAME) as writer:
        writer.write(b"x")
        writer.commit()
    store.flush()
    assert f"{root}/{NAME}" in synced


def test_flush_skips_what_was_deleted(store):
    """A file that was deleted since needs no flush."""
    store.put(NAME, b"x")
    store.delete_many([NAME])
    store.flush()


def test_a_failed_flush_is_told_and_done_again(store, synced, monkeypatch):
    """After a failure the next flush covers the whole file system: the kernel tells of a lost write once."""
    store.put(NAME, b"x")

    def broken(file):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(ServiceUnavailable):
            store.flush()
    store.flush()
    assert synced == ["everything"]


# --- unfinished ------------------------------------------------------------------------


def test_unfinished_files_of_the_dead_are_deleted(store, root):
    """Old temporary files go, young ones and objects stay; none is ever listed."""
    store.put(NAME, b"x")
    old, young = root / "objects" / "3f" / ".tmp-1-old-0", root / ".tmp-1-young-0"
    for path in (old, young):
        path.write_bytes(b"half")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    assert list(store.list("")) == [(NAME, 1)]
    left = {one.name: one for one in store.unfinished()}
    assert left.keys() == {"objects/3f/.tmp-1-old-0", ".tmp-1-young-0"}
    assert left["objects/3f/.tmp-1-old-0"].size == 4
    assert left["objects/3f/.tmp-1-old-0"].started.timestamp() == pytest.approx(an_hour_ago)
    assert store.delete_unfinished(timedelta(minutes=30)) == 1
    assert not old.exists()
    assert young.exists()
    assert store.exists(NAME)
