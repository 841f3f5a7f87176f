"""One dataset under one profile in this process: the newest state, shared by every session."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sealedhealth.errors import (
    AccessDenied,
    IntegrityError,
    KeyDestroyed,
    KeyMissing,
    KeyRetired,
    MissingError,
    NotFound,
    RolledBack,
    RosterViolation,
    SnapshotCollected,
    WrongPassphrase,
)
from sealedhealth.keys.base import AnchorEntry, AuthorKey, DataKey, Kek, PolicyRef, WrappedKey
from sealedhealth.keys.keyring import Keyring
from sealedhealth.log.content import ContentState
from sealedhealth.log.freshness import check_seen, check_still_anchored, check_store_not_ahead
from sealedhealth.log.link import Link, file_digest
from sealedhealth.log.reading import apply_content, load_content
from sealedhealth.log.replay import Log, LogStep, Rewound
from sealedhealth.log.roster import Author, Policy
from sealedhealth.log.state import LogState
from sealedhealth.profiles import KeyContext, Profile, connect
from sealedhealth.replicate.public import is_unfinished, no_dataset
from sealedhealth.session.commit import CommitQueue
from sealedhealth.session.destroyed import refuse_destroyed
from sealedhealth.session.pacing import Pace
from sealedhealth.session.seen import Seen
from sealedhealth.session.snapshot import Snapshot
from sealedhealth.session.urls import lookup
from sealedhealth.stores import Location, ObjectStore

__all__ = ["Engine", "Loaded", "root_key_name"]

_engines: dict[tuple[str, str], Engine] = {}
_engines_lock = threading.Lock()


def _forget_after_fork() -> None:
    """A forked child opens everything anew: connections and locks are not shared with the parent."""
    global _engines_lock
    _engines_lock = threading.Lock()
    _engines.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


@dataclass(slots=True)
class Loaded:
    """A state and what this identity can read of it."""

    state: LogState
    contents: dict[bytes, ContentState] | None
    time: datetime
    tail: int  #: commits replayed after the checkpoint
    tail_bytes: int  #: size of their change sets
    checkpoint_bytes: int  #: size of the checkpoint's segments

    def snapshot(self) -> Snapshot:
        """As a snapshot."""
        return Snapshot(self.state.sequence, self.state.head, self.time, self.contents)


class Engine:
    """The shared side of a dataset: store, key service, keyring, and the newest state seen.

    Every :class:`~sealedhealth.session.Session` is a view over one engine.
    """

    def __init__(self, url: str, profile: Profile, context: KeyContext, store: ObjectStore, dataset_id: bytes) -> None:
        self.url = url
        self.profile = profile
        self.context = context
        self.store = store
        self.dataset_id = dataset_id
        self.keyring = Keyring(context.service)
        self.log = Log(store, context.anchors, dataset_id)
        self.lock = threading.RLock()
        self.seen = Seen(profile.state, dataset_id)
        self.queue = CommitQueue(self)
        self.pace = Pace()
        self.healed = -1  #: newest link that is known to be on the store
        self._loaded: Loaded | None = None

    @classmethod
    def get(cls, url: str, profile: Profile, dataset_id: bytes | None = None) -> Engine:
        """The engine of a root URL under a profile; one per process.

        Raises
        ------
        NotFound
            The key service knows no dataset at this URL.
        KeyDestroyed
            The dataset was destroyed.
        DatasetMismatch
            The store holds another dataset.
        MissingError
            Nothing is there, or a copy to that place is not finished.
        """
        context = connect(profile)
        with _engines_lock:
            engine = _engines.get((url, profile.name))
            same = engine is not None and engine.context is context and engine.profile == profile
            if engine is not None and same and dataset_id in (None, engine.dataset_id):
                return engine
            if dataset_id is None:
                ref = lookup(url, profile, context.registry)
                if ref.destroyed:
                    raise KeyDestroyed(f"The dataset at {url} was destroyed: its keys are gone.")
                dataset_id = ref.dataset_id
            store = profile.open_store(url)
            try:
                engine = cls(url, profile, context, store, dataset_id)
            except MissingError:
                if is_unfinished(store):
                    raise no_dataset(store) from None
                raise MissingError(
                    f"The key service knows the dataset {dataset_id.hex()} at {url}, but nothing is there.",
                    safe="The keys are untouched.",
                    next="Check that the store is the right one and that nobody deleted the dataset.",
                ) from None
            _engines[url, profile.name] = engine
            return engine

    @staticmethod
    def forget(url: str, profile: Profile) -> None:
        """Drop the shared engine, so that the next session reads everything anew."""
        with _engines_lock:
            engine = _engines.pop((url, profile.name), None)
        if engine is not None:
            engine.keyring.close()

    @property
    def location(self) -> Location:
        """Where the store is, with what the profile declares about the place. No request is made."""
        return self.profile.locate(self.store.location)

    # -- identity -----------------------------------------------------------------------------

    def kek(self, compartment_id: bytes) -> Kek:
        """The key-encryption key of a compartment."""
        return Kek(self.dataset_id, compartment_id)

    @property
    def root_name(self) -> str:
        """The name of the root key in the key service."""
        return root_key_name(self.log.descriptor.nonce)

    def author_key(self) -> AuthorKey:
        """The public signing key of this identity."""
        return self.context.service.author(self.profile.author)

    def author(self, policy: Policy) -> Author:
        """The roster's entry of this identity. Raises ``AccessDenied`` when it is not there."""
        try:
            author = policy.author_of(self.author_key().public_key)
        except KeyMissing:
            author = None
        if author is None or not author.active:
            raise AccessDenied(
                f"The signing key {self.profile.author!r} of profile {self.profile.name!r} is not on the roster.",
                next="Ask the data controller to add it.",
            )
        return author

    def sign(self, message: bytes) -> bytes:
        """Sign as this identity."""
        return self.context.service.sign(self.profile.author, message)

    def sign_as_root(self, message: bytes) -> bytes:
        """Sign by the root key; only the data controller's key service has it."""
        try:
            return self.context.service.sign(self.root_name, message)
        except KeyMissing:
            raise AccessDenied(
                "Only the data controller may do this: the root key is not in this key service.",
            ) from None

    # -- loading ----------------------------------------------------------------------------------

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> Mapping[bytes, DataKey]:
        """Data keys in one batch; a wrap that is not genuine is left out instead of spoiling the batch."""
        if not wrapped:
            return {}
        wrapped = [self._newest_wrap(item) for item in wrapped]
        try:
            return self.keyring.get(wrapped)
        except (IntegrityError, KeyMissing):
            if len(wrapped) == 1:
                # A version that never was is its author's invention; a key-encryption key that is gone is an error.
                self.context.service.versions(wrapped[0].kek)
                return {}
        # By halves: a stolen producer's garbage shall cost few requests.
        middle = len(wrapped) // 2
        return {**self.unwrap(wrapped[:middle]), **self.unwrap(wrapped[middle:])}

    def _newest_wrap(self, item: WrappedKey) -> WrappedKey:
        """What rewraps made of an earlier snapshot's wrap, whose version may be retired: the key is the same."""
        record = self._loaded.state.keys.get(item.key_id) if self._loaded else None
        newer = record is not None and record.wrapped.kek == item.kek and record.wrapped.version > item.version
        return record.wrapped if record is not None and newer else item

    def trusted_policy(self) -> tuple[Policy, PolicyRef]:
        """The newest policy that the key service names."""
        ref = lookup(self.url, self.profile, self.context.registry)
        if ref.dataset_id != self.dataset_id or ref.policy is None:
            raise NotFound(
                f"The key service has no policy on record for the dataset {self.dataset_id.hex()}.",
                next="Register the dataset with this key service.",
            )
        return self.log.policy(ref.policy), ref.policy

    @property
    def loaded(self) -> Loaded:
        """The newest state, loaded on first use."""
        with self.lock:
            if self._loaded is None:
                self._loaded = self._open_newest()
            return self._loaded

    def newest(self) -> Loaded:
        """The newest state there is now: loaded, or refreshed when it was loaded before. Raises as :meth:`refresh`."""
        with self.lock:
            return self.loaded if self._loaded is None else self.refresh()

    def refresh(self) -> Loaded:
        """Look for commits that came since, and return the newest state.

        Raises
        ------
        AnchorRolledBack, RolledBack
            The anchors are older than the log on the store, or than what this client has seen.
        """
        with self.lock:
            loaded = self.loaded
            newest, entries = self.log.anchors_after(loaded.state.sequence)
            check_still_anchored(loaded.state, newest)
            if entries:
                self._follow(entries)
            self._catch_up()
            return self.loaded

    def follow(self, expected: int) -> None:
        """Take in the commits that came since, about as many as *expected*.

        Unlike :meth:`refresh` this does not look whether the store is ahead of the anchors: the caller does.
        """
        with self.lock:
            entries = self.log.anchors_from(self.loaded.state.sequence + 1, expected=expected)
            if entries:
                self._follow(entries)

    def _follow(self, entries: Sequence[AnchorEntry]) -> None:
        """Go on from the current state by the anchors that come next."""
        state = self.loaded.state.copy()
        try:
            steps = self.log.replay(state, entries)
            self.adopt(state, steps)
        except (KeyDestroyed, KeyRetired, Rewound):
            # Somebody destroyed a key that these commits were sealed with: only the newest checkpoint leads past that.
            # Or the data controller took back what this state stands on.
            self._loaded = self._open_newest()

    def _catch_up(self) -> None:
        """Follow commits that were made while we looked; raise when the store is ahead of the anchors."""
        while self._loaded is not None and check_store_not_ahead(self.log, self._loaded.state):
            self._follow(self.log.anchors_from(self._loaded.state.sequence + 1))

    def adopt(self, state: LogState, steps: Sequence[LogStep], keys: Mapping[bytes, DataKey] | None = None) -> Loaded:
        """Make *state*, reached by *steps* from the current one, the newest; *keys* are data keys at hand."""
        with self.lock:
            loaded = self.loaded
            contents = self._applied(state, steps, keys or {})
            self._loaded = Loaded(
                state,
                contents,
                steps[-1].entry.created,
                loaded.tail + len(steps),
                loaded.tail_bytes + _size(steps),
                loaded.checkpoint_bytes,
            )
            self.pace.committed(step.link.author_id for step in steps if step.link is not None)
            self.seen.remember(state.sequence, file_digest(steps[-1].entry.link))
            self.queue.recognise(steps)
            return self._loaded

    def _applied(
        self, state: LogState, steps: Sequence[LogStep], keys: Mapping[bytes, DataKey]
    ) -> dict[bytes, ContentState] | None:
        """What *steps*, which lead from the current state to *state*, make of the content."""
        current = self.loaded.contents
        if current is None or state.policy is None:
            return None
        contents = {key: content.copy() for key, content in current.items()}

        def unwrap(wrapped: Sequence[WrappedKey]) -> Mapping[bytes, DataKey]:
            own = {w.key_id: keys[w.key_id] for w in wrapped if w.key_id in keys}
            return {**self.unwrap([w for w in wrapped if w.key_id not in own]), **own}

        apply_content(contents, state, steps, unwrap, compartments=state.policy.compartments)
        return contents

    def refused_inside(self, state: LogState, step: LogStep, keys: Mapping[bytes, DataKey]) -> list[str]:
        """Why sealed sections of a *step* to *state*, which is not taken, would have no effect; none if unreadable."""
        before = self.loaded.contents or {}
        after = self._applied(state, [step], keys) or {}
        return [
            refusal.reason
            for key, content in after.items()
            for refusal in content.refusals[len(before[key].refusals) if key in before else 0 :]
        ]

    def _open_newest(self) -> Loaded:
        trusted, ref = self.trusted_policy()
        seen = self.seen.recall()
        newest = self.log.newest(seen[0] if seen and self.log.anchor(seen[0]) is not None else -1)
        if newest < 0:
            raise RolledBack(
                f"The key service has no commit on record for the dataset {self.dataset_id.hex()}.",
                safe="Nothing was opened.",
                next="Its anchors are lost or were never written: restore the key service from a backup.",
            )
        try:
            loaded = self.load(newest, trusted)
        except (KeyDestroyed, KeyRetired):
            refuse_destroyed(self, newest)
            raise
        if seen is not None:
            check_seen(self.log, loaded.state, *seen)
        if loaded.state.policy is None or loaded.state.policy.version < ref.version:
            raise RolledBack(
                f"The log ends before version {ref.version} of the policy, which the key service has on record.",
                safe="Nothing was opened.",
                next="Its anchors may come from an old backup.",
            )
        self._loaded = loaded
        entry = self.log.anchor(loaded.state.sequence)
        if entry is not None:
            self.seen.remember(loaded.state.sequence, file_digest(entry.link))
        self._catch_up()
        return self._loaded

    def load(self, last: int, trusted: Policy, *, checkpoints: bool = True) -> Loaded:
        """The state after the anchor *last*, from the nearest checkpoint or from the start."""
        while True:
            with suppress(Rewound):  # by a checkpoint of what was taken back: the log knows now, and takes another
                return self._load(last, trusted, checkpoints)

    def _load(self, last: int, trusted: Policy, checkpoints: bool) -> Loaded:
        found = self.log.nearest_checkpoint(last, trusted) if checkpoints else None
        contents: dict[bytes, ContentState] | None = {}
        checkpoint_bytes = 0
        if found is None:
            state = self.log.start()
        else:
            manifest, state = found
            compartments = state.policy.compartments if state.policy else ()
            checkpoint_bytes = sum(part.size for part in manifest.segments)
            contents = self._readable(lambda: load_content(self.store, manifest, compartments, self.unwrap))
        first = state.sequence + 1
        # The log may go on after *last* when that is a number somebody wasted by skipping ahead.
        entries = self.log.anchors_from(first, last)
        return self.opened(state, self.log.replay(state, entries), contents, checkpoint_bytes)

    def opened(
        self,
        state: LogState,
        steps: Sequence[LogStep],
        contents: dict[bytes, ContentState] | None,
        checkpoint_bytes: int = 0,
    ) -> Loaded:
        """*state*, which *steps* led to, with the content that they make of *contents* (None: cannot be read)."""
        if contents is not None and state.policy is not None:
            held, policy = contents, state.policy

            def apply() -> dict[bytes, ContentState]:
                apply_content(held, state, steps, self.unwrap, compartments=policy.compartments)
                return held

            contents = self._readable(apply)
        if not steps:
            entry = self.log.anchor(state.sequence)
            time = entry.created if entry else self.context.service.now()
        else:
            time = steps[-1].entry.created
        return Loaded(state, contents, time, len(steps), _size(steps), checkpoint_bytes)

    def _readable(self, load: Callable[[], dict[bytes, ContentState]]) -> dict[bytes, ContentState] | None:
        """What *load* returns, or None when this identity may write but not read."""
        try:
            return load()
        except (KeyDestroyed, KeyRetired, WrongPassphrase):
            raise
        except AccessDenied:
            return None

    def at(self, sequence: int) -> Snapshot:
        """The snapshot after an earlier commit.

        Raises
        ------
        NotFound
            There is no such commit.
        SnapshotCollected
            Garbage collection has deleted objects of it.
        KeyDestroyed
            A data key that it needs was destroyed.
        """
        current = self.loaded
        if sequence == current.state.sequence:
            return current.snapshot()
        if not 0 <= sequence < current.state.sequence:
            raise NotFound(
                f"There is no commit {sequence}; the newest is {current.state.sequence}.",
                next="`sealedhealth log URL` lists the commits.",
            )
        if sequence < current.state.horizon and sequence not in current.snapshot().tags.values():
            raise SnapshotCollected(
                f"Garbage collection has deleted objects of commit {sequence}.",
                next=f"The oldest complete snapshot is {current.state.horizon}; tags keep older ones.",
            )
        trusted, _ = self.trusted_policy()
        try:
            try:
                loaded = self.load(sequence, trusted)
            except (MissingError, KeyRetired, RosterViolation):
                # Its checkpoint was collected, destroyed along with another key, or is by a curator who has left.
                loaded = self.load(sequence, trusted, checkpoints=False)
        except KeyRetired as error:
            raise KeyDestroyed(
                f"Commit {sequence} cannot be opened any more: a data key that it needs was destroyed.",
                safe="Snapshots from before that key, and the newest one, open.",
            ) from error
        return loaded.snapshot()


def _size(steps: Sequence[LogStep]) -> int:
    return sum(ref.size for step in steps if isinstance(step.link, Link) for ref in step.link.changes)


def root_key_name(nonce: bytes) -> str:
    """The name of a dataset's root key in the key service."""
    return f"root-{nonce[:16].hex()}"
