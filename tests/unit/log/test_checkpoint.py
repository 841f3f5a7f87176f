"""Checkpoints: manifest, public table, sealed parts."""

import itertools
from dataclasses import replace

import pytest

from sealedhealth.errors import IntegrityError, MalformedError, TamperedError
from sealedhealth.format import sealed_size
from sealedhealth.keys.base import DataKey, Kek, WrappedKey
from sealedhealth.log.catalogue import Entry
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.checkpoint import Manifest, open_content, pack_public, seal_content
from sealedhealth.log.content import ContentState, Dropped
from sealedhealth.log.envelope import verify_envelope
from sealedhealth.log.link import ChangeRef, Descriptor
from sealedhealth.log.section import AuthorNote
from sealedhealth.log.state import KeyRecord, LogState

DATASET, HERE, CURATOR = b"d" * 16, b"h" * 16, b"c" * 16


def entry_of(number):
    """Some entry."""
    return Entry(
        object_id=number.to_bytes(16, "big"), object_key=b"k" * 32, data_key_id=b"i" * 16, salt=b"s" * 24,
        root=b"r" * 32, sealed_size=sealed_size(100), offset=0, length=100, mtime_us=number, sequence=3,
    )  # fmt: skip


def key_of(number):
    """A data key of checkpoints, and its wrap."""
    data_key = DataKey(bytes([number]) * 32)
    return data_key, WrappedKey(Kek(DATASET, HERE), data_key.key_id, 1, b"wrap %d" % number)


@pytest.fixture
def content():
    """A compartment with something of everything."""
    content = ContentState(HERE, name="default", tags={"release": 2}, notes={CURATOR: AuthorNote("né", "lab")})
    content.catalogue = content.catalogue.apply({f"d/{n:03}": entry_of(n) for n in range(100)}, ())
    content.dropped[b"i" * 16 + b"o" * 16] = Dropped(b"o" * 16, b"i" * 16, 3, 1000)
    content.shared[b"i" * 32] = 2
    content.dropped[b"i" * 16 + b"p" * 16] = Dropped(b"p" * 16, b"i" * 16, 5, 1000, born=4)
    content.born[b"i" * 16 + b"q" * 16] = 6
    return content


@pytest.fixture
def state(root):
    """A public state with something of everything."""
    descriptor = Descriptor(root.public_key, b"n" * 32, 0)
    state = LogState.initial(descriptor, descriptor.pack(root.sign))
    wraps = [WrappedKey(Kek(descriptor.dataset_id, HERE), bytes([n]) * 16, n, b"w%d" % n) for n in (1, 2, 3)]
    state.keys = {
        wrapped.key_id: KeyRecord(wrapped, sequence, kind)
        for wrapped, sequence, kind in zip(wraps, (0, 5, 6), ChangeKind, strict=False)
    }
    state.changes = {b"x" * 16, b"y" * 16}
    state.destroyed = {bytes([1]) * 16: 7}
    state.minimum = {HERE: 2}
    state.horizon = 4
    return state


def seal(content, number=1, reuse=()):
    """Seal a compartment by a key of this number; object ids are counted."""
    data_key, wrapped = key_of(number)
    count = itertools.count(number * 1000)
    return seal_content(
        content, DATASET, data_key, wrapped, reuse=reuse, random=lambda size: next(count).to_bytes(size, "big")
    )


def manifest_of(refs, public=b""):
    """A manifest of these parts."""
    return Manifest(
        DATASET, b"m" * 16, 9, b"l" * 48, 5, 2, ChangeRef(b"p" * 16, b"q" * 48, 700), 1, tuple(refs), public
    )


def opened(refs, files, numbers=(1,)):
    """Open what was sealed."""
    keys = {data_key.key_id: data_key for data_key, _ in map(key_of, numbers)}
    return open_content(manifest_of(refs), HERE, keys, lambda wanted: [files[ref.object_id] for ref in wanted])


def listed(content):
    """Everything that a compartment holds."""
    return (
        list(content.catalogue.items()), content.tags, content.dropped, content.shared, content.born,
        dict(content.notes), content.name,
    )  # fmt: skip


def test_content_round_trip(content):
    """A compartment comes back as it was, and every part of it is sealed."""
    refs, files, compacted = seal(content)
    assert listed(opened(refs, files)) == listed(content) == listed(compacted)
    assert not any(word in data for data in files.values() for word in (b"d/0", b"release", b"lab"))
    assert sum(ref.rows for ref in refs) == 100


def test_empty_content():
    """An empty compartment is one part."""
    refs, files, _ = seal(ContentState(HERE))
    assert len(refs) == 1
    assert listed(opened(refs, files)) == listed(ContentState(HERE))


def test_untouched_segments_are_reused(content):
    """A second checkpoint seals only what changed, and opens by both keys."""
    refs, files, compacted = seal(content)
    compacted.tags["second"] = 9
    again, more, _ = seal(compacted, 2, reuse={refs[0].object_id})
    assert len(more) == 1
    assert again[0] == refs[0]
    assert listed(opened(again, {**files, **more}, (1, 2))) == listed(compacted)
    fresh, all_new, _ = seal(compacted, 2)
    assert len(all_new) == len(fresh) == 2


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("change", ["first", "middle", "last", "cut", "longer", "exchanged"])
def test_altered_part(content, part, change):
    """Each byte of each part is what the curator signed."""
    refs, files, _ = seal(content)
    data = files[refs[part].object_id]
    at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 1}.get(change, 0)
    files[refs[part].object_id] = {
        "cut": data[:-1], "longer": data + b"\0", "exchanged": files[refs[1 - part].object_id],
    }.get(change, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])  # fmt: skip
    with pytest.raises(IntegrityError):
        opened(refs, files)


def test_parts_left_out_or_twice(content):
    """A compartment has its rest exactly once, and the rows that the manifest counts."""
    refs, files, _ = seal(content)
    for wrong in (
        refs[:1],
        [*refs, refs[1]],
        [replace(refs[0], rows=99), refs[1]],
        [replace(refs[0], rows=0), refs[1]],
    ):
        with pytest.raises(IntegrityError):
            opened(wrong, files)
    with pytest.raises(MalformedError):
        opened([refs[0], refs[0], refs[1]], files)


def test_wrong_key(content):
    """Another data key under the same id opens nothing."""
    refs, files, _ = seal(content)
    other, _ = key_of(2)
    keys = {refs[0].wrapped.key_id: other}
    with pytest.raises(IntegrityError):
        open_content(manifest_of(refs), HERE, keys, lambda wanted: [files[ref.object_id] for ref in wanted])


# -- manifest ------------------------------------------------------------------------------------------------


def read(raw, signer):
    """Read a manifest as opening does."""
    envelope = Manifest.split(raw)
    verify_envelope(envelope, signer.public_key)
    return Manifest.read(envelope)


def test_manifest_round_trip(content, alice):
    """A manifest comes back as it was."""
    refs, _, _ = seal(content)
    manifest = manifest_of(refs, b"public table")
    assert read(manifest.pack(CURATOR, alice.sign), alice) == manifest


def test_manifest_altered(content, alice):
    """No byte of manifest or public table can change."""
    raw = manifest_of(seal(content)[0], b"public table").pack(CURATOR, alice.sign)
    for at in [*range(0, len(raw) - 12, 41), *range(len(raw) - 12, len(raw))]:
        altered = bytearray(raw)
        altered[at] ^= 1
        with pytest.raises(IntegrityError):
            read(bytes(altered), alice)
    for wrong in (raw[:-1], raw + b"\0", raw[:-12]):
        with pytest.raises(TamperedError):
            read(wrong, alice)


def test_segment_of_another_compartment(content, alice):
    """A segment is sealed under a key of its own compartment."""
    refs, _, _ = seal(content)
    wrong = [replace(ref, compartment_id=b"t" * 16) for ref in refs]
    with pytest.raises(MalformedError):
        read(manifest_of(wrong).pack(CURATOR, alice.sign), alice)


def test_public_table_round_trip(state):
    """The public state comes back, with sequence, head and policy as the manifest says."""
    manifest = replace(manifest_of([], pack_public(state)), dataset_id=state.dataset_id)
    restored = manifest.restore(replace(state, keys={}, changes=set(), destroyed={}, minimum={}, horizon=0))
    for name in ("keys", "changes", "destroyed", "minimum", "horizon", "root_key", "dataset_id"):
        assert getattr(restored, name) == getattr(state, name)
    assert (restored.sequence, restored.head_sequence, restored.head) == (9, 9, b"l" * 48)
    assert (restored.policy_ref, restored.policy_sequence) == (manifest.policy_ref, 1)
    assert restored.refusals == ()


@pytest.mark.parametrize("public", [b"", b"nonsense", b"SHC1" + bytes(100)])
def test_public_table_of_nonsense(state, public):
    """A curator's nonsense is malformed."""
    with pytest.raises(IntegrityError):
        manifest_of([], public).restore(state)


def test_nothing_secret_in_sight(content):
    """Neither manifest nor compartment shows keys."""
    refs, _, _ = seal(content)
    assert "wrap 1" not in repr(manifest_of(refs))
    assert repr(b"k" * 32) not in repr(content)
