"""Where a store is, in the few words that may be shown and kept: never a bucket, a path, a user or a credential."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from sealedhealth.errors import InvalidInput

__all__ = ["TEXT_LIMIT", "Location", "endpoint_of"]

#: The most characters of each part.
TEXT_LIMIT = 256

_STORE = re.compile(r"[a-z0-9][a-z0-9+._-]*")
# A host name or address and perhaps a port: no room for a path, a user or a query.
_ENDPOINT = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_PORTS = {"https": 443}


@dataclass(frozen=True, slots=True)
class Location:
    """Where a store is: its kind and host, and what is known and said about the place.

    Raises ``InvalidInput`` when made with what is none: the parts end up in logs that others read.

    Parameters
    ----------
    store:
        The kind of host: ``file``, ``memory``, ``s3``, ``az``, ...
    endpoint:
        ``host`` or ``host:port`` that requests go to; empty when there is none, or when it is not known.
    region:
        The host's own name of the place, such as ``gra``; empty when it is not known.
    jurisdiction:
        Where the profile says that this is, such as ``FR``; empty when it does not say. Shown and compared, never
        measured.
    """

    store: str
    endpoint: str = ""
    region: str = ""
    jurisdiction: str = ""

    def __post_init__(self) -> None:
        for part in ("store", "endpoint", "region", "jurisdiction"):
            text = getattr(self, part)
            if not isinstance(text, str) or len(text) > TEXT_LIMIT or not (text.isascii() and text.isprintable()):
                # Beyond ASCII, what is printable depends on the version of Unicode: readers would not judge alike.
                raise InvalidInput(
                    f"The {part} of a location has to be at most {TEXT_LIMIT} printable characters of ASCII."
                )
        if not _STORE.fullmatch(self.store):
            raise InvalidInput("The kind of a store is lower-case letters, digits, '+', '.', '_' and '-'.")
        if self.endpoint and not _ENDPOINT.fullmatch(self.endpoint):
            raise InvalidInput("The endpoint of a location is HOST or HOST:PORT, without user, path or query.")

    def __str__(self) -> str:
        place = " ".join(part for part in (self.store, self.endpoint) if part)
        details = ", ".join(part for part in (self.region, self.jurisdiction) if part)
        return f"{place} ({details})" if details else place


def endpoint_of(url: str) -> str:
    """``host`` or ``host:port`` of an address such as ``https://s3.example.org``; empty when it has none.

    The port is left out when it is that of HTTPS: what goes elsewhere, plain HTTP too, is told apart.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return ""
    if parts.scheme == "http" and port is None:
        port = 80
    if port == _PORTS.get(parts.scheme):
        port = None
    host = f"[{host}]" if ":" in host else host
    endpoint = f"{host}:{port}" if host and port is not None else host
    return endpoint if len(endpoint) <= TEXT_LIMIT and _ENDPOINT.fullmatch(endpoint) else ""
