"""What a Vault answers, and which error that is. Pure: no I/O.

No body, sent or received, ever becomes part of an error: the body of a partly failed batch
holds data keys. Of the server's own messages only the short words are repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sealedhealth.errors import (
    AccessDenied,
    InvalidInput,
    SealedHealthError,
    ServiceUnavailable,
    StaleReplica,
    Throttled,
)

__all__ = ["Answer", "VaultRefusal", "error_of", "lags", "leaderless", "retry_after", "retryable", "warnings_of"]

_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_.:\-]{20,}")
_FAILOVER = ("local node not active", "node is not active", "no active", "error during forwarding")
# Two requests that change one key at the same moment: OpenBao undoes one of them.
_UNDONE = "transaction commit failed"
# Renewing near the end of a token's life is answered with a shorter life and this warning. It binds nothing less.
_CAPPED = re.compile(r"TTL of .* exceeded the effective max_ttl of .*; TTL value is capped accordingly", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, checked to be JSON of a sane size."""

    status: int
    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  #: by lower-case name

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return 200 <= self.status < 300

    @property
    def request_id(self) -> str:
        """The server's number for the request, as its audit log has it; may be empty."""
        found = self.body.get("request_id")
        return found if isinstance(found, str) else ""

    @property
    def data(self) -> Mapping[str, Any]:
        """The ``data`` of the answer; empty when there is none."""
        found = self.body.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def messages(self) -> str:
        """What the server says went wrong, for matching only: never shown as it is."""
        found = self.body.get("errors")
        return "; ".join(str(part) for part in found)[:10_000] if isinstance(found, list) else ""


class VaultRefusal(ServiceUnavailable):
    """The Vault answered with an error that is none of the others; see its audit log for the request id."""


def warnings_of(answer: Answer) -> list[str]:
    """Warnings in an answer: something that was asked for was not done as asked."""
    found = answer.body.get("warnings")
    if not found:
        return []
    texts = [str(part) for part in found] if isinstance(found, list) else [str(found)]
    return [text for text in texts if not ("auth" in answer.body and _CAPPED.fullmatch(text.strip()))]


def shown(text: str) -> str:
    """A server's message with everything taken out that could be a key or a token."""
    plain = "".join(character if character.isprintable() else " " for character in text[:2000])
    return _LONG_WORD.sub("…", plain)[:300]


def lags(answer: Answer) -> bool:
    """Whether this is a standby's answer that it has not caught up with the index it was sent."""
    return answer.status == 412 or (answer.status == 429 and not answer.messages)


def leaderless(answer: Answer) -> bool:
    """Whether this is a standby's answer that it has no active node to hand the request on to."""
    return answer.status == 307 or (answer.status == 500 and any(part in answer.messages for part in _FAILOVER))


def retryable(answer: Answer, *, idempotent: bool) -> bool:
    """Whether asking again may help, and cannot do harm."""
    if answer.status in {412, 429}:
        return True  # turned away before anything was done
    if answer.status == 503:
        return True  # sealed, or a gateway without a server: nothing was done
    if answer.status in {502, 504}:
        return idempotent
    if answer.status == 500 and _UNDONE in answer.messages:
        return True
    if answer.status == 500 and any(part in answer.messages for part in _FAILOVER):
        return idempotent
    return False


def retry_after(answer: Answer) -> float:
    """Seconds that the server asks to wait; 0 when it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0.0


def error_of(answer: Answer, doing: str) -> SealedHealthError:
    """The error that an answer is; *doing* says what was asked for, in a few words without secrets."""
    where = f"{doing} (HTTP {answer.status}{', request ' + answer.request_id if answer.request_id else ''})"
    status = answer.status
    if 300 <= status < 400:
        return ServiceUnavailable(
            f"The Vault sends us to another address for {where}.",
            safe="It was not followed: neither the token nor the request went there.",
            next="Give the profile the address of the active node, or let standbys forward requests.",
        )
    if status == 403:
        return AccessDenied(
            f"The Vault does not allow {where}.",
            safe="Nothing was changed.",
            next="Ask the Vault's administrator which policies this identity has; `sealedhealth doctor` lists them.",
        )
    if lags(answer):
        return StaleReplica(
            f"The Vault's node has not caught up yet: {where}.",
            safe="Its answer was not used.",
            next="Try again; if it goes on, look at the state of the cluster.",
        )
    if status == 429:
        wait = retry_after(answer)
        return Throttled(
            f"The Vault asks to slow down: {where}.",
            safe="Nothing was changed by this request.",
            next=f"Try again in {wait:.0f} seconds." if wait else "Try again later, or raise the rate limit quota.",
        )
    if status == 503 and "sealed" in answer.messages.lower():
        return ServiceUnavailable(
            f"The Vault is sealed: {where}.",
            safe="What is committed stays committed; nothing was changed by this request.",
            next="Have the Vault unsealed, then try again.",
        )
    if status == 501:
        return ServiceUnavailable(f"The Vault is not initialised: {where}.", next="Initialise and unseal it first.")
    if status in {404, 405}:
        return InvalidInput(
            f"The Vault knows nothing of {where}.",
            safe="Nothing was changed.",
            next="Check mounts and namespace in the profile, or run `sealedhealth vault setup`.",
        )
    if status == 413:
        return InvalidInput(f"The Vault finds the request too large: {where}.", safe="Nothing was changed.")
    said = shown(answer.messages)
    return VaultRefusal(
        f"The Vault refused {where}{': ' + said if said else '.'}",
        safe="What is committed stays committed.",
        next="The Vault's audit log has the request under its id.",
    )
