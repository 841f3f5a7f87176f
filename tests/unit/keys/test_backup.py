"""Backups of a keystore, and restoring them."""

import errno
import os
import stat
import zipfile

import pytest

from sealedhealth.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    ServiceUnavailable,
    TamperedError,
    WrongPassphrase,
)
from sealedhealth.keys import DatasetRef, LocalKeyService
from sealedhealth.keys.local import backup, restore

EVERYTHING = {"allow_development": True}


@pytest.fixture
def filled(service, kek):
    """A keystore with one of everything."""
    service.rotate(kek)
    service.create_author("author")
    service.create_anchor(kek.dataset_id, 0, b"link 0")
    service.create_anchor(kek.dataset_id, 1, b"link 1")
    service.register(DatasetRef(kek.dataset_id, ("file:///x",)))
    return service


@pytest.fixture
def file(tmp_path):
    """Where the backup goes."""
    return tmp_path / "backup.zip"


def members(file):
    """Contents of an archive by name."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(file, content, compression=zipfile.ZIP_STORED):
    """An archive of these names and contents."""
    file.unlink(missing_ok=True)
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in content:
            archive.writestr(name, data)


def test_round_trip(filled, keystore, options, kek, file, tmp_path):
    """A restored keystore has every key, author, anchor and record, and can go on."""
    key, wrapped = filled.generate(kek)
    backup(keystore, file, **EVERYTHING)
    restore(file, tmp_path / "elsewhere" / "restored")
    restored = LocalKeyService.open(tmp_path / "elsewhere" / "restored", **options)
    assert restored.unwrap([wrapped])[0].expose() == key.expose()
    assert restored.author("author") == filled.author("author")
    assert restored.read_anchor(kek.dataset_id, 1) == filled.read_anchor(kek.dataset_id, 1)
    assert restored.datasets() == filled.datasets()
    assert restored.rotate(kek) == 3
    restored.create_anchor(kek.dataset_id, 2, b"link 2")


def test_restored_is_private(filled, keystore, file, tmp_path):
    """Backup and restored keystore are readable by their owner only."""
    old = os.umask(0)
    try:
        backup(keystore, file, **EVERYTHING)
        restore(file, tmp_path / "restored")
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for path in [tmp_path / "restored", *(tmp_path / "restored").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_bare_keys_must_be_asked_for(filled, mode, keystore, file):
    """A development keystore is not backed up by accident; one with a passphrase is, and stays sealed."""
    if mode == "development":
        with pytest.raises(InvalidInput, match="bare keys"):
            backup(keystore, file)
        assert not file.exists()
        return
    backup(keystore, file)
    restore(file, keystore.parent / "restored")
    with pytest.raises(WrongPassphrase):
        LocalKeyService.open(keystore.parent / "restored", passphrase=lambda: "wrong").author("author")


def test_backup_overwrites_nothing(filled, keystore, file):
    """A file that is there stays."""
    file.write_text("precious")
    with pytest.raises(AlreadyExists):
        backup(keystore, file, **EVERYTHING)
    assert file.read_text() == "precious"
    assert sorted(path.name for path in file.parent.iterdir()) == ["backup.zip", "keystore"]


@pytest.mark.parametrize("there", ["file", "directory"])
def test_restore_overwrites_nothing(filled, keystore, file, tmp_path, there):
    """A keystore, directory or file that is there stays."""
    backup(keystore, file, **EVERYTHING)
    with pytest.raises(AlreadyExists):
        restore(file, keystore)
    target = tmp_path / "target"
    if there == "file":
        target.touch()
    else:
        target.mkdir()
        (target / "precious").touch()
    with pytest.raises(AlreadyExists):
        restore(file, target)
    assert there == "file" or (target / "precious").exists()


def test_restore_into_an_empty_directory(filled, keystore, options, file, tmp_path):
    """An empty directory is as good as none."""
    backup(keystore, file, **EVERYTHING)
    (tmp_path / "empty").mkdir()
    restore(file, tmp_path / "empty")
    assert LocalKeyService.open(tmp_path / "empty", **options).author("author")


def test_nothing_to_back_up(tmp_path, file):
    """Without a keystore there is no backup, and without a backup nothing to restore."""
    with pytest.raises(NotFound):
        backup(tmp_path / "none", file)
    with pytest.raises(NotFound):
        restore(file, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_older_backup_lacks_anchors(filled, keystore, options, kek, file, tmp_path):
    """What was anchored after the backup is not there, for the log to notice."""
    backup(keystore, file, **EVERYTHING)
    filled.create_anchor(kek.dataset_id, 2, b"link 2")
    restore(file, tmp_path / "restored")
    assert LocalKeyService.open(tmp_path / "restored", **options).read_anchor(kek.dataset_id, 2) is None


def test_damaged_backup(filled, keystore, file, tmp_path):
    """A backup cut anywhere, or with any content altered, is refused, and leaves nothing behind."""
    backup(keystore, file, **EVERYTHING)
    content = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        inside = [info.header_offset + 30 + len(info.filename) for info in archive.infolist()]
    cuts = [content[:length] for length in range(0, len(content), 211)]
    flips = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in inside]
    for altered in [*cuts, *flips, b"no archive"]:
        file.write_bytes(altered)
        with pytest.raises(TamperedError):
            restore(file, tmp_path / "restored")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.zip", "keystore"]


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/escaped",
        "keks/../../escaped",
        "keks/other",
        "authors/.hidden",
        "authors/a/b",
        "anchors/x",
        "lock",
        "tmp/x",
        "keystore.json\n",
        "registry.json/x",
        "extra",
    ],
)
def test_foreign_names(filled, keystore, file, tmp_path, name):
    """A backup that holds anything but a keystore's own files is refused."""
    backup(keystore, file, **EVERYTHING)
    write(file, [*members(file).items(), (name, b"x")])
    with pytest.raises(TamperedError):
        restore(file, tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.zip", "keystore"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_strange_archives(filled, keystore, file, tmp_path):
    """Files twice, over-long, compressed or without settings are refused."""
    backup(keystore, file, **EVERYTHING)
    content = list(members(file).items())
    for strange, compression in (
        ([*content, content[-1]], zipfile.ZIP_STORED),
        ([*content, ("authors/long", bytes(2**20 + 1))], zipfile.ZIP_STORED),
        (content, zipfile.ZIP_DEFLATED),
        ([item for item in content if item[0] != "keystore.json"], zipfile.ZIP_STORED),
        ([("keystore.json", b"{}") if item[0] == "keystore.json" else item for item in content], zipfile.ZIP_STORED),
        ([], zipfile.ZIP_STORED),
    ):
        write(file, strange, compression)
        with pytest.raises(TamperedError):
            restore(file, tmp_path / "restored")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.zip", "keystore"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_full_disk(filled, keystore, file, tmp_path, monkeypatch, call):
    """A backup or restore that finds the disk full leaves nothing half done."""
    backup(keystore, tmp_path / "whole.zip", **EVERYTHING)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ServiceUnavailable, match="full"):
        backup(keystore, file, **EVERYTHING)
    if call == "fsync":
        with pytest.raises(ServiceUnavailable, match="full"):
            restore(tmp_path / "whole.zip", tmp_path / "restored")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keystore", "whole.zip"]
