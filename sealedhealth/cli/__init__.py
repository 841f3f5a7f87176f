"""The command line: ``sealedhealth VERB …``. The only part of the package that prints."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on the arguments of this process, and exit."""
    # Imported here, so that a Ctrl-C in the first tenth of a second is no traceback either.
    try:
        from sealedhealth.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main()
