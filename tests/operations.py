"""A dataset with a history, and everything that is done to one: what the fault tests interrupt."""

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from unittest import mock

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AlreadyExists
from sealedhealth.log.roster import Role, Settings
from sealedhealth.profiles import create_keystore
from sealedhealth.session import create_dataset, maintenance, set_author

PACK_BELOW = 256  # files from this size on have an object of their own
BIG = random.Random(1).randbytes(300_000)
BASELINE = {"a/one.csv": b"one", "a/two.csv": b"two", "big.bin": BIG, "empty": b"", "gone.csv": b"to be deleted"}
BEFORE = {
    "a/one.csv": b"one, newer",
    "a/two.csv": b"two",
    "big.bin": BIG,
    "doomed.csv": b"to be destroyed",
    "empty": b"",
}


BATCH = {f"many/{index}": b"%d" % index * PACK_BELOW for index in range(40)}


def build(world):
    """Make the world that each walk begins with."""
    profile = world.profile
    create_keystore(profile, development=True)
    session = create_dataset(world.url, profile, settings=Settings(pack_below=PACK_BELOW))
    with session.begin("first") as staged:
        for path, data in BASELINE.items():
            staged.put_bytes(path, data)
    with session.begin("tag") as staged:
        staged.tag("baseline")
    with session.begin("doomed") as staged:
        staged.put_bytes("doomed.csv", BEFORE["doomed.csv"])
    with session.begin("second") as staged:
        staged.put_bytes("a/one.csv", BEFORE["a/one.csv"])
        staged.delete("gone.csv")
        staged.put_bytes("scrap.csv", b"of no use" * 20)  # in one object with the other one
    with session.begin("third") as staged:
        staged.delete("scrap.csv")
    source = world.work / "source"
    source.mkdir()
    for index in range(4):
        (source / f"small-{index}.csv").write_bytes(b"small %d" % index)
    (source / "large.bin").write_bytes(BIG[::-1])


@dataclass(frozen=True)
class Operation:
    """Something that a process does when it is killed, and what it should come to."""

    run: Callable
    after: dict = field(default_factory=dict)  #: paths that change; None: gone
    whole: bool = False  #: whether the short form walks every step, too
    steps: int = 6  #: it has at least so many, or it does not do what it should

    def outcome(self):
        """The contents after it."""
        return {path: data for path, data in sorted({**BEFORE, **self.after}.items()) if data is not None}


def put_small(world, session):
    """Seal a few small files as one batch."""
    with session.begin("put") as staged:
        staged.put_files([(str(world.work / f"source/small-{i}.csv"), f"new/small-{i}.csv") for i in range(4)])


def put_large(world, session):
    """Seal one large file as a stream, in place of another."""
    with session.begin("put") as staged:
        staged.put_files([(str(world.work / "source/large.bin"), "big.bin")])


def put_batch(world, session):
    """Seal so many files, each too large to be packed, that several threads write them."""
    # The same ids each time: objects lie in directories named by their ids, and how many of those are made is steps.
    with mock.patch("os.urandom", random.Random(1).randbytes), session.begin("put") as staged:
        staged.put_many(BATCH)


def edit(world, session):
    """Delete, move, copy, tag and replace in one commit."""
    with session.begin("edit") as staged:
        staged.delete("empty")
        staged.move("a/two.csv", "moved.csv")
        staged.copy("big.bin", "copy.bin")
        staged.tag("edited")
        staged.put_bytes("a/one.csv", b"one, edited")


def checkpoint(world, session):
    """Write a checkpoint and publish it."""
    maintenance.maintain(session, force=True)


def rewrap(world, session):
    """Rotate the key-encryption key and wrap every data key again."""
    maintenance.rotate(session)
    maintenance.rewrap(session)


def collect(world, session):
    """Repack what is mostly dead, and delete what nothing needs, at once."""
    with mock.patch("sealedhealth.session.maintenance.repack.LEAST_DEAD", 1):
        report = maintenance.collect(session, grace=timedelta(0))
    assert report.repacked <= 1


def distribute(world, session):
    """A driver and its workers, one after the other, any of whom dies: parts, then one commit of them."""
    # The same ids each time, as above.
    with mock.patch("os.urandom", random.Random(2).randbytes), Dataset(session).distribute("job") as job:
        job.fs.rm_file("a/two.csv")
        for number in range(3):
            with job.task.open(profile=world.profile) as part:
                part.put_bytes(f"job/{number}", b"%d" % number)
                part.put_bytes(f"job/large-{number}", b"%d" % number * PACK_BELOW)
            job.add(part.receipt)


def combine(world, session):
    """The same with more parts than a link has room for."""
    with mock.patch("sealedhealth.session.gathering.MAX_PARTS", 1):
        distribute(world, session)


JOB = {f"job/{n}": b"%d" % n for n in range(3)} | {f"job/large-{n}": b"%d" % n * PACK_BELOW for n in range(3)}


def change_policy(world, session):
    """Add an author to the roster."""
    service = session.engine.context.service
    with suppress(AlreadyExists):  # when this is not the first try
        service.create_author("newcomer")
    key = service.author("newcomer")
    set_author(session, key.public_key, name="newcomer", roles=[Role.PRODUCER], prefix="labs")


OPERATIONS = {
    "put-small": Operation(put_small, {f"new/small-{i}.csv": b"small %d" % i for i in range(4)}, whole=True),
    "put-large": Operation(put_large, {"big.bin": BIG[::-1]}, whole=True, steps=20),  # streamed, in several writes
    "put-batch": Operation(put_batch, BATCH),
    "edit": Operation(
        edit,
        {"empty": None, "a/two.csv": None, "moved.csv": b"two", "copy.bin": BIG, "a/one.csv": b"one, edited"},
        whole=True,
    ),
    "checkpoint": Operation(checkpoint),
    "rewrap": Operation(rewrap),
    "collect": Operation(collect),
    "distribute": Operation(distribute, {"a/two.csv": None, **JOB}),
    "policy": Operation(change_policy),
}

#: Walked by those who kill processes, not by those who fail disks: it goes the same ways.
COMBINE = Operation(combine, {"a/two.csv": None, **JOB})
