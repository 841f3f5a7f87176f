"""Tokens, secret ids and data keys show nowhere: not in errors, tracebacks, ``repr``, pickles or counters."""

from __future__ import annotations

import base64
import copy
import gc
import pickle
import secrets
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from vault_servers import KV, TRANSIT, Fault, FaultyProxy, RawVault, VaultServer

from sealedhealth.errors import SealedHealthError
from sealedhealth.keys import DataKey, Kek, WrappedKey
from sealedhealth.keys.vault import AppRoleLogin, TokenFileLogin, VaultConfig, VaultKeyService
from sealedhealth.keys.vault.hidden import HiddenText

pytestmark = pytest.mark.vault


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it drags along."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            yield one
            waiting += [one.__cause__, one.__context__]


def shown(error: BaseException) -> str:
    """Everything that a report of an error could show: text, notes, arguments, and local variables of every frame.

    Frames of this test are left out: they hold the secrets on purpose.
    """
    parts = []
    for one in chain(error):
        parts.append(f"{one!r} {one} {one.args!r} {vars(one)!r}")
        for frame, line in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_filename != __file__:
                parts.append(f"{frame.f_code.co_qualname}:{line} {dict(frame.f_locals)!r}")
    return "\n".join(parts)


def forms(secret: str | bytes) -> list[str]:
    """How a secret could be written."""
    raw = secret.encode() if isinstance(secret, str) else secret
    found = [
        raw.hex(),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        repr(raw)[2:-1],
    ]
    return [*found, secret] if isinstance(secret, str) else found


def assert_hidden(text: str, *hidden: str | bytes) -> None:
    """None of the secrets is in the text, in any form."""
    for secret in hidden:
        for form in forms(secret):
            assert form not in text


@pytest.fixture
def kek(vault_service: VaultKeyService) -> Kek:
    """A key-encryption key with one version."""
    kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
    vault_service.create(kek)
    return kek


FAULTS = [
    Fault(status=500),
    Fault(status=502),
    Fault(status=403),
    Fault(status=307, headers={"Location": "http://127.0.0.1:1/"}),
    Fault(status=429),
    Fault(status=200, body=b"<html>"),
    Fault(cut=True),
    Fault(carry_out=True, cut=True),
    Fault(carry_out=True, status=500),
    Fault(delay=3),
    Fault(change=lambda body: body.replace(b'"plaintext":"', b'"plaintext":"!')),
    Fault(change=lambda body: body.replace(b"vault:v1:", b"vault:vX:")),
    Fault(change=lambda body: body.replace(b'"warnings":null', b'"warnings":["careful"]')),
    Fault(change=lambda body: body[: len(body) // 2]),
    Fault(change=lambda body: body.replace(b'"batch_results":[', b'"batch_results":[{},')),
    Fault(change=lambda body: body[:-1] + b',"x":"' + b"x" * 9_000_000 + b'"}'),
]


@pytest.mark.parametrize("fault", FAULTS, ids=range(len(FAULTS)))
@pytest.mark.parametrize("operation", ["generate", "unwrap", "rewrap", "sign"])
def test_errors_hide_tokens_and_keys(
    connect_vault, vault_service, vault_proxy: FaultyProxy, vault_server: VaultServer, kek: Kek, operation, fault
):
    """Whatever goes wrong, neither the token nor a data key is anywhere in the error or the frames behind it."""
    name = f"s{secrets.token_hex(8)}"
    vault_service.create_author(name)
    pairs = [vault_service.generate(kek) for _ in range(3)]
    token = vault_server.raw.token_for()
    service = connect_vault(address=vault_proxy.address, token=token, timeout_s=1, retry_s=0.1)
    service.versions(kek)
    answers: list[bytes] = []
    wrapped = [wrapped for _, wrapped in pairs]
    uses = {
        "generate": lambda: service.generate(kek),
        "unwrap": lambda: service.unwrap(wrapped),
        "rewrap": lambda: service.rewrap(wrapped),
        "sign": lambda: service.sign(name, b"message"),
    }
    forward = vault_proxy._forward

    def remember(request):
        answer = forward(request)
        answers.append(answer[2])
        return answer

    vault_proxy._forward = remember
    vault_proxy.faults = [Fault(**{**fault.__dict__, "times": -1, "where": TRANSIT})]
    error = None
    try:
        uses[operation]()
    except SealedHealthError as caught:
        error = caught
    if error is None:
        assert fault.change is not None  # this fault does not touch this operation's answer
        return
    assert_hidden(shown(error), token, *(key.expose() for key, _ in pairs))
    for answer in answers:
        if b'"plaintext":"' in answer:
            plaintext = answer.split(b'"plaintext":"')[1].split(b'"')[0].decode()
            assert len(plaintext) < 20 or plaintext not in shown(error)


def test_partial_failure_hides_the_other_keys(vault_service: VaultKeyService, kek: Kek):
    """One bad wrap among good ones: the good ones' keys are in no frame behind the error."""
    pairs = [vault_service.generate(kek) for _ in range(3)]
    bad = replace(pairs[0][1], ciphertext=bytes(60))
    for batch in ([*(wrapped for _, wrapped in pairs), bad], [bad, *(wrapped for _, wrapped in pairs)]):
        with pytest.raises(SealedHealthError) as caught:
            vault_service.unwrap(batch)
        assert_hidden(shown(caught.value), *(key.expose() for key, _ in pairs))


def test_keys_of_a_failed_batch_are_wiped(vault_service: VaultKeyService, kek: Kek, monkeypatch):
    """Keys that were opened before the bad wrap came are wiped, not left to the collector."""
    made: list[DataKey] = []
    original = DataKey.__init__

    def remember(self, key) -> None:
        original(self, key)
        made.append(self)

    good = vault_service.generate(kek)[1]
    monkeypatch.setattr(DataKey, "__init__", remember)
    with pytest.raises(SealedHealthError):
        vault_service.unwrap([good, good, replace(good, ciphertext=bytes(60))])
    assert len(made) == 2
    assert all(key.closed for key in made)


def test_login_hides_its_secrets(connect_vault, vault_server: VaultServer, vault_proxy: FaultyProxy, tmp_path: Path):
    """Neither the wrapping token nor the secret id shows when logging in fails at any step."""
    raw = vault_server.raw
    with suppress(AssertionError):
        raw.must("POST", "sys/auth/hiding", {"type": "approle"})
    raw.must("POST", "auth/hiding/role/job", {"token_policies": "default"})
    role_id = raw.must("GET", "auth/hiding/role/job/role-id")["data"]["role_id"]
    for where in ("wrapping/lookup", "wrapping/unwrap", "hiding/login"):
        for fault in (Fault(status=400), Fault(status=500), Fault(cut=True), Fault(status=200, body=b"{}")):
            wrap = raw.must("POST", "auth/hiding/role/job/secret-id", {}, wrap_ttl="60s")["wrap_info"]["token"]
            file = tmp_path / secrets.token_hex(4)
            file.touch(0o600)
            file.write_text(wrap)
            login = AppRoleLogin(role_id, file, mount="hiding")
            service = connect_vault(address=vault_proxy.address, login=login, retry_s=0.1)
            opened: list[str] = []

            def spy(body: bytes, opened=opened) -> bytes:
                opened.append(body.split(b'"secret_id":"')[1].split(b'"')[0].decode())
                return body

            vault_proxy.faults = [
                Fault(**{**fault.__dict__, "times": -1, "where": where}),
                Fault(change=spy, where="wrapping/unwrap"),
            ]
            with pytest.raises(SealedHealthError) as caught:
                service.read_anchor(bytes(16), 0)
            assert_hidden(shown(caught.value), wrap, *opened)


def test_server_that_echoes(connect_vault, vault_server: VaultServer, vault_proxy: FaultyProxy, kek: Kek):
    """What a server says in its error is shown without anything that could be a key."""
    token = vault_server.raw.token_for()
    service = connect_vault(address=vault_proxy.address, token=token, retry_s=0)
    service.versions(kek)
    echo = f'{{"errors":["cannot work with {token} and {base64.b64encode(bytes(range(32))).decode()}"]}}'
    vault_proxy.faults = [Fault(status=500, body=echo.encode(), where="datakey")]
    with pytest.raises(SealedHealthError, match="cannot work with … and …") as caught:
        service.generate(kek)
    assert_hidden(str(caught.value), token, bytes(range(32)))


def test_nothing_to_copy_or_pickle(connect_vault, vault_server: VaultServer):
    """Neither service nor client nor hidden text can be pickled or copied; ``repr`` shows the address only."""
    token = vault_server.raw.token_for()
    service = connect_vault(token=token)
    assert service.read_anchor(secrets.token_bytes(16), 0) is None
    credential = service.client._credential
    for thing in (service, service.client, credential, HiddenText("secret")):
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            if thing is credential and leak is copy.copy:
                continue  # shares the hidden text, shows nothing
            with pytest.raises(TypeError):
                leak(thing)
        assert_hidden(f"{thing!r}", token)
    assert vault_server.address in repr(service)
    assert_hidden(f"{vars(service.client)!r}", token)


def test_calls_hold_no_secret(connect_vault, vault_server: VaultServer, kek: Kek):
    """What observers and counters get names requests, not what is in them; each has the audit log's number."""
    token = vault_server.raw.token_for()
    service = connect_vault(token=token)
    calls = []
    service.client.observe = calls.append
    key, wrapped = service.generate(kek)
    service.unwrap([wrapped])
    assert_hidden(f"{calls!r} {service.client.calls!r}", token, key.expose())
    assert kek.name not in f"{service.client.calls!r}"
    assert all(call.request_id for call in calls)


def test_no_token_stays_after_closing(vault_server: VaultServer, tmp_path: Path):
    """A closed service holds no token any more."""
    token = vault_server.raw.token_for(policy=f'path "{KV}/data/*" {{ capabilities = ["read"] }}')
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(token)
    service = VaultKeyService(VaultConfig(vault_server.address), TokenFileLogin(file))
    service.read_anchor(bytes(16), 0)
    service.close()
    gc.collect()
    assert service.client._credential is None
    assert not [thing for thing in gc.get_objects() if isinstance(thing, HiddenText) and thing == token]


def test_wrapped_keys_are_not_secret_but_useless(vault_server: VaultServer, vault_service: VaultKeyService, kek: Kek):
    """A wrapped key shows neither key nor wrap in ``repr``, and opens nothing without a token."""
    key, wrapped = vault_service.generate(kek)
    assert isinstance(wrapped, WrappedKey)
    assert_hidden(repr(wrapped), key.expose(), wrapped.ciphertext)
    body = {"batch_input": [{"ciphertext": "vault:v1:" + base64.b64encode(wrapped.ciphertext).decode()}]}
    assert RawVault(vault_server.address)("POST", f"{TRANSIT}/decrypt/{kek.name}", body)[0] == 403
