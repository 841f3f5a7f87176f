"""The host kept every byte it ever had; keys that were destroyed stay destroyed."""

import shutil
from contextlib import suppress

import pytest
from adversary import Adversary

from sealedhealth import profiles
from sealedhealth.errors import AccessDenied, ConflictError, IntegrityError, KeyDestroyed, KeyRetired, SealedHealthError
from sealedhealth.keys.base import DatasetRef
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.checkpoint import Manifest, open_content
from sealedhealth.log.names import checkpoint_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import Section
from sealedhealth.session.maintenance import destroy_dataset, destroy_keys, maintain, rewrap, rotate
from sealedhealth.session.maintenance.checkpoints import write_checkpoint
from sealedhealth.session.verify import verify


def doomed_key(world, path):
    """The data key that sealed a file."""
    return world.open().snapshot.get(path).data_key_id


def every_wrap(world, host):
    """Every wrapped key in a copy of the store: of change sets by their kind and key, and of checkpoints."""
    log = Adversary(world, "author").log
    steps = log.replay(log.start(), log.anchors_from(0))
    wraps = [wrapped for step in steps for accepted in step.accepted for wrapped in accepted.change.keys]
    for path in (host / ".sealedhealth" / "checkpoints").iterdir():
        try:
            manifest = Manifest.read(Manifest.split(path.read_bytes()))
        except IntegrityError:
            continue  # a sealed segment
        wraps += [ref.wrapped for ref in manifest.segments]
    return wraps


@pytest.fixture
def kept(world):
    """A world with a doomed file that was checkpointed, renamed and rewrapped; then a full copy of the host."""
    world.put({"shared/doomed name": b"doomed", "shared/doomed too": b"doomed too"})
    maintain(world.open(), force=True)
    rotate(world.open())
    rewrap(world.open())
    maintain(world.open(), force=True)
    world.copy = world.backup(world.host)
    return world


def test_destroyed_key_opens_nothing_again(kept):
    """With old ciphertext, old wraps, old checkpoints and all present rights, no doomed key comes back."""
    world = kept
    key_id = doomed_key(world, "shared/doomed name")
    before = every_wrap(world, world.copy)
    report = destroy_keys(world.open(), [key_id])
    assert report.proved >= 2
    # Every wrap that the host could have kept: of the doomed key, and of every checkpoint that held its object keys.
    checkpoints = [wrapped for wrapped in before if wrapped.key_id not in Adversary(world, "author").state().keys]
    assert checkpoints
    for wrapped in [w for w in before if w.key_id == key_id] + checkpoints:
        for version in range(4):
            with pytest.raises(SealedHealthError):
                world.service.unwrap([type(wrapped)(wrapped.kek, wrapped.key_id, version, wrapped.ciphertext)])
    world.restore(world.copy, world.host)
    with pytest.raises(SealedHealthError):
        world.open(forgetful=True)


def test_old_store_under_old_anchors_opens_nothing_doomed(kept):
    """Even with the anchors from before (a rollback that nobody notices) the doomed names and bytes stay closed."""
    world = kept
    last = world.newest()
    key_id = doomed_key(world, "shared/doomed name")
    destroy_keys(world.open(), [key_id])
    sequence = last + 1
    while world.anchor_file(sequence).exists():
        world.anchor_file(sequence).unlink()
        sequence += 1
    world.restore(world.copy, world.host)
    with pytest.raises((KeyRetired, KeyDestroyed)):
        world.open(forgetful=True)


def test_survivors_open_and_the_doomed_are_named(kept):
    """Everything else opens, also for who never saw the dataset; the doomed files are gone from the newest snapshot."""
    world = kept
    destroy_keys(world.open(), [doomed_key(world, "shared/doomed name")])
    assert world.files(world.open(forgetful=True)) == {"shared/one": b"one", "shared/two": b"two" * 1000}
    verify(world.open())
    world.put({"shared/later": b"later"})
    assert world.files(world.open(forgetful=True))["shared/later"] == b"later"


def test_destroyed_file_that_was_moved_says_so(kept):
    """A name that another commit gave stays; reading it says that the key was destroyed, not that it was altered."""
    world = kept
    with world.open().begin() as tx:
        tx.move("shared/doomed name", "shared/moved")
    destroy_keys(world.open(), [doomed_key(world, "shared/moved")])
    session = world.open(forgetful=True)
    with pytest.raises(KeyDestroyed):
        world.read(session, "shared/moved")
    assert verify(world.open()).destroyed == 1


def test_session_at_work_during_a_destruction(kept):
    """A client that was open goes on from the newest checkpoint, and reads the doomed file no more."""
    world = kept
    session = world.open(world.join("second", Role.PRODUCER, Role.CURATOR))
    entry = session.snapshot.get("shared/doomed name")
    world.put({"shared/doomed too": b"doomed as well"})
    destroy_keys(world.open(), [entry.data_key_id, doomed_key(world, "shared/doomed too")])
    session.refresh()
    assert set(dict(session.snapshot.items())) == {"shared/one", "shared/two"}
    with pytest.raises(KeyDestroyed):
        session.read_ranges([(entry, 0, 1)])
    with session.begin() as tx:
        tx.put_bytes("shared/three", b"three")
    assert world.files(world.open(forgetful=True))["shared/three"] == b"three"


def test_nobody_wraps_below_the_minimum_again(kept):
    """After the tombstone, a change set under a retired version of the key-encryption key is refused."""
    world = kept
    bad = Adversary(world, "author")
    old = bad.data()
    destroy_keys(world.open(), [doomed_key(world, "shared/doomed name")])
    sequence = bad.commit(old)
    assert "retired" in world.open().history()[sequence].refused[0]


def test_nobody_revives_a_destroyed_key(kept):
    """A rewrap of a destroyed key is refused, and so is introducing it anew."""
    world = kept
    bad = Adversary(world, "author")
    wrapped = bad.state().keys[doomed_key(world, "shared/doomed name")].wrapped
    destroy_keys(world.open(), [wrapped.key_id])
    newest = type(wrapped)(wrapped.kek, wrapped.key_id, 3, wrapped.ciphertext)
    rewrapped = bad.commit(bad.change(ChangeKind.REWRAP, keys=(newest,)))
    data_key, own = world.service.generate(bad.kek)
    again = bad.commit(bad.seal(Section(), data_key, own, keys=[own, newest]))
    history = world.open().history()
    assert history[rewrapped].refused
    assert history[again].refused


def test_only_the_controller_destroys(kept):
    """Somebody without the root key does not, whatever roles it has."""
    world = kept
    everything = world.join("second", *Role)
    key_id = doomed_key(world, "shared/doomed name")
    (world.keystore / "authors").exists()
    session = world.open(everything)
    session.engine.sign_as_root = lambda message: world.service.sign("second", message)
    with pytest.raises(SealedHealthError):
        destroy_keys(session, [key_id])
    assert b"doomed" in world.files().values()


def test_destroyed_dataset_opens_nothing_again(kept):
    """Every wrap of every kind fails, with the whole old store and an old registry record."""
    world = kept
    before = every_wrap(world, world.copy)
    ref = world.service.lookup(world.dataset_id.hex())
    destroy_dataset(world.open())
    with pytest.raises(KeyDestroyed):
        world.open()
    for wrapped in before:
        for version in range(6):
            with pytest.raises(SealedHealthError):
                world.service.unwrap([type(wrapped)(wrapped.kek, wrapped.key_id, version, wrapped.ciphertext)])
    world.restore(world.copy, world.host)
    with pytest.raises(SealedHealthError):
        world.service.register(DatasetRef(ref.dataset_id, ref.urls, ref.policy))
    with pytest.raises(SealedHealthError):
        world.open(forgetful=True)


def test_copy_of_the_keystore_is_outside_of_the_promise(kept):
    """A copy of the keystore from before, together with the old store, does open: said here so that nobody forgets."""
    world = kept
    keystore = world.backup(world.keystore)
    destroy_keys(world.open(), [doomed_key(world, "shared/doomed name")])
    world.restore(keystore, world.keystore)
    world.keystore.chmod(0o700)
    world.restore(world.copy, world.host)
    shutil.rmtree(world.controller.state)
    profiles.disconnect()
    assert world.read(world.open(forgetful=True), "shared/doomed name") == b"doomed"


def test_checkpoint_after_a_destruction_holds_no_doomed_name(kept):
    """The checkpoint that survives knows neither the name nor the object key of a doomed file."""
    world = kept
    destroy_keys(world.open(), [doomed_key(world, "shared/doomed name")])
    hint = Adversary(world, "author").state().checkpoint
    assert (world.host / checkpoint_name(hint.checkpoint_id)).exists()
    session = world.open(forgetful=True)
    assert not any("doomed" in path for path, _ in session.snapshot.items())
    with pytest.raises((AccessDenied, IntegrityError, KeyError)):
        world.read(session.at(3), "shared/doomed name")


def test_old_curator_link_anchored_again_does_not_hide_the_newest_checkpoint(kept):
    """A genuine link of before, replayed as the next number, sends nobody to a checkpoint whose keys are gone."""
    world = kept
    adversary = Adversary(world, "author")
    old = adversary.log.anchor(adversary.state().sequence).link
    assert adversary.state().checkpoint is not None
    destroy_keys(world.open(), [doomed_key(world, "shared/doomed name")])
    world.service.create_anchor(world.dataset_id, world.newest() + 1, old)
    session = world.open(forgetful=True)
    assert session.snapshot.get("shared/one") is not None
    assert session.history()[-1].void


def opens_doomed(world):
    """Doomed names in every checkpoint on the host that the key service still opens."""
    place = world.host / ".sealedhealth" / "checkpoints"
    found = []
    for path in place.iterdir():
        try:
            manifest = Manifest.read(Manifest.split(path.read_bytes()))
            keys = {ref.wrapped.key_id: world.service.unwrap([ref.wrapped])[0] for ref in manifest.segments}
        except SealedHealthError:
            continue
        content = open_content(
            manifest,
            manifest.segments[0].compartment_id,
            keys,
            lambda refs: [(place / ref.object_id.hex()).read_bytes() for ref in refs],
        )
        found += [name for name, _ in content.catalogue.items() if "doomed name" in name]
    return found


@pytest.mark.parametrize("rotation", [1, 2])
def test_checkpoint_by_somebody_else_during_a_destruction(kept, monkeypatch, rotation):
    """Whoever writes a checkpoint while a key is destroyed, not knowing it, does not keep the doomed file readable."""
    world = kept
    key_id = doomed_key(world, "shared/doomed name")
    other = world.open(world.join("second", Role.CURATOR))
    rotate_kek = world.service.rotate
    done = []

    def rotate_then_checkpoint(kek):
        version = rotate_kek(kek)
        done.append(version)
        if len(done) == rotation:
            with other.engine.lock, suppress(ConflictError):
                write_checkpoint(other.engine, fresh=True)
        return version

    monkeypatch.setattr(world.service, "rotate", rotate_then_checkpoint)
    destroy_keys(world.open(), [key_id])
    assert len(done) == 2
    assert opens_doomed(world) == []
    assert world.files(world.open(forgetful=True)) == {"shared/one": b"one", "shared/two": b"two" * 1000}


def test_wrap_made_while_a_dataset_is_destroyed(kept, monkeypatch):
    """Who rotates or seals a checkpoint at that moment, and does not know of the tombstone, keeps no key alive."""
    session = kept.open()
    service = session.engine.context.service
    rotate_once = service.rotate
    wraps = []

    def rotate_among_others(kek):
        version = rotate_once(kek)
        wraps.append(service.generate(kek)[1])
        return version

    monkeypatch.setattr(service, "rotate", rotate_among_others)
    destroy_dataset(session)
    with pytest.raises(KeyRetired):
        service.unwrap([wraps[0]])
