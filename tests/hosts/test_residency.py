"""No kind of host has a way around a profile's list, and Azure's own environment variables do not either."""

from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from sealedhealth.errors import ResidencyViolation
from sealedhealth.profiles import load_profile
from sealedhealth.stores import open_store
from sealedhealth.stores.base import CHANGES
from sealedhealth.stores.residency import Residency


def test_every_change_asks_first(host_place):
    """Each way to change something is refused before the host hears of it; reading goes on."""
    free = host_place.store()
    free.put("old", b"old")
    store = open_store(host_place.url, host_place.options, rule=Residency(allowed_endpoints=("elsewhere",)).check)
    changes = {
        "put": lambda: store.put("new", b"new"),
        "put_many": lambda: store.put_many({"new": b"new"}),
        "writer": lambda: store.writer("new"),
        "delete_many": lambda: store.delete_many(["old"]),
        "delete_unfinished": lambda: store.delete_unfinished(timedelta(0)),
    }
    assert set(changes) == CHANGES
    for change in changes.values():
        with pytest.raises(ResidencyViolation):
            change()
    assert dict(free.list("")) == {"old": 3}
    assert store.get("old", limit=3) == b"old"


def test_the_place_that_is_allowed(host_place):
    """By its endpoint, as the store tells it, small objects and large ones go through, and can be deleted."""
    endpoint = host_place.store().location.endpoint
    assert endpoint.startswith("127.0.0.1:")
    store = open_store(host_place.url, host_place.options, rule=Residency(allowed_endpoints=(endpoint,)).check)
    with store.writer("large") as writer:
        for _ in range(3):
            writer.write(bytes(8 << 20))
        writer.commit()
    store.put("small", b"1")
    assert dict(store.list("")) == {"large": 24 << 20, "small": 1}
    store.delete_many(["large", "small"])
    assert list(store.list("")) == []


@pytest.mark.azurite
def test_an_environment_variable_does_not_move_writes_to_another_account(make_place, monkeypatch):
    """A connection string in the environment wins over the account in the profile: adlfs says so, and it is refused."""
    place = make_place("azurite")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", place.options["connection_string"])
    profile = replace(
        load_profile(),
        store={"account_name": "chulille"},
        residency=Residency("FR", ("chulille.blob.core.windows.net",), allowed_jurisdictions=("FR",)),
    )
    store = profile.open_store(place.url)
    assert "chulille" not in store.location.endpoint
    with pytest.raises(ResidencyViolation, match=urlsplit(f"//{store.location.endpoint}").netloc):
        store.put("one", b"1")
    assert list(place.store().list("")) == []
