"""The registry in KV version 2: a record for each dataset, and for each URL whose it is.

The dataset's record is what counts: a URL belongs to a dataset when both say so. Both are
written with check-and-set, URLs first, so that whatever is cut short registers nothing; a
URL that is claimed and not backed by a record is free again after a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sealedhealth.errors import ConflictError, NotFound, SealedHealthError, TamperedError
from sealedhealth.keys.base import HEX_ID, DatasetRef, PolicyRef
from sealedhealth.keys.vault.anchors import kv_time
from sealedhealth.keys.vault.answers import error_of
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.layout import dataset_path, url_path
from sealedhealth.keys.vault.wire import Lost

__all__ = ["VaultRegistry"]

CLAIM_LIFE = timedelta(minutes=1)
#: A record is believed for this long: opening a dataset looks it up several times in a row.
MEMORY_S = 1.0
_ATTEMPTS = 8
_FREE = ""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A KV entry: what it holds, and the version that a write has to name."""

    version: int
    data: Mapping[str, Any]
    written: datetime | None = None


class VaultRegistry:
    """Which dataset belongs to which URL; see :class:`sealedhealth.keys.Registry`."""

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._mount = mount
        self._memory: dict[str, tuple[float, DatasetRef]] = {}
        self._lock = threading.Lock()

    def lookup(self, url_or_id: str) -> DatasetRef:
        """See :class:`sealedhealth.keys.Registry`. What it answers may be a second old."""
        name = url_or_id.lower() if HEX_ID.fullmatch(url_or_id) else url_or_id.rstrip("/")
        now = time.monotonic()
        with self._lock:
            self._memory = {key: kept for key, kept in self._memory.items() if kept[0] > now - MEMORY_S}
            if name in self._memory:
                return self._memory[name][1]
        ref = self._lookup(name, now) if name else None
        if ref is None:
            raise NotFound(
                f"No dataset is registered for {url_or_id}.",
                safe="Nothing was opened.",
                next="Check the URL, or register the dataset if it has moved.",
            )
        with self._lock:
            self._memory |= dict.fromkeys((name, ref.dataset_id.hex()), (now, ref))
        return ref

    def register(self, ref: DatasetRef) -> None:
        """See :class:`sealedhealth.keys.Registry`."""
        ref = ref.checked()
        try:
            for _ in range(_ATTEMPTS):
                if self._try_to_register(ref):
                    return
        finally:
            with self._lock:
                self._memory.clear()
        raise ConflictError(
            "Others changed the registry at the same moment, every time.", safe="It is whole.", next="Try again."
        )

    def datasets(self) -> list[DatasetRef]:
        """See :class:`sealedhealth.keys.Registry`; one request for each."""
        self._client.confirm_fresh(time.monotonic() - MEMORY_S)
        found = []
        for name in self._client.list(f"{self._mount}/metadata/datasets"):
            if HEX_ID.fullmatch(name):
                entry = self._read(dataset_path(bytes.fromhex(name)), refused_ok=True)
                if entry is not None and entry.data:
                    found.append(_decode(bytes.fromhex(name), entry.data))
        return found

    # -----------------------------------------------------------------------------------------

    def _lookup(self, name: str, now: float) -> DatasetRef | None:
        self._client.confirm_fresh(now - MEMORY_S)
        if HEX_ID.fullmatch(name):
            return self._record(bytes.fromhex(name))
        owner = _owner(self._read(url_path(name)))
        ref = self._record(owner) if owner else None
        return ref if ref is not None and name in ref.urls else None

    def _record(self, dataset_id: bytes) -> DatasetRef | None:
        entry = self._read(dataset_path(dataset_id))
        return _decode(dataset_id, entry.data) if entry is not None and entry.data else None

    def _try_to_register(self, ref: DatasetRef) -> bool:
        """False when somebody else wrote at the same moment."""
        self._client.confirm_fresh(time.monotonic())
        entry = self._read(dataset_path(ref.dataset_id))
        known = _decode(ref.dataset_id, entry.data) if entry is not None and entry.data else None
        if known is not None:
            _refuse_older(ref, known)
        claims = {url: self._read(url_path(url)) for url in ref.urls}
        free = [url for url, claim in claims.items() if self._may_claim(ref, url, claim)]
        for url in free:
            if not self._write(url_path(url), {"dataset": ref.dataset_id.hex()}, claims[url]):
                return False
        if known != ref and not self._write(dataset_path(ref.dataset_id), _encode(ref), entry):
            return False
        for url in known.urls if known is not None else ():
            left = self._read(url_path(url)) if url not in ref.urls else None
            if left is not None and _owner(left) == ref.dataset_id:
                self._write(url_path(url), {"dataset": _FREE}, left)
        return True

    def _may_claim(self, ref: DatasetRef, url: str, claim: _Entry | None) -> bool:
        """Whether the URL is to be claimed: False when it is ours already, or left to its new owner.

        Raises ``ConflictError`` when it belongs to another.
        """
        owner = _owner(claim)
        if owner is None or claim is None:
            return True
        if owner == ref.dataset_id:
            return False
        other = self._record(owner)
        backed = other is not None and url in other.urls
        if backed and other is not None and other.destroyed:
            return not ref.destroyed
        if ref.destroyed:
            return False
        # Not backed: somebody is registering it just now, or never finished.
        written = claim.written
        if not backed and written is not None and self._client.clock.now() - written > CLAIM_LIFE:
            return True
        raise ConflictError(
            f"{url} belongs to dataset {owner.hex()}.",
            safe="The registry is unchanged.",
            next="Choose another URL, or move or destroy that dataset first.",
        )

    def _read(self, path: str, *, refused_ok: bool = False) -> _Entry | None:
        answer = self._client.request(
            "GET",
            f"{self._mount}/data/{path}",
            accept=(404, 403) if refused_ok else (404,),
            doubtful=lambda answer: answer.status == 404,
        )
        if answer.status == 403:
            return None
        metadata = answer.data.get("metadata")
        if not isinstance(metadata, dict):
            return None
        version, data = metadata.get("version"), answer.data.get("data")
        if not isinstance(version, int):
            raise _damaged(path)
        return _Entry(version, data if isinstance(data, dict) else {}, kv_time(metadata))

    def _write(self, path: str, data: Mapping[str, Any], over: _Entry | None) -> bool:
        """Write over a version; False when it is not the present one."""
        body = {"options": {"cas": over.version if over else 0}, "data": data}
        try:
            answer = self._client.request("POST", f"{self._mount}/data/{path}", body, accept=(400,), idempotent=False)
        except Lost:
            return False  # read everything again: it may have been carried out
        if answer.status == 400 and "check-and-set" not in answer.messages:
            raise error_of(answer, "writing the registry")
        return answer.ok


def _owner(claim: _Entry | None) -> bytes | None:
    found = claim.data.get("dataset") if claim is not None else None
    return bytes.fromhex(found) if isinstance(found, str) and HEX_ID.fullmatch(found) else None


def _refuse_older(ref: DatasetRef, known: DatasetRef) -> None:
    if known.destroyed and not ref.destroyed:
        raise ConflictError(f"Dataset {ref.dataset_id.hex()} was destroyed.", safe="The registry is unchanged.")
    new, old = ref.policy, known.policy
    if old is not None and (new is None or new.version < old.version or (new.version == old.version and new != old)):
        raise ConflictError(
            f"The key service knows policy {old.version} of this dataset, and the one to register is older or differs.",
            safe="The registry is unchanged.",
            next="Open the dataset again, and start from its newest policy.",
        )


def _encode(ref: DatasetRef) -> dict[str, Any]:
    policy = ref.policy
    return {
        "urls": list(ref.urls),
        "policy": policy
        and {"version": policy.version, "change": policy.change_id.hex(), "digest": policy.digest.hex()},
        "destroyed": ref.destroyed,
    }


def _decode(dataset_id: bytes, data: Mapping[str, Any]) -> DatasetRef:
    try:
        policy, urls, destroyed = data["policy"], data["urls"], data["destroyed"]
        ref = DatasetRef(
            dataset_id,
            tuple(urls),
            None
            if policy is None
            else PolicyRef(policy["version"], bytes.fromhex(policy["change"]), bytes.fromhex(policy["digest"])),
            destroyed,
        )
        whole = isinstance(urls, list) and all(isinstance(url, str) for url in urls) and isinstance(destroyed, bool)
        if whole and ref.checked() == ref:
            return ref
    except (KeyError, TypeError, ValueError, SealedHealthError):
        pass
    raise _damaged(dataset_path(dataset_id))


def _damaged(path: str) -> TamperedError:
    return TamperedError(
        f"The registry's entry {path} in the Vault is damaged.",
        safe="It was not used, and nothing was changed.",
        next="Have the data controller register the dataset again.",
    )
