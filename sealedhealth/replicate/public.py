"""The public part of a dataset's log, read from a store by somebody who holds no key.

The chain starts at the dataset id: descriptor, links by their numbers, signatures and roster,
change sets by digest.  What the newest commit is only the key service's anchors say; without
them the store's own copies of the links are read, and the store may hold the newest ones back.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sealedhealth.errors import IntegrityError, MissingError, NotFound, TamperedError
from sealedhealth.keys.base import AnchorEntry, AnchorStore
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.checkpoint import MANIFEST_LIMIT, Manifest
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import DESCRIPTOR_SIZE, LINK_LIMIT, ChangeRef, CheckpointRef, Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, checkpoint_name, link_name, object_name
from sealedhealth.log.replay import Log
from sealedhealth.log.roster import Role
from sealedhealth.log.state import Accepted, LogState, Refusal, VoidLink
from sealedhealth.log.voids import VoidRange
from sealedhealth.replicate.claims import Claim, Claims
from sealedhealth.stores import Location, ObjectStore

__all__ = ["Expected", "Files", "Problem", "PublicLog", "PublicStep", "is_unfinished", "no_dataset"]

_WINDOW = 256  #: copies of links fetched at once
_AHEAD = 8  #: numbers looked for after the last one listed: a listing may lag behind
_PREFETCH = 16 << 20  #: bytes of change sets fetched ahead of their links
_ON_ITS_WAY = timedelta(minutes=1)  #: a commit this young may have an anchor and no copy on the store yet
_LINK = re.compile(r"\.sealedhealth/log/(\d{12,15})")
_CHECKPOINTS = ".sealedhealth/checkpoints/"
_OBJECT = re.compile(r"objects/([0-9a-f]{2})/([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the log needs and the store does not have as it was signed."""

    name: str  #: of the file on the store
    what: str
    missing: bool = False  #: whether it is absent, rather than other than it should be


@dataclass(frozen=True, slots=True)
class Expected:
    """What a file of the store has to be."""

    size: int  #: bytes on the store
    kind: str  #: "descriptor", "link", "change", "checkpoint", "segment" or "object"
    digest: bytes | None = None  #: SHA-384 of the whole file, or else
    root: bytes | None = None  #: the signed root of a sealed object
    others: tuple[Expected, ...] = ()  #: what other change sets say of the same object: one of them has to be right

    def fits(self, size: int) -> bool:
        """Whether the file may have this size."""
        return size == self.size or any(size == other.size for other in self.others)


@dataclass(frozen=True, slots=True)
class PublicStep:
    """One valid commit, as far as it is public."""

    sequence: int
    digest: bytes  #: SHA-384 of the link
    author_id: bytes
    time_us: int  #: by its author's clock
    location: Location | None = None  #: where its (first) change set says that it was written
    changes: int = 1


class Files(Mapping[str, Expected]):
    """Every file of the store that the log needs, by name; objects are kept by columns and made when asked for."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.fixed: dict[str, Expected] = {}  #: everything but objects

    def __getitem__(self, name: str) -> Expected:
        found = self.fixed.get(name)
        if found is not None:
            return found
        object_id = object_id_of(name)
        claims = self.claims.find(object_id) if object_id is not None else []
        if not claims:
            raise KeyError(name)
        return expected_object(claims)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        yield from self.fixed
        for object_id, _ in self.claims:
            yield object_name(object_id)

    def __len__(self) -> int:
        return len(self.fixed) + self.claims.needed

    def objects(self) -> Iterator[tuple[str, Expected]]:
        """Every needed object, sorted by name: faster than asking one by one."""
        for object_id, claims in self.claims:
            yield object_name(object_id), expected_object(claims)


@dataclass(slots=True)
class PublicLog:
    """What the public part of the log says; see :meth:`read`."""

    dataset_id: bytes
    descriptor: bytes  #: the file
    state: LogState  #: after the last commit whose change sets are all there
    anchored: bool  #: whether the key service said which commit is the newest
    files: Files
    known: Container[str]  #: names that the log ever named: what is on the store and not in here is not the log's
    steps: list[PublicStep] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    links: dict[int, bytes] = field(default_factory=dict, repr=False)  #: valid links up to the head, for movers
    origins: list[tuple[int, bytes]] = field(default_factory=list, repr=False)  #: commit and author of each claim

    @classmethod
    def read(
        cls,
        store: ObjectStore,
        dataset_id: bytes,
        *,
        anchors: AnchorStore | None = None,
        head: tuple[int, bytes] | None = None,
    ) -> PublicLog:
        """Read and check everything public, from the dataset id down.

        What is wrong with single files is collected in :attr:`problems`, and the rest goes on.

        Parameters
        ----------
        dataset_id:
            From the key service's registry or from somebody who knows; never from the store.
        anchors:
            Say which commit is the newest. Without them the store's word is taken for that, and for nothing else.
        head:
            A commit that somebody saw: its number and the SHA-384 of its link.

        Raises
        ------
        NotFound
            There is no dataset here.
        MissingError
            There is a dataset without its descriptor: a copy that is not finished.
        DatasetMismatch
            Another dataset is here.
        TamperedError, MalformedError, UnsupportedFormat
            The descriptor is not what the root key signed: nothing can be checked.
        """
        reader = _Reader(store, dataset_id, anchors)
        public = reader.read(head)
        if reader.voids:
            # Commits were taken back, and that was read only after them: once more, with that in mind.
            public = _Reader(store, dataset_id, anchors, reader.voids).read(head)
        return public

    @property
    def sequence(self) -> int:
        """Number of the last commit; -1 when there is none."""
        return self.state.head_sequence

    @property
    def head(self) -> bytes:
        """SHA-384 of its link."""
        return self.state.head

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Void links, and change sets that had no effect."""
        return self.state.refusals

    @property
    def whole(self) -> bool:
        """Whether every commit could be followed."""
        return not self.steps or self.steps[-1].sequence == self.sequence

    def disputed(self) -> Iterator[tuple[str, list[Claim]]]:
        """Objects of which change sets say different things: at most one of them is right."""
        for object_id, claims in self.files.claims:
            if len(claims) > 1:
                yield object_name(object_id), claims


class _Known(Container[str]):
    """Names that the log ever named; older checkpoints are read when somebody asks for one of their names."""

    def __init__(self, store: ObjectStore, files: Files) -> None:
        self._store = store
        self._files = files
        self.names: set[str] = set()
        self.older: dict[bytes, CheckpointRef] = {}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name in self.names or name in self._files.fixed:
            return True
        if name.startswith(_CHECKPOINTS) and self.older:
            self._read_older()
            return name in self.names
        object_id = object_id_of(name)
        return object_id is not None and object_id in self._files.claims

    def _read_older(self) -> None:
        refs = {checkpoint_name(ref.checkpoint_id): ref for ref in self.older.values()}
        self.older = {}
        for name, ref in refs.items():
            raw = fetch(self._store, [name], min(ref.size, MANIFEST_LIMIT)).get(name)
            # Who may make checkpoints signed this digest into a link.
            if isinstance(raw, bytes) and file_digest(raw) == ref.digest:
                with suppress(IntegrityError):
                    manifest = Manifest.read(Manifest.split(raw))
                    self.names |= {checkpoint_name(part.object_id) for part in manifest.segments}


class _Copies:
    """The store's copies of the links in the place of anchors, for what looks at single ones."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:  # noqa: ARG002 - the protocol's
        name = link_name(sequence)
        raw = self._store.get_many([name], limit=LINK_LIMIT, missing_ok=True).get(name)
        return None if raw is None else AnchorEntry(sequence, raw, datetime.fromtimestamp(0, UTC))

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        raise NotImplementedError


class _Reader:
    """Reads a log once."""

    def __init__(
        self,
        store: ObjectStore,
        dataset_id: bytes,
        anchors: AnchorStore | None,
        voids: frozenset[VoidRange] = frozenset(),
    ) -> None:
        self._store = store
        self._anchors = anchors
        try:
            self._log = Log(store, anchors or _Copies(store), dataset_id)
            descriptor = store.get(DESCRIPTOR_NAME, limit=DESCRIPTOR_SIZE)
        except MissingError:
            raise no_dataset(store) from None
        self._log.voids |= voids
        self._claims = Claims()
        files = Files(self._claims)
        self._known = _Known(store, files)
        self._state = (
            self._log.start()
        )  #: where the replay is; the public log's stays behind when a commit is not whole
        self.public = PublicLog(
            dataset_id=dataset_id,
            descriptor=descriptor,
            state=self._state,
            anchored=anchors is not None,
            files=files,
            known=self._known,
        )
        files.fixed[DESCRIPTOR_NAME] = Expected(len(descriptor), "descriptor", file_digest(descriptor))
        self._waiting: list[tuple[int, str, bytes]] = []  #: links that count for nothing, until a valid one follows
        self._hints: dict[bytes, CheckpointRef] = {}  #: what each author said last of checkpoints
        self._hinted: dict[bytes, int] = {}

    @property
    def voids(self) -> frozenset[VoidRange]:
        """What the root key takes back, as far as was read."""
        return self._log.voids

    def read(self, head: tuple[int, bytes] | None) -> PublicLog:
        public = self.public
        windows = self._copies() if self._anchors is None else self._anchored()
        for window in windows:
            self._follow(window)
        if self._anchors is None:
            self._explain_waiting()
            self._state.sequence = self._state.head_sequence  # behind it the store may say what it likes
        public.state.sequence = max(public.state.sequence, public.state.head_sequence)
        self._claims.settle(self._state.destroyed)
        self._find_checkpoint()
        if head is not None:
            self._check_head(*head)
        if public.sequence < 0 and not public.problems:
            self._problem(link_name(0), "there is no commit", missing=True)
        return public

    def _problem(self, name: str, what: str, *, missing: bool = False) -> None:
        self.public.problems.append(Problem(name, what, missing))

    # -- links ----------------------------------------------------------------------------

    def _copies(self) -> Iterator[list[AnchorEntry]]:
        """The store's copies of links in order, some at a time."""
        there = sorted(
            {int(found[1]) for name, _ in self._store.list(".sealedhealth/log") if (found := _LINK.fullmatch(name))}
        )
        there += range(there[-1] + 1 if there else 0, (there[-1] + 1 if there else 0) + _AHEAD)
        epoch = datetime.fromtimestamp(0, UTC)
        for start in range(0, len(there), _WINDOW):
            numbers = there[start : start + _WINDOW]
            names = {link_name(number): number for number in numbers}
            copies = fetch(self._store, list(names), LINK_LIMIT)
            window = []
            for name, number in names.items():
                raw = copies.get(name)
                if isinstance(raw, bytes):
                    window.append(AnchorEntry(number, raw, epoch))
                elif raw is not None:
                    self._waiting.append((number, raw.what, b""))
            yield window

    def _anchored(self) -> Iterator[list[AnchorEntry]]:
        """The anchors in order, some at a time; the store's copies are compared with them."""
        entries = self._log.anchors_from(0)
        young = datetime.now(UTC) - _ON_ITS_WAY
        for start in range(0, len(entries), _WINDOW):
            window = entries[start : start + _WINDOW]
            yield window
            names = [link_name(entry.sequence) for entry in window if entry.sequence in self.public.links]
            found = fetch(self._store, names, LINK_LIMIT)
            for entry in window:
                name = link_name(entry.sequence)
                raw = found.get(name)
                if entry.sequence not in self.public.links or raw == entry.link:
                    continue
                if raw is not None:
                    self._problem(name, "it is not the link that is anchored")
                elif entry.created < young:
                    self._problem(name, "the store has no copy of this anchored link", missing=True)

    def _follow(self, window: Sequence[AnchorEntry]) -> None:
        self._log.learn(window)
        fetched: dict[bytes, bytes] = {}
        ahead = 0  # entries from here on have not been looked at for what they name
        for index, entry in enumerate(window):
            if index == ahead:
                fetched, ahead = self._prefetch(window, index)
            self._take(entry, fetched)

    def _prefetch(self, window: Sequence[AnchorEntry], first: int) -> tuple[dict[bytes, bytes], int]:
        """The small change sets that the next links name, in one go; whether a link counts is decided later."""
        names: dict[str, bytes] = {}
        total, largest = 0, 0
        for index in range(first, len(window)):
            try:
                link = Link.read(Link.split(window[index].link))
            except IntegrityError:
                continue
            size = sum(ref.size for ref in link.changes)
            if size > _PREFETCH:
                continue
            total += size
            if names and total > _PREFETCH:
                return self._files(names, largest), index
            names |= {change_name(ref.change_id): ref.change_id for ref in link.changes}
            largest = max(largest, *(ref.size for ref in link.changes))
        return self._files(names, largest), len(window)

    def _files(self, names: Mapping[str, bytes], largest: int) -> dict[bytes, bytes]:
        found = fetch(self._store, list(names), largest)
        return {names[name]: data for name, data in found.items() if isinstance(data, bytes)}

    def _take(self, entry: AnchorEntry, fetched: dict[bytes, bytes]) -> None:
        """Replay one link."""
        state = self._state
        state.sequence = entry.sequence - 1  # numbers without a copy are void, or missed by those that follow
        self._known.names.add(link_name(entry.sequence))
        reason = self._log.taken_back(state, entry.sequence)
        if reason:
            state.skip(entry.sequence, reason)
            return
        try:
            link = state.check_link(entry.sequence, entry.link)
        except VoidLink as void:
            if self._anchors is None:
                self._waiting.append((entry.sequence, void.what, entry.link))
                state.sequence = entry.sequence
            else:
                state.skip(entry.sequence, void.what)
            return
        for sequence, reason, _ in self._waiting:
            state.refusals = (*state.refusals, Refusal(sequence, reason))
        self._waiting.clear()
        files: dict[bytes, bytes] = {}
        for ref in link.changes:
            raw = fetched.pop(ref.change_id, None)
            files |= self._checked(link, ref, raw)
        public = self.public
        if len(files) < len(link.changes) and public.state is state:
            public.state = state.copy()
            public.state.sequence = entry.sequence - 1
        # What is left of a commit that is not whole still shows what else the store should have.
        left = replace(link, changes=tuple(ref for ref in link.changes if ref.change_id in files))
        accepted = state.advance(left, entry.link, files)
        digest = state.head
        if public.state is state:
            public.links[entry.sequence] = entry.link
        self._expect(link_name(entry.sequence), Expected(len(entry.link), "link", digest))
        if state.checkpoint is not None:
            self._known.names.add(checkpoint_name(state.checkpoint.checkpoint_id))
            self._known.older[state.checkpoint.checkpoint_id] = state.checkpoint
        location = next((one.change.location for one in accepted), None)
        public.steps.append(
            PublicStep(entry.sequence, digest, link.author_id, link.time_us, location, len(link.changes))
        )
        for one in accepted:
            self._note(one)
        if link.checkpoint is not None:
            self._hints[link.author_id], self._hinted[link.author_id] = link.checkpoint, entry.sequence

    def _checked(self, link: Link, ref: ChangeRef, raw: bytes | None) -> dict[bytes, bytes]:
        """The change set's file, if the store has it as it was signed."""
        name = change_name(ref.change_id)
        self._expect(name, Expected(ref.size, "change", ref.digest))
        if raw is None or len(raw) != ref.size or file_digest(raw) != ref.digest:
            again = fetch(self._store, [name], ref.size).get(name)
            if again is None:
                self._problem(name, f"the change set of commit {link.sequence} is missing", missing=True)
                return {}
            if not isinstance(again, bytes) or len(again) != ref.size or file_digest(again) != ref.digest:
                self._problem(name, f"it is not the change set that commit {link.sequence} names")
                return {}
            raw = again
        return {ref.change_id: raw}

    def _expect(self, name: str, expected: Expected) -> None:
        self.public.files.fixed[name] = expected

    def _note(self, accepted: Accepted) -> None:
        """Keep of a change set what is needed later: its objects."""
        change = accepted.change
        if change.kind is ChangeKind.COLLECT:
            self._claims.collect(change.collected)
        if len(change.inventory):
            origin = len(self.public.origins)
            self.public.origins.append((accepted.sequence, change.author_id))
            inventory = change.inventory
            keys = [change.data_key_of(index)[0] for index in range(len(inventory))]
            self._claims.add(origin, inventory.object_ids, inventory.roots, inventory.sizes, keys)

    # -- what is left at the end --------------------------------------------------------------

    def _explain_waiting(self) -> None:
        """Copies after the last valid link: without anchors they may be anybody's, or show that one is missing."""
        if self.public.state is not self._state:
            return  # a commit that is not whole explains why those after it cannot be followed
        head = self._state.head_sequence
        for number, reason, raw in self._waiting:
            trial = self._state.copy()
            trial.sequence = number - 1
            try:
                trial.head = Link.read(Link.split(raw)).parent
                trial.check_link(number, raw)
            except IntegrityError:
                self._problem(
                    link_name(number),
                    f"it follows the last commit that can be checked ({head}) and counts for nothing: {reason}"
                    " Either somebody wasted this number, or the host altered a link",
                )
                continue
            gap = f"{head + 1}" if number == head + 2 else f"{head + 1} to {number - 1}"
            if number > head + 1:
                self._problem(
                    link_name(head + 1),
                    f"commit {number} is there and does not follow commit {head}: the link of commit {gap} is missing"
                    " or altered",
                    missing=True,
                )
            else:
                self._problem(link_name(number), f"commit {number} does not follow commit {head}: two histories")
            return  # those behind it follow from it, or not, just the same

    def _find_checkpoint(self) -> None:
        """The newest checkpoint that clients of today's roster would open."""
        policy = self._state.policy
        if policy is None:
            return
        trusted = [
            (self._hinted[author_id], hint)
            for author_id, hint in self._hints.items()
            if author_id == ROOT_AUTHOR
            or ((author := policy.authors.get(author_id)) is not None and author.may(Role.CURATOR))
        ]
        if not trusted:
            return
        _, hint = max(trusted, key=lambda item: item[0])
        name = checkpoint_name(hint.checkpoint_id)
        self._expect(name, Expected(hint.size, "checkpoint", hint.digest))
        if hint.size > MANIFEST_LIMIT:
            self._problem(name, "the newest checkpoint is larger than any may be")
            return
        try:
            manifest, _ = self._log.checkpoint(hint, policy)
            self._check_bound(manifest)
        except MissingError:
            self._problem(name, "the newest checkpoint is missing", missing=True)
            return
        except IntegrityError as error:
            self._problem(name, f"the newest checkpoint does not verify: {error.what}")
            return
        for ref in manifest.segments:
            self._expect(checkpoint_name(ref.object_id), Expected(ref.size, "segment", root=ref.root))

    def _check_bound(self, manifest: Manifest) -> None:
        digests = {step.sequence: step.digest for step in self.public.steps}
        if digests.get(manifest.sequence) != manifest.link:
            raise TamperedError("It is bound to a link that is not a part of this log.")

    def _check_head(self, sequence: int, digest: bytes) -> None:
        """Compare with what somebody saw."""
        found = next((step.digest for step in reversed(self.public.steps) if step.sequence == sequence), None)
        found = found or next((file_digest(raw) for number, _, raw in self._waiting if number == sequence), None)
        if found == digest:
            return
        name = link_name(sequence)
        if found is None and sequence > self._state.sequence:
            self._problem(
                name,
                f"commit {sequence} has been seen, and the log of this store ends with commit {self._state.sequence}:"
                " the host holds the newest links back, or this is an old copy",
                missing=True,
            )
        elif found is not None or not any(refusal.sequence == sequence for refusal in self._state.refusals):
            self._problem(name, f"commit {sequence} is not the one that has been seen: two histories exist")


def object_id_of(name: str) -> bytes | None:
    """The id of an object from its name on the store; ``None`` for everything else."""
    found = _OBJECT.fullmatch(name)
    return bytes.fromhex(found[2]) if found and found[2].startswith(found[1]) else None


def expected_object(claims: Sequence[Claim]) -> Expected:
    """What an object has to be, by what change sets say of it."""
    first, *rest = (Expected(claim.size, "object", root=claim.root) for claim in claims)
    return replace(first, others=tuple(rest)) if rest else first


def fetch(store: ObjectStore, names: Sequence[str], limit: int) -> dict[str, bytes | IntegrityError]:
    """Files that may each be missing (left out) or larger than *limit* bytes (an error in its place)."""
    if not names:
        return {}
    try:
        return dict(store.get_many(names, limit=limit, missing_ok=True))
    except IntegrityError as error:
        if len(names) == 1:
            return {names[0]: error}
    middle = len(names) // 2
    return {**fetch(store, names[:middle], limit), **fetch(store, names[middle:], limit)}


def is_unfinished(store: ObjectStore) -> bool:
    """Whether a place without a descriptor holds files of a dataset all the same: a copy that is not finished."""
    places = (".sealedhealth/changes", ".sealedhealth/log", "objects")
    return any(next(iter(store.list(place)), None) is not None for place in places)


def no_dataset(store: ObjectStore) -> NotFound | MissingError:
    """The error for a place without a descriptor: says whether a copy is under way there."""
    if is_unfinished(store):
        return MissingError(
            f"{store.url} holds files of a dataset and no descriptor ({DESCRIPTOR_NAME}): a copy is under way or was"
            " interrupted.",
            safe="Nothing was read from it; the place it is copied from is untouched.",
            next="Run `sealedhealth replicate` again: it goes on where it stopped. If nobody copies, the descriptor was"
            " deleted: restore it from another copy.",
        )
    return NotFound(f"There is no dataset at {store.url}.", next="Check the URL and the store's options.")
