"""Copying a dataset from one store to another with no key."""

import json
import os
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import World

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    DatasetMismatch,
    IntegrityError,
    InvalidInput,
    MissingError,
    RolledBack,
    ServiceUnavailable,
    TamperedError,
    Throttled,
)
from sealedhealth.log.link import Link
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, link_name, object_name
from sealedhealth.replicate import PublicLog, check_host, moving, replicate
from sealedhealth.session import Session, maintenance
from sealedhealth.stores import open_store


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Files of 300 kB are large ones here."""
    monkeypatch.setattr(moving, "STREAMED", 200_000)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A dataset with small files, a large one, dropped ones and a checkpoint."""
    world = World(tmp_path_factory.mktemp("world"))
    world.put({"a": b"a", "large": os.urandom(300_000), "dir/b": b"b" * 5000})
    maintenance.maintain(world.open(), force=True)
    world.put({"a": b"other", "c": b"c"})
    world.put({"large": os.urandom(300_000)})
    return world, {place: world.backup(place) for place in (world.host, world.keystore, world.root / "state")}


@pytest.fixture
def world(built):
    """The same dataset for each test."""
    world, copies = built
    yield world
    for place, copy in copies.items():
        world.restore(copy, place)


@pytest.fixture
def source(world):
    """The store where it is."""
    return open_store(world.url, {})


@pytest.fixture
def target(tmp_path):
    """An empty place on another host."""
    return open_store(str(tmp_path / "elsewhere"), {})


def waits(seconds):
    """No test waits."""
    assert seconds < 10


def copy(world, source, target, **options):
    """Replicate by somebody who has the dataset's id, and nothing else."""
    return replicate(source, target, world.dataset_id, pause=waits, **options)


def flip(world, name, at=-1):
    """Change one bit of a file on the host."""
    path = world.host / name
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def content(store):
    """Every file of a store."""
    return {name: store.get(name, limit=1 << 30) for name, _ in store.list("")}


class TestWhole:
    """Nothing goes wrong."""

    def test_copies_what_the_log_needs(self, world, source, target):
        """Log and objects arrive as they are, and the copy opens by its URL alone."""
        source.put("objects/ab/" + "ab" * 16, b"never committed")
        report = copy(world, source, target)
        assert report.error() is None
        assert report.complete
        assert report.first
        needed = PublicLog.read(source, world.dataset_id).files
        assert content(target) == {name: data for name, data in content(source).items() if name in needed}
        assert report.copied.files == len(needed)
        world.service.register(replace(world.service.lookup(world.dataset_id.hex()), urls=(target.url,)))
        moved = Session.open(target.url, world.profile("author"))
        assert {path for path, _ in moved.snapshot.items()} == {"a", "large", "dir/b", "c"}

    def test_again(self, world, source, target):
        """A second run copies nothing; a third one after two commits only what is new."""
        first = copy(world, source, target)
        second = copy(world, source, target)
        assert second.copied.files == 0
        assert not second.first
        assert second.present.files == first.copied.files - 1  # the descriptor is compared, not counted
        world.put({"d": b"d"})
        world.put({"e": b"e"})
        third = copy(world, source, target)
        assert third.copied.names == {"change": 2, "object": 2, "link": 2}
        assert check_host(target, world.dataset_id).error() is None

    def test_report_is_json(self, world, source, target):
        """The report says what, how much, from where to where, and up to which commit."""
        report = copy(world, source, target, head=(1, PublicLog.read(source, world.dataset_id).steps[1].digest))
        document = json.loads(json.dumps(report.to_json()))
        assert document["dataset"] == world.dataset_id.hex()
        assert document["commit"] == world.newest()
        assert document["freshness"] == "head"
        assert document["source"]["store"] == document["destination"]["store"] == "file"
        assert document["copied"]["kinds"]["object"]["names"] == len(list(source.list("objects")))
        assert document["verified"]["bytes"] == document["copied"]["bytes"]
        assert document["complete"] is True
        assert document["missing"] == document["corrupted"] == document["failed"] == []

    def test_progress(self, world, source, target):
        """What is reported as done adds up to what was said to be there."""
        done, total = [], []
        copy(world, source, target, progress=done.append, total=total.append)
        assert sum(done) <= total[0]
        assert sum(done) > 0.9 * total[0]

    def test_by_place(self, world, source, target, monkeypatch):
        """A large dataset is listed folder by folder, to the same end."""
        monkeypatch.setattr("sealedhealth.replicate.target.LISTED_WHOLE", 0)
        copy(world, source, target)
        again = copy(world, source, target)
        assert again.copied.files == 0
        assert check_host(target, world.dataset_id, data=False).error() is None


class TestBadSource:
    """The host it comes from has lost or altered something: it is named, never copied, and the rest goes on."""

    @pytest.mark.parametrize("path", ["a", "large"])
    @pytest.mark.parametrize("harm", ["flipped", "cut", "longer", "missing"])
    def test_object(self, world, source, target, path, harm):
        """One object, small or large."""
        file = world.object_file(path)
        name = file.relative_to(world.host).as_posix()
        raw = file.read_bytes()
        if harm == "missing":
            file.unlink()
        else:
            file.write_bytes({"flipped": bytes([raw[0] ^ 1]) + raw[1:], "cut": raw[:-1], "longer": raw + b"x"}[harm])
        report = copy(world, source, target)
        if harm == "longer" and path == "large":
            assert report.error() is None  # only what was signed was asked for
            assert target.get(name, limit=len(raw)) == raw
            return
        error = report.error()
        assert isinstance(error, IntegrityError)
        assert error.exit_code == 5
        assert name in str(error)
        assert (report.missing if harm == "missing" else report.corrupted) == [name]
        assert not target.exists(name)
        assert report.complete
        # Healed, the next run brings what is missing.
        file.write_bytes(raw)
        assert copy(world, source, target).copied.names == {"object": 1}
        assert check_host(target, world.dataset_id).error() is None

    def test_change_set(self, world, source, target):
        """The destination never shows a commit whose change set it lacks."""
        public = PublicLog.read(source, world.dataset_id)
        [name] = [name for name, one in public.files.fixed.items() if one.kind == "change"][2:3]
        flip(world, name)
        report = copy(world, source, target)
        assert report.corrupted == [name]
        assert report.sequence == 1
        copied = PublicLog.read(target, world.dataset_id)
        assert copied.problems == []
        assert copied.sequence == 1
        flip(world, name)
        assert copy(world, source, target).error() is None
        assert PublicLog.read(target, world.dataset_id).sequence == world.newest()

    def test_change_set_lost_meanwhile(self, world, source, target, monkeypatch):
        """It was there when the log was read: the copy ends before its commit all the same."""
        read = PublicLog.read.__func__
        [ref] = Link.read(Link.split((world.host / link_name(2)).read_bytes())).changes

        def read_then_lose(cls, *arguments, **options):
            public = read(cls, *arguments, **options)
            (world.host / change_name(ref.change_id)).unlink(missing_ok=True)
            return public

        with monkeypatch.context() as patched:
            patched.setattr(PublicLog, "read", classmethod(read_then_lose))
            report = copy(world, source, target)
        assert report.missing == [change_name(ref.change_id)]
        assert report.sequence == 1
        copied = PublicLog.read(target, world.dataset_id)
        assert copied.problems == []
        assert (copied.sequence, copied.head.hex()) == (1, report.digest)

    def test_missing_link(self, world, source, target):
        """What follows a missing link is not copied."""
        (world.host / link_name(2)).unlink()
        report = copy(world, source, target)
        assert report.missing == [link_name(2)]
        assert PublicLog.read(target, world.dataset_id).sequence == 1

    def test_missing_link_with_anchors(self, world, source, target):
        """The anchors hold every link: the copy gets the one that the source lost."""
        (world.host / link_name(2)).unlink()
        report = copy(world, source, target, anchors=world.service)
        assert report.freshness == "anchors"
        assert PublicLog.read(target, world.dataset_id).sequence == world.newest()

    def test_descriptor(self, world, source, target):
        """Without its root of trust nothing can be checked."""
        flip(world, DESCRIPTOR_NAME)
        with pytest.raises(IntegrityError):
            copy(world, source, target)
        assert content(target) == {}

    def test_seen_more(self, world, source, target):
        """A source that ends before what a client saw is not copied."""
        with pytest.raises(RolledBack, match="has been seen"):
            copy(world, source, target, head=(99, bytes(48)))
        assert content(target) == {}

    @pytest.mark.parametrize("checked", [False, True])
    def test_collected_meanwhile(self, world, source, target, monkeypatch, checked):
        """What garbage collection deletes while it is copied, or checked, is missed by nobody."""
        read = PublicLog.read.__func__
        collected = []

        def read_then_collect(cls, *arguments, **options):
            public = read(cls, *arguments, **options)
            if not collected:
                collected.append(None)  # collecting reads the public log, too
                collected[0] = maintenance.collect(world.open(), grace=timedelta(0))
            return public

        monkeypatch.setattr(PublicLog, "read", classmethod(read_then_collect))
        report = check_host(source, world.dataset_id) if checked else copy(world, source, target)
        assert collected[0].dropped > 0
        assert report.error() is None
        assert copy(world, source, target).error() is None


class TestBadDestination:
    """What is at the destination already."""

    def test_same_place(self, world, source):
        """Copying a dataset onto itself, or into itself."""
        for url in (world.url, f"{world.url}/", f"{world.url}/inside", str(world.host.parent)):
            with pytest.raises(InvalidInput):
                copy(world, source, open_store(url, {}))

    def test_another_dataset(self, world, source, tmp_path_factory):
        """Neither is harmed."""
        other = World(tmp_path_factory.mktemp("other"))
        there = open_store(other.url, {})
        before = content(there)
        with pytest.raises(DatasetMismatch, match="Another dataset is at the destination"):
            copy(world, source, there)
        assert content(there) == before

    def test_half_of_another_dataset(self, world, source, target, tmp_path_factory):
        """A copy of something else that is under way."""
        target.put(".sealedhealth/changes/" + "00" * 16, b"?")
        with pytest.raises(AlreadyExists, match="files of something else"):
            copy(world, source, target)

    def test_no_descriptor_but_some_file(self, world, source, target):
        """What stands in the place of the descriptor is none: it is not overwritten."""
        target.put(DESCRIPTOR_NAME, b"?")
        with pytest.raises(TamperedError, match="is none"):
            copy(world, source, target)

    def test_ahead(self, world, source, target):
        """The destination has commits that the source has not."""
        copy(world, source, target)
        world.put({"d": b"d"})
        newest = open_store(world.url, {})
        copy(world, newest, target)
        (world.host / link_name(world.newest())).unlink()
        with pytest.raises(RolledBack, match=r"has commit (\d+), and the source ends with commit"):
            copy(world, source, target)

    @pytest.mark.parametrize("anchored", [False, True])
    def test_diverging(self, world, source, target, anchored):
        """Two histories of one dataset: refused, and the anchors say which one is wrong."""
        copy(world, source, target)
        keys, host = world.backup(world.keystore), world.backup(world.host)
        world.put({"d": b"this"})
        copy(world, source, target)
        world.restore(keys, world.keystore)
        world.restore(host, world.host)
        session = world.open(forgetful=True)
        tx = session.begin()
        tx.put_many({"d": b"that"})
        tx.commit()
        with pytest.raises(RolledBack, match="two histories") as caught:
            copy(world, source, target, anchors=world.service if anchored else None)
        assert (f"{target.url} is wrong" in str(caught.value)) == anchored

    def test_damaged_copy(self, world, source, target):
        """Found by reading it once more, and replaced."""
        copy(world, source, target)
        name = world.object_file("large").relative_to(world.host).as_posix()
        raw = target.get(name, limit=1 << 20)
        target.put(name, raw[:-1] + bytes([raw[-1] ^ 1]))
        link = target.get(link_name(1), limit=1 << 20)
        target.put(link_name(1), link + b"more")
        assert copy(world, source, target).copied.names == {"link": 1}
        report = copy(world, source, target, check=True)
        assert report.copied.names == {"object": 1}
        assert report.checked.names["object"] == len(list(source.list("objects"))) - 1
        assert check_host(target, world.dataset_id).error() is None

    def test_reader_of_half_a_copy(self, world, source, target):
        """A place without descriptor is no dataset, and the error says why."""
        copy(world, source, target)
        target.delete_many([DESCRIPTOR_NAME])
        with pytest.raises(MissingError, match="a copy is under way"):
            check_host(target, world.dataset_id)
        world.service.register(replace(world.service.lookup(world.dataset_id.hex()), urls=(target.url,)))
        with pytest.raises(MissingError, match=r"a copy is under way.*`sealedhealth replicate` again"):
            Session.open(target.url, world.profile("author"))


class Flaky:
    """A store that fails some calls."""

    def __init__(self, store, calls, error=None):
        self._store = store
        self._calls = dict(calls)
        self._error = error or ServiceUnavailable("The host hiccuped.")

    def __getattr__(self, name):
        real = getattr(self._store, name)
        if name not in self._calls:
            return real

        def call(*arguments, **options):
            if self._calls[name] > 0:
                self._calls[name] -= 1
                raise self._error
            return real(*arguments, **options)

        return call


class TestHostsThatFail:
    """Errors that pass are waited out; those that do not are named, and the copy stays unpublished."""

    @pytest.mark.parametrize("method", ["put_many", "writer"])
    def test_target_hiccups(self, world, source, target, method):
        """Asked again, it takes everything."""
        report = copy(world, source, Flaky(target, {method: 2}, Throttled("Slow down.")))
        assert report.error() is None
        assert check_host(target, world.dataset_id).error() is None

    def test_source_hiccups(self, world, source, target):
        """Asked again, it gives everything."""
        report = copy(world, Flaky(source, {"get_ranges": 2}), target)
        assert report.error() is None

    def test_one_object_never(self, world, source, target):
        """One object that the source will not give: named, and readers do not see half a dataset."""
        name = object_name(world.open().snapshot.get("large").object_id)
        real = source.get_ranges

        def get_ranges(ranges):
            if ranges[0][0] == name:
                raise ServiceUnavailable("Not this one.")
            return real(ranges)

        flaky = Flaky(source, {})
        flaky.get_ranges = get_ranges
        report = copy(world, flaky, target)
        assert report.failed == [name]
        assert not report.complete
        assert report.error().exit_code == 7
        assert not target.exists(DESCRIPTOR_NAME)
        again = copy(world, source, target)
        assert again.complete
        assert again.copied.names["object"] == 1

    def test_target_refuses(self, world, source, target):
        """No right to write: the first refusal ends it."""
        with pytest.raises(AccessDenied):
            copy(world, source, Flaky(target, {"put_many": 99}, AccessDenied("No.")))


class TestCheck:
    """A host checked without a key."""

    def test_good(self, world, source):
        """Every byte is counted."""
        report = check_host(source, world.dataset_id)
        assert report.error() is None
        assert report.verified.names["object"] == len(list(source.list("objects")))
        assert report.verified.size == sum(one.size for one in PublicLog.read(source, world.dataset_id).files.values())

    @pytest.mark.parametrize("data", [True, False])
    @pytest.mark.parametrize("path", ["a", "large"])
    def test_names_and_sizes(self, world, source, data, path):
        """Missing, cut and lengthened objects show in a listing."""
        file = world.object_file(path)
        name = file.relative_to(world.host).as_posix()
        raw = file.read_bytes()
        for harm in (raw + b"x", raw[:-1], None):
            file.unlink() if harm is None else file.write_bytes(harm)
            report = check_host(source, world.dataset_id, data=data)
            assert [one.name for one in report.findings] == [name]
            assert isinstance(report.error(), IntegrityError)

    @pytest.mark.parametrize("path", ["a", "large"])
    def test_bytes(self, world, source, path):
        """One flipped bit."""
        name = world.object_file(path).relative_to(world.host).as_posix()
        flip(world, name, 40)
        assert check_host(source, world.dataset_id, data=False).error() is None
        assert check_host(source, world.dataset_id).corrupted == [name]

    def test_every_failure(self, world, source):
        """All of them are named at once."""
        one, two = (world.object_file(path).relative_to(world.host).as_posix() for path in ("a", "large"))
        flip(world, one)
        (world.host / two).unlink()
        (world.host / link_name(1)).unlink()
        report = check_host(source, world.dataset_id, anchors=world.service)
        assert {two, one} <= {finding.name for finding in report.findings}

    def test_missing_error_is_no_mistake(self, world, source):
        """A missing object is missing, and not corrupted."""
        world.object_file("a").unlink()
        report = check_host(source, world.dataset_id)
        assert len(report.missing) == 1
        assert report.corrupted == []
        assert not isinstance(report.error(), MissingError)
