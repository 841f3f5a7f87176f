"""Where passphrases come from."""

import os

import pytest

from sealedhealth.errors import AccessDenied, InvalidInput
from sealedhealth.keys.local import passphrase_from_environment, read_passphrase_file
from sealedhealth.keys.local.passphrase import read_passphrase


@pytest.fixture
def file(tmp_path):
    """A passphrase file that only its owner may read."""
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\n\n", b"secret\n"),
        (b" a b \n", b" a b "),
        (b"", b""),
    ],
)
def test_file(file, content, expected):
    """One line end goes, everything else stays."""
    file.write_bytes(content)
    assert read_passphrase_file(file) == expected


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_file_that_others_may_read(file, mode):
    """A file that somebody else could have read is refused."""
    file.write_bytes(b"secret")
    file.chmod(mode)
    with pytest.raises(AccessDenied, match="Others"):
        read_passphrase_file(file)


def test_file_that_is_none(tmp_path):
    """A missing file and a directory are clear errors."""
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_passphrase_file(tmp_path / "missing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_passphrase_file(tmp_path)
    with pytest.raises(InvalidInput, match="no regular file"):
        read_passphrase_file(tmp_path / ".." / ".." / ".." / ".." / ".." / ".." / "dev" / "null")


def test_long_file(file):
    """A passphrase beyond 4,096 bytes is refused, and no more than that is read."""
    file.write_bytes(b"x" * 4096 + b"\n")
    assert len(read_passphrase(lambda: read_passphrase_file(file)).expose()) == 4096
    file.write_bytes(b"x" * 10_000_000)
    assert len(read_passphrase_file(file)) < 5000
    with pytest.raises(InvalidInput, match="longer"):
        read_passphrase(lambda: read_passphrase_file(file))


def test_environment(file, monkeypatch):
    """The variable names a file, which is read when the passphrase is needed and not before."""
    monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", os.fspath(file))
    source = passphrase_from_environment()
    file.write_bytes(b"written later\n")
    assert source() == b"written later"


@pytest.mark.parametrize("value", [None, ""])
def test_environment_without_it(monkeypatch, value):
    """Without the variable there is no source."""
    monkeypatch.delenv("SEALEDHEALTH_PASSPHRASE_FILE", raising=False)
    if value is not None:
        monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", value)
    assert passphrase_from_environment() is None


def test_one_form():
    """Text and bytes, composed and decomposed, are the same passphrase."""
    forms = ["caf\u00e9", "cafe\u0301", "caf\u00e9".encode(), "cafe\u0301".encode()]
    assert {read_passphrase(lambda form=form: form).expose() for form in forms} == {"caf\u00e9".encode()}


def test_different_ones_stay_apart():
    """Bytes that are no text are as good a passphrase as any, and differ from each other."""
    forms = [b"\xff", b"\xfe", b"\xff\xff", "\ud800", "a", "A", " a", "\u00e9", b"\xe9"]
    assert len({read_passphrase(lambda form=form: form).expose() for form in forms}) == len(forms)


@pytest.mark.parametrize("value", ["", b"", "x" * 4097, b"\xff" * 4097])
def test_bounds(value):
    """Empty and over-long ones are refused."""
    with pytest.raises(InvalidInput):
        read_passphrase(lambda: value)
