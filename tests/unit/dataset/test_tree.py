from types import SimpleNamespace

import pytest

from sealedhealth.dataset.tree import Change, differences, pairs
from sealedhealth.errors import InvalidInput, NotFound


class View:
    """A view over made-up files: path to content."""

    def __init__(self, **files):
        self.files = {
            path.replace("__", "/"): SimpleNamespace(size=len(content), content=content)
            for path, content in files.items()
        }

    def get(self, path):
        """The entry of a file."""
        return self.files.get(path)

    def is_dir(self, path):
        """Whether something lies under it."""
        return not path or any(name.startswith(path + "/") for name in self.files)

    def items(self, prefix=""):
        """Files under a directory, or the one file."""
        return (
            (path, entry)
            for path, entry in sorted(self.files.items())
            if not prefix or path == prefix or path.startswith(prefix + "/")
        )


def test_differences():
    """Added, changed and removed paths come out sorted; what is the same does not."""
    before = View(a="1", b="22", d__x="3", z="9")
    after = View(a="1", b="333", c="4", d__y="5", z="9")
    assert list(differences(before, after, "")) == [
        Change("changed", "b", 2, 3),
        Change("added", "c", None, 1),
        Change("removed", "d/x", 1, None),
        Change("added", "d/y", None, 1),
    ]
    assert [change.path for change in differences(before, after, "d")] == ["d/x", "d/y"]
    assert list(differences(before, before, "")) == []


@pytest.mark.parametrize(
    "source,target,expected",
    [
        ("a", "b", [("a", "b")]),
        ("a", "d", [("a", "d/a")]),
        ("a", "new/", [("a", "new/a")]),
        ("d/x", "", [("d/x", "x")]),
        ("d", "e", [("d/x", "e/x"), ("d/y/z", "e/y/z")]),
        ("d", "f", [("d/x", "f/d/x"), ("d/y/z", "f/d/y/z")]),
    ],
)
def test_pairs(source, target, expected):
    """As in the shell: into a directory that is there, else under the new name."""
    view = View(a="1", d__x="2", d__y__z="3", f__g="4")
    assert pairs(view, source, target, recursive=True) == expected


@pytest.mark.parametrize(
    "source,target,error",
    [
        ("nope", "b", NotFound),
        ("", "b", InvalidInput),
        ("d", "d/e", InvalidInput),
        ("a", "a", InvalidInput),
        ("d", "d", InvalidInput),
    ],
)
def test_pairs_that_make_no_sense(source, target, error):
    """Nothing is copied onto or into itself, and the root stays where it is."""
    with pytest.raises(error):
        pairs(View(a="1", d__x="2"), source, target, recursive=True)


def test_directories_take_recursive():
    """A directory is only copied when that was said."""
    with pytest.raises(InvalidInput, match="directory"):
        pairs(View(d__x="2"), "d", "e", recursive=False)
