"""Where everything lies in a Vault: mounts, names of keys, paths of entries.

Policies are written against these names, so they change with the format only.
"""

from __future__ import annotations

import hashlib
import re

from sealedhealth.errors import InvalidInput
from sealedhealth.keys.base import ID_SIZE

__all__ = [
    "KV_MOUNT",
    "MAX_SEQUENCE",
    "TRANSIT_MOUNT",
    "anchor_path",
    "anchors_path",
    "author_key",
    "checked_name",
    "checked_path",
    "claim_path",
    "dataset_path",
    "url_path",
]

TRANSIT_MOUNT = "sealedhealth-transit"
KV_MOUNT = "sealedhealth-kv"
MAX_SEQUENCE = 2**53 - 1

_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# What transit takes as the name of a key, in ASCII. Clients do not escape names: `../encrypt/x` would be a path.
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_PATH = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern})*")


def checked_name(name: str) -> str:
    """*name*, when it can be the name of a key and nothing else. Raises ``InvalidInput``."""
    if len(name) > 256 or not _NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(f"{name[:300]!r} cannot be the name of a key in a Vault.", safe="Nothing was sent.")
    return name


def checked_path(path: str) -> str:
    """*path*, when it is plain names with ``/`` between them. Raises ``InvalidInput``."""
    if len(path) > 1024 or not _PATH.fullmatch(path) or ".." in path:
        raise InvalidInput(f"{path[:300]!r} cannot be a path in a Vault.", safe="Nothing was sent.")
    return path


def author_key(name: str) -> str:
    """The transit key of an author. Raises ``InvalidInput`` for what cannot be the name of one."""
    if not _AUTHOR.fullmatch(name):
        raise InvalidInput(
            f"{name[:200]!r} cannot be the name of a signing key.",
            next="Use up to 128 letters, digits, '.', '_' and '-', starting with a letter or digit.",
        )
    if name[-1] in ".-" or ".." in name:
        raise InvalidInput(f"A Vault cannot hold a key called {name!r}.", next="End it with a letter, digit or '_'.")
    return f"sh-author-{name}"


def anchor_path(dataset_id: bytes, sequence: int) -> str:
    """The KV path of one anchor. Raises ``InvalidInput``."""
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise InvalidInput(f"A sequence number is 0 to {MAX_SEQUENCE}.")
    return f"{anchors_path(dataset_id)}/{sequence:016d}"


def anchors_path(dataset_id: bytes) -> str:
    """The KV path of all anchors of a dataset. Raises ``InvalidInput``."""
    return f"anchors/{_hex(dataset_id)}"


def dataset_path(dataset_id: bytes) -> str:
    """The KV path of a dataset's record. Raises ``InvalidInput``."""
    return f"datasets/{_hex(dataset_id)}"


def url_path(url: str) -> str:
    """The KV path that says which dataset a URL belongs to."""
    return f"urls/{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"


def claim_path(key: str) -> str:
    """The KV path that says who made a transit key: transit itself cannot tell."""
    return f"keys/{key}"


def _hex(dataset_id: bytes) -> str:
    if len(dataset_id) != ID_SIZE:
        raise InvalidInput(f"A dataset id has {ID_SIZE} bytes.")
    return dataset_id.hex()
