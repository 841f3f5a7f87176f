"""What every registry must do."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from sealedhealth.errors import ConflictError, InvalidInput, NotFound
from sealedhealth.keys import DatasetRef, PolicyRef, Registry
from sealedhealth.testing.racing import race

__all__ = ["RegistryConformance"]


class RegistryConformance:
    """Subclass it, and give a fixture ``registry``: a :class:`sealedhealth.keys.Registry`."""

    @pytest.fixture
    def registry(self) -> Registry:
        """The registry under test: with the right to write."""
        raise NotImplementedError("give a fixture called registry")

    @pytest.fixture
    def ref(self) -> DatasetRef:
        """A dataset that nobody else uses, not registered yet."""
        return random_ref()

    def test_is_a_registry(self, registry: Registry) -> None:
        """It has every method of the interface."""
        assert isinstance(registry, Registry)

    def test_nothing_there(self, registry: Registry, ref: DatasetRef) -> None:
        """What was never registered is not found, by URL or id."""
        for name in (*ref.urls, ref.dataset_id.hex(), "", "/"):
            with pytest.raises(NotFound):
                registry.lookup(name)

    def test_register_and_look_up(self, registry: Registry, ref: DatasetRef) -> None:
        """A registered dataset is found by each of its URLs, by its id, and in the list."""
        ref = replace(ref, urls=(*ref.urls, random_url(), random_url() + "/données été"))
        registry.register(ref)
        for name in (*ref.urls, ref.dataset_id.hex(), ref.dataset_id.hex().upper()):
            assert registry.lookup(name) == ref
        assert [other for other in registry.datasets() if other.dataset_id == ref.dataset_id] == [ref]

    def test_trailing_slash(self, registry: Registry, ref: DatasetRef) -> None:
        """A ``/`` at the end of a URL means nothing, when registering and when looking up."""
        registry.register(replace(ref, urls=(ref.urls[0] + "/",)))
        assert registry.lookup(ref.urls[0]) == registry.lookup(ref.urls[0] + "/") == ref

    def test_urls_match_exactly(self, registry: Registry, ref: DatasetRef) -> None:
        """Neither a part of a URL, nor more than it, nor another spelling finds a dataset."""
        registry.register(ref)
        url = ref.urls[0]
        for near in (url[:-1], url + "x", url + "/x", url.upper(), url.rsplit("/", 1)[0], " " + url):
            with pytest.raises(NotFound):
                registry.lookup(near)

    def test_datasets_are_apart(self, registry: Registry, ref: DatasetRef) -> None:
        """Registering one dataset leaves another as it is."""
        other = random_ref()
        registry.register(ref)
        registry.register(other)
        assert registry.lookup(ref.urls[0]) == ref
        assert registry.lookup(other.urls[0]) == other

    def test_replace(self, registry: Registry, ref: DatasetRef) -> None:
        """A dataset that moved is found at its new URL, and at the old one no more."""
        registry.register(ref)
        moved = replace(ref, urls=(random_url(),))
        registry.register(moved)
        assert registry.lookup(moved.urls[0]) == registry.lookup(ref.dataset_id.hex()) == moved
        with pytest.raises(NotFound):
            registry.lookup(ref.urls[0])

    def test_register_again(self, registry: Registry, ref: DatasetRef) -> None:
        """The same record again changes nothing."""
        ref = replace(ref, policy=policy(2))
        registry.register(ref)
        registry.register(ref)
        assert registry.lookup(ref.urls[0]) == ref

    def test_url_taken(self, registry: Registry, ref: DatasetRef) -> None:
        """A URL of another dataset cannot be taken, not even among free ones; nothing changes then."""
        registry.register(ref)
        free = random_url()
        with pytest.raises(ConflictError):
            registry.register(replace(random_ref(), urls=(free, ref.urls[0] + "/")))
        assert registry.lookup(ref.urls[0]) == ref
        with pytest.raises(NotFound):
            registry.lookup(free)

    def test_conflict_keeps_the_old_record(self, registry: Registry, ref: DatasetRef) -> None:
        """A dataset that fails to take another's URL stays where it was."""
        other = random_ref()
        registry.register(ref)
        registry.register(other)
        with pytest.raises(ConflictError):
            registry.register(replace(other, urls=ref.urls))
        assert registry.lookup(other.urls[0]) == other

    def test_destroyed(self, registry: Registry, ref: DatasetRef) -> None:
        """A destroyed dataset is still found, and says so; its URL is free for another, its id is not."""
        registry.register(ref)
        destroyed = replace(ref, destroyed=True)
        registry.register(destroyed)
        assert registry.lookup(ref.urls[0]) == destroyed
        successor = replace(random_ref(), urls=ref.urls)
        registry.register(successor)
        assert registry.lookup(ref.urls[0]) == successor
        assert registry.lookup(ref.dataset_id.hex()) == destroyed

    def test_destruction_is_final(self, registry: Registry, ref: DatasetRef) -> None:
        """A destroyed dataset cannot be registered as if it were not."""
        registry.register(replace(ref, destroyed=True))
        with pytest.raises(ConflictError):
            registry.register(ref)
        assert registry.lookup(ref.dataset_id.hex()).destroyed

    def test_policy_goes_forward(self, registry: Registry, ref: DatasetRef) -> None:
        """The recorded policy only gets newer: an older one, none, or another of its version is refused."""
        registry.register(ref)
        current = replace(ref, policy=policy(3))
        registry.register(current)
        for stale in (policy(2), policy(1), policy(3), None):
            with pytest.raises(ConflictError):
                registry.register(replace(ref, policy=stale))
            assert registry.lookup(ref.urls[0]) == current
        newer = replace(ref, policy=policy(7))
        registry.register(newer)
        assert registry.lookup(ref.urls[0]) == newer

    @pytest.mark.parametrize("url", ["", "/", "a\nb", "a\0b", "0" * 32, "s3://" + "x" * 5000])
    def test_no_such_url(self, registry: Registry, ref: DatasetRef, url: str) -> None:
        """What is empty, over-long, holds control characters or looks like an id is no URL."""
        with pytest.raises(InvalidInput):
            registry.register(replace(ref, urls=(url,)))

    def test_malformed_records(self, registry: Registry, ref: DatasetRef) -> None:
        """Ids and digests of another length, and policies before version 1, are refused."""
        good = policy(1)
        for bad in (
            replace(ref, dataset_id=ref.dataset_id[1:]),
            replace(ref, policy=replace(good, version=0)),
            replace(ref, policy=replace(good, change_id=b"")),
            replace(ref, policy=replace(good, digest=good.digest[1:])),
        ):
            with pytest.raises(InvalidInput):
                registry.register(bad)
        with pytest.raises(NotFound):
            registry.lookup(ref.dataset_id.hex())

    def test_race_for_a_url(self, registry: Registry) -> None:
        """Of eight datasets that take one URL at once, one gets it."""
        url = random_url()
        refs = [replace(random_ref(), urls=(url,)) for _ in range(8)]
        outcomes = race(8, lambda number: registry.register(refs[number]))
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 7
        assert registry.lookup(url) == refs[outcomes.index(None)]

    def test_race_loses_nothing(self, registry: Registry) -> None:
        """Of eight datasets registered at once under URLs of their own, all are there."""
        refs = [random_ref() for _ in range(8)]
        assert race(8, lambda number: registry.register(refs[number])) == [None] * 8
        assert [registry.lookup(ref.urls[0]) for ref in refs] == refs


def random_url() -> str:
    """A URL that nobody else uses."""
    return f"s3://conformance/{secrets.token_hex(8)}"


def random_ref() -> DatasetRef:
    """A dataset that nobody else uses, with one URL."""
    return DatasetRef(secrets.token_bytes(16), (random_url(),))


def policy(version: int) -> PolicyRef:
    """A policy that differs from every other one."""
    return PolicyRef(version, secrets.token_bytes(16), secrets.token_bytes(48))
