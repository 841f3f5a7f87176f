"""Where a profile allows data to be written: lists, and what it declares about places. Outside them: refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sealedhealth.errors import ResidencyViolation
from sealedhealth.stores.location import Location, endpoint_of
from sealedhealth.stores.presets import known_region, preset_of

__all__ = ["THIS_MACHINE", "Residency", "named_endpoints"]

#: How a list of endpoints says "directories of this machine".
THIS_MACHINE = "file://"
_HERE = {"file": THIS_MACHINE, "memory": "memory://"}


@dataclass(frozen=True, slots=True)
class Residency:
    """What a profile says about the places of its data.

    An environment variable or a file of the cloud's own tools can send a client elsewhere, and the client's word for
    its region is a mere label at most hosts. So what is declared holds for the endpoints that the profile itself
    names, and a region counts where the host's name says it or the profile names the endpoint.

    Parameters
    ----------
    jurisdiction:
        Where the endpoints that the profile names are; for a profile that names none, where this machine is.
    endpoints:
        The endpoints that the profile names.
    allowed_endpoints, allowed_regions, allowed_jurisdictions:
        Where data may be written. An empty list is no list.
    """

    jurisdiction: str = ""
    endpoints: tuple[str, ...] = ()
    allowed_endpoints: tuple[str, ...] = ()
    allowed_regions: tuple[str, ...] = ()
    allowed_jurisdictions: tuple[str, ...] = ()

    @property
    def restricts(self) -> bool:
        """Whether there is any list."""
        return bool(self.allowed_endpoints or self.allowed_regions or self.allowed_jurisdictions)

    def locate(self, location: Location) -> Location:
        """*location* with the jurisdiction that is known or declared for it; empty where neither is."""
        known = preset_of(location.endpoint)
        if known is not None:
            return replace(location, jurisdiction=known.jurisdiction)
        return replace(location, jurisdiction=self.jurisdiction if self._names(location) else "")

    def check(self, location: Location) -> None:
        """Let *location* pass, or raise ``ResidencyViolation``: nothing may be written there."""
        place = _HERE.get(location.store) or location.endpoint
        if self.allowed_endpoints and place not in self.allowed_endpoints:
            raise _refusal(location, "endpoint", place, self.allowed_endpoints)
        if self.allowed_regions:
            region = known_region(location.endpoint) or (location.region if self._names(location) else "")
            if region not in self.allowed_regions:
                raise _refusal(location, "region", region, self.allowed_regions)
        if self.allowed_jurisdictions:
            jurisdiction = self.locate(location).jurisdiction
            if jurisdiction not in self.allowed_jurisdictions:
                raise _refusal(location, "jurisdiction", jurisdiction, self.allowed_jurisdictions)

    def _names(self, location: Location) -> bool:
        """Whether what the profile says is said about this place."""
        if location.store in _HERE:
            return _HERE[location.store] in self.endpoints if self.endpoints else True
        return bool(location.endpoint) and location.endpoint in self.endpoints


def named_endpoints(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The endpoints that a profile's store options name."""
    client = options.get("client_kwargs")
    urls = [options.get("endpoint_url"), client.get("endpoint_url") if isinstance(client, Mapping) else None]
    hosts = [options.get("account_host")]
    account = options.get("account_name")
    if isinstance(account, str) and account:
        hosts.append(f"{account}.blob.core.windows.net")
    found = [endpoint_of(url) for url in urls if isinstance(url, str)]
    found += [endpoint_of(f"https://{host}") for host in hosts if isinstance(host, str)]
    return tuple(dict.fromkeys(endpoint for endpoint in found if endpoint))


def _refusal(location: Location, kind: str, value: str, allowed: tuple[str, ...]) -> ResidencyViolation:
    place = _HERE.get(location.store) or location.endpoint or f"a store of kind {location.store!r}"
    what = f"its {kind} {value!r} is" if value != place else "it is"
    return ResidencyViolation(
        f"The profile does not allow writing to {place}: "
        + (f"{what} not in allowed_{kind}s." if value else f"its {kind} is not known."),
        safe="Nothing was written there.",
        next=f"Allowed: {', '.join(allowed)}. Correct the URL, the profile or the environment.",
    )
