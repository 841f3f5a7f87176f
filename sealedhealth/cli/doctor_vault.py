"""What ``doctor`` says about a Vault: each finding with what to do about it."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sealedhealth.cli.doctor import Finding
from sealedhealth.errors import SealedHealthError
from sealedhealth.keys.vault.layout import anchor_path, author_key, dataset_path, url_path
from sealedhealth.keys.vault.policies import (
    DatasetKeys,
    Rule,
    VaultRole,
    author_policy_name,
    author_rules,
    capabilities_of,
    dataset_rules,
    policy_name,
    self_rules,
    site_rules,
)
from sealedhealth.keys.vault.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sealedhealth.keys.vault.client import VaultClient
    from sealedhealth.keys.vault.table import VaultTable
    from sealedhealth.profiles import Profile
    from sealedhealth.session.engine import Engine

__all__ = ["dataset_findings", "server_findings", "token_findings"]

_SKEW = timedelta(seconds=30)
_EXPIRY = timedelta(days=21)
_TESTED = ("2.6", "2.7")  # OpenBao
_STRANGER = "sealedhealth-doctor-probe"  # the name of nobody's key


def server_findings(table: VaultTable) -> Iterator[Finding]:
    """The server itself; needs no token."""
    config = table.config
    hosts = ", ".join(config.allowed_hosts)
    yield Finding("vault address", "ok", f"{config.address}; allowed hosts: {hosts}")
    yield Finding("jurisdiction", "ok", f"{config.jurisdiction}, as the profile states: nothing can check it")
    yield from _tls(table)
    wire = Wire(config)
    try:
        answer = wire.exchange("GET", "sys/health").answer
    finally:
        wire.close()
    body = answer.body
    if body.get("initialized") is False:
        yield Finding("seal", "failed", "the Vault is not initialised: `bao operator init`, in a ceremony", 7)
        return
    if body.get("sealed") is not False:
        yield Finding("seal", "failed", "the Vault is sealed: have it unsealed", 7)
    else:
        yield Finding("seal", "ok", f"unsealed{', a standby' if body.get('standby') else ''}")
    version = str(body.get("version", ""))
    if version.startswith(_TESTED):
        yield Finding("vault version", "ok", f"{version}; tested with OpenBao 2.6 and 2.7")
    else:
        yield Finding("vault version", "warning", f"{version or 'unknown'}: tested are OpenBao 2.6 and 2.7")
    there = body.get("server_time_utc")
    if isinstance(there, int):
        skew = abs(datetime.now(UTC) - datetime.fromtimestamp(there, UTC))
        if skew > _SKEW:
            yield Finding("clock", "warning", f"{skew.total_seconds():.0f} s from the Vault's: synchronise one of them")
        else:
            yield Finding("clock", "ok", f"within {max(skew.total_seconds(), 1):.0f} s of the Vault's")


def _tls(table: VaultTable) -> Iterator[Finding]:
    config = table.config
    parts = urlsplit(config.address)
    if parts.scheme == "http":
        yield Finding("TLS", "warning", "plain HTTP on loopback: for demonstrations and tests only")
        return
    context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    if config.client_certificate is not None:
        context.load_cert_chain(config.client_certificate, config.client_key)
    try:
        with (
            socket.create_connection((config.host, parts.port or 443), timeout=config.timeout_s) as bare,
            context.wrap_socket(bare, server_hostname=config.host) as secure,
        ):
            version, certificate = secure.version(), secure.getpeercert() or {}
    except ssl.SSLError as error:
        yield Finding("TLS", "failed", f"{error.reason or error}: check ca_file and the server's certificate", 7)
        return
    except OSError as error:
        yield Finding("TLS", "failed", f"no connection to {config.host}: {error.strerror or error}", 7)
        return
    left = timedelta(seconds=ssl.cert_time_to_seconds(str(certificate.get("notAfter"))) - time.time())
    trust = f"by {config.ca_file}" if config.ca_file else "by the system's authorities; pin yours with ca_file"
    if left < _EXPIRY:
        yield Finding("TLS", "warning", f"{version}; the certificate expires in {left.days} days: renew it")
    else:
        yield Finding("TLS", "ok" if config.ca_file else "warning", f"{version}, trusted {trust}")


def token_findings(table: VaultTable, client: VaultClient) -> Iterator[Finding]:
    """The identity."""
    found = client.read("auth/token/lookup-self") or {}
    policies = [str(name) for name in found.get("policies", [])]
    ttl = found.get("ttl") or 0
    life = f"{ttl:,} s left, {'renewable' if found.get('renewable') else 'not renewable'}" if ttl else "without end"
    if "root" in policies:
        yield Finding("token", "warning", "a root token: for set-up only; revoke it and log in as a member")
    elif not ttl:
        yield Finding("token", "warning", "it never expires: use a login that gives tokens with a lease")
    else:
        yield Finding("token", "ok", f"{life}; policies: {', '.join(policies)}")
    if "default" in policies:
        yield Finding("policies", "warning", "the default policy is on the token: enrol with token_no_default_policy")
    try:
        upsert = client.read(f"{table.mounts.transit}/config/keys")
    except SealedHealthError:
        return  # most roles may not see it
    if upsert is not None and upsert.get("disable_upsert") is not True:
        yield Finding("transit", "failed", "sealing under a wrong key name makes a key: run `vault setup`", 1)


def dataset_findings(chosen: Profile, engine: Engine, client: VaultClient) -> Iterator[Finding]:
    """The keys of one dataset, and what this identity may do with them."""
    table = chosen.vault
    assert table is not None
    policy, _ = engine.trusted_policy()
    keys = DatasetKeys(tuple(engine.kek(compartment) for compartment in policy.compartments), engine.root_name)
    for kek in keys.keks:
        yield from _key(client.read(f"{table.mounts.transit}/keys/{kek.name}"), kek.name)
    policies = [str(name) for name in (client.read("auth/token/lookup-self") or {}).get("policies", [])]
    expected = _expected(table, keys, chosen.author, policies)
    yield from _rights(table, client, keys, chosen.author, expected)


def _key(found: Mapping[str, Any] | None, name: str) -> Iterator[Finding]:
    short = f"key {name[:11]}…"
    if found is None:
        yield Finding(short, "failed", f"the Vault has no key {name}: is this the right Vault?", 3)
        return
    wrong = []
    if found.get("derived") is not True:
        wrong.append("not derived, so that wraps are not bound to their dataset")
    if found.get("exportable") or found.get("allow_plaintext_backup"):
        wrong.append("exportable, so that it may be outside already: destroy the dataset and make a new one")
    if found.get("deletion_allowed"):
        wrong.append("deletable: set deletion_allowed=false")
    if wrong:
        yield Finding(short, "failed", f"{name} is {'; '.join(wrong)}", 5)
        return
    minimum, latest = found.get("min_decryption_version"), found.get("latest_version")
    yield Finding(short, "ok", f"derived, not exportable, not deletable; versions {minimum} to {latest}")


def _expected(table: VaultTable, keys: DatasetKeys, author: str, policies: Collection[str]) -> list[Rule]:
    """What this identity should be able to do: by the role that the profile states, else by the policies' names."""
    wanted = [table.role] if table.role is not None else []
    if table.role is None:
        wanted = [role for role in VaultRole if {policy_name(role, keys.dataset_id), policy_name(role)} & set(policies)]
    rules = self_rules()
    for role in wanted:
        try:
            rules += dataset_rules(table.mounts, role, keys)
        except SealedHealthError:
            rules += site_rules(table.mounts, role)
    try:
        if author_policy_name(author) in policies:
            rules += author_rules(table.mounts, author)
    except SealedHealthError:
        pass
    return rules


def _rights(
    table: VaultTable, client: VaultClient, keys: DatasetKeys, author: str, expected: Iterable[Rule]
) -> Iterator[Finding]:
    probes = list(_probes(table, keys, author))
    answer = client.write("sys/capabilities-self", {"paths": probes})
    rules = list(expected)
    wider = []
    for path in probes:
        granted = {str(one) for one in answer.get(path, [])} - {"deny"}
        more = granted - capabilities_of(rules, path)
        if "root" in granted:
            yield Finding("rights", "warning", "everything, as root: log in as a member for daily work")
            return
        if more:
            wider.append(f"{'+'.join(sorted(more))} on {path}")
    role = f"role {table.role}" if table.role else "its policies' names"
    if wider:
        yield Finding(
            "rights",
            "failed",
            f"wider than {role} needs: {'; '.join(wider[:6])}{' …' if len(wider) > 6 else ''}."
            " Remove the other policies from its role in Vault, or correct them with `vault setup`",
            4,
        )
    else:
        yield Finding("rights", "ok", f"no more than {role} needs, on {len(probes)} paths tried")


def _probes(table: VaultTable, keys: DatasetKeys, author: str) -> Iterator[str]:
    """Paths on which a right could matter."""
    transit, kv = table.mounts.transit, table.mounts.kv
    for kek in keys.keks:
        for part in ("decrypt", "encrypt", "datakey/plaintext", "datakey/wrapped", "rewrap", "backup", "hmac"):
            yield f"{transit}/{part}/{kek.name}"
        yield f"{transit}/export/encryption-key/{kek.name}"
        for part in ("", "/rotate", "/config", "/trim", "/soft-delete", "/import"):
            yield f"{transit}/keys/{kek.name}{part}"
    for name in (author_key(keys.root_key), author_key(_STRANGER), author_key(author)):
        yield f"{transit}/sign/{name}"
        yield f"{transit}/export/signing-key/{name}"
    yield f"{transit}/keys/{_STRANGER}"
    yield f"{transit}/decrypt/{_STRANGER}"
    anchor = anchor_path(keys.dataset_id, 0)
    for part in ("data", "metadata", "delete", "undelete", "destroy"):
        yield f"{kv}/{part}/{anchor}"
    yield f"{kv}/data/{anchor_path(bytes(16), 0)}"
    yield f"{kv}/data/{dataset_path(keys.dataset_id)}"
    yield f"{kv}/metadata/{dataset_path(keys.dataset_id)}"
    yield f"{kv}/data/{url_path(_STRANGER)}"
    yield from (
        f"sys/policies/acl/{policy_name(VaultRole.READER, keys.dataset_id)}",
        f"sys/mounts/{transit}",
        "sys/raw/core",
        "sys/seal",
        "sys/storage/raft/snapshot",
        "auth/token/create",
        f"auth/{table.mounts.approle}/role/{_STRANGER}",
        f"auth/{table.mounts.approle}/role/{_STRANGER}/secret-id",
        "identity/entity",
    )
