"""Transactions: every kind of change in one commit, or none at all."""

import pickle
import threading

import pytest

from sealedhealth.errors import ConflictError, InvalidInput, NotFound
from sealedhealth.fs import SealedFileSystem, SealedTransaction


@pytest.fixture
def other(session):
    """A second file system over the same dataset, made from its URL."""
    return SealedFileSystem(session.url, relative=True)


def change_everything(fs):
    """One of each kind of change."""
    fs.pipe_file("piped", b"1")
    fs.pipe({"many/1": b"1", "many/2": b"2"})
    with fs.open("opened", "w") as file:
        file.write("1")
    fs.rm("labs/week", recursive=True)
    fs.rm_file("labs/empty")
    fs.mv("notes.txt", "moved.txt")
    fs.cp_file("labs/a.csv", "copied.csv")
    fs.touch("touched")


AFTER = ["copied.csv", "labs/a.csv", "many/1", "many/2", "moved.txt", "opened", "piped", "touched"]


def begin_with(fs):
    """As a context."""
    with fs.transaction:
        change_everything(fs)


def begin_by_hand(fs):
    """By the two methods."""
    fs.start_transaction()
    change_everything(fs)
    fs.end_transaction()


def begin_with_message(fs):
    """As a dataset does."""
    with fs.new_transaction("everything") as transaction:
        change_everything(transaction.fs)


@pytest.mark.parametrize("begin", [begin_with, begin_by_hand, begin_with_message])
def test_every_kind_of_change_is_one_commit(labs, session, other, begin):
    """Nobody sees any of it before, and everybody all of it after."""
    begin(labs)
    assert session.sequence == 2
    assert labs.find("") == AFTER
    assert other.find("") != AFTER
    other.refresh()
    assert other.find("") == AFTER
    assert other.cat_file("moved.txt") == b"notes"
    assert session.history()[-1].message in {"", "everything", None}


def test_an_exception_commits_nothing(labs, session, store):
    """Nor does it leave objects on the host."""
    before, objects = labs.find(""), sorted(store.list("objects"))
    with pytest.raises(RuntimeError), labs.transaction:
        change_everything(labs)
        raise RuntimeError
    assert labs.find("") == before
    assert sorted(store.list("objects")) == objects
    assert session.refresh().sequence == 1
    labs.pipe_file("after", b"")
    assert session.sequence == 2


def test_reads_see_base_plus_staged(labs, other):
    """Listings and contents; others go on seeing the base."""
    with labs.transaction as transaction:
        change_everything(labs)
        assert labs.find("") == AFTER == transaction.fs.find("")
        assert labs.cat_file("piped") == b"1"
        with labs.open("opened") as file:
            assert file.read() == b"1"
        assert labs.cat(["many/1", "many/2"]) == {"many/1": b"1", "many/2": b"2"}
        assert labs.ls("many", detail=False) == ["many/1", "many/2"]
        with pytest.raises(NotFound):
            labs.cat_file("notes.txt")
        other.refresh()
        assert other.cat_file("notes.txt") == b"notes"


def test_what_it_gives(labs):
    """The object that fs.transaction gives is the transaction; its result is the commit."""
    transaction = labs.new_transaction("week 12")
    assert labs.transaction is transaction
    with transaction as entered:
        assert entered is transaction
        assert labs.transaction is transaction
        labs.pipe_file("a", b"1")
    assert isinstance(transaction, SealedTransaction)
    assert transaction.result.sequence == 2
    assert transaction.result.puts == 1
    assert labs.transaction is not transaction
    assert labs.session.history()[-1].message == "week 12"


def test_unrelated_writes_do_not_join(labs, other, session):
    """An instance made elsewhere commits by itself, and its commit outlives the transaction."""
    with pytest.raises(RuntimeError), labs.transaction:
        labs.pipe_file("mine", b"1")
        other.pipe_file("theirs", b"1")
        assert not labs.exists("theirs")
        raise RuntimeError
    session.refresh()
    assert labs.exists("theirs")
    assert not labs.exists("mine")


def test_workers_join_by_the_bound_file_system(labs, session):
    """Threads write through it at the same time; after the end they are refused."""
    with labs.transaction as transaction:
        bound = transaction.fs
        threads = [
            threading.Thread(target=bound.pipe_file, args=[f"part/{number}", b"%d" % number]) for number in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert session.sequence == 2
    assert len(labs.find("part")) == 16
    for use in [lambda: bound.pipe_file("late", b""), lambda: bound.ls(""), lambda: bound.open("late", "wb")]:
        with pytest.raises(InvalidInput, match="not open"):
            use()


def test_a_conflict_commits_nothing(labs, other, session):
    """Somebody else changed a path since the start; the transaction is over, the file system goes on."""
    with pytest.raises(ConflictError), labs.transaction:
        labs.pipe({"notes.txt": b"mine", "also": b"mine"})
        other.pipe_file("notes.txt", b"theirs")
    session.refresh()
    assert labs.cat_file("notes.txt") == b"theirs"
    assert not labs.exists("also")
    labs.pipe_file("notes.txt", b"again")


def test_different_paths_merge(labs, other):
    """Nobody has to wait for anybody."""
    with labs.transaction:
        labs.pipe_file("mine", b"1")
        other.pipe_file("theirs", b"1")
    assert labs.exists("mine")
    assert labs.exists("theirs")


def test_files_still_open_at_the_end(labs, session):
    """Half a file is worse than none: nothing is committed."""
    file = None
    with pytest.raises(InvalidInput, match="open"), labs.transaction:
        labs.pipe_file("whole", b"")
        file = labs.open("half", "wb")
        file.write(b"1")
    with pytest.raises(InvalidInput, match="over"):
        file.close()
    assert file.closed
    assert session.refresh().sequence == 1
    assert not labs.exists("whole")


def test_a_file_that_fails_within(labs):
    """It is not staged; the rest is, when the exception is handled inside."""
    with labs.transaction:
        labs.pipe_file("good", b"1")
        with pytest.raises(RuntimeError), labs.open("bad", "wb") as file:
            file.write(b"1")
            raise RuntimeError
        assert not labs.exists("bad")
    assert labs.exists("good")
    assert not labs.exists("bad")


def test_no_nesting_and_no_second_use(labs):
    """Neither would do what it looks like."""
    with labs.transaction as transaction:
        with pytest.raises(InvalidInput, match="nest"), labs.transaction:
            pass
        with pytest.raises(InvalidInput, match="nest"):
            labs.new_transaction()
        with pytest.raises(InvalidInput, match="nest"):
            labs.start_transaction()
        labs.pipe_file("a", b"")
    with pytest.raises(InvalidInput, match="once"), transaction:
        pass
    assert labs.exists("a")


def test_ending_it_by_hand(labs, session):
    """commit() and discard() may be called inside, and harmlessly again."""
    with labs.transaction as transaction:
        labs.pipe_file("a", b"")
        assert transaction.commit().sequence == 2
        assert transaction.commit() is transaction.result
        labs.pipe_file("b", b"")  # no longer part of it
    assert session.sequence == 3
    with labs.transaction as transaction:
        labs.pipe_file("c", b"")
        transaction.discard()
        transaction.discard()
    assert session.sequence == 3
    SealedTransaction(labs).complete()


def test_nothing_staged_is_no_commit(labs, session):
    """Reading in a transaction costs nothing."""
    with labs.transaction as transaction:
        labs.find("")
    assert transaction.result is None
    assert session.sequence == 1


def test_it_does_not_travel(labs):
    """What another process wrote would not join: said instead of done."""
    with labs.transaction as transaction:
        for thing in [labs, transaction, transaction.fs]:
            with pytest.raises(TypeError, match="transaction"):
                pickle.dumps(thing)
    pickle.dumps(labs)


def test_a_partitioned_write_is_one_commit(labs, session):
    """Many files, many directories, replaced and deleted: readers see no holes."""
    with labs.transaction:
        for number in range(64):
            labs.makedirs(f"table/part={number}", exist_ok=True)
            labs.pipe_file(f"table/part={number}/0.parquet", b"1")
    with labs.transaction:
        labs.rm("table", recursive=True)
        for number in range(8):
            labs.pipe_file(f"table/part={number}/0.parquet", b"2")
    assert session.sequence == 3
    assert len(labs.find("table")) == 8
