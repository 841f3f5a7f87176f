"""A dataset whose Vault misbehaves in the middle of a put: success or one clear error, and the last commit intact."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import servers
import vault_servers
from vault_servers import Fault, FaultyProxy, RawVault, VaultServer
from vault_sessions import Site, files_of, many, put, vault_of

from sealedhealth import profiles
from sealedhealth.errors import AccessDenied, SealedHealthError, ServiceUnavailable, Throttled
from sealedhealth.keys.vault import TokenFileLogin, TokenVariableLogin
from sealedhealth.log.names import link_name
from sealedhealth.profiles import Profile
from sealedhealth.session import Session

pytestmark = [pytest.mark.vault, pytest.mark.ha]

BEFORE = {"before/one": b"committed before the fault"}
NEW = many(100)


@pytest.fixture
def site(vault_server: VaultServer, tmp_path: Path) -> Iterator[Site]:
    """A dataset with one commit."""
    site = Site(tmp_path, vault_server)
    put(site.create(site.client()), BEFORE)
    yield site
    profiles.disconnect()


def attempt(session: Session) -> SealedHealthError | None:
    """Put many files; how that failed."""
    try:
        put(session, NEW)
    except SealedHealthError as error:
        return error
    return None


def check(site: Site, error: SealedHealthError | None) -> bool:
    """From another machine: whole or not at all; then trying again works. Whether it was committed at first."""
    if error is not None:
        assert error.what
        assert error.next
    other = site.open(site.client())
    found = files_of(other)
    assert found in (BEFORE, BEFORE | NEW)
    if error is None:
        assert found == BEFORE | NEW
    put(other, {"after": b"committed after the fault"} | NEW)
    assert files_of(site.open(site.client())) == BEFORE | NEW | {"after": b"committed after the fault"}
    return found != BEFORE


# --- one fault at each step of a commit -----------------------------------------------------------

STEPS = ["/datakey/", "/sign/", "POST /v1/sealedhealth-kv/data/anchors"]


def steps(number: int, long_walk: bool) -> list[str]:
    """The anchor and one more step, in turn; all of them on a long walk."""
    return STEPS if long_walk else [STEPS[number % 2], STEPS[2]]


PASSES = {
    "slow": Fault(delay=0.5),
    "too slow once": Fault(delay=1.5),
    "byte by byte": Fault(drip=0.002),
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "1"}),
    "429 without": Fault(status=429, times=3),
    "502": Fault(status=502, times=2),
    "503": Fault(status=503, times=2),
    "504": Fault(status=504),
    "no leader": Fault(status=500, body=b'{"errors":["local node not active but active cluster node not found"]}'),
    "412 of HashiCorp's standbys": Fault(status=412, times=2),
    "cut before": Fault(cut=True),
    "cut in the middle of the answer": Fault(carry_out=True, cut=True),
    "answer lost": Fault(carry_out=True, status=502),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_passes_is_got_over(site: Site, vault_proxy: FaultyProxy, name: str, long_walk: bool):
    """The put succeeds, once; an anchor whose answer was lost is read back before it is tried again."""
    for step in steps(list(PASSES).index(name), long_walk):
        writer = site.client(address=vault_proxy.address, timeout_s=1)
        session = site.open(writer)
        before = session.sequence
        vault_proxy.seen.clear()
        vault_proxy.faults = [replace(PASSES[name], where=step)]
        assert attempt(session) is None
        assert vault_proxy.faults[0].times == 0
        assert session.sequence == before + 1
        paths = [one for one in vault_proxy.paths("/data/anchors/") if one.startswith("POST")]
        assert len(set(paths)) == 1  # it never conflicts with itself
    assert check(site, None)


STAYS = {
    "429 for long": (Fault(status=429, headers={"Retry-After": "600"}), Throttled),
    "429 for ever": (Fault(status=429), Throttled),
    "500": (Fault(status=500, body=b'{"errors":["internal error"]}'), ServiceUnavailable),
    "502": (Fault(status=502), ServiceUnavailable),
    "307 to another host": (Fault(status=307, headers={"Location": "http://127.0.0.1:1/v1/x"}), ServiceUnavailable),
    "cut": (Fault(cut=True), ServiceUnavailable),
    "cut in the middle of the answer": (Fault(carry_out=True, cut=True), ServiceUnavailable),
    "sealed": (Fault(status=503, body=b'{"errors":["Vault is sealed"]}'), ServiceUnavailable),
    "403": (Fault(status=403, body=b'{"errors":["permission denied"]}'), AccessDenied),
    "not a Vault": (Fault(status=200, body=b"<html>a portal</html>"), ServiceUnavailable),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_stays_is_one_clear_error(site: Site, vault_proxy: FaultyProxy, name: str, long_walk: bool):
    """The put fails by one error of the right kind; only an anchor that was carried out all the same is found."""
    fault, kind = STAYS[name]
    for step in steps(list(STAYS).index(name), long_walk):
        session = site.open(site.client(address=vault_proxy.address, timeout_s=1, retry_s=0.8))
        vault_proxy.faults = [replace(fault, where=step, times=-1)]
        begun = time.monotonic()
        error = attempt(session)
        assert time.monotonic() - begun < 12
        vault_proxy.faults = []
        if error is None:  # the anchor's answers were lost, and reading it back told
            assert fault.carry_out
            assert step == STEPS[2]
            assert files_of(site.open(site.client())) == BEFORE | NEW
        else:
            assert isinstance(error, kind)
            assert error.what
            assert error.next
            assert files_of(site.open(site.client())) == BEFORE
    assert check(site, error) == (error is None)


def test_nothing_goes_to_another_host(site: Site, vault_proxy: FaultyProxy, vault_server: VaultServer):
    """Redirected at every step, neither token, nor digest, nor link goes where the Vault's answer says."""
    elsewhere = FaultyProxy(vault_server.address)
    try:
        writer = site.client(address=vault_proxy.address, retry_s=0.5)
        session = site.open(writer)
        for step in STEPS:
            vault_proxy.faults = [
                Fault(status=307, headers={"Location": f"{elsewhere.address}/v1/x"}, times=-1, where=step)
            ]
            error = attempt(session)
            assert isinstance(error, ServiceUnavailable)
            assert "another address" in str(error)
        assert not elsewhere.seen
    finally:
        elsewhere.close()
    vault_proxy.faults = []
    assert not check(site, None if error is None else error)


def test_ambiguous_anchor_and_no_way_to_find_out(site: Site, vault_proxy: FaultyProxy):
    """Anchored, answer lost, and nothing answers after that: the error says that it may have happened. It has."""
    writer = site.client(address=vault_proxy.address, timeout_s=2, retry_s=0.5)
    session = site.open(writer)
    vault_proxy.faults = [
        Fault(carry_out=True, cut=True, where=STEPS[2]),
        Fault(status=502, times=-1, where="GET /v1/sealedhealth-kv/data/anchors"),
    ]
    error = attempt(session)
    assert isinstance(error, ServiceUnavailable)
    assert "either happened entirely or not at all" in error.safe
    vault_proxy.faults = []
    session.refresh()
    assert files_of(session) == BEFORE | NEW  # the same session finds it
    assert check(site, error)


def test_reading_through_a_bad_line(site: Site, vault_proxy: FaultyProxy):
    """Opening, too, gets over what passes."""
    reader = site.client(address=vault_proxy.address, timeout_s=2)
    vault_proxy.faults = [
        Fault(status=502, times=2),
        Fault(cut=True, where="/data/anchors"),
        Fault(carry_out=True, cut=True, where="/decrypt/"),
        Fault(status=429, headers={"Retry-After": "1"}, where="/data/urls"),
    ]
    assert files_of(site.open(reader)) == BEFORE
    assert all(fault.times == 0 for fault in vault_proxy.faults)


# --- tokens that end in the middle ------------------------------------------------------------------


def ending_token(site: Site, monkeypatch: pytest.MonkeyPatch, **terms: object) -> tuple[Profile, str]:
    """A client with a token that it can neither renew nor get anew."""
    token = site.server.raw.token_for(**terms)
    monkeypatch.setenv("ENDING_TOKEN", token)
    return site.client(login=TokenVariableLogin("ENDING_TOKEN")), token


def test_token_revoked_in_the_middle(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Revoked between data key and anchor: AccessDenied, which says that it is about the token."""
    writer, token = ending_token(site, monkeypatch, ttl="1h")
    session = site.open(writer)
    done = threading.Event()

    def revoke(call: object) -> None:
        if "datakey" in call.path and not done.is_set():  # type: ignore[attr-defined]
            done.set()
            site.server.raw.must("POST", "auth/token/revoke", {"token": token})

    vault_of(writer).observe = revoke
    error = attempt(session)
    assert isinstance(error, AccessDenied)
    assert "token" in error.what
    assert not check(site, error)


def test_token_expired_in_the_middle(site: Site, monkeypatch: pytest.MonkeyPatch):
    """Expired between two commits of one session: the first stands, the second is denied."""
    writer, _ = ending_token(site, monkeypatch, ttl="2s", explicit_max_ttl="2s", renewable=False)
    session = site.open(writer)
    put(session, {"before/one": BEFORE["before/one"]})
    time.sleep(2.2)
    error = attempt(session)
    assert isinstance(error, AccessDenied)
    assert "token" in error.what
    assert not check(site, error)


def test_token_replaced_in_its_file_after_it_was_revoked(site: Site):
    """An agent that writes a fresh token into the file keeps the session going."""
    writer = site.client()
    session = site.open(writer)
    assert writer.vault is not None
    login = writer.vault.login
    assert isinstance(login, TokenFileLogin)
    site.server.raw.must("POST", "auth/token/revoke", {"token": login.path.read_text()})
    login.path.write_text(site.server.raw.token_for(ttl="1h"))
    assert attempt(session) is None
    assert check(site, None)


def test_uses_exhausted_at_each_point(site: Site, monkeypatch: pytest.MonkeyPatch, long_walk: bool):
    """A token with so many uses, one more each time: denied wherever it ends, until they suffice."""
    denied = 0
    for uses in range(1, 60, 1 if long_walk else 3):
        writer, _ = ending_token(site, monkeypatch, num_uses=uses, ttl="1h")
        try:
            session = site.open(writer)
            assert files_of(session) == BEFORE
            error = attempt(session)
        except SealedHealthError as caught:
            error = caught
        if error is None:
            break
        # When the anchor was refused and cannot be read back either, it is not known which of its requests got through.
        assert isinstance(error, AccessDenied) or isinstance(error.__cause__, AccessDenied)
        denied += 1
        assert files_of(site.open(site.client())) == BEFORE
    assert denied
    assert check(site, error)


# --- audit --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def audited_server(folder: Path) -> Iterator[VaultServer]:
    """A server that writes what it is asked into a file; without that it answers nothing."""
    (port,) = servers.free_ports(1)
    folder.mkdir(parents=True)
    config = folder / "audit.hcl"
    config.write_text(f'audit "file" "disk" {{ options {{ file_path = "{folder}/audit.log" }} }}\n')
    token = "test-root-of-the-audited-server"
    command = [
        vault_servers.bao(), "server", "-dev", f"-dev-root-token-id={token}", "-dev-no-store-token",
        f"-dev-listen-address=127.0.0.1:{port}", f"-config={config}",
    ]  # fmt: skip
    with servers._running(command, folder) as process:
        address = f"http://127.0.0.1:{port}"
        servers._wait_until_up(f"{address}/v1/sys/health", process, folder)
        server = VaultServer(address, token, process.pid, folder=folder)
        server.mount()
        yield server


def test_audit_device_full(tmp_path: Path):
    """The disk of the only audit device is full: one clear error with the way to find out; all goes on with space."""
    with audited_server(tmp_path / "bao") as server:
        assert server.folder is not None
        log = server.folder / "audit.log"
        site = Site(tmp_path, server)
        writer = site.client(retry_s=2)
        session = site.create(writer)
        put(session, BEFORE)
        kept = log.rename(log.with_suffix(".1"))
        log.symlink_to("/dev/full")  # every write there says that no space is left
        os.kill(server.pid, signal.SIGHUP)  # as after a rotation of the log: open it again
        raw = RawVault(server.address, server.root_token)
        deadline = time.monotonic() + 10
        while raw("GET", "auth/token/lookup-self")[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        error = attempt(session)
        assert isinstance(error, ServiceUnavailable)
        assert "internal error" in error.what
        assert "audit" in error.next
        log.unlink()
        kept.rename(log)
        os.kill(server.pid, signal.SIGHUP)
        while raw("GET", "auth/token/lookup-self")[0] != 200 and time.monotonic() < deadline + 10:
            time.sleep(0.05)
        assert not check(site, error)
        profiles.disconnect()


# --- sealed -------------------------------------------------------------------------------------------


def test_sealed_in_the_middle(tmp_path: Path):
    """A single node that somebody seals: the error says sealed; unsealed, the same session goes on."""
    with vault_servers.raft_server(tmp_path / "raft") as server:
        site = Site(tmp_path, server)
        writer = site.client(retry_s=5)
        session = site.create(writer)
        put(session, BEFORE)
        done = threading.Event()

        def seal(call: object) -> None:
            if "datakey" in call.path and not done.is_set():  # type: ignore[attr-defined]
                done.set()
                server.raw.must("PUT", "sys/seal")

        vault_of(writer).observe = seal
        error = attempt(session)
        assert isinstance(error, ServiceUnavailable)
        assert "sealed" in error.what
        assert files_of(session) == BEFORE  # what is open stays open
        vault_servers.unseal(server)
        assert not check(site, error)
        assert not session.engine.store.get_many([link_name(99)], limit=1, missing_ok=True)
        profiles.disconnect()
