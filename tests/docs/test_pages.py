"""What the pages point to is there, and what they quote is what the program says."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from sealedhealth.cli.app import cli, commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_references(page):
    """Every test that a page names exists, and every file that it links to."""
    text = page.read_text(encoding="utf-8")
    for file, name in TEST.findall(text):
        assert (ROOT / file).is_file(), file
        if name:
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), target


def pages_of_commands():
    """Every verb as docs/cli.md shows it: its name and what --help says, at 100 columns."""
    runner = CliRunner()
    found = {}
    for name, command in {"": cli, **commands()}.items():
        below = getattr(command, "commands", {}) if name else {}
        for words in [[name] if name else [], *([name, verb] for verb in below)]:
            result = runner.invoke(cli, [*words, "--help"], prog_name="sealedhealth", terminal_width=100)
            assert result.exit_code == 0
            found[" ".join(["sealedhealth", *words])] = result.output
    return found


def written():
    """docs/cli.md as it has to be."""
    parts = ["# Commands\n\nWhat `--help` says. A test compares; `python tests/docs/test_pages.py` writes this page.\n"]
    parts += [f"\n## {name}\n\n```text\n{said.rstrip()}\n```\n" for name, said in pages_of_commands().items()]
    return "".join(parts)


def test_commands_page():
    """docs/cli.md holds every verb, as --help shows it."""
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == written()


if __name__ == "__main__":
    (ROOT / "docs/cli.md").write_text(written(), encoding="utf-8")
