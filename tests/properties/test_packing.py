"""Files of any mix of sizes, in packs and out of them, through everything that happens to them."""

import uuid
from datetime import timedelta
from unittest import mock

import pytest
from datasets import local_profile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from sealedhealth.dataset import Dataset
from sealedhealth.log.roster import Settings
from sealedhealth.session import create_dataset

CHUNK, SEGMENT, BELOW = 16 << 10, 256 << 10, 40_000
EDGES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, BELOW - 1, BELOW, BELOW + 1, SEGMENT - 1, SEGMENT, SEGMENT + 1]
sizes = st.one_of(st.sampled_from(EDGES), st.integers(0, 3 * CHUNK))
NAMES = [f"{folder}/{name}" for folder in "abc" for name in "xyz"]


@pytest.fixture(scope="module", autouse=True)
def keystore(tmp_path_factory):
    """One for all examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALEDHEALTH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SEALEDHEALTH_CONFIG", raising=False)
        patch.delenv("SEALEDHEALTH_PROFILE", raising=False)
        yield local_profile()


def new_dataset():
    """A dataset in memory that packs files below 40,000 bytes."""
    chosen = Settings(pack_below=BELOW, pack_size=1 << 20)
    return Dataset(create_dataset(f"memory://{uuid.uuid4().hex}/ds", local_profile(), settings=chosen))


def content(size, seed):
    """Bytes that tell their place."""
    return (b"%d:" % seed + bytes(range(256)) * (size // 256 + 1))[:size]


@settings(max_examples=25)
@given(st.lists(sizes, min_size=1, max_size=12), st.data())
def test_what_is_put_reads_back(lengths, data):
    """Whole, in any order, and by ranges that end anywhere."""
    ds = new_dataset()
    files = {f"f{number}": content(size, number) for number, size in enumerate(lengths)}
    ds.fs.pipe(files)
    names = data.draw(st.permutations(list(files)))
    assert ds.fs.cat(names) == files
    spans = [
        (name, *sorted(data.draw(st.tuples(st.integers(0, len(files[name])), st.integers(0, len(files[name]))))))
        for name in names
    ]
    answers = ds.fs.cat_ranges(*(list(column) for column in zip(*spans, strict=True)), on_error="raise")
    assert answers == [files[name][start:stop] for name, start, stop in spans]
    found = dict(ds.session.read_files([ds.snapshot.get(name) for name in names]))
    assert [found[index] for index in range(len(names))] == [files[name] for name in names]


class Packs(RuleBasedStateMachine):
    """A dataset beside a dictionary."""

    @initialize()
    def begin(self):
        """A new dataset."""
        self.ds = new_dataset()
        self.files: dict[str, bytes] = {}
        self.old: dict[int, dict[str, bytes]] = {}
        self.seed = 0

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True), data=st.data())
    def put(self, names, data):
        """One commit of some files, some of them in place of others."""
        self.keep()
        new = {}
        for name in names:
            self.seed += 1
            new[name] = content(data.draw(sizes), self.seed)
        self.ds.fs.pipe(new)
        self.files |= new

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data):
        """Some files go."""
        self.keep()
        gone = data.draw(st.lists(st.sampled_from(sorted(self.files)), min_size=1, unique=True))
        with self.ds.transaction():
            for name in gone:
                self.ds.rm(name)
                del self.files[name]

    @precondition(lambda self: self.files)
    @rule(data=st.data(), new=st.sampled_from(NAMES))
    def copy(self, data, new):
        """A file shares its bytes with another."""
        source = data.draw(st.sampled_from(sorted(self.files)))
        if source != new:
            self.keep()
            self.ds.cp(source, new)
            self.files[new] = self.files[source]

    @rule()
    def repack(self):
        """Garbage collection without deleting: older snapshots go on working."""
        self.keep()
        with mock.patch("sealedhealth.session.maintenance.repack.LEAST_DEAD", 1):
            assert self.ds.gc().damaged == 0
        self.same()
        for at, files in self.old.items():
            fs = self.ds.at(at).fs
            assert {name: fs.cat_file(name) for name in fs.find("")} == files

    @rule()
    def collect(self):
        """Garbage collection of everything at once; what is half dead is gone afterwards."""
        with mock.patch("sealedhealth.session.maintenance.repack.LEAST_DEAD", 1):
            self.ds.gc(grace=timedelta(0))
            assert self.ds.gc(grace=timedelta(0), dry_run=True).repacked == 0
        self.old = {}
        self.same()

    def keep(self):
        """Remember the snapshot of now."""
        self.old[self.ds.session.sequence] = dict(self.files)

    def same(self):
        """Everything is there, and genuine."""
        assert self.ds.fs.cat(self.ds.fs.find("")) == self.files if self.files else self.ds.fs.find("") == []
        report = self.ds.verify()
        assert (report.files, report.failures) == (len(self.files), ())

    def teardown(self):
        """At the end, too."""
        if hasattr(self, "ds"):
            self.same()


Packs.TestCase.settings = settings(max_examples=12, stateful_step_count=12)
TestPacks = Packs.TestCase
