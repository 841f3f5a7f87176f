"""``sealedhealth void``: commits that nobody can read, taken back by the data controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb

if TYPE_CHECKING:
    from sealedhealth.session.voiding import VoidReport

__all__ = ["void_command"]


@verb("void")
@click.argument("url")
@click.option("--dry-run", is_flag=True, help="Only say what would be taken back.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
def void_command(profile_name: str | None, url: str, dry_run: bool, yes: bool) -> None:
    """Take back commits that nobody can read, because the store lacks a change set. For the data controller.

    Somebody with a stolen signing key and the right to create anchors can commit what was never stored, and every
    reader stops there. First withdraw that right in the key service. Then look for the file in every copy of the
    store: if somebody has it, put it back instead. Otherwise this takes back all commits from that one on, and commits
    those again that can be read.

    Examples
    --------
    sealedhealth void s3://bucket/cardio --profile dpo --dry-run
    sealedhealth void s3://bucket/cardio --profile dpo
    """
    from sealedhealth.profiles import connect
    from sealedhealth.session.urls import find_root
    from sealedhealth.session.voiding import void_commits

    chosen = profile(profile_name)
    connect(chosen)
    root, path = find_root(url, chosen)
    if path:
        raise click.UsageError(f"Commits belong to a dataset: name {root}.")
    plan = void_commits(root, chosen, dry_run=True)
    if dry_run or plan.first is None:
        _show(plan, done=False)
        return
    if not yes:
        output.note(_text(plan, done=False))
        if not click.confirm(f"Take commits {plan.first} to {plan.last} back, for good?", err=True):
            raise click.Abort
    _show(void_commits(root, chosen), done=True)


def _show(report: VoidReport, *, done: bool) -> None:
    output.emit(
        {
            "dataset": report.dataset,
            "done": done,
            "first": report.first,
            "last": report.last,
            "commit": report.commit,
            "author": report.author or None,
            "missing": list(report.missing),
            "again": list(report.again),
        },
        _text(report, done=done),
    )


def _text(report: VoidReport, *, done: bool) -> str:
    if report.first is None:
        return f"Every commit up to {report.last} can be read: nothing is to be taken back."
    lines = [
        f"missing  {len(report.missing)} change sets, the first in commit {report.first} by {report.author}",
        f"{'took' if done else 'takes'} back commits {report.first} to {report.last}, by commit {report.commit}",
    ]
    if report.again:
        lines.append(f"again    {len(report.again)} change sets that can be read")
    return "\n".join(lines)
