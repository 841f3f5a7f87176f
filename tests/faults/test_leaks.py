"""Nothing that is secret shows where it does not belong: errors, logs, the store, and this machine's disk.

Canaries stand in contents, names, messages, tags and the passphrase; the data keys and object
keys that are made on the way are noted, and looked for as well.
"""

import io
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from unittest import mock

import crashes
import pytest
from failing import failing_host

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied, SealedHealthError, ServiceUnavailable, StoreError, WrongPassphrase
from sealedhealth.keys import DataKey, LocalKeyService
from sealedhealth.profiles import Profile, disconnect
from sealedhealth.session import maintenance
from sealedhealth.session.engine import Engine

PASSPHRASE = "canary-passphrase-Xq7"
CONTENT = b"canary-content-patient-42"
NAME = "canary-name-oncology"
MESSAGE = "canary-message-week-12"
TAG = "canary-tag-frozen"
TEXTS = [PASSPHRASE.encode(), CONTENT, NAME.encode(), MESSAGE.encode(), TAG.encode()]
CALLS = ("generate", "unwrap", "rewrap", "sign", "author", "create_anchor", "read_anchor", "lookup", "versions")
CHEAP = {"opslimit": 1, "memlimit": 8192}


@pytest.fixture
def noted():
    """Every data key and object key that is made meanwhile."""
    keys = set()
    make, derive = DataKey.__init__, DataKey.object_key

    def noting(self, key):
        keys.add(bytes(key))
        make(self, key)

    def deriving(self, kind, object_id):
        key = derive(self, kind, object_id)
        keys.add(key)
        return key

    with mock.patch.object(DataKey, "__init__", noting), mock.patch.object(DataKey, "object_key", deriving):
        yield keys


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A machine whose keystore has a passphrase, read from a file."""
    secret = tmp_path / "secret" / "passphrase"
    secret.parent.mkdir()
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv("SEALEDHEALTH_HOME", str(tmp_path / "machine"))
    monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "machine").mkdir()
    keystore = tmp_path / "machine" / "keystore"
    LocalKeyService.init(keystore, passphrase=lambda: PASSPHRASE, **CHEAP)
    with crashes.small_streams():
        yield Profile("local", keystore=keystore, state=tmp_path / "machine" / "state", passphrase_file=secret)
    disconnect()


@pytest.fixture
def dataset(profile, tmp_path, noted):
    """A dataset full of canaries on a local disk."""
    dataset = Dataset.create(str(tmp_path / "host"), profile=profile)
    fill(dataset, tmp_path / "source")
    dataset.tag(TAG)
    return dataset


def fill(dataset, source):
    """Seal a small and a large file whose contents and names are canaries."""
    folder = source / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.csv").write_bytes(CONTENT * 3)
    (folder / "large.bin").write_bytes(CONTENT * 20_000)
    dataset.put(folder, "", message=MESSAGE)


def told(error):
    """All that a program or a person is shown of an error and of those behind it."""
    lines = [str(error), repr(error), repr(getattr(error, "args", "")), *traceback.format_exception(error)]
    seen = error
    while seen is not None:
        lines.append(repr(vars(seen)))
        seen = seen.__cause__ or seen.__context__
    return "\n".join(lines)


def check_text(text, keys, texts=TEXTS):
    """No canary and no key in *text*."""
    for canary in texts:
        assert canary.decode() not in text
    for key in keys:
        for spelling in (key.hex(), repr(key)[2:-1], str(list(key)), repr(bytearray(key))[12:-2]):
            assert spelling not in text


def check_files(folder, keys, texts=TEXTS):
    """No canary and no key in the names and the bytes of all files below *folder*. Returns how many there are."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        data = os.fsencode(path.relative_to(folder)) + b"\0" + path.read_bytes()
        for canary in [*texts, *keys]:
            assert canary not in data, f"{canary[:12]!r} in {path}"
            assert canary.hex().encode() not in data, f"{canary[:12]!r} in {path}"
    return len(paths)


def use(dataset, tmp_path):
    """Change, read and keep up a dataset."""
    fill(dataset, tmp_path / "source")
    dataset.get(NAME, tmp_path / "out")
    dataset.tag(f"{TAG}-2")
    dataset.maintain(force=True)
    dataset.rotate()
    dataset.rewrap()


def anew(dataset):
    """The same, opened by a process that knows nothing of it."""
    Engine.forget(dataset.session.url, dataset.profile)
    return Dataset.open(dataset.url, profile=dataset.profile)


def test_check_notices(noted):
    """A key, and a canary, in an error would be found."""
    key = DataKey(os.urandom(32))
    with pytest.raises(AssertionError):
        check_text(told(ValueError(key.expose())), noted)
    with pytest.raises(AssertionError):
        check_text(told(ValueError(NAME)), noted)
    with pytest.raises(AssertionError):
        check_text(told(ValueError(f"{key.expose().hex()}")), noted)


def test_errors_of_hosts(dataset, tmp_path, noted, caplog):
    """Whatever request of the host fails, errors and logs show no canary and no key."""
    caplog.set_level(logging.DEBUG)
    errors = 0
    for number in itertools.count():
        dataset = anew(dataset)
        with failing_host(dataset.session) as host:
            kind = (ServiceUnavailable, StoreError, AccessDenied)[number % 3]
            host.fails = lambda now, number=number, kind=kind: kind if now >= number else None
            try:
                use(dataset, tmp_path)
                break
            except SealedHealthError as error:
                check_text(told(error), noted)
                errors += 1
    assert errors > 15
    check_text(caplog.text, noted)
    assert len(noted) > 50


def test_errors_of_disks(dataset, tmp_path, noted, caplog):
    """Whatever step of a disk fails, errors and logs show no canary and no key; nor does any file."""
    caplog.set_level(logging.DEBUG)
    errors = 0
    for step in itertools.count(step=3):
        dataset = anew(dataset)
        try:
            with crashes.failing(step, 28, always=True).watching() as watch:
                dataset.put(tmp_path / "source", "")
                dataset.maintain(force=True)
                dataset.rewrap()
        except SealedHealthError as error:
            check_text(told(error), noted)
            errors += 1
        if watch.steps <= step:
            break
    assert errors > 10
    check_text(caplog.text, noted)
    assert check_files(tmp_path / "host", noted) > 10
    assert check_files(tmp_path / "machine", noted) > 5
    assert check_files(tmp_path / "tmp", noted) == 0


def test_errors_of_the_key_service(dataset, tmp_path, noted):
    """Whatever call of the key service fails, with whatever it was given, the error shows no canary and no key."""
    errors = 0
    for name in CALLS:
        for lost in (False, True):
            dataset = anew(dataset)
            original = getattr(LocalKeyService, name)

            def failing(*arguments, original=original, lost=lost):
                if lost:
                    original(*arguments)
                raise ServiceUnavailable("The key service is on fire.")

            with mock.patch.object(LocalKeyService, name, failing):
                try:
                    use(dataset, tmp_path)
                except SealedHealthError as error:
                    check_text(told(error), noted)
                    errors += 1
    assert errors > 10  # some are not asked here, and an anchor whose answer is lost is no error


def test_errors_about_altered_bytes(dataset, tmp_path, noted):
    """Whatever stored file is altered, cut short or missing, the error shows no content and no key."""
    dataset.maintain(force=True)
    errors = 0
    for path in sorted(item for item in (tmp_path / "host").rglob("*") if item.is_file()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        for altered in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], None):
            path.unlink() if altered is None else path.write_bytes(altered)
            try:
                again = anew(dataset)
                again.get("", tmp_path / "out")
                again.verify()
            except SealedHealthError as error:
                # Names are for whoever asked: which file is altered is what they have to know.
                check_text(told(error), noted, [PASSPHRASE.encode(), CONTENT, MESSAGE.encode()])
                errors += 1
            path.write_bytes(whole)
    assert errors > 15


def test_wrong_passphrase(dataset, profile, noted):
    """A wrong passphrase shows neither itself nor the right one."""
    disconnect()
    profile.passphrase_file.write_text("canary-passphrase-wrong")
    with pytest.raises(WrongPassphrase) as caught:
        anew(dataset)
    check_text(told(caught.value), noted, [*TEXTS, b"canary-passphrase-wrong"])


def test_store_and_machine_hold_no_plaintext(dataset, tmp_path, noted):
    """After every kind of use, neither the host nor keystore, state and temporary files hold a canary or a key."""
    use(dataset, tmp_path)
    with dataset.fs.open(f"{NAME}/through-fs.csv", "wb") as file:
        file.write(CONTENT)
    with dataset.fs.open(f"{NAME}/large.bin", "rb") as file:
        file.seek(300_000)
        assert file.read(25) in CONTENT * 2
    dataset.put_stream(io.BytesIO(CONTENT * 20_000), f"{NAME}/stream.bin")
    dataset.mv(NAME, f"{NAME}-moved")
    dataset.destroy_key(commit=1)
    maintenance.collect(dataset.session)
    dataset.verify()
    assert check_files(tmp_path / "host", noted) > 10
    assert check_files(tmp_path / "machine", noted) > 5
    assert check_files(tmp_path / "tmp", noted) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("url", ["host", "memory://leaks/dataset"])
def test_nothing_is_written_elsewhere(profile, tmp_path, url):
    """Plaintext is written to the destination of a get and nowhere else, not even for a moment."""
    # An audit hook sees every file that is opened or removed, and lasts until the process ends: hence the child.
    place = url if "://" in url else str(tmp_path / url)
    source = tmp_path / "source"
    allowed = [str(tmp_path / name) for name in ("host", "machine", "source", "out")]

    def run():
        elsewhere = set()
        found = []
        armed = [True]

        def look(path):
            found.extend(canary for canary in TEXTS if canary in Path(path).read_bytes())

        def hook(event, arguments):
            if not armed[0] or event not in {"open", "os.remove", "os.rename"}:
                return
            path = arguments[0]
            writing = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if writing and not isinstance(path, int):
                path = str(Path(os.fsdecode(path)).absolute())
                if not path.startswith((*allowed, "/dev/")):
                    elsewhere.add(path)
                    if event != "open":  # the last moment to look into it
                        armed[0] = False
                        look(path)
                        armed[0] = True

        sys.addaudithook(hook)
        dataset = Dataset.create(place, profile=profile)
        fill(dataset, source)
        dataset.put_stream(io.BytesIO(CONTENT * 500_000), f"{NAME}/stream.bin")  # more than is kept in memory
        use(dataset, tmp_path)
        with dataset.fs.open(f"{NAME}/large.bin", "rb") as file:
            file.read()
        dataset.verify()
        armed[0] = False
        return elsewhere, found

    _, (elsewhere, found) = crashes.child(run)
    assert not found
    temporary = str(tmp_path / "tmp")
    assert all(path.startswith(temporary) for path in elsewhere), elsewhere
    # The general client keeps a large object here, sealed, until it is uploaded whole.
    assert bool(elsewhere) == (url != "host")
    assert check_files(tmp_path / "tmp", ()) == 0


def test_command_line(profile, tmp_path):
    """The commands leave no canary on the host, in the home, in temporary files or in the working directory."""
    source = tmp_path / "source" / NAME
    source.mkdir(parents=True)
    (source / f"{NAME}.csv").write_bytes(CONTENT)
    (source / "large.bin").write_bytes(CONTENT * 300_000)
    here = tmp_path / "here"
    here.mkdir()
    url = str(tmp_path / "host")

    def run(*arguments, data=None):
        program = "from sealedhealth.cli import main; main()"
        path = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            input=data,
            capture_output=True,
            check=False,
            cwd=here,
            env={**os.environ, "PYTHONPATH": path, "HOME": str(here), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("create", url)
    run("put", str(source), url, "-m", MESSAGE)
    run("put", "-", f"{url}/{NAME}/stdin.csv", data=CONTENT * 200_000)
    assert run("cat", f"{url}/{NAME}/{NAME}.csv") == CONTENT
    run("get", f"{url}/{NAME}", str(tmp_path / "out"))
    assert (tmp_path / "out" / NAME / "stdin.csv").read_bytes() == CONTENT * 200_000
    run("tag", url, TAG)
    run("verify", url)
    for folder in ("host", "machine", "tmp", "here"):
        check_files(tmp_path / folder, ())
    assert check_files(tmp_path / "tmp", ()) == check_files(here, ()) == 0
