import subprocess
import sys

import click
import pytest

from sealedhealth.cli import app, output
from sealedhealth.errors import ConflictError


@pytest.fixture(autouse=True)
def _plain_mode():
    """Every test begins and ends outside JSON mode."""
    output.set_json(False)
    yield
    output.set_json(False)


@pytest.fixture
def failing(monkeypatch):
    """Makes the verb `ls` raise something."""

    def make(error):
        @click.command("ls")
        def command():
            raise error

        monkeypatch.setattr(app._Verbs, "get_command", lambda self, ctx, name: command)

    return make


def test_clients_do_not_chatter():
    """Azure's SDK logs a page for each attempt without credentials; our own error says what matters."""
    code = (
        "import logging; from sealedhealth.cli.app import run; run(['--version']);"
        "logging.getLogger('azure.identity').warning('noise')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_every_verb_has_a_manual_page():
    """Each verb, and each verb of a group, has a help text with examples, and takes --profile and --json."""
    for name, command in app.commands().items():
        found = command.commands.values() if isinstance(command, click.Group) else [command]
        for verb in found:
            assert "Examples:" in verb.help, (name, verb.name)
            options = {option for parameter in verb.params for option in parameter.opts}
            assert {"--profile", "--json"} <= options, (name, verb.name)


def test_unexpected_errors_are_no_tracebacks(failing, capsys, monkeypatch):
    """A bug is reported without its text and without a traceback, which SEALEDHEALTH_DEBUG shows."""
    monkeypatch.delenv("SEALEDHEALTH_DEBUG", raising=False)
    failing(ZeroDivisionError("key 0123456789abcdef"))
    assert app.run(["ls"]) == 1
    said = capsys.readouterr().err
    assert "bug" in said
    assert "Traceback" not in said
    assert "0123456789abcdef" not in said
    monkeypatch.setenv("SEALEDHEALTH_DEBUG", "1")
    assert app.run(["ls"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_traceback_shows_no_variables(failing, capsys, monkeypatch):
    """Not even the traceback shows values of variables."""
    monkeypatch.setenv("SEALEDHEALTH_DEBUG", "1")
    secret = bytes.fromhex("68756e74657232").decode()  # not spelled out in a line that a traceback could show

    class Failing(ConflictError):
        """Holds a variable that must not be shown."""

        def __init__(self):
            super().__init__("It conflicts.")
            self.passphrase = secret

    failing(Failing())
    assert app.run(["ls"]) == 6
    assert secret not in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interrupted(failing, capsys, error):
    """Ctrl-C ends with 130, and with words that fit what was going on."""
    failing(error)
    assert app.run(["ls"]) == 130
    said = capsys.readouterr().err
    assert said == "sealedhealth: Interrupted.\n  safe: Nothing was changed.\n  next: Run it again.\n"
    assert app.run(["put"]) == 130
    assert "--update" in capsys.readouterr().err
    output.set_json(True)
    assert app.run(["put"]) == 130
    assert '"next": "Run it again' in capsys.readouterr().err


def test_terminated_as_json(failing, capsys):
    """What is reported is the exit code that it ends with."""
    failing(app._Terminated())
    output.set_json(True)
    assert app.run(["put"]) == 143
    assert '"exit_code": 143' in capsys.readouterr().err


def test_usage_errors(capsys):
    """An unknown verb or option is a usage error, and as JSON even when the arguments cannot be parsed."""
    assert app.run(["nope"]) == 2
    assert "nope" in capsys.readouterr().err
    output.prepare(json_asked=True)
    assert app.run(["ls", "--nope", "--json"]) == 2
    assert '"exit_code": 2' in capsys.readouterr().err
