"""``sealedhealth reanchor``: anchors that a restored key service has lost, made again from the store's signed links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb

if TYPE_CHECKING:
    from sealedhealth.session.recovery import ReanchorReport

__all__ = ["reanchor_command"]

_SEEN = re.compile(r"(\d{1,16}):([0-9a-fA-F]{96})")


@verb("reanchor")
@click.argument("url")
@click.option(
    "--seen", "seen", multiple=True, metavar="N:DIGEST",
    help="A commit that somebody remembers, with the digest of its link: the log has to hold it. May be repeated.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Verify every link, print what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
def reanchor_command(profile_name: str | None, url: str, seen: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    """Create anchors again that the key service has lost, from the links on the store. For the data controller.

    After a keystore or a Vault was restored from an old backup its anchors are older than the log, and everybody
    refuses to open the dataset. Every link is verified as on opening before it is anchored; the newest policy is
    recorded again, and keys that were destroyed since the backup are destroyed again. What nobody can verify is that
    the store has not kept the newest links back: compare the last commit with what the clients have seen (--seen).

    Examples
    --------
    sealedhealth reanchor s3://bucket/cardio --profile dpo --dry-run
    sealedhealth reanchor s3://bucket/cardio --profile dpo --seen 412:9f2c…
    """
    from sealedhealth.profiles import connect
    from sealedhealth.session.recovery import reanchor
    from sealedhealth.session.urls import find_root

    chosen = profile(profile_name)
    connect(chosen)
    root, path = find_root(url, chosen)
    if path:
        raise click.UsageError(f"Anchors belong to a dataset: name {root}.")
    remembered = {}
    for text in seen:
        found = _SEEN.fullmatch(text)
        if found is None:
            raise click.UsageError(f"--seen takes NUMBER:DIGEST with 96 hexadecimal digits, not {text[:120]!r}.")
        remembered[int(found[1])] = found[2]
    plan = reanchor(root, chosen, seen=remembered, dry_run=True)
    nothing = not (plan.anchored or plan.policy_recorded or plan.retired)
    if dry_run or nothing:
        _show(plan, done=False)
        return
    if not yes:
        for line in _lines(plan):
            output.note(line)
        if not click.confirm(f"Make commit {plan.after} the last one?", err=True):
            raise click.Abort
    # What was shown is what is anchored: should the store show something else now, it is refused.
    _show(reanchor(root, chosen, seen={**remembered, plan.after: plan.digest}), done=True)


def _show(report: ReanchorReport, *, done: bool) -> None:
    output.emit(
        {
            "dataset": report.dataset,
            "done": done,
            "before": report.before,
            "after": report.after,
            "digest": report.digest,
            "anchored": [
                {"commit": one.sequence, "digest": one.digest, "author": one.author, "void": one.void}
                for one in report.anchored
            ],
            "policy": report.policy,
            "policy_recorded": report.policy_recorded,
            "retired": {compartment.hex(): version for compartment, version in report.retired.items()},
            "lost_keys": report.lost_keys,
        },
        "\n".join(_lines(report)),
    )


def _lines(report: ReanchorReport) -> list[str]:
    lines = [
        f"anchor   {one.sequence:>8}  {one.digest[:16]}…  {f'void: {one.void}' if one.void else f'by {one.author}'}"
        for one in report.anchored
    ]
    if report.policy_recorded:
        lines.append(f"record   version {report.policy} of the policy")
    lines += [
        f"destroy  the versions of the key of compartment {compartment.hex()} before {version} (again)"
        for compartment, version in report.retired.items()
    ]
    if not lines:
        lines.append("Nothing is lost: anchors, policy and destroyed keys are as the log says.")
    lines.append(f"last     {report.after:>8}  {report.digest}")
    if report.lost_keys:
        lines.append(
            f"Lost with the backup: {report.lost_keys} data keys were wrapped after it, by versions that are gone. "
            "What they seal does not open, unless a newer backup is restored."
        )
    return lines
