"""Faults between us and Azure Blob Storage: what its client retries, what is an error, and which one."""

import os
import traceback
import uuid
from datetime import timedelta

import pytest
from conftest import BUCKET, Place
from store_proxy import (
    broken_upload,
    cut,
    deaf,
    dropped,
    flipped,
    longer,
    lost,
    redirected,
    refused,
    shorter,
    silent,
    store_proxy,
)

from sealedhealth.errors import (
    AccessDenied,
    MissingError,
    ServiceUnavailable,
    StoreError,
    TamperedError,
    Throttled,
    TruncatedError,
)

pytestmark = pytest.mark.azurite

SMALL = b"small" * 200
LARGE = os.urandom(600 << 10)
HUGE = os.urandom(700 << 10)  # three blocks
ATTEMPTS = 4


@pytest.fixture(scope="module")
def _proxy(azurite_server):
    with store_proxy(azurite_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def proxy(_proxy):
    """A proxy in front of Azurite, which is honest until told otherwise."""
    _proxy.clear()
    yield _proxy
    _proxy.clear()


@pytest.fixture
def store(proxy, azurite_server, monkeypatch):
    """A store behind the proxy with two blobs, whose client tries again at once."""
    monkeypatch.setattr("sealedhealth.stores.azure._AzureWriter.part_size", 256 << 10)
    text = azurite_server.options["connection_string"].replace(azurite_server.endpoint_url, proxy.address)
    store = Place("azurite", f"az://{BUCKET}/{uuid.uuid4().hex}/dataset", {"connection_string": text}).store()
    policy = store.fs.service_client._config.retry_policy
    monkeypatch.setattr(policy, "initial_backoff", 0.01)
    monkeypatch.setattr(policy, "random_jitter_range", 0.01)
    monkeypatch.setattr(policy, "increment_base", 0)
    store.put_many({"objects/aa/small": SMALL, "objects/aa/large": LARGE})
    proxy.clear()
    return store


def write(store, name="objects/bb/large"):
    """Write a large blob in blocks."""
    with store.writer(name) as writer:
        writer.write(HUGE)
        writer.commit()


OPERATIONS = {
    "put": lambda store: store.put("objects/bb/small", SMALL),
    "put-many": lambda store: store.put_many({f"objects/bb/{n}": SMALL for n in range(5)}),
    "put-large": write,
    "get": lambda store: store.get("objects/aa/small", limit=5000),
    "range": lambda store: store.get_ranges([("objects/aa/large", 100, 300_000)]),
    "exists": lambda store: store.exists("objects/aa/small"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete_many(["objects/aa/small", "objects/aa/absent"]),
}
PASSING = {
    "500": (refused(500, "InternalError"), ServiceUnavailable),
    "503": (refused(503, "ServerBusy"), Throttled),
    "dropped": (dropped, ServiceUnavailable),
    "lost": (lost, ServiceUnavailable),
}
FINAL = {
    "stranger": (refused(403, "AuthenticationFailed"), AccessDenied),
    "denied": (refused(403, "AuthorizationPermissionMismatch"), AccessDenied),
    "teapot": (refused(400, "InvalidHeaderValue"), StoreError),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_what_passes_is_retried(store, proxy, what):
    """A fault that happens once costs one attempt more, and nothing else."""
    expected = OPERATIONS[what](store)
    for kind, (fault, _) in PASSING.items():
        proxy.clear()
        rule = proxy.when("", fault)
        found = OPERATIONS[what](store)
        assert found == expected or what == "list", kind
        assert rule.happened == 1
        if what == "put-large":
            assert store.get("objects/bb/large", limit=len(HUGE)) == HUGE


@pytest.mark.parametrize("what", OPERATIONS)
def test_attempts_are_bounded(store, proxy, what):
    """A fault that stays is one error after a few attempts, and the next attempt works."""
    for kind, (fault, error) in PASSING.items():
        proxy.clear()
        proxy.when("", fault, times=-1)
        with pytest.raises(error) as caught:
            OPERATIONS[what](store)
        assert type(caught.value) is error, kind
        # aiohttp asks once more when a connection that was open before turns out to be closed.
        most = ATTEMPTS * {"put-many": 5, "put-large": 5}.get(what, 1) * (2 if kind in {"dropped", "lost"} else 1)
        assert proxy.count() <= most, kind
        proxy.clear()
        OPERATIONS[what](store)


@pytest.mark.parametrize("what", OPERATIONS)
def test_what_stays_is_told_at_once(store, proxy, azurite_server, what):
    """Refusals and redirects are not retried or followed, and show no credential."""
    for fault, error in FINAL.values():
        proxy.clear()
        proxy.when("", fault, times=-1)
        with pytest.raises(error) as caught:
            OPERATIONS[what](store)
        assert type(caught.value) is error
        assert proxy.count() <= {"put-many": 5, "put-large": 5}.get(what, 1)
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__)
        assert azurite_server.key not in text


@pytest.mark.parametrize("what", OPERATIONS)
def test_redirects_are_not_followed(store, proxy, azurite_server, what):
    """Nothing is sent to another host, whatever this one says."""
    with store_proxy(azurite_server.endpoint_url) as other:
        for status in (301, 302, 303, 307, 308):
            proxy.clear()
            proxy.when("", redirected(other.address, status), times=-1)
            with pytest.raises(StoreError, match="another address"):
                OPERATIONS[what](store)
        assert other.seen == []


def test_a_throttled_host(store, proxy):
    """A 429 of a gateway in between is told as such."""
    proxy.when("", refused(429), times=-1)
    with pytest.raises(Throttled):
        store.get("objects/aa/small", limit=5000)


def test_ranges_that_are_not_right(store, proxy):
    """What breaks off or is short is asked for again; what is too long or other is handed on or refused."""
    asked = [("objects/aa/large", 5, 500_000)]
    for fault in (cut, shorter):
        proxy.clear()
        proxy.when("GetBlob", fault)
        assert store.get_ranges(asked) == [LARGE[5:500_000]]
        proxy.clear()
        proxy.when("GetBlob", fault, times=-1)
        with pytest.raises((TruncatedError, ServiceUnavailable)):
            store.get_ranges(asked)
        assert proxy.count() <= 3 * ATTEMPTS
    proxy.clear()
    proxy.when("GetBlob", longer, times=-1)
    with pytest.raises(TruncatedError):
        store.get_ranges(asked)
    with pytest.raises((TamperedError, ServiceUnavailable)):
        store.get("objects/aa/small", limit=len(SMALL))
    proxy.clear()
    proxy.when("GetBlob", flipped, times=-1)
    assert store.get_ranges(asked) != [LARGE[5:500_000]]
    assert proxy.count() == 1
    proxy.clear()
    proxy.when("GetBlob", refused(404, "BlobNotFound"))
    with pytest.raises(MissingError):
        store.get_ranges(asked)
    assert store.get_ranges(asked) == [LARGE[5:500_000]]


@pytest.mark.parametrize("fault", [broken_upload, dropped, lost, refused(500, "InternalError")])
@pytest.mark.parametrize("step", ["PutBlock", "PutBlockList"])
def test_a_step_of_an_upload_fails_once(store, proxy, fault, step):
    """The blob is whole, and nothing else stays."""
    proxy.when(f"{step} ", fault)
    write(store)
    assert store.get("objects/bb/large", limit=len(HUGE)) == HUGE
    assert list(store.unfinished()) == []


def test_an_upload_is_killed_in_the_middle_of_a_block(store, proxy):
    """What cannot be finished is forgotten; what cannot even be forgotten is found by its age."""
    for after in (0, 1):
        proxy.when("PutBlock ", broken_upload, after=after, times=-1)
        with pytest.raises(ServiceUnavailable):
            write(store)
        proxy.clear()
        assert list(store.unfinished()) == []
    proxy.when("PutBlock ", refused(403, "AuthenticationFailed"), after=1, times=-1)
    proxy.when("PutBlockList", refused(403, "AuthenticationFailed"), times=-1)
    with pytest.raises(AccessDenied):
        write(store)
    proxy.clear()
    assert [one.name for one in store.unfinished()] == ["objects/bb/large"]
    assert store.delete_unfinished(timedelta(hours=1)) == 0
    assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    assert not store.exists("objects/bb/large")


def test_a_host_that_never_answers(store, proxy):
    """The user's own read timeout, a few times, then one error."""
    store._timeouts["read_timeout"] = 0.2
    proxy.when("", silent, times=-1)
    with pytest.raises(ServiceUnavailable):
        store.get("objects/aa/small", limit=5000)
    assert proxy.count() <= ATTEMPTS


def test_a_host_that_does_not_take_what_is_sent(store, proxy, monkeypatch):
    """No timeout of the client covers that; ours does."""
    monkeypatch.setattr("sealedhealth.stores.azure.PATIENCE", 1)
    monkeypatch.setattr("sealedhealth.stores.azure.SLOWEST", 1 << 30)
    proxy.when("PutBlob", deaf, times=-1)
    with pytest.raises(ServiceUnavailable):
        store.put("objects/bb/new", bytes(20 << 20))
