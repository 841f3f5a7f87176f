"""The public part of a log, read with no key: everything that the store should have, and what is wrong with it."""

import pytest
from adversary import World

from sealedhealth.errors import DatasetMismatch, MissingError, NotFound
from sealedhealth.log.link import Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, link_name
from sealedhealth.replicate import PublicLog
from sealedhealth.session import maintenance
from sealedhealth.stores import open_store


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A dataset with a few commits, a file dropped, and two checkpoints."""
    world = World(tmp_path_factory.mktemp("world"))
    world.put({"a": b"a", "b": b"b" * 300_000})
    maintenance.maintain(world.open(), force=True)
    world.put({"a": b"other", "c": b"c"})
    maintenance.maintain(world.open(), force=True)
    world.put({"d": b"d"})
    return world, {place: world.backup(place) for place in (world.host, world.keystore, world.root / "state")}


@pytest.fixture
def world(built):
    """The same dataset for each test."""
    world, copies = built
    yield world
    for place, copy in copies.items():
        world.restore(copy, place)


def read(world, *, anchored=False, **options):
    """The public log, read by somebody with no key."""
    anchors = world.service if anchored else None
    return PublicLog.read(open_store(world.url, {}), world.dataset_id, anchors=anchors, **options)


def stored(world):
    """Names and sizes of all that the host has."""
    return dict(open_store(world.url, {}).list(""))


@pytest.mark.parametrize("anchored", [False, True])
def test_names_every_file(world, anchored):
    """The files that the log needs are exactly those that an orderly store has, with their sizes."""
    public = read(world, anchored=anchored)
    assert public.problems == []
    assert public.whole
    there = stored(world)
    assert all(name in public.known for name in there)
    needed = {name: expected.size for name, expected in public.files.items()}
    assert needed.items() <= there.items()
    assert len(public.files) == len(needed)
    assert {name.rpartition("/")[0] for name in there.keys() - needed.keys()} == {".sealedhealth/checkpoints"}
    assert "objects/ab/junk" not in public.known
    assert public.sequence == world.newest()


def test_another_dataset(world):
    """A dataset of another id under the same URL is named as such."""
    with pytest.raises(DatasetMismatch):
        PublicLog.read(open_store(world.url, {}), bytes(16))


def test_no_dataset(tmp_path):
    """A place where nothing is."""
    with pytest.raises(NotFound, match="no dataset"):
        PublicLog.read(open_store(str(tmp_path / "empty"), {}), bytes(16))


def test_no_descriptor(world):
    """A copy that is not finished has no descriptor: the error says so."""
    (world.host / DESCRIPTOR_NAME).unlink()
    with pytest.raises(MissingError, match="a copy is under way"):
        read(world)


class TestMissingLinks:
    """Copies of links that a host lost, altered or holds back."""

    def test_in_the_middle(self, world):
        """A link that others follow is missing: its number is named."""
        (world.host / link_name(1)).unlink()
        public = read(world)
        assert [(problem.name, problem.missing) for problem in public.problems] == [(link_name(1), True)]
        assert public.sequence == 0

    def test_the_newest(self, world):
        """Held back: nothing shows it, but what somebody has seen, or the anchors."""
        newest = world.newest()
        raw = (world.host / link_name(newest)).read_bytes()
        (world.host / link_name(newest)).unlink()
        assert read(world).problems == []
        assert read(world).sequence == newest - 1
        [problem] = read(world, head=(newest, file_digest(raw))).problems
        assert "holds the newest links back" in problem.what
        assert read(world, anchored=True).sequence == newest

    def test_the_newest_altered(self, world):
        """One flipped bit in the newest link is named, and nothing of it counts."""
        newest = world.newest()
        path = world.host / link_name(newest)
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        public = read(world)
        assert [problem.name for problem in public.problems] == [link_name(newest)]
        assert public.sequence == newest - 1

    def test_what_was_seen(self, world):
        """The link that was seen is there: nothing to report; another digest: two histories."""
        digest = file_digest((world.host / link_name(1)).read_bytes())
        assert read(world, head=(1, digest)).problems == []
        [problem] = read(world, head=(1, bytes(48))).problems
        assert "two histories" in problem.what


def change_of(world, number):
    """The name of the change set of a commit."""
    raw = (world.host / link_name(number)).read_bytes()
    [ref] = Link.read(Link.split(raw)).changes
    return change_name(ref.change_id)


def test_missing_change_set(world):
    """Named; the log stands still before the commit, and the rest is looked at all the same."""
    name = change_of(world, 1)
    (world.host / name).unlink()
    public = read(world)
    assert [(problem.name, problem.missing) for problem in public.problems] == [(name, True)]
    assert not public.whole
    assert public.sequence == 0
    assert public.steps[-1].sequence == world.newest()
    assert list(public.links) == [0]


def test_missing_policy(world):
    """Without the first policy nobody is known: one problem, not one for each commit."""
    name = change_of(world, 0)
    (world.host / name).unlink()
    public = read(world)
    assert [problem.name for problem in public.problems] == [name]
    assert public.sequence == -1
    assert not public.whole


def test_altered_change_set(world):
    """Named by itself, although it was fetched together with others."""
    name = change_of(world, 3)
    raw = bytearray((world.host / name).read_bytes())
    raw[-1] ^= 1
    (world.host / name).write_bytes(raw + b"more" * 1000)
    public = read(world)
    assert [(problem.name, problem.missing) for problem in public.problems] == [(name, False)]
