"""How a file system is made, and what of it travels: a URL, a profile's name, a commit's number."""

import json
import multiprocessing
import pickle

import fsspec
import pytest
from datasets import write_profile
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from sealedhealth.errors import ConflictError, InvalidInput, NotFound
from sealedhealth.fs import SealedFileSystem

SECRET = "hunter2hunter2"


def test_every_way_to_make_one(labs, session):
    """They give the same file under the name that each has."""
    root = session.url.removeprefix("memory:/")
    for url in [f"sealed::{session.url}/notes.txt", f"sealed+{session.url}/notes.txt"]:
        fs, path = url_to_fs(url)
        assert isinstance(fs, SealedFileSystem)
        assert path == f"{root}/notes.txt"
        assert fs.cat_file(path) == b"notes"
        with fsspec.open(url, "rb") as file:
            assert file.read() == b"notes"
    for made in [
        fsspec.filesystem("sealed", fo=root, target_protocol="memory"),
        fsspec.filesystem("sealed", fo=session.url),
        SealedFileSystem(f"{session.url}/labs/a.csv"),
    ]:
        assert made.cat_file(f"{root}/notes.txt") == b"notes"
    assert fsspec.filesystem("sealed", fo=session.url, relative=True).cat_file("notes.txt") == b"notes"


def test_local_paths(make_place, monkeypatch):
    """With and without a protocol, absolute."""
    from datasets import make_session

    place = make_place("local")
    session = make_session(place, monkeypatch)
    SealedFileSystem(session=session).pipe_file("a", b"1")
    for url in [f"sealed::{place.url}/a", f"sealed::file://{place.url}/a", f"sealed+file://{place.url}/a"]:
        with fsspec.open(url) as file:
            assert file.read() == b"1"
    assert [file.path for file in fsspec.open_files(f"sealed::{place.url}/*")] == [f"{place.url}/a"]


def test_url_that_names_no_dataset(session):
    """What is not registered is not opened, and a URL has to say where."""
    with pytest.raises(NotFound):
        SealedFileSystem("memory://elsewhere/dataset")
    with pytest.raises(InvalidInput, match="where"):
        fsspec.filesystem("sealed")
    with pytest.raises(InvalidInput, match="where"):
        fsspec.open("sealed://notes.txt").open()
    with pytest.raises(InvalidInput, match="profile"):
        SealedFileSystem(session.url, profile="absent")


@pytest.mark.parametrize(
    "options", [{"target_options": {"key": "k", "secret": SECRET}}, {"passphrase": SECRET}, {"token": SECRET}]
)
def test_secrets_are_refused(session, options):
    """By name, without repeating what they hold: only the name of a profile travels."""
    with pytest.raises(InvalidInput, match="profile") as caught:
        SealedFileSystem(session.url, **options)
    assert SECRET not in str(caught.value)


def test_options_of_a_chained_url(labs, session):
    """The profile is given by layer or flat; options of the store layer are refused."""
    url = f"sealed::{session.url}/notes.txt"
    for options in [{"sealed": {"profile": "local"}}, {"profile": "local"}]:
        assert fsspec.open(url, **options).open().read() == b"notes"
    with pytest.raises(InvalidInput, match="profile"):
        fsspec.open(url, memory={"secret": SECRET})


def test_options_that_wrappers_hand_to_everybody(session):
    """Zarr asks for asynchronous instances and pandas for no cache: they get an ordinary one."""
    SealedFileSystem(session.url, asynchronous=False, use_listings_cache=False, skip_instance_cache=True)


def test_instances_are_not_shared(session):
    """Each is a view of its own over the process-wide catalogue."""
    one, two = (fsspec.filesystem("sealed", fo=session.url) for _ in range(2))
    assert one is not two
    assert one.session.engine is two.session.engine


def test_what_travels(labs, session):
    """A URL, the dataset's public id, a profile's name and the pinned commit; nothing else in any form."""
    allowed = {
        "fo": session.url,
        "dataset_id": session.dataset_id.hex(),
        "profile": "local",
        "pin": 1,
        "relative": True,
    }
    assert labs.storage_options == allowed
    assert labs.storage_args == ()
    for include_password in [True, False]:
        told = json.loads(labs.to_json(include_password=include_password))
        assert {name: told[name] for name in told if name not in {"cls", "protocol", "args"}} == allowed
        assert told["args"] == []
    pickled = pickle.dumps(labs)
    for entry in dict(session.snapshot.items("")).values():
        assert entry.object_key not in pickled
    assert len(pickled) < 400


def test_back_from_a_pickle_and_json(labs, session):
    """The same names and the same snapshot, whatever was committed since."""
    pickled, told = pickle.dumps(labs), labs.to_json()
    labs.pipe_file("notes.txt", b"newer")
    for again in [pickle.loads(pickled), AbstractFileSystem.from_json(told)]:
        assert again.cat_file("notes.txt") == b"notes"
        assert again.session.sequence == 1
        assert again.refresh() == 2
        assert again.cat_file("notes.txt") == b"newer"
    by_url = pickle.loads(pickle.dumps(SealedFileSystem(session.url)))
    assert by_url._prefix


def test_a_copy_from_a_pickle_writes(labs):
    """Workers of a cluster do; their base is the snapshot that travelled."""
    again = pickle.loads(pickle.dumps(labs))
    labs.pipe_file("notes.txt", b"newer")
    again.pipe_file("from worker", b"1")
    late = pickle.loads(pickle.dumps(labs))
    late.pipe_file("second", b"1")
    stale = SealedFileSystem(**{**labs.storage_options, "pin": 1})
    with pytest.raises(ConflictError):
        stale.pipe_file("notes.txt", b"over it")
    labs.refresh()
    assert labs.exists("from worker")
    assert labs.exists("second")


def test_an_earlier_snapshot_travels_read_only(labs, session):
    """By its number, even when it was named by a tag."""
    with session.begin() as transaction:
        transaction.tag("first", 1)
    earlier = pickle.loads(pickle.dumps(SealedFileSystem(session.url, at="first")))
    assert earlier.storage_options["at"] == 1
    with pytest.raises(InvalidInput):
        earlier.touch(f"{earlier._prefix}/new")


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_another_process_opens_by_itself(make_place, monkeypatch, method):
    """It looks the profile's name up where it runs."""
    from datasets import make_session, read_elsewhere

    fs = SealedFileSystem(session=make_session(make_place("local"), monkeypatch))
    fs.pipe_file("a", b"1")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=read_elsewhere, args=(pickle.dumps(fs), queue))
    process.start()
    assert queue.get(timeout=60) == b"1"
    process.join()


def test_tokens_tell_identities_apart(labs, session, monkeypatch):
    """Two profiles, two snapshots, two spellings of names: never one cached result for both."""
    write_profile({}, monkeypatch, names=("local", "second"))
    made = {
        "url": SealedFileSystem(session.url),
        "relative": labs,
        "at": SealedFileSystem(session.url, at=1),
        "before": SealedFileSystem(session.url, pin=0),
        "second": SealedFileSystem(session.url, profile="second"),
    }
    assert len({fs._fs_token for fs in made.values()}) == len(made)
    assert len({fs.__dask_tokenize__() for fs in made.values()}) == len(made)
    assert SealedFileSystem(session.url) == made["url"]
    assert made["url"] != made["second"]
    assert hash(SealedFileSystem(session.url)) == hash(made["url"])
    token = labs._fs_token
    with labs.transaction:
        assert labs._fs_token != token
    assert labs != "another thing"


def test_what_it_says_of_itself(labs, session):
    """No key, no secret; an id that is the same for every instance."""
    assert repr(labs) == f"<SealedFileSystem '{session.url}', profile 'local'>"
    assert labs.fsid == SealedFileSystem(session.url).fsid == f"sealed-{session.dataset_id.hex()}"


def test_entry_points_and_class_agree():
    """Every protocol of the class is registered, and nothing else takes it."""
    from importlib.metadata import entry_points

    registered = {
        point.name: point.value for point in entry_points(group="fsspec.specs") if point.name.startswith("sealed")
    }
    assert registered == dict.fromkeys(SealedFileSystem.protocol, "sealedhealth.fs:SealedFileSystem")
    for protocol in SealedFileSystem.protocol:
        assert fsspec.get_filesystem_class(protocol) is SealedFileSystem
