"""Files on this machine's disk, when the disk refuses."""

import errno
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
