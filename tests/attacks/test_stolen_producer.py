"""A thief has a producer's signing key, its rights in the key service, and write access to the host."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import Adversary, Planted

from sealedhealth.errors import AccessDenied, IntegrityError
from sealedhealth.keys import WrappedKey
from sealedhealth.log import changeset, replay
from sealedhealth.log.changeset import ChangeKind, Inventory
from sealedhealth.log.columns import encode
from sealedhealth.log.link import ChangeRef, CheckpointRef, Link, file_digest
from sealedhealth.log.names import change_name, checkpoint_name, link_name, object_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import _SCHEMA, ObjectRow, Put, Section
from sealedhealth.log.strict import MAX_TIME_US
from sealedhealth.session.maintenance import collect, destroy_keys, maintain
from sealedhealth.session.verify import verify


@pytest.fixture
def bad(world, thief):
    """The thief."""
    return Adversary(world, "producer")


def refusals(world, sequence):
    """Why change sets of a commit had no effect, as anybody who opens the dataset anew is told."""
    return world.open(forgetful=True).history()[sequence].refused


def goes_on(world, honest):
    """Nothing is lost, others still commit, and the thief's victims still read."""
    assert world.files(world.open(forgetful=True)) == honest
    world.put({"shared/later": b"later"})
    assert world.files(world.open(forgetful=True)) == {**honest, "shared/later": b"later"}


# -- what a producer may not do ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["shared/one", "elsewhere", "hospitality/x", "shared/new/deep"])
def test_put_outside_the_prefix(world, bad, honest, path):
    """A put outside of the producer's prefix has no effect, and the history says so."""
    sequence = bad.commit(bad.data([Planted(path, b"forged")]))
    assert "prefix" in refusals(world, sequence)[0]
    goes_on(world, honest)


def test_one_put_outside_spoils_the_whole_change_set(world, bad, honest):
    """A change set counts whole or not at all: its puts inside the prefix are refused, too."""
    sequence = bad.commit(bad.data([Planted("hospital/fine", b"x"), Planted("shared/one", b"forged")]))
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_put_inside_the_prefix_is_what_a_stolen_producer_can_do(world, bad, honest):
    """The control: the same tools do commit what the roster allows."""
    sequence = bad.commit(bad.data([Planted("hospital/new", b"new")]))
    assert refusals(world, sequence) == ()
    goes_on(world, {**honest, "hospital/new": b"new"})


@pytest.mark.parametrize("what", ["delete", "delete-own", "tag", "untag"])
def test_deleting_and_tagging(world, bad, honest, what):
    """A producer erases nothing, not even its own files, and moves no tag."""
    with world.open().begin() as tx:
        tx.tag("release", 1)
    section = {
        "delete": Section(deletes=("shared/one",)),
        "delete-own": Section(deletes=("hospital/honest",)),
        "tag": Section(tags={"release": 3}),
        "untag": Section(tags={"release": None}),
    }[what]
    sequence = bad.commit(bad.data(section=section))
    assert "delete, move or tag" in refusals(world, sequence)[0]
    assert world.open().snapshot.tags == {"release": 1}
    goes_on(world, honest)


def test_copying_an_object_of_somebody_else(world, bad, honest):
    """A producer names no object but its own, so it pulls nothing from other compartments or authors."""
    entry = world.open().snapshot.get("shared/one")
    row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
    section = Section(old_objects=(row,), puts=(Put("hospital/copy", 0, 0, entry.length, 0),))
    sequence = bad.commit(bad.data(section=section))
    assert refusals(world, sequence)
    goes_on(world, honest)


@pytest.mark.parametrize("kind", [ChangeKind.REWRAP, ChangeKind.COLLECT, ChangeKind.DESTROY, ChangeKind.POLICY])
def test_kinds_of_other_roles(world, bad, honest, kind):
    """A producer neither rewraps, collects, destroys nor names authors."""
    state = bad.state()
    key_id, record = next((key_id, r) for key_id, r in state.keys.items() if r.kind is ChangeKind.DATA)
    parts = {
        ChangeKind.REWRAP: {"keys": (replace(record.wrapped, ciphertext=b"garbage"),)},
        ChangeKind.COLLECT: {"collected": (os.urandom(16),), "horizon": 3},
        ChangeKind.DESTROY: {"destroyed": (key_id,), "minimum": {bad.compartment: 99}},
        ChangeKind.POLICY: {"policy": replace(state.policy, version=state.policy.version + 1)},
    }[kind]
    sequence = bad.commit(bad.change(kind, **parts))
    assert "no role" in refusals(world, sequence)[0]
    after = bad.state()
    assert (after.keys, after.destroyed, after.policy, after.horizon) == (state.keys, {}, state.policy, 0)
    goes_on(world, honest)


def test_signing_in_the_name_of_another(world, bad, honest):
    """A change set that names the curator as its author needs the curator's signature."""
    curator = bad.state().policy.author_of(world.service.author("author").public_key)
    sequence = bad.commit(replace(bad.data([Planted("shared/one", b"forged")]), author_id=curator.author_id))
    assert "signature" in refusals(world, sequence)[0]
    goes_on(world, honest)


def test_linking_what_somebody_else_gave_up(world, bad, honest):
    """A change set that its author was told is not committed stays so: only its author or a curator may link it."""
    given_up = Adversary(world, "author")
    change = given_up.data(section=Section(deletes=("shared/one",)))
    raw = change.pack(given_up.sign)
    bad.store.put(change_name(change.change_id), raw)
    sequence = bad.anchor(bad.link({change.change_id: raw}))
    assert refusals(world, sequence)
    goes_on(world, honest)


# -- making the dataset unreadable ------------------------------------------------------------------


def test_garbage_section(world, bad, honest):
    """Sealed bytes that do not open are the thief's loss alone."""
    sequence = bad.commit(bad.data([Planted("hospital/x", b"x")], spoil=os.urandom(300)))
    assert refusals(world, sequence)
    goes_on(world, honest)


@pytest.mark.parametrize("plain", [b"", b"garbage", b"SHC1\xff\xff\xff\xff", b"SHC9" + bytes(100)])
def test_section_that_opens_to_nonsense(world, bad, honest, plain):
    """A section that opens but does not parse is refused alone, of whatever version it claims to be."""
    sequence = bad.commit(bad.seal(plain, *world.service.generate(bad.kek)))
    assert refusals(world, sequence)
    goes_on(world, honest)


@pytest.mark.parametrize("path", ["../x", "/abs", "hospital//x", "hospital/./x", "hospital/\0", "hospital/e\u0301", ""])
def test_path_that_is_not_canonical(world, bad, honest, path):
    """Paths from the log are checked like paths from a user."""
    section = encode(
        _SCHEMA,
        rows={"new": 0, "old": 0, "put": 1, "delete": 0, "tag": 0},
        fields={"message": ""},
        columns={
            "new_index": [],
            "new_salt": b"",
            "put_path": [path],
            "put_object": [0],
            "put_length": [0],
            "put_mtime": [0],
        },
    )
    sequence = bad.commit(bad.seal(section, *world.service.generate(bad.kek)))
    assert refusals(world, sequence)
    goes_on(world, honest)


@pytest.mark.parametrize(
    "version, ciphertext",
    [
        (0, bytes(104)),
        (1, b""),
        (1, b"short"),
        (1, bytes(104)),
        (1, bytes(1024)),
        (2, bytes(104)),
        ((1 << 32) - 1, b""),
    ],
)
def test_garbage_wrap(world, bad, honest, version, ciphertext):
    """A wrap that the key service does not open, or of a version that it does not have, spoils nobody else's."""
    data_key, wrapped = world.service.generate(bad.kek)
    garbage = WrappedKey(bad.kek, data_key.key_id, version, ciphertext)
    sequence = bad.commit(bad.seal(Section(), data_key, wrapped, keys=[garbage]))
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_garbage_wrap_beside_a_genuine_one(world, bad, honest):
    """The same when the section itself opens and only an object's key does not."""
    data_key, wrapped = world.service.generate(bad.kek)
    other, _ = world.service.generate(bad.kek)
    garbage = WrappedKey(bad.kek, other.key_id, 1, bytes(104))
    change = bad.data([Planted("hospital/x", b"x")])
    change = replace(
        bad.seal(
            Section(new_objects=((0, bytes(24)),), puts=(Put("hospital/x", 0, 0, 1, 0),)),
            data_key,
            wrapped,
            keys=[wrapped, garbage],
            inventory=replace(change.inventory, key_index=[1]),
        )
    )
    sequence = bad.commit(change)
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_wrap_that_lies_about_its_key(world, bad, honest):
    """A genuine wrap under another key's id is found out and left aside."""
    _, wrapped = world.service.generate(bad.kek)
    data_key, _ = world.service.generate(bad.kek)
    sequence = bad.commit(bad.seal(Section(), data_key, wrapped, keys=[replace(wrapped, key_id=data_key.key_id)]))
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_wrap_for_another_compartment_or_dataset(world, bad, honest):
    """Keys of compartments that the roster does not know are refused before anybody asks to open them."""
    _data_key, wrapped = world.service.generate(bad.kek)
    elsewhere = replace(wrapped, kek=replace(wrapped.kek, compartment_id=os.urandom(16)))
    change = bad.data()
    sequence = bad.commit(replace(change, keys=(*change.keys, replace(elsewhere, key_id=os.urandom(16)))))
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_introducing_a_known_key_again(world, bad, honest):
    """Nobody replaces the wrap of a known data key by introducing it a second time."""
    state = bad.state()
    record = next(r for r in state.keys.values() if r.kind is ChangeKind.DATA)
    change = bad.data()
    sequence = bad.commit(replace(change, keys=(*change.keys, replace(record.wrapped, ciphertext=bytes(104)))))
    assert "already" in refusals(world, sequence)[0]
    goes_on(world, honest)


@pytest.mark.parametrize("count, calls", [(5000, 10), (250, 600)])
def test_many_garbage_wraps_cost_few_requests(world, bad, honest, count, calls, monkeypatch):
    """One change set does not make every reader ask the key service thousands of times."""
    change = bad.data()
    garbage = tuple(WrappedKey(bad.kek, os.urandom(16), 1, bytes(104)) for _ in range(count))
    with monkeypatch.context() as patch:
        patch.setattr(changeset, "MAX_NEW_KEYS", 1 << 20)
        raw = replace(change, keys=(*change.keys, *garbage)).pack(bad.sign)
    bad.store.put(change_name(change.change_id), raw)
    bad.anchor(bad.link({change.change_id: raw}))
    session = world.open(forgetful=True)
    assert world.files(session) == honest
    assert session.engine.keyring.calls < calls


@pytest.mark.parametrize(
    "what, put",
    [
        ("object index", Put("hospital/x", 5, 0, 1, 0)),
        ("beyond its object", Put("hospital/x", 0, 0, 2, 0)),
        ("offset beyond", Put("hospital/x", 0, 1 << 63, 1, 0)),
        ("sum that wraps around", Put("hospital/x", 0, (1 << 64) - 1, (1 << 64) - 1, 0)),
        ("time", Put("hospital/x", 0, 0, 1, MAX_TIME_US + 1)),
        ("time at the end", Put("hospital/x", 0, 0, 1, (1 << 64) - 1)),
    ],
)
def test_entry_out_of_bounds(world, bad, honest, what, put):
    """Entries that point outside of their object, or to no time that exists, are refused."""
    change = bad.data([Planted("hospital/x", b"x")])
    data_key, wrapped = world.service.generate(bad.kek)
    section = Section(new_objects=((0, bytes(24)),), puts=(put,))
    sequence = bad.commit(bad.seal(section, data_key, wrapped, inventory=change.inventory))
    assert refusals(world, sequence), what
    goes_on(world, honest)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 119, 121, 1 << 62, (1 << 64) - 1])
def test_sealed_size_that_no_object_has(world, bad, honest, size):
    """Impossible sizes in the inventory are refused before anything is fetched or reserved."""
    data_key, wrapped = world.service.generate(bad.kek)
    section = Section(new_objects=((0, bytes(24)),), puts=(Put("hospital/x", 0, 0, 0, 0),))
    sequence = bad.commit(
        bad.seal(section, data_key, wrapped, inventory=Inventory(os.urandom(16), bytes(32), [size], [0]))
    )
    assert refusals(world, sequence)
    goes_on(world, honest)


def test_zip_bomb_in_a_section(world, bad, honest):
    """A section that would expand without bound is refused while it is small."""
    import json
    import zlib

    body = zlib.compress(bytes(8 << 20), 1)
    for promised in (8 << 20, 1 << 40, len(body) + 1):
        columns = [["put_path", "text+z", len(body), promised]]
        rows = {"new": 0, "old": 0, "put": 1, "delete": 0, "tag": 0}
        head = {"columns": columns, "fields": {"message": ""}, "rows": rows, "schema": "section/1"}
        text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
        sequence = bad.commit(
            bad.seal(b"SHC1" + len(text).to_bytes(4, "little") + text + body, *world.service.generate(bad.kek))
        )
        assert refusals(world, sequence)
    goes_on(world, honest)


def test_file_where_a_directory_is(world, bad, honest):
    """A producer that cannot look puts a file where there is a directory: both stay readable."""
    bad.commit(bad.data([Planted("hospital", b"file")]))
    assert world.files() == {**honest, "hospital": b"file"}
    verify(world.open())
    maintain(world.open(), force=True)
    assert world.files(world.open(forgetful=True)) == {**honest, "hospital": b"file"}


# -- sequence numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"x", bytes(1000), b"\x89SHL\r\n\x1a\n" + bytes(200), bytes(65536)])
def test_wasted_number(world, bad, honest, raw):
    """An anchor that is no link is void; the log goes on after it."""
    sequence = bad.anchor(raw)
    assert world.open(forgetful=True).history()[sequence].void
    goes_on(world, honest)


@pytest.mark.parametrize("ahead", [1, 2, 3, 7, 11, 27, 59, 1000, (1 << 20) - 2, (1 << 40) - 2])
def test_wasted_number_far_ahead(world, bad, honest, ahead):
    """A number taken far ahead of the log hides no commit, and stops nobody who gets there."""
    world.service.create_anchor(world.dataset_id, bad.state().sequence + 1 + ahead, b"x")
    goes_on(world, honest)
    for number in range(min(ahead, 3)):
        world.put({"shared/more": b"%d" % number})
    assert world.files(world.open(forgetful=True))["shared/more"] == b"%d" % (min(ahead, 3) - 1)


def test_wasted_numbers_far_ahead_after_a_checkpoint(world, bad, honest):
    """Nor do they hide the checkpoint."""
    maintain(world.open(), force=True)
    for exponent in range(3, 40):
        world.service.create_anchor(world.dataset_id, (1 << exponent) - 2, b"x")
    goes_on(world, honest)
    session = world.open(forgetful=True)
    assert session.engine.loaded.tail < 5


def test_many_wasted_numbers_do_not_hide_the_checkpoint(world, bad, honest):
    """A hundred void commits in a row cost reading them, no more: the checkpoint before them is found."""
    checkpointed = maintain(world.open(), force=True)
    for _ in range(100):
        world.service.create_anchor(world.dataset_id, world.newest() + 1, b"x")
    session = world.open(forgetful=True)
    assert world.files(session) == honest
    assert session.engine.loaded.tail == session.sequence - checkpointed.sequence
    goes_on(world, honest)


@pytest.mark.parametrize(
    "parts", [{"parent": bytes(48)}, {"sequence": 77}, {"dataset_id": bytes(16)}], ids=["parent", "sequence", "dataset"]
)
def test_link_out_of_place(world, bad, honest, parts):
    """A link with another parent, number or dataset is void: the thief cannot fork or reorder the history."""
    change = bad.data([Planted("hospital/x", b"x")])
    raw = change.pack(bad.sign)
    bad.store.put(change_name(change.change_id), raw)
    sequence = bad.anchor(bad.link({change.change_id: raw}, **parts))
    assert world.open(forgetful=True).history()[sequence].void
    goes_on(world, honest)


def test_replayed_commit(world, bad, honest):
    """A link anchored again, and a change set linked again, are void."""
    state = bad.state()
    bad.anchor(bad.log.anchor(state.sequence).link)
    change = bad.data([Planted("hospital/honest", b"second")])
    first = bad.commit(change)
    world.put({"hospital/honest": b"third"})
    raw = bad.store.get(change_name(change.change_id), limit=1 << 20)
    again = bad.anchor(bad.link({change.change_id: raw}))
    history = world.open(forgetful=True).history()
    assert not history[first].void
    assert history[first - 1].void
    assert "repeats" in history[again].void
    goes_on(world, {**honest, "hospital/honest": b"third"})


def test_void_link_that_misstates_the_size_of_a_change_set(world, bad, honest):
    """What a void link says of somebody's change set stops nobody from reading on."""
    session = world.open()
    sequence = world.put({"shared/three": b"three"})
    link = Link.read(Link.split(bad.log.anchor(sequence).link))
    lies = tuple(replace(ref, size=1) for ref in link.changes)
    bad.anchor(replace(link, sequence=sequence + 1, changes=lies, author_id=bad.author_id).pack(bad.sign))
    session.refresh()
    seen = world.open()
    bad.anchor(replace(link, sequence=sequence + 2, changes=lies, author_id=bad.author_id).pack(bad.sign))
    seen.refresh()
    goes_on(world, {**honest, "shared/three": b"three"})


def test_little_is_fetched_before_links_are_checked(world, bad, honest, monkeypatch):
    """Void links that name large files do not fill the memory of readers: what is fetched ahead is bounded."""
    for _ in range(3):
        change = bad.data()
        ref = ChangeRef(change.change_id, bytes(48), 1 << 29)
        bad.store.put(change_name(change.change_id), bytes(100_000))
        bad.anchor(replace(Link.read(Link.split(bad.log.anchor(0).link)), changes=(ref,)).pack(bad.sign))
    fetched = []
    get_many = type(bad.store).get_many

    def watched(store, names, **options):
        found = get_many(store, names, **options)
        fetched.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(type(bad.store), "get_many", watched)
    assert world.files(world.open(forgetful=True)) == honest
    assert max(fetched) < 200_000
    monkeypatch.setattr(replay, "_PREFETCH", 1)
    assert world.files(world.open(forgetful=True)) == honest


def test_rolling_back_to_an_old_head(world, bad, honest):
    """A link whose parent is an old commit does not undo the ones in between."""
    old = file_digest(bad.log.anchor(1).link)
    change = bad.data([Planted("hospital/honest", b"old again")])
    raw = change.pack(bad.sign)
    bad.store.put(change_name(change.change_id), raw)
    bad.anchor(bad.link({change.change_id: raw}, parent=old))
    goes_on(world, honest)


def test_link_ahead_of_the_anchors_by_nobody(world, bad, honest):
    """What the host puts after the log is no alarm when nobody on the roster signed it."""
    (world.host / link_name(bad.state().sequence + 1)).write_bytes(b"garbage")
    goes_on(world, honest)


# -- checkpoints -----------------------------------------------------------------------------------


def forged_manifest(world, bad, name):
    """A manifest of the newest commit's checkpoint, signed by the thief; returns what points to it."""
    from sealedhealth.log.checkpoint import Manifest

    hint = bad.state().checkpoint
    raw = bad.store.get(checkpoint_name(hint.checkpoint_id), limit=1 << 20)
    manifest = replace(Manifest.read(Manifest.split(raw)), checkpoint_id=os.urandom(16), segments=())
    signed = manifest.pack(bad.author_id, bad.sign)
    bad.store.put(checkpoint_name(manifest.checkpoint_id), signed)
    return CheckpointRef(manifest.checkpoint_id, file_digest(signed), len(signed), manifest.sequence)


@pytest.mark.parametrize("lie", ["missing", "signed by the thief", "another file", "from the future"])
def test_pointing_to_a_forged_checkpoint(world, bad, honest, lie):
    """What a producer's link says of checkpoints is believed by nobody."""
    maintain(world.open(), force=True)
    hint = bad.state().checkpoint
    lies = {
        "missing": CheckpointRef(os.urandom(16), os.urandom(48), 1000, hint.sequence),
        "signed by the thief": forged_manifest(world, bad, "producer"),
        "another file": replace(hint, digest=os.urandom(48)),
        "from the future": replace(hint, sequence=1 << 40),
    }
    bad.commit(bad.data([Planted("hospital/x", b"x")]), checkpoint=lies[lie])
    goes_on(world, {**honest, "hospital/x": b"x"})


def test_pointing_to_a_genuine_checkpoint_whose_keys_are_destroyed(world, bad, honest):
    """The host kept an old checkpoint; a thief who points to it does not send readers into the past."""
    maintain(world.open(), force=True)
    old = bad.state().checkpoint
    kept = world.backup(world.host / ".sealedhealth" / "checkpoints")
    sequence = world.put({"shared/doomed": b"doomed"})
    doomed = [key_id for key_id, record in bad.state().keys.items() if record.sequence == sequence]
    destroy_keys(world.open(), doomed)
    for path in kept.iterdir():
        (world.host / ".sealedhealth" / "checkpoints" / path.name).write_bytes(path.read_bytes())
    bad.commit(bad.data([Planted("hospital/x", b"x")]), checkpoint=old)
    goes_on(world, {**honest, "hospital/x": b"x"})


def test_hiding_the_checkpoint_after_a_destruction(world, bad, honest):
    """After a destruction the log opens from its checkpoint only: a hundred void commits do not cut readers off."""
    sequence = world.put({"shared/doomed": b"doomed"})
    doomed = [key_id for key_id, record in bad.state().keys.items() if record.sequence == sequence]
    destroy_keys(world.open(), doomed)
    for _ in range(100):
        world.service.create_anchor(world.dataset_id, world.newest() + 1, b"x")
    goes_on(world, honest)


# -- garbage collection ----------------------------------------------------------------------------


def age(world, monkeypatch, days):
    """Let the key service's clock run ahead."""
    service = world.service
    now = service._clock
    monkeypatch.setattr(service, "_clock", lambda: now() + timedelta(days=days))
    monkeypatch.setattr(service._anchors, "_clock", service._clock)


def drop_twice(world, bad, victim, monkeypatch):
    """The thief names the victim's object as its own, drops it, and a curator collects garbage after the grace."""
    bad.commit(bad.data([Planted("hospital/x", b"x", object_id=victim, store=False)]))
    bad.commit(bad.data([Planted("hospital/x", b"y")]))
    age(world, monkeypatch, 15)
    collect(world.open())


def test_collection_deletes_no_victim_of_a_repeated_object_id(world, bad, honest, monkeypatch):
    """Dropping an object of one's own that has the id of somebody's live object does not get that one collected."""
    victim = world.open().snapshot.get("shared/one").object_id
    drop_twice(world, bad, victim, monkeypatch)
    goes_on(world, {**honest, "hospital/x": b"y"})


def test_collection_deletes_no_tagged_victim_of_a_repeated_object_id(world, bad, honest, monkeypatch):
    """Nor somebody's object that only a tagged snapshot holds."""
    before = world.open().sequence
    victim = world.open().snapshot.get("shared/one").object_id
    with world.open().begin() as tx:
        tx.tag("release", before)
        tx.delete("shared/one")
    drop_twice(world, bad, victim, monkeypatch)
    assert (world.host / object_name(victim)).exists()
    assert world.read(world.open(at=before), "shared/one") == b"one"


def test_collection_deletes_no_recent_victim_of_a_repeated_object_id(world, bad, honest, monkeypatch):
    """Nor somebody's object that was dropped a moment ago."""
    victim = world.open().snapshot.get("shared/one").object_id
    bad.commit(bad.data([Planted("hospital/x", b"x", object_id=victim, store=False)]))
    bad.commit(bad.data([Planted("hospital/x", b"y")]))
    age(world, monkeypatch, 15)
    with world.open().begin() as tx:
        tx.delete("shared/one")
    collect(world.open())
    assert (world.host / object_name(victim)).exists()


# -- what it cannot open -------------------------------------------------------------------------


def test_encrypt_only_producer_adds_and_opens_nothing(world):
    """A producer whose role cannot unwrap commits under its prefix, and opens neither others' files nor its own."""
    profile = world.join("hospital", Role.PRODUCER, prefix="hospital", encrypt_only=True)
    session = world.open(profile)
    assert not session.readable
    with session.begin() as tx:
        tx.put_bytes("hospital/a", b"a")
        with pytest.raises(AccessDenied):
            tx.view  # noqa: B018 - a property that refuses
    with session.begin() as tx:
        tx.put_bytes("hospital/a", b"b")
    assert world.files()["hospital/a"] == b"b"
    again = world.open(profile)
    for refused in (lambda: again.snapshot, lambda: again.at(1).snapshot, lambda: again.begin().view):
        with pytest.raises(AccessDenied):
            refused()
    assert again.history()[-1].message is None
    with pytest.raises(AccessDenied):
        again.engine.unwrap(list(again.engine.loaded.state.live_keys()))


def test_encrypt_only_producer_is_told_by_its_profile_that_a_path_is_not_its_own(world):
    """It cannot read its prefix; the one in its profile stops a put that would be committed and have no effect."""
    profile = world.join("hospital", Role.PRODUCER, prefix="hospital", encrypt_only=True)
    before = world.files()
    profile = replace(profile, prefix="hospital")
    tx = world.open(profile).begin()
    for path in ("shared/x", "hospitals/x", "x"):
        with pytest.raises(AccessDenied, match=r"its place is 'hospital/'"):
            tx.put_bytes(path, b"x")
        with pytest.raises(AccessDenied):
            tx.put_many({path: b"x"})
        with pytest.raises(AccessDenied):
            tx.writer(path)
    tx.put_bytes("hospital/x", b"x")
    tx.commit()
    assert world.files() == {**before, "hospital/x": b"x"}


def test_encrypt_only_producer_cannot_do_more(world):
    """Nor does it delete, move, tag, collect, checkpoint or rewrap through its client."""
    from sealedhealth.session.maintenance import rewrap

    profile = world.join("hospital", Role.PRODUCER, prefix="hospital", encrypt_only=True)
    session = world.open(profile)
    tx = session.begin()
    for refused in (
        lambda: tx.delete("shared/one"),
        lambda: tx.move("shared/one", "hospital/one"),
        lambda: tx.copy("shared/one", "hospital/one"),
        lambda: tx.tag("x", 1),
        lambda: collect(session),
        lambda: maintain(session, force=True),
        lambda: rewrap(session),
    ):
        with pytest.raises(AccessDenied):
            refused()


def test_producer_that_reads_is_told_at_once_that_a_path_is_not_its_own(world, thief, honest):
    """An honest client learns of a wrong path before anything is committed, instead of losing the data silently."""
    tx = world.open(thief).begin()
    with pytest.raises(AccessDenied, match="hospital"):
        tx.put_bytes("shared/x", b"x")
    assert world.files() == honest


def test_objects_overwritten_with_store_rights(world, bad, honest):
    """Write access to the host is tampering like any other."""
    path = world.object_file("shared/two")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IntegrityError):
        world.files()
