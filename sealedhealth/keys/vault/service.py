"""The key service, anchor store and registry in a Vault."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NoReturn, Self, SupportsIndex

from sealedhealth.errors import ServiceUnavailable
from sealedhealth.keys.base import (
    AnchorEntry,
    AuthorKey,
    Capabilities,
    DataKey,
    DatasetRef,
    Kek,
    KekVersions,
    WrappedKey,
)
from sealedhealth.keys.vault.anchors import VaultAnchors
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.config import VaultConfig
from sealedhealth.keys.vault.login import Login
from sealedhealth.keys.vault.registry import VaultRegistry
from sealedhealth.keys.vault.transit import MAX_BATCH, TransitKeys

__all__ = ["VaultKeyService"]


class VaultKeyService:
    """Keys in the transit engine of an OpenBao or HashiCorp Vault, anchors and registry in its KV engine.

    Implements :class:`~sealedhealth.keys.KeyService`, :class:`~sealedhealth.keys.AnchorStore`
    (with :class:`~sealedhealth.keys.AnchorIndex`) and :class:`~sealedhealth.keys.Registry`, as
    one identity. Logs in when first used. Safe to share among threads; not to be carried over a fork.

    Parameters
    ----------
    config:
        Where the Vault is.
    login:
        How to log in.
    """

    def __init__(self, config: VaultConfig, login: Login) -> None:
        self.client = VaultClient(config, login)  #: counts its requests, and shows them to an observer
        self._keys = TransitKeys(self.client, config.transit_mount, config.kv_mount)
        self._anchors = VaultAnchors(self.client, config.kv_mount)
        self._registry = VaultRegistry(self.client, config.kv_mount)

    @property
    def calls(self) -> int:
        """HTTP requests made so far, logging in included."""
        return self.client.total_calls

    def close(self) -> None:
        """Forget the token and close all connections."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<VaultKeyService {self.client.config.address}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a VaultKeyService cannot be copied or pickled: connect again instead")

    # -- KeyService -----------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """See :class:`sealedhealth.keys.KeyService`. A rewrap happens on the server alone."""
        config = self.client.config
        where = f"vault ({config.host}{', ' + config.jurisdiction if config.jurisdiction else ''})"
        return Capabilities(label=where, max_batch=MAX_BATCH, rewrap_without_plaintext=True)

    def now(self) -> datetime:
        """The server's clock, followed through its answers to within a second."""
        clock = self.client.clock
        if not clock.known:
            self.client.request("GET", "sys/leader")
        if not clock.known:
            raise ServiceUnavailable(
                "The Vault's answers do not say what time it is.", next="Check what stands between here and there."
            )
        return clock.now()

    def create(self, kek: Kek) -> None:
        """See :class:`sealedhealth.keys.KeyService`."""
        self._keys.create(kek)

    def generate(self, kek: Kek) -> tuple[DataKey, WrappedKey]:
        """See :class:`sealedhealth.keys.KeyService`. ``IntegrityError`` when the Vault's key does not bind."""
        return self._keys.generate(kek)

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """See :class:`sealedhealth.keys.KeyService`. One request for each 150 wraps of a key-encryption key."""
        return self._keys.unwrap(wrapped)

    def rewrap(self, wrapped: Sequence[WrappedKey]) -> list[WrappedKey]:
        """See :class:`sealedhealth.keys.KeyService`. One request for each 150 wraps of a key-encryption key."""
        return self._keys.rewrap(wrapped)

    def rotate(self, kek: Kek) -> int:
        """See :class:`sealedhealth.keys.KeyService`. Not repeated when the answer is lost."""
        return self._keys.rotate(kek)

    def retire(self, kek: Kek, minimum: int) -> None:
        """See :class:`sealedhealth.keys.KeyService`.

        Final in the live server; a backup of the Vault from before still has the versions.
        """
        self._keys.retire(kek, minimum)

    def versions(self, kek: Kek) -> KekVersions:
        """See :class:`sealedhealth.keys.KeyService`."""
        return self._keys.versions(kek)

    def create_author(self, name: str) -> AuthorKey:
        """See :class:`sealedhealth.keys.KeyService`. Names that end in ``.`` or ``-``, or hold ``..``, are refused."""
        return self._keys.create_author(name)

    def author(self, name: str) -> AuthorKey:
        """See :class:`sealedhealth.keys.KeyService`. Version 1 of the key, the only one ever used."""
        return self._keys.author(name)

    def sign(self, name: str, message: bytes) -> bytes:
        """See :class:`sealedhealth.keys.KeyService`. Only the digest is sent."""
        return self._keys.sign(name, message)

    # -- AnchorStore ----------------------------------------------------------------------

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        """See :class:`sealedhealth.keys.AnchorStore`."""
        return self._anchors.create_anchor(dataset_id, sequence, link)

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        """See :class:`sealedhealth.keys.AnchorStore`. ``TamperedError`` for one overwritten or deleted."""
        return self._anchors.read_anchor(dataset_id, sequence)

    def last_anchor(self, dataset_id: bytes, least: int) -> int | None:
        """See :class:`sealedhealth.keys.AnchorIndex`."""
        return self._anchors.last_anchor(dataset_id, least)

    # -- Registry -------------------------------------------------------------------------

    def lookup(self, url_or_id: str) -> DatasetRef:
        """See :class:`sealedhealth.keys.Registry`. What it answers may be a second old."""
        return self._registry.lookup(url_or_id)

    def register(self, ref: DatasetRef) -> None:
        """See :class:`sealedhealth.keys.Registry`."""
        self._registry.register(ref)

    def datasets(self) -> list[DatasetRef]:
        """See :class:`sealedhealth.keys.Registry`. One request for each."""
        return self._registry.datasets()
