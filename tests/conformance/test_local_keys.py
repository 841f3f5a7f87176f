"""The conformance kits on the local key service, in both of its modes."""

import pytest

from sealedhealth.keys import LocalKeyService
from sealedhealth.testing import AnchorStoreConformance, KeyServiceConformance, RegistryConformance


@pytest.fixture(scope="module", params=["passphrase", "development"])
def mode(request):
    """How the keystore is protected."""
    return request.param


@pytest.fixture(scope="module")
def keystore(mode, tmp_path_factory):
    """A keystore and how to open it; one for all tests, since the kits keep to their own names."""
    directory = tmp_path_factory.mktemp("keystore") / mode
    if mode == "development":
        LocalKeyService.init(directory, development=True)
        return directory, None
    LocalKeyService.init(directory, passphrase=lambda: "a long passphrase", opslimit=1, memlimit=8192)
    return directory, lambda: "a long passphrase"


@pytest.fixture(scope="module")
def local(keystore):
    """An open keystore."""
    directory, passphrase = keystore
    with LocalKeyService.open(directory, passphrase=passphrase) as service:
        yield service


class TestLocalKeyService(KeyServiceConformance):
    """Keys and signatures."""

    @pytest.fixture
    def service(self, local):
        """The local service."""
        return local


class TestLocalAnchors(AnchorStoreConformance):
    """Anchors, with a second client of the same directory."""

    @pytest.fixture
    def anchors(self, local):
        """The local service."""
        return local

    @pytest.fixture
    def other(self, keystore):
        """Another one on the same directory."""
        directory, passphrase = keystore
        return LocalKeyService.open(directory, passphrase=passphrase)


class TestLocalRegistry(RegistryConformance):
    """The registry."""

    @pytest.fixture
    def registry(self, local):
        """The local service."""
        return local
