"""The configuration of a Vault, and the names of what lies in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.keys.vault import VaultConfig
from sealedhealth.keys.vault.layout import anchor_path, author_key, checked_name, claim_path, dataset_path, url_path


@pytest.mark.parametrize(
    "address, host",
    [
        ("https://vault.example.fr", "vault.example.fr"),
        ("https://Vault.Example.FR:8200/", "vault.example.fr"),
        ("https://vault.example.fr.:8200", "vault.example.fr"),
        ("https://192.0.2.1:8200", "192.0.2.1"),
        ("https://[2001:db8::1]:8200", "2001:db8::1"),
        ("http://127.0.0.1:8200", "127.0.0.1"),
        ("http://127.8.9.1:8200", "127.8.9.1"),
        ("http://[::1]:8200", "::1"),
        ("http://localhost:8200", "localhost"),
    ],
)
def test_addresses(address: str, host: str):
    """HTTPS to anywhere, plain HTTP to loopback."""
    assert VaultConfig(address).host == host
    assert VaultConfig(address, allowed_hosts=("elsewhere", host.upper())).host == host
    with pytest.raises(InvalidInput, match="does not allow"):
        VaultConfig(address, allowed_hosts=("elsewhere", f"x{host}", f"{host}x", ""))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "vault.example.fr",
        "vault.example.fr:8200",
        "ftp://vault.example.fr",
        "https://",
        "https://user@vault.example.fr",
        "https://user:pass@vault.example.fr",
        "https://@vault.example.fr",
        "https://vault.example.fr/ui",
        "https://vault.example.fr?x=1",
        "https://vault.example.fr?",
        "https://vault.example.fr#x",
        "https://vault.example.fr\\@other",
        "https://vault.example.fr:port",
        "https://vault.example.fr:99999",
        "https://vault example.fr",
        "https://vault.example.fr\n",
        "https://[::1",
        "http://vault.example.fr",
        "http://192.168.0.1",
        "http://0.0.0.0:8200",
        "http://localhost.example.fr",
        "http://127.0.0.1.example.fr",
        "http://169.254.169.254",
    ],
)
def test_addresses_that_are_refused(address: str):
    """No plain HTTP beyond loopback, no credentials, no path, nothing that two readers could read differently."""
    with pytest.raises(InvalidInput):
        VaultConfig(address)


@pytest.mark.parametrize(
    "settings",
    [
        {"transit_mount": "../sys"},
        {"transit_mount": ""},
        {"kv_mount": "a b"},
        {"kv_mount": "/a"},
        {"namespace": "a\nb"},
        {"namespace": "../a"},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"retry_s": float("inf")},
        {"client_key": Path("key.pem")},
    ],
    ids=str,
)
def test_settings_that_are_refused(settings: dict[str, object]):
    """Mounts that are paths elsewhere, times without end, half a certificate."""
    with pytest.raises(InvalidInput):
        VaultConfig("https://vault.example.fr", **settings)


def test_names_do_not_change():
    """Policies are written against these names: they are part of the format."""
    dataset_id = bytes(range(16))
    hexadecimal = "000102030405060708090a0b0c0d0e0f"
    assert anchor_path(dataset_id, 7) == f"anchors/{hexadecimal}/0000000000000007"
    assert anchor_path(dataset_id, 2**53 - 1) == f"anchors/{hexadecimal}/9007199254740991"
    assert dataset_path(dataset_id) == f"datasets/{hexadecimal}"
    assert url_path("s3://a/é") == f"urls/{hashlib.sha256('s3://a/é'.encode()).hexdigest()}"
    assert author_key("chu-lille") == "sh-author-chu-lille"
    assert claim_path("sh-author-x") == "keys/sh-author-x"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a..b", "-a", "a-", "a.", "a b", "é", "a\n", "a%2f", "a" * 257])
def test_key_names_that_are_refused(name: str):
    """A name cannot be a path, an escape or another endpoint."""
    with pytest.raises(InvalidInput):
        checked_name(name)
