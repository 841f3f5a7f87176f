"""What is special about S3: requests, uploads in parts, refusals. Against moto and SeaweedFS."""

import os
import secrets
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from counting import CountingStore, s3_requests

from sealedhealth.errors import AccessDenied, NotFound, ServiceUnavailable, StoreError
from sealedhealth.stores import open_store, s3

MIB = 1 << 20
NAME = "objects/3f/3f00"


KINDS = [pytest.param("moto", marks=pytest.mark.moto), pytest.param("seaweed", marks=pytest.mark.seaweed)]


@pytest.fixture
def store(s3_place):
    """An empty store on each S3 server."""
    return s3_place.store()


def operations(requests):
    """The names of the operations, in order."""
    return [operation for operation, _ in requests]


def uploads(store):
    """Multipart uploads that the server still keeps for a store."""
    bucket, prefix = store.fs.split_path(store.root)[:2]
    answer = store.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    return answer.get("Uploads", [])


def test_one_request_each(store):
    """No operation on one object costs more than one request, and none asks for a listing."""
    with s3_requests() as requests:
        store.put(NAME, b"x" * 100)
        store.get(NAME, limit=100)
        store.get_ranges([(NAME, 0, 10), (NAME, 50, 60)])
        store.exists(NAME)
        store.exists("objects/00/absent")
        store.delete_many([NAME, "objects/00/absent"])
    assert operations(requests) == ["put_object", *["get_object"] * 5, "delete_objects"]


def test_reading_never_asks_for_more_than_the_limit(store):
    """The bound is in the request, so that a host cannot make us fetch a huge object."""
    store.put(NAME, b"x" * 100)
    with s3_requests() as requests:
        store.get(NAME, limit=99_999)
    assert requests[0][1]["Range"] == "bytes=0-99999"


def test_a_small_object_through_a_writer_is_one_request(store):
    """A multipart upload would cost three."""
    with s3_requests() as requests, store.writer(NAME) as writer:
        writer.write(b"x" * 100)
        writer.commit()
    assert operations(requests) == ["put_object"]


def test_parts_have_eight_mebibytes(store):
    """A large object goes up in parts of 8 MiB whatever the pieces were, then is completed."""
    with s3_requests() as requests, store.writer(NAME) as writer:
        for _ in range(20):
            writer.write(os.urandom(MIB))
        writer.commit()
    assert operations(requests)[0] == "create_multipart_upload"
    assert operations(requests)[-1] == "complete_multipart_upload"
    assert sorted(arguments["PartNumber"] for _, arguments in requests[1:-1]) == [1, 2, 3]
    assert store.get_ranges([(NAME, 20 * MIB - 1, 20 * MIB)])
    assert uploads(store) == []


def test_a_discarded_upload_is_aborted(store):
    """Nothing of a discarded upload stays on the host, where it would be paid for."""
    with store.writer(NAME) as writer:
        writer.write(os.urandom(20 * MIB))
        assert len(uploads(store)) == 1
    assert uploads(store) == []
    assert list(store.list("")) == []


def test_an_abandoned_upload_can_be_cleared(store, s3_place):
    """What a dead writer left is found by its age, and a living one's is not touched."""
    writer = store.writer(NAME)
    writer.write(os.urandom(20 * MIB))
    del writer
    assert len(uploads(store)) == 1
    assert list(store.list("")) == []
    (left,) = store.unfinished()
    assert left.name == NAME
    assert list(open_store(f"{s3_place.url}/elsewhere", s3_place.options).unfinished()) == []
    if s3_place.kind != "moto":  # which dates every upload to 2010
        assert abs(left.started - datetime.now(UTC)) < timedelta(minutes=5)
        assert store.delete_unfinished(timedelta(hours=1)) == 0
    assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    assert uploads(store) == []
    assert list(store.unfinished()) == []


def test_a_part_that_fails(store, monkeypatch):
    """A part that the host refuses fails the write or the commit, and the upload is aborted."""
    genuine = type(store)._call

    def refuse(self, method, **arguments):
        if method == "upload_part" and arguments["PartNumber"] == 2:
            raise StoreError("full")
        return genuine(self, method, **arguments)

    monkeypatch.setattr(type(store), "_call", refuse)
    with pytest.raises(StoreError, match="full"), store.writer(NAME) as writer:
        for _ in range(8):
            writer.write(os.urandom(8 * MIB))
        writer.commit()
    assert not store.exists(NAME)
    assert uploads(store) == []


def test_a_size_hint_makes_parts_large_enough(store):
    """10,000 parts hold an object of the announced size and a tenth more."""
    writer = store.writer(NAME, size_hint=1 << 40)
    assert 10_000 * writer._part_size >= 1.1 * (1 << 40)
    writer.discard()
    assert store.writer(NAME, size_hint=100)._part_size == 8 * MIB


def test_without_a_hint_parts_grow(store, monkeypatch):
    """Of an object of unknown size the later parts are larger, so that they do not run out."""
    monkeypatch.setattr("sealedhealth.stores.s3._S3Writer.double_after", 2)
    monkeypatch.setattr("sealedhealth.stores.s3._S3Writer.part_size", 5 * MIB)
    data = os.urandom(22 * MIB)
    with s3_requests() as requests, store.writer(NAME) as writer:
        writer.write(data)
        writer.commit()
    assert operations(requests).count("upload_part") == 4  # 5 + 5 + 10 + 2 MiB
    assert store.get(NAME, limit=len(data)) == data


def test_more_than_a_thousand_deletions(store, monkeypatch):
    """S3 takes a thousand keys in one request; more are split up."""
    monkeypatch.setattr("sealedhealth.stores.s3.DELETE_AT_ONCE", 10)
    store.put_many({f"objects/{n:04x}": b"x" for n in range(25)})
    with s3_requests() as requests:
        store.delete_many([f"objects/{n:04x}" for n in range(25)])
    assert operations(requests) == ["delete_objects"] * 3
    assert list(store.list("")) == []


def test_a_refused_deletion_is_told(store, monkeypatch):
    """S3 answers 200 and lists the refusals inside; they are not swallowed."""
    answer = {"Errors": [{"Key": "x", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(type(store.fs), "call_s3", lambda *_args, **_options: answer)
    with pytest.raises(AccessDenied, match="AccessDenied"):
        store.delete_many([NAME])


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("rclone", marks=pytest.mark.rclone)])
def test_listings_come_in_pages(make_place, monkeypatch, kind):
    """A page is asked for when it is needed: the memory for millions of objects is that of one page."""
    store = make_place(kind).store()
    store.put_many({f"objects/{n:04x}": b"x" for n in range(25)})
    genuine = type(store)._call

    def small_pages(self, method, **arguments):
        return genuine(self, method, **arguments, **({"MaxKeys": 10} if method == "list_objects_v2" else {}))

    monkeypatch.setattr(type(store), "_call", small_pages)
    with s3_requests() as requests:
        found = store.list("objects")
        assert requests == []
        names = [next(found)[0]]
        assert len(requests) == 1
        names += [name for name, _ in found]
    assert operations(requests) == ["list_objects_v2"] * 3
    assert names == [f"objects/{n:04x}" for n in range(25)]


def test_put_many_is_concurrent(store):
    """Hundreds of objects in one call to the client."""
    objects = {f"objects/{n:04x}": os.urandom(100) for n in range(300)}
    store.put_many(objects)
    assert store.get_many(list(objects), limit=100) == objects


def test_counting(s3_place):
    """The counting store of the tests counts what S3 is really asked for."""
    store = CountingStore(s3_place.store())
    with s3_requests() as requests:
        store.put_many({f"objects/{n}": b"12345" for n in range(4)})
        store.get_many(["objects/0", "objects/1"], limit=5)
        store.get_ranges([("objects/0", 0, 2), ("objects/1", 1, 1), ("objects/2", 2, 5)])
    assert dict(store.requests) == {"put": 4, "get": 2, "range": 2}
    assert dict(store.bytes) == {"in": 20, "out": 15}
    assert len(requests) == 8


# --- refusals --------------------------------------------------------------------------


def said(error):
    """All that an error can show."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


def test_an_absent_bucket(s3_place):
    """It is told from an absent object: nothing of the dataset was taken away, the URL is wrong."""
    store = open_store("s3://no-such-bucket/dataset", s3_place.options)
    operations = [
        lambda: store.get(NAME, limit=10),
        lambda: store.get_many([NAME], limit=10, missing_ok=True),
        lambda: store.exists(NAME),
        lambda: list(store.list("")),
    ]
    if s3_place.kind == "moto":  # SeaweedFS makes a bucket for whoever may administer it
        operations.append(lambda: store.put(NAME, b"x"))
    for operation in operations:
        with pytest.raises(NotFound, match="does not exist"):
            operation()


@pytest.mark.seaweed
def test_wrong_credentials(make_place):
    """A refusal is AccessDenied from every operation, and shows no credential."""
    place = make_place("seaweed")
    wrong = {**place.options, "key": "stranger-access-key", "secret": "stranger-secret-key"}
    store = open_store(place.url, wrong)
    for operation in (
        lambda: store.get(NAME, limit=10),
        lambda: store.get_ranges([(NAME, 0, 10)]),
        lambda: store.put(NAME, b"x"),
        lambda: store.exists(NAME),
        lambda: list(store.list("")),
        lambda: store.delete_many([NAME]),
        lambda: store.writer(NAME).write(bytes(20 * MIB)),
    ):
        with pytest.raises(AccessDenied) as caught:
            operation()
        assert "stranger" not in said(caught.value)


def test_a_host_that_is_not_there():
    """One clear error within seconds, without credentials."""
    options = {"endpoint_url": "http://127.0.0.1:9", "key": "AKIAEXAMPLE", "secret": "wJalrXUtnFEMI"}
    options["config_kwargs"] = {"retries": {"max_attempts": 1}}
    store = open_store("s3://bucket/dataset", options)
    with pytest.raises(ServiceUnavailable) as caught:
        store.get(NAME, limit=10)
    assert "AKIAEXAMPLE" not in said(caught.value)
    assert "wJalr" not in said(caught.value)


@pytest.mark.moto
def test_a_host_that_takes_few_parts(make_place, monkeypatch):
    """An object of unknown size stays within the parts that its host is known to take, and arrives whole."""
    place = make_place("moto")
    monkeypatch.setattr(s3, "known_parts", lambda endpoint: 3)
    store = place.store()
    sent = []
    call = store._call
    monkeypatch.setattr(store, "_call", lambda method, **given: (sent.append(method), call(method, **given))[1])
    piece = secrets.token_bytes(1 << 20)
    with store.writer("large") as writer:
        for _ in range(40):
            writer.write(piece)
        writer.commit()
    assert sent.count("upload_part") == 3
    assert store.get("large", limit=40 << 20) == piece * 40
