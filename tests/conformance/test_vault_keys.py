"""The Vault key service against the conformance kits, on a real OpenBao."""

from __future__ import annotations

import pytest
import vault_servers

from sealedhealth.keys import AnchorStore, KeyService, Registry
from sealedhealth.keys.vault import VaultKeyService
from sealedhealth.testing import AnchorStoreConformance, KeyServiceConformance, RegistryConformance

pytestmark = pytest.mark.vault


class TestKeys(KeyServiceConformance):
    """Transit."""

    altered_positions = 60

    @pytest.fixture
    def service(self, vault_service: VaultKeyService) -> KeyService:
        return vault_service


class TestAnchors(AnchorStoreConformance):
    """Create-only entries in KV version 2, two clients with all rights."""

    @pytest.fixture
    def anchors(self, vault_service: VaultKeyService) -> AnchorStore:
        return vault_service

    @pytest.fixture
    def other(self, connect_vault) -> AnchorStore:
        return connect_vault()


class TestAnchorsOfProducers(TestAnchors):
    """The same with tokens that may create and read anchors, and nothing else."""

    @pytest.fixture
    def anchors(self, connect_vault, vault_server: vault_servers.VaultServer) -> AnchorStore:
        return connect_vault(token=vault_server.raw.token_for(policy=ANCHORS_ONLY))

    @pytest.fixture
    def other(self, connect_vault, vault_server: vault_servers.VaultServer) -> AnchorStore:
        return connect_vault(token=vault_server.raw.token_for(policy=ANCHORS_ONLY))


class TestAnchorsWithIndex(TestAnchors):
    """The same on a server of the kind that clusters are made of, which tells its index."""

    @pytest.fixture
    def anchors(self, connect_vault, raft_vault: vault_servers.VaultServer) -> AnchorStore:
        return connect_vault(raft_vault, token=raft_vault.raw.token_for())

    @pytest.fixture
    def other(self, connect_vault, raft_vault: vault_servers.VaultServer) -> AnchorStore:
        return connect_vault(raft_vault)


class TestRegistry(RegistryConformance):
    """Records in KV version 2."""

    @pytest.fixture
    def registry(self, vault_service: VaultKeyService) -> Registry:
        return vault_service


ANCHORS_ONLY = f"""
path "{vault_servers.KV}/data/anchors/*" {{ capabilities = ["create", "read"] }}
"""
