"""Descriptors and links: accept what the format says, refuse each field out of its bounds."""

import json
from dataclasses import replace

import pytest

from sealedhealth.errors import DatasetMismatch, IntegrityError, MalformedError, TamperedError, UnsupportedFormat
from sealedhealth.log.envelope import FileKind, pack_envelope, split_envelope, verify_envelope
from sealedhealth.log.link import (
    DESCRIPTOR_SIZE,
    LINK_LIMIT,
    MAX_CHANGES,
    MAX_FILE,
    MAX_SEQUENCE,
    ChangeRef,
    CheckpointRef,
    Descriptor,
    Link,
    dataset_id_of,
)
from sealedhealth.log.strict import MAX_TIME_US

CHANGE = ChangeRef(b"c" * 16, b"d" * 48, 1000)
HINT = CheckpointRef(b"k" * 16, b"e" * 48, 2000, 3)
LINK = Link(b"i" * 16, 5, b"p" * 48, b"a" * 16, (CHANGE,), 1_000_000, HINT)


# -- descriptors ------------------------------------------------------------------------------------------


@pytest.fixture
def descriptor(root):
    """A descriptor of the root key."""
    return Descriptor(root.public_key, b"n" * 32, 1_000_000)


def test_descriptor_round_trip(descriptor, root):
    """What the root key signed comes back, and its size is fixed."""
    raw = descriptor.pack(root.sign)
    assert len(raw) == DESCRIPTOR_SIZE
    assert Descriptor.load(raw, dataset_id=descriptor.dataset_id) == descriptor


def test_dataset_id_depends_on_key_and_nonce(root, bob):
    """Another root key or nonce is another dataset."""
    ids = {dataset_id_of(key, nonce) for key in (root.public_key, bob.public_key) for nonce in (b"a" * 32, b"b" * 32)}
    assert len(ids) == 4
    assert {len(dataset_id) for dataset_id in ids} == {16}


def test_descriptor_of_another_dataset(descriptor, root):
    """A genuine descriptor with another id is named as such."""
    with pytest.raises(DatasetMismatch):
        Descriptor.load(descriptor.pack(root.sign), dataset_id=bytes(16))


def test_descriptor_signed_by_another_key(descriptor, bob):
    """The id alone is not enough: the root key has to have signed."""
    with pytest.raises(TamperedError):
        Descriptor.load(descriptor.pack(bob.sign), dataset_id=descriptor.dataset_id)


def test_descriptor_with_a_foreign_author_or_more_bytes(descriptor, root):
    """A descriptor has the root key's author id and nothing after it."""
    payload = split_envelope(FileKind.DESCRIPTOR, descriptor.pack(root.sign), limit=1000).payload
    foreign = pack_envelope(FileKind.DESCRIPTOR, b"a" * 16, payload, root.sign)
    for raw in (foreign, descriptor.pack(root.sign) + b"\0"):
        with pytest.raises(MalformedError):
            Descriptor.load(raw, dataset_id=descriptor.dataset_id)
    short = pack_envelope(FileKind.DESCRIPTOR, bytes(16), payload[:-1], root.sign)
    with pytest.raises(MalformedError):
        Descriptor.load(short, dataset_id=descriptor.dataset_id)


def test_link_is_no_descriptor(descriptor, root):
    """A file of another kind in the descriptor's place is refused."""
    with pytest.raises((UnsupportedFormat, MalformedError)):
        Descriptor.load(LINK.pack(root.sign), dataset_id=descriptor.dataset_id)


# -- links ---------------------------------------------------------------------------------------------------


def read(raw, signer):
    """Read a link as replay does."""
    envelope = Link.split(raw)
    verify_envelope(envelope, signer.public_key)
    return Link.read(envelope)


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        replace(LINK, checkpoint=None),
        replace(LINK, sequence=0, time_us=0),
        replace(LINK, sequence=MAX_SEQUENCE, time_us=MAX_TIME_US),
        replace(LINK, changes=tuple(replace(CHANGE, change_id=bytes([n]) * 16) for n in range(MAX_CHANGES))),
        replace(LINK, changes=(replace(CHANGE, size=MAX_FILE),)),
    ],
)
def test_link_round_trip(link, alice):
    """A link comes back as it was, at each bound too."""
    raw = link.pack(alice.sign)
    assert len(raw) <= LINK_LIMIT
    assert read(raw, alice) == link


def altered(alice, change):
    """A signed link whose JSON was changed."""
    envelope = Link.split(LINK.pack(alice.sign))
    document = json.loads(envelope.payload)
    change(document)
    return pack_envelope(FileKind.LINK, LINK.author_id, json.dumps(document).encode(), alice.sign)


@pytest.mark.parametrize("name", ["dataset", "sequence", "parent", "changes", "time"])
@pytest.mark.parametrize("value", [None, -1, 1.5, True, "", "zz", [], [[]], {}, 1 << 60, "  " * 16])
def test_each_field_of_a_link(alice, name, value):
    """A value out of its bounds or of another type is malformed, and nothing else is raised."""
    with pytest.raises(MalformedError):
        read(altered(alice, lambda document: document.update({name: value})), alice)
    with pytest.raises(MalformedError):
        read(altered(alice, lambda document: document.pop(name)), alice)


@pytest.mark.parametrize("place", ["changes", "checkpoint"])
@pytest.mark.parametrize(
    "name, value",
    [("id", "00"), ("id", None), ("digest", "00" * 32), ("digest", 1), ("size", 0), ("size", MAX_FILE + 1),
     ("size", "1"), ("more", 1)],
)  # fmt: skip
def test_each_field_of_a_reference(alice, place, name, value):
    """The same for what a link says of change sets and of the checkpoint."""

    def change(document):
        target = document[place][0] if place == "changes" else document[place]
        target[name] = value

    with pytest.raises(MalformedError):
        read(altered(alice, change), alice)


def test_more_members(alice):
    """Members that the format does not have are refused."""
    with pytest.raises(MalformedError, match="more"):
        read(altered(alice, lambda document: document.update(more=1)), alice)


def test_change_sets_of_a_link(alice):
    """A link names at least one change set, each once, and no more than 256."""
    many = [replace(CHANGE, change_id=n.to_bytes(16, "big")) for n in range(MAX_CHANGES + 1)]
    for changes in ((), (CHANGE, CHANGE), (CHANGE, replace(CHANGE, size=5)), tuple(many)):
        raw = replace(LINK, changes=changes).pack(alice.sign)
        with pytest.raises(MalformedError):
            read(raw, alice)


def test_size_of_all_change_sets_is_bounded(alice):
    """A link does not make its readers fetch more than one of the largest change sets, however many it names."""
    changes = tuple(replace(CHANGE, change_id=bytes([n]) * 16, size=MAX_FILE // 2) for n in range(3))
    with pytest.raises(MalformedError):
        read(replace(LINK, changes=changes).pack(alice.sign), alice)


def test_link_that_is_too_large(alice):
    """A link fits an anchor: more bytes are not even looked at."""
    raw = LINK.pack(alice.sign)
    with pytest.raises(MalformedError):
        Link.split(raw + bytes(LINK_LIMIT))
    with pytest.raises(MalformedError):
        Link.split(raw + b"\0")


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b"{" * 1000])
def test_payload_that_is_no_link(alice, payload):
    """Signed nonsense is malformed."""
    with pytest.raises(IntegrityError):
        read(pack_envelope(FileKind.LINK, LINK.author_id, payload, alice.sign), alice)
