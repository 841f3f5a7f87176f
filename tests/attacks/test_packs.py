"""What a host can do to objects that many files share, and what it sees of them."""

import pytest
from adversary import World

from sealedhealth.dataset import Dataset
from sealedhealth.errors import IntegrityError, KeyDestroyed
from sealedhealth.format import sealed_size
from sealedhealth.log.names import object_name
from sealedhealth.session.verify import VerificationFailed, verify

SIZE = 100_000


@pytest.fixture
def packed(tmp_path):
    """Two commits of eight files each: two objects of four segments."""
    world = World(tmp_path)
    for folder in "ab":
        world.put({f"{folder}/{number}": b"%s%d" % (folder.encode(), number) * (SIZE // 2) for number in range(8)})
    return world


def place(world, path):
    """Where the object of a file is."""
    return world.host / object_name(world.open().snapshot.get(path).object_id)


def read(world, path):
    """A whole file, by a session that has seen nothing of it."""
    session = world.open()
    entry = session.snapshot.get(path)
    return session.read_ranges([(entry, 0, entry.length)])[0]


def test_two_packs_are_exchanged(packed):
    """Equally long, and full of genuine files: none opens, and all are named."""
    one, two = place(packed, "a/0"), place(packed, "b/0")
    first, second = one.read_bytes(), two.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    two.write_bytes(first)
    for path in ("a/0", "a/7", "b/3"):
        with pytest.raises(IntegrityError):
            read(packed, path)
    with pytest.raises(VerificationFailed) as raised:
        verify(packed.open())
    assert len(raised.value.failures) == 16


def test_one_byte_in_one_file(packed, tmp_path):
    """Files in other segments still open; the pack as a whole, and every copy of all of it, is refused."""
    target = place(packed, "a/0")
    data = bytearray(target.read_bytes())
    data[500] ^= 1
    target.write_bytes(data)
    genuine = b"a7" * (SIZE // 2)
    assert read(packed, "a/7") == genuine
    assert packed.open().read_ranges([(packed.open().snapshot.get("a/7"), 5, 9)]) == [genuine[5:9]]
    for path in ("a/0", "a/1"):  # in the same segment
        with pytest.raises(IntegrityError):
            read(packed, path)
    ds = Dataset(packed.open())
    with pytest.raises(IntegrityError):
        ds.get("a", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    with pytest.raises(IntegrityError):
        ds.fs.cat(ds.fs.find("a"))
    with pytest.raises(VerificationFailed) as raised:
        verify(packed.open())
    named = " ".join(raised.value.failures)
    assert "'a/0'" in named
    assert "'a/7'" not in named
    assert "b/" not in named


def test_a_byte_that_no_file_uses_any_more(packed):
    """Dead bytes are a part of the object, too: verification tells, though every file opens."""
    target = place(packed, "a/0")
    session = packed.open()
    with session.begin() as staged:
        for number in range(4):
            staged.delete(f"a/{number}")
    data = bytearray(target.read_bytes())
    data[500] ^= 1
    target.write_bytes(data)
    assert read(packed, "a/7") == b"a7" * (SIZE // 2)
    with pytest.raises(VerificationFailed, match="No file of this snapshot"):
        verify(packed.open())


def test_sizes_of_single_files_are_hidden(tmp_path):
    """The host sees one object as long as all of them together, whatever each of them is."""
    sizes = []
    for number, lengths in enumerate([(10, 5000, 90), (1700, 1700, 1700)]):
        world = World(tmp_path / str(number))
        world.put({f"{name}": bytes(length) for name, length in enumerate(lengths)})
        sizes.append([path.stat().st_size for path in (world.host / "objects").rglob("*") if path.is_file()])
    assert sizes == [[sealed_size(5100)], [sealed_size(5100)]]


def test_what_was_repacked_ends_with_its_key(packed, monkeypatch):
    """Whoever destroys a data key destroys its files wherever a collection has taken them; others stay."""
    monkeypatch.setattr("sealedhealth.session.maintenance.repack.LEAST_DEAD", 1)
    ds = Dataset(packed.open())
    before = ds.session.sequence
    key = ds.snapshot.get("a/0").data_key_id
    with ds.transaction():
        for number in range(6):
            ds.rm(f"a/{number}")
        ds.cp("a/7", "copy")
    assert ds.gc().repacked == 1
    assert ds.snapshot.get("a/7").data_key_id == ds.snapshot.get("copy").data_key_id == key
    held = {path: path.read_bytes() for path in packed.host.rglob("*") if path.is_file()}  # the host keeps everything
    ds.destroy_key(key_id=key.hex())
    session = packed.open(forgetful=True)
    assert [path for path, _ in session.snapshot.items()] == [f"b/{number}" for number in range(8)]
    assert read(packed, "b/0") == b"b0" * (SIZE // 2)
    for path, data in held.items():
        path.write_bytes(data)
    for at in (before, before + 1, before + 2):
        with pytest.raises(KeyDestroyed):
            packed.open(forgetful=True).at(at)
