"""What every key service must do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from sealedhealth.errors import AlreadyExists, IntegrityError, InvalidInput, KeyMissing, KeyRetired, SealedHealthError
from sealedhealth.keys import DataKey, Kek, KekVersions, KeyService, WrappedKey
from sealedhealth.testing.racing import race

__all__ = ["KeyServiceConformance"]


class KeyServiceConformance:
    """Subclass it, and give a fixture ``service``: a :class:`sealedhealth.keys.KeyService`."""

    #: How many positions of a ciphertext are altered, one at a time, spread evenly. Lower it for a slow server.
    altered_positions = 512

    @pytest.fixture
    def service(self) -> KeyService:
        """The service under test: with the rights to create, use, rotate and retire keys."""
        raise NotImplementedError("give a fixture called service")

    @pytest.fixture
    def kek(self, service: KeyService) -> Kek:
        """A key-encryption key with one version."""
        return made(service)

    # -- what it says of itself -----------------------------------------------------------

    def test_is_a_key_service(self, service: KeyService) -> None:
        """It has every method of the interface, and sensible capabilities."""
        assert isinstance(service, KeyService)
        capabilities = service.capabilities()
        assert capabilities.label
        assert capabilities.max_batch >= 1
        assert not capabilities.development or "development" in capabilities.label

    def test_clock_is_utc_and_goes_forward(self, service: KeyService) -> None:
        """The clock is aware, in UTC, and does not go back between two calls."""
        first, second = service.now(), service.now()
        assert first.utcoffset() == timedelta(0)
        assert second >= first

    # -- wrapping -------------------------------------------------------------------------

    def test_new_kek_has_version_one(self, service: KeyService, kek: Kek) -> None:
        """A key-encryption key starts with version 1."""
        assert service.versions(kek) == KekVersions(minimum=1, latest=1)

    def test_create_refuses_what_exists(self, service: KeyService, kek: Kek) -> None:
        """Creating a key-encryption key again changes nothing: what it wrapped still opens."""
        key, wrapped = service.generate(kek)
        with pytest.raises(AlreadyExists):
            service.create(kek)
        assert opened(service, [wrapped]) == [key.expose()]

    def test_missing_kek_is_missing_everywhere(self, service: KeyService, kek: Kek) -> None:
        """Every use of a key-encryption key that was never made is ``KeyMissing``."""
        missing = random_kek()
        _, wrapped = service.generate(kek)
        wrapped = replace(wrapped, kek=missing)
        for use in (
            lambda: service.generate(missing),
            lambda: service.rotate(missing),
            lambda: service.retire(missing, 1),
            lambda: service.versions(missing),
            lambda: service.unwrap([wrapped]),
            lambda: service.rewrap([wrapped]),
        ):
            with pytest.raises(KeyMissing):
                use()

    def test_generate(self, service: KeyService, kek: Kek) -> None:
        """A generated key comes with its wrap, which says the truth and does not hold the key."""
        key, wrapped = service.generate(kek)
        assert wrapped.kek == kek
        assert wrapped.version == 1
        assert wrapped.key_id == key.key_id == DataKey(key.expose()).key_id
        assert key.expose() not in wrapped.ciphertext
        assert opened(service, [wrapped]) == [key.expose()]

    def test_generated_keys_differ(self, service: KeyService, kek: Kek) -> None:
        """No two generated keys are the same, nor are their wraps."""
        pairs = [service.generate(kek) for _ in range(8)]
        assert len({key.expose() for key, _ in pairs}) == 8
        assert len({wrapped.ciphertext for _, wrapped in pairs}) == 8

    def test_unwrap_keeps_order(self, service: KeyService, kek: Kek) -> None:
        """A batch of several key-encryption keys and versions, with repeats, is answered in order."""
        other = made(service)
        pairs = [service.generate(kek), service.generate(other)]
        service.rotate(kek)
        pairs += [service.generate(kek), service.generate(other)]
        batch = [pairs[index] for index in (3, 0, 2, 1, 0, 3)][: service.capabilities().max_batch]
        assert opened(service, [wrapped for _, wrapped in batch]) == [key.expose() for key, _ in batch]

    def test_a_full_batch(self, service: KeyService, kek: Kek) -> None:
        """A batch of the announced size (at most 64 here) is taken, by unwrap and by rewrap."""
        pairs = [service.generate(kek) for _ in range(min(service.capabilities().max_batch, 64))]
        wrapped = [wrapped for _, wrapped in pairs]
        expected = [key.expose() for key, _ in pairs]
        assert opened(service, wrapped) == expected
        assert opened(service, service.rewrap(wrapped)) == expected

    def test_an_empty_batch(self, service: KeyService) -> None:
        """Nothing in, nothing out."""
        assert service.unwrap([]) == []
        assert service.rewrap([]) == []

    # -- what must not open ---------------------------------------------------------------

    def test_wrong_place(self, service: KeyService, kek: Kek) -> None:
        """A wrap opens for its own dataset and compartment only, though the other keys exist."""
        others = [
            made(service, Kek(kek.dataset_id, secrets.token_bytes(16))),
            made(service, Kek(secrets.token_bytes(16), kek.compartment_id)),
            made(service, Kek(kek.compartment_id, kek.dataset_id)),
        ]
        _, wrapped = service.generate(kek)
        for other in others:
            refused(service, replace(wrapped, kek=other))

    def test_altered_anywhere(self, service: KeyService, kek: Kek) -> None:
        """A wrap altered in any one place does not open."""
        _, wrapped = service.generate(kek)
        sealed = wrapped.ciphertext
        step = max(1, len(sealed) // self.altered_positions)
        for position in range(0, len(sealed), step):
            altered = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
            refused(service, replace(wrapped, ciphertext=altered))

    def test_cut_or_extended(self, service: KeyService, kek: Kek) -> None:
        """A wrap that lost its head or tail, grew, or is empty does not open."""
        _, wrapped = service.generate(kek)
        sealed = wrapped.ciphertext
        half = len(sealed) // 2
        for altered in (
            b"",
            sealed[:1],
            sealed[:half],
            sealed[:-1],
            sealed[1:],
            sealed + b"\0",
            b"\0" + sealed,
            sealed * 2,
        ):
            refused(service, replace(wrapped, ciphertext=altered))

    def test_parts_of_two_wraps(self, service: KeyService, kek: Kek) -> None:
        """A wrap put together from two genuine ones does not open."""
        (_, one), (_, two) = service.generate(kek), service.generate(kek)
        for cut in range(8, len(one.ciphertext), max(8, len(one.ciphertext) // 8)):
            mixed = one.ciphertext[:cut] + two.ciphertext[cut:]
            if mixed not in {one.ciphertext, two.ciphertext}:  # a prefix may be the same in every wrap
                refused(service, replace(one, ciphertext=mixed))

    def test_wrong_version(self, service: KeyService, kek: Kek) -> None:
        """A wrap under another version's number does not open, whether that version exists or not."""
        _, old = service.generate(kek)
        service.rotate(kek)
        _, new = service.generate(kek)
        for wrapped in (
            replace(old, version=2),
            replace(new, version=1),
            replace(new, version=3),
            replace(old, version=0),
        ):
            refused(service, wrapped)

    def test_one_bad_wrap_fails_its_batch(self, service: KeyService, kek: Kek) -> None:
        """One altered wrap among good ones: the call raises, and the good ones still open afterwards."""
        pairs = [service.generate(kek) for _ in range(3)]
        good = [wrapped for _, wrapped in pairs]
        sealed = good[1].ciphertext
        bad = replace(good[1], ciphertext=sealed[:-1] + bytes([sealed[-1] ^ 0x80]))
        for index in range(min(3, service.capabilities().max_batch)):
            batch = [*good[:index], bad, *good[index + 1 :]][: service.capabilities().max_batch]
            with pytest.raises(IntegrityError):
                service.unwrap(batch)
            with pytest.raises(IntegrityError):
                service.rewrap(batch)
        assert opened(service, good[:1]) == [pairs[0][0].expose()]

    # -- rotation -------------------------------------------------------------------------

    def test_rotate(self, service: KeyService, kek: Kek) -> None:
        """A rotation adds a version that wraps from now on; the old one still opens what it wrapped."""
        key, old = service.generate(kek)
        assert service.rotate(kek) == 2
        assert service.versions(kek) == KekVersions(minimum=1, latest=2)
        newer_key, new = service.generate(kek)
        assert (old.version, new.version) == (1, 2)
        assert opened(service, [old]) == [key.expose()]
        assert opened(service, [new]) == [newer_key.expose()]

    def test_rewrap(self, service: KeyService, kek: Kek) -> None:
        """A rewrap keeps the key, its id and its place, and moves it to the latest version."""
        pairs = [service.generate(kek) for _ in range(min(4, service.capabilities().max_batch))]
        service.rotate(kek)
        service.rotate(kek)
        old = [wrapped for _, wrapped in pairs]
        new = service.rewrap(old)
        assert [(item.kek, item.key_id, item.version) for item in new] == [(kek, item.key_id, 3) for item in old]
        assert not {item.ciphertext for item in new} & {item.ciphertext for item in old}
        assert opened(service, new) == [key.expose() for key, _ in pairs]
        assert opened(service, old) == [key.expose() for key, _ in pairs]

    def test_rewrap_of_the_latest_version(self, service: KeyService, kek: Kek) -> None:
        """What is at the latest version already may be rewrapped again."""
        key, wrapped = service.generate(kek)
        again = service.rewrap([wrapped])
        assert again[0].version == 1
        assert opened(service, again) == [key.expose()]

    def test_rewrap_keeps_to_its_place(self, service: KeyService, kek: Kek) -> None:
        """A rewrap does not let a wrap move to another dataset or compartment."""
        key, wrapped = service.generate(kek)
        other = made(service)
        service.rotate(kek)
        new = service.rewrap([wrapped])[0]
        refused(service, replace(new, kek=other))
        assert opened(service, [new]) == [key.expose()]

    # -- retirement -----------------------------------------------------------------------

    def test_retire(self, service: KeyService, kek: Kek) -> None:
        """What a retired version wrapped never opens again; what was rewrapped before does."""
        key, old = service.generate(kek)
        service.rotate(kek)
        new = service.rewrap([old])[0]
        service.retire(kek, 2)
        assert service.versions(kek) == KekVersions(minimum=2, latest=2)
        with pytest.raises(KeyRetired):
            service.unwrap([old])
        with pytest.raises(KeyRetired):
            service.rewrap([old])
        assert opened(service, [new]) == [key.expose()]
        assert service.generate(kek)[1].version == 2

    def test_retire_some_of_many(self, service: KeyService, kek: Kek) -> None:
        """Retiring stops at the minimum: newer versions, also those in between, still open."""
        pairs = [service.generate(kek)]
        for _ in range(4):
            service.rotate(kek)
            pairs.append(service.generate(kek))
        service.retire(kek, 3)
        assert service.versions(kek) == KekVersions(minimum=3, latest=5)
        for key, wrapped in pairs[2:]:
            assert opened(service, [wrapped]) == [key.expose()]
        for _, wrapped in pairs[:2]:
            with pytest.raises(KeyRetired):
                service.unwrap([wrapped])
        assert service.rotate(kek) == 6

    def test_retire_does_not_go_back(self, service: KeyService, kek: Kek) -> None:
        """A lower or equal minimum changes nothing: what is gone stays gone."""
        _, old = service.generate(kek)
        service.rotate(kek)
        service.retire(kek, 2)
        for minimum in (2, 1):
            service.retire(kek, minimum)
            assert service.versions(kek) == KekVersions(minimum=2, latest=2)
        with pytest.raises(KeyRetired):
            service.unwrap([old])

    def test_retire_refuses_what_makes_no_sense(self, service: KeyService, kek: Kek) -> None:
        """The minimum is at least 1 and at most the latest version; otherwise nothing is destroyed."""
        key, wrapped = service.generate(kek)
        for minimum in (2, 0, -1):
            with pytest.raises(InvalidInput):
                service.retire(kek, minimum)
        assert opened(service, [wrapped]) == [key.expose()]

    def test_datasets_are_apart(self, service: KeyService, kek: Kek) -> None:
        """Rotating and retiring in one place leaves others as they are."""
        neighbours = [
            made(service, Kek(kek.dataset_id, secrets.token_bytes(16))),
            made(service, Kek(secrets.token_bytes(16), kek.compartment_id)),
        ]
        pairs = [service.generate(other) for other in neighbours]
        service.rotate(kek)
        service.retire(kek, 2)
        for other, (key, wrapped) in zip(neighbours, pairs, strict=True):
            assert service.versions(other) == KekVersions(minimum=1, latest=1)
            assert opened(service, [wrapped]) == [key.expose()]

    # -- signatures -----------------------------------------------------------------------

    def test_signature_verifies(self, service: KeyService) -> None:
        """Signatures of messages of any length verify as ECDSA P-384 with SHA-384, and as nothing else."""
        author = service.create_author(random_name())
        assert len(author.public_key) == 97
        assert author.public_key[0] == 4
        for message in (b"", b"x", secrets.token_bytes(100_000)):
            signature = service.sign(author.name, message)
            assert len(signature) == 96
            verify(author.public_key, signature, message)
            with pytest.raises(InvalidSignature):
                verify(author.public_key, signature, message + b"\0")

    def test_author_is_stable(self, service: KeyService) -> None:
        """The public half that is asked for later is the one that was made."""
        author = service.create_author(random_name())
        assert service.author(author.name) == author

    def test_author_cannot_be_made_twice(self, service: KeyService) -> None:
        """Making a signing key again changes nothing."""
        author = service.create_author(random_name())
        with pytest.raises(AlreadyExists):
            service.create_author(author.name)
        assert service.author(author.name) == author

    def test_authors_are_apart(self, service: KeyService) -> None:
        """One author's signature is not another's."""
        one, two = (service.create_author(random_name()) for _ in range(2))
        assert one.public_key != two.public_key
        with pytest.raises(InvalidSignature):
            verify(two.public_key, service.sign(one.name, b"message"), b"message")

    def test_missing_author(self, service: KeyService) -> None:
        """A signing key that was never made neither shows nor signs."""
        with pytest.raises(KeyMissing):
            service.author(random_name())
        with pytest.raises(KeyMissing):
            service.sign(random_name(), b"message")

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0b", "a b", "é", "-a", "a" * 129, "a\n"])
    def test_author_names(self, service: KeyService, name: str) -> None:
        """Names that could mean something else to a file system or a server are refused."""
        for use in (service.create_author, service.author, lambda name: service.sign(name, b"message")):
            with pytest.raises(InvalidInput):
                use(name)

    def test_longest_author_name(self, service: KeyService) -> None:
        """A name may have 128 characters, and all those that are allowed."""
        name = (random_name() + "._-AZaz09").ljust(128, "x")
        assert service.create_author(name).name == name

    # -- several at once ------------------------------------------------------------------

    def test_race_to_create(self, service: KeyService) -> None:
        """Of eight that create one key-encryption key at once, one does; the others hear so."""
        kek = random_kek()
        outcomes = race(8, lambda _: service.create(kek))
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7
        key, wrapped = service.generate(kek)
        assert opened(service, [wrapped]) == [key.expose()]

    def test_race_to_rotate(self, service: KeyService, kek: Kek) -> None:
        """Rotations at the same time each add a version of their own, and none is lost while others use the key.

        A server may add more: OpenBao says now and then that it has undone one that it has carried out.
        """
        key, wrapped = service.generate(kek)

        def run(number: int) -> object:
            if number % 2:
                return service.rotate(kek)
            _, fresh = service.generate(kek)
            return opened(service, [wrapped, fresh][: service.capabilities().max_batch])[0] == key.expose()

        outcomes = race(8, run)
        added = {outcome for outcome in outcomes[1::2] if isinstance(outcome, int)}
        assert len(added) == 4
        assert min(added) >= 2
        assert outcomes[::2] == [True] * 4
        versions = service.versions(kek)
        assert versions.minimum == 1
        assert versions.latest >= max(5, *added)

    # -- what must not show ---------------------------------------------------------------

    def test_nothing_shows_a_key(self, service: KeyService, kek: Kek) -> None:
        """Neither ``repr`` nor an error of the service shows a data key."""
        key, wrapped = service.generate(kek)
        with pytest.raises(IntegrityError) as caught:
            service.unwrap([replace(wrapped, ciphertext=wrapped.ciphertext[:-1])])
        shown = f"{service!r} {service} {key!r} {key} {wrapped!r} {caught.value!r} {caught.value}"
        for secret in (key.expose().hex(), repr(key.expose())[2:-1]):
            assert secret not in shown


def random_kek() -> Kek:
    """The name of a key-encryption key that nobody else uses."""
    return Kek(secrets.token_bytes(16), secrets.token_bytes(16))


def random_name() -> str:
    """The name of a signing key that nobody else uses."""
    return f"conformance-{secrets.token_hex(8)}"


def made(service: KeyService, kek: Kek | None = None) -> Kek:
    """A key-encryption key that now exists."""
    kek = kek or random_kek()
    service.create(kek)
    return kek


def opened(service: KeyService, wrapped: Sequence[WrappedKey]) -> list[bytes]:
    """The bare keys of one unwrap call."""
    return [key.expose() for key in service.unwrap(wrapped)]


def refused(service: KeyService, wrapped: WrappedKey) -> None:
    """Check that neither unwrap nor rewrap takes *wrapped*."""
    for use in (service.unwrap, service.rewrap):
        with pytest.raises(SealedHealthError) as caught:
            use([wrapped])
        # A version number that does not exist may be taken as missing; everything else is an integrity error.
        assert isinstance(caught.value, IntegrityError | KeyMissing | KeyRetired)
        assert (
            isinstance(caught.value, IntegrityError) or not 1 <= wrapped.version <= service.versions(wrapped.kek).latest
        )


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Check a signature of 96 bytes. Raises ``InvalidSignature``."""
    encoded = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public_key)
    point.verify(encoded, message, ec.ECDSA(SHA384()))
