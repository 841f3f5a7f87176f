"""Changes outside a transaction: one commit for each call, or none."""

import gc
import io
import os
import pickle
import re
import warnings

import pytest
from fsspec.callbacks import Callback

from sealedhealth.errors import AlreadyExists, ConflictError, InvalidInput, NotFound, SealedHealthError, StoreError
from sealedhealth.fs import ManyCommitsWarning, SealedFileSystem

MIB = 1 << 20


@pytest.fixture
def other(session):
    """A second file system over the same dataset, as another job would have."""
    return SealedFileSystem(session.url, relative=True)


@pytest.fixture
def tree(tmp_path):
    """A local directory of files."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(30):
        (tmp_path / "in" / "deep" / str(number)).write_bytes(b"%d" % number)
    (tmp_path / "in" / "large").write_bytes(os.urandom(5 * MIB))
    return tmp_path / "in"


def test_one_commit_for_each_call(labs, commits, tree):
    """However many files it concerns."""
    before = commits()
    calls = [
        lambda: labs.pipe({f"many/{number}": b"" for number in range(50)}),
        lambda: labs.put(str(tree), "put", recursive=True),
        lambda: labs.put_file(str(tree / "large"), "single"),
        lambda: labs.cp("many", "copied", recursive=True),
        lambda: labs.mv("copied", "moved", recursive=True),
        lambda: labs.rm("moved", recursive=True),
        lambda: labs.rm(["many/1", "many/2"]),
        lambda: labs.rm("many/*"),
        lambda: labs.touch("empty"),
        lambda: labs.write_text("text", "é"),
        lambda: labs.rm_file("text"),
        lambda: labs.mv("empty", "void"),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert commits() == before + number
    assert labs.find("") == sorted(
        ["labs/a.csv", "labs/empty", "labs/week/b.csv", "notes.txt", "single", "void", "put/large"]
        + [f"put/deep/{number}" for number in range(30)]
    )


def test_nothing_to_do_is_no_commit(labs, commits):
    """Making directories, moving a file onto itself, an empty mapping."""
    before = commits()
    labs.mkdir("made")
    labs.mv("notes.txt", "notes.txt")
    labs.pipe({})
    labs.touch("notes.txt", truncate=False)
    assert commits() == before
    assert labs.cat_file("notes.txt") == b"notes"


def test_own_commits_show_at_once_and_others_after_refresh(labs, other):
    """A file system is pinned to a snapshot."""
    other.pipe_file("new", b"1")
    assert other.exists("new")
    assert not labs.exists("new")
    assert labs.refresh() == 2
    assert labs.cat_file("new") == b"1"


def test_files_are_written_whole(fs):
    """Small and large, in many small pieces and in few large ones; the mode and position are right."""
    data = os.urandom(9 * MIB + 1)
    for path, step in [("pieces", 70_001), ("at once", len(data))]:
        with fs.open(path, "wb") as file:
            assert file.writable()
            assert not file.readable()
            assert not file.seekable()
            for start in range(0, len(data), step):
                file.write(memoryview(data)[start : start + step])
            assert file.tell() == len(data)
            assert not fs.exists(path)
        assert fs.cat_file(path) == data
    with pytest.raises(ValueError, match="closed"):
        file.write(b"")


def test_the_caller_may_reuse_its_buffer(fs):
    """What was given is taken over, also by a memoryview."""
    buffer = bytearray(b"a" * MIB)
    with fs.open("reused", "wb") as file:
        file.write(memoryview(buffer))
        buffer[:] = b"b" * MIB
        file.write(buffer)
    assert fs.cat_file("reused") == b"a" * MIB + b"b" * MIB


def test_the_base_is_the_snapshot_at_open(labs, other):
    """Somebody else's change of the same path in between is a conflict, and of another path is none."""
    with labs.open("labs/late", "wb") as file:
        other.pipe_file("elsewhere", b"")
        file.write(b"late")
    assert labs.exists("elsewhere")
    file = labs.open("notes.txt", "wb")
    file.write(b"mine")
    other.refresh()
    other.pipe_file("notes.txt", b"theirs")
    with pytest.raises(ConflictError):
        file.close()
    assert file.closed
    labs.refresh()
    assert labs.cat_file("notes.txt") == b"theirs"


def test_exclusive_creation(labs, other):
    """FileExistsError at open, and also when somebody else was faster."""
    with pytest.raises(FileExistsError):
        labs.open("notes.txt", "xb")
    with pytest.raises(AlreadyExists):
        labs.pipe_file("notes.txt", b"", mode="create")
    with pytest.raises(AlreadyExists):
        labs.pipe({"fresh": b"", "notes.txt": b""}, mode="create")
    assert not labs.exists("fresh")
    with labs.open("fresh", "x") as file:
        file.write("1")
    assert labs.read_text("fresh") == "1"
    file = labs.open("raced", "xb")
    other.refresh()
    other.pipe_file("raced", b"theirs")
    with pytest.raises(ConflictError):
        file.close()


def test_put_with_mode_create(labs, tree):
    """Nothing that exists is replaced, and nothing else of the call is written."""
    labs.put_file(str(tree / "deep" / "1"), "new", mode="create")
    with pytest.raises(AlreadyExists):
        labs.put_file(str(tree / "deep" / "2"), "new", mode="create")
    with pytest.raises(AlreadyExists):
        labs.put([str(tree / "deep" / "3"), str(tree / "deep" / "4")], ["newer", "new"], mode="create")
    assert labs.cat_file("new") == b"1"
    assert not labs.exists("newer")


@pytest.mark.parametrize("mode", ["ab", "a", "r+b", "w+b", "r+"])
def test_modes_that_change_in_place_are_refused(labs, mode):
    """Sealed objects are immutable; the file is untouched."""
    with pytest.raises(InvalidInput, match="immutable"):
        labs.open("notes.txt", mode)
    assert labs.cat_file("notes.txt") == b"notes"


@pytest.mark.parametrize("path", ["labs", "notes.txt/deeper", ""])
def test_files_and_directories_do_not_mix(labs, commits, path):
    """A directory cannot be written, nor anything below a file."""
    for write in [
        lambda: labs.pipe_file(path, b""),
        lambda: labs.open(path, "wb"),
        lambda: labs.pipe({path: b"", "x": b""}),
        lambda: labs.cp_file("labs/a.csv", path),
    ]:
        with pytest.raises(InvalidInput):
            write()
    assert commits() == 1


def test_two_names_of_one_path(fs, commits):
    """Which of the two contents should win cannot be known."""
    with pytest.raises(InvalidInput, match="one path"):
        fs.pipe({"a": b"1", "sealed://a": b"2"})
    with pytest.raises(InvalidInput):
        fs.pipe(3, b"")
    assert commits() == 0


def test_deleting(labs, commits):
    """Absent files are an error and directories need asking; nothing is deleted then."""
    with pytest.raises(NotFound):
        labs.rm_file("absent")
    with pytest.raises(NotFound):
        labs.rm(["notes.txt", "absent"])
    with pytest.raises(NotFound):
        labs.rm("absent", recursive=True)
    with pytest.raises(InvalidInput, match="directory"):
        labs.rm("labs")
    with pytest.raises(NotFound):
        labs.rm_file("labs")
    assert commits() == 1
    labs.makedirs("labs/made")
    labs.rm("labs", recursive=True)
    assert not labs.exists("labs")
    labs.mkdir("made")
    labs.rm("made")
    assert not labs.exists("made")
    assert labs.find("") == ["notes.txt"]


def test_deleting_to_a_depth(labs):
    """What lies deeper stays, and so does its directory."""
    labs.rm("labs", recursive=True, maxdepth=1)
    assert labs.find("") == ["labs/week/b.csv", "notes.txt"]


def test_names_that_look_like_patterns(fs):
    """rm_file, open and cat_file take names for what they are."""
    fs.pipe({"a[1].csv": b"1", "a1.csv": b"2"})
    fs.rm_file("a[1].csv")
    assert fs.find("") == ["a1.csv"]


def test_copying_and_moving_store_nothing_anew(labs, store):
    """Entries are copied; the host sees no object, only a small commit."""
    labs.cp("labs", "backup", recursive=True)
    labs.mv("labs", "archive", recursive=True)
    assert not [name for kind, name in store.log if kind == "put" and name.startswith("objects/")]
    assert labs.cat_file("archive/week/b.csv") == labs.cat_file("backup/week/b.csv") == b"y\n2\n3\n"
    assert not labs.exists("labs")


def test_moving_goes_wrong(labs, commits):
    """A directory into itself, without recursive, or what is absent: nothing is moved."""
    with pytest.raises(InvalidInput, match="into itself"):
        labs.mv("labs", "labs/inner", recursive=True)
    with pytest.raises(InvalidInput):
        labs.mv("labs", "elsewhere")
    with pytest.raises(NotFound):
        labs.mv("absent", "elsewhere")
    assert commits() == 1


def test_moving_over_a_file(labs):
    """Replaces it, in one commit."""
    labs.mv("labs/a.csv", "notes.txt")
    assert labs.cat_file("notes.txt") == b"x\n1\n"
    assert not labs.exists("labs/a.csv")


def test_copying_what_may_be_absent(labs, commits):
    """With on_error="ignore" the rest is copied."""
    labs.copy(["absent", "notes.txt"], ["a", "b"], on_error="ignore")
    assert labs.exists("b")
    with pytest.raises(NotFound):
        labs.copy(["notes.txt", "absent"], ["c", "d"])
    assert not labs.exists("c")
    assert commits() == 2


def test_progress_of_put(fs, tree):
    """Files are counted outside, bytes within."""
    counted = Callback()
    fs.put(str(tree), "put", recursive=True, callback=counted)
    assert (counted.size, counted.value) == (31, 31)
    one = Callback()
    fs.put_file(str(tree / "large"), "large", callback=one)
    assert (one.size, one.value) == (5 * MIB, 5 * MIB)


def test_a_local_file_that_is_absent(labs, commits):
    """FileNotFoundError, and no commit."""
    with pytest.raises(FileNotFoundError):
        labs.put_file("/absent/file", "x")
    with pytest.raises(FileNotFoundError):
        labs.put("/absent/file", "x")
    assert commits() == 1


# --- how files end ---------------------------------------------------------------------


def test_a_file_that_leaves_by_an_exception_is_discarded(labs, commits, store):
    """The with statement of the file itself."""
    with pytest.raises(RuntimeError), labs.open("notes.txt", "wb") as file:
        file.write(b"half")
        raise RuntimeError
    assert labs.cat_file("notes.txt") == b"notes"
    assert commits() == 1


def test_discarding_leaves_no_object(labs, store):
    """A large file was on its way to the host already."""
    before = list(store.list("objects"))
    with pytest.raises(RuntimeError), labs.open("half", "wb") as file:
        for _ in range(12):
            file.write(os.urandom(MIB))
        raise RuntimeError
    assert list(store.list("objects")) == before


def test_an_exception_that_was_handled_before_is_none_of_the_files(labs):
    """A retry opens and closes files inside an except block."""
    try:
        raise RuntimeError
    except RuntimeError:
        with labs.open("retried", "wb") as file:
            file.write(b"1")
        second = labs.open("second", "wb")
        second.close()
    assert labs.cat_file("retried") == b"1"
    assert labs.exists("second")


def test_an_exception_within_that_is_swallowed_does_no_harm(labs):
    """Only one that is in flight at close counts."""
    with labs.open("parsed", "wb") as file:
        for text in ["1", "x", "2"]:
            try:
                file.write(b"%d" % int(text))
            except ValueError:
                continue
    assert labs.cat_file("parsed") == b"12"


def test_closing_while_an_exception_is_handled_is_said(labs, caplog):
    """Discarding is the safe guess; it is not made in silence."""
    file = labs.open("guess", "wb")
    try:
        raise RuntimeError
    except RuntimeError:
        file.close()
    assert not labs.exists("guess")
    assert "guess" in caplog.text
    assert "RuntimeError" in caplog.text


def test_an_abandoned_file_is_discarded(labs, commits, caplog):
    """Without close() nothing is committed, also by text and buffered wrappers; that is said in the log."""
    for mode in ["w", "wb"]:
        file = labs.open("abandoned", mode)
        file.write("1" if mode == "w" else b"1")
        del file
    buffered = io.BufferedWriter(labs.open("abandoned", "wb"))
    buffered.write(b"1")
    del buffered
    compressed = labs.open("abandoned.gz", "wb", compression="gzip")
    compressed.write(b"1")
    del compressed
    text = labs.open("abandoned.gz", "wt", compression="gzip")
    text.write("1")
    del text
    gc.collect()
    assert len(caplog.messages) == 5
    assert all("never closed" in message for message in caplog.messages)
    assert not labs.exists("abandoned")
    assert not labs.exists("abandoned.gz")
    assert commits() == 1


def test_a_write_that_failed_cannot_be_committed(labs, monkeypatch):
    """Somebody may have swallowed the error."""
    file = labs.open("swallowed", "wb")
    monkeypatch.setattr(file._writer, "write", lambda _: (_ for _ in ()).throw(StoreError("full")))
    with pytest.raises(StoreError):
        file.write(bytes(MIB))
    with pytest.raises(SealedHealthError, match="earlier write"):
        file.close()
    assert file.closed
    assert not labs.exists("swallowed")


def test_commit_by_hand(labs, commits):
    """autocommit=False leaves the end to commit() or discard()."""
    file = labs.open("later", "wb", autocommit=False)
    file.write(b"1")
    file.close()
    assert not labs.exists("later")
    file.commit()
    assert labs.cat_file("later") == b"1"
    file.discard()
    file = labs.open("never", "wb", autocommit=False)
    file.write(b"1")
    file.close()
    file.discard()
    assert not labs.exists("never")
    dropped = labs.open("never", "wb", autocommit=False)
    dropped.close()
    del dropped
    gc.collect()
    assert commits() == 2


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz", "zip", "infer", None])
def test_compression(labs, compression):
    """The compressor's end is the file's end, in both modes and after an exception."""
    path = "data.csv.gz"
    with labs.open(path, "wt", compression=compression) as file:
        file.write("a\n" * 1000)
    with labs.open(path, "rt", compression=compression) as file:
        assert file.read() == "a\n" * 1000
    if compression not in {None, "zip"}:  # zip as fsspec has it stores without compressing
        assert labs.size(path) < 1000
    with pytest.raises(RuntimeError), labs.open(path, "wb", compression=compression) as file:
        file.write(b"half")
        raise RuntimeError
    with labs.open(path, "rb", compression=compression) as file:
        assert file.read() == b"a\n" * 1000


def test_reading_compressed_files(labs):
    """Positions, pieces and lines of what is inside."""
    with labs.open("n.gz", "wb", compression="infer") as file:
        assert file.writable()
        assert not file.seekable()
        file.write(b"one\ntwo\n")
        assert file.tell() == 8
    with labs.open("n.gz", compression="infer") as file:
        assert file.readable()
        assert file.read(3) == b"one"
        assert file.seek(4) == 4
        assert file.read1() == b"two\n"
        file.seek(0)
        assert list(file) == [b"one\n", b"two\n"]
    abandoned = labs.open("n.gz", compression="infer")
    del abandoned


def test_open_files_do_not_travel(labs):
    """A reader travels by its path; a writer does not."""
    with labs.open("notes.txt") as file:
        file.read(2)
        again = pickle.loads(pickle.dumps(file))
        assert again.read() == b"tes"
    with labs.open("x", "wb") as file, pytest.raises(TypeError):
        pickle.dumps(file)
    assert re.fullmatch("<SealedWriter 'x'>", repr(file))


# --- many commits ------------------------------------------------------------------------


def test_twenty_commits_of_one_file_warn(fs, session):
    """Whichever instances they were made with; once for twenty."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(19):
            SealedFileSystem(session=session).pipe_file(f"{number}", b"")
        assert not caught
        with fs.open("20", "wb"):
            pass
        fs.touch("21")
    assert [one.category for one in caught] == [ManyCommitsWarning]
    assert "transaction" in str(caught[0].message)


def test_one_transaction_of_many_files_does_not_warn(fs, commits):
    """Nor do calls of many files."""
    with fs.transaction:
        for number in range(30):
            fs.pipe_file(f"{number}", b"")
    for number in range(3):
        fs.pipe({f"many/{number}-{inner}": b"" for inner in range(30)})
    assert commits() == 4
