"""The keystore directory: modes, passphrases, permissions, damage."""

import copy
import errno
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidInput,
    KeyMissing,
    KeyRetired,
    MalformedError,
    NotFound,
    SealedHealthError,
    ServiceUnavailable,
    TamperedError,
    UnsupportedFormat,
    WrongPassphrase,
)
from sealedhealth.keys import DatasetRef, Kek, LocalKeyService
from sealedhealth.keys.local import keystore_mode, protection
from sealedhealth.keys.local import service as service_module

PASSPHRASE = "a long passphrase"  # that of conftest.py, which tests cannot import
CHEAP = {"opslimit": 1, "memlimit": 8192}


def files(directory):
    """Every regular file below a directory."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


# -- modes ------------------------------------------------------------------------------------


def test_modes_are_labelled(service, keystore, mode):
    """A development keystore says so wherever it is named; the other does not."""
    capabilities = service.capabilities()
    assert capabilities.label == {"passphrase": "local", "development": "local (development)"}[mode]
    assert capabilities.development == (mode == "development")
    assert capabilities.label in repr(service)
    assert keystore_mode(keystore) == mode


def test_everything_persists(service, keystore, options, kek):
    """Keys, authors, anchors and registry are there when the keystore is opened again."""
    key, wrapped = service.generate(kek)
    author = service.create_author("author")
    entry = service.create_anchor(kek.dataset_id, 0, b"link")
    ref = DatasetRef(kek.dataset_id, ("file:///x",))
    service.register(ref)
    again = LocalKeyService.open(keystore, **options)
    assert again.unwrap([wrapped])[0].expose() == key.expose()
    assert again.author("author") == author
    assert again.read_anchor(kek.dataset_id, 0) == entry
    assert again.datasets() == [ref]


def test_passphrase_keystore_holds_no_bare_key(service, mode, kek, keystore):
    """With a passphrase no file holds a key; in development they do, which is what the label is for."""
    service.create_author("author")
    bare = [service._keys.kek(kek).newest.expose(), service._keys.author("author").expose()]
    content = b"".join(path.read_bytes() for path in files(keystore))
    assert [secret in content for secret in bare] == [mode == "development"] * 2
    assert PASSPHRASE.encode() not in content


def test_init_wants_one_mode(keystore):
    """Exactly one of a passphrase and development: neither is a default."""
    for options in ({}, {"passphrase": lambda: "x", "development": True}):
        with pytest.raises(InvalidInput):
            LocalKeyService.init(keystore, **options)
    assert not keystore.exists()


def test_modes_never_mix(service, keystore, mode):
    """A keystore is never opened as one of the other mode."""
    if mode == "passphrase":
        with pytest.raises(AccessDenied, match="needs its passphrase"):
            LocalKeyService.open(keystore)
    else:
        with pytest.raises(InvalidInput, match="development keystore"):
            LocalKeyService.open(keystore, passphrase=lambda: PASSPHRASE)


def test_a_mode_swapped_on_disk(service, keystore, mode, kek):
    """Files of one mode are refused by a keystore.json of the other."""
    other = keystore.parent / "other"
    LocalKeyService.init(
        other, development=mode != "development", passphrase=(lambda: "x") if mode == "development" else None, **CHEAP
    )
    (keystore / "keystore.json").write_bytes((other / "keystore.json").read_bytes())
    swapped = LocalKeyService.open(keystore, passphrase=(lambda: "x") if mode == "development" else None)
    with pytest.raises(TamperedError):
        swapped.generate(kek)


def test_no_keystore(keystore):
    """Where there is none, opening says so, and makes none."""
    with pytest.raises(NotFound, match="no keystore"):
        LocalKeyService.open(keystore)
    assert keystore_mode(keystore) is None
    assert not keystore.exists()


# -- passphrase -------------------------------------------------------------------------------


def test_passphrase_is_asked_late_and_once(tmp_path):
    """Nobody is asked before a key is needed, nor again afterwards; anchors and registry need none."""
    asked = []
    source = lambda: asked.append(1) or PASSPHRASE  # noqa: E731 - a counter
    kek = Kek(b"d" * 16, b"c" * 16)
    LocalKeyService.init(tmp_path / "k", passphrase=source, **CHEAP).create(kek)
    assert len(asked) == 1
    service = LocalKeyService.open(tmp_path / "k", passphrase=source)
    service.create_anchor(kek.dataset_id, 0, b"link")
    service.datasets()
    assert len(asked) == 1
    threads = [threading.Thread(target=service.generate, args=[kek]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service.rotate(kek)
    assert len(asked) == 2
    service.close()
    service.generate(kek)
    assert len(asked) == 3


def test_wrong_passphrase(tmp_path):
    """A wrong passphrase is that and nothing else, for every use; the right one works afterwards."""
    kek = Kek(b"d" * 16, b"c" * 16)
    service = LocalKeyService.init(tmp_path / "k", passphrase=lambda: PASSPHRASE, **CHEAP)
    service.create(kek)
    _, wrapped = service.generate(kek)
    service.create_author("author")
    answers = ["wrong"]
    again = LocalKeyService.open(tmp_path / "k", passphrase=lambda: answers[0])
    for use in (
        lambda: again.generate(kek),
        lambda: again.unwrap([wrapped]),
        lambda: again.rewrap([wrapped]),
        lambda: again.rotate(kek),
        lambda: again.retire(kek, 1),
        lambda: again.versions(kek),
        lambda: again.create(Kek(b"x" * 16, b"x" * 16)),
        lambda: again.create_author("another"),
        lambda: again.author("author"),
        lambda: again.sign("author", b""),
        lambda: again.change_passphrase(lambda: "new"),
    ):
        with pytest.raises(WrongPassphrase):
            use()
    answers[0] = PASSPHRASE
    assert again.versions(kek).latest == 1


@pytest.mark.parametrize("passphrase", ["", "x" * 5000])
def test_unusable_passphrase(keystore, passphrase):
    """An empty or over-long one makes no keystore."""
    with pytest.raises(InvalidInput):
        LocalKeyService.init(keystore, passphrase=lambda: passphrase, **CHEAP)
    assert not keystore.exists()


def test_change_passphrase(tmp_path):
    """After a change the new one opens what was there, and the old one nothing."""
    kek = Kek(b"d" * 16, b"c" * 16)
    service = LocalKeyService.init(tmp_path / "k", passphrase=lambda: PASSPHRASE, **CHEAP)
    service.create(kek)
    key, wrapped = service.generate(kek)
    service.change_passphrase(lambda: "another one", **CHEAP)
    service.close()
    for use in (service, LocalKeyService.open(tmp_path / "k", passphrase=lambda: "another one")):
        assert use.unwrap([wrapped])[0].expose() == key.expose()
    with pytest.raises(WrongPassphrase):
        LocalKeyService.open(tmp_path / "k", passphrase=lambda: PASSPHRASE).unwrap([wrapped])


def test_development_has_no_passphrase_to_change(tmp_path):
    """A development keystore does not pretend to gain protection."""
    with pytest.raises(InvalidInput):
        LocalKeyService.init(tmp_path / "k", development=True).change_passphrase(lambda: "x")


def test_default_cost():
    """The default is libsodium's own moderate cost."""
    from nacl.pwhash import argon2id

    assert (protection.OPSLIMIT_MODERATE, protection.MEMLIMIT_MODERATE) == (
        argon2id.OPSLIMIT_MODERATE,
        argon2id.MEMLIMIT_MODERATE,
    )


@pytest.mark.parametrize("limits", [(0, 8192), (33, 8192), (1, 8191), (1, 2**31 + 1), (1.0, 8192), (True, 8192)])
def test_cost_out_of_bounds(keystore, limits):
    """Costs beyond what would be believed when read are not written either."""
    with pytest.raises(InvalidInput):
        LocalKeyService.init(keystore, passphrase=lambda: "x", opslimit=limits[0], memlimit=limits[1])
    assert not keystore.exists()


def test_not_enough_memory(tmp_path, monkeypatch):
    """A key derivation that finds no memory is no wrong passphrase."""
    import nacl.exceptions
    import nacl.pwhash.argon2id

    kek = Kek(b"d" * 16, b"c" * 16)
    LocalKeyService.init(tmp_path / "k", passphrase=lambda: PASSPHRASE, **CHEAP).create(kek)

    def fail(*_):
        raise nacl.exceptions.RuntimeError("Unexpected failure in key derivation")

    monkeypatch.setattr(nacl.pwhash.argon2id, "kdf", fail)
    with pytest.raises(ServiceUnavailable, match="memory"):
        LocalKeyService.open(tmp_path / "k", passphrase=lambda: PASSPHRASE).versions(kek)


# -- permissions ------------------------------------------------------------------------------


def test_everything_is_private(service, keystore, kek):
    """Directories are 0700 and files 0600, whatever the umask."""
    old = os.umask(0)
    try:
        service.create_author("author")
        service.rotate(kek)
        service.create_anchor(kek.dataset_id, 0, b"link")
        service.register(DatasetRef(kek.dataset_id, ("file:///x",)))
    finally:
        os.umask(old)
    for path in [keystore, *keystore.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("permissions", [0o750, 0o701, 0o777])
def test_open_to_others(service, keystore, options, permissions):
    """A keystore that others may enter is refused."""
    keystore.chmod(permissions)
    with pytest.raises(AccessDenied, match="Others"):
        LocalKeyService.open(keystore, **options)


def test_init_closes_an_empty_directory(keystore):
    """An empty directory that was there becomes private."""
    keystore.mkdir(mode=0o755)
    LocalKeyService.init(keystore, development=True)
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o700


def test_init_overwrites_nothing(service, keystore, kek, mode):
    """A directory with anything in it is left alone."""
    before = {path: path.read_bytes() for path in files(keystore)}
    with pytest.raises(AlreadyExists):
        LocalKeyService.init(keystore, development=True)
    assert {path: path.read_bytes() for path in files(keystore)} == before
    (keystore / "keystore.json").unlink()  # keys without settings are still keys
    with pytest.raises(AlreadyExists):
        LocalKeyService.init(keystore, development=True)


def test_init_in_a_directory_of_something_else(tmp_path):
    """A directory of other files is not turned into a keystore, and keeps its permissions."""
    (tmp_path / "notes.txt").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(AlreadyExists):
        LocalKeyService.init(tmp_path, development=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy])
def test_no_pickle(service, how):
    """An open keystore does not travel."""
    with pytest.raises(TypeError, match="pickled"):
        how(service)


# -- damage -----------------------------------------------------------------------------------


def test_damaged_settings(service, keystore, options, kek):
    """keystore.json altered at any byte, or cut anywhere, is damage or unusable: never a wrong passphrase."""
    path = keystore / "keystore.json"
    content = path.read_bytes()
    cuts = [content[:length] for length in range(0, len(content) - 1, 7)]
    flips = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content) - 1)]
    for altered in [*cuts, *flips, b"[]", b"{}", b"null", b"\xff", b"[" * 10000]:
        path.write_bytes(altered)
        with pytest.raises(TamperedError):
            LocalKeyService.open(keystore, **options)
    path.write_bytes(content)
    assert LocalKeyService.open(keystore, **options).versions(kek).latest == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"mode": "none"},
        {"kdf": {"algorithm": "argon2id", "salt": "00" * 16, "opslimit": 10**9, "memlimit": 8192}},
        {"kdf": {"algorithm": "argon2id", "salt": "00" * 16, "opslimit": 1, "memlimit": 2**40}},
        {"kdf": {"algorithm": "argon2id", "salt": "00" * 8, "opslimit": 1, "memlimit": 8192}},
        {"kdf": {"algorithm": "argon2id", "salt": "00" * 16, "opslimit": "1", "memlimit": 8192}},
        {"kdf": {"algorithm": "scrypt", "salt": "00" * 16, "opslimit": 1, "memlimit": 8192}},
    ],
)
def test_settings_out_of_bounds(keystore, change):
    """Consistent settings that ask for too much, or for what is not known, are refused before any work is done."""
    LocalKeyService.init(keystore, passphrase=lambda: PASSPHRASE, **CHEAP)
    path = keystore / "keystore.json"
    content = json.loads(path.read_bytes()) | change
    del content["checksum"]
    path.write_text(json.dumps(content | {"checksum": protection._checksum(content)}))
    with pytest.raises(UnsupportedFormat):
        LocalKeyService.open(keystore, passphrase=lambda: PASSPHRASE)


@pytest.mark.parametrize("change", [{"kdf": {}}, {"kdf": None}, {"master": "xyz"}, {"master": 5}])
def test_settings_malformed(keystore, change):
    """Consistent settings with parts missing are damage."""
    LocalKeyService.init(keystore, passphrase=lambda: PASSPHRASE, **CHEAP)
    path = keystore / "keystore.json"
    content = json.loads(path.read_bytes()) | change
    del content["checksum"]
    path.write_text(json.dumps(content | {"checksum": protection._checksum(content)}))
    with pytest.raises(TamperedError):
        LocalKeyService.open(keystore, passphrase=lambda: PASSPHRASE)


@pytest.mark.parametrize("kind", ["kek", "author"])
def test_damaged_key_file(service, keystore, kek, kind):
    """A key's file altered at any byte, cut or extended is damage: named, and not used."""
    service.create_author("author")
    path = keystore / ("authors/author" if kind == "author" else f"keks/{kek.name}")
    use = (lambda: service.sign("author", b"")) if kind == "author" else (lambda: service.generate(kek))
    content = path.read_bytes()
    flips = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for altered in [*flips, *(content[:length] for length in range(len(content))), content + b"\0"]:
        path.write_bytes(altered)
        with pytest.raises(TamperedError, match="damaged"):
            use()
    path.write_bytes(content)
    use()


def test_swapped_key_files(service, keystore, kek):
    """A key's file under another key's name is not used."""
    other = Kek(b"x" * 16, b"y" * 16)
    service.create(other)
    (keystore / "keks" / other.name).write_bytes((keystore / "keks" / kek.name).read_bytes())
    with pytest.raises(TamperedError):
        service.generate(other)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\0\0\0\2\0\0\0\1" + b"k" * 32, b"\0\0\0\1\0\0\0\2" + b"k" * 32])
def test_malformed_kek(service, keystore, kek, content):
    """A well protected file that holds nonsense is not used."""
    from sealedhealth.keys.secret import Secret

    name = f"keks/{kek.name}"
    (keystore / name).write_bytes(service._protection.protect(name, Secret(content)))
    with pytest.raises(TamperedError):
        service.generate(kek)


def test_lost_kek(service, keystore, kek):
    """A key-encryption key whose file is gone is missing."""
    (keystore / "keks" / kek.name).unlink()
    with pytest.raises(KeyMissing):
        service.generate(kek)


def test_damaged_anchor(service, keystore, kek):
    """An anchor's file altered at any byte, cut or extended is an integrity error: never another link, never None."""
    service.create_anchor(kek.dataset_id, 5, b"the link")
    path = keystore / "anchors" / kek.dataset_id.hex() / f"{5:020d}"
    content = path.read_bytes()
    flips = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for altered in [*flips, *(content[:length] for length in range(len(content))), content + b"\0", content * 2000]:
        path.write_bytes(altered)
        with pytest.raises(TamperedError):
            service.read_anchor(kek.dataset_id, 5)


def test_renamed_anchor(service, keystore, kek):
    """An anchor's file under another number or dataset is not believed."""
    service.create_anchor(kek.dataset_id, 5, b"the link")
    service.create_anchor(b"x" * 16, 5, b"the link")
    content = (keystore / "anchors" / kek.dataset_id.hex() / f"{5:020d}").read_bytes()
    (keystore / "anchors" / kek.dataset_id.hex() / f"{6:020d}").write_bytes(content)
    (keystore / "anchors" / (b"x" * 16).hex() / f"{5:020d}").write_bytes(content)
    for dataset_id, sequence in ((kek.dataset_id, 6), (b"x" * 16, 5)):
        with pytest.raises(TamperedError):
            service.read_anchor(dataset_id, sequence)


def test_damaged_registry(service, keystore, kek):
    """registry.json altered or cut is not believed."""
    service.register(DatasetRef(kek.dataset_id, ("file:///x",)))
    path = keystore / "registry.json"
    content = path.read_bytes()
    for altered in [content[:-1], content[: len(content) // 2], b"", b"{}", b"[]", content.replace(b"///x", b"///y")]:
        path.write_bytes(altered)
        with pytest.raises(TamperedError):
            service.lookup("file:///x")
        with pytest.raises(TamperedError):
            service.register(DatasetRef(kek.dataset_id, ("file:///x",)))
    path.write_bytes(content)
    assert service.lookup("file:///x").dataset_id == kek.dataset_id


# -- keys -------------------------------------------------------------------------------------


def test_retired_material_is_gone(service, keystore, kek, mode):
    """After a retirement no file holds the old version, and the old file's bytes are overwritten."""
    old = service._keys.kek(kek).newest.expose()
    with (keystore / "keks" / kek.name).open("rb") as before:  # as a disk would still have it
        service.rotate(kek)
        assert before.read().strip(b"\0") == b""
    service.retire(kek, 2)
    assert all(old not in path.read_bytes() for path in files(keystore))
    assert [key.expose() for key in service._keys.kek(kek).keys] != [old]


def test_retired_by_another_process(service, keystore, options, kek):
    """What another client retires is gone here at once."""
    _, wrapped = service.generate(kek)
    other = LocalKeyService.open(keystore, **options)
    other.rotate(kek)
    other.retire(kek, 2)
    with pytest.raises(KeyRetired):
        service.unwrap([wrapped])


def test_versions_that_cannot_be(service, kek):
    """Versions below 1 are malformed, later ones missing."""
    _, wrapped = service.generate(kek)
    for version, error in ((0, MalformedError), (-1, MalformedError), (2, KeyMissing)):
        with pytest.raises(error):
            service.unwrap([replace(wrapped, version=version)])


def test_wrap_is_as_documented(service, kek):
    """A wrap opens by the documented recipe, written down here a second time."""
    from cryptography.cobblestone import Cobblestone256Decryptor
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    key, wrapped = service.generate(kek)
    version_key = service._keys.kek(kek).newest.expose()
    wrapping_key = HKDFExpand(SHA512(), 32, b"sealedhealth/v1/local-wrap\0" + kek.binding).derive(version_key)
    decryptor = Cobblestone256Decryptor(wrapping_key, kek.binding)
    assert decryptor.update(wrapped.ciphertext) + decryptor.finalize() == key.expose()
    assert len(wrapped.ciphertext) == 104


def test_locking(service, keystore, options, kek):
    """Whoever changes keys, or takes a backup, keeps everybody else out until done; readers share."""
    _, wrapped = service.generate(kek)
    uses = [
        lambda: service.unwrap([wrapped]),
        lambda: service.rewrap([wrapped]),
        lambda: service.generate(kek),
        lambda: service.versions(kek),
        lambda: service.create_anchor(kek.dataset_id, 0, b"link"),
        lambda: service.rotate(kek),
        lambda: service.register(DatasetRef(kek.dataset_id, ("file:///x",))),
    ]
    with ThreadPoolExecutor(len(uses)) as pool:
        with LocalKeyService.open(keystore, **options)._files.exclusive():
            waiting = [pool.submit(use) for use in uses]
            assert not wait(waiting, timeout=0.3).done
        for future in waiting:
            future.result(timeout=30)
        with LocalKeyService.open(keystore, **options)._files.shared():
            for use in uses[:4]:
                use()


def test_rewrap_checks_the_id(service, kek):
    """A wrap under a false id is not made anew."""
    _, wrapped = service.generate(kek)
    with pytest.raises(TamperedError):
        service.rewrap([replace(wrapped, key_id=b"x" * 16)])


def test_versions_are_bounded(service, kek, monkeypatch):
    """A key-encryption key does not grow without bound; nothing is lost when it stops."""
    from sealedhealth.keys.local import keyfiles

    monkeypatch.setattr(keyfiles, "MAX_VERSIONS", 3)
    assert [service.rotate(kek), service.rotate(kek)] == [2, 3]
    with pytest.raises(InvalidInput):
        service.rotate(kek)
    service.retire(kek, 3)
    assert service.rotate(kek) == 4


def test_clock(keystore):
    """Anchors carry the service's clock."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    LocalKeyService.init(keystore, development=True)
    service = LocalKeyService(keystore, clock=lambda: moment)
    assert service.now() == moment
    assert service.create_anchor(b"d" * 16, 0, b"link").created == moment
    assert service.read_anchor(b"d" * 16, 0).created == moment


# -- the disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, error, text",
    [
        (errno.ENOSPC, ServiceUnavailable, "full"),
        (errno.EDQUOT, ServiceUnavailable, "full"),
        (errno.EIO, ServiceUnavailable, "failed"),
        (errno.EACCES, AccessDenied, "permissions"),
        (errno.EROFS, AccessDenied, "permissions"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_disk_errors(service, keystore, kek, monkeypatch, call, number, error, text):
    """A full, failing or read-only disk is a clear error; what was there stays, and no rubbish remains."""
    key, wrapped = service.generate(kek)
    service.register(DatasetRef(kek.dataset_id, ("file:///x",)))
    before = {path: path.read_bytes() for path in files(keystore)}

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    real_open = os.open

    def fail_to_write(path, flags, *rest, **options):
        return fail() if flags & os.O_CREAT else real_open(path, flags, *rest, **options)

    for use in (
        lambda: service.create(Kek(b"x" * 16, b"x" * 16)),
        lambda: service.rotate(kek),
        lambda: service.create_author("author"),
        lambda: service.register(DatasetRef(b"x" * 16, ("file:///y",))),
        lambda: service.create_anchor(kek.dataset_id, 0, b"link"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail_to_write if call == "open" else fail)
            with pytest.raises(error, match=text) as caught:
                use()
        assert caught.value.safe
        assert caught.value.next
        assert {path: path.read_bytes() for path in files(keystore)} == before
    assert service.unwrap([wrapped])[0].expose() == key.expose()


def test_no_hard_links(service, kek, monkeypatch):
    """A file system without hard links is named as the trouble."""

    def fail(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(InvalidInput, match="hard links"):
        service.create_anchor(kek.dataset_id, 0, b"link")


def test_short_writes(service, keystore, kek, monkeypatch):
    """A disk that takes one byte at a time gets them all."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:1]))
    service.create_anchor(kek.dataset_id, 0, b"a link of some length")
    service.rotate(kek)
    assert service.read_anchor(kek.dataset_id, 0).link == b"a link of some length"
    assert service.versions(kek).latest == 2


def test_no_locks(service, kek, monkeypatch):
    """A system without POSIX locks is told so."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(InvalidInput, match="locks"):
        service.generate(kek)


def test_a_lock_that_is_gone(service, keystore, kek):
    """A keystore without its lock file is a clear error, not a keystore without locking."""
    (keystore / "lock").unlink()
    for use in (lambda: service.generate(kek), lambda: service.rotate(kek)):
        with pytest.raises(ServiceUnavailable, match="lock"):
            use()


def test_registry_is_bounded(service, kek, monkeypatch):
    """The registry does not outgrow what is read back."""
    from sealedhealth.keys.local import registry

    monkeypatch.setattr(registry, "MAX_REGISTRY_SIZE", 1000)
    with pytest.raises(ServiceUnavailable, match="full"):
        for number in range(100):
            service.register(DatasetRef(bytes([number]) * 16, (f"file:///{number}",)))
    assert service.datasets()


# -- imports ----------------------------------------------------------------------------------


def test_imports_are_lazy():
    """The interfaces load neither the local service nor PyNaCl; opening a development keystore needs no PyNaCl."""
    script = """
import sys, sealedhealth.keys
assert not {"nacl", "sealedhealth.keys.local", "zipfile", "pytest"} & sys.modules.keys()
import sealedhealth.keys.local
assert "nacl" not in sys.modules
try:
    sealedhealth.keys.Nothing
except AttributeError:
    print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_settings_file_is_bounded(service, keystore, options):
    """An endless keystore.json is not read to its end."""
    (keystore / "keystore.json").write_bytes(b" " * (service_module.MAX_SETTINGS_SIZE + 10**6))
    with pytest.raises(SealedHealthError):
        LocalKeyService.open(keystore, **options)
