"""The command line: ``sealedhealth VERB …``. The only part of the package that prints."""

from __future__ import annotations

from sealedhealth.cli.app import main

__all__ = ["main"]
