"""Where a Vault is, and how to speak to it; no secret is in here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sealedhealth.errors import InvalidInput
from sealedhealth.keys.vault.layout import KV_MOUNT, TRANSIT_MOUNT, checked_path

__all__ = ["VaultConfig"]

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}(/[A-Za-z0-9][A-Za-z0-9_-]{0,127}){0,15}/?")


@dataclass(frozen=True, slots=True)
class VaultConfig:
    """The address of a Vault (OpenBao or HashiCorp Vault) and the terms on which it may be used.

    Raises ``InvalidInput`` when made with what cannot be used safely: plain HTTP to anything
    but loopback, a host outside *allowed_hosts*, credentials in the address.

    Parameters
    ----------
    address:
        ``https://host:port``, or ``http://`` to loopback.
    namespace:
        Namespace to work in; empty for the root namespace.
    transit_mount, kv_mount:
        Where the transit and the KV version 2 engine are mounted.
    allowed_hosts:
        Residency: the only host names or IP addresses that may be spoken to. Empty means
        that no list is kept.
    jurisdiction:
        Where that is, in words; shown, never interpreted.
    ca_file:
        Certificates to trust instead of the usual public ones.
    client_certificate, client_key:
        For mutual TLS; the key may be in the certificate's file.
    timeout_s:
        Seconds that one request may take.
    retry_s:
        Seconds that a request may take with all its retries.
    """

    address: str
    namespace: str = ""
    transit_mount: str = TRANSIT_MOUNT
    kv_mount: str = KV_MOUNT
    allowed_hosts: tuple[str, ...] = ()
    jurisdiction: str = ""
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    timeout_s: float = 30.0
    retry_s: float = 30.0
    host: str = field(init=False)  #: host name or IP address of *address*, lower case

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", self._checked_host())
        checked_path(self.transit_mount)
        checked_path(self.kv_mount)
        if self.namespace and not _NAMESPACE.fullmatch(self.namespace):
            raise InvalidInput(f"{self.namespace[:200]!r} cannot be a namespace of a Vault.")
        if not 0 < self.timeout_s <= 3600 or not 0 <= self.retry_s <= 3600:
            raise InvalidInput("The timeout and the retry time of a Vault have to be between 0 and 3600 seconds.")
        if self.client_key is not None and self.client_certificate is None:
            raise InvalidInput("A client key needs a client certificate.")

    def _checked_host(self) -> str:
        unusable = InvalidInput(
            "The address of a Vault has to be https://HOST or https://HOST:PORT, without user, path or query.",
            safe="Nothing was sent.",
        )
        try:
            parts = urlsplit(self.address)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise unusable from None
        if (
            parts.scheme not in {"http", "https"}
            or not host
            or parts.username is not None
            or parts.password is not None
            or parts.path not in {"", "/"}
            or parts.query
            or parts.fragment
            or not self.address.isprintable()
            or any(character in self.address for character in " \\?#")
        ):
            raise unusable
        host = host.lower().rstrip(".")
        if parts.scheme == "http" and not _is_loopback(host):
            raise InvalidInput(
                f"Plain HTTP to {host} would show keys to the network.",
                safe="Nothing was sent.",
                next="Use https://; plain HTTP is for loopback only.",
            )
        if self.allowed_hosts and host not in {allowed.lower().rstrip(".") for allowed in self.allowed_hosts}:
            raise InvalidInput(
                f"The profile does not allow a key service at {host}.",
                safe="Nothing was sent.",
                next=f"Allowed: {', '.join(self.allowed_hosts)}.",
            )
        return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
