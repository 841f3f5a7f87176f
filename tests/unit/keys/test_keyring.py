"""The keyring and sealing keys."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from sealedhealth.errors import InvalidInput, KeyRetired, SealedHealthError, ServiceUnavailable, WrongKey
from sealedhealth.keys import DataKey, Kek, Keyring, LocalKeyService


class Counting:
    """A key service that notes each batch, and can answer falsely."""

    def __init__(self, service):
        self.service = service
        self.batches = []
        self.max_batch = 1000
        self.falsify = lambda keys: keys
        self.before = lambda: None

    def capabilities(self):
        return replace(self.service.capabilities(), max_batch=self.max_batch)

    def generate(self, kek):
        return self.service.generate(kek)

    def unwrap(self, wrapped):
        self.before()
        self.batches.append(len(wrapped))
        return self.falsify(self.service.unwrap(wrapped))


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def local(tmp_path):
    """A key service."""
    return LocalKeyService.init(tmp_path / "keystore", development=True)


@pytest.fixture
def kek(local):
    """A key-encryption key."""
    kek = Kek(b"d" * 16, b"c" * 16)
    local.create(kek)
    return kek


@pytest.fixture
def service(local):
    """The same key service, watched."""
    return Counting(local)


@pytest.fixture
def clock():
    """The keyring's clock."""
    return Clock()


@pytest.fixture
def keyring(service, clock):
    """A keyring on the watched service."""
    return Keyring(service, ttl=timedelta(seconds=60), clock=clock)


@pytest.fixture
def pairs(local, kek):
    """Ten data keys and their wraps."""
    return [local.generate(kek) for _ in range(10)]


def bare(found):
    """Bare keys by id."""
    return {key_id: key.expose() for key_id, key in found.items()}


def test_get_is_one_call(keyring, service, pairs):
    """Any number of keys within the batch size takes one call, and the right keys come back."""
    assert bare(keyring.get(wrapped for _, wrapped in pairs)) == {key.key_id: key.expose() for key, _ in pairs}
    assert (keyring.calls, service.batches) == (1, [10])


def test_get_nothing(keyring):
    """Asking for nothing calls nobody."""
    assert keyring.get([]) == {}
    assert keyring.calls == 0


def test_batches_are_cut(keyring, service, pairs):
    """No call exceeds what the service takes."""
    service.max_batch = 4
    assert len(keyring.get([wrapped for _, wrapped in pairs])) == 10
    assert service.batches == [4, 4, 2]
    assert keyring.calls == 3


def test_cached_keys_cost_nothing(keyring, service, pairs):
    """Only keys that are not at hand are fetched."""
    wrapped = [wrapped for _, wrapped in pairs]
    first = keyring.get(wrapped[:6])
    again = keyring.get(wrapped)
    assert service.batches == [6, 4]
    assert all(again[key_id] is key for key_id, key in first.items())


def test_repeats_are_fetched_once(keyring, service, pairs):
    """The same wrap several times in one request is one key."""
    wrapped = pairs[0][1]
    assert list(keyring.get([wrapped] * 5)) == [wrapped.key_id]
    assert service.batches == [1]


def test_newest_wrap_counts(keyring, local, kek, pairs):
    """Of an old wrap and its rewrap, the newer is opened, whatever their order: the old may be retired."""
    local.rotate(kek)
    for key, old in pairs[:2]:
        new = local.rewrap([old])[0]
        local.retire(kek, 2) if old is pairs[1][1] else None
        order = [old, new] if old is pairs[0][1] else [new, old]
        assert bare(keyring.get(order)) == {key.key_id: key.expose()}


def test_keys_expire(keyring, service, clock, pairs):
    """A key is fetched again once its time is over, counted from the fetch and not from its use."""
    wrapped = [pairs[0][1]]
    keyring.get(wrapped)
    for moment, batches in ((130.0, 1), (159.9, 1), (160.0, 2), (219.0, 2), (220.0, 3)):
        clock.now = moment
        keyring.get(wrapped)
        assert len(service.batches) == batches


def test_expired_keys_are_wiped(keyring, clock, pairs):
    """An expired key's memory is overwritten once nobody uses it any more, and not before."""
    found = keyring.get([pairs[0][1]])
    key = found.popitem()[1]
    memory = key._key
    clock.now += 61
    keyring.get([])
    assert key.expose() == pairs[0][0].expose()
    del key
    assert memory == bytes(32)


def test_withdrawn_keys_stop_working(keyring, local, clock, kek, pairs):
    """A retired version opens nothing once the keyring's copy has expired, or was cleared."""
    wrapped = [pairs[0][1]]
    keyring.get(wrapped)
    local.rotate(kek)
    local.retire(kek, 2)
    keyring.get(wrapped)
    clock.now += 61
    with pytest.raises(KeyRetired):
        keyring.get(wrapped)


def test_clear(keyring, service, pairs):
    """Clearing wipes every key, in use or not; they can be fetched again."""
    found = keyring.get([wrapped for _, wrapped in pairs])
    keyring.clear()
    assert all(key.closed for key in found.values())
    keyring.get([pairs[0][1]])
    assert service.batches == [10, 1]


def test_close(keyring, kek, pairs):
    """A closed keyring has wiped its keys and gives none."""
    with keyring:
        found = keyring.get([pairs[0][1]])
    assert all(key.closed for key in found.values())
    for use in (lambda: keyring.get([pairs[0][1]]), lambda: keyring.get([]), lambda: keyring.sealing_key(kek)):
        with pytest.raises(SealedHealthError, match="closed"):
            use()


def test_closed_during_a_fetch(keyring, service, pairs):
    """Keys that arrive after the keyring was closed are not kept."""
    service.before = keyring.close
    with pytest.raises(SealedHealthError, match="closed"):
        keyring.get([pairs[0][1]])
    assert not keyring._cache


def test_zero_ttl(service, pairs):
    """With no time to live every request fetches."""
    keyring = Keyring(service, ttl=timedelta(0))
    keyring.get([pairs[0][1]])
    keyring.get([pairs[0][1]])
    assert service.batches == [1, 1]


def test_wrong_key(keyring, service, pairs):
    """A service that answers with other keys, or in another order, is caught, and its keys are wiped."""
    answered = []
    for falsify in (lambda keys: keys[::-1], lambda keys: [DataKey(bytes(32)), *keys[1:]]):
        service.falsify = lambda keys, falsify=falsify: answered.append(falsify(keys)) or answered[-1]
        with pytest.raises(WrongKey):
            keyring.get([wrapped for _, wrapped in pairs])
        assert all(key.closed for key in answered[-1])
    service.falsify = lambda keys: keys
    assert len(keyring.get([wrapped for _, wrapped in pairs])) == 10


@pytest.mark.parametrize("falsify", [lambda keys: keys[:-1], lambda keys: [*keys, DataKey(bytes(32))], lambda _: []])
def test_wrong_number_of_keys(keyring, service, pairs, falsify):
    """A service that answers too few or too many keys is caught."""
    service.falsify = falsify
    with pytest.raises(ServiceUnavailable, match="asked for 10"):
        keyring.get([wrapped for _, wrapped in pairs])


def test_altered_id(keyring, pairs):
    """A log that swaps the ids of two wraps is caught."""
    one, two = pairs[0][1], pairs[1][1]
    with pytest.raises(WrongKey):
        keyring.get([replace(one, key_id=two.key_id)])


def test_cache_keeps_to_the_place(keyring, local, pairs):
    """A cached key does not answer for a wrap that claims another compartment."""
    other = Kek(b"d" * 16, b"x" * 16)
    local.create(other)
    keyring.get([pairs[0][1]])
    with pytest.raises(SealedHealthError):
        keyring.get([replace(pairs[0][1], kek=other)])


def test_errors_leave_what_is_there(keyring, pairs):
    """A batch that fails leaves the keys at hand, and the next request works."""
    found = keyring.get([pairs[0][1]])
    with pytest.raises(SealedHealthError):
        keyring.get([pairs[0][1], replace(pairs[1][1], version=9)])
    assert keyring.get([pairs[0][1]])[pairs[0][1].key_id] is found[pairs[0][1].key_id]


def test_threads_share_one_fetch(keyring, service, pairs):
    """Threads that ask for the same keys at once cause one call, and all get them."""
    start = threading.Barrier(8)
    results = []

    def run():
        start.wait()
        results.append(bare(keyring.get([wrapped for _, wrapped in pairs])))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{key.key_id: key.expose() for key, _ in pairs}] * 8
    assert service.batches == [10]


def test_sealing_key(keyring, local, kek):
    """A sealing key is fresh, wrapped, and one call."""
    with keyring.sealing_key(kek) as key, keyring.sealing_key(kek) as other:
        assert keyring.calls == 2
        assert key.key_id == key.data_key.key_id == key.wrapped.key_id != other.key_id
        assert local.unwrap([key.wrapped])[0].expose() == key.data_key.expose()
    assert key.data_key.closed
    assert key.exhausted


def test_sealing_key_wears_out_by_bytes(service, kek):
    """A sealing key is exhausted once it has sealed what it may."""
    key = Keyring(service, max_sealing_bytes=1000).sealing_key(kek)
    key.charge(999)
    assert not key.exhausted
    key.charge(0)
    assert not key.exhausted
    key.charge(1)
    assert key.exhausted
    assert key.sealed_bytes == 1000


def test_sealing_key_wears_out_by_age(service, clock, kek):
    """A sealing key is exhausted after its time."""
    key = Keyring(service, max_sealing_age=timedelta(hours=1), clock=clock).sealing_key(kek)
    clock.now += 3599
    assert not key.exhausted
    clock.now += 1
    assert key.exhausted


def test_sealing_key_charge_is_not_negative(keyring, kek):
    """Nobody gets bytes back."""
    with pytest.raises(InvalidInput):
        keyring.sealing_key(kek).charge(-1)


@pytest.mark.parametrize(
    "falsify", [lambda wrap: {"key_id": b"x" * 16}, lambda wrap: {"kek": Kek(b"x" * 16, b"c" * 16)}]
)
def test_sealing_key_is_checked(keyring, service, kek, falsify):
    """A service that wraps another key, or elsewhere, is caught before anything is sealed."""
    key, wrapped = service.generate(kek)
    service.generate = lambda _: (key, replace(wrapped, **falsify(wrapped)))
    with pytest.raises(WrongKey):
        keyring.sealing_key(kek)
    assert key.closed


def test_nothing_shows(keyring, kek, pairs):
    """Neither the keyring nor a sealing key shows keys."""
    keyring.get([wrapped for _, wrapped in pairs])
    sealing = keyring.sealing_key(kek)
    shown = f"{keyring!r} {vars(keyring)} {sealing!r}"
    for key in [*(key for key, _ in pairs), sealing.data_key]:
        assert key.expose().hex() not in shown
        assert repr(key.expose())[2:-1] not in shown
