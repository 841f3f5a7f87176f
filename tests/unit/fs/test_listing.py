"""What the catalogue answers: names, sizes, times, directories. Without a request to the host."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest
from datasets import take_reading_away

from sealedhealth.errors import AccessDenied, AlreadyExists, InvalidInput, InvalidPath, NotFound
from sealedhealth.fs import SealedFileSystem


def test_info_of_a_file(labs):
    """Size, type, times in seconds, the commit that wrote it, and a version."""
    info = labs.info("labs/a.csv")
    now = datetime.now(UTC)
    assert (info["name"], info["size"], info["type"], info["sequence"]) == ("labs/a.csv", 4, "file", 1)
    assert info["mtime"] == info["created"] == labs.modified("labs/a.csv").timestamp()
    assert timedelta(0) <= now - labs.modified("labs/a.csv") < timedelta(minutes=1)
    assert labs.created("labs/a.csv") == labs.modified("labs/a.csv")


def test_info_of_a_directory(labs):
    """Directories are what paths imply; the root is one."""
    assert labs.info("labs/week") == {"name": "labs/week", "size": 0, "type": "directory"}
    assert labs.info("") == {"name": "", "size": 0, "type": "directory"}
    assert labs.info("/")["type"] == "directory"


def test_version_checksum_and_ukey_change_with_every_write(labs):
    """Also when size and content stay the same: the object is another."""
    before = (labs.info("notes.txt")["version"], labs.checksum("notes.txt"), labs.ukey("notes.txt"))
    labs.pipe_file("notes.txt", b"notes")
    after = (labs.info("notes.txt")["version"], labs.checksum("notes.txt"), labs.ukey("notes.txt"))
    assert all(old != new for old, new in zip(before, after, strict=True))
    labs.cp_file("notes.txt", "copy.txt")
    assert labs.ukey("copy.txt") == labs.ukey("notes.txt")


def test_ls(labs):
    """Files and directories of one level, sorted; a file lists itself."""
    assert labs.ls("", detail=False) == ["labs", "notes.txt"]
    assert labs.ls("labs", detail=False) == ["labs/a.csv", "labs/empty", "labs/week"]
    assert [info["type"] for info in labs.ls("labs/")] == ["file", "file", "directory"]
    assert labs.ls("notes.txt") == [labs.info("notes.txt")]


def test_find_and_walk(labs):
    """Everything below, with and without directories, to a depth."""
    assert labs.find("") == ["labs/a.csv", "labs/empty", "labs/week/b.csv", "notes.txt"]
    assert labs.find("labs", withdirs=True) == ["labs", "labs/a.csv", "labs/empty", "labs/week", "labs/week/b.csv"]
    assert labs.find("labs", maxdepth=1) == ["labs/a.csv", "labs/empty"]
    assert labs.find("notes.txt", detail=True) == {"notes.txt": labs.info("notes.txt")}
    assert labs.find("absent") == []
    assert [(path, sorted(dirs), sorted(files)) for path, dirs, files in labs.walk("")] == [
        ("", ["labs"], ["notes.txt"]),
        ("labs", ["week"], ["a.csv", "empty"]),
        ("labs/week", [], ["b.csv"]),
    ]


def test_find_agrees_with_the_one_of_fsspec(labs):
    """The short way gives what walking gives."""
    labs.makedirs("labs/made/deep")
    for path in ["", "labs", "labs/week", "notes.txt"]:
        for withdirs in [False, True]:
            slow = super(type(labs).__mro__[3], labs).find(path, withdirs=withdirs, detail=True)
            if path == "notes.txt":
                slow = {path: labs.info(path)}  # fsspec gives no details of a lone file
            assert labs.find(path, withdirs=withdirs, detail=True) == slow


@pytest.mark.parametrize(
    "pattern,found",
    [
        ("labs/*.csv", ["labs/a.csv"]),
        ("**/*.csv", ["labs/a.csv", "labs/week/b.csv"]),
        ("*", ["labs", "notes.txt"]),
        ("labs/[ae]*", ["labs/a.csv", "labs/empty"]),
        ("labs/**", ["labs", "labs/a.csv", "labs/empty", "labs/week", "labs/week/b.csv"]),
        ("absent/*", []),
        ("notes.txt", ["notes.txt"]),
    ],
)
def test_glob(labs, pattern, found):
    """Patterns as fsspec has them."""
    assert labs.glob(pattern) == found


def test_du(labs):
    """Bytes of plaintext, in all or by file."""
    assert labs.du("labs") == 10
    assert labs.du("", total=False) == {"labs/a.csv": 4, "labs/empty": 0, "labs/week/b.csv": 6, "notes.txt": 5}


def test_listing_costs_no_request(labs, store):
    """The host is not asked, and so learns nothing of who looks for what."""
    labs.info("labs/a.csv")
    labs.exists("absent")
    labs.ls("labs")
    labs.find("", withdirs=True)
    labs.glob("**/*.csv")
    labs.du("")
    list(labs.walk(""))
    labs.ukey("notes.txt")
    assert not store.calls


def test_what_is_absent(labs):
    """NotFound, which is a FileNotFoundError; a directory is not a file."""
    for look in [labs.info, labs.ls, labs.cat_file, labs.modified, labs.rm]:
        with pytest.raises(NotFound, match="absent"):
            look("absent")
    with pytest.raises(NotFound, match="directory"):
        labs.cat_file("labs")
    assert not labs.exists("absent")
    assert not labs.isfile("labs")
    assert labs.isdir("labs")
    assert not labs.isdir("notes.txt")


@pytest.mark.parametrize("path", ["a/../b", "/etc/passwd", "a//b", "a\0b", "./a", "a\\b"])
def test_paths_without_canonical_form(labs, path):
    """They name nothing, and nothing is written there."""
    assert not labs.exists(path)
    assert not labs.isfile(path)
    assert not labs.isdir(path)
    for use in [labs.info, labs.ls, labs.cat_file, labs.open, labs.touch, labs.mkdir]:
        with pytest.raises(InvalidPath):
            use(path)


def test_two_spellings_of_one_name(fs):
    """A composed and a decomposed accent are the same file, in patterns too."""
    composed, decomposed = (unicodedata.normalize(form, "résumé.txt") for form in ("NFC", "NFD"))
    assert composed != decomposed
    fs.pipe_file(decomposed, b"1")
    assert fs.cat_file(composed) == fs.cat_file(decomposed) == b"1"
    assert fs.ls("", detail=False) == [composed]
    assert fs.glob(decomposed[:3] + "*") == [composed]
    assert fs.info(decomposed)["name"] == composed


def test_directories_made_live_in_the_instance(labs, session):
    """A dataset holds files: an empty directory is seen by who made it, and by nobody else."""
    labs.mkdir("new/deep")
    assert labs.isdir("new/deep")
    assert labs.ls("new", detail=False) == ["new/deep"]
    assert "new/deep" in labs.find("", withdirs=True)
    assert session.sequence == 1
    assert not SealedFileSystem(session=session).exists("new")
    labs.rmdir("new/deep")
    assert labs.exists("new")
    assert not labs.exists("new/deep")


def test_making_directories_that_exist(labs):
    """As pyarrow and dask count on: FileExistsError, unless it may exist; never over a file."""
    with pytest.raises(AlreadyExists):
        labs.mkdir("labs")
    labs.makedirs("labs/week", exist_ok=True)
    with pytest.raises(AlreadyExists):
        labs.makedirs("notes.txt", exist_ok=True)
    with pytest.raises(AlreadyExists):
        labs.makedirs("notes.txt/deeper")
    with pytest.raises(NotFound):
        labs.mkdir("absent/deep", create_parents=False)
    labs.mkdir("labs/fresh", create_parents=False)


def test_removing_directories(labs):
    """Only empty ones that mkdir made: others go with their files."""
    with pytest.raises(InvalidInput):
        labs.rmdir("labs")
    with pytest.raises(InvalidInput):
        labs.rmdir("notes.txt")
    with pytest.raises(NotFound):
        labs.rmdir("absent")


def test_names_made_from_a_url(labs, session):
    """They start with the root's path on the store, and stay within it."""
    by_url = SealedFileSystem(session.url)
    root = session.url.removeprefix("memory:/")
    assert by_url.ls(root, detail=False) == [f"{root}/labs", f"{root}/notes.txt"]
    assert by_url.find(f"{root}/labs/week") == [f"{root}/labs/week/b.csv"]
    assert by_url.glob(f"{root}/*.txt") == [f"{root}/notes.txt"]
    assert by_url.info(root)["type"] == "directory"
    assert by_url.cat_file(f"sealed::{session.url}/notes.txt") == b"notes"
    assert by_url.cat_file(f"sealed+{session.url}/notes.txt") == b"notes"
    assert not by_url.exists("notes.txt")
    with pytest.raises(InvalidPath, match="outside"):
        by_url.pipe_file(f"{root}-other/notes.txt", b"")


def test_unstripped_names(labs):
    """In the form that duckdb hands back, once only."""
    assert labs.unstrip_protocol("labs/a.csv") == "sealed://labs/a.csv"
    assert labs.unstrip_protocol("sealed://labs/a.csv") == "sealed://labs/a.csv"
    assert labs.info("sealed://labs/a.csv") == labs.info("labs/a.csv")
    assert labs._strip_protocol(["sealed://a/", "b"]) == ["a", "b"]


@pytest.mark.parametrize("look", ["ls", "find", "glob", "walk", "info", "exists", "isdir", "isfile", "du", "cat_file"])
def test_an_identity_that_only_writes_is_told_so(labs, session, look):
    """AccessDenied, a PermissionError; never an empty list."""
    take_reading_away(session.profile)
    blind = SealedFileSystem(session.url, relative=True)
    with pytest.raises(AccessDenied):
        getattr(blind, look)("labs")


def test_an_identity_that_only_writes_writes(labs, session, tmp_path):
    """It needs no look at what is there: files, many files, directories, open()."""
    take_reading_away(session.profile)
    blind = SealedFileSystem(session.url, relative=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "f").write_bytes(b"5")
    blind.pipe_file("new/1", b"1")
    blind.pipe({"new/2": b"2", "new/3": b"3"})
    blind.makedirs("new", exist_ok=True)
    with blind.open("new/4", "wb") as file:
        file.write(b"4")
    blind.put(str(tmp_path / "in"), "new", recursive=True)
    with blind.transaction as transaction:
        transaction.fs.pipe_file("new/6", b"6")
        with pytest.raises(AccessDenied):
            transaction.fs.ls("new")
    with pytest.raises(AccessDenied):
        blind.open("new/1", "xb")
    assert blind.storage_options.keys() == {"fo", "profile", "dataset_id", "relative"}
    session.refresh()
    assert labs.find("new") == ["new/1", "new/2", "new/3", "new/4", "new/6", "new/f"]
