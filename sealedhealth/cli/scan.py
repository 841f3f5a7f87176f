"""``scan``: what the host of a dataset or a bucket can see, and should not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb
from sealedhealth.errors import NotFound, SealedHealthError

if TYPE_CHECKING:
    from sealedhealth.keys.base import AnchorStore
    from sealedhealth.profiles import Profile
    from sealedhealth.scan import Finding, Scanned, ScanReport

__all__ = ["scan_command"]

LEAKED = 5
_SHOWN = 10  #: findings of one kind that are shown
_ID = re.compile(r"[0-9a-fA-F]{32}")


@verb("scan")
@click.argument("url")
@click.option("--id", "ids", multiple=True, metavar="ID", help="Id of a dataset that belongs here. May be repeated.")
@click.option(
    "--canary", "files", multiple=True, metavar="FILE", type=click.Path(exists=True, dir_okay=False),
    help="Look for each line of FILE (UTF-8) in every stored byte. May be repeated.",
)  # fmt: skip
@click.option("--labels", is_flag=True, help="Ask for metadata and tags, too: two requests a file, on S3.")
@click.option("--show-canaries", is_flag=True, help="Show names that hold a canary as they are.")
@click.option("--strict", is_flag=True, help="End with exit code 5 for what is only untidy, too.")
@click.option("--all", "everything", is_flag=True, help=f"Show every finding, not {_SHOWN} of each kind.")
def scan_command(
    profile_name: str | None,
    url: str,
    ids: tuple[str, ...],
    files: tuple[str, ...],
    labels: bool,
    show_canaries: bool,
    strict: bool,
    everything: bool,
) -> None:
    """List what the host can see and should not: what is not sealed, what is left over, and canaries. Needs no key.

    URL is a dataset, or a bucket or directory that holds some. A canary is a text that the data holds: a name with a
    date, a rare diagnosis, a path. It is looked for as UTF-8, UTF-16, Latin-1, base64 and hexadecimal, in names, in
    compressed parts and in Parquet, and is called by file and line here, never shown.

    Ends with exit code 5 when something leaks. What is only untidy (left over, under way, no longer needed) does not
    count unless --strict says so. Which dataset belongs here say --id or the profile's key service; else the store's
    word is taken for it. That everything is whole and genuine is for `verify` to say.

    Examples
    --------
    sealedhealth scan s3://bucket/cardio --canary canaries.txt
    sealedhealth scan s3://bucket --id 5d2a2c640c13d7ced94baeb3b5b53e8a --json
    """
    from sealedhealth.scan import read_canaries, scan
    from sealedhealth.session import normal_url

    wanted = [_dataset_id(text) for text in ids]
    canaries = read_canaries(files)
    if files and not canaries:
        raise click.UsageError("The canary files hold no canary: every line is blank.")
    chosen = profile(profile_name)
    place = normal_url(url)
    store = chosen.open_store(place)
    identify, anchors = (None, None) if wanted else _known_to(chosen, asked=profile_name is not None)
    with output.progress("scanning") as bar, _inside(url, chosen, known=identify is not None):
        report = scan(
            store,
            ids=wanted,
            # Asked by the URL as it is registered: some kinds of host have several spellings.
            identify=None if identify is None else lambda at: identify(place + at.removeprefix(store.url)),
            anchors=anchors,
            canaries=canaries,
            labels=labels,
            reveal=show_canaries,
            total=bar.total,
            progress=bar.advance,
        )
    _show(report, everything=everything)
    if report.leaks or (strict and report.findings):
        raise click.exceptions.Exit(LEAKED)


def _dataset_id(text: str) -> bytes:
    if not _ID.fullmatch(text):
        raise click.UsageError(f"--id takes the 32 hexadecimal digits of a dataset's id, not {text[:64]!r}.")
    return bytes.fromhex(text)


def _known_to(chosen: Profile, *, asked: bool) -> tuple[Callable[[str], bytes | None], AnchorStore | None]:
    """What the profile or its key service says of the ids that belong to URLs, and the anchors."""
    from sealedhealth.keys.local import keystore_mode
    from sealedhealth.profiles import connect
    from sealedhealth.session.urls import lookup

    context = None
    if chosen.vault is not None or keystore_mode(chosen.keystore) is not None:
        try:
            context = connect(chosen)
        except SealedHealthError as error:
            if asked:  # somebody who names a profile means its key service, too
                raise
            output.warn(f"the key service was not asked for the dataset's id: {error.what}")

    def identify(url: str) -> bytes | None:
        if context is not None:
            with suppress(NotFound):
                return lookup(url, chosen, context.registry).dataset_id
        pinned = chosen.dataset_ids.get(url)
        return bytes.fromhex(pinned) if pinned else None

    return identify, context.anchors if context is not None else None


@contextmanager
def _inside(url: str, chosen: Profile, *, known: bool) -> Iterator[None]:
    """Say so when nothing is there since the URL is that of a path inside a dataset."""
    from sealedhealth.session.urls import find_root

    try:
        yield
    except NotFound:
        if known:
            with suppress(SealedHealthError):
                root, path = find_root(url, chosen)
                if path:
                    raise click.UsageError(
                        f"This is about a whole dataset, not about a path in it. Name {root}"
                    ) from None
        raise


# --- showing -----------------------------------------------------------------------------------


def _show(report: ScanReport, *, everything: bool) -> None:
    for finding in report.findings:
        output.emit({"finding": finding.kind, "leak": finding.leak, **_fields(finding)})
    summary = asdict(report)
    del summary["findings"]
    output.emit({**summary, "counts": report.counts, "leaks": len(report.leaks)}, "\n".join(_lines(report, everything)))
    for one in report.datasets:
        if one.dataset and not one.known:
            output.warn(
                f"only the store says that {output.safe(one.root or report.url)} is dataset {one.dataset}: "
                "give its id with --id, or a profile that knows it"
            )


def _fields(finding: Finding) -> dict[str, object]:
    return {name: value for name, value in asdict(finding).items() if name != "kind" and value not in {None, ""}}


def _lines(report: ScanReport, everything: bool) -> Iterator[str]:
    from sealedhealth.scan import LEAKS, UNTIDY

    for one in report.datasets:
        yield _dataset(one, report)
    if not report.datasets:
        yield "No dataset lies here."
    for kind, meaning in {**LEAKS, **UNTIDY}.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        if found:
            yield f"{'LEAK' if kind in LEAKS else 'untidy'}  {kind} ({len(found):,}): {meaning}"
            yield from _some(found, None if everything else _SHOWN)
    yield _looked_at(report)
    for what in report.not_looked_into:
        yield f"Not looked into: {output.safe(what)}"
    if report.leaks:
        files = len({(finding.name, finding.version) for finding in report.leaks})
        yield f"LEAK: {files:,} {'place shows' if files == 1 else 'places show'} what the host should not see."
    else:
        yield "Nothing was found that the host can read."


def _dataset(one: Scanned, report: ScanReport) -> str:
    commit = f"commit {one.commit}" if one.commit is not None else "its log cannot be read"
    newest = "anchored" if one.anchored else "the newest that the store shows"
    known = "" if one.known else ", by the store's word"
    newest = f" ({newest})" if one.commit is not None else ""
    return f"Dataset {one.dataset or '-'}{known}, at {output.safe(one.root or report.url)}: {commit}{newest}"


def _some(found: Sequence[Finding], most: int | None) -> Iterator[str]:
    for finding in found[:most]:
        size = "" if finding.size is None else output.human_size(finding.size)
        details = [finding.canary, finding.detail, f"{finding.count:,} times" if finding.count > 1 else ""]
        details += [_age(finding.modified), f"version {finding.version}" if finding.version else ""]
        yield f"  {size:>10}  {output.safe(finding.name)}"
        yield f"              {output.safe('; '.join(part for part in details if part))}"
    if most is not None and len(found) > most:
        yield f"  … and {len(found) - most:,} more"


def _age(time: datetime | None) -> str:
    if time is None:
        return ""
    seconds = max(0, round((datetime.now(UTC) - time).total_seconds()))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} old"
    return f"{seconds} s old"


def _looked_at(report: ScanReport) -> str:
    said = f"Looked at {report.files:,} {'file' if report.files == 1 else 'files'}, {output.human_size(report.bytes)}"
    if report.canaries:
        said += f"; searched {output.human_size(report.searched)}"
        said += f" (and {output.human_size(report.expanded)} expanded)" if report.expanded else ""
        said += f" for {report.canaries:,} {'canary' if report.canaries == 1 else 'canaries'}"
    return said + "."
