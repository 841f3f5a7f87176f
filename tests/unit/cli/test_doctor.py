"""What doctor finds where a test cannot take rights away, since it may run as root."""

import errno
import tempfile

import pytest

from sealedhealth.cli import doctor
from sealedhealth.keys.local import LocalKeyService
from sealedhealth.profiles import load_profile


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_keystore_that_cannot_be_written(tmp_path, monkeypatch, number):
    """A keystore on a read-only disk fails: no commit could be anchored in it."""
    monkeypatch.setenv("SEALEDHEALTH_KEYSTORE", str(tmp_path / "keystore"))
    chosen = load_profile()
    LocalKeyService.init(chosen.keystore, development=True).close()

    def refuse(**options):
        raise OSError(number, "No", str(options["dir"]))

    assert "failed" not in [finding.state for finding in doctor._guarded("keystore", lambda: doctor._keystore(chosen))]
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    *_, last = doctor._guarded("keystore", lambda: doctor._keystore(chosen))
    assert (last.check, last.state) == ("keystore", "failed")
    assert str(chosen.keystore) in last.detail
