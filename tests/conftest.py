"""Fixtures for all tests: a clean environment, and hosts to put things on."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import servers
import vault_servers
from hypothesis import settings

from sealedhealth.keys import DataKey
from sealedhealth.keys.vault import TokenFileLogin, VaultConfig, VaultKeyService
from sealedhealth.stores import ObjectStore, open_store

# Machines of CI stall; examples that failed are printed as code to paste, not kept on disk.
settings.register_profile("sealedhealth", deadline=None, print_blob=True, database=None)
settings.load_profile("sealedhealth")

BUCKET = "foreign-host"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    parser.addoption("--long", action="store_true", help="walk every step of the fault tests, not a sample")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the keystore, the profiles or the credentials of whoever runs it; gives the home it sees."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SEALEDHEALTH_HOME", str(home))
    for name in ("SEALEDHEALTH_CONFIG", "SEALEDHEALTH_PASSPHRASE_FILE", "SEALEDHEALTH_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith(("AZURE_", "RCLONE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


@pytest.fixture
def long_walk(request: pytest.FixtureRequest) -> bool:
    """Whether the fault tests should walk every step."""
    return bool(request.config.getoption("--long"))


# --- hosts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An empty place on a host for one dataset."""

    kind: str
    url: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def store(self) -> ObjectStore:
        """The store here."""
        return open_store(self.url, self.options)


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """The S3 server of moto with an empty bucket, one per worker."""
    with servers.moto(tmp_path_factory.mktemp("moto")) as server:
        _make_bucket(server)
        yield server


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """SeaweedFS with an empty bucket, one per worker."""
    with servers.seaweed(tmp_path_factory.mktemp("weed")) as server:
        _make_bucket(server)
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """The S3 server of rclone with an empty bucket, one per worker."""
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as server:
        _make_bucket(server)
        yield server


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.SftpServer]:
    """An SFTP server, one per worker."""
    with servers.sftp(tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.AzureServer]:
    """Azurite with an empty container, one per worker."""
    try:
        with servers.azurite(tmp_path_factory.mktemp("azurite")) as server:
            from adlfs import AzureBlobFileSystem

            AzureBlobFileSystem(**server.options, skip_instance_cache=True).mkdir(BUCKET)
            yield server
    except servers.Missing as error:
        pytest.skip(str(error))


def _make_bucket(server: servers.S3Server) -> None:
    from s3fs import S3FileSystem

    S3FileSystem(**server.options, skip_instance_cache=True).mkdir(BUCKET)


MakePlace = Callable[[str], Place]


@pytest.fixture
def make_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakePlace:
    """Make an empty place on a host of a kind: memory, local, moto, seaweed, rclone, azurite or sftp."""

    def make(kind: str) -> Place:
        unique = uuid.uuid4().hex
        if kind == "memory":
            return Place(kind, f"memory://{unique}/dataset")
        if kind == "local":
            return Place(kind, str(tmp_path_factory.mktemp("host") / "dataset"))
        server: Any = request.getfixturevalue(f"{kind}_server")
        if kind == "sftp":
            return Place(kind, f"sftp://127.0.0.1/{unique}/dataset", server.options)
        protocol = "az" if kind == "azurite" else "s3"
        return Place(kind, f"{protocol}://{BUCKET}/{unique}/dataset", server.options)

    return make


QUICK = ["memory", "local"]
SERVERS = [pytest.param("moto", marks=pytest.mark.moto), pytest.param("seaweed", marks=pytest.mark.seaweed)]

#: In the tier tests/hosts only.
HOSTS = [pytest.param("rclone", marks=pytest.mark.rclone), pytest.param("azurite", marks=pytest.mark.azurite)]


@pytest.fixture(params=QUICK)
def quick_place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """Each host that needs no server, in turn."""
    return make_place(request.param)


@pytest.fixture(params=[*QUICK, *SERVERS])
def any_place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """Each kind of host in turn, those with real servers too."""
    return make_place(request.param)


@pytest.fixture(params=SERVERS)
def s3_place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """Each S3 server in turn."""
    return make_place(request.param)


@pytest.fixture(params=HOSTS)
def host_place(request: pytest.FixtureRequest, make_place: MakePlace) -> Place:
    """Each server of the tier tests/hosts in turn."""
    return make_place(request.param)


# --- Vault ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def vault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vault_servers.VaultServer]:
    """OpenBao in memory with the engines mounted, one per worker: not to be sealed or reconfigured."""
    with vault_servers.dev_server(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="session")
def raft_vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vault_servers.VaultServer]:
    """A single OpenBao node with raft storage, one per worker: not to be sealed or reconfigured."""
    with vault_servers.raft_server(tmp_path_factory.mktemp("raft")) as server:
        yield server


@pytest.fixture
def connect_vault(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., VaultKeyService]]:
    """Connect to a server (:func:`vault_server` unless given) with a token (root's unless given)."""
    with contextlib.ExitStack() as stack:

        def connect(
            server: vault_servers.VaultServer | None = None, *, token: str = "", login: Any = None, **config: Any
        ) -> VaultKeyService:
            server = server or request.getfixturevalue("vault_server")
            if login is None:
                file = tmp_path_factory.mktemp("token") / "token"
                file.touch(0o600)
                file.write_text(token or server.root_token)
                login = TokenFileLogin(file)
            settings = {"address": server.address, "timeout_s": 10, "retry_s": 10, **config}
            return stack.enter_context(VaultKeyService(VaultConfig(**settings), login))

        yield connect


@pytest.fixture
def vault_service(connect_vault: Callable[..., VaultKeyService]) -> VaultKeyService:
    """The key service with all rights."""
    return connect_vault()


@pytest.fixture
def vault_proxy(vault_server: vault_servers.VaultServer) -> Iterator[vault_servers.FaultyProxy]:
    """A proxy in front of :func:`vault_server` that does harm when told to."""
    proxy = vault_servers.FaultyProxy(vault_server.address)
    yield proxy
    proxy.close()


@pytest.fixture
def keys_seen(monkeypatch):
    """Every data key and object key that passes through this process."""
    seen: set[bytes] = set()
    made, derived = DataKey.__init__, DataKey.object_key

    def init(self, key):
        seen.add(bytes(key))
        made(self, key)

    def object_key(self, kind, object_id):
        key = derived(self, kind, object_id)
        seen.add(key)
        return key

    monkeypatch.setattr(DataKey, "__init__", init)
    monkeypatch.setattr(DataKey, "object_key", object_key)
    return seen
