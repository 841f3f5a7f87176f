"""``settings``: what the data controller decides for a whole dataset."""

from __future__ import annotations

from datetime import timedelta

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import open_root, settings_options, verb

__all__ = ["settings_command"]


@verb("settings")
@click.argument("url")
@settings_options
def settings_command(
    profile_name: str | None, url: str, grace: timedelta | None, pack_below: int | None, pack_size: int | None
) -> None:
    """Show the settings of a dataset, or change those that are given.

    Only the data controller, whose keystore holds the root key, can change them: they are a part of the signed policy.
    They hold for what is written and collected from then on; what is stored stays as it is.

    Examples
    --------
    sealedhealth settings s3://bucket/cardio
    sealedhealth settings --pack-below 1MiB s3://bucket/cardio
    """
    dataset = open_root(url, profile_name)
    settings = dataset.settings
    if any(given is not None for given in (grace, pack_below, pack_size)):
        settings = dataset.change_settings(grace=grace, pack_below=pack_below, pack_size=pack_size)
    below = f"below {output.human_size(settings.pack_below)}" if settings.pack_below else "never"
    output.emit(
        {
            "dataset": dataset.id,
            "grace_s": settings.grace_s,
            "pack_below": settings.pack_below,
            "pack_size": settings.pack_size,
            "data_key_bytes": settings.data_key_bytes,
            "data_key_age_s": settings.data_key_age_s,
        },
        f"Dropped objects stay   for {_span(settings.grace_s)}\n"
        f"Files share objects    {below}, {output.human_size(settings.pack_size)} in one\n"
        f"A data key seals       at most {output.human_size(settings.data_key_bytes)},"
        f" for at most {_span(settings.data_key_age_s)}",
    )


def _span(seconds: int) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds // length:,} {unit}{'s' if seconds != length else ''}"
    return f"{seconds:,} seconds"
