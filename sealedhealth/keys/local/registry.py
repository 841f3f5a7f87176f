"""The registry of a keystore: one small JSON file, replaced whole under the lock."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sealedhealth.errors import ConflictError, NotFound, ServiceUnavailable, TamperedError
from sealedhealth.keys.base import HEX_ID, DatasetRef, PolicyRef
from sealedhealth.keys.local.files import KeystoreFiles

__all__ = ["MAX_REGISTRY_SIZE", "REGISTRY", "LocalRegistry"]

REGISTRY = "registry.json"
MAX_REGISTRY_SIZE = 16 * 2**20


class LocalRegistry:
    """Which dataset belongs to which URL, for one keystore."""

    def __init__(self, files: KeystoreFiles) -> None:
        self._files = files

    def lookup(self, url_or_id: str) -> DatasetRef:
        """See :class:`sealedhealth.keys.Registry`."""
        known = self.datasets()
        if HEX_ID.fullmatch(url_or_id):
            dataset_id = bytes.fromhex(url_or_id)
            found = [ref for ref in known if ref.dataset_id == dataset_id]
        else:
            url = url_or_id.rstrip("/")
            # destroyed ones last: a URL may have been taken over since
            found = sorted((ref for ref in known if url in ref.urls), key=lambda ref: ref.destroyed)
        if not found:
            raise NotFound(
                f"No dataset is registered for {url_or_id}.",
                safe="Nothing was opened.",
                next="Check the URL, or register the dataset if it has moved.",
            )
        return found[0]

    def register(self, ref: DatasetRef) -> None:
        """See :class:`sealedhealth.keys.Registry`."""
        ref = ref.checked()
        with self._files.exclusive():
            known = self.datasets()
            _refuse_conflicts(ref, known)
            others = [other for other in known if other.dataset_id != ref.dataset_id]
            data = _encode([ref, *others])  # the newest first: so it is the one found when all are destroyed
            if len(data) > MAX_REGISTRY_SIZE:
                raise ServiceUnavailable("The registry of this keystore is full.", safe="Nothing was changed.")
            self._files.replace(REGISTRY, data)

    def datasets(self) -> list[DatasetRef]:
        """See :class:`sealedhealth.keys.Registry`. Also raises ``TamperedError`` for a damaged file."""
        data = self._files.read(REGISTRY, limit=MAX_REGISTRY_SIZE)
        return [] if data is None else _decode(data)


def _refuse_conflicts(ref: DatasetRef, known: list[DatasetRef]) -> None:
    safe = "The registry is unchanged."
    for other in known:
        if other.dataset_id == ref.dataset_id:
            if other.destroyed and not ref.destroyed:
                raise ConflictError(f"Dataset {ref.dataset_id.hex()} was destroyed.", safe=safe)
            if other.policy is not None and _older(ref.policy, other.policy):
                raise ConflictError(
                    f"The key service knows policy {other.policy.version} of this dataset,"
                    " and the one to register is older or differs.",
                    safe=safe,
                    next="Open the dataset again, and start from its newest policy.",
                )
        elif not other.destroyed and not ref.destroyed:
            taken = sorted(set(other.urls) & set(ref.urls))
            if taken:
                raise ConflictError(
                    f"{taken[0]} belongs to dataset {other.dataset_id.hex()}.",
                    safe=safe,
                    next="Choose another URL, or move or destroy that dataset first.",
                )


def _older(new: PolicyRef | None, known: PolicyRef) -> bool:
    return new is None or new.version < known.version or (new.version == known.version and new != known)


def _encode(refs: list[DatasetRef]) -> bytes:
    rows = [
        {
            "dataset": ref.dataset_id.hex(),
            "urls": list(ref.urls),
            "policy": ref.policy
            and {
                "version": ref.policy.version,
                "change": ref.policy.change_id.hex(),
                "digest": ref.policy.digest.hex(),
            },
            "destroyed": ref.destroyed,
        }
        for ref in refs
    ]
    return json.dumps({"version": 1, "checksum": _checksum(rows), "datasets": rows}, indent=1).encode()


def _decode(data: bytes) -> list[DatasetRef]:
    try:
        content = json.loads(data)
        rows = content["datasets"]
        if content["version"] != 1 or content["checksum"] != _checksum(rows):
            raise ValueError
        return [_ref(row) for row in rows]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise TamperedError(
            f"The keystore's {REGISTRY} is damaged.",
            safe="It was not used, and nothing was changed.",
            next="Restore the keystore from a backup.",
        ) from None


def _ref(row: dict[str, Any]) -> DatasetRef:
    policy = row["policy"]
    return DatasetRef(
        dataset_id=bytes.fromhex(row["dataset"]),
        urls=tuple(row["urls"]),
        policy=policy
        and PolicyRef(policy["version"], bytes.fromhex(policy["change"]), bytes.fromhex(policy["digest"])),
        destroyed=row["destroyed"],
    )


def _checksum(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
