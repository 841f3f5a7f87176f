"""Hosts behind a proxy that does harm when told to."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import servers
from conftest import BUCKET, Place
from store_proxy import StoreProxy, store_proxy


@pytest.fixture(scope="session")
def _s3_proxy(seaweed_server: servers.S3Server) -> Iterator[StoreProxy]:
    with store_proxy(seaweed_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def s3_proxy(_s3_proxy: StoreProxy) -> Iterator[StoreProxy]:
    """A proxy in front of SeaweedFS, which is honest until told otherwise."""
    _s3_proxy.clear()
    yield _s3_proxy
    _s3_proxy.clear()


@pytest.fixture
def proxied(s3_proxy: StoreProxy, seaweed_server: servers.S3Server) -> Place:
    """An empty place behind the proxy."""
    options = {**seaweed_server.options, "endpoint_url": s3_proxy.address}
    return Place("seaweed", f"s3://{BUCKET}/{uuid.uuid4().hex}/dataset", options)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once, and never run out: how long they wait is proved elsewhere."""
    from botocore.retries.quota import RetryQuota
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(RetryQuota, "acquire", lambda *_: True)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.002)
    monkeypatch.setattr("sealedhealth.stores.s3client.PAUSE", 0.002)
    monkeypatch.setattr("sealedhealth.stores.s3client._backoff", lambda _: 0.002)
    monkeypatch.setattr("sealedhealth.stores.s3.PAUSE", 0.002)
