"""Faults between us and a real S3 server: what is retried, what is an error, and which one."""

import os
import time
import traceback
from datetime import timedelta

import pytest
from store_proxy import (
    Replay,
    broken_upload,
    changed,
    cut,
    deaf,
    dropped,
    flipped,
    late,
    longer,
    lost,
    redirected,
    refused,
    shorter,
    silent,
    store_proxy,
    whole,
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
from sealedhealth.stores import open_store

pytestmark = [pytest.mark.seaweed, pytest.mark.usefixtures("hasty")]

KIB = 1 << 10
SMALL = b"small" * 200
LARGE = os.urandom(600 * KIB)
HUGE = os.urandom(5_300 * KIB)  # two parts, the first of which is as small as a server takes
ATTEMPTS = 4


@pytest.fixture
def store(proxied, s3_proxy, monkeypatch):
    """A store behind the proxy with two objects."""
    monkeypatch.setattr("sealedhealth.stores.s3._S3Writer.part_size", 5_120 * KIB)
    store = proxied.store()
    store.put_many({"objects/aa/small": SMALL, "objects/aa/large": LARGE})
    s3_proxy.clear()
    return store


def write(store, name="objects/bb/large"):
    """Write a large object in parts."""
    with store.writer(name) as writer:
        writer.write(HUGE)
        writer.commit()


def uploads(store):
    """Uploads that were begun and neither completed nor aborted."""
    return [one.name for one in store.unfinished()]


OPERATIONS = {
    "put": lambda store: store.put("objects/bb/small", SMALL),
    "put-many": lambda store: store.put_many({f"objects/bb/{n}": SMALL for n in range(5)}),
    "put-large": write,
    "get": lambda store: store.get("objects/aa/small", limit=5000),
    "range": lambda store: store.get_ranges([("objects/aa/large", 100, 300_000), ("objects/aa/small", 1, 9)]),
    "exists": lambda store: store.exists("objects/aa/small"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete_many(["objects/aa/small", "objects/aa/absent"]),
    "clear": lambda store: store.delete_unfinished(timedelta(0)),
}
PASSING = {
    "500": (refused(500, "InternalError"), ServiceUnavailable),
    "502": (refused(502), ServiceUnavailable),
    "503": (refused(503, "SlowDown"), Throttled),
    "503-wait": (refused(503, "SlowDown", ("Retry-After", "0")), Throttled),
    "429": (refused(429), Throttled),
    "dropped": (dropped, ServiceUnavailable),
    "lost": (lost, ServiceUnavailable),
}
FINAL = {
    "expired": (refused(403, "ExpiredToken"), AccessDenied, "credentials expired"),
    "expired-400": (refused(400, "ExpiredToken"), AccessDenied, "credentials expired"),
    "stranger": (refused(403, "InvalidAccessKeyId"), AccessDenied, "does not know these credentials"),
    "secret": (refused(403, "SignatureDoesNotMatch"), AccessDenied, "does not know these credentials"),
    "clock": (refused(403, "RequestTimeTooSkewed"), AccessDenied, "clocks"),
    "denied": (refused(403, "AccessDenied"), AccessDenied, "does not allow it"),
    "teapot": (refused(400, "InvalidRequest"), StoreError, "refused"),
}


REQUESTS = {"put-many": 5, "range": 2}  #: of the others one
CHANGING = {"delete", "clear"}


@pytest.mark.parametrize("what", OPERATIONS)
def test_what_passes_is_retried(store, s3_proxy, what):
    """A fault that happens once costs one attempt more, and nothing else."""
    expected = OPERATIONS[what](store)
    for kind, (fault, _) in PASSING.items():
        s3_proxy.clear()
        rule = s3_proxy.when("", fault)
        found = OPERATIONS[what](store)
        assert found == expected or what in CHANGING, kind
        assert rule.happened == 1
        s3_proxy.clear()
        if what == "put-large":
            assert store.get_ranges([("objects/bb/large", 0, len(HUGE))]) == [HUGE]
            store.delete_unfinished(timedelta(seconds=-60))


@pytest.mark.parametrize("what", OPERATIONS)
def test_attempts_are_bounded(store, s3_proxy, what):
    """A fault that stays is one error after four attempts: the retries of our three layers do not multiply."""
    for kind, (fault, error) in PASSING.items():
        s3_proxy.clear()
        s3_proxy.when("", fault, times=-1)
        with pytest.raises(error) as caught:
            OPERATIONS[what](store)
        assert type(caught.value) is error, kind
        # aiohttp asks once more when a connection that was open before turns out to be closed.
        most = ATTEMPTS * REQUESTS.get(what, 1) * (2 if kind in {"dropped", "lost"} else 1)
        assert s3_proxy.count() <= most, kind
        s3_proxy.clear()
        OPERATIONS[what](store)


@pytest.mark.parametrize("what", OPERATIONS)
def test_what_stays_is_told_at_once(store, s3_proxy, proxied, what):
    """Refusals are not retried, say what is wrong, and show no credential."""
    for fault, error, said in FINAL.values():
        s3_proxy.clear()
        s3_proxy.when("", fault, times=-1)
        with pytest.raises(error, match=said) as caught:
            OPERATIONS[what](store)
        assert type(caught.value) is error
        late = time.monotonic() + 2  # what went out beside the request that failed may still be on its way
        while s3_proxy.count() < REQUESTS.get(what, 1) and time.monotonic() < late:
            time.sleep(0.005)
        assert s3_proxy.count() <= REQUESTS.get(what, 1)
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__cause__)
        for secret in (proxied.options["key"], proxied.options["secret"]):
            assert secret not in text


def test_credentials_expire_in_the_middle(store, s3_proxy):
    """Of a large object: the parts that went before are discarded when the credentials work again, by gc."""
    s3_proxy.when("UploadPart", refused(403, "ExpiredToken"), after=1, times=-1)
    s3_proxy.when("Abort", refused(403, "ExpiredToken"), times=-1)
    with pytest.raises(AccessDenied, match="credentials expired"):
        write(store)
    s3_proxy.clear()
    assert uploads(store) == ["objects/bb/large"]
    assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    write(store)


def test_a_clock_that_is_wrong(store, monkeypatch):
    """A real server refuses what was signed hours ago, and the error says that it is the clock."""
    import botocore.auth
    from botocore.compat import get_current_datetime

    monkeypatch.setattr(
        botocore.auth, "get_current_datetime", lambda **options: get_current_datetime(**options) - timedelta(hours=5)
    )
    with pytest.raises(AccessDenied, match="clock"):
        store.get("objects/aa/small", limit=5000)


# --- reading -------------------------------------------------------------------------------


def test_a_range_that_breaks_off(store, s3_proxy):
    """The rest is not asked for, the range is, three times at most."""
    s3_proxy.when("GetObject", cut, times=2)
    assert store.get_ranges([("objects/aa/large", 5, 500_000)]) == [LARGE[5:500_000]]
    assert s3_proxy.count("GetObject") == 3
    s3_proxy.clear()
    s3_proxy.when("GetObject", cut, times=-1)
    with pytest.raises(ServiceUnavailable):
        store.get_ranges([("objects/aa/large", 5, 500_000)])
    assert s3_proxy.count() == 3


def test_an_error_that_breaks_off(store, s3_proxy):
    """That an object is absent is heard from the next answer."""
    s3_proxy.when("GetObject", cut, times=2)
    assert not store.exists("objects/aa/absent")
    assert s3_proxy.count() == 3


def test_a_range_that_is_short(store, s3_proxy):
    """An answer that ends early and says nothing of it is asked for twice more, then it is truncated."""
    s3_proxy.when("GetObject .*large", shorter, times=2)
    asked = [("objects/aa/large", 5, 500_000), ("objects/aa/small", 0, 10)]
    assert store.get_ranges(asked) == [LARGE[5:500_000], SMALL[:10]]
    assert s3_proxy.count("large") == 3
    assert s3_proxy.count("small") == 1
    s3_proxy.clear()
    s3_proxy.when("GetObject", shorter, times=-1)
    with pytest.raises(TruncatedError):
        store.get_ranges([("objects/aa/large", 5, 500_000)])
    assert s3_proxy.count() == 3


def test_more_than_was_asked_for(store, s3_proxy):
    """What is too long is an error at once, and is not read to its end."""
    s3_proxy.when("GetObject", longer, times=-1)
    with pytest.raises(TruncatedError):
        store.get_ranges([("objects/aa/large", 5, 500_000)])
    s3_proxy.clear()
    s3_proxy.when("GetObject", changed(lambda _: bytes(50 << 20)), times=-1)
    with pytest.raises(TruncatedError, match="1001 bytes instead of 1000"):
        store.get_ranges([("objects/aa/large", 0, 1000)])
    with pytest.raises(TamperedError, match="larger than it may be"):
        store.get("objects/aa/small", limit=5000)


def test_the_whole_object_instead_of_a_range(store, s3_proxy):
    """A host that knows no ranges is told as such; where the range is a beginning, its answer will do."""
    s3_proxy.when("GetObject", whole(lambda path: LARGE if path.endswith("large") else SMALL), times=-1)
    with pytest.raises(StoreError, match="does not serve ranges"):
        store.get_ranges([("objects/aa/large", 5, 1000)])
    assert store.get_ranges([("objects/aa/large", 0, 1000)]) == [LARGE[:1000]]
    assert store.get("objects/aa/small", limit=5000) == SMALL


def test_other_bytes_are_handed_on(store, s3_proxy):
    """Whether they are the right ones is for the layers above: nothing is asked for again here."""
    s3_proxy.when("GetObject", flipped, times=-1)
    [found] = store.get_ranges([("objects/aa/large", 5, 1000)])
    assert found != LARGE[5:1000]
    assert s3_proxy.count() == 1


def test_a_new_object_that_is_not_there_yet(store, s3_proxy):
    """An absent object is an error at once, and the next attempt finds it."""
    s3_proxy.when("GetObject", refused(404, "NoSuchKey"))
    with pytest.raises(MissingError):
        store.get("objects/aa/small", limit=5000)
    assert store.get("objects/aa/small", limit=5000) == SMALL


def test_a_listing_from_long_ago(store, s3_proxy):
    """Listings are what the host says: what is deleted or new can be in them or not."""
    s3_proxy.when("List", Replay(), times=-1)
    before = list(store.list("objects"))
    store.put("objects/bb/new", SMALL)
    store.delete_many(["objects/aa/small"])
    assert list(store.list("objects")) == before
    store.delete_many([name for name, _ in before])


# --- writing -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [broken_upload, dropped, lost, refused(500, "InternalError")])
@pytest.mark.parametrize("step", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_a_step_of_an_upload_fails_once(store, s3_proxy, fault, step):
    """The object is whole."""
    s3_proxy.when(step, fault, after=1 if step == "UploadPart" else 0)
    write(store)
    assert store.get("objects/bb/large", limit=len(HUGE)) == HUGE
    if step == "CreateMultipartUpload" and fault in {lost, broken_upload}:
        assert uploads(store) == ["objects/bb/large"]  # nobody knows its id: gc finds it
        assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    assert uploads(store) == []


def test_an_upload_is_killed_in_the_middle_of_a_part(store, s3_proxy):
    """What cannot be finished is aborted; what cannot even be aborted is found by its age."""
    s3_proxy.when("UploadPart", broken_upload, times=-1)
    with pytest.raises(ServiceUnavailable):
        write(store)
    assert uploads(store) == []
    s3_proxy.when("Abort", refused(500, "InternalError"), times=-1)
    with pytest.raises(ServiceUnavailable):
        write(store)
    s3_proxy.clear()
    assert uploads(store) == ["objects/bb/large"]
    assert store.delete_unfinished(timedelta(hours=1)) == 0
    assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    assert uploads(store) == []
    assert not store.exists("objects/bb/large")


def test_an_error_in_an_answer_of_200(store, s3_proxy):
    """S3 says 200 before it has put the parts together, and may think better of it."""
    document = b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>InternalError</Code><Message>no</Message></Error>"
    s3_proxy.when("Complete", lambda exchange: exchange.answer(200, document), times=2)
    write(store)
    assert store.get("objects/bb/large", limit=len(HUGE)) == HUGE
    s3_proxy.clear()
    s3_proxy.when("Complete", lambda exchange: exchange.answer(200, document), times=-1)
    with pytest.raises(ServiceUnavailable):
        write(store, "objects/cc/large")
    assert s3_proxy.count("Complete") == ATTEMPTS
    assert not store.exists("objects/cc/large")
    assert uploads(store) == []


def test_a_completed_upload_whose_answer_was_lost(store, s3_proxy):
    """The second attempt hears that there is no such upload: fine when the object is there, whole."""
    s3_proxy.when("Complete", lost)
    s3_proxy.when("Complete", refused(404, "NoSuchUpload"))
    write(store)
    assert s3_proxy.operations()[-3:] == ["CompleteMultipartUpload", "CompleteMultipartUpload", "HeadObject"]
    assert store.get("objects/bb/large", limit=len(HUGE)) == HUGE


def test_an_upload_that_is_gone(store, s3_proxy):
    """Somebody has aborted it, and nothing or something else is there: no success."""
    s3_proxy.when("Complete", refused(404, "NoSuchUpload"), times=-1)
    with pytest.raises(StoreError, match="does not have this upload"):
        write(store)
    store.put("objects/bb/large", HUGE[1:])
    with pytest.raises(StoreError, match="does not have this upload"):
        write(store)
    store.put("objects/bb/large", HUGE[::-1])  # right in size, but not made of two parts
    s3_proxy.when("HeadObject", _tagged("0123456789abcdef0123456789abcdef-7"))
    with pytest.raises(StoreError, match="does not have this upload"):
        write(store)


def _tagged(etag):
    """A fault: the object has another ETag."""

    def fault(exchange):
        response = exchange.forward()
        response.read()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() != "etag"]
        exchange.handler.send_response_only(200)
        for name, value in [*headers, ("ETag", f'"{etag}"')]:
            exchange.handler.send_header(name, value)
        exchange.handler.end_headers()

    return fault


def _unable(*codes):
    """A fault: objects that could not be deleted, one code after the other, and the others were."""
    left = list(codes)

    def fault(exchange):
        body = b"".join(exchange.body())
        key = body.partition(b"<Key>")[2].partition(b"</Key>")[0].decode()
        error = f"<Error><Key>{key}</Key><Code>{left.pop(0)}</Code><Message>no</Message></Error>"
        exchange.answer(200, f"<?xml version='1.0'?><DeleteResult>{error}</DeleteResult>".encode())

    return fault


def test_objects_that_cannot_be_deleted_now(store, s3_proxy):
    """S3 answers 200 with an error for one of them: it is deleted by another request, up to four times."""
    s3_proxy.when("DeleteObjects", _unable("InternalError", "SlowDown"), times=2)
    store.delete_many(["objects/aa/small"])
    assert not store.exists("objects/aa/small")
    for code, error in {"SlowDown": Throttled, "InternalError": StoreError}.items():
        s3_proxy.clear()
        s3_proxy.when("DeleteObjects", _unable(*[code] * ATTEMPTS), times=-1)
        with pytest.raises(error):
            store.delete_many(["objects/aa/large"])
        assert s3_proxy.count() == ATTEMPTS
    s3_proxy.clear()
    s3_proxy.when("DeleteObjects", _unable("AccessDenied"), times=-1)
    with pytest.raises(AccessDenied):
        store.delete_many(["objects/aa/large"])
    assert s3_proxy.count() == 1


# --- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["put", "get", "list", "delete", "put-large"])
def test_redirects_are_not_followed(store, s3_proxy, seaweed_server, what):
    """Nothing is sent to another host, whatever this one says."""
    with store_proxy(seaweed_server.endpoint_url) as other:
        for status in (301, 302, 303, 307, 308):
            s3_proxy.clear()
            s3_proxy.when("", redirected(f"{other.address}/foreign-host/x", status), times=-1)
            with pytest.raises(StoreError, match="another address"):
                OPERATIONS[what](store)
        assert other.seen == []


# --- time -----------------------------------------------------------------------------------


def impatient(proxied, **config):
    """A store that waits for less long."""
    return open_store(proxied.url, {**proxied.options, "config_kwargs": {"read_timeout": 0.1, **config}})


@pytest.mark.parametrize("what", ["get", "put", "delete"])
def test_a_host_that_never_answers(store, s3_proxy, proxied, what):
    """Four attempts of the user's own read timeout, then one error."""
    s3_proxy.when("", silent, times=-1)
    before = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        OPERATIONS[what](impatient(proxied))
    assert time.monotonic() - before < 30
    assert s3_proxy.count() == ATTEMPTS


def test_a_host_that_does_not_take_what_is_sent(store, s3_proxy, proxied, monkeypatch):
    """No timeout of a client covers that; ours does."""
    monkeypatch.setattr("sealedhealth.stores.s3client.PATIENCE", 1)
    monkeypatch.setattr("sealedhealth.stores.s3client.SLOWEST", 1 << 30)
    s3_proxy.when("PutObject", deaf, times=-1)
    with pytest.raises(ServiceUnavailable):
        impatient(proxied).put("objects/bb/new", bytes(20 << 20))


def test_a_slow_answer_is_an_answer(store, s3_proxy):
    """Within the timeouts nothing is repeated."""
    s3_proxy.when("", late(0.2), times=-1)
    assert store.get("objects/aa/small", limit=5000) == SMALL
    assert s3_proxy.count() == 1


def test_our_own_options_win(store, s3_proxy, proxied):
    """How often is retried is the user's to say."""
    once = impatient(proxied, retries={"mode": "standard", "max_attempts": 0})
    s3_proxy.when("", refused(429), times=-1)
    with pytest.raises(Throttled):
        once.get("objects/aa/small", limit=5000)
    assert s3_proxy.count() == 1


def test_a_host_that_asks_for_time(store, s3_proxy):
    """``Retry-After`` is waited for."""
    s3_proxy.when("", refused(503, "SlowDown", ("Retry-After", "1")))
    before = time.monotonic()
    store.get("objects/aa/small", limit=5000)
    assert time.monotonic() - before >= 1


def test_a_throttled_host(store, s3_proxy):
    """Many objects at once, every third of which is refused at first, all arrive."""
    for turn in range(0, 60, 3):
        s3_proxy.when("PutObject", refused(503, "SlowDown"), after=turn - turn // 3)
    objects = {f"objects/cc/{n}": SMALL for n in range(60)}
    store.put_many(objects)
    s3_proxy.clear()
    assert store.get_many(list(objects), limit=5000) == objects
