"""What sealed sections add up to: paths, tags, and which objects are still in use."""

from dataclasses import replace

import pytest

from sealedhealth.errors import RosterViolation
from sealedhealth.format import Kind, sealed_size
from sealedhealth.keys.base import DataKey, Kek, WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, ReusedKey
from sealedhealth.log.content import DESTROYED_KEY, ContentState
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.roster import Author, Policy, Role, Settings
from sealedhealth.log.section import AuthorNote, ObjectRow, Put, Section
from sealedhealth.log.state import Accepted, KeyRecord

DATASET, HERE = b"d" * 16, b"h" * 16
PRODUCER, CURATOR = b"p" * 16, b"c" * 16
SALT = b"s" * 24
POLICY = Policy(
    1,
    (HERE,),
    {
        PRODUCER: Author(PRODUCER, b"1", frozenset([Role.PRODUCER]), frozenset([HERE])),
        CURATOR: Author(CURATOR, b"2", frozenset([Role.CURATOR]), frozenset([HERE])),
    },
    Settings(),
)


class Bench:
    """One compartment, and a data key for each commit."""

    def __init__(self):
        self.content = ContentState(HERE, notes={PRODUCER: AuthorNote("producer", "lab")})
        self.keys = {}
        self.records = {}
        self.destroyed = set()
        self.sequence = 0

    def key_of(self, key_id):
        """As replay gives keys."""
        if key_id in self.destroyed:
            return None
        if key_id not in self.keys:
            raise RosterViolation("unknown")
        return self.keys[key_id]

    def commit(self, section, *, objects=0, ids=None, author=CURATOR, kind=ChangeKind.DATA, size=100, under=None):
        """Apply one section with that many new objects of *size* bytes; returns new refusals."""
        self.sequence += 1
        data_key = DataKey(self.sequence.to_bytes(32, "big"))
        self.keys[data_key.key_id] = data_key
        wrapped = WrappedKey(Kek(DATASET, HERE), data_key.key_id, 1, b"w")
        self.records[data_key.key_id] = KeyRecord(wrapped, self.sequence, kind)
        ids = ids or [bytes([self.sequence, number]) * 8 for number in range(objects)]
        index = [1 if under else 0] * len(ids)
        inventory = Inventory(b"".join(ids), b"r" * 32 * len(ids), [sealed_size(size)] * len(ids), index)
        reused = (ReusedKey(under, HERE),) if under else ()
        change = ChangeSet(
            DATASET, self.sequence.to_bytes(16, "big"), author, kind, 0, (wrapped,), inventory, reused_keys=reused
        )
        known = len(self.content.refusals)
        self.content.apply(Accepted(self.sequence, change, POLICY), section, self.key_of)
        return [refusal.reason for refusal in self.content.refusals[known:]]

    def put(self, *paths, **options):
        """Put a new object of 100 bytes at each path."""
        section = Section(
            new_objects=tuple((number, SALT) for number in range(len(paths))),
            puts=tuple(Put(path, number, 0, 100, 7) for number, path in enumerate(paths)),
        )
        return self.commit(section, objects=len(paths), **options)

    def repack(self, *paths, ids=(b"pack" * 4,)):
        """Put files of 10 bytes into one new object under the data key of the first."""
        under = self.content.catalogue.get(paths[0]).data_key_id
        puts = tuple(Put(path, 0, 10 * number, 10, 7) for number, path in enumerate(paths))
        return self.commit(Section(new_objects=((0, SALT),), puts=puts), ids=list(ids), under=under)

    def copy(self, source, *targets, deletes=(), **options):
        """Put the object of a path elsewhere, too."""
        entry = self.content.catalogue.get(source)
        row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
        puts = tuple(Put(target, 0, entry.offset, entry.length, 7) for target in targets)
        return self.commit(Section(old_objects=(row,), puts=puts, deletes=deletes), **options)

    def paths(self):
        """Every path."""
        return [path for path, _ in self.content.catalogue.items()]

    def dropped(self):
        """Object ids that nobody uses, with the commit that dropped them."""
        return {item.object_id: item.dropped for item in self.content.dropped.values()}


@pytest.fixture
def bench():
    """An empty compartment."""
    return Bench()


def test_put(bench):
    """An entry has what inventory, section and data key say."""
    assert bench.put("a", "b/c") == []
    entry = bench.content.catalogue.get("b/c")
    [key] = bench.keys.values()
    assert entry.object_id == bytes([1, 1]) * 8
    assert entry.object_key == key.object_key(Kind.OBJECT, entry.object_id)
    assert (entry.salt, entry.root, entry.sealed_size) == (SALT, b"r" * 32, sealed_size(100))
    assert (entry.offset, entry.length, entry.mtime_us, entry.sequence) == (0, 100, 7, 1)


@pytest.mark.parametrize("path", ["lab/x", "lab/deep/x", "lab"])
def test_producer_inside_its_prefix(bench, path):
    """A producer puts under its prefix."""
    assert bench.put(path, author=PRODUCER) == []
    assert bench.paths() == [path]


@pytest.mark.parametrize("path", ["x", "laboratory/x", "la", "other/lab/x"])
def test_producer_outside_its_prefix(bench, path):
    """Elsewhere it does not, and nothing of the change set counts."""
    assert bench.put("lab/fine", path, author=PRODUCER)
    assert bench.paths() == []
    assert bench.content.dropped == {}


def test_producer_without_a_note(bench):
    """An author whom the sealed roster does not know has no place at all."""
    bench.content.notes = {}
    assert bench.put("lab/x", author=PRODUCER)


@pytest.mark.parametrize(
    "section", [Section(deletes=("lab/x",)), Section(tags={"t": 1}), Section(notes={PRODUCER: AuthorNote("n", "")}),
                Section(compartment_name="other")],
)  # fmt: skip
def test_what_a_producer_may_not(bench, section):
    """A producer neither deletes nor tags nor names, inside its prefix either."""
    bench.put("lab/x", author=PRODUCER)
    assert bench.commit(section, author=PRODUCER)
    assert bench.paths() == ["lab/x"]
    assert (bench.content.tags, bench.content.name) == ({}, "")
    assert bench.content.notes[PRODUCER].prefix == "lab"


def test_producer_takes_no_older_object(bench):
    """Nor does it refer to objects of earlier commits, its own ones either."""
    bench.put("lab/x", author=PRODUCER)
    assert bench.copy("lab/x", "lab/y", author=PRODUCER)


def test_curator_names_nobody(bench):
    """Names and prefixes are the root key's to give."""
    assert bench.commit(Section(notes={PRODUCER: AuthorNote("n", "")}))
    assert bench.commit(Section(compartment_name="x"))


def test_policy_section(bench):
    """A policy's section replaces names and prefixes, and changes no path."""
    section = Section(notes={CURATOR: AuthorNote("new", "")}, compartment_name="default")
    assert bench.commit(section, author=ROOT_AUTHOR, kind=ChangeKind.POLICY) == []
    assert (dict(bench.content.notes), bench.content.name) == (section.notes, "default")
    for wrong in (Section(deletes=("a",)), Section(tags={"t": 1})):
        assert bench.commit(wrong, author=ROOT_AUTHOR, kind=ChangeKind.POLICY)
    assert bench.put("a", author=ROOT_AUTHOR, kind=ChangeKind.POLICY)


@pytest.mark.parametrize(
    "put",
    [Put("a", 1, 0, 1, 0), Put("a", 0, 0, 101, 0), Put("a", 0, 1, 100, 0), Put("a", 0, 101, 0, 0),
     Put("a", 0, (1 << 64) - 1, 2, 0)],
)  # fmt: skip
def test_entry_outside_of_its_object(bench, put):
    """An entry lies inside of an object that its section names."""
    assert bench.commit(Section(new_objects=((0, SALT),), puts=(put,)), objects=1)


def test_packed_files(bench):
    """Several entries may lie in one object."""
    puts = (Put("a", 0, 0, 40, 0), Put("b", 0, 40, 60, 0), Put("c", 0, 100, 0, 0))
    assert bench.commit(Section(new_objects=((0, SALT),), puts=puts), objects=1) == []
    assert [(e.offset, e.length) for _, e in bench.content.catalogue.items()] == [(0, 40), (40, 60), (100, 0)]


def test_path_twice(bench):
    """A change set says of one path one thing."""
    puts = (Put("a", 0, 0, 1, 0), Put("a", 0, 0, 2, 0))
    assert bench.commit(Section(new_objects=((0, SALT),), puts=puts), objects=1)


def test_object_that_the_change_set_does_not_bring(bench):
    """New objects are those of the inventory."""
    assert bench.commit(Section(new_objects=((1, SALT),)), objects=1)


def test_old_object_of_an_unknown_key(bench):
    """Older objects are of keys that the log has."""
    row = ObjectRow(b"o" * 16, b"unknown key 1234", SALT, b"r" * 32, sealed_size(1))
    assert bench.commit(Section(old_objects=(row,)))


@pytest.mark.parametrize("size", [0, 100, sealed_size(0) - 1, 1 << 63])
def test_impossible_sealed_size(bench, size):
    """An older object of a size that none has is refused, too."""
    bench.put("a")
    entry = bench.content.catalogue.get("a")
    row = ObjectRow(entry.object_id, entry.data_key_id, SALT, entry.root, size)
    assert bench.commit(Section(old_objects=(row,)))


def test_tags(bench):
    """Tags are set, moved and taken away; taking away what is not there does nothing."""
    assert bench.commit(Section(tags={"a": 1, "b": 2})) == []
    bench.commit(Section(tags={"a": 3, "b": None, "c": None}))
    assert bench.content.tags == {"a": 3}


# -- which objects are in use ------------------------------------------------------------------------------


def object_of(bench, path):
    """The id of a path's object."""
    return bench.content.catalogue.get(path).object_id


def test_replaced_and_deleted_objects_are_dropped(bench):
    """An object is dropped by the commit after which no path uses it."""
    bench.put("a", "b")
    first, second = object_of(bench, "a"), object_of(bench, "b")
    bench.put("a")
    assert bench.dropped() == {first: 2}
    bench.commit(Section(deletes=("b", "never there")))
    assert bench.dropped() == {first: 2, second: 3}


def test_copies_keep_an_object(bench):
    """As long as one copy is left the object is in use."""
    bench.put("a")
    one = object_of(bench, "a")
    bench.copy("a", "b", "c")
    assert list(bench.content.shared.values()) == [3]
    bench.commit(Section(deletes=("a",)))
    bench.put("b")
    assert one not in bench.dropped()
    assert bench.content.shared == {}
    bench.commit(Section(deletes=("c",)))
    assert bench.dropped()[one] == 5


def test_move_drops_nothing(bench):
    """A move is a copy and a deletion in one commit; so is a move over itself."""
    bench.put("a")
    bench.copy("a", "b", deletes=("a",))
    bench.copy("b", "b")
    assert bench.paths() == ["b"]
    assert (bench.dropped(), bench.content.shared) == ({}, {})


def test_swap(bench):
    """Two files that change places drop nothing."""
    bench.put("a", "b")
    rows = [ObjectRow(e.object_id, e.data_key_id, e.salt, e.root, e.sealed_size) for e in
            (bench.content.catalogue.get("a"), bench.content.catalogue.get("b"))]  # fmt: skip
    bench.commit(Section(old_objects=tuple(rows), puts=(Put("b", 0, 0, 100, 0), Put("a", 1, 0, 100, 0))))
    assert (bench.dropped(), bench.content.shared) == ({}, {})


def test_restored_object_is_in_use_again(bench):
    """Putting a dropped object back takes it off the list; dropping it again dates it anew."""
    bench.put("a")
    entry = bench.content.catalogue.get("a")
    row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
    bench.commit(Section(deletes=("a",)))
    bench.commit(Section(old_objects=(row,), puts=(Put("b", 0, 0, 100, 0), Put("c", 0, 0, 100, 0))))
    assert (bench.dropped(), list(bench.content.shared.values())) == ({}, [2])
    bench.commit(Section(deletes=("b", "c")))
    assert bench.dropped() == {entry.object_id: 4}


def test_packed_object_is_dropped_with_its_last_file(bench):
    """An object that several files lie in goes when the last of them goes."""
    puts = (Put("a", 0, 0, 40, 0), Put("b", 0, 40, 60, 0))
    bench.commit(Section(new_objects=((0, SALT),), puts=puts), objects=1)
    bench.commit(Section(deletes=("a",)))
    assert bench.dropped() == {}
    bench.commit(Section(deletes=("b",)))
    assert list(bench.dropped().values()) == [3]


def test_repeated_object_id_counts_for_itself(bench):
    """Another author's object of the same id is another object."""
    bench.put("a")
    victim = object_of(bench, "a")
    bench.put("lab/x", ids=[victim], author=PRODUCER)
    bench.put("lab/x", author=PRODUCER)
    assert [item.data_key_id for item in bench.content.dropped.values()] == [list(bench.keys)[1]]
    assert len(bench.content.dropped) == 1
    row_of = bench.content.catalogue.get("a")
    assert row_of.data_key_id == next(iter(bench.keys))


def test_own_object_and_a_copy_of_the_same_id(bench):
    """The same in one change set: its own object, and an older one of equal id under another key."""
    bench.put("a")
    entry = bench.content.catalogue.get("a")
    row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
    section = Section(
        new_objects=((0, SALT),),
        old_objects=(row,),
        puts=(Put("b", 0, 0, 100, 0), Put("c", 1, 0, 100, 0)),
    )
    bench.commit(section, ids=[entry.object_id])
    bench.commit(Section(deletes=("c",)))
    assert bench.dropped() == {}
    bench.commit(Section(deletes=("a",)))
    assert [item.data_key_id for item in bench.content.dropped.values()] == [entry.data_key_id]


def test_collected_objects_are_forgotten(bench):
    """What garbage collection deleted is off the list; what is in use stays."""
    bench.put("a", "b")
    gone, kept = object_of(bench, "a"), object_of(bench, "b")
    bench.commit(Section(deletes=("a",)))
    bench.content.collected({gone, kept})
    assert bench.dropped() == {}
    assert bench.paths() == ["b"]


# -- repacked objects ----------------------------------------------------------------------------------------


def test_repacked_files(bench):
    """Files move into one object that stays under their data key; what they lay in is dropped."""
    bench.put("a", "b", "c")
    [data_key] = bench.keys.values()
    before = {object_of(bench, path) for path in "abc"}
    assert bench.repack("a", "b", "c") == []
    entries = dict(bench.content.catalogue.items())
    assert {entry.data_key_id for entry in entries.values()} == {data_key.key_id}
    assert {entry.object_key for entry in entries.values()} == {data_key.object_key(Kind.OBJECT, b"pack" * 4)}
    assert [entries[path].offset for path in "abc"] == [0, 10, 20]
    assert bench.dropped() == dict.fromkeys(before, 2)
    assert list(bench.content.shared.values()) == [3]


def test_repacked_object_is_younger_than_its_key(bench):
    """Its birth is the commit that made it: kept while in use, when it is dropped, and when it comes back."""
    bench.put("a", "b")
    bench.repack("a", "b")
    uid = next(iter(bench.keys)) + b"pack" * 4
    assert bench.content.born == {uid: 2}
    bench.copy("a", "c", deletes=("a", "b"))
    entry = bench.content.catalogue.get("c")
    bench.commit(Section(deletes=("c",)))
    assert bench.content.born == {}
    assert (bench.content.dropped[uid].dropped, bench.content.dropped[uid].born) == (4, 2)
    assert {item.born for key, item in bench.content.dropped.items() if key != uid} == {0}
    row = ObjectRow(entry.object_id, entry.data_key_id, entry.salt, entry.root, entry.sealed_size)
    bench.commit(Section(old_objects=(row,), puts=(Put("d", 0, 0, 10, 0),)))
    assert bench.content.born == {uid: 2}
    bench.commit(Section(deletes=("d",)))
    assert (bench.content.dropped[uid].dropped, bench.content.dropped[uid].born) == (6, 2)
    bench.content.collected({b"pack" * 4})
    assert uid not in bench.content.dropped


def test_object_that_no_file_lies_in_has_no_birth(bench):
    """The compartment's state does not grow by what is never used."""
    bench.put("a")
    assert bench.commit(Section(new_objects=((0, SALT),)), objects=1, under=next(iter(bench.keys))) == []
    assert bench.content.born == {}


@pytest.mark.parametrize("where", ["in use", "folded", "dropped"])
def test_object_that_is_there_already(bench, where):
    """A new object under an old data key has an id of its own: else two would count as one."""
    bench.put("a", "b")
    taken = object_of(bench, "a")
    if where == "dropped":
        bench.commit(Section(deletes=("a",)))
    elif where == "folded":
        bench.content.catalogue = bench.content.catalogue.compacted()
    before = bench.content.copy()
    assert bench.repack("b", ids=[taken]) == ["It brings an object that is there already."]
    assert (bench.content.dropped, bench.content.born) == (before.dropped, before.born)
    assert list(bench.content.catalogue.items()) == list(before.catalogue.items())


def test_same_id_under_another_key_is_another_object(bench):
    """Whoever repeats the id of an object under its own key keeps nobody from repacking under theirs."""
    bench.put("a")
    bench.put("lab/x", ids=[b"pack" * 4], author=PRODUCER)
    assert bench.repack("a") == []
    assert len({entry.data_key_id for _, entry in bench.content.catalogue.items()}) == 2


def test_repacked_files_end_with_their_key(bench):
    """Destroying the data key ends them where they are now, names and all; a move since then keeps its name."""
    bench.put("a", "b", "c")
    [doomed] = bench.keys
    bench.put("other")
    bench.repack("a", "b")
    bench.copy("b", "moved", deletes=("b",))
    bench.destroyed.add(doomed)
    bench.content.destroy(5, {doomed}, bench.records)
    assert bench.paths() == ["moved", "other"]
    assert bench.content.catalogue.get("moved").object_key == DESTROYED_KEY


# -- destruction -------------------------------------------------------------------------------------------


def test_destroy(bench):
    """What the key sealed is forgotten; names that later commits gave stay, without a key; others are untouched."""
    bench.put("doomed", "moved")
    [doomed] = bench.keys
    bench.put("other")
    bench.copy("moved", "there", deletes=("moved",))
    other = bench.content.catalogue.get("other")
    bench.destroyed.add(doomed)
    bench.content.destroy(4, {doomed}, bench.records)
    assert bench.paths() == ["other", "there"]
    assert bench.content.catalogue.get("there").object_key == DESTROYED_KEY
    assert bench.content.catalogue.get("other") == other
    assert list(bench.dropped().values()) == [4]


def test_copy_of_a_destroyed_file_has_no_key(bench):
    """A copy that is replayed after the destruction says so, too."""
    bench.put("a")
    bench.destroyed |= bench.keys.keys()
    assert bench.copy("a", "b") == []
    assert bench.content.catalogue.get("b").object_key == DESTROYED_KEY


def test_copy_is_independent(bench):
    """A copy of a compartment goes its own way."""
    bench.put("a")
    copy = bench.content.copy()
    bench.put("b")
    bench.repack("b")
    bench.commit(Section(tags={"t": 1}, deletes=("a",)))
    assert [path for path, _ in copy.catalogue.items()] == ["a"]
    assert (copy.tags, copy.dropped, copy.born) == ({}, {}, {})


def test_notes_are_of_the_time_of_the_commit(bench):
    """A prefix that a policy changes binds from the next commit on."""
    bench.put("lab/a", author=PRODUCER)
    moved = Section(notes={PRODUCER: replace(bench.content.notes[PRODUCER], prefix="ward")})
    bench.commit(moved, author=ROOT_AUTHOR, kind=ChangeKind.POLICY)
    assert bench.put("lab/b", author=PRODUCER)
    assert bench.put("ward/b", author=PRODUCER) == []
    assert bench.paths() == ["lab/a", "ward/b"]
