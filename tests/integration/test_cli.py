"""The command line as its users run it: a process, its streams and its exit status."""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
import uuid
from pathlib import Path

import pytest

from sealedhealth import Dataset
from sealedhealth.profiles import create_keystore, disconnect, load_profile

# A forked test process only runs what is set up here; Python 3.12 and later warn of any fork beside threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

SEALEDHEALTH = str(Path(sys.executable).parent / "sealedhealth")
PHRASE = "correct-horse-battery-staple"


class Cli:
    """Runs sealedhealth in a directory of its own, without a terminal."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SEALEDHEALTH_")},
            "SEALEDHEALTH_HOME": str(folder / "home"),
        }
        self.said = ""

    def start(self, *arguments, **options):
        """A process that runs."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        # A job in the background of a shell is started deaf to Ctrl-C, and would pass that on.
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen([SEALEDHEALTH, *arguments], cwd=self.folder, env=self.env, **options)
        finally:
            signal.signal(signal.SIGINT, heard)

    def run(self, *arguments, code=0, data=None, **options):
        """Standard output and error of a command that has to end with *code*."""
        if data is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        out, err = (stream.decode() if stream is not None else "" for stream in process.communicate(data, timeout=60))
        self.said += out + err
        assert process.returncode == code, (arguments, process.returncode, out, err)
        assert "Traceback" not in err
        return out, err

    def ok(self, *arguments, **options):
        """Standard output of a command that has to succeed."""
        return self.run(*arguments, **options)[0]

    def json(self, *arguments, **options):
        """The documents that a command prints with --json."""
        out, err = self.run(*arguments, "--json", **options)
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]

    def fails(self, code, *arguments, **options):
        """The error of a command that has to fail, checked as text and as JSON."""
        _, err = self.run(*arguments, "--json", code=code, **options)
        error = json.loads(err)
        assert set(error) >= {"class", "what", "safe", "next", "exit_code"}
        assert error["exit_code"] == code
        assert error["what"]
        return error

    def write(self, name, content):
        """A local file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def object_files(self, root="ds"):
        """The sealed objects of a dataset."""
        return sorted(path for path in (self.folder / root / "objects").rglob("*") if path.is_file())


@pytest.fixture
def bare(tmp_path):
    """A command line without a keystore."""
    return Cli(tmp_path)


@pytest.fixture
def cli(bare, monkeypatch):
    """A command line with a development keystore and an empty dataset at ./ds, made without its help."""
    monkeypatch.setenv("SEALEDHEALTH_HOME", bare.env["SEALEDHEALTH_HOME"])
    create_keystore(load_profile(), development=True)
    bare.dataset = Dataset.create(str(bare.folder / "ds"))
    yield bare
    disconnect()


@pytest.fixture
def full(cli):
    """The same with labs/a.csv (commit 1) and labs/deep/b.bin (commit 2)."""
    cli.write("labs/a.csv", "person_id,value\n1,7\n")
    cli.dataset.put(cli.folder / "labs", message="first")
    cli.write("labs/deep/b.bin", bytes(range(256)) * 2000)
    cli.dataset.put(cli.folder / "labs/deep", "labs", message="second")
    return cli


class TestVerbs:
    """What each verb does."""

    def test_create_and_keystore(self, bare):
        """A keystore and a dataset are made; a development keystore is labelled wherever it is listed."""
        assert "[local (development)]" in bare.ok("keystore", "init", "--development")
        out, err = bare.run("create", "ds")
        assert "Made dataset" in out
        assert "development" in err
        listed = bare.json("keystore", "list")
        assert listed[0]["label"] == "local (development)"
        assert listed[1]["urls"] == [f"file://{bare.folder}/ds"]
        assert "local (development)" in bare.ok("keystore", "list")
        assert "local (development)" in bare.ok("profile", "list")
        assert "local (development)" in bare.ok("profile", "show")
        assert "development keystore" in bare.ok("doctor")

    def test_put_ls_get(self, full):
        """What was put is listed, and comes back the same, with its times."""
        assert full.ok("ls", "ds") == "labs/\n"
        assert full.ok("ls", "ds/labs") == "a.csv\ndeep/\n"
        assert full.ok("ls", "-R", "ds") == "labs/a.csv\nlabs/deep/b.bin\n"
        long = full.ok("ls", "-l", "ds/labs/a.csv")
        assert re.fullmatch(r" +20  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  a\.csv\n", long)
        [file, folder] = full.json("ls", "ds/labs")
        assert (file["path"], file["type"], file["size"]) == ("labs/a.csv", "file", 20)
        assert folder == {"path": "labs/deep", "type": "directory"}
        [got] = full.json("get", "ds/labs", "out")
        assert (got["files"], got["bytes"]) == (2, 20 + 512_000)
        for name in ("a.csv", "deep/b.bin"):
            here, there = full.folder / "labs" / name, full.folder / "out/labs" / name
            assert there.read_bytes() == here.read_bytes()
            assert there.stat().st_mtime_ns // 1000 == here.stat().st_mtime_ns // 1000
        assert not list((full.folder / "out").rglob(".sealedhealth-*"))

    def test_urls_of_local_datasets(self, full):
        """A dataset is found by a relative path, one with dots, an absolute one and a URL."""
        absolute = str(full.folder / "ds")
        for url in (
            "ds",
            "./ds/",
            "labs/../ds",
            absolute,
            f"file://{absolute}",
            f"sealed::file://{absolute}",
            "sealed::ds",
        ):
            assert full.ok("ls", url) == "labs/\n"

    def test_put_update(self, full):
        """--update seals what changed only; when nothing did there is no commit."""
        [done] = full.json("put", "--update", "labs", "ds")
        assert (done["files"], done["skipped"], done["commits"]) == (0, 2, [])
        full.write("labs/a.csv", "changed")
        [done] = full.json("put", "--update", "labs", "ds")
        assert (done["files"], done["skipped"], done["commits"]) == (1, 1, [3])
        assert full.ok("cat", "ds/labs/a.csv") == "changed"
        [got] = full.json("get", "--update", "ds/labs", ".")
        assert (got["files"], got["skipped"]) == (0, 2)

    def test_put_commit_every(self, cli):
        """--commit-every makes several commits."""
        for index in range(5):
            cli.write(f"many/{index}", bytes(1000))
        [done] = cli.json("put", "--commit-every", "2000", "many/", "ds")
        assert done["commits"] == [1, 2, 3]
        assert len(cli.json("ls", "ds")) == 5

    def test_standard_streams(self, cli):
        """Standard input is put, and cat gives it back, byte by byte."""
        content = os.urandom(3_000_000)
        [done] = cli.json("put", "-", "ds/x/dump.bin", data=content)
        assert (done["files"], done["bytes"], done["commits"]) == (1, 3_000_000, [1])
        process = cli.start("cat", "ds/x/dump.bin")
        assert process.communicate()[0] == content
        assert cli.fails(2, "put", "-", "ds", data=b"x")["class"] == "InvalidInput"
        assert cli.fails(2, "put", "-", "-", "ds/x", data=b"x")["class"] == "UsageError"

    def test_cp_mv_rm(self, full):
        """Copies, moves and deletions are one commit each and touch no object."""
        before = full.object_files()
        assert full.json("cp", "-r", "ds/labs", "ds/copy") == [{"files": 2, "commit": 3}]
        assert full.json("mv", "ds/copy/a.csv", "ds/renamed.csv") == [{"files": 1, "commit": 4}]
        assert full.json("rm", "-r", "ds/labs", "ds/renamed.csv") == [{"files": 3, "commit": 5}]
        assert full.ok("ls", "-R", "ds") == "copy/deep/b.bin\n"
        assert full.object_files() == before
        assert full.fails(2, "rm", "ds/copy")["class"] == "InvalidInput"
        assert full.fails(2, "cp", "ds/copy", "ds/x")["class"] == "InvalidInput"
        assert full.fails(3, "rm", "ds/copy/deep/b.bin", "ds/nope")["class"] == "NotFound"
        assert full.ok("ls", "-R", "ds") == "copy/deep/b.bin\n"

    def test_between_datasets(self, full):
        """Copies and moves stay inside one dataset."""
        full.run("create", "other")
        assert "get and put" in full.fails(2, "cp", "ds/labs/a.csv", "other/a.csv")["next"]

    def test_du(self, full):
        """Sizes add up; what is stored is a little more."""
        rows = {row["path"]: row for row in full.json("du", "ds")}
        assert rows[""]["bytes"] == rows["labs"]["bytes"] == 512_020
        assert rows[""]["files"] == 2
        assert rows[""]["sealed_bytes"] > 512_020
        assert full.ok("du", "-s", "ds").splitlines()[-1].endswith("total")
        assert full.json("du", "ds/labs/a.csv")[0]["bytes"] == 20

    def test_history(self, full):
        """log, diff, --at, tag and restore tell and undo what happened."""
        full.run("rm", "ds/labs/a.csv", "-m", "a mistake")
        commits = full.json("log", "ds")
        assert [commit["commit"] for commit in commits] == [3, 2, 1, 0]
        assert [commit["message"] for commit in commits[:3]] == ["a mistake", "second", "first"]
        assert [commit["put"] for commit in commits[:3]] == [0, 1, 1]
        assert all(len(key) == 32 for commit in commits for key in commit["keys"])
        assert len(full.json("log", "-n", "2", "ds")) == 2
        assert "a mistake" in full.ok("log", "ds")
        assert full.ok("diff", "ds") == "D  labs/a.csv\n"
        assert full.ok("diff", "ds", "0", "2") == "A  labs/a.csv\nA  labs/deep/b.bin\n"
        assert full.json("diff", "ds", "1")[0]["change"] == "removed"
        assert full.ok("ls", "--at", "1", "ds/labs") == "a.csv\n"
        assert full.ok("cat", "--at", "1", "ds/labs/a.csv").startswith("person_id")
        full.run("tag", "ds", "before", "--at", "2")
        assert full.json("tag", "ds") == [{"tag": "before", "commit": 2}]
        assert full.ok("ls", "--at", "before", "ds/labs") == "a.csv\ndeep/\n"
        assert full.ok("restore", "ds", "--at", "before", "--dry-run") == "A  labs/a.csv\n"
        assert full.ok("ls", "ds/labs") == "deep/\n"
        assert full.ok("restore", "ds", "--at", "before") == "A  labs/a.csv\n"
        assert full.ok("ls", "ds/labs") == "a.csv\ndeep/\n"
        full.run("tag", "ds", "before", "--delete")
        assert full.json("tag", "ds") == []
        assert full.fails(3, "ls", "--at", "before", "ds")["class"] == "NotFound"

    def test_verify(self, full):
        """A good dataset verifies, log and data."""
        [report] = full.json("verify", "ds")
        assert report["verified"] is True
        assert (report["files"], report["bytes"]) == (2, 512_020)
        assert full.json("verify", "--log-only", "ds")[0]["bytes"] == 0
        assert "is what its authors signed" in full.ok("verify", "ds")

    def test_inspect_needs_no_key(self, full):
        """Datasets, objects, links and change sets show their public part to somebody without a keystore."""
        shutil.rmtree(full.folder / "home")
        [dataset] = full.json("inspect", "ds", "--objects")
        assert (dataset["what"], dataset["links"], dataset["objects"]) == ("dataset", 3, 2)
        assert dataset["newest_link"]["commit"] == 2
        sizes = {full.json("inspect", str(path))[0]["plain_size"] for path in full.object_files()}
        assert sizes == {20, 512_000}
        log = full.folder / "ds/.sealedhealth"
        assert full.json("inspect", str(log / "dataset"))[0]["what"] == "descriptor"
        assert {full.json("inspect", str(path))[0]["what"] for path in (log / "log").iterdir()} == {"link"}
        found = [full.json("inspect", str(path))[0] for path in (log / "changes").iterdir()]
        assert sorted(change["kind"] for change in found) == ["data", "data", "policy"]
        assert "labs" not in full.ok("inspect", "ds")
        assert not (full.folder / "home").exists()
        assert full.fails(3, "inspect", "labs")["class"] == "NotFound"
        assert full.fails(2, "inspect", "labs/deep/b.bin")["exit_code"] == 2

    def test_upkeep(self, full):
        """Checkpoints, garbage collection, rotation and rewrapping leave every file as it was."""
        assert full.json("maintain", "ds") == [{"checkpoint": None}]
        [done] = full.json("maintain", "--force", "ds")
        assert done["checkpoint"]["entries"] == 2
        assert full.json("rotate", "ds")[0]["version"] == 2
        [report] = full.json("rewrap", "ds")
        assert report["keys"] > 0
        assert report["objects_rewritten"] == 0
        full.run("rm", "ds/labs/a.csv")
        assert full.json("gc", "--dry-run", "--grace", "0s", "ds")[0]["dropped"] == 1
        assert len(full.object_files()) == 2
        assert full.json("gc", "ds")[0]["dropped"] == 0
        assert full.json("gc", "--grace", "0s", "ds")[0]["dropped"] == 1
        assert len(full.object_files()) == 1
        assert full.json("verify", "ds")[0]["files"] == 1

    def test_destroy_keys_of_a_commit(self, full):
        """What the commit sealed is gone for good, and says why; everything else is still there."""
        assert "--yes" in full.fails(2, "destroy", "--commit", "1", "ds")["what"]
        assert full.fails(2, "destroy", "--yes", "ds")["class"] == "UsageError"
        assert full.fails(2, "destroy", "--commit", "1", "--dataset", "--yes", "ds")["class"] == "UsageError"
        assert full.fails(3, "destroy", "--commit", "99", "--yes", "ds")["class"] == "NotFound"
        full.run("cp", "ds/labs/a.csv", "ds/copy.csv")
        assert full.ok("cat", "ds/copy.csv")
        [report] = full.json("destroy", "--commit", "1", "--yes", "ds")
        assert len(report["keys"]) == 1
        assert full.fails(4, "cat", "ds/copy.csv")["class"] == "KeyDestroyed"
        assert len(full.ok("get", "ds/labs/deep", "out")) > 0

    def test_destroy_a_dataset(self, full):
        """A destroyed dataset cannot be opened any more; its place can be used again."""
        full.run("destroy", "--dataset", "--yes", "ds")
        assert full.fails(4, "ls", "ds")["class"] == "KeyDestroyed"
        assert full.json("keystore", "list")[1]["destroyed"] is True

    def test_profiles(self, full):
        """A profile is written, listed, shown and used."""
        config = full.folder / "config.toml"
        full.env["SEALEDHEALTH_CONFIG"] = str(config)
        keystore = str(full.folder / "home/keystore")
        full.run("profile", "init", "job", "--keystore", keystore, "--store", "auto_mkdir=true")
        assert [row["profile"] for row in full.json("profile", "list")] == ["job", "local"]
        [shown] = full.json("profile", "show", "job")
        assert (shown["keystore"], shown["store"]) == (keystore, {"auto_mkdir": True})
        assert full.ok("ls", "--profile", "job", "ds") == "labs/\n"
        full.env["SEALEDHEALTH_PROFILE"] = "job"
        assert full.ok("ls", "ds") == "labs/\n"
        before = config.read_bytes()
        assert full.fails(6, "profile", "init", "job")["class"] == "AlreadyExists"
        assert full.fails(2, "profile", "init", "other", "--store", "secret=x")["class"] == "InvalidInput"
        assert full.fails(2, "profile", "init", "../x")["class"] == "InvalidInput"
        assert config.read_bytes() == before

    def test_register(self, full):
        """After a move, the dataset is registered at its new place; verbs about a dataset take no path."""
        (full.folder / "ds").rename(full.folder / "moved")
        dataset = full.json("keystore", "list")[1]["dataset"]
        [done] = full.json("register", dataset, "moved")
        assert (done["dataset"], done["commit"]) == (dataset, 2)
        assert full.ok("ls", "moved") == "labs/\n"
        assert full.fails(3, "ls", "ds")["class"] == "NotFound"
        assert full.fails(2, "log", "moved/labs")["class"] == "UsageError"

    def test_log_and_verify_say_where(self, full):
        """Each commit with the place it was written at: as text, and as JSON with all that is known of it."""
        config = full.write("profiles.toml", '[profiles.local.residency]\njurisdiction = "FR"\n')
        full.env["SEALEDHEALTH_CONFIG"] = str(config)
        full.ok("put", full.write("late.csv", "x,3"), "ds/labs/")
        lines = full.ok("log", "ds").splitlines()
        assert "WHERE" in lines[0]
        assert ["file (FR)" in line for line in lines[1:]] == [True, *[False] * (len(lines) - 2)]
        assert all(" file " in line for line in lines[1:])
        place = {"store": "file", "endpoint": "", "region": "", "jurisdiction": ""}
        commits = full.json("log", "ds")
        assert [commit["locations"] for commit in commits[:2]] == [[{**place, "jurisdiction": "FR"}], [place]]
        last = commits[0]["commit"]
        assert f"file, commits 0 to {last - 1}; file (FR), commit {last}" in full.ok("verify", "ds")
        [report] = full.json("verify", "ds")
        assert [found["location"] for found in report["locations"]] == [place, {**place, "jurisdiction": "FR"}]
        assert [found["commits"] for found in report["locations"]] == [last, 1]

    def test_void(self, full):
        """A commit that nobody can read stops everybody until it is taken back; that is asked for, and shown."""
        assert "nothing is to be taken back" in full.ok("void", "ds")
        before = full.ok("ls", "ds/labs")
        last = full.json("log", "ds")[0]["commit"]
        full.ok("put", full.write("late.csv", "x,3"), "ds/labs/")
        newest = max((full.folder / "ds/.sealedhealth/changes").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        newest.unlink()
        assert "sealedhealth void" in full.fails(5, "ls", "ds/labs")["next"]
        [plan] = full.json("void", "ds", "--dry-run")
        assert (plan["done"], plan["first"], plan["commit"]) == (False, last + 1, last + 2)
        assert plan["missing"] == [newest.name]
        full.run("void", "ds", code=130)  # nobody there to ask
        assert full.fails(5, "ls", "ds/labs")
        [done] = full.json("void", "ds", "--yes")
        assert done == {**plan, "done": True}
        assert full.ok("ls", "ds/labs") == before
        assert "void: The data controller took it back" in full.ok("log", "ds")
        assert full.json("verify", "ds")[0]["void"] == 1

    def test_keystore_backup(self, full):
        """A backup brings everything back; an older one than the last commit is noticed."""
        assert full.fails(2, "keystore", "backup", "ks.zip")["class"] == "InvalidInput"
        full.run("keystore", "backup", "--development", "ks.zip")
        shutil.rmtree(full.folder / "home")
        full.run("keystore", "restore", "ks.zip")
        assert full.ok("ls", "ds") == "labs/\n"
        full.run("rm", "ds/labs/a.csv")
        shutil.rmtree(full.folder / "home/keystore")
        full.run("keystore", "restore", "ks.zip")
        assert full.fails(5, "ls", "ds")["class"] == "AnchorRolledBack"

    def test_doctor(self, full):
        """All is well, or the exit code says that it is not."""
        states = {row["check"]: row["state"] for row in full.json("doctor", "ds")}
        assert states["dataset"] == states["reading"] == states["fsspec protocols"] == "ok"
        (full.folder / "home/keystore").chmod(0o755)
        out, _ = full.run("doctor", "--json", code=4)
        assert {"keystore access"} == {
            row["check"] for row in map(json.loads, out.splitlines()) if row["state"] == "failed"
        }


@pytest.mark.moto
def test_s3(bare, moto_server):
    """The same verbs on S3; credentials come from where s3fs looks for them, and are never shown."""
    bare.env |= {"AWS_ACCESS_KEY_ID": moto_server.key, "AWS_SECRET_ACCESS_KEY": moto_server.secret}
    bare.env["SEALEDHEALTH_CONFIG"] = str(
        bare.write("c.toml", f"[profiles.local.store]\nendpoint_url = '{moto_server.endpoint_url}'\n")
    )
    url = f"s3://foreign-host/{uuid.uuid4().hex}"
    bare.run("keystore", "init", "--development")
    bare.run("create", url)
    bare.write("labs/a.bin", os.urandom(9 << 20))
    bare.write("labs/b.csv", "b")
    bare.run("put", "labs", url)
    assert bare.ok("ls", "-R", f"{url}/labs") == "a.bin\nb.csv\n"
    bare.run("get", f"{url}/labs/", "out")
    assert (bare.folder / "out/a.bin").read_bytes() == (bare.folder / "labs/a.bin").read_bytes()
    assert bare.json("verify", url)[0]["files"] == 2
    assert bare.json("inspect", url, "--objects")[0]["objects"] == 2
    assert bare.json("doctor", url)[-1]["detail"] == "2 files"
    assert bare.fails(3, "create", "s3://no-such-bucket-here/x")["class"] == "NotFound"
    assert moto_server.secret not in bare.said


class TestExitCodes:
    """One exit code for each class of errors; never a traceback."""

    def test_usage(self, full):
        """2: what cannot be used as given."""
        assert full.fails(2, "ls")["class"] == "MissingParameter"
        assert full.fails(2, "ls", "--nope", "ds")["class"] == "NoSuchOption"
        assert full.fails(2, "put", "--commit-every", "some", "labs", "ds")["class"] == "BadParameter"
        assert full.fails(2, "ls", "--profile", "nope", "ds")["class"] == "InvalidInput"
        assert full.fails(2, "put", "labs/a.csv", "ds/a\x01b")["class"] == "InvalidPath"
        assert full.fails(2, "tag", "ds", "12")["class"] == "InvalidInput"
        full.env["SEALEDHEALTH_CONFIG"] = str(full.write("c.toml", "[profiles.local]\nnope = 1\n"))
        error = full.fails(2, "ls", "ds")
        assert "'nope'" in error["what"]
        assert "c.toml" in error["what"]

    def test_not_found(self, full):
        """3: no such dataset, path, snapshot, tag or source."""
        for arguments in (
            ["ls", "nowhere"],
            ["ls", "ds/nope"],
            ["cat", "ds/labs"],
            ["ls", "--at", "99", "ds"],
            ["ls", "--at", "nope", "ds"],
            ["put", "nope.csv", "ds"],
            ["get", "ds/nope", "."],
            ["tag", "ds", "nope", "--delete"],
        ):
            assert full.fails(3, *arguments)["class"] == "NotFound", arguments

    def test_access(self, bare):
        """4: no keystore, or no way to a passphrase; nothing is made instead."""
        assert "keystore init" in bare.fails(4, "create", "ds")["next"]
        assert "SEALEDHEALTH_PASSPHRASE_FILE" in bare.fails(4, "keystore", "init")["next"]
        assert not (bare.folder / "home").exists()
        assert not (bare.folder / "ds").exists()

    def test_local_files(self, full):
        """Errors of this machine's own files are errors too, not tracebacks."""
        full.write("file", "x")
        error = full.fails(1, "get", "ds/labs", "file/below")
        assert error["class"] == "NotADirectoryError"
        assert "file/below" in error["what"]
        assert ".part" not in error["what"]
        assert error["next"]

    def test_no_room_for_what_arrives(self, full):
        """A local disk that is full is named by the file that did not fit."""

        def small_files_only():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))

        error = full.fails(1, "get", "ds/labs", "out", preexec_fn=small_files_only)
        assert "out/labs/deep/b.bin" in error["what"]
        assert "room" in error["next"]
        assert not (full.folder / "out/labs/deep/b.bin").exists()

    @pytest.mark.parametrize("how", ["flip", "truncate", "swap", "delete"])
    def test_integrity(self, full, how):
        """5: a changed, shorter, swapped or missing object; no byte of it comes out."""
        small, large = sorted(full.object_files(), key=lambda path: path.stat().st_size)
        data = large.read_bytes()
        if how == "flip":
            large.write_bytes(data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:])
        elif how == "truncate":
            large.write_bytes(data[:-1])
        elif how == "swap":
            large.write_bytes(small.read_bytes())
            small.write_bytes(data)
        else:
            large.unlink()
        assert full.fails(5, "get", "ds/labs/deep/b.bin", "out.bin")["exit_code"] == 5
        assert not (full.folder / "out.bin").exists()
        assert full.fails(5, "verify", "ds")["failures"]
        if how != "swap":
            assert full.ok("cat", "ds/labs/a.csv")

    def test_rollback(self, full):
        """5: an old copy of the whole store is noticed."""
        shutil.copytree(full.folder / "ds", full.folder / "old")
        full.run("rm", "ds/labs/a.csv")
        shutil.rmtree(full.folder / "ds")
        (full.folder / "old").rename(full.folder / "ds")
        assert full.fails(5, "ls", "ds")["exit_code"] == 5

    def test_another_dataset(self, full):
        """5: another genuine dataset at this place is noticed."""
        full.run("create", "other")
        shutil.rmtree(full.folder / "ds")
        shutil.copytree(full.folder / "other", full.folder / "ds")
        assert full.fails(5, "ls", "ds")["class"] == "DatasetMismatch"

    def test_conflict(self, full):
        """6: what should be new exists already."""
        assert full.fails(6, "create", "ds")["class"] == "AlreadyExists"
        assert full.fails(6, "keystore", "init", "--development")["class"] == "AlreadyExists"

    def test_full_disk(self, full):
        """7: a store that takes no more; the last commit is untouched."""
        full.write("big.bin", bytes(8 << 20))

        def small_files_only():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        assert full.fails(7, "put", "big.bin", "ds", preexec_fn=small_files_only)["class"] == "StoreError"
        assert full.ok("ls", "ds") == "labs/\n"
        assert full.json("verify", "ds")[0]["files"] == 2

    def test_unreachable(self, full):
        """7: a store that does not answer."""
        full.env |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        full.env["SEALEDHEALTH_CONFIG"] = str(
            full.write("c.toml", "[profiles.local.store]\nendpoint_url = 'http://127.0.0.1:9'\n")
        )
        assert full.fails(7, "create", "s3://bucket/x")["class"] == "ServiceUnavailable"


class TestWhatErrorsSay:
    """What happened, what is safe, and what to do next: in words that fit."""

    def test_ordinary_file(self, full):
        """A file that was never sealed is no integrity failure."""
        for content in ("x", "x" * 200):
            full.write("plain.txt", content)
            error = full.fails(2, "inspect", "plain.txt")
            assert "not a sealed object" in error["what"]
            assert error["next"]

    def test_descriptor(self, full):
        """A descriptor that is junk is named, with what to do."""
        (full.folder / "ds/.sealedhealth/dataset").write_text("junk")
        for verb in ("ls", "inspect"):
            error = full.fails(5, verb, "ds")
            assert ".sealedhealth/dataset" in error["what"]
            assert error["safe"]
            assert "copy" in error["next"]

    def test_links(self, cli):
        """Links that lead nowhere or back say how to go on."""
        cli.write("a/x", "x")
        for target in ("nowhere", ".."):
            (cli.folder / "a/link").symlink_to(target)
            code = 3 if target == "nowhere" else 2
            assert "--links skip" in cli.fails(code, "put", "a", "ds", "--links", "follow")["next"]
            (cli.folder / "a/link").unlink()

    @pytest.mark.parametrize(
        "code,arguments,following",
        [
            (3, ["tag", "ds", "nope", "--delete"], "sealedhealth tag"),
            (3, ["restore", "ds/nope", "--at", "0"], "sealedhealth ls --at"),
            (2, ["register", "abc", "ds"], "keystore list"),
            (3, ["ls", "elsewhere"], "sealedhealth register"),
        ],
    )
    def test_next(self, cli, code, arguments, following):
        """What to do next is a command that exists."""
        assert following in cli.fails(code, *arguments)["next"]

    def test_old_copy(self, full):
        """An older copy of the store is among what a missing link or change set can mean."""
        shutil.copytree(full.folder / "ds", full.folder / "old")
        full.run("rm", "ds/labs/a.csv")
        shutil.rmtree(full.folder / "ds")
        (full.folder / "old").rename(full.folder / "ds")
        assert "older copy" in full.fails(5, "ls", "ds")["next"]

    def test_paths_of_reading(self, cli):
        """A path that cannot be read was not about to be written."""
        error = cli.fails(2, "cat", "ds/a\\b")
        assert error["class"] == "InvalidPath"
        assert error["safe"] == "Nothing was read or written."

    def test_plurals(self, full):
        """One is one."""
        assert "1 wrap was tried" in full.ok("destroy", "--commit", "2", "--yes", "ds")
        small, _ = sorted(full.object_files(), key=lambda path: path.stat().st_size)
        small.unlink()
        error = full.fails(5, "verify", "ds")
        assert error["what"].startswith("1 check failed: ")
        assert ".." not in error["what"]

    def test_gc_counts_unfinished(self, full):
        """What writers that were killed left behind is counted."""
        full.write("ds/objects/00/.tmp-1", "x")
        os.utime(full.folder / "ds/objects/00/.tmp-1", (0, 0))
        assert full.json("gc", "ds")[0]["unfinished"] == 1
        assert "unfinished" not in full.ok("gc", "ds")
        full.write("ds/objects/00/.tmp-1", "x")
        os.utime(full.folder / "ds/objects/00/.tmp-1", (0, 0))
        assert "1 unfinished file" in full.ok("gc", "ds")

    def test_prefix(self, full):
        """sealed:: in front of a URL changes nothing, for any verb."""
        assert full.ok("inspect", "sealed::ds") == full.ok("inspect", "ds")
        assert full.ok("ls", "sealed::ds") == full.ok("ls", "ds")
        assert full.ok("inspect", f"sealed+file://{full.folder}/ds") == full.ok("inspect", "ds")


class TestGuards:
    """What would give data or keys away is refused or warned of."""

    def test_backup_to_the_host(self, cli):
        """No backup of the keys goes to the host of the data."""
        error = cli.fails(2, "keystore", "backup", "ds/keys.zip", "--development")
        assert "ds" in error["what"]
        assert error["next"]
        assert not (cli.folder / "ds/keys.zip").exists()
        cli.ok("keystore", "backup", "keys.zip", "--development")

    def test_short_passphrase(self, bare):
        """A new passphrase has at least eight characters."""
        phrase = bare.write("phrase", "1234567\n")
        phrase.chmod(0o600)
        bare.env["SEALEDHEALTH_PASSPHRASE_FILE"] = str(phrase)
        error = bare.fails(2, "keystore", "init")
        assert "8 characters" in error["what"]
        assert "1234567" not in bare.said
        assert error["next"]
        assert not (bare.folder / "home/keystore").exists()

    def test_short_passphrase_on_a_terminal(self, bare):
        """Typed, it is asked for again."""
        answers = [("New passphrase", "1234567"), ("New passphrase", PHRASE), ("Again", PHRASE)]
        said, status = on_terminal(bare, ["keystore", "init"], answers)
        assert status == 0, said
        assert "8 characters" in said

    def test_change_of_passphrase(self, bare):
        """The old passphrase opens nothing any more, the new one does."""
        old, new = bare.write("old", PHRASE), bare.write("new", PHRASE[::-1])
        short = bare.write("short", "short")
        for file in (old, new, short):
            file.chmod(0o600)
        bare.env["SEALEDHEALTH_PASSPHRASE_FILE"] = str(old)
        bare.ok("keystore", "init")
        bare.ok("create", "ds")
        bare.fails(2, "keystore", "passphrase", "--new-file", "short")
        assert "older backups" in bare.ok("keystore", "passphrase", "--new-file", "new")
        assert bare.fails(4, "rotate", "ds")["class"] == "WrongPassphrase"
        bare.env["SEALEDHEALTH_PASSPHRASE_FILE"] = str(new)
        bare.ok("rotate", "ds")
        del bare.env["SEALEDHEALTH_PASSPHRASE_FILE"]
        answers = [("Passphrase of", PHRASE[::-1]), ("New passphrase", PHRASE), ("Again", PHRASE)]
        said, status = on_terminal(bare, ["keystore", "passphrase"], answers)
        assert status == 0, said

    def test_plaintext_beside_the_dataset(self, cli):
        """Files that lie in the directory already are not sealed by making a dataset of it."""
        cli.write("exports/patients.csv", "x")
        assert "as plaintext" in cli.run("create", "exports")[1]
        assert "as plaintext" not in cli.run("create", "empty")[1]

    def test_memory(self, cli):
        """A dataset in the memory of the command line is gone at once."""
        assert "memory" in cli.run("create", "memory://x")[1].partition("warning")[2]


class TestPassphrases:
    """Where passphrases come from, and that they go nowhere."""

    def test_file(self, bare):
        """A keystore with a passphrase from a file; a wrong one is refused, and no secret is ever shown."""
        phrase = bare.write("phrase", PHRASE + "\n")
        phrase.chmod(0o600)
        bare.env["SEALEDHEALTH_PASSPHRASE_FILE"] = str(phrase)
        assert "[local]" in bare.ok("keystore", "init")
        out, err = bare.run("create", "ds")
        assert "development" not in out + err
        bare.write("a.csv", "x")
        bare.run("put", "a.csv", "ds")
        assert bare.ok("cat", "ds/a.csv") == "x"
        bare.write("phrase", "incorrect-horse")
        assert bare.fails(4, "cat", "ds/a.csv")["class"] == "WrongPassphrase"
        bare.env["SEALEDHEALTH_DEBUG"] = "1"
        process = bare.start("cat", "ds/a.csv")
        out, err = process.communicate()
        assert b"Traceback" in err
        assert process.returncode == 4
        everything = bare.said + out.decode() + err.decode()
        assert PHRASE not in everything
        assert "incorrect-horse" not in everything
        phrase.chmod(0o644)
        del bare.env["SEALEDHEALTH_DEBUG"]
        assert "chmod" in bare.fails(4, "cat", "ds/a.csv")["next"]
        del bare.env["SEALEDHEALTH_PASSPHRASE_FILE"]
        assert bare.json("keystore", "list")[0]["label"] == "local"
        assert "SEALEDHEALTH_PASSPHRASE_FILE" in bare.fails(4, "cat", "ds/a.csv")["next"]

    def test_terminal(self, bare):
        """On a terminal, the first create makes the keystore: the passphrase is asked for twice, and not shown."""
        said, status = on_terminal(bare, ["create", "ds"], [("New passphrase", PHRASE), ("Again", PHRASE)])
        assert status == 0, said
        assert "Made dataset" in said
        assert PHRASE not in said
        said, status = on_terminal(bare, ["rotate", "ds"], [("Passphrase of", PHRASE)])
        assert status == 0, said
        said, status = on_terminal(bare, ["rotate", "ds"], [("Passphrase of", "wrong")])
        assert status == 4, said

    def test_destroy_is_confirmed_by_typing(self, full):
        """On a terminal, destroying takes the id of the dataset, typed."""
        dataset = full.json("inspect", "ds")[0]["dataset"]
        said, status = on_terminal(full, ["destroy", "--dataset", "ds"], [("Type", "yes")])
        assert status == 2, said
        assert full.ok("ls", "ds") == "labs/\n"
        said, status = on_terminal(full, ["destroy", "--dataset", "ds"], [("Type", dataset)])
        assert status == 0, said
        assert full.fails(4, "ls", "ds")["class"] == "KeyDestroyed"

    def test_progress_on_a_terminal(self, full):
        """Whoever watches a terminal sees a bar; the result is the same."""
        said, status = on_terminal(full, ["get", "ds", "out"], [])
        assert status == 0
        assert "Opened 2 files" in said


def on_terminal(cli, arguments, answers):
    """Run a command on a pseudo-terminal, answer its questions; all that was shown, and the exit status."""
    ours, theirs = pty.openpty()

    def take_terminal():
        os.setsid()
        import fcntl

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = cli.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal)
    os.close(theirs)
    said = ""
    pending = list(answers)
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        said += data.decode()
        if pending and pending[0][0] in said.rpartition("\n")[2]:
            time.sleep(0.05)  # getpass throws away what was typed before it asked
            os.write(ours, pending.pop(0)[1].encode() + b"\n")
    os.close(ours)
    return said, process.wait(60)


class TestStreams:
    """Standard output is for results, in the form that was asked for."""

    def test_broken_pipe(self, full):
        """A reader that goes away ends the command without a word."""
        full.run("put", "-", "ds/big", data=bytes(20 << 20))
        process = full.start("cat", "ds/big")
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read().startswith(b"note: keys are in a development keystore")
        process.stderr.close()
        assert process.wait(60) == 141

    @pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interrupt(self, full, number, status):
        """Ctrl-C and a stopped container end with one line; the last commit is whole, nothing else is left."""
        process = full.start("put", "-", "ds/half", stdin=subprocess.PIPE)
        process.stdin.write(bytes(9 << 20))
        process.stdin.flush()
        wait_for(lambda: any((full.folder / "ds/objects").rglob(".tmp-*")) or len(full.object_files()) > 2)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status
        [what, safe, following] = [line for line in err.decode().splitlines() if not line.startswith("note:")]
        assert what == "sealedhealth: Interrupted."
        assert safe.startswith("  safe: ")
        assert "--update" in following
        assert full.ok("ls", "ds") == "labs/\n"
        assert full.json("verify", "ds")[0]["files"] == 2
        assert len(full.object_files()) == 2

    def test_interrupted_put_goes_on(self, cli):
        """With --commit-every what was committed before an interruption stays; --update does the rest."""
        for index in range(40):
            cli.write(f"many/{index:02}", os.urandom(2 << 20))
        process = cli.start("put", "--commit-every", "4M", "many/", "ds")
        wait_for((cli.folder / "ds/.sealedhealth/log/000000000002").exists)
        process.kill()
        process.communicate()
        done = len(cli.json("ls", "ds"))
        assert done >= 4
        [rest] = cli.json("put", "--update", "many/", "ds")
        assert (rest["files"], rest["skipped"]) == (40 - done, done)
        assert cli.json("verify", "ds")[0]["files"] == 40

    def test_broken_pipe_of_a_listing(self, full):
        """The same when the output is so short that it is written at the very end."""
        process = full.start("ls", "ds")
        process.stdout.close()
        err = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) == 141
        assert all(line.startswith("note:") for line in err.splitlines())

    def test_hostile_names(self, cli):
        """Names and messages cannot steer a terminal."""
        cli.write("a\u202eb.csv", "x")
        cli.run("put", "a\u202eb.csv", "ds", "-m", "red \x1b[31m\nsecond line")
        assert cli.ok("ls", "ds") == "a\\u202eb.csv\n"
        said = cli.ok("log", "ds")
        assert "\x1b" not in said
        assert "red \\x1b[31m\\nsecond line" in said

    def test_old_terminal(self, cli):
        """Where the terminal lacks characters, they are shown as numbers; that is no failure."""
        cli.write("출혈é.csv", "x")
        cli.run("put", "출혈é.csv", "ds")
        cli.env["PYTHONIOENCODING"] = "latin-1"
        process = cli.start("ls", "ds")
        assert process.communicate()[0] == b"\\ucd9c\\ud608\xe9.csv\n"

    def test_no_colours_in_a_pipe(self, full):
        """What goes into a pipe has no control characters."""
        for arguments in (["log", "ds"], ["ls", "-l", "ds"], ["du", "ds"], ["doctor"], ["verify", "ds"]):
            assert "\x1b" not in full.ok(*arguments)

    def test_help_version_completion(self, bare):
        """Help, version and the shell's completion work without any set-up."""
        assert "Exit codes" in bare.ok("--help")
        assert re.fullmatch(r"sealedhealth \d+\.\d+\.\d+\S*\n", bare.ok("--version"))
        assert "--commit-every" in bare.ok("put", "--help")
        bare.env["_SEALEDHEALTH_COMPLETE"] = "bash_source"
        assert "complete" in bare.ok()
        bare.env |= {"_SEALEDHEALTH_COMPLETE": "bash_complete", "COMP_WORDS": "sealedhealth re", "COMP_CWORD": "1"}
        assert {"plain,restore", "plain,rewrap"} <= set(bare.ok().split())
        assert not (bare.folder / "home").exists()


def wait_for(condition):
    """Return when *condition* holds; fail after half a minute."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)
