"""Lost anchors are made again from the store's links: what is believed on the way, and what is not."""

import os

import pytest
from adversary import Adversary

from sealedhealth import profiles
from sealedhealth.errors import AccessDenied, AnchorRolledBack, IntegrityError, KeyDestroyed, MissingError, RolledBack
from sealedhealth.log.link import file_digest
from sealedhealth.log.names import link_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import Section
from sealedhealth.session.maintenance import destroy_keys, maintain
from sealedhealth.session.recovery import reanchor


def lose(world, first, last=None):
    """The anchors from *first* on (to *last*) are gone, as after restoring the key service from a backup."""
    sequence = first
    while world.anchor_file(sequence).exists() and (last is None or sequence <= last):
        world.anchor_file(sequence).unlink()
        sequence += 1


@pytest.fixture
def lost(world):
    """Three commits whose anchors are gone; gives the first of them."""
    first = world.newest() + 1
    for number in range(3):
        world.put({"shared/one": f"newer {number}".encode()})
    lose(world, first)
    with pytest.raises(AnchorRolledBack):
        world.open()
    return first


def forget(world):
    """The data controller works on a new machine."""
    for path in world.controller.state.glob("*.json"):
        path.unlink()


def test_nothing_is_lost(world):
    """With every anchor in place there is nothing to do, and nothing is done."""
    report = reanchor(world.url, world.controller)
    assert report.anchored == ()
    assert not report.policy_recorded
    assert (report.before, report.after) == (world.newest(), world.newest())


def test_lost_anchors_are_made_again(world, lost):
    """Exactly the links that were anchored before, in their places; whoever had seen them opens again."""
    copies = [(world.host / link_name(lost + at)).read_bytes() for at in range(3)]
    plan = reanchor(world.url, world.controller, dry_run=True)
    assert not world.anchor_file(lost).exists()
    report = reanchor(world.url, world.controller)
    assert plan == report
    assert [one.sequence for one in report.anchored] == [lost, lost + 1, lost + 2]
    assert [world.service.read_anchor(world.dataset_id, lost + at).link for at in range(3)] == copies
    assert world.read(world.open(), "shared/one") == b"newer 2"
    assert reanchor(world.url, world.controller).anchored == ()
    assert world.put({"shared/one": b"and on"}) == lost + 3


def test_checkpoint_among_the_lost(world, lost):
    """Links that point to checkpoints are as good as others."""
    reanchor(world.url, world.controller)
    maintain(world.open(), force=True)
    lose(world, lost)
    reanchor(world.url, world.controller)
    assert world.read(world.open(forgetful=True), "shared/one") == b"newer 2"


def test_interrupted(world, lost, monkeypatch):
    """Cut short after the first anchor, doing it again does the rest."""
    anchors = profiles.connect(world.controller).anchors
    real, calls = anchors.create_anchor, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError("the power is gone")
        return real(*arguments)

    monkeypatch.setattr(anchors, "create_anchor", once)
    with pytest.raises(OSError, match="power"):
        reanchor(world.url, world.controller)
    monkeypatch.undo()
    assert [one.sequence for one in reanchor(world.url, world.controller).anchored] == [lost + 1, lost + 2]
    assert world.read(world.open(), "shared/one") == b"newer 2"


def test_one_lost_in_the_middle(world):
    """A single anchor that is gone while later ones are there."""
    for number in range(3):
        world.put({"shared/one": f"newer {number}".encode()})
    lose(world, 1, 1)
    report = reanchor(world.url, world.controller)
    assert [one.sequence for one in report.anchored] == [1]
    assert world.read(world.open(), "shared/one") == b"newer 2"


def test_policy_is_recorded_again(world):
    """The registry of the backup names an older policy: the newest of the log takes its place."""
    copy = world.backup(world.keystore)
    world.join("producer", Role.PRODUCER, prefix="hospital")
    version = world.session.engine.loaded.state.policy.version
    world.restore(copy, world.keystore)
    world.keystore.chmod(0o700)
    profiles.disconnect()
    report = reanchor(world.url, world.controller)
    assert report.policy_recorded
    assert report.policy == version
    policy, _ = world.open().engine.trusted_policy()
    assert policy.version == version


def test_only_the_data_controller(world, lost):
    """A curator who may create anchors may not decide what the history is."""
    curator = world.profile("curator")
    service = world.service
    service.create_author("curator")

    class NoRootKey:
        def __getattr__(self, name):
            return getattr(service, name)

        def sign(self, name, message):
            raise AccessDenied("Not with this identity.")

    context = profiles.KeyContext(NoRootKey(), service, service)
    profiles.connecting._connections[profiles.connecting._connection_key(curator)] = context
    with pytest.raises(AccessDenied):
        reanchor(world.url, curator)
    assert not world.anchor_file(lost).exists()


def test_truncated_by_the_host(world, lost):
    """The host keeps the newest link back: refused by what this machine has seen, or by what somebody remembers."""
    newest = world.host / link_name(lost + 2)
    digest = file_digest(newest.read_bytes()).hex()
    newest.unlink()
    with pytest.raises(RolledBack, match="has been seen"):
        reanchor(world.url, world.controller)
    forget(world)
    with pytest.raises(RolledBack, match="has been seen"):
        reanchor(world.url, world.controller, seen={lost + 2: digest})
    assert not world.anchor_file(lost).exists()
    # Nobody remembers: what the store has is all there is.
    assert reanchor(world.url, world.controller).after == lost + 1


def test_another_history(world, thief):
    """A thief who was taken off the roster since offers a history without that: what people remember counts."""
    first = world.newest() + 1
    world.join("producer", Role.PRODUCER, prefix="hospital", active=False)
    remembered = {first: file_digest((world.host / link_name(first)).read_bytes()).hex()}
    lose(world, first)
    saved = (world.host / link_name(first)).read_bytes()
    (world.host / link_name(first)).unlink()
    other = Adversary(world, "producer")
    other.commit(other.data(section=Section()))
    forged = world.service.read_anchor(world.dataset_id, first).link
    lose(world, first)
    (world.host / link_name(first)).write_bytes(forged)
    # The registry, where it is not that old, knows a newer policy; so does this client know another commit.
    with pytest.raises(RolledBack):
        reanchor(world.url, world.controller)
    forget(world)
    with pytest.raises(RolledBack):
        reanchor(world.url, world.controller)
    with pytest.raises(RolledBack, match="not the one"):
        reanchor(world.url, world.controller, seen=remembered)
    assert not world.anchor_file(first).exists()
    (world.host / link_name(first)).write_bytes(saved)
    reanchor(world.url, world.controller, seen=remembered)
    assert world.open(forgetful=True).sequence == first


@pytest.mark.parametrize("damage", ["flipped", "cut", "random", "swapped"])
def test_damaged_copy_is_not_anchored(world, lost, damage):
    """A link on the store that is not what its author signed ends the log there, and what was seen is missing."""
    path = world.host / link_name(lost + 1)
    data = path.read_bytes()
    changed = {
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[:-10],
        "random": os.urandom(len(data)),
        "swapped": (world.host / link_name(lost + 2)).read_bytes(),
    }
    path.write_bytes(changed[damage])
    with pytest.raises(RolledBack):
        reanchor(world.url, world.controller)
    forget(world)
    assert [one.sequence for one in reanchor(world.url, world.controller).anchored] == [lost]


def test_change_set_that_is_gone(world, lost):
    """A commit whose change set the store lacks is not anchored again: it would open for nobody."""
    change = sorted((world.host / ".sealedhealth").rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    newest = [path for path in change if path.is_file() and "changes" in str(path.parent)][-1]
    newest.unlink()
    with pytest.raises(MissingError):
        reanchor(world.url, world.controller)
    assert not world.anchor_file(lost).exists()


def test_garbage_behind_the_last_link(world, lost):
    """What the host puts behind the last commit is not anchored."""
    for at in (3, 4, 9):
        (world.host / link_name(lost + at)).write_bytes(b"garbage")
    assert reanchor(world.url, world.controller).after == lost + 2
    assert not world.anchor_file(lost + 3).exists()


def test_wasted_numbers_among_the_lost(world, thief):
    """Numbers that a thief wasted count for nothing again, with or without a copy, and what follows them opens."""
    first = world.newest() + 1
    world.service.create_anchor(world.dataset_id, first, b"nonsense")
    world.service.create_anchor(world.dataset_id, first + 1, b"more nonsense")
    sequence = world.put({"shared/one": b"after the waste"})
    assert sequence == first + 2
    (world.host / link_name(first)).unlink(missing_ok=True)
    lose(world, first)
    report = reanchor(world.url, world.controller)
    assert [bool(one.void) for one in report.anchored] == [True, True, False]
    assert world.read(world.open(), "shared/one") == b"after the waste"


def test_destroyed_keys_are_destroyed_again(world):
    """A backup brings destroyed keys back: with the anchors, their end is restored too."""
    copy = world.backup(world.keystore)
    world.put({"shared/secret": b"to be destroyed"})
    session = world.open()
    entry = session.snapshot.get("shared/one")
    wrapped = session.engine.loaded.state.keys[entry.data_key_id].wrapped
    destroy_keys(session, [entry.data_key_id])
    world.restore(copy, world.keystore)
    world.keystore.chmod(0o700)
    profiles.disconnect()
    service = profiles.connect(world.controller).service
    assert service.unwrap([wrapped])[0].key_id == wrapped.key_id  # it is back
    report = reanchor(world.url, world.controller)
    assert list(report.retired.values()) == [3]  # a destruction rotates twice
    assert report.lost_keys
    with pytest.raises((AccessDenied, IntegrityError)):
        service.unwrap([wrapped])
    assert not reanchor(world.url, world.controller).retired
    with pytest.raises((KeyDestroyed, IntegrityError, AccessDenied)):
        world.open(at=2)
