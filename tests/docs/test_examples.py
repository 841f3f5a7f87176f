"""Every Python and shell example of the README and of the documentation runs.

The blocks of one page run in order, in an empty directory; Python blocks share their names, and shell blocks one bash.
An HTML comment before a block says that it cannot run, and why: ``<!-- not run: needs a Vault -->``.  A comment that
begins with ``<!-- run`` holds code for a page that its readers need not see.

In a ``console`` block, a line that begins with ``$`` is a command, which has to succeed unless the next one is
``echo $?``.  What is shown under a command is compared with what it says, errors too, and ``...`` stands for anything.
"""

import contextlib
import doctest
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import vault_servers

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+-->\s*\n+)?^```(?P<kind>python|pycon|console)[^\n]*\n(?P<code>.*?)^```$"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)
STATUS = "echo $?"


def blocks(text):
    """Kind, code and line number of every block that runs."""
    for found in BLOCK.finditer(text):
        if found["skip"]:
            continue
        group = "hidden" if found["hidden"] is not None else "code"
        yield found["kind"] or "python", found[group], text.count("\n", 0, found.start(group))


def commands(code):
    """Each command of a ``console`` block, and what is shown under it."""
    found = []
    for line in code.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append([line[2:], ""])
        elif found[-1][0].endswith("\\\n"):
            found[-1][0] += line
        else:
            found[-1][1] += line
    return [(command.rstrip("\n"), shown) for command, shown in found]


class Shell:
    """One bash for a page, which remembers where it is and what was exported."""

    def __init__(self):
        self.process = None

    def run(self, command):
        """What *command* says on both streams, and its status."""
        if self.process is None:  # only now, so that hidden code before it can set the environment
            self.process = subprocess.Popen(
                ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            self.status = 0
        mark = uuid.uuid4().hex
        script = f"(exit {self.status})\n{command}\nprintf '%s %d\\n' {mark} $?\n"
        self.process.stdin.write(script)
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            before, found, status = line.partition(mark)
            said += before
            if found:
                self.status = int(status)
                return said, self.status
        raise AssertionError(f"bash ended in {command!r}")

    def block(self, code, where):
        """Run every command of a block, and compare."""
        listed = commands(code)
        for (command, shown), following in zip(listed, [*listed[1:], None], strict=True):
            said, status = self.run(command)
            if following is None or following[0] != STATUS:
                assert status == 0, f"{where}: {command}\n{said}"
            if shown:
                same = doctest.OutputChecker().check_output(shown, said, doctest.ELLIPSIS)
                assert same, f"{where}: {command}\n--- shown\n{shown}--- said\n{said}"

    def close(self):
        """End bash."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait(timeout=10)


def quick_keystore(monkeypatch):
    """Make the default keystore, under a passphrase that is quick to check, and name the file that holds it."""
    from sealedhealth.keys.local import LocalKeyService

    home = Path(os.environ["SEALEDHEALTH_HOME"])
    phrase = home / "passphrase"
    phrase.write_text("correct horse battery staple")
    phrase.chmod(0o600)
    monkeypatch.setenv("SEALEDHEALTH_PASSPHRASE_FILE", str(phrase))
    LocalKeyService.init(home / "keystore", passphrase=phrase.read_text, opslimit=1, memlimit=8192).close()


@pytest.fixture
def shell():
    """A bash that ends with the test."""
    shell = Shell()
    yield shell
    shell.close()


@pytest.fixture
def vault(tmp_path_factory, monkeypatch):
    """Start an empty OpenBao, for hidden code: profiles and the program `bao` find it in place of the page's."""
    with contextlib.ExitStack() as stack:

        def start(*, raft=False):
            folder = tmp_path_factory.mktemp("bao")
            running = vault_servers.raft_server(folder) if raft else vault_servers.dev_server(folder, mount=False)
            server = stack.enter_context(running)
            monkeypatch.setenv("SEALEDHEALTH_VAULT_ADDRESS", server.address)
            monkeypatch.setenv("BAO_ADDR", server.address)
            monkeypatch.setenv("BAO_TOKEN", server.root_token)
            monkeypatch.setenv("ADMIN_TOKEN", server.root_token)
            monkeypatch.setenv("UNSEAL_KEY", server.unseal_key)

        yield start


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page, shell, tmp_path, monkeypatch, vault):
    """The examples of a page, one after the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    names = {"__name__": "__main__"}
    names |= {"setenv": monkeypatch.setenv, "keystore": lambda: quick_keystore(monkeypatch)}  # for hidden code
    names |= {"vault": vault, "page": page.read_text(encoding="utf-8")}
    for kind, code, line in blocks(page.read_text(encoding="utf-8")):
        if kind == "console":
            shell.block(code, f"{page.name}, line {line}")
        elif kind == "pycon":
            test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
            # clear_globs would hide the names from the next block
            failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed
            assert failures == 0, f"{page.name}, line {line}"
            names.update(test.globs)
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)


def test_blocks_are_found():
    """The pattern finds what it should and leaves out what says so."""
    fence = "```"
    text = (
        f"# Page\n\n{fence}python\none = 1\n{fence}\n\n"
        f"<!-- not run: needs a server -->\n{fence}python\nboom()\n{fence}\n"
        f"\n<!-- run\ntwo = 2\n-->\n\n{fence}pycon\n>>> one + two\n3\n{fence}\n\n{fence}console\n$ ls\n{fence}\n"
    )
    assert list(blocks(text)) == [
        ("python", "one = 1\n", 3),
        ("python", "two = 2\n", 12),
        ("pycon", ">>> one + two\n3\n", 16),
        ("console", "$ ls\n", 21),
    ]


def test_shell_blocks_are_compared(shell):
    """A block passes with what is said, and fails with anything else or a command that fails."""
    shell.block("$ export word=sealed\n$ echo $word \\\n    health\nsealed ...\n$ false\n$ echo $?\n1\n", "here")
    for wrong in ("$ echo $word\nopen\n", "$ false\n"):
        with pytest.raises(AssertionError):
            shell.block(wrong, "here")
