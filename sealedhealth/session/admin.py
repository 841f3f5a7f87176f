"""What the data controller does: make a dataset, and say who may do what in it.

Policy change sets are signed by the root key.  The key service's registry records
the newest policy, so that readers accept nothing older.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from sealedhealth.errors import AccessDenied, AlreadyExists, IntegrityError, InvalidInput, KeyMissing, NotFound
from sealedhealth.keys.base import DatasetRef, Kek, PolicyRef, WrappedKey
from sealedhealth.keys.keyring import Keyring, SealingKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet, SectionRef, seal_section
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import DESCRIPTOR_SIZE, ChangeRef, Descriptor, Link, dataset_id_of, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, link_name
from sealedhealth.log.paths import canonical
from sealedhealth.log.replay import Log
from sealedhealth.log.roster import Author, Policy, Role, Settings
from sealedhealth.log.section import AuthorNote, Section
from sealedhealth.log.strict import microseconds
from sealedhealth.profiles import KeyContext, Profile, connect
from sealedhealth.session.commit import Request, submit
from sealedhealth.session.engine import Engine, root_key_name
from sealedhealth.session.maintenance.checkpoints import write_checkpoint
from sealedhealth.session.session import Session
from sealedhealth.session.urls import normal_url, refuse_nesting
from sealedhealth.stores import ObjectStore
from sealedhealth.stores.location import Location

__all__ = ["change_settings", "checked_settings", "create_dataset", "set_author"]

DEFAULT_COMPARTMENT = "default"

# What readers of a policy accept, see log/roster.py.
MAX_GRACE_S = 100 * 366 * 24 * 3600
MAX_PACK_BELOW = 4 << 20
MIN_PACK_SIZE, MAX_PACK_SIZE = 1 << 20, 64 << 20


def create_dataset(url: str, profile: Profile, *, settings: Settings | None = None) -> Session:
    """Make an empty dataset at *url* and open it.

    The identity of *profile* becomes its first author, with every role and no prefix; the
    new root key stays in the key service. A creation that was cut short is begun anew, or
    finished when only its registration is missing.

    Raises
    ------
    AlreadyExists
        The URL, or one above it, belongs to a dataset already, or the store holds one there.
    """
    url = normal_url(url)
    store = profile.open_store(url)
    store.check_writable()  # before keys are made that nobody could use
    context = connect(profile)
    refuse_nesting(url, profile)
    if store.exists(DESCRIPTOR_NAME):
        if _finish_creation(store, context, url, profile, settings or Settings()):
            return Session.open(url, profile)
        raise AlreadyExists(
            f"The store holds a dataset at {url} that was destroyed, or that this key service does not know there.",
            safe="It is unchanged.",
            next="Choose another URL. If it was destroyed, delete what lies there; if it is yours, register it.",
        )
    service = context.service
    nonce = os.urandom(32)
    root_name = root_key_name(nonce)
    root_key = service.create_author(root_name).public_key
    dataset_id = dataset_id_of(root_key, nonce)
    try:
        author_key = service.author(profile.author)
    except KeyMissing:
        author_key = service.create_author(profile.author)

    compartment = os.urandom(16)
    kek = Kek(dataset_id, compartment)
    service.create(kek)
    author = Author(os.urandom(16), author_key.public_key, frozenset(Role), frozenset([compartment]))
    policy = Policy(1, (compartment,), {author.author_id: author}, settings or Settings())
    now = microseconds(service.now())
    descriptor = Descriptor(root_key, nonce, now).pack(lambda message: service.sign(root_name, message))
    with Keyring(service) as keyring:
        change, raw = _policy_change(
            context, keyring, root_name, dataset_id, policy, {compartment: DEFAULT_COMPARTMENT},
            {compartment: {author.author_id: AuthorNote(profile.author, "")}}, profile.locate(store.location),
        )  # fmt: skip
    ref = ChangeRef(change.change_id, file_digest(raw), len(raw))
    link = Link(dataset_id, 0, file_digest(descriptor), ROOT_AUTHOR, (ref,), now)
    link_raw = link.pack(lambda message: service.sign(root_name, message))
    store.put(change_name(change.change_id), raw)
    context.anchors.create_anchor(dataset_id, 0, link_raw)
    store.put(link_name(0), link_raw)
    # The descriptor comes after all that it needs, so that whoever finds it only has to register it.
    store.flush()
    store.put(DESCRIPTOR_NAME, descriptor)
    store.flush()
    # Registered last: before this the dataset does not exist for anybody.
    context.registry.register(DatasetRef(dataset_id, (url,), PolicyRef(1, change.change_id, ref.digest)))
    Engine.forget(url, profile)
    return Session.open(url, profile)


def _finish_creation(store: ObjectStore, context: KeyContext, url: str, profile: Profile, settings: Settings) -> bool:
    """Register the dataset on the store if somebody with this keystore died just before that; False otherwise."""
    try:
        descriptor = Descriptor.load(store.get(DESCRIPTOR_NAME, limit=DESCRIPTOR_SIZE), dataset_id=None)
        own = context.service.author(root_key_name(descriptor.nonce)).public_key
        author = context.service.author(profile.author)
    except (IntegrityError, KeyMissing):
        return False  # somebody else's, or nothing that we know
    with suppress(NotFound):
        context.registry.lookup(descriptor.dataset_id.hex())
        return False  # registered, for another URL
    if own != descriptor.root_key:
        return False
    log = Log(store, context.anchors, descriptor.dataset_id)
    entries = log.anchors_from(0, 1)
    state = log.start()
    log.replay(state, entries)
    if len(entries) != 1 or state.policy is None or state.policy_ref is None:
        return False  # used already: the registry has lost it
    if state.policy.settings != settings or state.policy.author_of(author.public_key) is None:
        return False
    ref = PolicyRef(state.policy.version, state.policy_ref.change_id, state.policy_ref.digest)
    context.registry.register(DatasetRef(descriptor.dataset_id, (url,), ref))
    return True


def _policy_change(
    context: KeyContext,
    keyring: Keyring,
    root_name: str,
    dataset_id: bytes,
    policy: Policy,
    compartment_names: Mapping[bytes, str],
    notes: Mapping[bytes, Mapping[bytes, AuthorNote]],
    location: Location,
) -> tuple[ChangeSet, bytes]:
    """The change set of a policy: public roster, and names and prefixes sealed per compartment."""
    service = context.service
    keys: list[WrappedKey] = []
    refs: list[SectionRef] = []
    sealed: list[bytes] = []
    for compartment in policy.compartments:
        sealing: SealingKey
        with keyring.sealing_key(Kek(dataset_id, compartment)) as sealing:
            section = Section(notes=notes.get(compartment, {}), compartment_name=compartment_names[compartment])
            ref, data = seal_section(dataset_id, compartment, sealing.data_key, os.urandom(16), section.pack())
            keys.append(sealing.wrapped)
        refs.append(ref)
        sealed.append(data)
    change = ChangeSet(
        dataset_id=dataset_id,
        change_id=os.urandom(16),
        author_id=ROOT_AUTHOR,
        kind=ChangeKind.POLICY,
        time_us=microseconds(service.now()),
        keys=tuple(keys),
        sections=tuple(refs),
        policy=policy,
        location=location,
        sealed=tuple(sealed),
    )
    return change, change.pack(lambda message: service.sign(root_name, message))


def set_author(
    session: Session,
    public_key: bytes,
    *,
    name: str,
    roles: Iterable[Role],
    prefix: str = "",
    active: bool = True,
    settings: Settings | None = None,
) -> int:
    """Add an author to the roster, or change one, and return the commit's number.

    Only the data controller can: the policy is signed by the root key.

    Parameters
    ----------
    public_key:
        P-384 point, uncompressed, 97 bytes.
    roles:
        What the author may commit; empty for nothing.
    prefix:
        The only directory where a producer that is no curator may put; ``""`` is everywhere.
    active:
        False takes the author off the roster: nothing it signs from then on counts.
    """
    engine = session.engine
    engine.refresh()
    loaded = engine.loaded
    policy = loaded.state.policy
    if policy is None or not session.snapshot.readable:
        raise NotFound("The dataset has no policy.")
    if prefix:
        prefix = canonical(prefix)
    if not name or not name.isprintable():
        raise InvalidInput("An author needs a printable name.")
    known = policy.author_of(public_key)
    author = Author(
        known.author_id if known else os.urandom(16),
        public_key,
        frozenset(roles),
        frozenset(policy.compartments),
        active,
    )
    following = policy.with_author(author)
    if settings is not None:
        following = replace(following, settings=settings)
    return _commit_policy(session, following, {author.author_id: AuthorNote(name, prefix)})


def change_settings(session: Session, settings: Settings) -> int | None:
    """Give the dataset other settings; the commit's number, or ``None`` when they are the same.

    They hold for what is written from then on. Only the data controller can: the policy is signed by the root key.
    """
    engine = session.engine
    policy = engine.refresh().state.policy
    if policy is None:
        raise NotFound("The dataset has no policy.")
    if policy.settings == settings:
        return None
    return _commit_policy(session, replace(policy, version=policy.version + 1, settings=settings), {})


def checked_settings(
    base: Settings | None = None,
    *,
    grace: timedelta | None = None,
    pack_below: int | None = None,
    pack_size: int | None = None,
) -> Settings:
    """*base* (by default what a new dataset has) with what is given.

    Raises ``InvalidInput`` for a value out of bounds, or for files that would not fit into a pack.
    """
    base = base or Settings()
    settings = replace(
        base,
        grace_s=base.grace_s if grace is None else int(grace.total_seconds()),
        pack_below=base.pack_below if pack_below is None else pack_below,
        pack_size=base.pack_size if pack_size is None else pack_size,
    )
    bounds = {
        "grace": (settings.grace_s, 0, MAX_GRACE_S, "0 to 36,600 days"),
        "pack_below": (settings.pack_below, 0, MAX_PACK_BELOW, "0 (never) to 4 MiB"),
        "pack_size": (settings.pack_size, MIN_PACK_SIZE, MAX_PACK_SIZE, "1 MiB to 64 MiB"),
    }
    for name, (value, least, most, range_) in bounds.items():
        if not least <= value <= most:
            raise InvalidInput(f"{name} has to be from {range_}.", safe="Nothing was changed.")
    if settings.pack_below > settings.pack_size:
        raise InvalidInput("pack_below has to be at most pack_size: files have to fit.", safe="Nothing was changed.")
    return settings


def _commit_policy(session: Session, following: Policy, notes: Mapping[bytes, AuthorNote]) -> int:
    """Commit the next version of the policy, with *notes* added to those on authors, and record it."""
    engine = session.engine
    loaded = engine.loaded
    if loaded.contents is None:
        raise AccessDenied("Changing the policy needs an identity that can read: it seals the names of authors anew.")
    change, raw = _policy_change(
        engine.context,
        engine.keyring,
        engine.root_name,
        engine.dataset_id,
        following,
        {key: content.name for key, content in loaded.contents.items()},
        {key: {**content.notes, **notes} for key, content in loaded.contents.items()},
        engine.location,
    )
    # The last checkpoint may be by a curator who is about to leave, and then counts no more: the policy's own commit
    # points to one by the root key, so that the dataset opens at every moment.
    checkpoint = None
    if loaded.state.checkpoint is not None:
        with engine.lock:
            _, checkpoint = write_checkpoint(engine, fresh=False, by_root=True)
    sequence = submit(engine, Request(change=change, raw=raw, checkpoint=checkpoint))
    known_ref = engine.context.registry.lookup(engine.dataset_id.hex())
    ref = PolicyRef(following.version, change.change_id, file_digest(raw))
    engine.context.registry.register(DatasetRef(known_ref.dataset_id, known_ref.urls, ref))
    session.committed(sequence)
    return sequence
