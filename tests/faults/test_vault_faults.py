"""A Vault that is slow, throttled, broken, sealed or cut off: success or one clear error, and nothing half done."""

from __future__ import annotations

import itertools
import secrets
import threading
import time

import pytest
import vault_servers
from vault_servers import KV, TRANSIT, Fault, FaultyProxy, VaultServer

from sealedhealth.errors import (
    AccessDenied,
    AnchorTaken,
    ConflictError,
    SealedHealthError,
    ServiceUnavailable,
    StaleReplica,
    Throttled,
)
from sealedhealth.keys import DatasetRef, Kek
from sealedhealth.keys.vault import AppRoleLogin, TokenFileLogin, TokenVariableLogin, VaultConfig, VaultKeyService
from sealedhealth.testing.racing import race

pytestmark = pytest.mark.vault

ANCHORS = f'path "{KV}/data/anchors/*" {{ capabilities = ["create", "read"] }}'


@pytest.fixture
def kek(vault_service: VaultKeyService) -> Kek:
    """A key-encryption key with one version."""
    kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
    vault_service.create(kek)
    return kek


@pytest.fixture
def service(connect_vault, vault_proxy: FaultyProxy, kek: Kek) -> VaultKeyService:
    """A key service behind the proxy, logged in, which has checked the key."""
    service = connect_vault(address=vault_proxy.address, retry_s=6)
    service.versions(kek)
    vault_proxy.seen.clear()
    return service


# --- slow, broken and unreachable ---------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=502, times=2),
        Fault(status=504),
        Fault(status=503),
        Fault(status=503, body=b"<html>maintenance</html>", times=2),
        Fault(status=500, body=b'{"errors":["local node not active but active cluster node not found"]}'),
        Fault(status=412),
        Fault(status=429, body=b'{"errors":[]}'),
        Fault(cut=True, times=2),
        Fault(carry_out=True, cut=True),
        Fault(delay=0.5),
    ],
    ids=lambda fault: (
        f"{fault.status or 'cut' if fault.status or fault.cut else 'slow'}-{fault.carry_out}-{fault.times}"
    ),
)
def test_passing_fault_is_got_over(service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek, fault: Fault):
    """What passes is tried again, and succeeds."""
    vault_proxy.faults = [fault.__class__(**fault.__dict__)]
    key, wrapped = service.generate(kek)
    assert service.unwrap([wrapped])[0].key_id == key.key_id


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, body=b'{"errors":["1 error occurred: internal error"]}'),
        Fault(status=501),
        Fault(status=400, body=b'{"errors":["something else"]}'),
        Fault(status=404),
        Fault(status=405),
        Fault(status=413),
        Fault(status=302, headers={"Location": "http://127.0.0.1:1/"}),
        Fault(status=200, body=b"<html>a portal</html>"),
        Fault(status=200, body=b"[]"),
        Fault(status=200, body=b'{"data":{}}'),
    ],
    ids=lambda fault: f"{fault.status} {fault.body[:12].decode()}",
)
def test_what_cannot_get_better_is_not_repeated(
    service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek, fault: Fault
):
    """One clear error of ours, at once, after one request; the next one works."""
    vault_proxy.faults = [fault.__class__(**fault.__dict__)]
    with pytest.raises(SealedHealthError):
        service.generate(kek)
    assert len(vault_proxy.paths("datakey")) == 1
    service.generate(kek)


def test_rotation_is_not_sent_twice(service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek):
    """A rotation whose answer was lost is reported, not repeated: each one adds a version."""
    vault_proxy.faults = [Fault(carry_out=True, cut=True, where="/rotate")]
    with pytest.raises(ServiceUnavailable):
        service.rotate(kek)
    assert len(vault_proxy.paths("/rotate")) == 1
    assert service.versions(kek).latest == 2


def test_goes_on_failing(connect_vault, vault_proxy: FaultyProxy):
    """When it does not pass, the error comes within the time for retries."""
    service = connect_vault(address=vault_proxy.address, retry_s=1)
    vault_proxy.faults = [Fault(status=502, times=-1)]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailable, match="502"):
        service.read_anchor(bytes(16), 0)
    assert 0.2 < time.monotonic() - start < 3
    assert len(vault_proxy.seen) >= 2


def test_retries_are_spread(service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek):
    """Pauses between attempts grow, and are not the same each time."""
    vault_proxy.faults = [Fault(status=503, times=3, where="datakey", body=b"{}")]
    times = []
    service.client.observe = lambda call: times.append(time.monotonic())
    service.generate(kek)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert len(pauses) == 3
    assert len({round(pause, 3) for pause in pauses}) == 3
    assert all(0.02 < pause < 1 for pause in pauses)


def test_nobody_there(connect_vault):
    """No server at the address: said so, within the time for retries."""
    service = connect_vault(address="http://127.0.0.1:1", retry_s=0.5)
    with pytest.raises(ServiceUnavailable, match="cannot be reached") as caught:
        service.read_anchor(bytes(16), 0)
    assert caught.value.safe


@pytest.mark.parametrize("fault", [Fault(delay=5), Fault(drip=0.2)], ids=["no answer", "byte by byte"])
def test_too_slow(connect_vault, vault_proxy: FaultyProxy, kek: Kek, fault: Fault):
    """An answer that takes longer than the timeout is given up, also when it comes byte by byte."""
    service = connect_vault(address=vault_proxy.address, timeout_s=0.7, retry_s=0)
    service.versions(kek)
    vault_proxy.faults = [Fault(**{**fault.__dict__, "where": "datakey"})]
    start = time.monotonic()
    with pytest.raises(ServiceUnavailable):
        service.generate(kek)
    assert time.monotonic() - start < 3


def test_endless_answer(service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek):
    """An answer of absurd length is not read to its end."""
    vault_proxy.faults = [Fault(change=lambda body: b'{"data":"' + b"x" * 10_000_000 + b'"}', where="datakey")]
    with pytest.raises(ServiceUnavailable, match="too long"):
        service.generate(kek)


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(service: VaultKeyService, vault_proxy: FaultyProxy, vault_server, kek: Kek, status):
    """Sent to another host, neither the token nor the body goes there; hvac would take both along."""
    elsewhere = FaultyProxy(vault_server.address)
    try:
        vault_proxy.faults = [Fault(status=status, headers={"Location": f"{elsewhere.address}/v1/x"})]
        with pytest.raises(ServiceUnavailable, match="another address"):
            service.generate(kek)
        assert not elsewhere.seen
    finally:
        elsewhere.close()


# --- throttling -----------------------------------------------------------------------------------


def test_throttled_for_a_moment(service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek):
    """429 with ``Retry-After`` is waited for, and not a moment less."""
    quota = b'{"errors":["request path: rate limit quota exceeded"]}'
    vault_proxy.faults = [Fault(status=429, headers={"Retry-After": "1"}, body=quota)]
    start = time.monotonic()
    service.generate(kek)
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}], ids=["without", "an hour"])
def test_throttled_for_long(connect_vault, vault_proxy: FaultyProxy, kek: Kek, headers: dict[str, str]):
    """When the time for retries is over, or would be, the error says how long to wait."""
    service = connect_vault(address=vault_proxy.address, retry_s=0.8)
    service.versions(kek)
    quota = b'{"errors":["request path: rate limit quota exceeded"]}'
    vault_proxy.faults = [Fault(status=429, headers=headers, body=quota, times=-1, where="datakey")]
    start = time.monotonic()
    with pytest.raises(Throttled) as caught:
        service.generate(kek)
    assert time.monotonic() - start < 3
    assert ("3600 seconds" in caught.value.next) == bool(headers)


def test_real_quota(connect_vault, vault_server: VaultServer):
    """A rate limit quota of the real server: all of a burst is done in the end."""
    raw = vault_server.raw
    mount = f"limited-{secrets.token_hex(4)}"
    raw.must("POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": "2"}})
    time.sleep(0.3)
    raw.must("POST", f"sys/quotas/rate-limit/{mount}", {"path": mount, "rate": 5, "interval": "1s"})
    service = connect_vault(kv_mount=mount, retry_s=20)
    dataset_id = secrets.token_bytes(16)
    try:
        outcomes = race(12, lambda number: service.create_anchor(dataset_id, number, b"link"))
        assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert service.calls > 12
    finally:
        raw.must("DELETE", f"sys/quotas/rate-limit/{mount}")


def test_behind_the_index(connect_vault, vault_proxy: FaultyProxy, kek: Kek):
    """A standby that does not catch up is a stale replica, as OpenBao and as HashiCorp's say it."""
    service = connect_vault(address=vault_proxy.address, retry_s=0.5)
    service.versions(kek)
    for status in (429, 412):
        vault_proxy.faults = [Fault(status=status, body=b'{"errors":[]}', times=-1, where="/data/anchors")]
        with pytest.raises(StaleReplica):
            service.read_anchor(bytes(16), 0)


# --- writes of anchors whose answer is lost ----------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(carry_out=True, cut=True),
        Fault(carry_out=True, status=502),
        Fault(carry_out=True, status=504),
        Fault(carry_out=True, status=500, body=b'{"errors":["internal error"]}'),
        Fault(carry_out=True, status=500, body=b'{"errors":["local node not active"]}'),
        Fault(cut=True),
        Fault(status=502),
        Fault(status=502, times=2),
    ],
    ids=lambda fault: f"{fault.status or 'cut'} {'done' if fault.carry_out else 'not done'} {fault.times}",
)
@pytest.mark.parametrize("rights", ["root", "producer"])
def test_lost_answer_of_an_anchor(
    connect_vault, vault_proxy: FaultyProxy, vault_server: VaultServer, fault: Fault, rights: str
):
    """Whether the write got through or not, in the end the anchor is there and ours: no writer beats itself."""
    token = vault_server.raw.token_for(policy=ANCHORS) if rights == "producer" else ""
    service = connect_vault(address=vault_proxy.address, token=token)
    dataset_id = secrets.token_bytes(16)
    vault_proxy.faults = [Fault(**{**fault.__dict__, "where": "POST /v1/" + KV})]
    entry = service.create_anchor(dataset_id, 0, b"our link")
    assert entry == service.read_anchor(dataset_id, 0)
    with pytest.raises(AnchorTaken):
        service.create_anchor(dataset_id, 0, b"our link")


def test_lost_answer_and_somebody_else(connect_vault, vault_service, vault_proxy: FaultyProxy):
    """The write did not get through, and somebody else's came first: it is taken, not ours."""
    service = connect_vault(address=vault_proxy.address)
    dataset_id = secrets.token_bytes(16)
    service.read_anchor(dataset_id, 0)
    vault_service.create_anchor(dataset_id, 0, b"their link")
    vault_proxy.faults = [Fault(cut=True, where="POST /v1/" + KV)]
    with pytest.raises(AnchorTaken):
        service.create_anchor(dataset_id, 0, b"our link")
    assert service.read_anchor(dataset_id, 0).link == b"their link"


def test_anchor_that_cannot_be_read_back(connect_vault, vault_proxy: FaultyProxy, vault_service):
    """Neither the write nor the read gets an answer: an error, and the truth can be read later."""
    service = connect_vault(address=vault_proxy.address, retry_s=0.5)
    dataset_id = secrets.token_bytes(16)
    service.read_anchor(dataset_id, 0)
    vault_proxy.faults = [Fault(carry_out=True, cut=True, times=-1)]
    with pytest.raises(ServiceUnavailable):
        service.create_anchor(dataset_id, 0, b"our link")
    assert vault_service.read_anchor(dataset_id, 0).link == b"our link"


def test_lost_answers_of_a_registration(connect_vault, vault_proxy: FaultyProxy, vault_service):
    """Registering over a broken line ends with the record as it should be."""
    service = connect_vault(address=vault_proxy.address)
    ref = DatasetRef(secrets.token_bytes(16), (f"s3://faults/{secrets.token_hex(8)}",))
    vault_proxy.faults = [Fault(carry_out=True, cut=True, where="POST /v1/" + KV, times=2)]
    service.register(ref)
    assert vault_service.lookup(ref.urls[0]) == ref


@pytest.mark.parametrize("step", [1, 2])
def test_registration_cut_short(connect_vault, vault_proxy: FaultyProxy, vault_service, step: int):
    """Interrupted between URL and record, nothing is registered; doing it again finishes it."""
    service = connect_vault(address=vault_proxy.address, retry_s=0)
    ref = DatasetRef(secrets.token_bytes(16), (f"s3://faults/{secrets.token_hex(8)}",))
    where = "POST /v1/" + KV + ("/data/urls" if step == 1 else "/data/datasets")
    vault_proxy.faults = [Fault(status=500, where=where)]
    with pytest.raises(ServiceUnavailable):
        service.register(ref)
    with pytest.raises(SealedHealthError, match="registered"):
        vault_service.lookup(ref.urls[0])
    if step == 2:  # claimed a moment ago: somebody may be about to finish
        with pytest.raises(ConflictError):
            vault_service.register(DatasetRef(secrets.token_bytes(16), ref.urls))
    vault_service.register(ref)
    assert vault_service.lookup(ref.urls[0]) == ref


# --- tokens ----------------------------------------------------------------------------------------


class TestTokens:
    """Tokens end: by time, by revocation, by number of uses."""

    def test_revoked(self, connect_vault, vault_server: VaultServer):
        """A revoked token is said to be one, and the right that is missing is not blamed."""
        token = vault_server.raw.token_for(policy=ANCHORS)
        service = connect_vault(token=token)
        service.create_anchor(bytes(16), secrets.randbits(50), b"link")
        vault_server.raw.must("POST", "auth/token/revoke", {"token": token})
        with pytest.raises(AccessDenied, match="expired, revoked"):
            service.read_anchor(bytes(16), 0)

    def test_expired(self, connect_vault, vault_server: VaultServer):
        """A token that ran out, and cannot be renewed, is said to have."""
        token = vault_server.raw.token_for(policy=ANCHORS, ttl="1s", renewable=False)
        service = connect_vault(token=token)
        assert service.read_anchor(secrets.token_bytes(16), 0) is None
        time.sleep(1.5)
        with pytest.raises(AccessDenied, match="expired"):
            service.read_anchor(bytes(16), 0)

    def test_uses_exhausted(self, connect_vault, vault_server: VaultServer):
        """A token for so many uses ends after them."""
        token = vault_server.raw.token_for(policy=ANCHORS, num_uses=4)
        service = connect_vault(token=token)
        with pytest.raises(AccessDenied, match="used up"):
            for _ in range(6):
                service.read_anchor(secrets.token_bytes(16), 0)

    def test_never_valid(self, connect_vault):
        """A token of some other server."""
        with pytest.raises(AccessDenied, match="not valid"):
            connect_vault(token="s.nonsense").read_anchor(bytes(16), 0)

    def test_replaced_in_its_file(self, vault_server: VaultServer, tmp_path):
        """When an agent puts a new token into the file, work goes on."""
        file = tmp_path / "token"
        file.touch(0o600)
        old = vault_server.raw.token_for(policy=ANCHORS)
        file.write_text(old)
        with VaultKeyService(VaultConfig(vault_server.address), TokenFileLogin(file)) as service:
            assert service.read_anchor(secrets.token_bytes(16), 0) is None
            file.write_text(vault_server.raw.token_for(policy=ANCHORS))
            vault_server.raw.must("POST", "auth/token/revoke", {"token": old})
            assert service.read_anchor(secrets.token_bytes(16), 0) is None

    def test_lives_longer_than_its_lease(self, connect_vault, vault_server: VaultServer):
        """A renewable token is kept alive, also while nobody asks for anything."""
        token = vault_server.raw.token_for(policy=ANCHORS, ttl="2s")
        service = connect_vault(token=token)
        service.read_anchor(secrets.token_bytes(16), 0)
        time.sleep(5)
        assert service.read_anchor(secrets.token_bytes(16), 0) is None
        assert service.client.calls["POST auth/token/renew-self"] >= 2

    def test_end_of_the_longest_life(self, connect_vault, vault_server: VaultServer):
        """Near the end of its longest life a renewal is capped, with a warning that is none: it works to the end."""
        token = vault_server.raw.token_for(policy=ANCHORS, ttl="2s", explicit_max_ttl="4s")
        service = connect_vault(token=token)
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            assert service.read_anchor(secrets.token_bytes(16), 0) is None
            time.sleep(0.3)
        time.sleep(1.5)
        with pytest.raises(AccessDenied, match="expired"):
            service.read_anchor(bytes(16), 0)

    def test_one_login_for_many_threads(self, connect_vault, vault_proxy: FaultyProxy):
        """However many threads begin at once, there is one login."""
        service = connect_vault(address=vault_proxy.address)
        race(8, lambda _: service.read_anchor(secrets.token_bytes(16), 0))
        assert len(vault_proxy.paths("lookup-self")) == 1

    def test_closed_is_closed(self, connect_vault):
        """After closing nothing is sent, and no thread is left behind to renew."""
        service = connect_vault()
        service.read_anchor(secrets.token_bytes(16), 0)
        service.close()
        with pytest.raises(SealedHealthError, match="closed"):
            service.read_anchor(secrets.token_bytes(16), 0)
        time.sleep(0.3)
        keeper = service.client._keeper
        assert keeper is None or not keeper.is_alive()

    def test_dropped_is_gone(self, vault_server: VaultServer, tmp_path):
        """A service that nobody holds any more is not kept alive by the thread that renews."""
        file = tmp_path / "token"
        file.touch(0o600)
        file.write_text(vault_server.raw.token_for(policy=ANCHORS, ttl="60s"))
        service = VaultKeyService(VaultConfig(vault_server.address), TokenFileLogin(file))
        service.read_anchor(secrets.token_bytes(16), 0)
        keeper = service.client._keeper
        assert isinstance(keeper, threading.Thread)
        del service
        keeper.join(8)
        assert not keeper.is_alive()


# --- a server that is sealed, and freshness --------------------------------------------------------


@pytest.fixture(scope="module")
def own_vault(tmp_path_factory):
    """A server of this module's own, to be sealed."""
    with vault_servers.raft_server(tmp_path_factory.mktemp("own")) as server:
        yield server


class TestSealed:
    """Sealed in the middle of the work."""

    def test_sealed_and_unsealed(self, connect_vault, own_vault: VaultServer):
        """Sealed, it is said so within seconds; unsealed, the same service goes on, and nothing is lost."""
        service = connect_vault(own_vault, token=own_vault.raw.token_for(ttl="1h"), retry_s=20)
        dataset_id = secrets.token_bytes(16)
        entry = service.create_anchor(dataset_id, 0, b"link")
        own_vault.raw.must("PUT", "sys/seal")
        start = time.monotonic()
        for use in (
            lambda: service.create_anchor(dataset_id, 1, b"link"),
            lambda: service.read_anchor(dataset_id, 0),
        ):
            with pytest.raises(ServiceUnavailable, match="sealed"):
                use()
        assert time.monotonic() - start < 10
        vault_servers.unseal(own_vault)
        assert service.read_anchor(dataset_id, 0) == entry
        assert service.read_anchor(dataset_id, 1) is None


class TestFreshness:
    """That there is nothing is believed only of a node that has just proved to be in touch with its cluster."""

    def test_alone_needs_no_proof(self, connect_vault, vault_server: VaultServer):
        """A server without peers is always fresh: it is asked once whether it has any."""
        service = connect_vault(token=vault_server.raw.token_for(policy=ANCHORS))
        for _ in range(3):
            assert service.read_anchor(secrets.token_bytes(16), 0) is None
        calls = service.client.calls
        assert calls["GET sys/leader"] == 1
        assert "POST auth/token/renew-self" not in calls

    def test_index_is_fetched_and_echoed(self, connect_vault, raft_vault: VaultServer):
        """Before "nothing there" is believed, a renewal fetches an index, which goes along with the second look."""
        proxy = FaultyProxy(raft_vault.address)
        try:
            token = raft_vault.raw.token_for(ttl="1h")
            service = connect_vault(raft_vault, address=proxy.address, token=token)
            assert service.read_anchor(secrets.token_bytes(16), 0) is None
            names = [f"{r.method} {r.path}" for r in proxy.seen]
            renewal = names.index("POST /v1/auth/token/renew-self")
            second = proxy.seen[renewal + 1]
            assert "/data/anchors/" in second.path
            headers = {name.lower(): value for name, value in second.headers.items()}
            assert headers["x-vault-inconsistent"] == "forward-active-node"
            assert headers["x-vault-index"]
        finally:
            proxy.close()

    def test_each_decision_anew(self, connect_vault, raft_vault: VaultServer):
        """An index from before is not enough: each time something is not there, a new one is fetched."""
        service = connect_vault(raft_vault, token=raft_vault.raw.token_for(ttl="1h"))
        for _ in range(3):
            assert service.read_anchor(secrets.token_bytes(16), 0) is None
        assert service.client.calls["POST auth/token/renew-self"] == 3

    def test_what_is_there_needs_no_proof(self, connect_vault, raft_vault: VaultServer):
        """An entry that is found is the same for good: one request."""
        service = connect_vault(raft_vault, token=raft_vault.raw.token_for(ttl="1h"))
        dataset_id = secrets.token_bytes(16)
        service.create_anchor(dataset_id, 0, b"link")
        before = service.calls
        assert service.read_anchor(dataset_id, 0) is not None
        assert service.calls == before + 1

    @pytest.mark.parametrize("renewable", [True, False])
    def test_cut_off_standby(self, connect_vault, raft_vault: VaultServer, renewable: bool):
        """A node of a cluster whose answers carry no index has lost touch: it is not believed."""
        proxy = FaultyProxy(raft_vault.address)
        try:
            token = raft_vault.raw.token_for(ttl="1h", renewable=renewable)
            service = connect_vault(raft_vault, address=proxy.address, token=token)
            dataset_id = secrets.token_bytes(16)
            assert service.read_anchor(dataset_id, 0) is None
            proxy.hidden_headers = {"x-vault-index"}
            with pytest.raises(StaleReplica):
                service.read_anchor(dataset_id, 0)
            with pytest.raises(StaleReplica):
                service.lookup("s3://nowhere/at-all")
        finally:
            proxy.close()

    def test_dead_token_is_not_taken_for_a_stale_node(self, connect_vault, raft_vault: VaultServer, monkeypatch):
        """When the token that should fetch an index was revoked, that is what is said."""
        token = raft_vault.raw.token_for(ttl="1h")
        monkeypatch.setenv("OUR_TOKEN", token)
        service = connect_vault(raft_vault, login=TokenVariableLogin("OUR_TOKEN"))
        assert service.read_anchor(secrets.token_bytes(16), 0) is None
        raft_vault.raw.must("POST", "auth/token/revoke", {"token": token})
        time.sleep(1.1)  # so that the index of a moment ago does not do
        for use in (lambda: service.lookup("s3://nowhere/at-all"), lambda: service.read_anchor(bytes(16), 0)):
            with pytest.raises(AccessDenied, match="was revoked"):
                use()

    def test_login_gives_an_index(self, connect_vault, raft_vault: VaultServer, tmp_path):
        """After a real login nothing more is needed for the first decision; a token that was given proves nothing."""
        raw = raft_vault.raw
        mount = f"approle-{secrets.token_hex(4)}"
        raw.must("POST", f"sys/auth/{mount}", {"type": "approle"})
        raw.must("POST", f"sys/policies/acl/{mount}", {"policy": ANCHORS})
        raw.must("POST", f"auth/{mount}/role/job", {"token_policies": mount, "token_ttl": "1h"})
        role_id = raw.must("GET", f"auth/{mount}/role/job/role-id")["data"]["role_id"]
        file = tmp_path / "secret"
        file.touch(0o600)
        file.write_text(raw.must("POST", f"auth/{mount}/role/job/secret-id", {})["data"]["secret_id"])
        login = AppRoleLogin(role_id, file, wrapped=False, mount=mount)
        service = connect_vault(raft_vault, login=login)
        begun = time.monotonic()
        assert service.client.confirm_fresh(begun)
        assert service.client.calls == {f"POST auth/{mount}/login": 1}
        tokens = raw.must("LIST", "auth/token/accessors")["data"]["keys"]
        for accessor in tokens:  # revoked in the middle: logs in again, which is fresh once more
            found = raw("POST", "auth/token/lookup-accessor", {"accessor": accessor})[1].get("data", {})
            if found.get("path") == f"auth/{mount}/login":
                raw.must("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        assert service.client.confirm_fresh(time.monotonic())
        assert service.client.calls[f"POST auth/{mount}/login"] == 2

    def test_root_token_has_a_way_too(self, connect_vault, raft_vault: VaultServer):
        """A token that cannot be renewed fetches its index by wrapping nothing."""
        service = connect_vault(raft_vault)
        assert service.read_anchor(secrets.token_bytes(16), 0) is None
        assert service.client.calls["POST sys/wrapping/wrap"] == 1

    def test_stale_answer_is_asked_for_again(self, connect_vault, raft_vault: VaultServer):
        """A standby says that an entry, or a key, is not there yet: the second look finds it."""
        proxy = FaultyProxy(raft_vault.address)
        try:
            service = connect_vault(raft_vault, address=proxy.address, token=raft_vault.raw.token_for(ttl="1h"))
            kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
            service.create(kek)
            entry = service.create_anchor(kek.dataset_id, 0, b"link")
            proxy.faults = [Fault(status=404, body=b'{"errors":[]}', where="/data/anchors")]
            assert service.read_anchor(kek.dataset_id, 0) == entry
            proxy.faults = [Fault(status=400, body=b'{"errors":["encryption key not found"]}', where="/datakey")]
            _, wrapped = service.generate(kek)
            too_new = b'{"data":{"batch_results":[{"error":"invalid ciphertext: version is too new"}]}}'
            proxy.faults = [Fault(status=400, body=too_new, where="/decrypt")]
            assert service.unwrap([wrapped])
            assert len(proxy.paths(f"{TRANSIT}/decrypt")) == 2
        finally:
            proxy.close()
