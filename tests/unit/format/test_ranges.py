from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from sealedhealth.errors import InvalidInput, TamperedError, TruncatedError, WrongKey
from sealedhealth.format import RangeReader

CHUNK = 16384
SEGMENT = 16 * CHUNK
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 9 * SEGMENT + 12_345]


def read(case, ranges, reader=None) -> list[bytes]:
    """Plan, fetch, finish."""
    reader = reader or case.reader()
    return reader.finish(ranges, case.fetch(reader.plan(ranges)))


@pytest.mark.parametrize("size", SIZES)
def test_ranges_are_slices(make, size, executor):
    """Around every boundary of chunks and segments, one by one and all in one call."""
    case = make(size)
    edges = sorted(
        {max(0, at + d) for at in (0, CHUNK, SEGMENT - CHUNK, SEGMENT, 2 * SEGMENT, size) for d in (-1, 0, 1)}
    )
    ranges = [(start, stop) for start in edges for stop in edges if stop - start < 70_000]
    expected = [case.plain[start:stop] for start, stop in ranges]
    reader = case.reader(executor=executor)
    assert reader.plain_size == size
    assert read(case, ranges, reader) == expected
    assert [read(case, [span], reader)[0] for span in ranges] == expected
    assert read(case, [(0, size)], reader) == [case.plain]


def test_ranges_keep_their_order(large):
    """Out of order, twice, overlapping and empty: the answer has the order of the question."""
    ranges = [(500_000, 500_010), (0, 5), (3, 8), (0, 5), (7, 7), (10**9, 10**9 + 1), (9, 2), (540_000, 10**9)]
    assert read(large, ranges) == [large.plain[start:stop] for start, stop in ranges]


def test_plan_of_the_first_read_has_the_list(large):
    """The segment, and the list of digests, as two spans for one concurrent call; later the segment alone."""
    reader, layout = large.reader(), large.layout
    assert reader.plan([(0, 10)]) == [layout.segment_span(0), layout.trailer_span]
    read(large, [(0, 10)], reader)
    assert reader.plan([(0, 10)]) == [layout.segment_span(0)]


def test_a_tail_read_is_one_request(large):
    """What a Parquet footer needs: the last segment touches the list of digests."""
    size = len(large.plain)
    assert large.reader().plan([(size - 8, size)]) == [(large.layout.segment_span(2)[0], large.layout.sealed_size)]


def test_a_single_segment_is_fetched_whole(make):
    """One request, and nothing after it."""
    for size in (1, SEGMENT - 1):
        case = make(size)
        assert case.reader().plan([(size - 1, size)]) == [(0, len(case.data))]


def test_plans_join_what_touches(make):
    """Neighbouring and overlapping segments come in one request, distant ones apart."""
    case = make(9 * SEGMENT + 5)
    span = case.layout.segment_span
    ranges = [(6 * SEGMENT, 6 * SEGMENT + 1), (SEGMENT - 1, SEGMENT + 1), (10, 20), (2 * SEGMENT, 2 * SEGMENT + 9)]
    assert case.reader().plan(ranges) == [(0, span(2)[1]), span(6), case.layout.trailer_span]


def test_nothing_to_read_is_nothing_to_fetch(large, make):
    """Empty ranges, and any range of an empty object."""
    for case in (large, make(0)):
        reader = case.reader()
        assert reader.plan([]) == []
        assert reader.plan([(5, 5), (len(case.plain), 10**9)]) == []
        assert reader.finish([(5, 5), (len(case.plain), 10**9)], []) == [b"", b""]


def test_spans_may_come_otherwise_than_planned(large):
    """Larger, overlapping, in another order: what covers the plan will do."""
    layout = large.layout
    spans = [
        layout.trailer_span,
        (layout.segment_span(1)[0] - 7, layout.body_end),
        (0, layout.segment_span(0)[1]),
        (0, 9),
    ]
    assert large.reader().finish([(0, 10**9)], large.fetch(spans)) == [large.plain]


def test_spans_that_do_not_cover_the_plan(large):
    """A mistake of the caller, said as such."""
    for spans in ([], [(0, 1000)], large.reader().plan([(0, 10)])[:1]):
        with pytest.raises(InvalidInput, match="were not fetched"):
            large.reader().finish([(0, 10)], large.fetch(spans))


@pytest.mark.parametrize("span", [(-1, 5), (0, -1), (-3, -1)])
def test_negative_positions_are_refused(large, span):
    """Positions from the end are for whoever knows the size to compute."""
    with pytest.raises(InvalidInput):
        large.reader().plan([span])
    with pytest.raises(InvalidInput):
        large.reader().finish([span], [])


def test_answers_of_another_length(large):
    """A store that answers with less or more than asked for is not believed."""
    reader = large.reader()
    for change in (lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""):
        fetched = [(span, change(data)) for span, data in large.fetch(reader.plan([(0, 10)]))]
        with pytest.raises(TruncatedError):
            reader.finish([(0, 10)], fetched)


def test_a_bad_list_is_not_remembered(large):
    """After a refused list of digests the reader asks for it again."""
    reader = large.reader()
    (first, segment), (second, trailer) = large.fetch(reader.plan([(0, 10)]))
    with pytest.raises(TamperedError, match="segment list"):
        reader.finish([(0, 10)], [(first, segment), (second, trailer[:-1] + bytes([trailer[-1] ^ 1]))])
    assert reader.plan([(0, 10)]) == [first, second]
    assert reader.finish([(0, 10)], [(first, segment), (second, trailer)]) == [large.plain[:10]]


def test_segments_are_checked_on_every_read(large):
    """A segment that was good before may be bad now."""
    reader = large.reader()
    read(large, [(0, 10)], reader)
    with pytest.raises(TamperedError, match="Segment 0 "):
        reader.finish([(0, 10)], [(span, data[:-1] + b"?") for span, data in large.fetch(reader.plan([(0, 10)]))])


def test_the_altered_segment_is_named(make):
    """Also among many."""
    case = make(9 * SEGMENT)
    bad = bytearray(case.data)
    bad[case.layout.segment_span(6)[0]] ^= 1
    with pytest.raises(TamperedError, match="Segment 6 "):
        read(case.served(bytes(bad)), [(0, 10**9)])
    with pytest.raises(TamperedError, match="Segment 6 "):
        read(case.served(bytes(bad)), [(6 * SEGMENT, 7 * SEGMENT)])
    assert read(case.served(bytes(bad)), [(0, 6 * SEGMENT)]) == [case.plain[: 6 * SEGMENT]]


def test_a_salt_that_the_log_has_wrong(large, small):
    """An author's mistake: caught by the prefix where it is read, by the chunks elsewhere."""
    for case in (small, large):
        with pytest.raises(TamperedError, match="salt"):
            read(case, [(0, 1)], case.reader(salt=os.urandom(24)))
    with pytest.raises(WrongKey):
        read(large, [(SEGMENT, SEGMENT + 1)], large.reader(salt=os.urandom(24)))


def test_wrong_key_away_from_the_commitment(large):
    """Only the first segment has the commitment; elsewhere the tag says it."""
    reader = RangeReader(
        os.urandom(32), large.header, salt=large.info.salt, root=large.info.root, sealed_size=large.info.sealed_size
    )
    with pytest.raises(WrongKey):
        read(large, [(SEGMENT, SEGMENT + 1)], reader)


def test_keys_have_32_bytes(large):
    """Refused before anything is planned."""
    for size in (0, 16, 33):
        with pytest.raises(InvalidInput):
            RangeReader(bytes(size), large.header, salt=bytes(24), root=bytes(32), sealed_size=len(large.data))


def test_one_reader_for_many_threads(make):
    """Threads share the list of digests and nothing else."""
    case = make(4 * SEGMENT + 99)
    reader = case.reader()
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda at: read(case, [(at, at + 10_000)], reader)[0], range(0, len(case.plain), 10_000))
    assert b"".join(parts) == case.plain
