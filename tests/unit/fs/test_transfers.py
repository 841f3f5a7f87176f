"""Files on this machine's disk: when the disk refuses, and after a download was killed."""

import errno
import fcntl
import os

import pytest

from sealedhealth.fs.transfers import local_file


def test_directory_without_permission(tmp_path, monkeypatch):
    """The file that was asked for is named, not the hidden one beside it."""
    target = str(tmp_path / "labs.csv")

    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError) as caught, local_file(target):
        pass
    assert caught.value.filename == target
    assert ".part" not in str(caught.value)


def test_what_a_killed_download_left_goes(labs, tmp_path):
    """With the next download to that directory, once it is old, and only when nobody is writing it."""
    left, fresh, alive = (tmp_path / f".sealedhealth-{digit * 16}.part" for digit in "abc")
    other = tmp_path / ".sealedhealth-notes.part"
    for path in (left, fresh, alive, other):
        path.write_bytes(b"half")
        if path is not fresh:
            os.utime(path, (0, 0))
    with alive.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        labs.get("labs/a.csv", str(tmp_path / "out"))
    assert sorted(tmp_path.iterdir()) == sorted([fresh, alive, other, tmp_path / "out"])


def test_a_download_under_way_is_not_swept(labs, tmp_path):
    """Its unfinished file is marked as long as it is open, however old it looks."""
    with local_file(str(tmp_path / "slow")) as file:
        file.write(b"slowly")
        file.flush()
        [part] = tmp_path.iterdir()
        os.utime(part, (0, 0))
        labs.get("labs/a.csv", str(tmp_path / "out"))
    assert (tmp_path / "slow").read_bytes() == b"slowly"
