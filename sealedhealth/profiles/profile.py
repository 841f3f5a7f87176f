"""What a profile is, and the stores that are opened by its terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealedhealth.errors import InvalidInput
from sealedhealth.stores import Location, ObjectStore, open_store
from sealedhealth.stores.presets import Preset
from sealedhealth.stores.residency import Residency

if TYPE_CHECKING:
    from sealedhealth.keys.vault.table import VaultTable

__all__ = ["Profile"]

_S3 = frozenset({"s3", "s3a"})
_HERE = frozenset({"file", "local", "memory"})


@dataclass(frozen=True, slots=True)
class Profile:
    """Where keys, signing identity and store options come from. Holds no secret.

    Parameters
    ----------
    name:
        The name that travels in URLs' options and pickles.
    keystore:
        Directory of the local keystore.
    state:
        Directory of what this client saw last of each dataset.
    keys:
        Kind of key service: ``local`` or ``vault``.
    author:
        Name of the signing key in the key service.
    store:
        Options of the object store's fsspec file system, those of the preset among them.
    dataset_ids:
        URL to hexadecimal dataset id, for datasets that the registry does not know.
    passphrase_file:
        File that holds the keystore's passphrase, if it may be read from one.
    vault:
        How to reach the Vault and log in, if the keys are in one.
    preset:
        The host that the profile names, if it is one that is known by name.
    residency:
        Where data may be written, and what the profile declares about its places.
    prefix:
        The directory of a dataset that this identity puts its files under; empty for any. Whoever may not read cannot
        see which prefix the roster gives it, and would put elsewhere without effect.
    """

    name: str
    keystore: Path
    state: Path
    keys: str = "local"
    author: str = "author"
    store: Mapping[str, Any] = field(default_factory=dict, repr=False)
    dataset_ids: Mapping[str, str] = field(default_factory=dict)
    passphrase_file: Path | None = None
    vault: VaultTable | None = None
    preset: Preset | None = None
    residency: Residency = field(default_factory=Residency)
    prefix: str = ""

    def open_store(self, url: str) -> ObjectStore:
        """The store at *url* with the options of this profile, bound by its residency. No request is made.

        Nothing can be written to it, nor deleted from it, outside of what the profile allows; reading stays possible.

        Raises
        ------
        InvalidInput
            The URL or an option cannot be used, or the profile's preset is for another kind of host.
        """
        options = self.store
        protocol = url.partition("://")[0].lower() if "://" in url else "file"
        if self.preset is not None and protocol not in _S3:
            if protocol not in _HERE:
                raise InvalidInput(
                    f"The profile {self.name!r} is for {self.preset.name}, which is no host of {protocol}:// URLs.",
                    safe="Nothing was read or written.",
                    next="Name another profile, or an s3:// URL.",
                )
            options = {}
        return open_store(url, options, rule=self.residency.check if self.residency.restricts else None)

    def locate(self, location: Location) -> Location:
        """*location*, as a store tells it, with the jurisdiction that is known or that this profile declares."""
        return self.residency.locate(location)
