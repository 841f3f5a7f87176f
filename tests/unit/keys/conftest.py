"""Keystores that are quick to open."""

import pytest

from sealedhealth.keys import Kek, LocalKeyService

PASSPHRASE = "a long passphrase"
CHEAP = {"opslimit": 1, "memlimit": 8192}


@pytest.fixture(params=["passphrase", "development"])
def mode(request):
    """How the keystore is protected."""
    return request.param


@pytest.fixture
def options(mode):
    """What opens a keystore of this mode."""
    return {"passphrase": (lambda: PASSPHRASE) if mode == "passphrase" else None}


@pytest.fixture
def keystore(tmp_path):
    """Where the keystore goes; nothing is there yet."""
    return tmp_path / "keystore"


@pytest.fixture
def service(keystore, mode, options):
    """A new keystore, open."""
    with LocalKeyService.init(keystore, development=mode == "development", **CHEAP, **options) as service:
        yield service


@pytest.fixture
def kek(service):
    """A key-encryption key with one version."""
    kek = Kek(b"d" * 16, b"c" * 16)
    service.create(kek)
    return kek
