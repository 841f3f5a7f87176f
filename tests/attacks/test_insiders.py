"""Readers, curators, rotators and authors who were removed go beyond their rights, with the host's help."""

import os
from dataclasses import replace

import pytest
from adversary import Adversary, Planted

from sealedhealth.errors import AccessDenied, IntegrityError, RosterViolation
from sealedhealth.format import Header, Kind, seal
from sealedhealth.log.changeset import ChangeKind, seal_section
from sealedhealth.log.checkpoint import Manifest, pack_public, seal_content
from sealedhealth.log.content import Dropped
from sealedhealth.log.entry import Entry
from sealedhealth.log.link import CheckpointRef, file_digest
from sealedhealth.log.names import change_name, checkpoint_name, link_name, object_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import AuthorNote, Section
from sealedhealth.log.state import KeyRecord
from sealedhealth.session.maintenance import maintain, rewrap, rotate
from sealedhealth.session.verify import VerificationFailed, verify

# -- a reader, colluding with the host ------------------------------------------------------------------


def test_reader_reseals_an_object_with_its_data_key(world):
    """Whoever can open a file could seal another in its place; the signed digest says that it is not the one."""
    session = world.open()
    entry = session.snapshot.get("shared/one")
    header = Header(Kind.OBJECT, world.dataset_id, entry.data_key_id, entry.object_id)
    forged, _ = seal(entry.object_key, header, b"two")
    (world.host / object_name(entry.object_id)).write_bytes(forged)
    fresh = world.open()
    for start, stop in ((0, 3), (0, 1), (2, 3)):
        with pytest.raises(IntegrityError):
            fresh.read_ranges([(fresh.snapshot.get("shared/one"), start, stop)])


def test_reader_reseals_a_section_with_its_data_key(world):
    """The same for the sealed part of the log."""
    session = world.open()
    steps = session.engine.log.replay(session.engine.log.start(), session.engine.log.anchors_from(0))
    change = steps[-1].accepted[0].change
    [ref] = change.sections
    key = session.engine.unwrap([change.keys[0]])[ref.data_key_id]
    _, forged = seal_section(world.dataset_id, ref.compartment_id, key, ref.object_id, Section(message="x").pack())
    path = world.host / change_name(change.change_id)
    data = path.read_bytes()
    path.write_bytes(data[: -ref.size] + forged)
    with pytest.raises(IntegrityError):
        world.open()


def test_reader_is_on_no_roster(world):
    """A reader's signature commits nothing, at all or in the name of an author."""
    world.service.create_author("reader")
    world.join("producer", Role.PRODUCER, prefix="hospital")
    before = world.files()
    bad = Adversary(world, "reader")
    first = bad.commit(bad.data([Planted("hospital/x", b"x")]))
    bad.author_id = Adversary(world, "producer").author_id
    second = bad.commit(bad.data([Planted("hospital/x", b"x")]))
    history = world.open(forgetful=True).history()
    assert "not on the roster" in history[first].void
    assert "signature" in history[second].void
    assert world.files() == before


def test_reader_without_a_signing_key_cannot_begin(world):
    """The client says so before anything is sealed."""
    session = world.open(world.profile("reader"))
    assert world.read(session, "shared/one") == b"one"
    with pytest.raises(AccessDenied):
        session.begin()


def test_author_of_no_role_commits_nothing(world):
    """Being on the roster is not enough."""
    world.join("guest")
    bad = Adversary(world, "guest")
    sequence = bad.commit(bad.data([Planted("x", b"x")]))
    assert world.open(forgetful=True).history()[sequence].void


# -- somebody who was removed ------------------------------------------------------------------------------


def test_removed_author(world):
    """After its removal nothing an author signs counts; what it committed before stays."""
    profile = world.join("producer", Role.PRODUCER, prefix="hospital")
    world.put({"hospital/before": b"before"}, profile)
    bad = Adversary(world, "producer")
    prepared = bad.data([Planted("hospital/x", b"prepared before the removal")])
    raw = prepared.pack(bad.sign)
    bad.store.put(change_name(prepared.change_id), raw)
    world.join("producer", Role.PRODUCER, prefix="hospital", active=False)
    before = world.files()
    assert before["hospital/before"] == b"before"
    void = bad.anchor(bad.link({prepared.change_id: raw}))
    curator = Adversary(world, "author")
    refused = curator.anchor(curator.link({prepared.change_id: raw}))
    history = world.open(forgetful=True).history()
    assert history[void].void
    assert "not on the roster" in history[refused].refused[0]
    assert world.files() == before
    with pytest.raises(AccessDenied):
        world.open(profile).begin()


def test_author_with_a_smaller_prefix(world):
    """A prefix that was narrowed binds from then on; what lies outside stays."""
    profile = world.join("producer", Role.PRODUCER, prefix="hospital")
    world.put({"hospital/a": b"a"}, profile)
    world.join("producer", Role.PRODUCER, prefix="hospital/ward")
    bad = Adversary(world, "producer")
    sequence = bad.commit(bad.data([Planted("hospital/a", b"b")]))
    assert world.open(forgetful=True).history()[sequence].refused
    assert world.files()["hospital/a"] == b"a"


def test_removed_curator_and_its_checkpoint(world):
    """Nobody depends on the checkpoint of a curator who was removed, nor follows a later one."""
    profile = world.join("curator", Role.CURATOR)
    maintain(world.open(profile), force=True)
    bad = Adversary(world, "curator")
    old = bad.state().checkpoint
    world.join("curator", Role.CURATOR, active=False)
    for part in (world.host / ".sealedhealth" / "checkpoints").glob(old.checkpoint_id.hex()):
        part.unlink()
    bad.anchor(bad.link({os.urandom(16): b"x"}, checkpoint=old))
    assert world.files(world.open(forgetful=True)) == {"shared/one": b"one", "shared/two": b"two" * 1000}
    verify(world.open())


# -- a curator -------------------------------------------------------------------------------------------------


def test_curator_cannot_commit_as_a_producer(world):
    """A curator may write anywhere, but in its own name."""
    world.join("producer", Role.PRODUCER, prefix="hospital")
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    forged = replace(bad.data([Planted("hospital/x", b"x")]), author_id=Adversary(world, "producer").author_id)
    sequence = bad.commit(forged)
    assert "signature" in world.open(forgetful=True).history()[sequence].refused[0]


@pytest.mark.parametrize("kind", [ChangeKind.POLICY, ChangeKind.DESTROY, ChangeKind.REWRAP])
def test_curator_is_neither_controller_nor_rotator(world, kind):
    """A curator names no authors, destroys no keys and rewraps none."""
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    state = bad.state()
    parts = {
        ChangeKind.POLICY: {"policy": replace(state.policy, version=state.policy.version + 1)},
        ChangeKind.DESTROY: {"destroyed": tuple(state.keys)[:1]},
        ChangeKind.REWRAP: {"keys": (next(iter(state.keys.values())).wrapped,)},
    }[kind]
    sequence = bad.commit(bad.change(kind, **parts))
    assert "no role" in world.open(forgetful=True).history()[sequence].refused[0]


def forge_checkpoint(world, bad, *, content=None, state=None):
    """Sign a checkpoint of the newest commit whose content or public state were changed, and publish it."""
    session = world.open()
    loaded = session.engine.loaded
    public = loaded.state.copy()
    if state is not None:
        state(public)
    refs, files = [], {}
    for held in (loaded.contents or {}).values():
        forged = held.copy()
        if content is not None:
            content(forged)
        data_key, wrapped = world.service.generate(bad.kek)
        part_refs, part_files, _ = seal_content(
            forged, world.dataset_id, data_key, wrapped, reuse=(), random=os.urandom
        )
        refs += part_refs
        files |= part_files
    manifest = Manifest(
        dataset_id=world.dataset_id,
        checkpoint_id=os.urandom(16),
        sequence=public.head_sequence,
        link=public.head,
        time_us=0,
        policy_version=public.policy.version,
        policy_ref=public.policy_ref,
        policy_sequence=public.policy_sequence,
        segments=tuple(refs),
        public=pack_public(public),
    )
    raw = manifest.pack(bad.author_id, bad.sign)
    bad.store.put_many({checkpoint_name(name): data for name, data in files.items()})
    bad.store.put(checkpoint_name(manifest.checkpoint_id), raw)
    hint = CheckpointRef(manifest.checkpoint_id, file_digest(raw), len(raw), manifest.sequence)
    bad.commit(bad.change(ChangeKind.COLLECT), checkpoint=hint)


def resealed(world, content, data):
    """Another content under the ids of ``shared/one``, sealed by its own object key: only salt and digest differ."""
    entry = content.catalogue.get("shared/one")
    header = Header(Kind.OBJECT, world.dataset_id, entry.data_key_id, entry.object_id)
    sealed, info = seal(entry.object_key, header, data)
    (world.host / object_name(entry.object_id)).write_bytes(sealed)
    return replace(entry, salt=info.salt, root=info.root, sealed_size=len(sealed), length=len(data))


def put_entry(content, path, entry):
    """Change one entry of a compartment's catalogue."""
    content.catalogue = content.catalogue.apply({path: entry}, ())


LIES = {
    "file resealed under its own ids": lambda w: lambda c: put_entry(c, "shared/one", resealed(w, c, b"two")),
    "file cut short": lambda w: lambda c: put_entry(c, "shared/two", replace(c.catalogue.get("shared/two"), length=5)),
    "file shifted": lambda w: (
        lambda c: put_entry(c, "shared/two", replace(c.catalogue.get("shared/two"), offset=3, length=2997))
    ),
    "file under another name": lambda w: lambda c: put_entry(c, "shared/three", c.catalogue.get("shared/one")),
    "file left out": lambda w: lambda c: setattr(c, "catalogue", c.catalogue.apply({}, ["shared/one"])),
    "other time": lambda w: lambda c: put_entry(c, "shared/one", replace(c.catalogue.get("shared/one"), mtime_us=1)),
    "other commit": lambda w: lambda c: put_entry(c, "shared/one", replace(c.catalogue.get("shared/one"), sequence=0)),
    "tag moved": lambda w: lambda c: c.tags.update(release=0),
    "prefix widened": lambda w: (
        lambda c: c.notes.update({key: AuthorNote(note.name, "") for key, note in c.notes.items()})
    ),
    "object marked as dropped": lambda w: (
        lambda c: c.dropped.update({bytes(32): Dropped(bytes(16), bytes(16), 1, 136)})
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_forged_checkpoint_is_found_by_verify(world, lie):
    """Whatever a curator's checkpoint says that producers did not commit, verifying the dataset tells."""
    world.join("producer", Role.PRODUCER, prefix="hospital")
    with world.open().begin() as tx:
        tx.tag("release", 1)
    world.join("curator", Role.CURATOR)
    verify(world.open())
    bad = Adversary(world, "curator")
    forge_checkpoint(world, bad, content=LIES[lie](world))
    with pytest.raises(VerificationFailed, match="checkpoint"):
        verify(world.open())


PUBLIC_LIES = {
    "key left out": lambda s: s.keys.popitem(),
    "wrap exchanged": lambda s: s.keys.update(
        {
            key_id: KeyRecord(replace(record.wrapped, ciphertext=bytes(104)), record.sequence, record.kind)
            for key_id, record in s.keys.items()
            if record.kind is ChangeKind.DATA
        }
    ),
    "change set forgotten": lambda s: s.changes.pop(),
    "key destroyed": lambda s: s.destroyed.update(dict.fromkeys(list(s.keys)[:1], 1)),
    "horizon moved": lambda s: setattr(s, "horizon", 1),
    "minimum raised": lambda s: s.minimum.update(dict.fromkeys(s.policy.compartments, 7)),
}


@pytest.mark.parametrize("lie", PUBLIC_LIES)
def test_forged_public_table_is_found_by_verify(world, lie):
    """The same for the public half."""
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    forge_checkpoint(world, bad, state=PUBLIC_LIES[lie])
    with pytest.raises(VerificationFailed, match="checkpoint"):
        verify(world.open())


def test_honest_checkpoint_of_the_same_tools_verifies(world):
    """The control: the tools of these tests make a checkpoint that verifies when it does not lie."""
    world.join("curator", Role.CURATOR)
    forge_checkpoint(world, Adversary(world, "curator"))
    report = verify(world.open())
    assert report.checkpoint is not None
    assert not report.failures


def test_checkpoint_of_another_commit(world):
    """A checkpoint that is bound to a link that was never anchored is refused at once."""
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    forge_checkpoint(world, bad, state=lambda s: setattr(s, "head", os.urandom(48)))
    with pytest.raises(RosterViolation, match="not committed"):
        world.open(forgetful=True)


def test_curator_tells_the_truth_but_for_one_path(world):
    """A checkpoint that gives a path the content of another author's file is found, too."""
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    forge_checkpoint(world, bad, content=lambda c: put_entry(c, "shared/one", c.catalogue.get("shared/two")))
    assert isinstance(world.open().snapshot.get("shared/one"), Entry)
    with pytest.raises(VerificationFailed, match="shared/one"):
        verify(world.open())


# -- a rotator ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rotator(world):
    """A rotator, and nothing else, after one rotation."""
    world.join("rotator", Role.ROTATOR)
    rotate(world.open())
    return Adversary(world, "rotator")


def record(bad):
    """Some data key of the log."""
    return next(r for r in bad.state().keys.values() if r.kind is ChangeKind.DATA)


def test_rotator_rewraps_and_nothing_else(world, rotator):
    """The control: an honest rewrap by a rotator counts, touches no object, and everything opens."""
    objects = {path: path.stat().st_mtime_ns for path in (world.host / "objects").rglob("*") if path.is_file()}
    report = rewrap(world.open(world.profile("rotator")))
    assert (report.version, report.objects_rewritten) == (2, 0)
    assert {r.wrapped.version for r in rotator.state().keys.values()} == {2}
    assert objects == {path: path.stat().st_mtime_ns for path in (world.host / "objects").rglob("*") if path.is_file()}
    assert world.files(world.open(forgetful=True))["shared/one"] == b"one"


def test_rotator_changes_no_data(world, rotator):
    """A rotator puts, deletes, collects and destroys nothing."""
    for change in (
        rotator.data([Planted("shared/one", b"forged")]),
        rotator.data(section=Section(deletes=("shared/one",))),
        rotator.change(ChangeKind.COLLECT),
        rotator.change(ChangeKind.DESTROY, destroyed=(record(rotator).wrapped.key_id,)),
    ):
        sequence = rotator.commit(change)
        assert "no role" in world.open(forgetful=True).history()[sequence].refused[0]
    assert world.files()["shared/one"] == b"one"


def test_rotator_goes_back_to_an_old_version(world, rotator):
    """Once rewrapped, a key does not go back to an older version of its key-encryption key."""
    old = record(rotator).wrapped
    rewrap(world.open(world.profile("rotator")))
    sequence = rotator.commit(rotator.change(ChangeKind.REWRAP, keys=(old,)))
    assert "older" in world.open(forgetful=True).history()[sequence].refused[0]


@pytest.mark.parametrize("lie", ["unknown key", "other compartment", "twice"])
def test_rotator_brings_wraps_that_do_not_belong(world, rotator, lie):
    """A rewrap concerns data keys that the log has, each once, where they are."""
    wrapped = record(rotator).wrapped
    lies = {
        "unknown key": (replace(wrapped, key_id=os.urandom(16)),),
        "other compartment": (replace(wrapped, kek=replace(wrapped.kek, compartment_id=os.urandom(16))),),
        "twice": (wrapped, wrapped),
    }
    sequence = rotator.commit(rotator.change(ChangeKind.REWRAP, keys=lies[lie]))
    assert world.open(forgetful=True).history()[sequence].refused
    assert world.files()["shared/one"] == b"one"


def test_link_copy_by_an_insider_is_no_alarm_when_void(world):
    """A link on the store after the newest anchor whose parent is wrong is ignored."""
    world.join("curator", Role.CURATOR)
    bad = Adversary(world, "curator")
    change = bad.data()
    raw = bad.link({change.change_id: change.pack(bad.sign)}, parent=bytes(48))
    bad.store.put(link_name(world.newest() + 1), raw)
    assert world.files(world.open(forgetful=True))["shared/one"] == b"one"
