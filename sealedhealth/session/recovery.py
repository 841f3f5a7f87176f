"""Anchors that the key service has lost, created again from the signed links on the store.

A key service that was restored from an old backup has forgotten the newest anchors.  Every
link has a copy on the store, signed by its author and chained to the one before, so the
anchors can be made again.  What the copies cannot show is that they are the last ones: that
is for people who remember, which is why the data controller decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from sealedhealth.errors import AccessDenied, AnchorTaken, KeyMissing, MissingError, NotFound, RolledBack
from sealedhealth.keys.base import AnchorEntry, DatasetRef, PolicyRef
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import LINK_LIMIT, Link, file_digest
from sealedhealth.log.names import link_name
from sealedhealth.log.state import LogState
from sealedhealth.profiles import Profile
from sealedhealth.session.engine import Engine
from sealedhealth.session.urls import lookup, normal_url

__all__ = ["LostAnchor", "ReanchorReport", "reanchor", "refuse_strangers"]

_WINDOW = 64  #: copies of links fetched at once, and numbers without a valid link that are looked past
#: Stands where a link that counted for nothing is lost: it counts for nothing, too.
_PLACEHOLDER = b"sealedhealth: a void link that was lost\n"


@dataclass(frozen=True, slots=True)
class LostAnchor:
    """One anchor that is to be created again."""

    sequence: int
    digest: str  #: SHA-384 of the link, hexadecimal
    author: str  #: its id in hexadecimal, or "root"; "" for void links
    void: str = ""  #: why the link counts for nothing
    link: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ReanchorReport:
    """What was lost, and is anchored again unless this was a dry run."""

    dataset: str  #: id, hexadecimal
    anchored: tuple[LostAnchor, ...]
    before: int  #: the last commit before the first lost anchor
    after: int  #: the last commit, once this is done
    digest: str  #: SHA-384 of its link, hexadecimal: the same as before the loss, if nothing is missing
    policy: int  #: version of the policy that the key service has on record, once this is done
    policy_recorded: bool  #: whether that is a newer one than it had
    retired: Mapping[
        bytes, int
    ]  #: compartment: oldest version of its key-encryption key, where destroyed ones were back
    lost_keys: int  #: data keys wrapped by versions that the backup does not have: they do not open any more


def reanchor(
    url: str, profile: Profile, *, seen: Mapping[int, str] | None = None, dry_run: bool = False
) -> ReanchorReport:
    """Create lost anchors again from the store's copies, after every link was verified as on opening.

    Also records the newest policy, and retires again what the data controller had destroyed
    since the backup.  Harmless when repeated, and when nothing is lost.

    Parameters
    ----------
    seen:
        Commits that somebody remembers, as number and hexadecimal digest of the link: unless the
        log holds them, nothing is done.  What this client has seen counts by itself.
    dry_run:
        Verify and report, and change nothing.

    Raises
    ------
    AccessDenied
        This identity does not have the dataset's root key: only the data controller decides.
    RolledBack
        The store's log ends before, or differs from, what somebody has seen, what the registry
        knows, or what is anchored.  Nothing was changed.
    MissingError, TamperedError
        A change set of the log is missing or altered.  Nothing was changed.
    """
    url = normal_url(url)
    engine = Engine.get(url, profile)
    refuse_strangers(engine)
    log = _Log(engine)
    log.read()
    remembered = dict(seen or {})
    own = engine.seen.recall()
    if own is not None:
        remembered.setdefault(own[0], own[1].hex())
    log.check_remembered(remembered)
    state = log.state
    if state.policy is None or state.policy_ref is None:
        raise MissingError("Neither the anchors nor the store hold any commit of this dataset.")
    ref = lookup(url, profile, engine.context.registry)
    newest = PolicyRef(state.policy.version, state.policy_ref.change_id, state.policy_ref.digest)
    if ref.policy is not None and (
        ref.policy.version > newest.version or (ref.policy.version == newest.version and ref.policy != newest)
    ):
        raise RolledBack(
            f"The key service knows version {ref.policy.version} of the policy, and the log ends before it or differs.",
            safe="Nothing was changed.",
            next="The store is older than the key service, or has another history: restore its newest copy.",
        )
    report = ReanchorReport(
        dataset=engine.dataset_id.hex(),
        anchored=tuple(log.lost),
        before=log.lost[0].sequence - 1 if log.lost else state.sequence,
        after=state.sequence,
        digest=log.digests[state.sequence],
        policy=newest.version,
        policy_recorded=ref.policy != newest,
        retired=_revived(engine, state),
        lost_keys=_lost_keys(engine, state),
    )
    if not dry_run:
        _carry_out(engine, report, ref, newest)
        Engine.forget(url, profile)
    return report


class _Log:
    """The log as anchors and copies on the store give it together."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._copies: dict[str, bytes] = {}
        self._fetched = -1
        self.state = engine.log.start()
        self.lost: list[LostAnchor] = []
        self.digests: dict[int, str] = {}

    def read(self) -> None:
        """Replay what is anchored, then what only the store has; a void link counts when a valid one follows."""
        log, state = self._engine.log, self.state
        entries = log.anchors_from(0)
        log.learn(self._waiting(len(entries)))
        log.replay(state, entries)
        self.digests = {entry.sequence: file_digest(entry.link).hex() for entry in entries}
        good = state.sequence, state.refusals
        waiting: list[LostAnchor] = []
        while state.sequence - good[0] < _WINDOW:
            sequence = state.sequence + 1
            entry = log.anchor(sequence)
            raw = entry.link if entry is not None else self._copy(sequence)
            if entry is None:
                entry = AnchorEntry(sequence, raw or _PLACEHOLDER, self._engine.context.service.now())
                there = False
            else:
                there = True
            [step] = log.replay(state, [entry])
            digest = file_digest(entry.link).hex()
            self.digests[sequence] = digest
            if not there:
                author = "" if step.link is None else _name(step.link)
                waiting.append(LostAnchor(sequence, digest, author, step.void, entry.link))
            if step.link is not None or there:
                self.lost += waiting
                waiting = []
                good = state.sequence, state.refusals
        # Behind the last valid link the host may put what it likes.
        state.sequence, state.refusals = good

    def _waiting(self, first: int) -> list[AnchorEntry]:
        """The store's copies from *first* on: what the root key takes back in one of them is lost, too."""
        now = self._engine.context.service.now()
        numbers = range(first, first + _WINDOW)
        return [AnchorEntry(number, raw, now) for number in numbers if (raw := self._copy(number)) is not None]

    def _copy(self, sequence: int) -> bytes | None:
        if sequence > self._fetched:
            names = [link_name(number) for number in range(sequence, sequence + _WINDOW)]
            self._copies = self._engine.store.get_many(names, limit=LINK_LIMIT, missing_ok=True)
            self._fetched = sequence + _WINDOW - 1
        return self._copies.get(link_name(sequence))

    def check_remembered(self, remembered: Mapping[int, str]) -> None:
        """Compare with what people and machines have seen. Raises ``RolledBack``."""
        for sequence, digest in sorted(remembered.items()):
            if sequence > self.state.sequence:
                raise RolledBack(
                    f"Commit {sequence} has been seen, and the store's log ends with commit {self.state.sequence}.",
                    safe="Nothing was changed.",
                    next="The store lacks links: restore its newest copy first.",
                )
            if self.digests[sequence] != digest.lower():
                raise RolledBack(
                    f"Commit {sequence} is not the one that has been seen.",
                    safe="Nothing was changed.",
                    next="Two histories exist: find out who signed the other one before anything else.",
                )


def _name(link: Link) -> str:
    return "root" if link.author_id == ROOT_AUTHOR else link.author_id.hex()


def refuse_strangers(engine: Engine) -> None:
    """Raise ``AccessDenied`` unless this identity has the root key, and may sign by it."""
    with suppress(KeyMissing):
        if engine.context.service.author(engine.root_name).public_key == engine.log.descriptor.root_key:
            engine.sign_as_root(b"sealedhealth/v1/reanchor\0" + engine.dataset_id)  # whether it may, nothing else
            return
    raise AccessDenied(
        "Only the data controller may do this: the root key is not in this key service.",
        safe="Nothing was changed.",
    )


def _lost_keys(engine: Engine, state: LogState) -> int:
    """Data keys that were wrapped by versions which a restored key service never had."""
    latest: dict[bytes, int] = {}
    for compartment in {wrapped.kek.compartment_id for wrapped in state.live_keys()}:
        latest[compartment] = 0
        with suppress(KeyMissing):
            latest[compartment] = engine.context.service.versions(engine.kek(compartment)).latest
    return sum(wrapped.version > latest[wrapped.kek.compartment_id] for wrapped in state.live_keys())


def _revived(engine: Engine, state: LogState) -> dict[bytes, int]:
    """Compartments whose destroyed versions came back with the backup, and the version that should be the oldest."""
    service = engine.context.service
    return {
        compartment: minimum
        for compartment, minimum in state.minimum.items()
        if service.versions(engine.kek(compartment)).minimum < minimum
    }


def _carry_out(engine: Engine, report: ReanchorReport, ref: DatasetRef, policy: PolicyRef) -> None:
    context = engine.context
    for lost in report.anchored:
        try:
            context.anchors.create_anchor(engine.dataset_id, lost.sequence, lost.link)
        except AnchorTaken:
            entry = engine.log.anchor(lost.sequence)
            if entry is None or entry.link != lost.link:
                raise RolledBack(
                    f"Somebody anchored another commit {lost.sequence} in the meantime.",
                    safe="The links before it are anchored; it is untouched.",
                    next="Stop all writers, then look at `sealedhealth log`.",
                ) from None
    if report.policy_recorded:
        with suppress(NotFound):  # pinned by the profile
            ref = context.registry.lookup(engine.dataset_id.hex())
        context.registry.register(DatasetRef(ref.dataset_id, ref.urls, policy, ref.destroyed))
    for compartment, minimum in report.retired.items():
        kek = engine.kek(compartment)
        while context.service.versions(kek).latest < minimum:
            context.service.rotate(kek)
        context.service.retire(kek, minimum)
