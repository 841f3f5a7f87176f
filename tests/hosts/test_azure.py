"""What is special about Azure Blob Storage: requests, blocks, refusals, names. Against Azurite."""

import asyncio
import contextlib
import logging
import os
import pickle
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from counting import azure_requests

from sealedhealth.errors import AccessDenied, InvalidInput, NotFound, ServiceUnavailable, StoreError, Throttled
from sealedhealth.stores import open_store
from sealedhealth.stores.azure import AzureStore
from sealedhealth.stores.errors import Scrubber, translate

pytestmark = pytest.mark.azurite
MIB = 1 << 20
NAME = "objects/3f/3f00"


@pytest.fixture
def place(make_place):
    """An empty place on Azurite."""
    return make_place("azurite")


@pytest.fixture
def store(place):
    """An empty store on Azurite."""
    return place.store()


def kinds(requests):
    """What the requests were, in order."""
    return [f"{method} {operation}" for method, operation, _ in requests]


def listed(store):
    """Everything, as a list."""
    return sorted(store.list(""))


# --- requests --------------------------------------------------------------------------


def test_one_request_each(store):
    """No operation on one object costs more than one request, and none asks for a listing."""
    with azure_requests() as requests:
        store.put(NAME, b"x" * 100)
        store.get(NAME, limit=100)
        store.get_ranges([(NAME, 0, 10), (NAME, 50, 60)])
        store.exists(NAME)
        store.exists("objects/00/absent")
        store.delete_many([NAME, "objects/00/absent"])
    assert kinds(requests) == ["PUT blob", *["GET blob"] * 5, "POST batch"]


def test_reading_never_asks_for_more_than_the_limit(store):
    """The bound is in the request, so that a host cannot make us fetch a huge object."""
    store.put(NAME, b"x" * 100)
    with azure_requests() as requests:
        store.get(NAME, limit=99_999)
    assert requests[0][2]["x-ms-range"] == "bytes=0-99999"


def test_writing_needs_no_condition(store):
    """Nothing that is written asks the host whether something is there: not every host can tell."""
    with azure_requests() as requests:
        store.put(NAME, b"x")
        with store.writer(NAME) as writer:
            writer.write(os.urandom(20 * MIB))
            writer.commit()
        store.delete_many([NAME])
    for _, _, headers in requests:
        assert not {name.lower() for name in headers} & {"if-match", "if-none-match", "if-unmodified-since"}


def test_more_than_one_batch_of_deletions(store, monkeypatch):
    """Azure takes 256 blobs in one request; more are split up."""
    monkeypatch.setattr("sealedhealth.stores.azure.DELETE_AT_ONCE", 10)
    store.put_many({f"objects/{n:04x}": b"x" for n in range(25)})
    with azure_requests() as requests:
        store.delete_many([f"objects/{n:04x}" for n in range(25)])
    assert kinds(requests) == ["POST batch"] * 3
    assert listed(store) == []


def test_listings_come_in_pages(store, monkeypatch):
    """A page is asked for when it is needed: the memory for millions of objects is that of one page."""
    store.put_many({f"objects/{n:04x}": b"x" for n in range(25)})
    genuine = type(store._client).list_blobs
    monkeypatch.setattr(
        type(store._client), "list_blobs", lambda self, **how: genuine(self, results_per_page=10, **how)
    )
    with azure_requests() as requests:
        found = store.list("objects")
        assert len(requests) == 0
        names = [next(found)[0]]
        assert len(requests) == 1
        names += [name for name, _ in found]
    assert kinds(requests) == ["GET list"] * 3
    assert names == [f"objects/{n:04x}" for n in range(25)]


def test_directories_of_a_hierarchical_namespace_are_none_of_the_objects(store):
    """Such accounts list each directory as an empty blob that is marked; Azurite has none, so one is made by hand."""
    store.put(NAME, b"x")
    folder = store._client.get_blob_client(f"{store._prefix}/objects/3f")
    store._sync(lambda: folder.upload_blob(b"", metadata={"hdi_isfolder": "true"}))
    assert listed(store) == [(NAME, 1)]


# --- blocks ----------------------------------------------------------------------------


def test_a_small_object_through_a_writer_is_one_request(store):
    """Blocks would cost two."""
    with azure_requests() as requests, store.writer(NAME) as writer:
        writer.write(b"x" * 100)
        writer.commit()
    assert kinds(requests) == ["PUT blob"]


def test_blocks_have_eight_mebibytes(store):
    """A large object goes up in blocks of 8 MiB whatever the pieces were, then appears whole."""
    data = os.urandom(20 * MIB)
    with azure_requests() as requests, store.writer(NAME) as writer:
        for start in range(0, len(data), MIB):
            writer.write(data[start : start + MIB])
        assert not store.exists(NAME)
        writer.commit()
    assert [kind for kind in kinds(requests) if kind != "GET blob"] == [*["PUT block"] * 3, "PUT blocklist"]
    sizes = sorted(int(headers["Content-Length"]) for _, operation, headers in requests if operation == "block")
    assert sizes == [4 * MIB, 8 * MIB, 8 * MIB]
    assert store.get(NAME, limit=len(data)) == data


def test_blocks_go_side_by_side_and_few_wait(store, monkeypatch):
    """Several at once, and never more than three in memory, however large the object."""
    client = type(store._client.get_blob_client("x"))
    genuine = client.stage_block
    under_way, seen = [], []

    async def watched(self, block, *more, **options):
        under_way.append(block)
        seen.append(len(under_way))
        await asyncio.sleep(0.05)
        try:
            return await genuine(self, block, *more, **options)
        finally:
            under_way.remove(block)

    monkeypatch.setattr(client, "stage_block", watched)
    monkeypatch.setattr("sealedhealth.stores.azure._AzureWriter.part_size", MIB)
    with store.writer(NAME) as writer:
        for _ in range(20):
            writer.write(os.urandom(MIB))
            assert sum(not part.done() for part in writer._parts) <= 4  # one of them waits for a thread
        writer.commit()
    assert len(seen) == 20
    assert max(seen) in {2, 3}


def test_a_size_hint_makes_blocks_large_enough(store):
    """50,000 blocks hold an object of the announced size and a tenth more, up to the most that Azure takes."""
    writer = store.writer(NAME, size_hint=100 << 40)
    assert 50_000 * writer._part_size >= 1.1 * (100 << 40)
    assert writer._part_size < 4000 * MIB
    writer.discard()


def test_a_discarded_upload_leaves_no_block(store):
    """Nothing of a discarded upload stays on the host, and no empty object takes its place."""
    with store.writer(NAME) as writer:
        writer.write(os.urandom(20 * MIB))
        writer._parts[-1].result()
        (begun,) = store.unfinished()
        assert begun.name == NAME
    assert list(store.unfinished()) == []
    assert listed(store) == []
    assert not store.exists(NAME)


def test_a_discarded_replacement_leaves_what_was_there(store):
    """Blocks for a blob that exists are dropped by Azure after a week; the blob itself is not touched."""
    store.put(NAME, b"before")
    with store.writer(NAME) as writer:
        writer.write(os.urandom(20 * MIB))
    assert store.get(NAME, limit=10) == b"before"


def test_an_abandoned_upload_can_be_cleared(store, place):
    """What a dead writer left is found by its age, and a living one's is not touched."""
    store.put("objects/00/empty", b"")  # listed with size 0 too
    writer = store.writer(NAME)
    writer.write(os.urandom(20 * MIB))
    for part in writer._parts:
        part.result()
    del writer
    assert [name for name, _ in listed(store)] == ["objects/00/empty"]
    (left,) = store.unfinished()
    assert (left.name, left.size) == (NAME, 16 * MIB)
    assert abs(left.started - datetime.now(UTC)) < timedelta(minutes=5)
    assert list(open_store(f"{place.url}/elsewhere", place.options).unfinished()) == []
    assert store.delete_unfinished(timedelta(hours=1)) == 0
    assert store.delete_unfinished(timedelta(seconds=-60)) == 1
    assert list(store.unfinished()) == []
    assert [name for name, _ in listed(store)] == ["objects/00/empty"]


def test_clearing_spares_what_was_committed_meanwhile(store):
    """Between the listing and the clearing a writer may have come to its end."""
    store.put(NAME, b"committed")
    assert not store._forget(NAME)
    assert store.get(NAME, limit=10) == b"committed"


def test_two_writers_of_one_name_do_not_mix(store):
    """Blocks have names of their own: whoever commits has all of his, and none of the other's."""
    one, two = store.writer(NAME), store.writer(NAME)
    first, second = os.urandom(9 * MIB), os.urandom(17 * MIB)
    one.write(first)
    two.write(second)
    one.commit()
    assert store.get(NAME, limit=len(first)) == first
    # The first commit made Azure forget the other's blocks, as it does with all that it does not name.
    with contextlib.suppress(StoreError):
        two.commit()
    assert store.get(NAME, limit=len(second)) in {first, second}
    two.discard()


def test_a_block_that_fails(store, monkeypatch):
    """A block that the host refuses fails the write or the commit, and nothing is left."""
    genuine = type(store._client.get_blob_client("x")).stage_block

    async def refuse(self, block, *more, **options):
        if block.endswith("00000002"):
            raise OSError(28, "full")
        return await genuine(self, block, *more, **options)

    monkeypatch.setattr(type(store._client.get_blob_client("x")), "stage_block", refuse)
    with pytest.raises(StoreError, match="no space"), store.writer(NAME) as writer:
        for _ in range(8):
            writer.write(os.urandom(8 * MIB))
        writer.commit()
    assert not store.exists(NAME)
    assert list(store.unfinished()) == []


# --- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "az://ab/dataset",
        "az://Capital/dataset",
        "az://under_score/dataset",
        "az://two--hyphens/dataset",
        "az://container/dataset./x",
        "az://container/a//b",
        f"az://container/{'x' * 1000}",
        "az://container/dataset?sv=2026&sig=SECRETSECRET",
        "az://container/data#1",
    ],
)
def test_names_that_azure_cannot_hold(place, url):
    """One clear error when the store is opened, before anything is sent."""
    with azure_requests() as requests, pytest.raises(InvalidInput) as caught:
        open_store(url, place.options)
    assert requests == []
    assert "SECRETSECRET" not in str(caught.value)


@pytest.mark.parametrize("below", ["a b", "100%25", "données", "[x]*+&=;@"])
def test_names_that_it_can(place, below):
    """Blanks, percent signs, accents and signs come back as they were."""
    store = open_store(f"{place.url}/{below}", place.options)
    store.put(NAME, b"x")
    assert listed(store) == [(NAME, 1)]
    assert store.get(NAME, limit=10) == b"x"
    store.delete_many([NAME])
    assert listed(store) == []


@pytest.mark.parametrize("url", ["az://box/a/b", "abfs://box/a/b", "abfss://box/a/b"])
def test_one_place_has_one_url(place, url):
    """Whatever it was called by."""
    store = open_store(url, place.options)
    assert isinstance(store, AzureStore)
    assert store.url == "az://box/a/b"


def test_the_account_may_be_in_the_url():
    """The form of Hadoop and Databricks names container and account."""
    store = open_store("abfss://box@account.dfs.core.windows.net/a/b", {"account_key": "c2VjcmV0c2VjcmV0"})
    assert store.url == "az://box/a/b"
    assert store.location.endpoint == "account.blob.core.windows.net"


def test_the_location_is_the_account_host(store, azurite_server):
    """Host and port, without account key, container or path."""
    assert store.location.store == "az"
    assert store.location.endpoint == azurite_server.endpoint_url.removeprefix("http://")


# --- refusals --------------------------------------------------------------------------


def said(error):
    """All that an error can show."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


def operations(store):
    """Every operation that sends something."""
    return [
        lambda: store.get(NAME, limit=10),
        lambda: store.get_many([NAME], limit=10, missing_ok=True),
        lambda: store.get_ranges([(NAME, 0, 10)]),
        lambda: store.put(NAME, b"x"),
        lambda: store.exists(NAME),
        lambda: list(store.list("")),
        lambda: list(store.unfinished()),
        lambda: store.delete_many([NAME]),
        lambda: _write_much(store),
    ]


def _write_much(store):
    writer = store.writer(NAME)
    writer.write(bytes(20 * MIB))
    writer.commit()


def test_an_absent_container(place):
    """It is told from an absent object by every operation."""
    store = open_store("az://no-such-container/dataset", place.options)
    for operation in operations(store):
        with pytest.raises(NotFound, match=r"does not exist|ContainerNotFound"):
            operation()


@pytest.mark.parametrize("key", ["d3Jvbmcta2V5LXdyb25nLWtleQ==", "no-base64-at-all"])
def test_wrong_credentials(place, azurite_server, key, caplog):
    """A refusal is AccessDenied from every operation, and shows no credential, not even in a log."""
    caplog.set_level(logging.DEBUG)
    options = {"connection_string": place.options["connection_string"].replace(azurite_server.key, key)}
    store = open_store(place.url, options)
    for operation in operations(store):
        with pytest.raises(AccessDenied) as caught:
            operation()
        assert key not in said(caught.value)
        assert "SharedKey" not in said(caught.value)
    assert key not in caplog.text


def test_wrong_signature(place, azurite_server):
    """The same for a shared access signature."""
    text = place.options["connection_string"]
    text = text.replace(
        f"AccountKey={azurite_server.key}", "SharedAccessSignature=sv=2026-01-01&sig=c2VjcmV0c2lnbmF0dXJl"
    )
    store = open_store(place.url, {"connection_string": text})
    for operation in operations(store):
        with pytest.raises(AccessDenied) as caught:
            operation()
        assert "c2VjcmV0" not in said(caught.value)


def test_a_host_that_is_not_there(place, azurite_server):
    """One clear error after moments, not after a minute, and without credentials."""
    text = place.options["connection_string"].replace(azurite_server.endpoint_url, "http://127.0.0.1:9")
    store = open_store(place.url, {"connection_string": text})
    with pytest.raises(ServiceUnavailable) as caught:
        store.get(NAME, limit=10)
    assert azurite_server.key not in said(caught.value)


def test_no_account():
    """The client's complaint becomes one clear error."""
    with pytest.raises(InvalidInput, match="names no account") as caught:
        open_store("az://container/dataset", {"anon": True})
    assert "account_name" in caught.value.next
    assert "AZURE_STORAGE_CONNECTION_STRING" in caught.value.next


def test_credentials_of_the_environment_stay_out_of_sight(place, azurite_server, monkeypatch):
    """The account, its key and the endpoint may come from where Azure's own tools look for them."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", place.options["connection_string"])
    store = open_store(place.url, {"skip_instance_cache": True})
    store.put(NAME, b"x")
    assert store.get(NAME, limit=1) == b"x"
    key = azurite_server.key
    assert key not in repr(store) + store.url + store._scrub(f"failed with {key} and AccountKey={key}")
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(store)


def test_a_refused_deletion_is_told(store, monkeypatch):
    """Azure answers 202 and lists the refusals inside; they are not swallowed."""

    async def refuse(keys):
        return [(202, ""), (409, "BlobImmutableDueToPolicy")][: len(keys)]

    monkeypatch.setattr(store, "_delete", refuse)
    with pytest.raises(StoreError, match="BlobImmutableDueToPolicy"):
        store.delete_many([NAME, "objects/00/other"])


@pytest.mark.parametrize(
    "status,code,expected",
    [
        (403, "AuthorizationPermissionMismatch", AccessDenied),
        (401, "NoAuthenticationInformation", AccessDenied),
        (503, "ServerBusy", Throttled),
        (429, "", Throttled),
        (500, "InternalError", ServiceUnavailable),
        (408, "", ServiceUnavailable),
        (409, "BlobImmutableDueToPolicy", StoreError),
        (400, "InvalidBlockList", StoreError),
        (404, "ContainerNotFound", NotFound),
    ],
)
def test_what_azure_answers_has_one_class_of_ours(status, code, expected):
    """By the code where there is one, and by the status."""
    from azure.core.exceptions import HttpResponseError

    error = HttpResponseError("no")
    error.status_code, error.error_code = status, code or None
    ours, _ = translate(error, doing="read a of az://b", scrub=Scrubber({}))
    assert type(ours) is expected
