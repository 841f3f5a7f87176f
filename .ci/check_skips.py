"""Fail when a tier of tests that CI needs did not run whole.

Usage: check_skips.py JUNIT_DIR TIER...

Every tier has to have written ``JUNIT_DIR/TIER.xml`` with at least one test, and may
skip nothing but the tests named in ``ALLOWED``.  Closes with a line of totals.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

#: Regular expressions on "classname::name", each with the reason why the skip is right.
ALLOWED: dict[str, str] = {
    # fsspec's abstract suites skip these by themselves for every file system
    r"(Abstract|Test\w*)(Copy|Get|Put|Open|Pipe|Mv)\w*::": "fsspec's suites skip what no file system here has",
}


def main(folder: Path, tiers: list[str]) -> int:
    """Check all tiers; the exit status."""
    problems: list[str] = []
    passed = failed = skipped = 0
    for tier in tiers:
        report = folder / f"{tier}.xml"
        if not report.exists():
            problems.append(f"{tier}: did not run ({report} is missing)")
            continue
        cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - written by our own pytest
        if not cases:
            problems.append(f"{tier}: ran no test")
        for case in cases:
            name = f"{case.get('classname')}::{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif (skip := case.find("skipped")) is not None:
                skipped += 1
                if not any(re.search(pattern, name) for pattern in ALLOWED):
                    problems.append(f"{tier}: skipped {name}: {skip.get('message')}")
            else:
                passed += 1
    for problem in problems:
        print(f"check_skips: {problem}", file=sys.stderr)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if problems or failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
