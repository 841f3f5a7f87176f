"""Keys: the interfaces of a key service, data keys in memory, and the embedded key service.

The service itself is chosen by a profile, never by anything read from an object store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealedhealth.keys.base import (
    MAX_LINK_SIZE,
    AnchorEntry,
    AnchorIndex,
    AnchorStore,
    AuthorKey,
    Capabilities,
    DataKey,
    DatasetRef,
    Kek,
    KekVersions,
    KeyService,
    PolicyRef,
    Registry,
    WrappedKey,
)
from sealedhealth.keys.keyring import Keyring, SealingKey

if TYPE_CHECKING:
    from sealedhealth.keys.local import LocalKeyService

__all__ = [
    "MAX_LINK_SIZE",
    "AnchorEntry",
    "AnchorIndex",
    "AnchorStore",
    "AuthorKey",
    "Capabilities",
    "DataKey",
    "DatasetRef",
    "Kek",
    "KekVersions",
    "KeyService",
    "Keyring",
    "LocalKeyService",
    "PolicyRef",
    "Registry",
    "SealingKey",
    "WrappedKey",
]


def __getattr__(name: str) -> object:
    # The local service is one implementation among several: whoever uses another never loads it.
    if name == "LocalKeyService":
        from sealedhealth.keys.local import LocalKeyService

        return LocalKeyService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
