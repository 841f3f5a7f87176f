import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from sealedhealth.format import sealed_size
from sealedhealth.log import catalogue as catalogue_module
from sealedhealth.log import segment as segment_module
from sealedhealth.log.catalogue import Catalogue, Entry, Segment

# Few names, so that paths meet: prefixes of each other, and characters around "/" in the order of code points.
names = st.sampled_from(["a", "a-", "a0", "b", "é", "漢", "😀"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@st.composite
def entries(draw):
    """Entries of few objects, some of them shared."""
    number = draw(st.integers(0, 9))
    plain = 40 if number < 5 else number
    offset = draw(st.integers(0, 3)) * 10 if number < 5 else 0
    return Entry(
        object_id=bytes([number]) * 16,
        object_key=bytes([number]) * 32,
        data_key_id=bytes([number % 3]) * 16,
        salt=bytes([number]) * 24,
        root=bytes([number]) * 32,
        sealed_size=sealed_size(plain),
        offset=offset,
        length=10 if number < 5 else plain,
        mtime_us=draw(st.integers(0, 3)),
        sequence=draw(st.integers(0, 3)),
    )


class CatalogueMachine(RuleBasedStateMachine):
    """A catalogue does what a dict does, through changes, folding and storing; every snapshot keeps its content."""

    snapshots = Bundle("snapshots")

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(segment_module, "MAX_SEGMENT_ENTRIES", 4)
        self.patch.setattr(segment_module, "_STEP", 2)
        self.patch.setattr(catalogue_module, "MAX_SEGMENT_ENTRIES", 4)
        self.patch.setattr(catalogue_module, "MIN_CHANGES", 6)
        self.patch.setattr(catalogue_module, "SMALL_SEGMENT", 2)
        self.catalogue, self.model = Catalogue.empty(), {}

    def teardown(self):
        """Give the constants back."""
        self.patch.undo()

    @initialize(target=snapshots)
    def start(self):
        """The first snapshot is empty."""
        return self.catalogue, dict(self.model)

    @rule(
        target=snapshots,
        puts=st.dictionaries(paths, entries(), max_size=10),
        deletes=st.lists(paths, max_size=6),
        old=st.lists(st.integers(0, 100), max_size=4),
    )
    def apply(self, puts, deletes, old):
        """Put and delete, also paths that are known to be there."""
        there = sorted(self.model)
        deletes = [*deletes, *(there[index % len(there)] for index in old if there)]
        before = self.catalogue
        self.catalogue = before.apply(puts, deletes)
        after = {path: entry for path, entry in self.model.items() if path not in deletes} | puts
        clash = before.clash(puts, deletes)
        clashing = {
            path for path in puts for other in after if other.startswith(path + "/") or path.startswith(other + "/")
        }
        assert (clash in clashing) if clashing else (clash is None)
        self.model = after
        return self.catalogue, dict(after)

    @rule()
    def fold(self):
        """Fold the changes; what nothing touched stays the same segment."""
        before = {id(segment) for segment in self.catalogue._segments}
        folded = self.catalogue.compacted()
        assert folded.compacted() is folded
        if not self.catalogue._changes:
            assert {id(segment) for segment in folded.segments()} == before
        assert all(len(segment) <= 4 for segment in folded.segments())
        self.catalogue = folded

    @rule()
    def store(self):
        """Write the segments and read them again."""
        segments = self.catalogue.segments()
        again = [Segment.decode(segment.encode(), ref=object()) for segment in segments]
        assert [segment.encode() for segment in again] == [segment.encode() for segment in segments]
        self.catalogue = Catalogue.from_segments(again)

    @rule(snapshot=snapshots)
    def compare(self, snapshot):
        """Earlier snapshots are what they were; what differs from them is what a dict says."""
        catalogue, model = snapshot
        assert dict(catalogue.items()) == model
        expected = [
            (path, model.get(path), self.model.get(path))
            for path in sorted(model.keys() | self.model.keys())
            if (model[path].content if path in model else None)
            != (self.model[path].content if path in self.model else None)
        ]
        assert list(catalogue.diff(self.catalogue)) == expected
        assert list(self.catalogue.diff(catalogue)) == [(path, new, old) for path, old, new in expected]

    @rule(snapshot=snapshots, target=snapshots)
    def go_back(self, snapshot):
        """Go on from an earlier snapshot."""
        self.catalogue, self.model = snapshot[0], dict(snapshot[1])
        return multiple()

    @rule(path=paths)
    def look(self, path):
        """One path: file, directory, listing, sums."""
        below = sorted(other for other in self.model if other.startswith(path + "/"))
        under = ([path] if path in self.model else []) + below
        assert self.catalogue.get(path) == self.model.get(path)
        assert (path in self.catalogue) == (path in self.model)
        assert self.catalogue.is_dir(path) == bool(below)
        assert list(self.catalogue.items(path)) == [(other, self.model[other]) for other in under]
        assert list(self.catalogue.paths(path)) == under
        assert self.catalogue.count(path) == len(under)
        assert self.catalogue.total_size(path) == sum(self.model[other].length for other in under)
        assert list(self.catalogue.children(path)) == self.children(path + "/")

    def children(self, prefix):
        """What a dict says is directly inside a directory."""
        found = {
            (name, bool(slash))
            for name, slash, _ in (path[len(prefix) :].partition("/") for path in self.model if path.startswith(prefix))
        }
        return [(name, None if is_dir else self.model[prefix + name]) for name, is_dir in sorted(found)]

    @invariant()
    def whole(self):
        """Everything at once."""
        assert len(self.catalogue) == self.catalogue.count() == len(self.model)
        assert list(self.catalogue.items()) == sorted(self.model.items(), key=lambda item: item[0])
        assert list(self.catalogue.children("")) == self.children("")
        objects = {(entry.object_id, entry.sealed_size, entry.root, entry.data_key_id) for entry in self.model.values()}
        found = [(each.object_id, each.sealed_size, each.root, each.data_key_id) for each in self.catalogue.objects()]
        assert len(found) == len(objects)
        assert set(found) == objects
        key_id = bytes([1]) * 16
        assert [path for path, _ in self.catalogue.sealed_under([key_id])] == [
            path for path in sorted(self.model) if self.model[path].data_key_id == key_id
        ]


TestCatalogue = CatalogueMachine.TestCase
TestCatalogue.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
