"""URLs: one spelling for each dataset, and where in a URL the dataset ends and the path begins."""

from __future__ import annotations

from pathlib import Path

from sealedhealth.errors import AlreadyExists, InvalidInput, NotFound
from sealedhealth.keys.base import DatasetRef, Registry
from sealedhealth.profiles import Profile, connect

__all__ = ["find_root", "lookup", "normal_url", "refuse_nesting"]

_UNKNOWN = (
    "Check the URL and the profile. A new dataset: `sealedhealth create`. One that has moved, or whose keystore was"
    " restored: `sealedhealth register ID URL`."
)


def normal_url(url: str) -> str:
    """The one spelling of a store URL: no ``sealed`` prefix, no trailing slash, local paths absolute.

    Raises ``InvalidInput`` for a URL without any location.
    """
    bare = url.removeprefix("sealed::")
    if bare.startswith("sealed+"):
        bare = bare.removeprefix("sealed+")
    scheme, found, rest = bare.partition("://")
    if not found:
        scheme, rest = "file", bare
    if not rest.strip("/") and scheme != "file":
        raise InvalidInput(f"{url!r} names no place on a store.", next="Give a URL such as s3://bucket/dataset.")
    if scheme in {"file", "local"}:
        if not rest:
            raise InvalidInput("An empty path names no dataset.", next="Give the dataset's directory or URL.")
        return "file://" + Path(rest).expanduser().absolute().as_posix()
    return f"{scheme}://{rest.strip('/') if scheme != 'memory' else rest.rstrip('/').lstrip('/')}"


def _prefixes(url: str) -> list[str]:
    """*url* and everything above it, topmost first."""
    scheme, _, rest = url.partition("://")
    lead = "/" if rest.startswith("/") else ""
    parts = rest.strip("/").split("/")
    return [f"{scheme}://{lead}{'/'.join(parts[:count])}" for count in range(1, len(parts) + 1)]


def lookup(url: str, profile: Profile, registry: Registry) -> DatasetRef:
    """The dataset that belongs to a root URL, told by the profile or the key service, never by the store.

    Raises ``NotFound`` when neither knows the URL.
    """
    pinned = profile.dataset_ids.get(url)
    try:
        ref = registry.lookup(pinned or url)
    except NotFound:
        if pinned is None:
            raise NotFound(
                f"The key service knows no dataset at {url}.",
                next=_UNKNOWN,
            ) from None
        return DatasetRef(bytes.fromhex(pinned), (url,))
    return ref


def find_root(url: str, profile: Profile) -> tuple[str, str]:
    """Split a URL into the root URL of a registered dataset and a path inside it.

    The topmost registered URL wins; no request to the store is made.

    Raises ``NotFound`` when neither the URL nor anything above it is registered.
    """
    url = normal_url(url)
    registry = connect(profile).registry
    for prefix in _prefixes(url):
        if prefix in profile.dataset_ids or _registered(prefix, registry):
            return prefix, url[len(prefix) :].strip("/")
    raise NotFound(
        f"The key service knows no dataset at {url}, nor above it.",
        next=_UNKNOWN,
    )


def refuse_nesting(url: str, profile: Profile, *, but: bytes | None = None) -> None:
    """Raise ``AlreadyExists`` when a dataset is registered at *url*, above it or below it.

    Destroyed datasets do not count, nor does the one whose id is *but*.
    """
    for ref in connect(profile).registry.datasets():
        if ref.destroyed or ref.dataset_id == but:
            continue
        for other in ref.urls:
            if url == other:
                what = f"There is a dataset at {other} already."
            elif url.startswith(f"{other}/"):
                what = f"{url} lies inside the dataset at {other}."
            elif other.startswith(f"{url}/"):
                what = f"The dataset at {other} lies below {url}, and would be hidden by it."
            else:
                continue
            raise AlreadyExists(what, safe="It is unchanged.", next="Choose another URL: datasets cannot be nested.")


def _registered(url: str, registry: Registry) -> bool:
    try:
        registry.lookup(url)
    except NotFound:
        return False
    return True
