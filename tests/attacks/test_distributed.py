"""Distributed writes under attack: stolen tasks, forged and replayed receipts, workers that cheat, pickles."""

import base64
import json
import os
import pickle
from dataclasses import replace

import pytest
from adversary import Adversary, Planted

from sealedhealth.dataset import Dataset, DistributedTask, Receipt
from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidInput,
    MalformedError,
    MissingError,
    RosterViolation,
    SealedHealthError,
    TamperedError,
)
from sealedhealth.log.changeset import ChangeKind, ReusedKey
from sealedhealth.log.link import file_digest
from sealedhealth.log.names import change_name
from sealedhealth.log.section import ObjectRow, Put, Section
from sealedhealth.profiles import create_keystore
from sealedhealth.session import gathering
from sealedhealth.session.handover import part_id
from sealedhealth.session.maintenance import rotate


@pytest.fixture
def job(world, thief):
    """A job of the curator, who commits what producers write."""
    return Dataset(world.open()).distribute("job")


@pytest.fixture
def bad(world, thief):
    """A worker that cheats: it speaks the protocol itself, with a producer's rights."""
    return Adversary(world, "producer")


def write(world, job, files, profile=None):
    """An honest worker's receipt."""
    with job.task.open(profile=profile or world.controller) as part:
        part.put_many(files)
    return part.receipt


def hand_over(job, bad, change, *, attempt=None, rename=True):
    """Store a change set under the name of a part of *job* and make a receipt for it."""
    attempt = attempt or os.urandom(16)
    job_id = job.task.job.job_id
    if rename:
        change = replace(change, change_id=part_id(job_id, attempt))
    raw = change.pack(bad.sign)
    bad.store.put(change_name(part_id(job_id, attempt)), raw)
    return Receipt(job_id, attempt, file_digest(raw), len(raw), 1, 1)


def nothing_happened(world, newest, honest):
    """No anchor was made, and nobody reads anything new."""
    assert world.newest() == newest
    assert world.files(world.open(forgetful=True)) == honest


# -- what travels ------------------------------------------------------------------------------------


def test_no_secret_travels(world, job, keys_seen):
    """Task and receipt hold no key, path, message or wrapped key, in any form that bytes have in a pickle or JSON."""
    receipt = write(world, job, {"hospital/patient-4711": b"x" * 300_000})
    job.commit([receipt])
    wraps = {record.wrapped.ciphertext for record in public_state(world).keys.values()}
    assert len(keys_seen) > 2
    entry = world.open().snapshot.get("hospital/patient-4711")
    secrets = {*keys_seen, *wraps, entry.object_key, entry.salt}
    words = ["patient-4711", "hospital", "job:", str(world.keystore)]
    for thing in (job.task, receipt):
        for travels in [
            *(pickle.dumps(thing, protocol) for protocol in range(6)),
            json.dumps(thing.to_json()).encode(),
        ]:
            assert len(travels) < 900
            for secret in secrets:
                for form in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()):
                    assert form not in travels
            for word in words:
                assert word.encode() not in travels


def public_state(world):
    """The public state of the log."""
    return Adversary(world, "author").state()


def test_stolen_task(world, job, tmp_path):
    """Whoever has a task and no identity of the dataset's writes nothing, and reads nothing."""
    stranger = replace(world.profile("stranger"), keystore=tmp_path / "theirs", state=tmp_path / "state")
    create_keystore(stranger, development=True)
    task = DistributedTask.from_json(json.dumps(job.task.to_json()))
    with pytest.raises(SealedHealthError):
        task.open(profile=stranger)
    world.service.create_author("nobody")  # a key that is not on the roster
    with pytest.raises(AccessDenied, match="not on the roster"):
        task.open(profile=world.profile("nobody"))
    with pytest.raises(AccessDenied, match="not on the roster"):
        task.resume(profile=world.profile("nobody"))


# -- receipts ----------------------------------------------------------------------------------------------


def test_receipt_for_what_somebody_gave_up(world, job, honest):
    """A receipt cannot name a change set that is no part of the job, as the curator's own abandoned ones are."""
    newest = world.newest()
    curator = Adversary(world, "author")
    abandoned = curator.data(section=Section(deletes=("shared/one",)))
    raw = abandoned.pack(curator.sign)
    curator.store.put(change_name(abandoned.change_id), raw)
    document = {
        "job": job.task.job.job_id.hex(),
        "attempt": abandoned.change_id.hex(),
        "digest": file_digest(raw).hex(),
        "size": len(raw),
        "files": 0,
        "sealed": 0,
    }
    with pytest.raises(MalformedError):
        Receipt.from_json({**document, "change": abandoned.change_id.hex()})
    with pytest.raises(MissingError):
        job.commit([Receipt.from_json(document)])
    nothing_happened(world, newest, honest)


def test_copied_under_the_name_of_a_part(world, job, honest):
    """The host copies an abandoned change set to where a part would stand: its signed id is another one."""
    newest = world.newest()
    curator = Adversary(world, "author")
    abandoned = curator.data(section=Section(deletes=("shared/one",)))
    receipt = hand_over(job, curator, abandoned, rename=False)
    with pytest.raises(RosterViolation, match="another dataset or job"):
        job.commit([receipt])
    nothing_happened(world, newest, honest)


def test_part_of_another_job(world, job, honest):
    """A part of a job that was aborted does not come back in the next one, whatever its receipt says."""
    newest = world.newest()
    first = Dataset(world.open()).distribute()
    receipt = write(world, first, {"shared/one": b"aborted"})
    first.abort([receipt])
    with pytest.raises(InvalidInput, match="another job"):
        job.add(receipt)
    forged = replace(receipt, job_id=job.task.job.job_id)
    raw = job._session.engine.store.get(change_name(receipt.change_id), limit=1 << 20)
    job._session.engine.store.put(change_name(forged.change_id), raw)  # the host helps
    with pytest.raises(RosterViolation, match="another dataset or job"):
        job.commit([forged])
    with pytest.raises(InvalidInput, match="over"):
        first.commit([receipt])
    nothing_happened(world, newest, honest)


def test_receipt_replayed(world, job):
    """After the commit, in the same job or a resumed one."""
    receipt = write(world, job, {"shared/new": b"x"})
    job.commit([receipt])
    newest = world.newest()
    with pytest.raises(InvalidInput):
        job.commit([receipt])
    with pytest.raises(AlreadyExists, match="committed already"):
        job.task.resume(profile=world.controller).commit([receipt])
    assert world.newest() == newest


@pytest.mark.parametrize("changed", [{"digest": bytes(48)}, {"size": 10}, {"size": 10**6}])
def test_altered_receipt(world, job, honest, changed):
    """Another digest or size than the part has."""
    newest = world.newest()
    with pytest.raises(TamperedError):
        job.commit([replace(write(world, job, {"x": b"x"}), **changed)])
    nothing_happened(world, newest, honest)


def test_two_receipts_for_one_part(world, job):
    """They differ: one of them is a lie."""
    receipt = write(world, job, {"x": b"x"})
    job.add(receipt)
    with pytest.raises(InvalidInput, match="differ"):
        job.add(replace(receipt, size=receipt.size + 1))
    job.abort()


def test_host_swaps_a_part(world, job, honest):
    """Between the worker's end and the commit, even for another genuine one of the same job."""
    newest = world.newest()
    one, other = (write(world, job, {f"{n}": b"x"}) for n in range(2))
    store = job._session.engine.store
    store.put(change_name(one.change_id), store.get(change_name(other.change_id), limit=1 << 20))
    with pytest.raises(TamperedError):
        job.commit([one])
    nothing_happened(world, newest, honest)


# -- workers that cheat ------------------------------------------------------------------------------------


def test_outside_of_its_prefix(world, job, bad, honest):
    """Readers would refuse this part alone and count the others, half of a commit: so nothing is committed."""
    newest = world.newest()
    fine = write(world, job, {"shared/fine": b"x"})
    receipt = hand_over(job, bad, bad.data([Planted("shared/one", b"forged")]))
    with pytest.raises(AccessDenied, match="outside its author's prefix"):
        job.commit([fine, receipt])
    nothing_happened(world, newest, honest)


def test_honest_form_of_it(world, job, bad, honest):
    """The same hand-made part inside the prefix is committed: what the others are refused for is what they do."""
    job.commit([hand_over(job, bad, bad.data([Planted("hospital/x", b"x")]))])
    assert world.files(world.open(forgetful=True)) == {**honest, "hospital/x": b"x"}


def test_deletes_as_a_producer(world, job, bad, honest):
    """Only curators delete."""
    newest = world.newest()
    receipt = hand_over(job, bad, bad.data(section=Section(deletes=("shared/one",))))
    with pytest.raises(AccessDenied, match="not delete"):
        job.commit([receipt])
    nothing_happened(world, newest, honest)


@pytest.mark.parametrize("what", ["tag", "old"])
def test_more_than_a_part_does(world, job, honest, what):
    """A curator's worker smuggles a tag in, or a copy, of which the driver could not see the source."""
    newest = world.newest()
    curator = Adversary(world, "author")
    entry = world.open().snapshot.get("shared/one")
    row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
    section = {
        "tag": Section(tags={"release": 1}),
        "old": Section(old_objects=(row,), puts=(Put("copy", 0, 0, entry.length, 0),)),
    }[what]
    with pytest.raises(RosterViolation, match="only the driver"):
        job.commit([hand_over(job, curator, curator.data(section=section))])
    nothing_happened(world, newest, honest)


def test_kinds_that_are_no_parts(world, job, honest):
    """What collects, or seals under older keys, is not committed by handing it to somebody's job."""
    newest = world.newest()
    curator = Adversary(world, "author")
    collecting = curator.change(ChangeKind.COLLECT, collected=(os.urandom(16),), horizon=1)
    old = next(record.wrapped for record in curator.state().keys.values() if record.kind is ChangeKind.DATA)
    data_key = world.session.engine.unwrap([old])[old.key_id]
    reused = curator.seal(Section(), data_key, old, keys=(), reused_keys=(ReusedKey(old.key_id, curator.compartment),))
    for change in (collecting, reused):
        again = Dataset(world.open()).distribute()
        with pytest.raises(RosterViolation, match="something else"):
            again.commit([hand_over(again, curator, change)])
    nothing_happened(world, newest, honest)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("section", [{"puts": (Put("x", 1, 0, 1, 0),)}, {"new_objects": ((1, bytes(24)),)}])
def test_outside_of_its_objects(world, job, honest, monkeypatch, section, number):
    """A part that reaches for objects of the one before or after it gets none, be they combined or not."""
    monkeypatch.setattr(gathering, "MAX_PARTS", 2)
    newest = world.newest()
    curator = Adversary(world, "author")
    parts = [write(world, job, {f"fine/{n}": b"x"}) for n in range(number)]
    whole = {"new_objects": ((0, bytes(24)),), "puts": (Put("x", 0, 0, 1, 0),), **section}
    bad = hand_over(job, curator, curator.data([Planted("x", b"x")], section=Section(**whole)))
    with pytest.raises(RosterViolation, match="outside of its objects"):
        job.commit([bad, *parts])
    nothing_happened(world, newest, honest)


@pytest.mark.parametrize("garbage", [bytes(300), b""])
def test_section_that_does_not_open(world, job, bad, honest, garbage):
    """Readers would refuse this part alone."""
    newest = world.newest()
    fine = write(world, job, {"fine": b"x"})
    with pytest.raises(RosterViolation, match="does not open"):
        job.commit([fine, hand_over(job, bad, bad.data([Planted("hospital/x", b"x")], spoil=garbage))])
    nothing_happened(world, newest, honest)


@pytest.mark.parametrize("plain", [b"", b"garbage", b"SHC9" + bytes(100)])
def test_section_that_opens_to_nonsense(world, job, bad, honest, plain):
    """The same when it opens, and there is no section in it."""
    newest = world.newest()
    with pytest.raises(RosterViolation, match="does not open"):
        job.commit([hand_over(job, bad, bad.seal(plain, *world.service.generate(bad.kek)))])
    nothing_happened(world, newest, honest)


def test_wrap_that_does_not_open(world, job, bad, honest):
    """The worker hands over a data key that nobody can unwrap."""
    newest = world.newest()
    data_key, wrapped = world.service.generate(bad.kek)
    garbage = replace(wrapped, ciphertext=bytes(len(wrapped.ciphertext)))
    with pytest.raises(RosterViolation, match="does not open"):
        job.commit([hand_over(job, bad, bad.seal(Section(), data_key, garbage))])
    nothing_happened(world, newest, honest)


def test_key_of_another_part(world, job, bad, honest):
    """A worker wraps its section under the data key of an honest one: a data key belongs to one part."""
    newest = world.newest()
    data_key, wrapped = world.service.generate(bad.kek)
    parts = [hand_over(job, bad, bad.seal(Section(), data_key, wrapped)) for _ in range(2)]
    with pytest.raises(AccessDenied, match="has already"):
        job.commit(parts)
    nothing_happened(world, newest, honest)


def test_object_of_somebody_else(world, job, bad):
    """Aborting deletes no object that a snapshot uses, though a worker's part names it as its own."""
    world.put({"shared/large": b"x" * 300_000})
    entry = world.open().snapshot.get("shared/large")
    curator = Adversary(world, "author")
    change = curator.data([Planted("x", b"x", object_id=entry.object_id, store=False)])
    job.abort([hand_over(job, curator, change)])
    assert world.object_file("shared/large").exists()
    assert world.read(world.open(forgetful=True), "shared/large") == b"x" * 300_000


def test_objects_of_another_author(world, job, bad):
    """Aborting deletes nothing that another author's part names: it may be under way elsewhere."""
    change = bad.data([Planted("hospital/x", b"x" * 1000)])
    name = change.inventory.object_ids[:16].hex()
    job.abort([hand_over(job, bad, change)])
    assert (world.host / "objects" / name[:2] / name).exists()


def test_driver_is_no_curator(world, thief, job):
    """A thief with a producer's key links nothing of others by way of a job."""
    receipt = write(world, job, {"shared/two": b"x"})
    newest = world.newest()
    with pytest.raises(AccessDenied, match="only a curator"):
        job.task.resume(profile=thief).commit([receipt])
    assert world.newest() == newest
    assert job.commit([receipt]).puts == 1


def test_rotated_meanwhile(world, job):
    """A rotation while the job runs does no harm."""
    receipt = write(world, job, {"x": b"x"})
    rotate(world.open())
    assert job.commit([receipt]).puts == 1
    assert world.read(world.open(forgetful=True), "x") == b"x"
