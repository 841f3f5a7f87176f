"""The ``[profiles.NAME.vault]`` table of a profile, read strictly."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealedhealth.errors import InvalidInput
from sealedhealth.keys.vault.config import VaultConfig
from sealedhealth.keys.vault.login import (
    KUBERNETES_TOKEN,
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    Login,
    TokenFileLogin,
    TokenVariableLogin,
)
from sealedhealth.keys.vault.policies import Mounts, VaultRole

__all__ = ["ADDRESS_VARIABLE", "VaultTable", "read_table"]

ADDRESS_VARIABLE = "SEALEDHEALTH_VAULT_ADDRESS"
_TEXT = ("address", "jurisdiction", "namespace", "ca_file", "transit_mount", "kv_mount", "approle_mount", "role")
_KEYS = (*_TEXT, "allowed_hosts", "timeout_s", "retry_s", "auth")
_AUTH = {
    "approle": ("role_id", "secret_id_file", "wrapped_secret_id_file", "role_name", "mount"),
    "jwt": ("role", "token_file", "mount"),
    "kubernetes": ("role", "token_file", "mount"),
    "cert": ("role", "certificate", "key", "mount"),
    "token": ("token_file", "token_variable"),
}
_NEEDED = {"approle": ("role_id",), "jwt": ("role", "token_file"), "kubernetes": ("role",), "cert": ("certificate",)}


@dataclass(frozen=True, slots=True)
class VaultTable:
    """What a profile says about its Vault; no secret is in here."""

    config: VaultConfig
    login: Login
    mounts: Mounts
    role: VaultRole | None  #: what this identity is meant to be


def read_table(table: Mapping[str, Any], where: str, place: Callable[[str], Path]) -> VaultTable:
    """Read and check the table.

    Parameters
    ----------
    where:
        What to call it in errors.
    place:
        Makes a path of a text.

    Raises
    ------
    InvalidInput
        An unknown key, a wrong type, something missing, or an address outside the allowed hosts.
    """
    _known(table, _KEYS, where)
    for key in _TEXT:
        if key in table:
            _text(table, key, where)
    allowed = table.get("allowed_hosts", [])
    if not isinstance(allowed, list) or not all(isinstance(host, str) and host for host in allowed):
        raise InvalidInput(f"'allowed_hosts' in {where} has to be a list of host names.")
    if not allowed or not table.get("jurisdiction") or not table.get("address"):
        raise InvalidInput(
            f"{where} needs 'address', 'allowed_hosts' and 'jurisdiction'.",
            safe="Nothing was sent.",
            next="Say which hosts may ever be spoken to, and under whose law they run.",
        )
    role = table.get("role")
    if role is not None and role not in set(VaultRole):
        raise InvalidInput(f"role = {role!r} in {where} is not a role.", next=f"Known: {', '.join(VaultRole)}.")
    mounts = Mounts(
        **{
            field: table[key]
            for field, key in (("transit", "transit_mount"), ("kv", "kv_mount"), ("approle", "approle_mount"))
            if key in table
        }
    )
    auth = table.get("auth", {})
    login, certificate, key_file = _login(auth, f"{where.removesuffix(']')}.auth]", mounts, place)
    config = VaultConfig(
        address=os.environ.get(ADDRESS_VARIABLE) or table["address"],
        namespace=table.get("namespace", ""),
        transit_mount=mounts.transit,
        kv_mount=mounts.kv,
        allowed_hosts=tuple(allowed),
        jurisdiction=table["jurisdiction"],
        ca_file=place(table["ca_file"]) if "ca_file" in table else None,
        client_certificate=certificate,
        client_key=key_file,
        **{key: _seconds(table, key, where) for key in ("timeout_s", "retry_s") if key in table},
    )
    return VaultTable(config, login, mounts, VaultRole(role) if role else None)


def _login(
    auth: Any, where: str, mounts: Mounts, place: Callable[[str], Path]
) -> tuple[Login, Path | None, Path | None]:
    if not isinstance(auth, dict) or "method" not in auth:
        raise InvalidInput(
            f"{where} has to say how to log in: method = …",
            next=f"Known methods: {', '.join(_AUTH)}. Nothing is taken from ~/.vault-token or VAULT_TOKEN.",
        )
    method = auth["method"]
    if method not in _AUTH:
        raise InvalidInput(f"method = {method!r} in {where} is not known.", next=f"Known: {', '.join(_AUTH)}.")
    _known(auth, ("method", *_AUTH[method]), where)
    for key in auth:
        _text(auth, key, where)
    for key in _NEEDED.get(method, ()):
        if key not in auth:
            raise InvalidInput(f"{where} needs '{key}'.")
    mount = {"mount": auth["mount"]} if "mount" in auth else {}
    if method == "approle":
        return _approle(auth, where, mounts, place), None, None
    if method == "jwt":
        return JwtLogin(auth["role"], place(auth["token_file"]), **mount), None, None
    if method == "kubernetes":
        file = place(auth["token_file"]) if "token_file" in auth else KUBERNETES_TOKEN
        return KubernetesLogin(auth["role"], file, **mount), None, None
    if method == "cert":
        key = place(auth["key"]) if "key" in auth else None
        return CertificateLogin(auth.get("role", ""), **mount), place(auth["certificate"]), key
    if ("token_file" in auth) == ("token_variable" in auth):
        raise InvalidInput(f"{where} needs one of 'token_file' and 'token_variable'.")
    if "token_file" in auth:
        return TokenFileLogin(place(auth["token_file"])), None, None
    return TokenVariableLogin(auth["token_variable"]), None, None


def _approle(auth: Mapping[str, str], where: str, mounts: Mounts, place: Callable[[str], Path]) -> AppRoleLogin:
    wrapped = "wrapped_secret_id_file" in auth
    if wrapped == ("secret_id_file" in auth):
        raise InvalidInput(f"{where} needs one of 'wrapped_secret_id_file' and 'secret_id_file'.")
    file = place(auth["wrapped_secret_id_file" if wrapped else "secret_id_file"])
    return AppRoleLogin(
        auth["role_id"],
        file,
        wrapped=wrapped,
        role_name=auth.get("role_name", ""),
        mount=auth.get("mount", mounts.approle),
    )


def _known(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(f"Unknown key '{key}' in {where}.", next=f"Known keys: {', '.join(known)}.")


def _text(table: Mapping[str, Any], key: str, where: str) -> None:
    if not isinstance(table[key], str) or not table[key]:
        raise InvalidInput(f"'{key}' in {where} has to be text.")


def _seconds(table: Mapping[str, Any], key: str, where: str) -> float:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"'{key}' in {where} has to be a number of seconds.")
    return float(value)
