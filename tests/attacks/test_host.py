"""The host changes, cuts, swaps, replays and withholds what it holds; it has no key and no signature."""

import random
import shutil

import pytest
from adversary import Adversary, World

from sealedhealth.errors import (
    AlreadyExists,
    DatasetMismatch,
    IntegrityError,
    MissingError,
    TamperedError,
    UnsupportedFormat,
)
from sealedhealth.format import HEADER_SIZE, SEGMENT_SIZE
from sealedhealth.format.layout import Layout
from sealedhealth.log.link import Link
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, checkpoint_name, link_name, object_name
from sealedhealth.log.roster import Role, Settings
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.maintenance import maintain
from sealedhealth.session.verify import VerificationFailed, verify

SIZES = {"empty": 0, "small": 100, "chunk": 16384, "segments": 2 * SEGMENT_SIZE + 5000}


class Sink(bytearray):
    """Takes what a download writes."""

    write = bytearray.extend


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """Files of several sizes, among them one of three segments; one file has an older version, too."""
    world = World(tmp_path_factory.mktemp("world"), Settings(pack_below=0))  # each in an object of its own
    noise = random.Random(1)
    world.files_put = {name: noise.randbytes(size) for name, size in SIZES.items()}
    world.put({name: bytes(len(data)) for name, data in world.files_put.items()})
    world.old_objects = {name: world.object_file(name) for name in SIZES}
    world.put(world.files_put)
    return world


def every_read(world, path):
    """Each way to read a file: whole at once, streamed, and by ranges at both ends and in the middle."""
    session = world.open()
    entry = session.snapshot.get(path)
    size = entry.length

    def streamed():
        sink = Sink()
        session.download(entry, sink)
        return bytes(sink)

    spans = [(0, size), (0, 1), (max(size - 1, 0), size), (size // 2, size // 2 + 10)]
    readers = [lambda span=span: session.read_ranges([(entry, *span)])[0] for span in spans]
    return [streamed, *readers], [(0, size), *spans]


def altered(world, path, change):
    """Read a file every way after *change* of its object's bytes; returns the answers, errors among them."""
    place = world.object_file(path)
    genuine = place.read_bytes()
    answers = []
    try:
        reads, spans = every_read(world, path)
        place.write_bytes(change(genuine))
        for read, span in zip(reads, spans, strict=True):
            try:
                answers.append((span, read()))
            except IntegrityError as error:
                answers.append((span, error))
    finally:
        place.write_bytes(genuine)
    return answers


def regions(size):
    """Offsets in every region of a sealed object, and at their boundaries."""
    layout = Layout.of_plain(size)
    start, stop = layout.trailer_span
    offsets = {
        0,
        8,
        9,
        10,
        12,
        13,
        16,
        31,
        32,
        47,
        48,
        HEADER_SIZE - 1,
        HEADER_SIZE,
        HEADER_SIZE + 23,
        HEADER_SIZE + 24,
    }
    offsets |= {HEADER_SIZE + 55, HEADER_SIZE + 56}
    for segment in range(layout.segments):
        low, high = layout.segment_span(segment)
        offsets |= {low, (low + high) // 2, high - 1}
    if stop > start:
        offsets |= {start, start + 31, start + 32, stop - 1}
    return sorted(offset for offset in offsets if offset < max(stop, layout.segment_span(layout.segments - 1)[1]))


@pytest.mark.parametrize("name", SIZES)
def test_one_bit_flipped_in_every_region(sealed, name):
    """Whatever bit the host flips, no read gives anything but the genuine bytes, and a whole read fails."""
    genuine = sealed.files_put[name]
    for offset in regions(SIZES[name]):
        answers = altered(sealed, name, lambda data, at=offset: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert isinstance(answers[0][1], IntegrityError), offset
        assert genuine == b"" or isinstance(answers[1][1], IntegrityError), offset
        for (start, stop), answer in answers:
            assert isinstance(answer, IntegrityError) or answer == genuine[start:stop], offset


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("change", ["cut", "cut header", "empty", "extend", "doubled", "zeros"])
def test_cut_and_extended(sealed, name, change):
    """An object that ends early, goes on too long, or is another of the same length is refused."""
    changes = {
        "cut": lambda data: data[:-1],
        "cut header": lambda data: data[:HEADER_SIZE],
        "empty": lambda data: b"",
        "extend": lambda data: data + b"\0",
        "doubled": lambda data: data + data,
        "zeros": lambda data: bytes(len(data)),
    }
    for (start, stop), answer in altered(sealed, name, changes[change]):
        if not isinstance(answer, IntegrityError):
            # Ranges that were checked as far as they go may still be genuine; never anything else.
            assert answer == sealed.files_put[name][start:stop]
            assert change in {"cut", "extend", "doubled"} or sealed.files_put[name] == b""


def test_segments_in_another_order(sealed):
    """Two segments of one object exchanged, with their digests too, are refused."""
    layout = Layout.of_plain(SIZES["segments"])
    (a, b), (c, d) = layout.segment_span(0), layout.segment_span(1)
    trailer, _ = layout.trailer_span

    def exchange(data):
        cut = min(b - a, d - c)
        data = bytearray(data)
        data[a : a + cut], data[c : c + cut] = data[c : c + cut], data[a : a + cut]
        data[trailer : trailer + 32], data[trailer + 32 : trailer + 64] = (
            data[trailer + 32 : trailer + 64],
            data[trailer : trailer + 32],
        )
        return bytes(data)

    for (start, stop), answer in altered(sealed, "segments", exchange):
        assert isinstance(answer, IntegrityError), (start, stop)


@pytest.mark.parametrize("name", SIZES)
def test_older_version_and_other_object(sealed, name):
    """An object's older version of equal size, or another object, in its place is refused."""
    for other in (sealed.old_objects[name], sealed.object_file("small" if name != "small" else "chunk")):
        for span, answer in altered(sealed, name, lambda _, other=other: other.read_bytes()):
            assert isinstance(answer, IntegrityError) or (name, answer) == ("empty", b""), span


def test_missing_object(sealed):
    """A missing object is an integrity error, for whole reads and ranges, and other files still open."""
    place = sealed.object_file("small")
    away = place.with_suffix(".away")
    reads, _ = every_read(sealed, "small")
    place.rename(away)
    try:
        for read in reads[:-1]:
            with pytest.raises(MissingError):
                read()
        assert sealed.read(sealed.open(), "chunk") == sealed.files_put["chunk"]
        with pytest.raises(VerificationFailed, match="small"):
            verify(sealed.open())
    finally:
        away.rename(place)


def test_no_plaintext_before_the_altered_segment_is_checked(sealed):
    """A download stops before the altered segment; what it wrote until then is genuine."""
    low, _ = Layout.of_plain(SIZES["segments"]).segment_span(1)
    place = sealed.object_file("segments")
    genuine = place.read_bytes()
    session = sealed.open()
    sink = Sink()
    place.write_bytes(genuine[: low + 5] + b"\xff\xfe" + genuine[low + 7 :])
    try:
        with pytest.raises(TamperedError):
            session.download(session.snapshot.get("segments"), sink)
    finally:
        place.write_bytes(genuine)
    assert sealed.files_put["segments"].startswith(bytes(sink))
    assert len(sink) <= SEGMENT_SIZE


# -- files of the log ------------------------------------------------------------------------------


def flipped(path, offset):
    """Flip one bit of a file; a negative offset counts from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def checkpointed(world):
    """A world with a checkpoint and two commits after it."""
    maintain(world.open(), force=True)
    world.put({"shared/three": b"three"})
    world.put({"shared/four": b"four"})
    return world


def refuses(world, error=IntegrityError):
    """Everybody who opens the dataset is told; nobody gets anything."""
    with pytest.raises(error):
        world.open()
    with pytest.raises(error):
        world.open(forgetful=True)


@pytest.mark.parametrize("offset", [0, 8, 9, 10, 12, 28, 32, 32 + 97, 32 + 97 + 32, -97, -96, -1])
def test_descriptor_altered(world, offset):
    """Any altered region of the descriptor is refused."""
    flipped(world.host / DESCRIPTOR_NAME, offset)
    refuses(world)


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "gone"])
def test_descriptor_of_another_size(world, change):
    """So is a descriptor that was cut, went on, or is gone."""
    path = world.host / DESCRIPTOR_NAME
    data = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes({"cut": data[:-1], "longer": data + b"\0", "empty": b""}[change])
    refuses(world, MissingError if change == "gone" else IntegrityError)


@pytest.mark.parametrize("offset", [(8, 2), (9, 9)])
def test_unknown_version_and_kind_of_a_log_file(world, offset):
    """A version or kind from the future is named as such."""
    at, value = offset
    path = world.host / DESCRIPTOR_NAME
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    refuses(world, UnsupportedFormat)


def newest_change(world):
    """The change-set file of the newest commit."""
    log = Adversary(world, "author").log
    link = Link.read(Link.split(log.anchor(log.newest()).link))
    return world.host / change_name(link.changes[0].change_id)


@pytest.mark.parametrize("change", ["first", "payload", "signature", "section", "cut", "longer", "empty", "swapped"])
def test_change_set_altered(checkpointed, change):
    """A change set is what its link names, byte for byte, or an error: never skipped."""
    world = checkpointed
    path = newest_change(world)
    data = path.read_bytes()
    signature = 32 + int.from_bytes(data[28:32], "big")
    match change:
        case "first" | "payload" | "signature" | "section":
            flipped(path, {"first": 0, "payload": 40, "signature": signature + 1, "section": -1}[change])
        case "cut":
            path.write_bytes(data[:-1])
        case "longer":
            path.write_bytes(data + b"\0")
        case "empty":
            path.write_bytes(b"")
        case _:
            other = next(p for p in path.parent.iterdir() if p != path)
            path.write_bytes(other.read_bytes())
    refuses(world, TamperedError)


def test_change_set_missing(checkpointed):
    """A missing change set is an error that names the file to restore; with the file back, everything is."""
    path = newest_change(checkpointed)
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(MissingError, match=path.name):
        checkpointed.open()
    path.write_bytes(data)
    assert checkpointed.files()["shared/four"] == b"four"


def test_commits_exchanged_on_the_store(checkpointed):
    """The copies of links on the store decide nothing: exchanged, forged or missing, readers follow the anchors."""
    world = checkpointed
    before = world.files()
    log = world.host / ".sealedhealth" / "log"
    names = sorted(log.iterdir())
    names[1].rename(log / "x")
    names[2].rename(names[1])
    (log / "x").rename(names[2])
    assert world.files(world.open(forgetful=True)) == before
    with pytest.raises(VerificationFailed, match="anchored link"):
        verify(world.open())
    shutil.rmtree(log)
    assert world.files(world.open(forgetful=True)) == before


def test_crash_before_the_copy_of_a_link_heals(world):
    """Whoever commits next puts the previous link on the store again."""
    sequence = world.put({"shared/three": b"three"})
    (world.host / link_name(sequence)).unlink()
    world.put({"shared/four": b"four"})
    assert (world.host / link_name(sequence)).exists()
    verify(world.open())


@pytest.mark.parametrize("part", ["manifest", "segment"])
@pytest.mark.parametrize("change", ["first", "middle", "last", "cut", "longer", "gone"])
def test_checkpoint_altered(checkpointed, part, change):
    """Every part of a checkpoint is what its curator signed, or an error."""
    world = checkpointed
    hint = Adversary(world, "author").state().checkpoint
    manifest = world.host / checkpoint_name(hint.checkpoint_id)
    path = manifest if part == "manifest" else next(p for p in manifest.parent.iterdir() if p != manifest)
    data = path.read_bytes()
    match change:
        case "first" | "middle" | "last":
            flipped(path, {"first": 0, "middle": len(data) // 2, "last": -1}[change])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(data[:-1] if change == "cut" else data + b"\0")
    refuses(world, MissingError if change == "gone" else TamperedError)


def test_another_genuine_dataset_at_this_url(world, tmp_path):
    """The host serves another dataset of the same hospital at this URL: refused before anything is opened."""
    other = tmp_path / "other"
    create_dataset(str(other), world.controller)
    shutil.rmtree(world.host)
    shutil.copytree(other, world.host)
    refuses(world, DatasetMismatch)


def test_another_genuine_dataset_behind_the_true_descriptor(world, tmp_path):
    """Nor do its files under this dataset's descriptor pass."""
    other = tmp_path / "other"
    session = create_dataset(str(other), world.controller)
    with session.begin() as tx:
        tx.put_bytes("shared/one", b"other")
    descriptor = (world.host / DESCRIPTOR_NAME).read_bytes()
    shutil.rmtree(world.host)
    shutil.copytree(other, world.host)
    (world.host / DESCRIPTOR_NAME).write_bytes(descriptor)
    refuses(world)


def test_unknown_dataset_on_the_store_is_not_taken_over(world, tmp_path):
    """Creating a dataset where the store holds one that the key service does not know is refused."""
    copy = tmp_path / "copy"
    shutil.copytree(world.host, copy)
    with pytest.raises(AlreadyExists):
        create_dataset(str(copy), world.controller)


# -- rolling back --------------------------------------------------------------------------------------


def test_store_rolled_back_to_an_earlier_copy(world):
    """The whole store from yesterday: the anchors say that commits are missing."""
    copy = world.backup(world.host)
    world.put({"shared/one": b"newer"})
    world.restore(copy, world.host)
    refuses(world, MissingError)


def test_object_and_log_rolled_back_together_with_a_checkpoint(world):
    """The same when yesterday's store has a checkpoint of its own."""
    maintain(world.open(), force=True)
    copy = world.backup(world.host)
    world.put({"shared/one": b"newer"})
    maintain(world.open(), force=True)
    world.restore(copy, world.host)
    refuses(world, MissingError)


def test_session_at_work_notices_too(world):
    """A session that is open does not follow a store that lost a commit."""
    session = world.open()
    copy = world.backup(world.host)
    world.put({"shared/one": b"newer"})
    world.restore(copy, world.host)
    with pytest.raises(MissingError):
        session.refresh()
    assert world.read(session, "shared/one") == b"one"


def test_mover_without_a_key_cannot_read(world):
    """A copy of the store, without the keystore, has neither a name nor a byte of a file in it."""
    world.join("hospital-north", Role.PRODUCER, prefix="wards")
    world.put({"shared/a telling name": b"a telling content" * 100})
    maintain(world.open(), force=True)
    for path in world.host.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (b"telling", b"shared", b"hospital", b"wards"):
                assert secret not in data, path
            assert not any(
                word in str(path.relative_to(world.host)) for word in ("telling", "shared", "hospital", "wards")
            )


def test_mover_checks_the_public_log(world):
    """With the anchors and no key, a mover replays the log and knows every object by size and digest."""
    state = Adversary(world, "author")
    steps = state.log.replay(state.log.start(), state.log.anchors_from(0))
    inventories = [accepted.change.inventory for step in steps for accepted in step.accepted]
    ids = [i.object_ids[at : at + 16] for i in inventories for at in range(0, len(i.object_ids), 16)]
    assert len(ids) == 1  # two small files in one commit share an object
    for object_id in ids:
        assert (world.host / object_name(object_id)).exists()


def test_session_from_an_old_snapshot_stays_whole(world):
    """A pinned session reads its snapshot, whatever is committed meanwhile."""
    session = world.open()
    world.put({"shared/one": b"newer"})
    assert world.read(session, "shared/one") == b"one"
    assert isinstance(session, Session)


def test_bytes_appended_to_an_object_are_found_by_verify(world):
    """What a host appends leaves no read astray, and a verification names the file."""
    session = world.open()
    entry = session.snapshot.get("shared/two")
    with (world.host / object_name(entry.object_id)).open("ab") as file:
        file.write(b"and more")
    with pytest.raises(VerificationFailed, match="nobody signed"):
        verify(session)
