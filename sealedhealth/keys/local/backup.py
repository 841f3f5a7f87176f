"""Copies of a whole keystore in one file, and back."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sealedhealth.errors import AlreadyExists, InvalidInput, NotFound, TamperedError
from sealedhealth.keys.local.anchors import ANCHORS, MAX_ANCHOR_SIZE
from sealedhealth.keys.local.files import KeystoreFiles, storing, sync_directory, write_synced
from sealedhealth.keys.local.keyfiles import AUTHOR_NAME, AUTHORS, KEKS, MAX_KEY_FILE_SIZE
from sealedhealth.keys.local.protection import Settings
from sealedhealth.keys.local.registry import MAX_REGISTRY_SIZE, REGISTRY, LocalRegistry
from sealedhealth.keys.local.service import MAX_SETTINGS_SIZE, SETTINGS, keystore_mode, make_skeleton

__all__ = ["backup", "restore"]

# What a backup may hold, and how long each file may be: nothing else is ever written by a restore.
_PARTS = (
    (re.compile(re.escape(SETTINGS)), MAX_SETTINGS_SIZE),
    (re.compile(re.escape(REGISTRY)), MAX_REGISTRY_SIZE),
    (re.compile(rf"{KEKS}/sh-[0-9a-f]{{32}}-[0-9a-f]{{32}}"), MAX_KEY_FILE_SIZE),
    (re.compile(rf"{AUTHORS}/{AUTHOR_NAME.pattern}"), MAX_KEY_FILE_SIZE),
    (re.compile(rf"{ANCHORS}/[0-9a-f]{{32}}/[0-9]{{20}}"), MAX_ANCHOR_SIZE),
)


def backup(
    directory: str | os.PathLike[str], destination: str | os.PathLike[str], *, allow_development: bool = False
) -> None:
    """Write a keystore into one new file, readable by its owner only.

    The file is a ZIP archive of the keystore as it was at one moment. Keys of a
    ``passphrase`` keystore stay sealed in it, under the passphrase of that moment; those of
    a ``development`` keystore are bare, so that takes *allow_development*. A backup also
    keeps keys that are retired or destroyed later: delete it when that matters.

    Raises ``NotFound`` without a keystore, ``AlreadyExists`` when *destination* is there,
    ``InvalidInput`` for a development keystore or when *destination* lies in the local store of one
    of its datasets, and errors of the disk.
    """
    files = KeystoreFiles(Path(directory))
    mode = keystore_mode(directory)
    if mode is None:
        raise NotFound(f"There is no keystore in {files.root}.", next="Check the directory.")
    if mode == "development" and not allow_development:
        raise InvalidInput(
            "The backup of a development keystore would hold bare keys.",
            safe="Nothing was written.",
            next="Allow it explicitly if these keys protect nothing that matters.",
        )
    target = Path(destination)
    _refuse_on_a_store(files, target)
    with storing("write the backup"):
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with files.exclusive():
                    _archive(files, file)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        except FileExistsError:
            raise _taken(target) from None
        finally:
            temporary.unlink()
        sync_directory(target.parent)


def _refuse_on_a_store(files: KeystoreFiles, target: Path) -> None:
    """The host of a dataset must not be given its keys, not even sealed ones."""
    place = target.resolve()
    for ref in LocalRegistry(files).datasets():
        for url in ref.urls:
            if url.startswith("file://") and place.is_relative_to(Path(url.removeprefix("file://")).resolve()):
                raise InvalidInput(
                    f"{target} lies in the store of a dataset, {url}: its host would get the keys.",
                    safe="Nothing was written.",
                    next="Write the backup to a place that the host of the data does not see.",
                )


def restore(file: str | os.PathLike[str], directory: str | os.PathLike[str]) -> None:
    """Make a keystore from a backup in *directory*, which must be empty or not exist.

    A backup that is older than the last commit lacks the anchors made since: opening such a
    dataset then says ``AnchorRolledBack``.

    Raises ``NotFound`` without the file, ``AlreadyExists`` when something is in *directory*,
    ``TamperedError`` when the file is damaged or no backup, and errors of the disk. On any
    error nothing is left behind.
    """
    source, root = Path(file), Path(directory)
    with storing("read the backup"):
        if not source.is_file():
            raise NotFound(f"There is no backup {source}.", next="Check the path.")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise _taken(root)
        root.parent.mkdir(parents=True, exist_ok=True)
    temporary = root.with_name(f".{root.name}.{secrets.token_hex(8)}")
    try:
        with storing("restore the backup"):
            make_skeleton(KeystoreFiles(temporary))
            _extract(source, temporary)
            temporary.replace(root)  # one step; fails when somebody put something there meanwhile
            sync_directory(root.parent)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(temporary)


def _archive(files: KeystoreFiles, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, limit in _names(files.root):
            content = files.read(name, limit=limit)
            if content is not None:
                archive.writestr(name, content)


def _names(root: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        limit = _limit(name)
        if limit is not None and path.is_file():
            yield name, limit


def _limit(name: str) -> int | None:
    return next((limit for pattern, limit in _PARTS if pattern.fullmatch(name)), None)


def _extract(source: Path, root: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            if SETTINGS not in names or len(set(names)) != len(names):
                raise _damaged(source)
            directories = {root}
            for info in archive.infolist():
                path = root / info.filename
                limit = _limit(info.filename)
                # Stored only: so that no small file can grow without bound.
                if limit is None or info.file_size > limit or info.compress_type != zipfile.ZIP_STORED:
                    raise _damaged(source)
                content = archive.read(info)
                if info.filename == SETTINGS:
                    Settings.decode(content)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                write_synced(path, content)
                directories.add(path.parent)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _damaged(source) from error
    for directory in directories:
        sync_directory(directory)


def _taken(path: Path) -> AlreadyExists:
    return AlreadyExists(
        f"{path} exists already.", safe="It is unchanged.", next="Choose another place, or move it away."
    )


def _damaged(path: Path) -> TamperedError:
    return TamperedError(
        f"{path} is damaged, or no backup of a keystore.",
        safe="Nothing was restored.",
        next="Use another copy of the backup.",
    )
