"""``replicate``, and what ``verify --public`` does: a dataset copied and checked by somebody who holds no key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb

if TYPE_CHECKING:
    from sealedhealth.keys.base import AnchorStore
    from sealedhealth.profiles import Profile
    from sealedhealth.replicate import PublicReport, ReplicateReport

__all__ = ["check_public", "head_of", "replicate_command"]

_HEAD = re.compile(r"(\d{1,15}):([0-9a-fA-F]{96})")
_SHOWN = 20  #: findings printed for a human


@verb("replicate")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--id", "dataset_id", metavar="HEX", help="The dataset's id. No key service is spoken to then, unless --anchors."
)
@click.option("--to-profile", metavar="NAME", help="Profile with the store options of DST (default: that of SRC).")
@click.option("--anchors", is_flag=True, help="Ask the key service which commit is the newest, also with --id.")
@click.option("--head", metavar="N:DIGEST", help="A commit that a client saw: SRC has to hold it.")
@click.option("--check", is_flag=True, help="Read what is at DST already, too, and replace what is wrong there.")
@click.option("--report", metavar="FILE", type=click.Path(path_type=Path), help="Write the report, as JSON, to FILE.")
def replicate_command(
    profile_name: str | None,
    source: str,
    destination: str,
    dataset_id: str | None,
    to_profile: str | None,
    anchors: bool,
    head: str | None,
    check: bool,
    report: Path | None,
) -> None:
    """Copy a dataset to another host without a key: objects and log, every byte checked on its way.

    What it checks against is the public part of the log: signatures, roster and digests, from the dataset's id down.
    The id comes from --id, or from the registry of the profile's key service, whose anchors then also say which commit
    is the newest. Without them a host could hold its newest commits back, and nothing here would show it: pass --head
    with what a client saw last (`sealedhealth log --json`).

    Run it again after an interruption, or when there is more: it copies what DST lacks. What SRC has lost or altered
    is named and not copied, the rest goes on, and the exit code is 5. Readers see nothing at DST before all is there.
    Then tell the key service: `sealedhealth register ID DST`.

    Examples
    --------
    sealedhealth replicate az://old/cardio s3://new/cardio --profile azure --to-profile scaleway
    sealedhealth replicate s3://old/cardio /mnt/usb/cardio --id 5d2a2c640c13d7ced94baeb3b5b53e8a --report copy.json
    """
    from sealedhealth.replicate import replicate
    from sealedhealth.session import normal_url

    chosen = profile(profile_name)
    other = profile(to_profile) if to_profile else chosen
    url, target_url = normal_url(source), normal_url(destination)
    seen = head_of(head)
    wanted, anchor_store = _dataset(url, chosen, dataset_id, anchors=anchors)
    store, target = chosen.open_store(url), other.open_store(target_url)
    other.residency.check(target.location)
    with output.progress("copying") as bar:
        result = replicate(
            store,
            target,
            wanted,
            anchors=anchor_store,
            head=seen,
            check=check,
            progress=bar.advance,
            total=bar.total,
            places=(chosen.locate(store.location), other.locate(target.location)),
        )
    document = result.to_json()
    if report is not None:
        report.write_text(json.dumps(document, indent=2) + "\n")
    output.emit(document, "\n".join(_lines(result)))
    _finish(result, target_url)


def check_public(
    profile_name: str | None, url: str, dataset_id: str | None, *, anchors: bool, head: str | None, data: bool
) -> None:
    """What ``verify --public`` does."""
    from sealedhealth.replicate import check_host
    from sealedhealth.session import normal_url

    chosen = profile(profile_name)
    root = normal_url(url)
    wanted, anchor_store = _dataset(root, chosen, dataset_id, anchors=anchors)
    store = chosen.open_store(root)
    with output.progress("checking") as bar:
        result = check_host(
            store,
            wanted,
            anchors=anchor_store,
            head=head_of(head),
            data=data,
            progress=bar.advance,
            total=bar.total,
            place=chosen.locate(store.location),
        )
    output.emit(result.to_json(), "\n".join(_checked(result)))
    _finish(result, "")


def head_of(text: str | None) -> tuple[int, bytes] | None:
    """What ``--head`` says: a commit's number and the digest of its link."""
    if text is None:
        return None
    found = _HEAD.fullmatch(text)
    if found is None:
        raise click.UsageError(f"--head takes NUMBER:DIGEST with 96 hexadecimal digits, not {text[:120]!r}.")
    return int(found[1]), bytes.fromhex(found[2])


def _dataset(url: str, chosen: Profile, dataset_id: str | None, *, anchors: bool) -> tuple[bytes, AnchorStore | None]:
    """Which dataset it is, by somebody other than the store, and whoever says which commit is the newest."""
    from sealedhealth.dataset.upkeep import parse_id
    from sealedhealth.profiles import connect
    from sealedhealth.session.urls import find_root, lookup

    given = dataset_id or chosen.dataset_ids.get(url)
    if given is not None:
        return parse_id(given, "dataset"), connect(chosen).anchors if anchors else None
    context = connect(chosen)
    root, path = find_root(url, chosen)
    if path:
        raise click.UsageError(f"This is about a whole dataset, not about a path in it. Name {root}")
    return lookup(url, chosen, context.registry).dataset_id, context.anchors


def _finish(report: ReplicateReport | PublicReport, destination: str) -> None:
    if report.freshness == "unknown":
        output.note(
            "note: nobody said which commit is the newest: a host can hold newer ones back. Compare the digest with"
            " what clients saw (--head), or have the anchors read (--anchors, by a profile that may)."
        )
    error = report.error()
    if error is not None:
        raise error
    if destination:
        output.note(f"Next: sealedhealth register {report.dataset} {destination}")


def _lines(report: ReplicateReport) -> list[str]:
    read = f", {_amount(report.checked)} read" if report.checked.files else ""
    lines = [
        f"Dataset {report.dataset}",
        f"  from       {_place(report.source)}",
        f"  to         {_place(report.destination)}",
        f"  commit     {report.sequence}  {report.digest}",
        f"  copied     {_amount(report.copied)} in {report.seconds:.1f} s, every byte checked",
        f"  present    {_amount(report.present)}{read}",
    ]
    return lines + _troubles(report)


def _checked(report: PublicReport) -> list[str]:
    how = "every byte checked" if report.data else "names and sizes only"
    lines = [
        f"Dataset {report.dataset}",
        f"  at         {_place(report.host)}",
        f"  commit     {report.sequence}  {report.digest}",
        f"  verified   {_amount(report.verified)} in {report.seconds:.1f} s, {how}, without a key",
    ]
    return lines + _troubles(report)


def _troubles(report: ReplicateReport | PublicReport) -> list[str]:
    lines = [f"  {one.state:<10} {one.name}: {output.safe(one.what)}" for one in report.findings[:_SHOWN]]
    if len(report.findings) > _SHOWN:
        lines.append(f"  ... and {len(report.findings) - _SHOWN} more: see --json")
    lines += [f"  refused    {output.safe(text)}" for text in report.refused[:_SHOWN]]
    lines += [f"  disputed   {output.safe(text)}" for text in report.disputed[:_SHOWN]]
    return lines


def _amount(tally: Any) -> str:
    names = "1 file" if tally.files == 1 else f"{tally.files:,} files"
    return f"{names}, {output.human_size(tally.size)}"


def _place(place: Any) -> str:
    details = ", ".join(place[part] for part in ("endpoint", "region", "jurisdiction") if place[part])
    return f"{place['url']}{f' ({details})' if details else ''}"
