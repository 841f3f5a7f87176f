"""``doctor``: where the store is, whether this profile may write there, and whether the host answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sealedhealth.cli.doctor import Finding
from sealedhealth.errors import AccessDenied, NotFound, ResidencyViolation, SealedHealthError
from sealedhealth.log.names import DESCRIPTOR_NAME

if TYPE_CHECKING:
    from sealedhealth.profiles import Profile
    from sealedhealth.stores import ObjectStore

__all__ = ["profile_findings", "store_findings"]

_FOLDER = ".sealedhealth/checkpoints"  #: a small part of every dataset


def profile_findings(chosen: Profile) -> Iterator[Finding]:
    """What the profile says about stores, without asking any."""
    if chosen.preset is not None:
        item = chosen.preset
        yield Finding("preset", "ok", f"{item.name} {item.region}: {item.endpoint}, in {item.jurisdiction}")
    residency = chosen.residency
    if residency.restricts:
        lists = {
            "endpoints": residency.allowed_endpoints,
            "regions": residency.allowed_regions,
            "jurisdictions": residency.allowed_jurisdictions,
        }
        said = "; ".join(f"{name}: {', '.join(items)}" for name, items in lists.items() if items)
        yield Finding("residency", "ok", f"writing is allowed to these only: {said}")


def store_findings(url: str, chosen: Profile) -> Iterator[Finding]:
    """What the store at *url* is, and what this identity can do there; nothing is written."""
    store = chosen.open_store(url)
    location = chosen.locate(store.location)
    place = location.endpoint or ("this machine" if location.store in {"file", "memory"} else "not told")
    yield Finding("store", "ok", f"{location.store}, endpoint {place}, region {location.region or 'not told'}")
    yield _jurisdiction(location.jurisdiction, chosen)
    try:
        store.check_writable()
    except ResidencyViolation as error:
        yield Finding("store writing", "warning", f"{error.what} Reading is possible.")
    else:
        if chosen.residency.restricts:
            yield Finding("store writing", "ok", "the profile allows it here")
    yield _listing(store)
    yield _reading(store)


def _jurisdiction(known: str, chosen: Profile) -> Finding:
    if known:
        return Finding("store jurisdiction", "ok", f"{known}, as declared: nothing measures it")
    if chosen.residency.jurisdiction:
        detail = f"not {chosen.residency.jurisdiction}: the profile declares it for other endpoints than this one"
        return Finding("store jurisdiction", "warning", detail)
    return Finding("store jurisdiction", "ok", "not declared")


def _listing(store: ObjectStore) -> Finding:
    try:
        next(iter(store.list(_FOLDER)), None)
    except NotFound:
        return Finding("store listing", "failed", f"the bucket of {store.url} does not exist, or is elsewhere", 3)
    except AccessDenied as error:
        return Finding("store listing", "warning", f"refused, which gc, scan and replicate need: {error.what}")
    except SealedHealthError as error:
        return Finding("store listing", "failed", error.what, error.exit_code)
    return Finding("store listing", "ok", "the place answers, and can be listed")


def _reading(store: ObjectStore) -> Finding:
    try:
        there = store.exists(DESCRIPTOR_NAME)
    except SealedHealthError as error:
        return Finding("store reading", "failed", error.what, error.exit_code)
    return Finding("store reading", "ok", "a dataset is there" if there else "no dataset has its root there")
