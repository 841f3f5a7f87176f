"""Key-encryption keys and signatures in the transit engine."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    IntegrityError,
    InvalidInput,
    KeyMissing,
    KeyRetired,
    MalformedError,
    ServiceUnavailable,
    TamperedError,
)
from sealedhealth.keys.base import DATA_KEY_SIZE, AuthorKey, DataKey, Kek, KekVersions, WrappedKey
from sealedhealth.keys.vault.answers import Answer, error_of
from sealedhealth.keys.vault.client import VaultClient
from sealedhealth.keys.vault.layout import author_key, checked_name, claim_path
from sealedhealth.keys.vault.wire import Lost

__all__ = ["MAX_BATCH", "WRAPPED_SIZE", "TransitKeys"]

#: OpenBao refuses requests of more than 1000 JSON strings; an item of ours has four.
MAX_BATCH = 150
#: AES-256-GCM: nonce, data key, tag
WRAPPED_SIZE = 12 + DATA_KEY_SIZE + 16
SIGNATURE_SIZE = 96

_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]{80})")
_SIGNATURE = re.compile(r"vault:v1:([A-Za-z0-9_-]{128})")
_KEK = {"type": "aes256-gcm96", "derived": True}
_AUTHOR = {"type": "ecdsa-p384", "derived": False}
_CUSTODY = {"exportable": False, "allow_plaintext_backup": False}
_EXISTED = "already existed"
_ABSENT = ("encryption key not found", "signing key not found", "key not found", "no existing key named")


class TransitKeys:
    """The part of a key service that is the transit engine; see :class:`sealedhealth.keys.KeyService`."""

    def __init__(self, client: VaultClient, mount: str, kv_mount: str) -> None:
        self._client = client
        self._mount = mount
        self._kv_mount = kv_mount
        self._checked: set[str] = set()
        self._authors: dict[str, AuthorKey] = {}
        self._lock = threading.Lock()

    # -- key-encryption keys ----------------------------------------------------------------

    def create(self, kek: Kek) -> None:
        """Make a key-encryption key."""
        self._make(kek.name, _KEK)

    def generate(self, kek: Kek) -> tuple[DataKey, WrappedKey]:
        """A fresh data key and its wrap."""
        self._check(kek)
        # `bits` is left out: policies that pin parameters could not allow it, and 256 is the default.
        answer = self._call("datakey/plaintext", kek.name, {"context": _b64(kek.binding)})
        version, ciphertext = _split(answer.data.get("ciphertext"))
        key = _data_key(answer.data.get("plaintext"))
        return key, WrappedKey(kek, key.key_id, version, ciphertext)

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """Open wraps in batches, one key-encryption key at a time."""
        found: dict[int, DataKey] = {}
        try:
            for kek, indexes in _batches(wrapped):
                results = self._batch("decrypt", kek, [wrapped[index] for index in indexes])
                for index, result in zip(indexes, results, strict=True):
                    _refuse_failed(wrapped[index], result)
                    found[index] = _data_key(result.get("plaintext"))
        except BaseException:
            for key in found.values():
                key.close()
            raise
        return [found[index] for index in range(len(wrapped))]

    def rewrap(self, wrapped: Sequence[WrappedKey]) -> list[WrappedKey]:
        """Wrap anew on the server; no data key comes here."""
        found: dict[int, WrappedKey] = {}
        for kek, indexes in _batches(wrapped):
            results = self._batch("rewrap", kek, [wrapped[index] for index in indexes])
            for index, result in zip(indexes, results, strict=True):
                _refuse_failed(wrapped[index], result)
                version, ciphertext = _split(result.get("ciphertext"))
                found[index] = WrappedKey(kek, wrapped[index].key_id, version, ciphertext)
        return [found[index] for index in range(len(wrapped))]

    def rotate(self, kek: Kek) -> int:
        """Add a version."""
        self._check(kek)
        answer = self._request("POST", f"keys/{kek.name}/rotate", {}, idempotent=False)
        _refuse_missing(kek.name, answer)
        if not answer.ok:
            raise error_of(answer, "rotating a key")
        # HashiCorp's older servers answer without a body.
        return _versions(answer.data or self._read(kek.name)).latest

    def retire(self, kek: Kek, minimum: int) -> None:
        """Raise the minimum, then drop the older versions for good; repeated, it finishes what was cut short."""
        data = self._checked_key(kek)
        versions = _versions(data)
        if not 1 <= minimum <= versions.latest:
            raise InvalidInput(
                f"{kek.name} has versions up to {versions.latest}: the minimum cannot be {minimum}.",
                safe="Nothing was changed.",
                next="Rotate first if every present version is to go.",
            )
        if minimum < versions.minimum or minimum == 1:
            return
        bounds = ("min_decryption_version", "min_encryption_version")
        if any(_number(data, bound) < minimum for bound in bounds):
            self._client.write(f"{self._mount}/keys/{kek.name}/config", dict.fromkeys(bounds, minimum))
        if _number(data, "min_available_version") < minimum:
            self._client.write(f"{self._mount}/keys/{kek.name}/trim", {"min_available_version": minimum})

    def versions(self, kek: Kek) -> KekVersions:
        """Which versions are there."""
        return _versions(self._checked_key(kek))

    # -- signatures -------------------------------------------------------------------------

    def create_author(self, name: str) -> AuthorKey:
        """Make a signing key."""
        return _author(name, self._make(author_key(name), _AUTHOR))

    def author(self, name: str) -> AuthorKey:
        """The public half of a signing key's first version, the only one that is ever used."""
        key = author_key(name)
        with self._lock:
            known = self._authors.get(key)
        if known is None:
            data = self._read(key)
            _check_properties(key, data, _AUTHOR)
            known = _author(name, data)
            with self._lock:
                self._authors[key] = known
        return known

    def sign(self, name: str, message: bytes) -> bytes:
        """Sign; the server is sent the digest only."""
        body = {
            "input": _b64(hashlib.sha384(message).digest()),
            "prehashed": True,
            "hash_algorithm": "sha2-384",  # the default would be SHA-256
            "marshaling_algorithm": "jws",  # r and s of 48 bytes each
            "key_version": 1,
        }
        answer = self._call("sign", author_key(name), body)
        found = _SIGNATURE.fullmatch(str(answer.data.get("signature")))
        signature = base64.urlsafe_b64decode(found[1]) if found else b""
        if len(signature) != SIGNATURE_SIZE:
            raise _unusable("a signature")
        return signature

    # -----------------------------------------------------------------------------------------

    def _make(self, key: str, kind: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a key that is not there yet.

        OpenBao answers as if it had made a key that existed already (HashiCorp's adds a warning), so a
        create-only entry beside it decides who made it, should two try at once.
        """
        path = f"{self._mount}/keys/{checked_name(key)}"
        if self._client.read(path) is not None:
            raise _exists(key)
        # The rest of its properties are the server's defaults, checked below: policies may forbid to name them.
        body = {name: value for name, value in kind.items() if value}
        self._client.request("POST", path, body, tolerate=_EXISTED)
        data = self._read(key)
        _check_properties(key, data, kind)
        claim = f"{self._kv_mount}/data/{claim_path(key)}"
        mine = secrets.token_hex(16)
        try:
            body = {"options": {"cas": 0}, "data": {"id": mine}}
            answer = self._client.request("POST", claim, body, accept=(400, 403), idempotent=False)
            made = answer.ok
        except Lost:
            made = False
        if not made:
            found = self._client.read(claim)
            if found is None:
                raise AccessDenied(
                    f"{key} was made, and the entry beside it that says by whom was not.",
                    next="Check that this identity may create entries under keys/ of the KV mount.",
                )
            holder = found.get("data")
            if not isinstance(holder, dict) or holder.get("id") != mine:
                raise _exists(key)
        return data

    def _call(self, operation: str, key: str, body: Mapping[str, Any]) -> Answer:
        answer = self._request("POST", f"{operation}/{checked_name(key)}", body)
        _refuse_missing(key, answer)
        if not answer.ok:
            raise error_of(answer, operation)
        return answer

    def _batch(self, operation: str, kek: Kek, wrapped: Sequence[WrappedKey]) -> list[Mapping[str, Any]]:
        self._check(kek)
        context = _b64(kek.binding)
        items = [
            {"ciphertext": f"vault:v{item.version}:{_b64(item.ciphertext)}", "context": context} for item in wrapped
        ]
        answer = self._request("POST", f"{operation}/{kek.name}", {"batch_input": items})
        _refuse_missing(kek.name, answer)
        results = answer.data.get("batch_results")
        # A partly failed batch is a 400 that holds the results, of the items that did not fail too.
        if not isinstance(results, list):
            raise error_of(answer, operation) if not answer.ok else _unusable(f"{operation} of a batch")
        if len(results) != len(items) or not all(isinstance(result, dict) for result in results):
            raise _unusable(f"{operation} of a batch")
        return results

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, idempotent: bool = True
    ) -> Answer:
        return self._client.request(
            method,
            f"{self._mount}/{path}",
            body,
            accept=(400,),
            idempotent=idempotent,
            doubtful=_may_lag if idempotent else None,
        )

    def _read(self, key: str) -> Mapping[str, Any]:
        data = self._client.read(f"{self._mount}/keys/{checked_name(key)}")
        if data is None:
            raise _missing(key)
        return data

    def _checked_key(self, kek: Kek) -> Mapping[str, Any]:
        data = self._read(kek.name)
        _check_properties(kek.name, data, _KEK)
        with self._lock:
            self._checked.add(kek.name)
        return data

    def _check(self, kek: Kek) -> None:
        """Once for each key: on one that is not derived the binding would silently count for nothing."""
        with self._lock:
            if kek.name in self._checked:
                return
        self._checked_key(kek)


def _batches(wrapped: Sequence[WrappedKey]) -> Iterable[tuple[Kek, list[int]]]:
    """Positions by key-encryption key, at most :data:`MAX_BATCH` at once; refuses what cannot be a wrap."""
    places: dict[Kek, list[int]] = {}
    for index, item in enumerate(wrapped):
        # Version 0 would be taken for version 1.
        if not 1 <= item.version < 10**9:
            raise MalformedError(f"Version {item.version} of a key-encryption key cannot exist.")
        if len(item.ciphertext) != WRAPPED_SIZE:
            raise _not_this_wrap(item)
        places.setdefault(item.kek, []).append(index)
    return [
        (kek, indexes[start : start + MAX_BATCH])
        for kek, indexes in places.items()
        for start in range(0, len(indexes), MAX_BATCH)
    ]


def _may_lag(answer: Answer) -> bool:
    """Whether a node that has not caught up would answer this to a request that is right."""
    doubts = (*_ABSENT, "too new")
    if any(doubt in answer.messages for doubt in doubts):
        return True
    results = answer.data.get("batch_results")
    return isinstance(results, list) and any("too new" in _error(result) for result in results)


def _error(result: object) -> str:
    found = result.get("error") if isinstance(result, dict) else None
    return found if isinstance(found, str) else ""


def _refuse_failed(wrapped: WrappedKey, result: Mapping[str, Any]) -> None:
    error = _error(result)
    if not error:
        return
    if "too old" in error:
        raise KeyRetired(
            f"Version {wrapped.version} of {wrapped.kek.name} is retired.",
            safe="Keys that were rewrapped before that still open.",
            next="Use a newer snapshot of the log, which holds the rewrapped keys.",
        )
    if "too new" in error:
        raise KeyMissing(
            f"The Vault does not have version {wrapped.version} of {wrapped.kek.name}.",
            safe="Nothing was opened or changed.",
            next="If the Vault was restored from a backup, it is older than this key: restore a newer one.",
        )
    raise _not_this_wrap(wrapped)


def _refuse_missing(key: str, answer: Answer) -> None:
    if answer.status in {400, 404} and any(part in answer.messages for part in _ABSENT):
        raise _missing(key)


def _check_properties(key: str, data: Mapping[str, Any], kind: Mapping[str, Any]) -> None:
    wanted: dict[str, Any] = {**kind, **_CUSTODY}
    if kind is _KEK:
        wanted["convergent_encryption"] = False
    wrong = [name for name, value in wanted.items() if data.get(name, False) != value]
    if wrong:
        raise IntegrityError(
            f"The Vault's key {key} is not as it has to be: {', '.join(wrong)}.",
            safe="It was not used.",
            next="Somebody made it by other means: have the Vault's administrator look at it.",
        )


def _versions(data: Mapping[str, Any]) -> KekVersions:
    minimum = max(_number(data, "min_decryption_version"), _number(data, "min_available_version"), 1)
    return KekVersions(minimum, _number(data, "latest_version"))


def _number(data: Mapping[str, Any], name: str) -> int:
    found = data.get(name, 0)
    if not isinstance(found, int):
        raise _unusable("the versions of a key")
    return found


def _author(name: str, data: Mapping[str, Any]) -> AuthorKey:
    keys = data.get("keys")
    first = keys.get("1") if isinstance(keys, dict) else None
    pem = first.get("public_key") if isinstance(first, dict) else None
    key = None
    if isinstance(pem, str):
        try:
            key = load_pem_public_key(pem.encode())
        except ValueError:
            key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise _unusable("a public key")
    return AuthorKey(name, key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _split(ciphertext: object) -> tuple[int, bytes]:
    found = _CIPHERTEXT.fullmatch(ciphertext) if isinstance(ciphertext, str) else None
    if found is None:
        raise _unusable("a wrapped key")
    return int(found[1]), base64.b64decode(found[2])


def _data_key(plaintext: object) -> DataKey:
    key = None
    with suppress(ValueError):
        # The bare key is not kept in a variable: tracebacks show those.
        key = DataKey(base64.b64decode(plaintext if isinstance(plaintext, str) else "", validate=True))
    if key is None:
        raise _unusable("a data key")
    return key


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _missing(key: str) -> KeyMissing:
    return KeyMissing(
        f"The Vault has no key {key}.",
        safe="Nothing was changed.",
        next="Check that the profile names the Vault that this dataset was made with.",
    )


def _exists(key: str) -> AlreadyExists:
    return AlreadyExists(f"The Vault has a key {key} already.", safe="It is unchanged.", next="Use it.")


def _not_this_wrap(wrapped: WrappedKey) -> TamperedError:
    return TamperedError(
        f"The wrap of data key {wrapped.key_id.hex()} is altered, or belongs to another place or version.",
        safe="Nothing was opened or changed.",
        next="Verify the dataset: its log may have been altered.",
    )


def _unusable(what: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"The Vault's answer is not {what}.",
        safe="It was not used.",
        next="Check the server's version, and what stands between here and there.",
    )
