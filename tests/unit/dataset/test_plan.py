import os

import pytest

from sealedhealth.dataset.plan import batches, inside, plan_get, plan_put
from sealedhealth.errors import InvalidInput, InvalidPath, NotFound


class View:
    """A view over made-up files: path to entry."""

    def __init__(self, *paths):
        self.files = {path: object() for path in paths}

    def get(self, path):
        """The entry of a file."""
        return self.files.get(path)

    def is_dir(self, path):
        """Whether something lies under it."""
        return not path or any(name.startswith(path + "/") for name in self.files)

    def items(self, prefix=""):
        """Files under a directory."""
        return (
            (path, entry) for path, entry in sorted(self.files.items()) if not prefix or path.startswith(prefix + "/")
        )


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """labs/a.csv, labs/deep/b.csv and c.csv in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("labs/a.csv", "labs/deep/b.csv", "c.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def paths(sources, target, view=None, **options):
    """The logical paths that a put would write."""
    return [upload.path for upload in plan_put(sources, target, view or View(), **options)]


class TestPut:
    """What goes where when files are put."""

    @pytest.mark.parametrize(
        "sources,target,expected",
        [
            (["c.csv"], "", ["c.csv"]),
            (["c.csv"], "d.csv", ["d.csv"]),
            (["c.csv"], "x/", ["x/c.csv"]),
            (["c.csv"], "there", ["there/c.csv"]),
            (["labs"], "", ["labs/a.csv", "labs/deep/b.csv"]),
            (["labs"], "x", ["x/labs/a.csv", "x/labs/deep/b.csv"]),
            (["labs/"], "", ["a.csv", "deep/b.csv"]),
            (["labs/"], "x", ["x/a.csv", "x/deep/b.csv"]),
            (["labs/."], "x/", ["x/a.csv", "x/deep/b.csv"]),
            (["c.csv", "labs"], "x", ["x/c.csv", "x/labs/a.csv", "x/labs/deep/b.csv"]),
            (["c.csv", "labs/a.csv"], "", ["a.csv", "c.csv"]),
        ],
    )
    def test_rules(self, tree, sources, target, expected):
        """A directory goes under its own name, with a slash its content; a file into a directory, or as named."""
        assert paths(sources, target, View("there/z")) == expected

    def test_sizes_and_times(self, tree):
        """Sizes and modification times are those of the files."""
        os.utime("c.csv", ns=(0, 1_700_000_000_123_456_789))
        [upload] = plan_put(["c.csv"], "", None)
        assert (upload.size, upload.mtime_us) == (5, 1_700_000_000_123_456)

    def test_times_before_1970(self, tree):
        """A time before 1970 becomes 1970: entries have no earlier ones."""
        os.utime("c.csv", ns=(0, -1_000_000_000))
        [upload] = plan_put(["c.csv"], "", None)
        assert upload.mtime_us == 0

    def test_missing_source(self, tree):
        """A source that is not there is named."""
        with pytest.raises(NotFound, match=r"nope\.csv"):
            paths(["nope.csv"], "")

    def test_links(self, tree):
        """Links inside a directory are refused, followed or skipped, as asked; as a source they are followed."""
        (tree / "labs/link").symlink_to(tree / "c.csv")
        with pytest.raises(InvalidInput, match="symbolic link"):
            paths(["labs"], "")
        assert "labs/link" in paths(["labs"], "", links="follow")
        assert "labs/link" not in paths(["labs"], "", links="skip")
        (tree / "all").symlink_to(tree / "labs/deep")
        assert paths(["all"], "") == ["all/b.csv"]

    def test_link_loops_and_dead_links(self, tree):
        """A link that leads back to a directory above, or nowhere, is an error and no endless walk."""
        (tree / "labs/deep/up").symlink_to(tree / "labs")
        with pytest.raises(InvalidInput, match="leads back"):
            paths(["labs"], "", links="follow")
        (tree / "labs/deep/up").unlink()
        (tree / "labs/dead").symlink_to(tree / "nowhere")
        with pytest.raises(NotFound, match="nowhere"):
            paths(["labs"], "", links="follow")

    def test_special_files(self, tree):
        """A pipe is refused, named or found: reading it could wait for ever."""
        os.mkfifo(tree / "labs/pipe")
        with pytest.raises(InvalidInput, match="pipe"):
            paths(["labs"], "")
        with pytest.raises(InvalidInput, match="neither a file nor a directory"):
            paths(["labs/pipe"], "x")

    def test_two_for_one_path(self, tree):
        """Two sources for one path are refused, also when only Unicode normalisation makes them one."""
        (tree / "other").mkdir()
        (tree / "other/c.csv").write_text("x")
        with pytest.raises(InvalidInput, match="both become"):
            paths(["c.csv", "other/c.csv"], "")
        (tree / "labs/e\u0301").write_text("x")
        (tree / "labs/\u00e9").write_text("x")
        with pytest.raises(InvalidInput, match="both become"):
            paths(["labs"], "")

    def test_file_and_directory_at_once(self, tree):
        """A path cannot become a file and a directory."""
        (tree / "other").mkdir()
        (tree / "other/labs").write_text("a file")
        with pytest.raises(InvalidInput, match="file and a directory"):
            paths(["labs", "other/labs"], "")

    @pytest.mark.parametrize("name", [b"bad\xff", b"line\nend", b"back\\slash"])
    def test_names_that_are_no_paths(self, tree, name):
        """File names that cannot be paths are refused before anything is sealed."""
        os.close(os.open(os.fsencode(tree) + b"/labs/" + name, os.O_CREAT, 0o600))
        with pytest.raises(InvalidPath):
            paths(["labs"], "")

    @pytest.mark.parametrize("target", ["../x", "a//b", "a/./b", "a\x00b"])
    def test_bad_targets(self, tree, target):
        """A target that is no path is refused."""
        with pytest.raises(InvalidPath):
            paths(["c.csv"], target)

    def test_writer_that_cannot_read(self, tree):
        """An identity that cannot read may put; no directory is known to it."""
        assert [upload.path for upload in plan_put(["c.csv"], "there", None)] == ["there"]


class TestBatches:
    """When commits are made."""

    def test_by_size(self, tree):
        """A batch ends with the file that reaches the size; nothing is lost, order is kept."""
        uploads = plan_put(["labs", "c.csv"], "", None)
        assert [len(batch) for batch in batches(uploads, 1)] == [1, 1, 1]
        assert [len(batch) for batch in batches(uploads, 6)] == [2, 1]
        assert list(batches(uploads, None)) == [uploads]
        assert list(batches([], 10)) == []


class TestGet:
    """What goes where when files are fetched."""

    VIEW = View("a.csv", "labs/b.csv", "labs/deep/c.csv", "labs2/d.csv")

    def targets(self, path, destination):
        """Logical and local paths."""
        return [(name, local) for name, _, local in plan_get(self.VIEW, path, destination)]

    @pytest.mark.parametrize(
        "path,expected",
        [
            ("a.csv", [("a.csv", "out")]),
            ("labs", [("labs/b.csv", "out/labs/b.csv"), ("labs/deep/c.csv", "out/labs/deep/c.csv")]),
            ("labs/", [("labs/b.csv", "out/b.csv"), ("labs/deep/c.csv", "out/deep/c.csv")]),
            ("labs/deep", [("labs/deep/c.csv", "out/deep/c.csv")]),
            ("labs2", [("labs2/d.csv", "out/labs2/d.csv")]),
        ],
    )
    def test_rules(self, path, expected):
        """The mirror of put: a directory by its own name, with a trailing slash its content."""
        assert self.targets(path, "out") == expected

    def test_root(self):
        """The root has no name: what is in it arrives right in the destination."""
        assert self.targets("", "out")[0] == ("a.csv", "out/a.csv")

    def test_file_into_a_directory(self, tmp_path):
        """A file arrives in a directory that is there, or that a trailing slash names."""
        assert self.targets("labs/b.csv", str(tmp_path)) == [("labs/b.csv", f"{tmp_path}/b.csv")]
        assert self.targets("labs/b.csv", "new/") == [("labs/b.csv", "new/b.csv")]

    def test_missing(self):
        """What is not there is named."""
        with pytest.raises(NotFound, match="nope"):
            self.targets("nope", "out")


def test_inside():
    """Slashes at the ends do not matter; the rest has to be canonical."""
    assert inside("/labs/a/") == "labs/a"
    assert inside("/") == ""
    with pytest.raises(InvalidPath):
        inside("labs/../a")
