"""Requests that were made, told without secrets and without names."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Call", "shape"]


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request that was made, for audit and counting; no secret is in it."""

    method: str
    path: str
    status: int  #: 0 when there was no answer
    request_id: str  #: as in the Vault's audit log; empty when it gave none
    sent: int  #: bytes of body
    received: int  #: bytes of body


def shape(method: str, path: str) -> str:
    """What a request is about, without names of keys or entries: short enough for an error and for counting."""
    parts = path.split("/")
    names = [part for part in parts if not _is_name(part)]
    return f"{method} {'/'.join(names)}"


def _is_name(part: str) -> bool:
    return part.startswith("sh-") or (len(part) >= 16 and all(c in "0123456789abcdef" for c in part))
