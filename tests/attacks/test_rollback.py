"""Anchors, log, policy or memory go back in time."""

import os

import pytest
from adversary import Adversary

from sealedhealth import profiles
from sealedhealth.errors import AnchorRolledBack, IntegrityError, MalformedError, RolledBack
from sealedhealth.keys import LocalKeyService
from sealedhealth.log.names import link_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import Section
from sealedhealth.session.maintenance import maintain


def restored_anchors(world, last):
    """The anchors after *last* are gone, as after restoring the keystore from a backup."""
    sequence = last + 1
    while world.anchor_file(sequence).exists():
        world.anchor_file(sequence).unlink()
        sequence += 1


def test_anchors_older_than_the_log(world):
    """A keystore from a backup: the log on the store goes on where the anchors end, also for who never saw it."""
    last = world.newest()
    world.put({"shared/one": b"newer"})
    restored_anchors(world, last)
    with pytest.raises(AnchorRolledBack):
        world.open()
    with pytest.raises(AnchorRolledBack):
        world.open(forgetful=True)


def test_anchors_older_than_what_this_client_has_seen(world):
    """The host rolls its log back as well: whoever saw the later commit still notices."""
    last = world.newest()
    sequence = world.put({"shared/one": b"newer"})
    world.open()
    restored_anchors(world, last)
    (world.host / link_name(sequence)).unlink()
    with pytest.raises(AnchorRolledBack):
        world.open()


def test_anchors_that_went_back_under_an_open_session(world):
    """A session that is open neither commits after anchors that vanished, nor takes the rest for the newest."""
    last = world.newest()
    sequence = world.put({"shared/one": b"newer"})
    session = world.open()
    restored_anchors(world, last)
    (world.host / link_name(sequence)).unlink()
    with pytest.raises(RolledBack):
        session.refresh()
    tx = session.begin()
    tx.put_bytes("shared/three", b"three")
    with pytest.raises(RolledBack):
        tx.commit()
    assert not world.anchor_file(sequence + 1).exists()


def test_another_history_after_a_rollback(world):
    """After a rollback somebody went on: who saw the first history is told that there are two."""
    last = world.newest()
    sequence = world.put({"shared/one": b"first"})
    world.open()
    restored_anchors(world, last)
    (world.host / link_name(sequence)).unlink()
    other = Adversary(world, "author")
    other.commit(other.data(section=Section(deletes=("shared/one",))))
    with pytest.raises(RolledBack, match="not the one"):
        world.open()


def test_open_session_notices_another_history(world):
    """So does a session that was open all the time."""
    last = world.newest()
    sequence = world.put({"shared/one": b"first"})
    session = world.open()
    restored_anchors(world, last)
    (world.host / link_name(sequence)).unlink()
    other = Adversary(world, "author")
    other.commit(other.data(section=Section(deletes=("shared/one",))))
    other.commit(other.data(section=Section(deletes=("shared/two",))))
    with pytest.raises(RolledBack):
        session.refresh()


def test_no_anchor_at_all(world):
    """A key service that lost every anchor is refused, not taken for an empty dataset."""
    restored_anchors(world, -1)
    with pytest.raises(IntegrityError):
        world.open()
    with pytest.raises(IntegrityError):
        world.open(forgetful=True)


def test_one_anchor_lost_in_the_middle(world):
    """A gap among the anchors does not make an older commit the newest."""
    world.put({"shared/one": b"newer"})
    world.anchor_file(1).unlink()
    with pytest.raises(IntegrityError):
        world.open()
    with pytest.raises(IntegrityError):
        world.open(forgetful=True)


@pytest.mark.parametrize("change", ["flipped", "cut", "empty", "swapped"])
def test_anchor_altered(world, change):
    """A damaged anchor is an error: it is no void commit."""
    path = world.anchor_file(world.newest())
    data = path.read_bytes()
    other = world.anchor_file(0).read_bytes()
    path.chmod(0o600)
    path.write_bytes(
        {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "empty": b"", "swapped": other}[change]
    )
    with pytest.raises(IntegrityError):
        world.open()
    with pytest.raises(IntegrityError):
        world.open(forgetful=True)


def test_policy_rolled_back(world):
    """Anchors and store from before an author was removed: the registry remembers the newer policy."""
    world.join("producer", Role.PRODUCER, prefix="hospital")
    last = world.newest()
    world.join("producer", Role.PRODUCER, prefix="hospital", active=False)
    restored_anchors(world, last)
    for sequence in range(last + 1, last + 3):
        (world.host / link_name(sequence)).unlink(missing_ok=True)
    with pytest.raises(RolledBack):
        world.open(forgetful=True)


def test_memory_of_what_was_seen_is_not_passed_over(world):
    """A damaged memory is an error: ignoring it would switch the check off."""
    world.open()
    [path] = [p for p in world.controller.state.iterdir() if p.suffix == ".json" and "orphans" not in p.name]
    for damage in (b"", b"{}", b'{"sequence":1}', b'{"sequence":-1,"digest":"00"}', os.urandom(50)):
        path.write_bytes(damage)
        with pytest.raises(MalformedError):
            world.open()


def test_whole_keystore_restored_from_a_backup(world):
    """The whole keystore from before: refused with the store as it is, by a process that starts afterwards."""
    copy = world.backup(world.keystore)
    world.put({"shared/one": b"newer"})
    world.restore(copy, world.keystore)
    world.keystore.chmod(0o700)
    profiles.disconnect()
    with pytest.raises(AnchorRolledBack):
        world.open()
    assert isinstance(world.service, LocalKeyService)


def test_checkpoint_does_not_hide_a_rollback(world):
    """Nor does a checkpoint after the restored anchors lead past the check."""
    last = world.newest()
    world.put({"shared/one": b"newer"})
    maintain(world.open(), force=True)
    restored_anchors(world, last)
    with pytest.raises(AnchorRolledBack):
        world.open(forgetful=True)
