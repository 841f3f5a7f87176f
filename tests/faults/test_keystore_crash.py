"""A keystore whose process is killed at any step, and processes that race for it.

Each operation is run again and again in a forked child that kills itself with SIGKILL before
its first, second, third ... call that changes the disk, until one run gets through. After each
kill the keystore has to be whole: as it was before, or with the change made.
"""

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import pytest

from sealedhealth.errors import AlreadyExists, AnchorTaken, KeyRetired
from sealedhealth.keys import DatasetRef, Kek, LocalKeyService
from sealedhealth.keys.local import backup, keystore_mode, restore

CHEAP = {"opslimit": 1, "memlimit": 8192}
KEK = Kek(b"d" * 16, b"c" * 16)
OTHER = Kek(b"x" * 16, b"c" * 16)
REF = DatasetRef(KEK.dataset_id, ("file:///x",))

#: Every call by which the keystore changes the disk.
STEPS = ("open", "write", "pwrite", "fsync", "link", "replace", "unlink", "mkdir", "rmdir", "chmod")

# A child of fork in a test runner with threads: it only runs the keystore, and never returns.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def passphrase():
    """The keystore's passphrase."""
    return "a long passphrase"


def kill_at(step):
    """From now on, kill this process before its call number *step* that changes the disk."""
    calls = 0

    def watch(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            nonlocal calls
            if calls == step:
                if name in {"write", "pwrite"}:  # half a write is worse than none
                    half = len(arguments[1]) // 2
                    original(arguments[0], bytes(arguments[1])[:half], *arguments[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return original(*arguments, **options)

        setattr(os, name, call)

    for name in STEPS:
        watch(name)


def survives(step, use):
    """Run *use* in a child that dies at *step*; whether it got through all the same."""
    child = os.fork()
    if child == 0:
        try:
            kill_at(step)
            use()
        except BaseException:  # noqa: BLE001 - a child must never go on as a second test runner
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in {0, signal.SIGKILL}, "the operation itself failed"
    return status == 0


@pytest.fixture(params=["passphrase", "development"])
def options(request):
    """What opens the keystore."""
    return {"passphrase": passphrase if request.param == "passphrase" else None}


@pytest.fixture
def keystore(tmp_path, options):
    """A keystore with one of everything."""
    directory = tmp_path / "keystore"
    service = LocalKeyService.init(directory, development=options["passphrase"] is None, **CHEAP, **options)
    service.create(KEK)
    service.create_author("author")
    service.create_anchor(KEK.dataset_id, 0, b"link 0")
    service.register(REF)
    return directory


@pytest.fixture
def service(keystore, options):
    """The keystore, open, with its passphrase given."""
    service = LocalKeyService.open(keystore, **options)
    service.versions(KEK)
    return service


def walk(keystore, tmp_path, use, check):
    """Kill ``use`` at every step, each time on a fresh copy; ``check`` judges what is left. Returns the steps."""
    pristine = tmp_path / "pristine"
    shutil.copytree(keystore, pristine)
    for step in range(200):
        shutil.rmtree(keystore)
        shutil.copytree(pristine, keystore)
        done = survives(step, use)
        check(done=done)
        if done:
            return step
    pytest.fail("the operation never ends")


def leftovers(keystore):
    """What a crash left behind."""
    return list((keystore / "tmp").iterdir())


def test_create(keystore, service, tmp_path):
    """A new key-encryption key is whole or not there; nothing else changes, and it can be tried again."""
    key, wrapped = service.generate(KEK)

    def check(*, done):
        made = (keystore / "keks" / OTHER.name).exists()
        assert made or not done
        if made:
            with pytest.raises(AlreadyExists):
                service.create(OTHER)
        else:
            service.create(OTHER)
        assert service.versions(OTHER).latest == 1
        assert service.unwrap([wrapped])[0].expose() == key.expose()
        assert not leftovers(keystore)

    assert walk(keystore, tmp_path, lambda: service.create(OTHER), check) > 4


def test_create_author(keystore, service, tmp_path):
    """A new signing key is whole or not there, and can be tried again."""
    old = service.author("author")

    def check(*, done):
        try:
            service.create_author("another")
            assert not done
        except AlreadyExists:
            pass
        assert len(service.sign("another", b"message")) == 96
        assert service.author("author") == old
        assert not leftovers(keystore)

    assert walk(keystore, tmp_path, lambda: service.create_author("another"), check) > 4


def test_rotate(keystore, service, tmp_path):
    """A rotation has happened or not; what the old version wrapped opens either way."""
    key, wrapped = service.generate(KEK)

    def check(*, done):
        latest = service.versions(KEK).latest
        assert latest == 2 or (latest == 1 and not done)
        assert service.unwrap([wrapped])[0].expose() == key.expose()
        assert service.rotate(KEK) == latest + 1
        assert service.unwrap([wrapped])[0].expose() == key.expose()
        assert not leftovers(keystore)

    assert walk(keystore, tmp_path, lambda: service.rotate(KEK), check) > 5


def test_retire(keystore, service, tmp_path):
    """A retirement has happened or not; survivors open either way, and a second try destroys for good."""
    key, wrapped = service.generate(KEK)
    bare = service._keys.kek(KEK).newest.expose()
    service.rotate(KEK)
    kept = service.rewrap([wrapped])[0]

    def check(*, done):
        assert service.versions(KEK).minimum == 2 or not done
        assert service.unwrap([kept])[0].expose() == key.expose()
        service.retire(KEK, 2)
        with pytest.raises(KeyRetired):
            service.unwrap([wrapped])
        assert service.unwrap([kept])[0].expose() == key.expose()
        assert not leftovers(keystore)
        assert all(bare not in path.read_bytes() for path in keystore.rglob("*") if path.is_file())

    assert walk(keystore, tmp_path, lambda: service.retire(KEK, 2), check) > 5


def test_rotation_leaves_no_copy_for_later(keystore, service, tmp_path):
    """What a killed rotation left in temporary files goes at the next change, before anything is retired."""
    bare = service._keys.kek(KEK).newest.expose()

    def check(*, done):
        service.rotate(KEK)
        service.retire(KEK, service.versions(KEK).latest)
        assert all(bare not in path.read_bytes() for path in keystore.rglob("*") if path.is_file())

    walk(keystore, tmp_path, lambda: service.rotate(KEK), check)


@pytest.mark.parametrize("dataset_id", [KEK.dataset_id, b"n" * 16])
def test_create_anchor(keystore, options, service, tmp_path, dataset_id):
    """An anchor is whole or not there; whoever comes next gets an answer that stays true."""

    def check(*, done):
        entry = service.read_anchor(dataset_id, 1)
        assert entry is None or entry.link == b"link 1"
        assert entry is not None or not done
        fresh = LocalKeyService.open(keystore, **options)
        if entry is None:
            entry = fresh.create_anchor(dataset_id, 1, b"other")
        with pytest.raises(AnchorTaken):
            fresh.create_anchor(dataset_id, 1, b"another")
        fresh.rotate(KEK)  # wipes what the kill left behind, and nothing else
        assert not leftovers(keystore)
        assert fresh.read_anchor(dataset_id, 1) == entry
        assert fresh.read_anchor(KEK.dataset_id, 0).link == b"link 0"

    assert walk(keystore, tmp_path, lambda: service.create_anchor(dataset_id, 1, b"link 1"), check) > 4


def test_register(keystore, service, tmp_path):
    """The registry is the old one or the new one."""
    moved = replace(REF, urls=("file:///y",))

    def check(*, done):
        found = service.lookup(REF.dataset_id.hex())
        assert found == moved or (found == REF and not done)
        service.register(moved)
        assert service.datasets() == [moved]
        assert not leftovers(keystore)

    assert walk(keystore, tmp_path, lambda: service.register(moved), check) > 4


def test_init(tmp_path, options):
    """A keystore that was cut short is none, and can be made anew; one that is there works."""
    directory = tmp_path / "new" / "keystore"
    make = lambda: LocalKeyService.init(directory, development=options["passphrase"] is None, **CHEAP, **options)  # noqa: E731
    for step in range(200):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        done = survives(step, make)
        if keystore_mode(directory) is None:
            assert not done
            make()
        service = LocalKeyService.open(directory, **options)
        service.create(KEK)
        assert not leftovers(directory)
        if done:
            break
    assert step > 8


@pytest.mark.parametrize("options", ["passphrase"], indirect=True)
def test_change_passphrase(keystore, options, tmp_path):
    """One of the two passphrases opens the keystore, whenever the change was cut short."""

    def use():
        LocalKeyService.open(keystore, **options).change_passphrase(lambda: "new", **CHEAP)

    def check(*, done):
        opened = []
        for candidate in (passphrase, lambda: "new"):
            try:
                LocalKeyService.open(keystore, passphrase=candidate).versions(KEK)
                opened.append(candidate)
            except PermissionError:
                pass
        assert len(opened) == 1
        assert opened[0] is not passphrase or not done

    assert walk(keystore, tmp_path, use, check) > 4


def test_backup_and_restore(keystore, options, service, tmp_path):
    """A backup, and a restored keystore, are whole or not there; the keystore itself is never touched."""
    file, target = tmp_path / "places" / "backup.zip", tmp_path / "places" / "restored"
    key, wrapped = service.generate(KEK)

    def use():
        backup(keystore, file, allow_development=True)
        restore(file, target)

    def check(*, done):
        if target.exists():
            assert LocalKeyService.open(target, **options).unwrap([wrapped])[0].expose() == key.expose()
        elif file.exists():
            assert not done
            restore(file, target)
            assert LocalKeyService.open(target, **options).read_anchor(KEK.dataset_id, 0).link == b"link 0"
        assert service.unwrap([wrapped])[0].expose() == key.expose()
        shutil.rmtree(tmp_path / "places")
        (tmp_path / "places").mkdir()

    (tmp_path / "places").mkdir()
    assert walk(keystore, tmp_path, use, check) > 15


def test_order_of_a_durable_write(service, monkeypatch):
    """Bytes are synced before they get their name, and the name is synced before anybody is told."""
    done = []

    def watch(name):
        original = getattr(os, name)

        def call(*arguments, **options):
            done.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fsync", "link", "replace"):
        watch(name)
    service.create_anchor(KEK.dataset_id, 1, b"link")
    assert done[-4:] == ["write", "fsync", "link", "fsync"]
    done.clear()
    service.register(REF)
    assert done == ["write", "fsync", "replace", "fsync"]


def racing_anchors(directory, options, number, anchors, results):
    """Create every anchor in turn, as a writer would; report which ones were ours."""
    service = LocalKeyService.open(directory, **options)
    won = []
    for sequence in range(1, anchors + 1):
        try:
            service.create_anchor(KEK.dataset_id, sequence, b"%d by %d " % (sequence, number) * 100)
            won.append(sequence)
        except AnchorTaken:
            assert service.read_anchor(KEK.dataset_id, sequence) is not None
    results.put((number, won))


def racing_keys(directory, options, number, results):
    """Change keys and registry while others do the same; report how it went."""
    service = LocalKeyService.open(directory, **options)
    key, wrapped = service.generate(KEK)
    for _ in range(3):
        service.rotate(KEK)
        assert service.unwrap([wrapped])[0].expose() == key.expose()
        wrapped = service.rewrap([wrapped])[0]
    service.register(DatasetRef(bytes([number]) * 16, (f"file:///{number}",)))
    service.create(Kek(bytes([number]) * 16, b"c" * 16))
    results.put((number, []))


def race(target, *arguments):
    """Run eight processes at once; what each of them reported."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    directory, options, *rest = arguments
    processes = [
        context.Process(target=target, args=(directory, options, number, *rest, results)) for number in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    return dict(results.get() for _ in processes)


def test_processes_race_for_anchors(keystore, service, options):
    """Of eight processes that create the same twenty anchors, each anchor has exactly one winner."""
    won = race(racing_anchors, keystore, options, 20)
    assert sorted(sequence for mine in won.values() for sequence in mine) == list(range(1, 21))
    for number, mine in won.items():
        for sequence in mine:
            assert service.read_anchor(KEK.dataset_id, sequence).link == b"%d by %d " % (sequence, number) * 100


def test_processes_race_for_keys(keystore, service, options):
    """Eight processes that rotate, rewrap, register and create at once lose nothing."""
    race(racing_keys, keystore, options)
    assert service.versions(KEK).latest == 25
    assert len(service.datasets()) == 9
    for number in range(8):
        assert service.lookup(f"file:///{number}").dataset_id == bytes([number]) * 16
        assert service.versions(Kek(bytes([number]) * 16, b"c" * 16)).latest == 1
