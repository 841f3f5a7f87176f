"""Anchors in KV version 2: one create-only entry for each dataset and sequence number.

Policies grant ``create`` and ``read`` on them, and every write says ``cas=0``: so nobody
overwrites, and of several writers exactly one wins. The loser hears 400, or 403 since it may
not update; only reading back tells a lost race from a missing right.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sealedhealth.errors import AnchorTaken, InvalidInput, ServiceUnavailable, TamperedError
from sealedhealth.keys.base import MAX_LINK_SIZE, AnchorEntry
from sealedhealth.keys.vault.answers import Answer, error_of
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.layout import anchor_path, anchors_path
from sealedhealth.keys.vault.wire import Lost

__all__ = ["VaultAnchors", "kv_time"]

_ATTEMPTS = 3
_NUMBER = re.compile(r"[0-9]{16}")
#: An entry that was read is remembered for this long.
MEMORY_S = 5.0
MEMORY_SIZE = 4096


class VaultAnchors:
    """The anchor store; see :class:`sealedhealth.keys.AnchorStore`."""

    def __init__(self, client: VaultClient, mount: str) -> None:
        self._client = client
        self._mount = mount
        self._memory: dict[tuple[bytes, int], tuple[float, AnchorEntry]] = {}
        self._may_list = True
        self._lock = threading.Lock()

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        """Create an entry. When no answer came, read back what is there before trying again."""
        path = self._path(dataset_id, sequence)
        if not 0 < len(link) <= MAX_LINK_SIZE:
            raise InvalidInput(f"A link has 1 to {MAX_LINK_SIZE} bytes, not {len(link)}.", safe="Nothing was written.")
        body = {"options": {"cas": 0}, "data": {"link": base64.b64encode(link).decode()}}
        unsure = False
        for attempt in range(1, _ATTEMPTS + 1):
            outcome = self._try_to_create(path, body)
            if isinstance(outcome, Answer) and outcome.ok:
                return AnchorEntry(sequence, bytes(link), kv_time(outcome.data))
            unsure = unsure or isinstance(outcome, Lost) or outcome.status >= 500
            there = self.read_anchor(dataset_id, sequence)
            if there is not None:
                # Our own, only when one of our requests may have got through: a link is signed, so no two are alike.
                if unsure and there.link == link:
                    return there
                raise _taken(dataset_id, sequence)
            if not unsure or attempt == _ATTEMPTS:
                raise outcome if isinstance(outcome, Lost) else error_of(outcome, "creating an anchor")
        raise AssertionError  # the last attempt returns or raises

    def _try_to_create(self, path: str, body: Mapping[str, Any]) -> Answer | Lost:
        try:
            return self._client.request("POST", path, body, accept=(400, 403, 500, 502, 504), idempotent=False)
        except Lost as error:
            return error

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        """The entry. That there is none is believed of a node that is in touch with its cluster only.

        An entry that is there needs no such care: it is the same for good, so one that was read is
        remembered for some seconds, as long as opening a dataset takes.

        Also raises ``TamperedError`` for one that was overwritten or deleted.
        """
        path = self._path(dataset_id, sequence)
        now = time.monotonic()
        with self._lock:
            known = self._memory.get((dataset_id, sequence))
            if known is not None and known[0] > now - MEMORY_S:
                return known[1]
        entry = self._read(path, dataset_id, sequence)
        if entry is not None:
            with self._lock:
                if len(self._memory) >= MEMORY_SIZE:
                    self._memory = {key: kept for key, kept in self._memory.items() if kept[0] > now - MEMORY_S}
                if len(self._memory) < MEMORY_SIZE:
                    self._memory[dataset_id, sequence] = now, entry
        return entry

    def last_anchor(self, dataset_id: bytes, least: int) -> int | None:
        """See :class:`sealedhealth.keys.AnchorIndex`: one request, for those who may list."""
        path = f"{self._mount}/metadata/{anchors_path(dataset_id)}"
        if not self._may_list:
            return None
        self._client.confirm_fresh(time.monotonic())
        try:
            answer = self._client.request("LIST", path, accept=(403, 404))
        except ServiceUnavailable:
            return None  # so many that the list is too long; or whoever looks by other means will hear
        if answer.status == 403:
            self._may_list = False
            return None
        names = answer.data.get("keys")
        numbers = {int(name) for name in names if _NUMBER.fullmatch(name)} if isinstance(names, list) else set()
        last = least
        while last + 1 in numbers:
            last += 1
        return last

    def _read(self, path: str, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        answer = self._client.request("GET", path, accept=(404,), doubtful=lambda answer: answer.status == 404)
        content = answer.data.get("data")
        metadata = answer.data.get("metadata")
        if answer.status == 404 and metadata is None:
            return None
        if (
            not isinstance(content, dict)
            or not isinstance(metadata, dict)
            or metadata.get("version") != 1
            or metadata.get("destroyed")
            or metadata.get("deletion_time")
        ):
            raise _altered(dataset_id, sequence)
        try:
            link = base64.b64decode(content["link"], validate=True)
        except (KeyError, TypeError, binascii.Error, ValueError):
            link = b""
        if not 0 < len(link) <= MAX_LINK_SIZE:
            raise _altered(dataset_id, sequence)
        return AnchorEntry(sequence, link, kv_time(metadata))

    def _path(self, dataset_id: bytes, sequence: int) -> str:
        return f"{self._mount}/data/{anchor_path(dataset_id, sequence)}"


def kv_time(metadata: Mapping[str, Any]) -> datetime:
    """When an entry was created, by the server's clock. Raises ``ServiceUnavailable`` when it does not say."""
    try:
        return datetime.fromisoformat(str(metadata.get("created_time"))).astimezone(UTC)
    except ValueError:
        raise ServiceUnavailable("The Vault does not say when an entry was created.", safe="It was not used.") from None


def _taken(dataset_id: bytes, sequence: int) -> AnchorTaken:
    return AnchorTaken(
        f"Anchor {sequence} of dataset {dataset_id.hex()} exists already.",
        safe="It is unchanged.",
        next="Read it, rebase on it, and commit again.",
    )


def _altered(dataset_id: bytes, sequence: int) -> TamperedError:
    return TamperedError(
        f"Anchor {sequence} of dataset {dataset_id.hex()} was overwritten or deleted in the Vault.",
        safe="It was not used.",
        next="Somebody has more rights than any role of ours: look in the Vault's audit log for who did it.",
    )
