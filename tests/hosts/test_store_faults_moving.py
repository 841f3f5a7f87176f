"""Replicating without a key while one of the two hosts, or the way to it, fails."""

import itertools
import uuid

import pytest
from conftest import Place
from datasets import make_session
from store_proxy import broken_upload, cut, dropped, flipped, lost, refused, shorter

from sealedhealth.errors import AccessDenied, IntegrityError, SealedHealthError, ServiceUnavailable
from sealedhealth.replicate import check_host, replicate
from sealedhealth.stores import open_store

pytestmark = [pytest.mark.seaweed, pytest.mark.usefixtures("hasty"), pytest.mark.timeout(1800)]

ONCE = {
    "500": refused(500, "InternalError"),
    "503": refused(503, "SlowDown"),
    "dropped": dropped,
    "broken-upload": broken_upload,
    "lost": lost,
    "cut": cut,
}
STAYING = {
    "500": refused(500, "InternalError"),
    "dropped": dropped,
    "expired": refused(403, "ExpiredToken"),
    "shorter": shorter,
    "flipped": flipped,
}


@pytest.fixture
def dataset(proxied, monkeypatch):
    """A dataset of a few commits behind the proxy, and its id."""
    session = make_session(proxied, monkeypatch)
    for turn in range(2):
        with session.begin("commit") as staged:
            staged.put_many({f"{turn}/{index}.csv": b"x" * 5000 for index in range(3)})
            staged.put_bytes(f"{turn}/large.bin", bytes(300_000))
    return session.engine.dataset_id


def move(source, target, dataset):
    """Replicate; the error, when there was one."""
    try:
        return replicate(source, target, dataset, pause=lambda _: None).error()
    except SealedHealthError as error:
        return error


def there(target, dataset):
    """Whether all of it is there, as it was signed."""
    return check_host(target, dataset).error() is None


@pytest.mark.parametrize("side", ["source", "target"])
def test_faults_on_the_way(proxied, s3_proxy, dataset, seaweed_server, side, long_walk):
    """What passes is not noticed; what stays is one error, and the next run finishes what was begun."""
    honest = open_store(proxied.url, {**proxied.options, "endpoint_url": seaweed_server.endpoint_url})

    def pair():
        if side == "source":
            return proxied.store(), open_store(f"memory://{uuid.uuid4().hex}/copy")
        behind = proxied.url.rpartition("/")[0] + "/" + uuid.uuid4().hex
        return honest, Place("seaweed", behind, proxied.options).store()

    s3_proxy.clear()
    source, target = pair()
    assert move(source, target, dataset) is None
    assert there(target, dataset)
    count = s3_proxy.count()
    assert count > 8
    steps = range(count) if long_walk else [0, count // 3, count - 1]
    faults = [(kind, ONCE[kind], 1) for kind in ONCE] + [(kind, STAYING[kind], -1) for kind in STAYING]
    turns = itertools.product(faults, steps) if long_walk else zip(faults, itertools.cycle(steps), strict=False)
    for (kind, fault, times), position in turns:
        s3_proxy.clear()
        source, target = pair()
        s3_proxy.when("", fault, after=position, times=times)
        error = move(source, target, dataset)
        where = f"{kind}, {times} time(s), at request {position}: {error!r}"
        s3_proxy.clear()
        if times == 1:
            assert error is None, where
        elif kind == "expired":
            assert error is None or "credentials expired" in str(error), where
            assert isinstance(error, AccessDenied | ServiceUnavailable | None), where
        else:
            assert error is None or isinstance(error, ServiceUnavailable | IntegrityError), where
        # The checksum of everything decides, whatever was reported.
        if error is None:
            assert there(target, dataset), where
        else:
            assert move(source, target, dataset) is None, where
            assert there(target, dataset), where
        assert list(target.unfinished()) == []
