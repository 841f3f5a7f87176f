"""``prove``: that neither data nor data keys leave in clear, on this machine, with this profile."""

from __future__ import annotations

from dataclasses import asdict

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb

__all__ = ["prove_command"]

LEAKED = 5


@verb("prove")
@click.argument("url")
def prove_command(profile_name: str | None, url: str) -> None:
    """Prove custody on your own host and keys: seal canaries, and search everything that leaves for them.

    Canaries (content, column, file and directory names, a message) are sealed at URL, read and rotated. Meanwhile every
    byte that this process sends is kept before TLS encrypts it, and everything that the host then holds is read back.
    Neither a canary nor a data key may be found, in any usual spelling; and what has to be found is looked for too.

    Inside a dataset the canaries become a commit, and are deleted again if the identity may. Anywhere else a dataset of
    its own is made below URL, and destroyed at the end (not with a Vault: name a dataset there). Ends with exit code 5
    when something was found.

    Examples
    --------
    sealedhealth prove s3://bucket/cardio/chu-lille --profile chu-lille
    sealedhealth prove s3://bucket --json
    """
    from sealedhealth.prove import prove

    result = prove(url, profile(profile_name))
    lines = [f"Dataset {result.dataset}."]
    lines += [f"  {step}" for step in result.steps]
    lines.append("Looked for")
    lines += [f"  {count:>7,}  {kind}" for kind, count in result.looked_for.items()]
    lines.append("in")
    lines += [f"  {output.human_size(size):>9}  {place}" for place, size in result.looked_in.items()]
    lines.append("Found, as it has to be")
    lines += [f"  {control}" for control in result.controls]
    lines += [f"LEAK  {leak.what} in {leak.where}, {leak.spelling}" for leak in result.leaks]
    if result.kept:
        lines.append("No canary and no data key left in clear.")
    output.emit({**asdict(result), "kept": result.kept}, "\n".join(lines))
    if not result.kept:
        raise click.exceptions.Exit(LEAKED)
