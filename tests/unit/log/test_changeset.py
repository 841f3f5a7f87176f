"""Change sets: the public part and its sealed sections."""

from dataclasses import replace

import pytest

from sealedhealth.errors import IntegrityError, MalformedError, RosterViolation, TruncatedError, UnsupportedFormat
from sealedhealth.keys.base import DataKey, Kek, WrappedKey
from sealedhealth.log import changeset
from sealedhealth.log.changeset import (
    MAX_NEW_KEYS,
    MAX_WRAP,
    ChangeKind,
    ChangeSet,
    Inventory,
    ReusedKey,
    SectionRef,
    seal_section,
)
from sealedhealth.log.columns import Field
from sealedhealth.log.envelope import FileKind, pack_envelope, verify_envelope
from sealedhealth.log.roster import Policy, Settings
from sealedhealth.stores.location import Location

DATASET, HERE, THERE = b"d" * 16, b"h" * 16, b"t" * 16
AUTHOR = b"a" * 16


def key_of(number, compartment=HERE):
    """A data key and a wrap of it."""
    data_key = DataKey(bytes([number]) * 32)
    return data_key, WrappedKey(Kek(DATASET, compartment), data_key.key_id, 1, b"wrapped %d" % number)


def section_of(data_key, compartment=HERE, plain=b"plain"):
    """A sealed section, and what refers to it."""
    return seal_section(DATASET, compartment, data_key, b"o" * 16, plain)


def data_change(**parts):
    """A change set with two objects and one section."""
    data_key, wrapped = key_of(1)
    ref, sealed = section_of(data_key)
    given = {
        "dataset_id": DATASET,
        "change_id": b"c" * 16,
        "author_id": AUTHOR,
        "kind": ChangeKind.DATA,
        "time_us": 7,
        "keys": (wrapped,),
        "inventory": Inventory(b"1" * 16 + b"2" * 16, b"r" * 64, [137, 136], [0, 0]),
        "sections": (ref,),
        "sealed": (sealed,),
        **parts,
    }
    return ChangeSet(**given)


def bare(kind, **parts):
    """A change set of another kind."""
    return ChangeSet(dataset_id=DATASET, change_id=b"c" * 16, author_id=AUTHOR, kind=kind, time_us=0, **parts)


def read(raw, signer):
    """Read a change set as replay does."""
    envelope = ChangeSet.split(raw)
    verify_envelope(envelope, signer.public_key)
    return ChangeSet.read(envelope)


def same(left, right):
    """Equality with sequences of any type."""
    plain = lambda c: replace(  # noqa: E731
        c, inventory=replace(c.inventory, sizes=list(c.inventory.sizes), key_index=list(c.inventory.key_index))
    )
    return plain(left) == plain(right)


POLICY = Policy(1, (HERE,), {}, Settings())
OLD = ReusedKey(key_of(2)[0].key_id, HERE)
OLD_REF, OLD_SEALED = section_of(key_of(2)[0])
MOVED = {"reused_keys": (OLD,), "sections": (OLD_REF,), "sealed": (OLD_SEALED,)}
OBJECTS = Inventory(b"1" * 16 + b"2" * 16, b"r" * 64, [137, 136], [0, 1])


@pytest.mark.parametrize(
    "change",
    [
        data_change(),
        data_change(inventory=Inventory()),
        data_change(inventory=OBJECTS, **MOVED),
        data_change(keys=(), inventory=replace(OBJECTS, key_index=[0, 0]), **MOVED),
        data_change(location=Location("s3", "host:9000", "gra", "FR")),
        bare(ChangeKind.REWRAP, keys=(key_of(1)[1], key_of(2, THERE)[1])),
        bare(ChangeKind.POLICY, policy=POLICY),
        bare(ChangeKind.DESTROY, destroyed=(b"1" * 16, b"2" * 16), minimum={HERE: 2, THERE: 3}),
        bare(ChangeKind.COLLECT, collected=(b"1" * 16,), horizon=5),
        bare(ChangeKind.COLLECT),
        bare(ChangeKind.COLLECT, location=Location("file")),
    ],
    ids=lambda change: str(change.kind),
)
def test_round_trip(change, alice):
    """Each kind comes back as it was."""
    assert same(read(change.pack(alice.sign), alice), change)


def test_section_opens_with_its_key_only(alice):
    """The section is bound to its dataset, its key and its object id."""
    data_key, _ = key_of(1)
    change = read(data_change().pack(alice.sign), alice)
    [ref] = change.sections
    assert change.open_section(ref, data_key) == b"plain"
    assert change.section_of(HERE) == ref
    assert change.section_of(THERE) is None
    with pytest.raises(IntegrityError):
        change.open_section(ref, key_of(2)[0])
    for wrong in (replace(ref, object_id=b"x" * 16), replace(ref, root=b"x" * 32), replace(ref, data_key_id=b"x" * 16)):
        with pytest.raises(IntegrityError):
            replace(change, sections=(wrong,)).open_section(wrong, data_key)
    with pytest.raises(IntegrityError):
        replace(change, dataset_id=b"x" * 16).open_section(ref, data_key)


@pytest.mark.parametrize("at", [0, 63, 64, 100, -1])
def test_section_altered(at):
    """A flipped bit in a section is found."""
    change = data_change()
    altered = bytearray(change.sealed[0])
    altered[at] ^= 1
    with pytest.raises(IntegrityError):
        replace(change, sealed=(bytes(altered),)).open_section(change.sections[0], key_of(1)[0])


@pytest.mark.parametrize("change", ["cut", "longer", "none"])
def test_sections_of_another_length(change, alice):
    """What follows the public part is exactly as long as the public part says."""
    raw = data_change().pack(alice.sign)
    size = len(data_change().sealed[0])
    altered = {"cut": raw[:-1], "longer": raw + b"\0", "none": raw[:-size]}[change]
    with pytest.raises(TruncatedError):
        read(altered, alice)


def unchecked(change, signer, monkeypatch):
    """The file of a change set whose writer checks nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(ChangeSet, "check_shape", lambda self: None)
        return change.pack(signer.sign)


DATA_KEY, WRAPPED = key_of(1)
REF, SEALED = section_of(DATA_KEY)
MANY = [WrappedKey(Kek(DATASET, HERE), n.to_bytes(16, "big"), 1, b"w") for n in range(MAX_NEW_KEYS)]


@pytest.mark.parametrize(
    "change",
    [
        data_change(policy=POLICY),
        bare(ChangeKind.POLICY),
        bare(ChangeKind.DESTROY),
        data_change(destroyed=(b"1" * 16,)),
        data_change(minimum={HERE: 2}),
        data_change(collected=(b"1" * 16,)),
        bare(ChangeKind.REWRAP, keys=(WRAPPED,), sections=(REF,), sealed=(SEALED,)),
        bare(ChangeKind.COLLECT, keys=(WRAPPED,)),
        bare(ChangeKind.DESTROY, destroyed=(b"1" * 16,), keys=(WRAPPED,)),
        bare(ChangeKind.POLICY, policy=POLICY, keys=(WRAPPED,), inventory=Inventory(b"1" * 16, b"r" * 32, [136], [0])),
        data_change(keys=()),
        data_change(keys=(key_of(2)[1],)),
        data_change(keys=(key_of(1, THERE)[1],)),
        data_change(sections=(REF, REF), sealed=(SEALED, SEALED)),
        data_change(inventory=Inventory(b"1" * 32, b"r" * 64, [136, 136], [0, 0])),
        data_change(inventory=Inventory(b"1" * 16, b"r" * 32, [136], [1])),
        data_change(keys=(WRAPPED, *MANY)),
        data_change(**{**MOVED, "reused_keys": (OLD, OLD)}),
        data_change(**{**MOVED, "reused_keys": (OLD, ReusedKey(OLD.key_id, THERE))}),
        data_change(**{**MOVED, "reused_keys": (OLD, ReusedKey(b"3" * 16, HERE))}),
        data_change(**{**MOVED, "reused_keys": (ReusedKey(OLD.key_id, THERE),)}),
        data_change(**{**MOVED, "reused_keys": ()}),
        data_change(reused_keys=(OLD,)),
        data_change(reused_keys=(ReusedKey(WRAPPED.key_id, HERE),)),
        bare(ChangeKind.REWRAP, keys=(WRAPPED,), reused_keys=(OLD,)),
        bare(ChangeKind.POLICY, policy=POLICY, reused_keys=(OLD,)),
        bare(ChangeKind.COLLECT, reused_keys=(OLD,)),
    ],
)  # fmt: skip
def test_parts_that_do_not_belong(change, alice, monkeypatch):
    """Parts of another kind, sections under foreign keys, objects named twice: refused by reader and writer."""
    with pytest.raises(MalformedError):
        read(unchecked(change, alice, monkeypatch), alice)
    if change.inventory.key_index != [1]:  # the writer counts on its own numbers
        with pytest.raises(MalformedError):
            change.pack(alice.sign)


def test_unknown_kind(alice, monkeypatch):
    """A kind of a later release is named as such."""
    raw = unchecked(replace(data_change(), kind="later"), alice, monkeypatch)
    with pytest.raises(UnsupportedFormat):
        read(raw, alice)


@pytest.mark.parametrize("payload", [b"", b"SHC1", b"SHC2" + bytes(40), b"{}", bytes(1000)])
def test_payload_that_is_no_change_set(payload, alice):
    """Signed nonsense is refused."""
    with pytest.raises(IntegrityError):
        read(pack_envelope(FileKind.CHANGE_SET, AUTHOR, payload, alice.sign), alice)


@pytest.mark.parametrize("wrap", [["!!!!"], ["AAA"], ["A A="], ["é"], ["A" * (2 * MAX_WRAP + 4)]])
def test_wrap_that_is_no_base64(wrap, alice, monkeypatch):
    """Wrapped keys are bounded and strictly base64."""
    values = changeset.key_column_values
    with monkeypatch.context() as patch:
        patch.setattr(changeset, "key_column_values", lambda keys: {**values(keys), "key_wrap": wrap})
        raw = data_change().pack(alice.sign)
    with pytest.raises(MalformedError):
        read(raw, alice)


def test_keys_belong_to_this_dataset(alice):
    """Which key-encryption key wraps a data key follows from dataset and compartment, whatever the file says."""
    change = read(data_change().pack(alice.sign), alice)
    assert [wrapped.kek for wrapped in change.keys] == [Kek(DATASET, HERE)]


def test_object_row():
    """A row has what the inventory says of the object; other compartments' objects and numbers beyond are refused."""
    change = data_change()
    row = change.object_row(1, b"s" * 24, HERE)
    assert (row.object_id, row.salt, row.root, row.sealed_size) == (b"2" * 16, b"s" * 24, b"r" * 32, 136)
    assert row.data_key_id == key_of(1)[0].key_id
    for index, compartment in ((2, HERE), (0, THERE)):
        with pytest.raises(RosterViolation):
            change.object_row(index, b"s" * 24, compartment)


def test_objects_under_reused_keys():
    """Numbers beyond the change set's own data keys are those of reused ones, of the compartment that is claimed."""
    change = data_change(inventory=OBJECTS, reused_keys=(ReusedKey(b"2" * 16, THERE),))
    assert [change.data_key_of(index) for index in (0, 1)] == [(key_of(1)[0].key_id, HERE), (b"2" * 16, THERE)]
    assert change.object_row(1, b"s" * 24, THERE).data_key_id == b"2" * 16
    with pytest.raises(RosterViolation):
        change.object_row(1, b"s" * 24, HERE)


def test_object_beyond_the_reused_keys(alice):
    """Each object has a data key that the change set names."""
    beyond = Inventory(b"1" * 16 + b"2" * 16, b"r" * 64, [137, 136], [0, 2])
    with pytest.raises(MalformedError):
        read(data_change(inventory=beyond, **MOVED).pack(alice.sign), alice)


def test_bytes_of_before(alice):
    """What neither reuses a key nor says where it was written has the bytes of an earlier release."""
    payload = ChangeSet.split(data_change().pack(alice.sign)).payload
    assert b"reused" not in payload
    assert b"location" not in payload
    assert read(data_change().pack(alice.sign), alice).location is None


@pytest.mark.parametrize("place", ["", "{}", '{"store":"s3"}', "x" * 3000])
def test_location_that_is_none(place, alice, monkeypatch):
    """A change set with a location that is none is malformed, like one with any other wrong part."""
    with monkeypatch.context() as patch:
        patch.setattr(changeset, "dump_place", lambda location: place)
        patch.setattr(changeset, "_SCHEMA", replace(changeset._SCHEMA, fields={
            **changeset._SCHEMA.fields, "location": Field(str, 4096, optional=True)}))  # fmt: skip
        raw = data_change(location=Location("file")).pack(alice.sign)
    with pytest.raises(MalformedError):
        read(raw, alice)


def test_nothing_sealed_in_sight():
    """Sections, wraps and collected ids stay out of ``repr``."""
    text = repr(data_change())
    assert "wrapped 1" not in text
    assert repr(SEALED)[2:40] not in text


def test_sections_of_several_compartments(alice):
    """One section per compartment, each under its own key, cut apart in order."""
    keys = {compartment: key_of(number, compartment) for number, compartment in ((1, HERE), (2, THERE))}
    pairs = [section_of(data_key, compartment, compartment * 3) for compartment, (data_key, _) in keys.items()]
    change = data_change(
        keys=tuple(wrapped for _, wrapped in keys.values()),
        inventory=Inventory(),
        sections=tuple(ref for ref, _ in pairs),
        sealed=tuple(sealed for _, sealed in pairs),
    )
    again = read(change.pack(alice.sign), alice)
    for compartment, (data_key, _) in keys.items():
        ref = again.section_of(compartment)
        assert isinstance(ref, SectionRef)
        assert again.open_section(ref, data_key) == compartment * 3
