"""The whole life of a dataset whose keys are in a real Vault, and how many requests each step costs."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vault_servers import KV, TRANSIT, Fault, FaultyProxy, VaultServer

from sealedhealth.errors import KeyDestroyed, SealedHealthError, ServiceUnavailable
from sealedhealth.keys import Kek
from sealedhealth.keys.vault import TokenFileLogin, VaultConfig, VaultKeyService
from sealedhealth.keys.vault.policies import Mounts
from sealedhealth.keys.vault.table import VaultTable
from sealedhealth.profiles import Profile, connect, disconnect
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import checkpoint, destroy_dataset, destroy_keys, rewrap, rotate
from sealedhealth.session.verify import verify

pytestmark = pytest.mark.vault

MakeProfile = Callable[..., Profile]


@pytest.fixture
def make_profile(vault_server: VaultServer, tmp_path: Path) -> Iterator[MakeProfile]:
    """Profiles of new machines, each with an all-powerful token of its own."""

    def make(address: str = "", *, token: str = "", **config: object) -> Profile:
        name = f"client-{secrets.token_hex(4)}"
        file = tmp_path / f"{name}.token"
        file.touch(0o600)
        file.write_text(token or vault_server.raw.token_for(ttl="1h"))
        settings = VaultConfig(address or vault_server.address, **{"retry_s": 10, **config})
        table = VaultTable(settings, TokenFileLogin(file), Mounts(), None)
        return Profile(name, tmp_path / "none", tmp_path / "state" / name, keys="vault", vault=table)

    yield make
    disconnect()


@pytest.fixture
def url() -> str:
    """Where the dataset is: in memory."""
    return f"memory://{secrets.token_hex(8)}/dataset"


def put(session: Session, **files: bytes) -> None:
    """One commit."""
    with session.begin("a commit") as transaction:
        transaction.put_many(files)
    session.refresh()


def content(session: Session, path: str) -> bytes:
    """A whole file."""
    entry = session.snapshot.get(path)
    assert entry is not None
    return session.read_ranges([(entry, 0, entry.length)])[0]


def calls(profile: Profile) -> int:
    """Requests to the Vault so far."""
    return connect(profile).service.calls  # type: ignore[attr-defined]


def reopen(url: str, profile: Profile) -> Session:
    """As another process would."""
    Engine.forget(url, profile)
    return Session.open(url, profile)


def test_life_of_a_dataset(make_profile: MakeProfile, url: str):
    """Create, put, read elsewhere, rotate, rewrap, check; every byte comes back."""
    producer, reader = make_profile(), make_profile()
    session = create_dataset(url, producer)
    put(session, a=b"one", b=b"two" * 100_000)
    other = Session.open(url, reader)
    assert content(other, "a") == b"one"
    assert content(other, "b") == b"two" * 100_000
    put(session, c=b"three")
    other.refresh()
    assert content(other, "c") == b"three"
    checkpoint(session)
    assert rotate(session) == 2
    put(session, d=b"four")
    report = rewrap(session)
    assert report.keys >= 3
    assert report.objects_rewritten == 0
    verify(reopen(url, reader))
    for path, data in {"a": b"one", "c": b"three", "d": b"four"}.items():
        assert content(reopen(url, make_profile()), path) == data


def test_destruction(make_profile: MakeProfile, url: str):
    """A destroyed data key opens nothing any more, and then the whole dataset; what was kept still opened."""
    profile = make_profile()
    session = create_dataset(url, profile)
    put(session, keep=b"kept")
    put(session, doomed=b"doomed")
    entry = session.snapshot.get("doomed")
    assert entry is not None
    report = destroy_keys(session, [entry.data_key_id])
    assert report.proved >= 1
    session = reopen(url, make_profile())
    assert content(session, "keep") == b"kept"
    assert session.snapshot.get("doomed") is None or _unreadable(session, "doomed")
    destroy_dataset(reopen(url, profile))
    with pytest.raises(KeyDestroyed):
        reopen(url, make_profile())


def _unreadable(session: Session, path: str) -> bool:
    with pytest.raises(SealedHealthError):
        content(session, path)
    return True


def test_commit_over_a_broken_line(make_profile: MakeProfile, url: str, vault_proxy: FaultyProxy):
    """Each request of a commit loses its answer in turn: it is committed once, or not at all and can be repeated."""
    create_dataset(url, make_profile())
    profile = make_profile(vault_proxy.address, retry_s=5)
    session = Session.open(url, profile)
    put(session, warm=b"up")
    vault_proxy.seen.clear()
    put(session, warm=b"up again")
    steps = len(vault_proxy.seen)
    assert 3 <= steps <= 20
    for step in range(steps):
        vault_proxy.faults = [Fault(carry_out=True, cut=True, after=step)]
        with contextlib.suppress(ServiceUnavailable):
            put(session, **{f"file{step}": b"data"})
        vault_proxy.faults = []
        fresh = reopen(url, make_profile())
        if fresh.snapshot.get(f"file{step}") is None:
            put(session, **{f"file{step}": b"data"})
            fresh = reopen(url, make_profile())
        assert content(fresh, f"file{step}") == b"data"
        verify(fresh)


class TestCalls:
    """Requests to the Vault, counted on the real server."""

    def test_sealing_ten_thousand_objects(self, make_profile: MakeProfile, url: str):
        """As many as for one object: a data key, and two signatures and an anchor for the commit."""
        profile = make_profile()
        session = create_dataset(url, profile)
        put(session, warm=b"up")
        before = calls(profile)
        transaction = session.begin("many")
        transaction.put_many({f"d{n % 100}/{n}": b"x" * 20 for n in range(10_000)})
        sealing = calls(profile) - before
        assert sealing <= 3
        transaction.commit()
        assert calls(profile) - before <= 10

    def test_opening_a_checkpointed_dataset(self, make_profile: MakeProfile, url: str):
        """However many commits there were, on a machine that has never seen it, logging in included."""
        profile = make_profile()
        session = create_dataset(url, profile)
        for number in range(40):
            put(session, **{f"f{number}": b"x"})
        checkpoint(session)
        put(session, after=b"the checkpoint")
        for _ in range(2):
            other = make_profile()
            opened = Session.open(url, other)
            assert content(opened, "f3") == b"x"
            assert content(opened, "after") == b"the checkpoint"
            used = connect(other).service.client.calls  # type: ignore[attr-defined]
            assert sum(used.values()) <= 12, used
            assert used[f"LIST {KV}/metadata/anchors"] == 1

    def test_opening_without_the_right_to_list(self, make_profile: MakeProfile, url: str, vault_server: VaultServer):
        """Who may not list anchors finds the newest all the same, in a few more steps."""
        session = create_dataset(url, make_profile())
        for number in range(20):
            put(session, **{f"f{number}": b"x"})
        policy = f"""
            path "{KV}/data/*" {{ capabilities = ["read"] }}
            path "{TRANSIT}/keys/*" {{ capabilities = ["read"] }}
            path "{TRANSIT}/decrypt/*" {{ capabilities = ["update"] }}
        """
        reader = make_profile(token=vault_server.raw.token_for(policy=policy))
        opened = Session.open(url, reader)
        assert content(opened, "f19") == b"x"
        assert opened.snapshot.sequence == session.snapshot.sequence

    def test_a_thousand_keys(self, vault_service: VaultKeyService):
        """Unwrapped and rewrapped in pieces of 150, well within five seconds."""
        kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
        vault_service.create(kek)
        wrapped = [vault_service.generate(kek)[1] for _ in range(1000)]
        before = vault_service.calls
        assert len(vault_service.unwrap(wrapped)) == 1000
        assert vault_service.calls - before <= 1000 / 150 + 3
        vault_service.rotate(kek)
        before, start = vault_service.calls, time.monotonic()
        assert {item.version for item in vault_service.rewrap(wrapped)} == {2}
        assert time.monotonic() - start < 5
        assert vault_service.calls - before <= 1000 / 150 + 3
