"""The conformance kits find what is wrong: each broken service below fails the test that is meant for it."""

from contextlib import suppress
from dataclasses import replace

import pytest

from sealedhealth.errors import AlreadyExists, AnchorTaken, ConflictError, IntegrityError, KeyRetired
from sealedhealth.keys import AnchorEntry, DataKey, DatasetRef, Kek, KekVersions, LocalKeyService, WrappedKey
from sealedhealth.testing import AnchorStoreConformance, KeyServiceConformance, RegistryConformance
from sealedhealth.testing.registry import random_ref

Failure = (AssertionError, pytest.fail.Exception, IntegrityError, AnchorTaken, ConflictError)


@pytest.fixture
def directory(tmp_path):
    """A development keystore."""
    LocalKeyService.init(tmp_path / "keystore", development=True)
    return tmp_path / "keystore"


class Unbound(LocalKeyService):
    """Forgets which dataset and compartment a key belongs to."""

    one = Kek(b"1" * 16, b"1" * 16)

    def create(self, kek):
        super().create(kek)
        with suppress(AlreadyExists):
            super().create(self.one)

    def generate(self, kek):
        key, wrapped = super().generate(self.one)
        return key, replace(wrapped, kek=kek)

    def unwrap(self, wrapped):
        return super().unwrap([replace(item, kek=self.one) for item in wrapped])

    def rewrap(self, wrapped):
        pairs = zip(wrapped, super().rewrap([replace(item, kek=self.one) for item in wrapped]), strict=True)
        return [replace(new, kek=old.kek) for old, new in pairs]


class Unauthenticated(LocalKeyService):
    """Answers some key whatever the ciphertext."""

    def unwrap(self, wrapped):
        try:
            return super().unwrap(wrapped)
        except IntegrityError:
            return [DataKey(bytes(32)) for _ in wrapped]


class Backwards(LocalKeyService):
    """Answers a batch in reverse."""

    def unwrap(self, wrapped):
        return super().unwrap(wrapped)[::-1]


class Keeping(LocalKeyService):
    """Says that versions are retired, and keeps them."""

    retired = 1

    def retire(self, kek, minimum):
        self.retired = minimum

    def versions(self, kek):
        return KekVersions(self.retired, super().versions(kek).latest)


class Destructive(LocalKeyService):
    """Retires versions that should stay."""

    def retire(self, kek, minimum):
        super().retire(kek, super().versions(kek).latest)


class Lazy(LocalKeyService):
    """Does not move a wrap to the latest version."""

    def rewrap(self, wrapped):
        return list(wrapped)


class Weak(LocalKeyService):
    """Signs only the beginning of a message."""

    def sign(self, name, message):
        return super().sign(name, message[:1000])


class Talkative(LocalKeyService):
    """Shows the key it works on."""

    shown = ""

    def generate(self, kek):
        key, wrapped = super().generate(kek)
        self.shown = key.expose().hex()
        return key, wrapped

    def __repr__(self):
        return self.shown


class Bare(LocalKeyService):
    """Wraps nothing: the ciphertext is the key."""

    def generate(self, kek):
        key, wrapped = super().generate(kek)
        return key, WrappedKey(kek, key.key_id, wrapped.version, b"v1:" + key.expose())

    def unwrap(self, wrapped):
        return [DataKey(item.ciphertext[3:]) for item in wrapped]


@pytest.mark.parametrize(
    "broken, test",
    [
        (Unbound, "test_wrong_place"),
        (Unbound, "test_rewrap_keeps_to_its_place"),
        (Unauthenticated, "test_altered_anywhere"),
        (Unauthenticated, "test_cut_or_extended"),
        (Unauthenticated, "test_parts_of_two_wraps"),
        (Unauthenticated, "test_wrong_version"),
        (Unauthenticated, "test_one_bad_wrap_fails_its_batch"),
        (Backwards, "test_unwrap_keeps_order"),
        (Backwards, "test_a_full_batch"),
        (Keeping, "test_retire"),
        (Keeping, "test_retire_some_of_many"),
        (Keeping, "test_retire_does_not_go_back"),
        (Destructive, "test_retire_some_of_many"),
        (Destructive, "test_retire_refuses_what_makes_no_sense"),
        (Lazy, "test_rewrap"),
        (Talkative, "test_nothing_shows_a_key"),
        (Bare, "test_generate"),
    ],
)
def test_broken_key_service(directory, broken, test):
    """A key service that breaks a promise fails the test of that promise; a sound one passes it."""
    kit = KeyServiceConformance()
    for number, service in enumerate((LocalKeyService(directory), broken(directory))):
        kek = Kek(bytes([number]) * 16, b"c" * 16)
        service.create(kek)
        if number == 0:
            getattr(kit, test)(service, kek)
        else:
            with pytest.raises((*Failure, KeyRetired)):
                getattr(kit, test)(service, kek)


def test_weak_signature(directory):
    """A signature over a part of the message is found out."""
    from cryptography.exceptions import InvalidSignature

    with pytest.raises((AssertionError, InvalidSignature)):
        KeyServiceConformance().test_signature_verifies(Weak(directory))


class Overwriting(LocalKeyService):
    """Lets anchors be overwritten."""

    entries = {}  # noqa: RUF012 - shared by all, like a server

    def create_anchor(self, dataset_id, sequence, link):
        entry = self.entries[dataset_id, sequence] = AnchorEntry(sequence, link, self.now())
        return entry

    def read_anchor(self, dataset_id, sequence):
        return self.entries.get((dataset_id, sequence))


class Idempotent(LocalKeyService):
    """Takes the same anchor twice without a word: two writers would both think that they won."""

    def create_anchor(self, dataset_id, sequence, link):
        entry = self.read_anchor(dataset_id, sequence)
        return entry if entry and entry.link == link else super().create_anchor(dataset_id, sequence, link)


class Mixing(LocalKeyService):
    """One sequence for all datasets."""

    def create_anchor(self, dataset_id, sequence, link):
        return super().create_anchor(bytes(16), sequence, link)

    def read_anchor(self, dataset_id, sequence):
        return super().read_anchor(bytes(16), sequence)


class Forgetful(LocalKeyService):
    """A replica that lags behind."""

    reads = 0

    def read_anchor(self, dataset_id, sequence):
        self.reads += 1
        return None if self.reads % 5 == 0 else super().read_anchor(dataset_id, sequence)


@pytest.mark.parametrize(
    "broken, test",
    [
        (Overwriting, lambda kit, it: kit.test_create_only(it, it, b"a" * 16, b"different")),
        (Overwriting, lambda kit, it: kit.test_race(it, it, b"b" * 16)),
        (Idempotent, lambda kit, it: kit.test_create_only(it, it, b"c" * 16, b"same")),
        (Mixing, lambda kit, it: kit.test_datasets_are_apart(it, b"d" * 16)),
        (Forgetful, lambda kit, it: kit.test_never_none_after_create(it, it, b"e" * 16)),
    ],
)
def test_broken_anchor_store(directory, broken, test):
    """An anchor store that breaks a promise fails the test of that promise."""
    with pytest.raises(Failure):
        test(AnchorStoreConformance(), broken(directory))


class Generous(LocalKeyService):
    """Gives a URL to whoever asks last, and takes any policy."""

    refs = None

    def register(self, ref):
        self.refs = {**(self.refs or {}), ref.dataset_id: ref}

    def lookup(self, url_or_id):
        return next(
            ref for ref in reversed((self.refs or {}).values()) if url_or_id in {*ref.urls, ref.dataset_id.hex()}
        )


class Prefixing(LocalKeyService):
    """Finds a dataset by the beginning of its URL."""

    def lookup(self, url_or_id):
        found = [ref for ref in self.datasets() for url in ref.urls if url.startswith(url_or_id)]
        return found[0] if found else super().lookup(url_or_id)


@pytest.mark.parametrize(
    "broken, test",
    [
        (Generous, "test_url_taken"),
        (Generous, "test_policy_goes_forward"),
        (Generous, "test_destruction_is_final"),
        (Prefixing, "test_urls_match_exactly"),
    ],
)
def test_broken_registry(directory, broken, test):
    """A registry that breaks a promise fails the test of that promise."""
    ref: DatasetRef = random_ref()
    with pytest.raises(Failure):
        getattr(RegistryConformance(), test)(broken(directory), ref)


def test_a_kit_without_its_fixture():
    """A kit says what it needs."""
    for kit, name in (
        (KeyServiceConformance, "service"),
        (AnchorStoreConformance, "anchors"),
        (RegistryConformance, "registry"),
    ):
        with pytest.raises(NotImplementedError, match=name):
            getattr(kit, name).__wrapped__(kit())
