"""The destination of a copy: what is there already, and whether it may be added to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

from sealedhealth.errors import (
    AlreadyExists,
    AnchorRolledBack,
    DatasetMismatch,
    IntegrityError,
    InvalidInput,
    RolledBack,
    TamperedError,
)
from sealedhealth.log.envelope import ROOT_AUTHOR, verify_envelope
from sealedhealth.log.link import DESCRIPTOR_SIZE, LINK_LIMIT, Descriptor, Link
from sealedhealth.log.names import DESCRIPTOR_NAME, link_name, object_name
from sealedhealth.replicate.claims import Claims
from sealedhealth.replicate.public import Expected, PublicLog, expected_object, fetch
from sealedhealth.stores import ObjectStore

__all__ = ["Listed", "Target", "refuse_same_place"]

Listed: TypeAlias = "tuple[str, Expected, int | None]"  #: a file, what it has to be, and its size if it is there

_LINK = re.compile(r"\.sealedhealth/log/(\d{12,15})")
_WINDOW = 256
#: With more objects than this the host is asked for one two-digit folder after the other: an answer stays small.
LISTED_WHOLE = 20_000
_LISTINGS = 8

_UNCHANGED = "Nothing was copied: both places are unchanged."


class Target:
    """What the destination has, compared with the source's log."""

    def __init__(self, store: ObjectStore, public: PublicLog) -> None:
        self.store = store
        self._public = public
        self.published = False  #: whether its descriptor is there: readers take it for a whole dataset
        self.links: dict[int, int] = {}  #: numbers of the copies of links that are there, and their sizes

    def look(self) -> None:
        """Find out what is there.

        Raises
        ------
        DatasetMismatch, AlreadyExists, TamperedError
            Something else is there.
        RolledBack
            Another history of the same dataset is there, or a longer one.
        """
        self._check_descriptor()
        for name, size in self.store.list(".sealedhealth/log"):
            if found := _LINK.fullmatch(name):
                self.links[int(found[1])] = size
        if not self.published:
            known = self._public.files
            strange = next((name for name, _ in self.store.list(".sealedhealth/changes") if name not in known), None)
            if strange is not None:
                raise AlreadyExists(
                    f"{self.store.url} holds files of something else, such as {strange}.",
                    safe=_UNCHANGED,
                    next="Choose an empty place, or remove what is there if nobody needs it.",
                )
        self._check_links()

    def _check_descriptor(self) -> None:
        raw = fetch(self.store, [DESCRIPTOR_NAME], DESCRIPTOR_SIZE).get(DESCRIPTOR_NAME)
        if raw == self._public.descriptor:
            self.published = True
        elif raw is not None:
            place = self.store.url
            try:
                if isinstance(raw, IntegrityError):
                    raise raw
                Descriptor.load(raw, dataset_id=self._public.dataset_id)
            except DatasetMismatch as error:
                raise DatasetMismatch(
                    f"Another dataset is at the destination {place}: {error.what}",
                    safe=_UNCHANGED,
                    next="Choose an empty place.",
                ) from None
            except IntegrityError as error:
                raise TamperedError(
                    f"The descriptor at the destination {place} is none: {error.what}",
                    safe=_UNCHANGED,
                    next=f"If nobody needs what is there, delete {DESCRIPTOR_NAME} there and run this again.",
                ) from None
            raise RolledBack(
                f"The destination {place} has another descriptor of the same dataset.",
                safe=_UNCHANGED,
                next="Ask the data controller which one is genuine.",
            )

    # -- links ------------------------------------------------------------------------------

    def _check_links(self) -> None:
        """Refuse a destination whose log is not a beginning of the source's."""
        links = self._public.links
        both = sorted(self.links.keys() & links.keys())
        # Each link names the one before it by digest: when the newest is the same, so are all that count.
        if both and self._copies(both[-1:]).get(both[-1]) != links[both[-1]]:
            for start in range(0, len(both), _WINDOW):
                for number, raw in self._copies(both[start : start + _WINDOW]).items():
                    if raw != links[number]:
                        self.links.pop(number)  # to be written again
                        if self._is_signed(number, raw):
                            raise self._diverging(number)
        beyond = sorted(number for number in self.links if number > self._public.sequence)
        for start in range(0, len(beyond), _WINDOW):
            for number, raw in self._copies(beyond[start : start + _WINDOW]).items():
                if self._is_signed(number, raw):
                    raise self._ahead(number)

    def _copies(self, numbers: list[int]) -> dict[int, bytes]:
        names = {link_name(number): number for number in numbers}
        found = fetch(self.store, list(names), LINK_LIMIT)
        return {names[name]: raw if isinstance(raw, bytes) else b"" for name, raw in found.items()}

    def _is_signed(self, number: int, raw: bytes) -> bool:
        """Whether somebody who is, or was, on the roster signed this link for this number of this dataset."""
        state = self._public.state
        try:
            envelope = Link.split(raw)
            key = state.root_key
            if envelope.author_id != ROOT_AUTHOR:
                author = state.policy.authors.get(envelope.author_id) if state.policy else None
                if author is None:
                    return False
                key = author.public_key
            verify_envelope(envelope, key)
            link = Link.read(envelope)
        except IntegrityError:
            return False
        return link.dataset_id == state.dataset_id and link.sequence == number

    def _diverging(self, number: int) -> RolledBack:
        what = f"Source and destination have different commits {number}: two histories exist."
        following = "Ask the data controller which one is genuine; with a profile that reads the anchors this says it."
        if self._public.anchored:
            what += f" The source's is the one that the key service has; {self.store.url} is wrong."
            following = "Do not read from the destination; copy to an empty place."
        return RolledBack(what, safe=_UNCHANGED, next=following)

    def _ahead(self, number: int) -> RolledBack:
        last = self._public.sequence
        if self._public.anchored:
            return AnchorRolledBack(
                f"The destination {self.store.url} has commit {number}, and the key service's anchors end with {last}.",
                safe=_UNCHANGED,
                next="If the key service was restored from an old backup, see 'Back up the keystore' in the"
                " documentation; if not, the destination is forged.",
            )
        return RolledBack(
            f"The destination {self.store.url} has commit {number}, and the source ends with commit {last}.",
            safe=_UNCHANGED,
            next="The source holds the newest commits back, or is the older copy: did you mean to copy the other way?"
            " With a profile that reads the anchors, they decide.",
        )

    def copied_links(self) -> list[int]:
        """Numbers of the source's links that the destination lacks, in order."""
        links = self._public.links
        return [number for number in sorted(links) if self.links.get(number) != len(links[number])]

    # -- everything else ----------------------------------------------------------------------

    def fixed(self, kind: str) -> Iterator[Listed]:
        """The files of one kind, and the sizes of those that are there."""
        wanted = {name: expected for name, expected in self._public.files.fixed.items() if expected.kind == kind}
        if not wanted:
            return
        there = self._sizes(next(iter(wanted)).rpartition("/")[0], wanted)
        for name, expected in wanted.items():
            yield name, expected, there.get(name)

    def objects(self) -> Iterator[Listed]:
        """Every object that is needed, and the sizes of those that are there."""
        claims = self._public.files.claims
        if claims.needed <= LISTED_WHOLE:
            wanted = {object_name(object_id): expected_object(found) for object_id, found in claims}
            there = self._sizes("objects", wanted)
            for name, expected in wanted.items():
                yield name, expected, there.get(name)
            return
        with ThreadPoolExecutor(_LISTINGS, thread_name_prefix="sealedhealth-list") as pool:
            for start in range(0, 256, _LISTINGS):
                for found in pool.map(partial(self._place, claims), range(start, start + _LISTINGS)):
                    yield from found

    def _place(self, claims: Claims, first: int) -> list[Listed]:
        wanted = {object_name(object_id): expected_object(found) for object_id, found in claims.place(first)}
        there = self._sizes(f"objects/{first:02x}", wanted) if wanted else {}
        return [(name, expected, there.get(name)) for name, expected in wanted.items()]

    def _sizes(self, place: str, wanted: Mapping[str, Expected]) -> dict[str, int]:
        return {name: size for name, size in self.store.list(place) if name in wanted}


def refuse_same_place(source: ObjectStore, target: ObjectStore) -> None:
    """Raise ``InvalidInput`` when one is the other, or lies inside it."""
    one, other = source.url.rstrip("/"), target.url.rstrip("/")
    if source.location.endpoint != target.location.endpoint:
        return  # buckets may have the same name on two hosts
    if one == other:
        what = f"Source and destination are the same place: {one}."
    elif f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
        what = f"{one} and {other} lie inside one another."
    else:
        return
    raise InvalidInput(what, safe="Nothing was copied.", next="Name two separate places.")
