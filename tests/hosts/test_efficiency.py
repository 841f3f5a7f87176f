"""What is asked of an object store: nothing that the log says already, and several things at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from unittest import mock

import pytest
from counting import s3_requests

from sealedhealth import Dataset
from sealedhealth.log.roster import Settings
from sealedhealth.profiles import create_keystore, load_profile
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import maintain

pytestmark = pytest.mark.seaweed

FILES = {f"d{number % 3}/{number:03}": b"%d" % number * 50 for number in range(60)}


@pytest.fixture
def place(make_place):
    """A place on SeaweedFS, and a keystore."""
    create_keystore(load_profile(), development=True)
    return make_place("seaweed")


@pytest.fixture
def profile(place):
    """A profile for that place."""
    return replace(load_profile(), store=place.options)


@pytest.fixture
def dataset(place, profile):
    """A dataset of some small files, each an object of its own, with a checkpoint."""
    session = create_dataset(place.url, profile, settings=Settings(pack_below=0))
    with session.begin() as transaction:
        transaction.put_many(FILES)
    maintain(session, force=True)
    return reopened(session)


def reopened(session):
    """Opened anew, as another process would."""
    Engine.forget(session.url, session.profile)
    return Dataset(Session.open(session.url, session.profile))


@contextlib.contextmanager
def at_once():
    """How many S3 operations of a kind were under way at the same time, at most."""
    from fsspec.asyn import sync_wrapper
    from s3fs import S3FileSystem

    most = Counter()
    now = Counter()
    send = S3FileSystem._call_s3

    async def counted(self, method, *more, **arguments):
        now[method] += 1
        most[method] = max(most[method], now[method])
        try:
            await asyncio.sleep(0.05)  # a host far away
            return await send(self, method, *more, **arguments)
        finally:
            now[method] -= 1

    with mock.patch.multiple(S3FileSystem, _call_s3=counted, call_s3=sync_wrapper(counted)):
        yield most


class TestNothingAsked:
    """What the log says already is not asked of the host."""

    def test_looking_around(self, dataset):
        """Listings, sizes, existence and times of an open dataset cost no request."""
        fs = dataset.fs
        with s3_requests() as requests:
            assert len(fs.find("", detail=True)) == len(FILES)
            assert len(fs.ls("d1", detail=True)) == 20
            assert fs.info("d1/001")["size"] == len(FILES["d1/001"])
            assert fs.exists("d1/001")
            assert not fs.exists("nothing")
            assert fs.du("") == sum(map(len, FILES.values()))
            assert fs.glob("d2/*")
            assert fs.isdir("d0")
        assert requests == []

    def test_opening_a_file(self, dataset):
        """To open and read a small file is one request: no size, no header, no version is asked for."""
        with s3_requests() as requests, dataset.fs.open("d0/000", "rb") as file:
            assert file.read() == FILES["d0/000"]
        assert [method for method, _ in requests] == ["get_object"]

    def test_opening_the_dataset(self, dataset):
        """Opening reads descriptor, policy, checkpoint (three files) and one commit, and looks for a link ahead."""
        with s3_requests() as requests:
            reopened(dataset.session)
        kinds = Counter(arguments["Key"].split(".sealedhealth/")[1].partition("/")[0] for _, arguments in requests)
        assert kinds == Counter({"dataset": 1, "changes": 2, "checkpoints": 3, "log": 1})
        assert {method for method, _ in requests} == {"get_object"}

    def test_opening_a_large_dataset(self, dataset):
        """The number of requests does not depend on how much is in it."""
        with s3_requests() as before:
            session = reopened(dataset.session).session
        for number in range(5):
            with session.begin() as transaction:
                transaction.put_many({f"more/{number}/{name}": data for name, data in FILES.items()})
        maintain(session, force=True)
        with s3_requests() as after:
            reopened(session)
        assert len(after) == len(before)

    def test_many_small_files(self, place, profile):
        """Small files of a transaction are put, and got, in a handful of requests."""
        dataset = Dataset(create_dataset(f"{place.url}-packed", profile))
        with s3_requests() as requests:
            with dataset.session.begin() as transaction:
                transaction.put_many(FILES)
            puts = Counter(method for method, _ in requests)
            assert dataset.fs.cat(list(FILES)) == FILES
        # one object, the change set, the link
        assert puts["put_object"] == 3
        assert len([method for method, _ in requests if method == "get_object"]) - puts["get_object"] == 1


class TestAtOnce:
    """What needs several requests sends them side by side."""

    def test_many_files(self, dataset):
        """Objects of their own are fetched concurrently."""
        with at_once() as most:
            assert dataset.fs.cat(list(FILES)) == FILES
        assert most["get_object"] > 10

    def test_ranges_of_one_file(self, dataset):
        """Far ranges of a file are fetched concurrently, near ones together."""
        data = bytes(range(256)) * (16 << 12)
        dataset.fs.pipe_file("large", data)
        starts = [0, 100, 4 << 20, (8 << 20) + 5, 15 << 20]
        with s3_requests() as requests, at_once() as most:
            found = dataset.fs.cat_ranges(["large"] * 5, starts, [start + 50 for start in starts])
        assert found == [data[start : start + 50] for start in starts]
        assert len(requests) == 5  # the first two are neighbours; the digests of the segments come along
        assert most["get_object"] == 5

    def test_large_file(self, dataset):
        """Parts go up side by side, but only a few: each is in memory until it has arrived; they come back alike."""
        data = bytes(range(256)) * (48 << 12)
        with at_once() as most:
            dataset.fs.pipe_file("large", data)
            assert dataset.fs.cat_file("large") == data
        assert 2 <= most["upload_part"] <= 4
        assert most["get_object"] >= 2
