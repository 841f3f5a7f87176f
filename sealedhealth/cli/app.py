"""The command group: finds verbs, runs one, and turns every failure into a message and an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import help_text
from sealedhealth.errors import SealedHealthError

__all__ = ["cli", "main"]

# Where each verb lives. A module is imported when its verb runs: `--help` and completion stay quick.
_VERBS = {
    "cat": "files",
    "cp": "edits",
    "create": "datasets",
    "demo": "demo",
    "destroy": "upkeep",
    "diff": "datasets",
    "doctor": "doctor",
    "du": "listing",
    "gc": "upkeep",
    "get": "files",
    "inspect": "inspect",
    "keystore": "keystore",
    "log": "datasets",
    "ls": "listing",
    "maintain": "upkeep",
    "mv": "edits",
    "profile": "profile",
    "prove": "prove",
    "put": "files",
    "reanchor": "reanchor",
    "register": "datasets",
    "replicate": "replicate",
    "restore": "datasets",
    "rewrap": "upkeep",
    "rm": "edits",
    "rotate": "upkeep",
    "scan": "scan",
    "settings": "settings",
    "tag": "datasets",
    "vault": "vault",
    "verify": "datasets",
    "void": "void",
}

HELP = help_text(
    """
    Seal health datasets before they leave the machine.

    Any object store can hold a sealed dataset: its host sees ciphertext and random names. The keys stay in a keystore
    on this machine, or in a Vault. A URL is a store's (s3://bucket/folder) or a local directory; what follows the
    dataset's root in it is a path inside the dataset.

    First steps
    -----------
      sealedhealth demo                          the whole story on public synthetic data
      sealedhealth create s3://bucket/cardio     a new dataset (and a keystore, the first time)
      sealedhealth put exports/ s3://bucket/cardio/labs
      sealedhealth ls -l s3://bucket/cardio/labs

    Environment
    -----------
      SEALEDHEALTH_PROFILE          profile to use when --profile is not given
      SEALEDHEALTH_HOME             default keystore and state
      SEALEDHEALTH_CONFIG           the profile file
      SEALEDHEALTH_PASSPHRASE_FILE  file with the keystore's passphrase, for unattended use
      SEALEDHEALTH_VAULT_ADDRESS    address of the Vault, within the hosts that the profile allows
      SEALEDHEALTH_DEBUG            set to 1 for tracebacks (they hold no secrets)

    Completion in the shell (bash; zsh and fish alike)
    --------------------------------------------------
      eval "$(_SEALEDHEALTH_COMPLETE=bash_source sealedhealth)"
    """
)

INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143
_NOWHERE = logging.NullHandler()


class _Terminated(BaseException):
    """Somebody asked the process to end."""


def _terminate(_signal: int, _frame: object) -> None:
    raise _Terminated


class _Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        module = _VERBS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(f"sealedhealth.cli.{module}"), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from sealedhealth import __version__

        click.echo(f"sealedhealth {__version__}")
        ctx.exit()


@click.group(
    cls=_Verbs,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 other failure, 2 usage, 3 not found, 4 access denied, 5 integrity, 6 conflict, "
    "7 service or store unavailable, 130 interrupted, 143 terminated.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Everything below is one verb of this group."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the status that the outcome calls for."""
    arguments = list(sys.argv[1:] if args is None else args)
    instruction = os.environ.get("_SEALEDHEALTH_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "sealedhealth", "_SEALEDHEALTH_COMPLETE", instruction))
    output.prepare(json_asked="--json" in arguments)
    # How containers are stopped: time enough to take back what an unfinished commit has stored.
    signal.signal(signal.SIGTERM, _terminate)
    status = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = BROKEN_PIPE
    if status == BROKEN_PIPE:
        # The reader of our output is gone (`… | head`): say nothing, and keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run one command; its exit status. Every failure has been reported on standard error."""
    # Azure's SDK warns at length of what ends as one error of ours, and Python shows warnings that nobody handles.
    logging.getLogger("azure").addHandler(_NOWHERE)
    try:
        with cli.make_context("sealedhealth", arguments) as ctx:
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.interrupted(_verb(arguments), INTERRUPTED)
        return INTERRUPTED
    except _Terminated:
        output.interrupted(_verb(arguments), TERMINATED)
        return TERMINATED
    except click.ClickException as error:
        output.usage_error(error)
        return error.exit_code
    except BrokenPipeError:
        return BROKEN_PIPE
    except SealedHealthError as error:
        _debug(error)
        output.error(error)
        return error.exit_code
    except OSError as error:
        _debug(error)
        return output.os_error(error)
    except Exception as error:  # noqa: BLE001 - the last line of defence against a traceback
        _debug(error)
        output.unexpected(error)
        return 1
    return 0


def _verb(arguments: list[str]) -> str:
    return next((argument for argument in arguments if argument in _VERBS), "")


def _debug(error: BaseException) -> None:
    """The traceback, when asked for: source lines only, never the values of variables."""
    if os.environ.get("SEALEDHEALTH_DEBUG", "0") not in {"", "0"}:
        traceback.print_exception(error, file=sys.stderr)


def commands() -> dict[str, Any]:
    """Every verb by name, imported: for documentation and tests."""
    with click.Context(cli) as ctx:
        return {name: cli.get_command(ctx, name) for name in cli.list_commands(ctx)}
