"""What a host can see: files that are not sealed, left-overs, and canaries in any stored byte. Needs no key."""

from __future__ import annotations

from sealedhealth.scan.canaries import Canary, read_canaries
from sealedhealth.scan.report import LEAKS, UNTIDY, Finding, Scanned, ScanReport
from sealedhealth.scan.run import scan

__all__ = ["LEAKS", "UNTIDY", "Canary", "Finding", "ScanReport", "Scanned", "read_canaries", "scan"]
