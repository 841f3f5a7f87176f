"""What every anchor store must do."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime, timedelta

import pytest

from sealedhealth.errors import AnchorTaken, InvalidInput
from sealedhealth.keys import MAX_LINK_SIZE, AnchorEntry, AnchorStore
from sealedhealth.testing.racing import race

__all__ = ["AnchorStoreConformance"]


class AnchorStoreConformance:
    """Subclass it, and give a fixture ``anchors``: a :class:`sealedhealth.keys.AnchorStore`.

    Give ``other`` too where there can be several clients of one store.
    """

    #: How far the store's clock may be from this machine's.
    clock_tolerance = timedelta(minutes=5)

    @pytest.fixture
    def anchors(self) -> AnchorStore:
        """The store under test."""
        raise NotImplementedError("give a fixture called anchors")

    @pytest.fixture
    def other(self, anchors: AnchorStore) -> AnchorStore:
        """Another client of the same store."""
        return anchors

    @pytest.fixture
    def dataset_id(self) -> bytes:
        """A dataset that nobody else uses."""
        return secrets.token_bytes(16)

    def test_is_an_anchor_store(self, anchors: AnchorStore) -> None:
        """It has both methods of the interface."""
        assert isinstance(anchors, AnchorStore)

    def test_nothing_there(self, anchors: AnchorStore, dataset_id: bytes) -> None:
        """What was never created is ``None``."""
        assert anchors.read_anchor(dataset_id, 0) is None
        assert anchors.read_anchor(dataset_id, 7) is None

    def test_create_and_read(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes) -> None:
        """An entry is read as it was created, by every client, with the time of its creation."""
        entry = anchors.create_anchor(dataset_id, 0, b"link")
        assert (entry.sequence, entry.link) == (0, b"link")
        assert entry.created.utcoffset() is not None
        assert abs(entry.created - datetime.now(UTC)) < self.clock_tolerance
        assert anchors.read_anchor(dataset_id, 0) == entry
        assert other.read_anchor(dataset_id, 0) == entry

    @pytest.mark.parametrize("link", [b"same", b"different", b"x" * 5000])
    def test_create_only(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes, link: bytes) -> None:
        """Nothing overwrites an entry, not even with the same value, from no client."""
        entry = anchors.create_anchor(dataset_id, 3, b"same")
        for client in (anchors, other):
            with pytest.raises(AnchorTaken):
                client.create_anchor(dataset_id, 3, link)
        assert anchors.read_anchor(dataset_id, 3) == entry

    @pytest.mark.parametrize("size", [1, 500, 4096, MAX_LINK_SIZE])
    def test_any_bytes(self, anchors: AnchorStore, dataset_id: bytes, size: int) -> None:
        """Links of 1 byte to 64 KiB, of any bytes, come back unchanged."""
        link = secrets.token_bytes(size)
        anchors.create_anchor(dataset_id, 0, link)
        assert link_at(anchors, dataset_id, 0) == link

    @pytest.mark.parametrize("link", [b"\n", b"\0", b" {} \r\n\n", bytes(range(256))])
    def test_awkward_bytes(self, anchors: AnchorStore, dataset_id: bytes, link: bytes) -> None:
        """Line ends, zero bytes and bytes that are no text come back unchanged."""
        anchors.create_anchor(dataset_id, 0, link)
        assert link_at(anchors, dataset_id, 0) == link

    @pytest.mark.parametrize("size", [0, MAX_LINK_SIZE + 1])
    def test_link_out_of_bounds(self, anchors: AnchorStore, dataset_id: bytes, size: int) -> None:
        """An empty link, or one beyond 64 KiB, is refused, and takes no place."""
        with pytest.raises(InvalidInput):
            anchors.create_anchor(dataset_id, 0, bytes(size))
        assert anchors.read_anchor(dataset_id, 0) is None

    @pytest.mark.parametrize("sequence", [0, 1, 9, 10, 2**32, 2**53 - 1])
    def test_sequence_numbers(self, anchors: AnchorStore, dataset_id: bytes, sequence: int) -> None:
        """Numbers up to 2^53 - 1 are places of their own: neighbours stay empty."""
        anchors.create_anchor(dataset_id, sequence, b"link")
        assert link_at(anchors, dataset_id, sequence) == b"link"
        for neighbour in {0, 1, max(0, sequence - 1), min(2**53 - 1, sequence + 1)} - {sequence}:
            assert anchors.read_anchor(dataset_id, neighbour) is None

    @pytest.mark.parametrize("place", [(b"", 0), (b"x" * 15, 0), (b"x" * 17, 0), (b"x" * 16, -1), (b"x" * 16, 2**53)])
    def test_no_such_place(self, anchors: AnchorStore, place: tuple[bytes, int]) -> None:
        """Dataset ids of another length and sequence numbers out of bounds are refused."""
        with pytest.raises(InvalidInput):
            anchors.create_anchor(*place, b"link")
        with pytest.raises(InvalidInput):
            anchors.read_anchor(*place)

    def test_datasets_are_apart(self, anchors: AnchorStore, dataset_id: bytes) -> None:
        """The same number in another dataset is another entry."""
        neighbour = bytes([dataset_id[0] ^ 1]) + dataset_id[1:]
        anchors.create_anchor(dataset_id, 0, b"one")
        assert anchors.read_anchor(neighbour, 0) is None
        anchors.create_anchor(neighbour, 0, b"two")
        assert link_at(anchors, dataset_id, 0) == b"one"
        assert link_at(anchors, neighbour, 0) == b"two"

    def test_never_none_after_create(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes) -> None:
        """Once a create has returned, no client reads ``None`` any more."""
        for sequence in range(30):
            anchors.create_anchor(dataset_id, sequence, b"link %d" % sequence)
            assert link_at(other, dataset_id, sequence) == b"link %d" % sequence

    def test_never_none_after_taken(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes) -> None:
        """Whoever hears that an entry is taken can read it."""

        def run(number: int) -> AnchorEntry | None:
            client = (anchors, other)[number % 2]
            try:
                return client.create_anchor(dataset_id, 0, b"link %d" % number)
            except AnchorTaken:
                return client.read_anchor(dataset_id, 0)

        outcomes = race(8, run)
        assert isinstance(outcomes[0], AnchorEntry)
        assert outcomes == outcomes[:1] * 8

    def test_race(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes) -> None:
        """Of eight that create one entry at once, exactly one does, and its link is what stays."""
        for sequence in range(8):

            def run(number: int, sequence: int = sequence) -> AnchorEntry:
                return (anchors, other)[number % 2].create_anchor(dataset_id, sequence, b"link %d" % number * 200)

            outcomes = race(8, run)
            winners = [outcome for outcome in outcomes if isinstance(outcome, AnchorEntry)]
            assert len(winners) == 1
            assert sum(isinstance(outcome, AnchorTaken) for outcome in outcomes) == 7
            assert anchors.read_anchor(dataset_id, sequence) == other.read_anchor(dataset_id, sequence) == winners[0]

    def test_readers_see_all_or_nothing(self, anchors: AnchorStore, other: AnchorStore, dataset_id: bytes) -> None:
        """While an entry is created, a reader sees none or the whole."""
        link = secrets.token_bytes(MAX_LINK_SIZE)
        done = threading.Event()

        def run(number: int) -> set[bool]:
            if number == 0:
                for sequence in range(10):
                    anchors.create_anchor(dataset_id, sequence, link)
                done.set()
                return set()
            seen = set()
            sequence = 0
            while sequence < 10 and not (done.is_set() and other.read_anchor(dataset_id, sequence) is None):
                entry = other.read_anchor(dataset_id, sequence)
                if entry is not None:
                    seen.add(entry.link == link)
                    sequence += 1
            return seen

        assert race(3, run)[1:] == [{True}, {True}]


def link_at(anchors: AnchorStore, dataset_id: bytes, sequence: int) -> bytes:
    """The link of an entry that must be there."""
    entry = anchors.read_anchor(dataset_id, sequence)
    assert entry is not None
    assert entry.sequence == sequence
    return entry.link
