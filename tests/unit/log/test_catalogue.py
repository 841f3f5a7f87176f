import copy
import dataclasses
import pickle
import random
import time
from array import array

import pytest

from sealedhealth.errors import InvalidPath, MalformedError, TruncatedError
from sealedhealth.format import sealed_size
from sealedhealth.log import catalogue as catalogue_module
from sealedhealth.log import segment as segment_module
from sealedhealth.log.catalogue import Catalogue, Entry, ObjectInfo, Segment
from sealedhealth.log.columns import encode
from sealedhealth.log.segment import MAX_SEGMENT_ENTRIES, Run, splice


def entry(number, *, size=None, plain=None, offset=0, data_key=0, mtime=None):
    """An entry of made-up values; the same number is the same object."""
    size = number if size is None else size
    plain = offset + size if plain is None else plain
    return Entry(
        object_id=number.to_bytes(16, "big"),
        object_key=b"\xee" * 28 + number.to_bytes(4, "big"),
        data_key_id=data_key.to_bytes(16, "big"),
        salt=b"\xdd" * 20 + number.to_bytes(4, "big"),
        root=number.to_bytes(32, "big"),
        sealed_size=sealed_size(plain),
        offset=offset,
        length=size,
        mtime_us=1_700_000_000_000_000 + number if mtime is None else mtime,
        sequence=number % 100,
    )


def packed(number, count, size=10):
    """Entries that share one object."""
    return [entry(number, size=size, plain=count * size, offset=size * index) for index in range(count)]


def catalogue(*paths):
    """A catalogue of these paths, in segments."""
    return Catalogue.empty().apply({path: entry(index) for index, path in enumerate(paths)}).compacted()


@pytest.fixture
def small(monkeypatch):
    """Segments of four entries, and few changes beside them."""
    monkeypatch.setattr(segment_module, "MAX_SEGMENT_ENTRIES", 4)
    monkeypatch.setattr(catalogue_module, "MAX_SEGMENT_ENTRIES", 4)
    monkeypatch.setattr(catalogue_module, "SMALL_SEGMENT", 0)
    monkeypatch.setattr(catalogue_module, "MIN_CHANGES", 8)


# -- entries -------------------------------------------------------------------------------------


def test_entry_hides_its_keys():
    """Neither key nor salt show in repr; an entry cannot be pickled or copied, but replaced."""
    one = entry(5)
    assert "object_key" not in repr(one)
    assert "salt" not in repr(one)
    assert "\\xee" not in repr(one)
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="key"):
            leak(one)
    assert dataclasses.replace(one, length=3).size == 3
    assert one == entry(5)


@pytest.mark.parametrize("make", [lambda: catalogue("a"), lambda: catalogue("a").segments()[0]])
def test_containers_hide_their_keys(make):
    """Segments and catalogues are full of keys: the same for them."""
    assert "\\xee" not in repr(make())
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="key"):
            leak(make())


# -- one catalogue -------------------------------------------------------------------------------


def test_empty():
    """Nothing in it, but the root is a directory."""
    empty = Catalogue.empty()
    assert len(empty) == empty.count() == empty.total_size() == 0
    assert list(empty.items()) == list(empty.children("")) == list(empty.objects()) == empty.segments() == []
    assert empty.is_dir("")
    assert not empty.is_dir("a")
    assert empty.get("a") is None
    assert "a" not in empty
    assert 5 not in empty
    assert empty.compacted() is empty
    assert empty.apply({}).segments() == []


@pytest.mark.parametrize("fold", [False, True])
def test_files_and_directories(fold):
    """Looking up, listing and counting, from changes as from segments."""
    paths = ["a", "b-", "b/1", "b/2/x", "b/2/y", "b0", "é/ü", "漢", "😀/1"]
    files = {path: entry(index) for index, path in enumerate(paths)}
    made = Catalogue.empty().apply(files)
    if fold:
        made = made.compacted()
    assert dict(made.items()) == files
    assert list(made.paths()) == sorted(paths)
    assert list(made.items("b")) == [(path, files[path]) for path in ("b/1", "b/2/x", "b/2/y")]
    assert list(made.items("b/1")) == [("b/1", files["b/1"])]
    assert list(made.items("b/")) == list(made.items("c")) == []
    assert [name for name, _ in made.children("")] == ["a", "b", "b-", "b0", "é", "漢", "😀"]
    assert list(made.children("b")) == [("1", files["b/1"]), ("2", None)]
    assert list(made.children("a")) == []
    assert (made.count("b"), made.count("b/1"), made.count(), made.count("x")) == (3, 1, 9, 0)
    assert (made.total_size("b"), made.total_size()) == (2 + 3 + 4, 36)
    assert made.is_dir("b")
    assert made.is_dir("b/2")
    assert not made.is_dir("b/1")
    assert not made.is_dir("b-")
    assert made.get("b") is None
    assert "b/2/x" in made
    assert "\ud800" not in made


@pytest.mark.parametrize("fold", [False, True])
def test_name_of_both_kinds(fold):
    """A name that is a file and a directory is listed as both, the file first."""
    made = Catalogue.empty().apply({"a": entry(1), "a/b": entry(2), "a-": entry(3)})
    if fold:
        made = made.compacted()
    assert list(made.children("")) == [("a", entry(1)), ("a", None), ("a-", entry(3))]
    assert [path for path, _ in made.items("a")] == ["a", "a/b"]


def test_apply_leaves_the_old_one():
    """A catalogue never changes."""
    before = catalogue("a", "b")
    after = before.apply({"c": entry(9)}, ["a", "absent"])
    assert list(before.paths()) == ["a", "b"]
    assert list(after.paths()) == ["b", "c"]
    assert (len(before), len(after)) == (2, 2)


def test_put_wins_over_delete():
    """A path that is deleted and put in one change is there."""
    assert list(catalogue("a").apply({"a": entry(7)}, ["a"]).items()) == [("a", entry(7))]


def test_directory_goes_with_its_last_file():
    """A directory whose files are all deleted is gone, in the segments or not."""
    before = catalogue("a/b/c", "a/d", "e")
    after = before.apply({}, ["a/b/c"])
    assert list(after.children("a")) == [("d", entry(1))]
    after = after.apply({"f/g": entry(5)}, ["a/d"])
    assert not after.is_dir("a")
    assert list(after.children("")) == [("e", entry(2)), ("f", None)]
    assert list(after.apply({}, ["f/g"]).children("")) == [("e", entry(2))]


def test_clash():
    """A path that would be file and directory at once is found, with what is deleted in the same change."""
    made = catalogue("a/b", "a/c", "d", "e/f")
    assert made.clash(["a/x", "g/h/i", "d"]) is None
    assert made.clash(["a"]) == "a"
    assert made.clash(["d/x"]) == "d/x"
    assert made.clash(["e/f/g/h"]) == "e/f/g/h"
    assert made.clash(["x", "x/y"]) == "x/y"
    assert made.clash(["x/y", "x"]) == "x/y"
    assert made.clash(["a"], ["a/b"]) == "a"
    assert made.clash(["a"], ["a/b", "a/c", "d"]) is None
    assert made.clash(["d/x"], ["d"]) is None
    assert made.clash(["d", "d/x"], ["d"]) == "d/x"


def test_objects_are_told_apart_by_data_key():
    """Each object once, whatever shares it; the same id under another data key is another object."""
    shared = packed(7, 3)
    files = {f"p{index}": item for index, item in enumerate(shared)} | {"x": entry(8), "y": entry(8, data_key=1)}
    for made in (Catalogue.empty().apply(files), Catalogue.empty().apply(files).compacted()):
        found = list(made.apply({"z": shared[0]}).objects())
        assert sorted(found, key=lambda each: (each.object_id, each.data_key_id)) == [
            ObjectInfo(shared[0].object_id, sealed_size(30), shared[0].root, bytes(16)),
            ObjectInfo(entry(8).object_id, sealed_size(8), entry(8).root, bytes(16)),
            ObjectInfo(entry(8).object_id, sealed_size(8), entry(8).root, entry(8, data_key=1).data_key_id),
        ]
        assert [path for path, _ in made.sealed_under([entry(8, data_key=1).data_key_id])] == ["y"]
        assert [path for path, _ in made.sealed_under([bytes(16)])] == ["p0", "p1", "p2", "x"]


def test_objects_in_use():
    """An object is in use by data key and id together, and only as long as a file lies in it."""
    other = entry(8, data_key=1)
    uids = [each.data_key_id + each.object_id for each in (entry(7), entry(8), other)]
    files = Catalogue.empty().apply({"a": entry(7), "b": entry(8)})
    for made in (files, files.compacted()):
        assert [made.uses({uid}) for uid in uids] == [True, True, False]
        assert made.uses(set(uids))
        assert not made.uses(())
        assert [made.apply({"c": other}, ["a"]).uses({uid}) for uid in uids] == [False, True, True]
        assert not made.apply({"a": entry(9)}).uses({uids[0]})


# -- segments ------------------------------------------------------------------------------------


def same(segment):
    """A segment after encoding and decoding."""
    return Segment.decode(segment.encode())


@pytest.mark.parametrize(
    "items",
    [
        {"a": entry(0)},
        {f"{index:03d}": entry(index, data_key=index % 3) for index in range(200)},
        {f"{index:03d}": item for index, item in enumerate(packed(5, 50))},
        {"a": entry(1), "b": entry(1), "é": entry(2)},
        {"a": entry(1, size=5, plain=10), "b": entry(2)},
    ],
    ids=["one", "whole", "packed", "copies", "part"],
)
def test_segment_round_trip(items):
    """Entries of all sorts come back, and encoding again gives the same bytes."""
    segment = Segment.build(list(items.items()))
    assert list(segment.items()) == list(same(segment).items()) == list(items.items())
    assert same(segment).encode() == segment.encode()
    assert (segment.first, segment.last, len(segment)) == (min(items), max(items), len(items))
    assert [segment.content(row) for row in range(len(items))] == [item.content for item in items.values()]


def test_whole_objects_take_no_links():
    """Where each entry is an object of its own, nothing is stored to tie them together."""
    assert Segment.build([("a", entry(1)), ("b", entry(2))]).links is None
    assert b'"packed":false' in Segment.build([("a", entry(1))]).encode()
    assert b'"packed":true' in Segment.build([("a", entry(1)), ("b", entry(1))]).encode()


def test_ref_is_the_readers():
    """A segment keeps what its reader says of where it came from."""
    data = Segment.build([("a", entry(1))]).encode()
    assert Segment.decode(data, ref="there").ref == "there"
    assert Segment.decode(data).ref is None


def test_build_refuses():
    """A path that is not canonical and an impossible size are mistakes of the caller."""
    for path in ("", "a//b", "a\nb", "e\u0301"):
        with pytest.raises(InvalidPath):
            Segment.build([(path, entry(1))])
    with pytest.raises(TruncatedError):
        Segment.build([("a", dataclasses.replace(entry(1), sealed_size=5))])


def columns_of(**changes):
    """A segment's file, made with other columns than its own."""
    items = {"a": entry(1), "b": entry(2), "c": entry(2, size=1)}
    columns = {
        "path": list(items),
        "mtime": [1, 2, 3],
        "sequence": [1, 2, 3],
        "object_id": [bytes(16), bytes(16)],
        "object_key": [bytes(32), bytes(32)],
        "object_salt": [bytes(24), bytes(24)],
        "object_root": [bytes(32), bytes(32)],
        "object_size": array("Q", [1, 2]),
        "object_data_key": [0, 0],
        "data_key": [bytes(16)],
        "object": [0, 1, 1],
        "offset": [0, 0, 1],
        "length": [1, 2, 1],
        **changes,
    }
    columns = {name: column for name, column in columns.items() if column is not None}
    rows = {"entry": len(columns["mtime"]), "object": len(columns["object_id"]), "key": len(columns["data_key"])}
    return encode(
        segment_module._SCHEMA, rows=rows, fields={"packed": changes.get("object", True) is not None}, columns=columns
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"path": ["a", "c", "b"]},
        {"path": ["a", "b", "b"]},
        {"path": ["a", "a/", "b"]},
        {"path": ["a", "a/../b", "b"]},
        {"path": ["a", "b\r", "c"]},
        {"path": ["a", "e\u0301", "z"]},
        {"path": ["", "a", "b"]},
        {"path": ["a", "b", "c" * 4097]},
        {"sequence": [1, 2, 2**48 + 1]},
        {"object_size": [1, 2**60]},
        {"object_data_key": [0, 1]},
        {"object": [0, 1, 2]},
        {"object": [1, 1, 1]},
        {"offset": [0, 0, 2]},
        {"offset": [0, 0, 2**64 - 1]},
        {"length": [1, 3, 1]},
        {"length": [1, 2, 2**64 - 1]},
        {"object": None, "offset": None, "length": None},
        {"object": None},
        {"path": [], "mtime": [], "sequence": [], "object": [], "offset": [], "length": []},
        {
            name: []
            for name in ("object_id", "object_key", "object_salt", "object_root", "object_size", "object_data_key")
        },
        {"data_key": []},
    ],
    ids=ascii,
)
def test_decode_refuses(changes):
    """Paths out of order or form, and rows that point outside of what they belong to, are refused."""
    assert len(Segment.decode(columns_of())) == 3
    with pytest.raises(MalformedError):
        Segment.decode(columns_of(**changes))


def test_overlapping_segments():
    """Segments are in order and do not overlap."""
    one, two = Segment.build([("a", entry(1)), ("c", entry(2))]), Segment.build([("c", entry(3))])
    three = Segment.build([("b", entry(4))])
    for wrong in ([one, two], [one, three], [two, one], [one, one]):
        with pytest.raises(MalformedError):
            Catalogue.from_segments(wrong)


def test_splice_splits_evenly():
    """More rows than a segment may have become several of about the same size; so does too much text."""
    items = [(f"{index:06d}", entry(index)) for index in range(70_000)]
    segments = [Segment.build(items[:65_536]), Segment.build(items[65_536:])]
    parts = splice([Run(segment, 0, len(segment)) for segment in segments])
    assert [len(part) for part in parts] == [35_000, 35_000]
    assert [item for part in parts for item in part.items()] == items


def test_splice_bounds_text(monkeypatch):
    """Long paths make short segments."""
    monkeypatch.setattr(segment_module, "MAX_SEGMENT_TEXT", 1000)
    items = [(f"{index}" * 300, entry(index)) for index in range(9)]
    parts = splice([Run(Segment.build(items), 0, 9)])
    assert [item for part in parts for item in part.items()] == items
    assert max(len(part.text) for part in parts) <= 1000


# -- folding -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_untouched_segments_stay():
    """Folding makes anew only the segments that a change falls into; the others keep their ref."""
    made = catalogue(*(f"{index:02d}" for index in range(16)))
    segments = made.segments()
    assert [len(segment) for segment in segments] == [4, 4, 4, 4]
    for number, segment in enumerate(segments):
        segment.ref = number
    after = made.apply({"05x": entry(99)}, ["13"])
    folded = after.segments()
    assert [segment.ref for segment in folded] == [0, None, None, 2, None]
    assert list(after.compacted().items()) == list(after.items())
    folded = after.compacted()
    assert folded.compacted().segments() == folded.segments()
    assert [segment.ref for segment in made.apply({}, [f"{index:02d}" for index in range(4, 8)]).segments()] == [
        0,
        2,
        3,
    ]


def test_small_segments_are_joined():
    """A segment of few entries is joined to one before it that is made anew anyway, and only then."""
    segments = [Segment.build([(name, entry(1))]) for name in "ace"]
    made = Catalogue.from_segments(segments)
    assert made.apply({"f": entry(2)}).segments()[:2] == segments[:2]
    assert [len(segment) for segment in made.apply({"b": entry(2)}).segments()] == [4]


@pytest.mark.usefixtures("small")
def test_many_changes_are_folded():
    """Changes do not pile up beside the segments."""
    made = Catalogue.empty()
    for number in range(100):
        made = made.apply({f"{number:03d}": entry(number)})
        assert len(made._changes) <= 8
    assert [path for path, _ in made.items()] == [f"{number:03d}" for number in range(100)]


def test_data_keys_that_nothing_needs_go():
    """A data key whose last object is gone is not in the segments any more."""
    made = Catalogue.empty().apply({"a": entry(1, data_key=1), "b": entry(2, data_key=2)}).compacted()
    (segment,) = made.apply({}, ["a"]).segments()
    assert segment.objects.data_keys == [entry(2, data_key=2).data_key_id]


def test_packed_objects_that_nothing_needs_go():
    """The same for an object that several files shared; what is left of another stays packed."""
    files = {f"a{index}": item for index, item in enumerate(packed(1, 3))}
    files |= {f"b{index}": item for index, item in enumerate(packed(2, 3))}
    made = Catalogue.empty().apply(files).compacted().apply({"c": entry(3)}, ["a0", "a1", "a2", "b1"])
    (segment,) = made.segments()
    assert len(segment.objects) == 2
    assert dict(same(segment).items()) == {"b0": files["b0"], "b2": files["b2"], "c": entry(3)}


# -- comparing -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_diff():
    """Added, removed and rewritten files, sorted; a new time or place in the segments is no difference."""
    before = catalogue(*(f"{index:02d}" for index in range(12)))
    puts = {"005": entry(50), "03": entry(51), "07": entry(7, mtime=1)}
    after = before.apply(puts, ["01"])
    expected = [("005", None, entry(50)), ("01", entry(1), None), ("03", entry(3), entry(51))]
    for left in (before, Catalogue.empty().apply(dict(before.items()))):
        for right in (after, after.compacted(), Catalogue.empty().apply(dict(after.items()))):
            assert list(left.diff(right)) == expected
            assert list(right.diff(left)) == [(path, new, old) for path, old, new in expected]
            assert list(right.diff(right)) == []


def test_diff_skips_what_is_stored_once(monkeypatch):
    """Segments that came from the same place are not compared row by row."""
    data = Segment.build([("a", entry(1))]).encode()
    one, two = (Catalogue.from_segments([Segment.decode(data, ref="x")]) for _ in range(2))
    monkeypatch.setattr(Segment, "paths", None)
    assert list(one.diff(two)) == []


# -- size ----------------------------------------------------------------------------------------


def test_large_directories_are_skipped():
    """Listing takes time by the names listed, not by what lies below them."""
    paths = sorted(f"big{index % 2}/{index:06d}" for index in range(MAX_SEGMENT_ENTRIES))
    made = catalogue(*paths)
    start = time.perf_counter()
    for _ in range(100):
        assert list(made.children("")) == [("big0", None), ("big1", None)]
        assert made.count("big0") == MAX_SEGMENT_ENTRIES // 2
    assert time.perf_counter() - start < 1


def test_scattered_changes():
    """Many random changes to a larger catalogue end up right, and in whole segments."""
    chance = random.Random(4)
    paths = [f"{index:05d}" for index in range(20_000)]
    model = {path: entry(index) for index, path in enumerate(paths)}
    made = Catalogue.empty().apply(model)
    for turn in range(3):
        puts = {path: entry(turn) for path in chance.sample(paths, 500)}
        puts |= {f"{path}x": entry(turn, size=1, plain=5) for path in chance.sample(paths, 50)}
        deletes = [path for path in chance.sample(paths, 500) if path not in puts]
        made = made.apply(puts, deletes).compacted()
        model = {path: item for path, item in (model | puts).items() if path not in deletes}
        assert dict(made.items()) == model
        assert len(made) == len(model)
