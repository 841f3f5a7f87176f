"""Every Python example of the README and of the documentation runs.

The blocks of one page run in order and share their names, in an empty directory.  An HTML
comment before a block says that it cannot run, and why: ``<!-- not run: needs a Vault -->``.
A comment that begins with ``<!-- run`` holds code for a page that its readers need not see.
"""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+-->\s*\n+)?^```(?P<kind>python|pycon)[^\n]*\n(?P<code>.*?)^```$"
    r"|^<!-- run\n(?P<hidden>.*?)^-->$",
    re.MULTILINE | re.DOTALL,
)


def blocks(text):
    """Kind, code and line number of every block that runs."""
    for found in BLOCK.finditer(text):
        if found["skip"]:
            continue
        group = "hidden" if found["hidden"] is not None else "code"
        yield found["kind"] or "python", found[group], text.count("\n", 0, found.start(group))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples(page, tmp_path, monkeypatch):
    """The examples of a page, one after the other."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for kind, code, line in blocks(page.read_text(encoding="utf-8")):
        if kind == "pycon":
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
    ]
