"""Hosts that are known by name: where their regions are, and what else has to be known about them.

The tables say in which country a region's machines stand. Under whose law the company that runs them is, and whether
the table is still right, nobody can compute: see the page on security.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sealedhealth.errors import InvalidInput

__all__ = ["PRESETS", "Preset", "known_parts", "known_region", "preset", "preset_of"]

_OVH = {
    "gra": "FR",
    "rbx": "FR",
    "sbg": "FR",
    "eu-west-par": "FR",
    "de": "DE",
    "eu-south-mil": "IT",
    "waw": "PL",
    "uk": "GB",
    "bhs": "CA",
    "ca-east-tor": "CA",
    "sgp": "SG",
    "ap-southeast-syd": "AU",
    "ap-south-mum": "IN",
}
_SCALEWAY = {"fr-par": "FR", "nl-ams": "NL", "pl-waw": "PL", "it-mil": "IT"}

#: Host name of a region, countries of the regions, and the most parts that an upload may have.
_HOSTS: Mapping[str, tuple[str, Mapping[str, str], int]] = {
    "ovhcloud": ("s3.{region}.io.cloud.ovh.net", _OVH, 10_000),
    # A tenth of what S3 takes: https://www.scaleway.com/en/docs/object-storage/ says so.
    "scaleway": ("s3.{region}.scw.cloud", _SCALEWAY, 1_000),
}
#: Where AWS's own host names say the region.
_AWS = re.compile(
    r"s3[.-](?:(?:fips|dualstack|fips\.dualstack)[.-])?([a-z]{2}(?:-[a-z]+)+-\d+)\.amazonaws\.com(?:\.cn)?"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """One region of a host that is known by name.

    Parameters
    ----------
    name, region:
        As profiles call it.
    endpoint:
        Its host name.
    jurisdiction:
        The country in which its machines stand: two letters of ISO 3166.
    parts:
        The most parts of one upload that it takes.
    """

    name: str
    region: str
    endpoint: str
    jurisdiction: str
    parts: int

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options for s3fs: this region's, except where *given* says otherwise."""
        client = {"region_name": self.region, **dict(given.get("client_kwargs") or {})}
        config = dict(given.get("config_kwargs") or {})
        # The name of the bucket in the path: in the host name it would show in DNS and in TLS, and a dot in it
        # would not fit the certificate.
        config["s3"] = {"addressing_style": "path", **dict(config.get("s3") or {})}
        options = {**given, "client_kwargs": client, "config_kwargs": config}
        if "endpoint_url" not in client:
            # Said in so many words, which is what neither the environment nor AWS's files can override.
            options.setdefault("endpoint_url", f"https://{self.endpoint}")
        return options


def _all() -> tuple[Preset, ...]:
    return tuple(
        Preset(name, region, pattern.format(region=region), country, parts)
        for name, (pattern, regions, parts) in _HOSTS.items()
        for region, country in regions.items()
    )


#: Every region of every host that is known by name.
PRESETS = _all()
_BY_ENDPOINT = {item.endpoint: item for item in PRESETS}


def preset(name: str, region: str) -> Preset:
    """The region of a host.

    Raises
    ------
    InvalidInput
        There is no such host, or it has no such region, as far as this release knows.
    """
    if name not in _HOSTS:
        raise InvalidInput(f"There is no preset {name!r}.", next=f"Known: {', '.join(_HOSTS)}.")
    for item in PRESETS:
        if (item.name, item.region) == (name, region):
            return item
    said = f"{name} has no region {region!r} that is known here" if region else f"The preset {name!r} needs a region"
    raise InvalidInput(
        f"{said}.",
        next=f"Known: {', '.join(_HOSTS[name][1])}. For another one leave the preset out, and give endpoint_url.",
    )


def preset_of(endpoint: str) -> Preset | None:
    """The region that this endpoint is known to be."""
    return _BY_ENDPOINT.get(endpoint)


def known_region(endpoint: str) -> str:
    """The region that the name of an endpoint stands for; empty when it stands for none that is known."""
    item = preset_of(endpoint)
    if item is not None:
        return item.region
    named = _AWS.fullmatch(endpoint)
    return named[1] if named else ""


def known_parts(endpoint: str) -> int | None:
    """The most parts of one upload that an endpoint is known to take."""
    item = preset_of(endpoint)
    return item.parts if item else None
