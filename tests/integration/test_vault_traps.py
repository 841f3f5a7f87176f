"""Measured traps of OpenBao and of hvac: each one stays closed, on a real server."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import replace
from datetime import timedelta

import pytest
import vault_servers
from hvac import Client
from vault_servers import KV, TRANSIT, Fault, FaultyProxy, VaultServer

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    ConflictError,
    IntegrityError,
    InvalidInput,
    KeyMissing,
    KeyRetired,
    NotFound,
    StaleReplica,
    TamperedError,
)
from sealedhealth.keys import DatasetRef, Kek, WrappedKey
from sealedhealth.keys.vault import VaultKeyService, registry
from sealedhealth.keys.vault.layout import url_path
from sealedhealth.testing.key_service import verify

pytestmark = pytest.mark.vault


@pytest.fixture
def kek(vault_service: VaultKeyService) -> Kek:
    """A key-encryption key with one version."""
    kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
    vault_service.create(kek)
    return kek


@pytest.fixture
def other_kek() -> Kek:
    """A key-encryption key that was not made."""
    return Kek(secrets.token_bytes(16), secrets.token_bytes(16))


def b64(data: bytes) -> str:
    """As transit wants it."""
    return base64.b64encode(data).decode()


# --- binding ------------------------------------------------------------------------------


class TestBinding:
    """A wrapped key belongs to its dataset and compartment, because the key is derived by a context."""

    def test_key_is_made_right(self, vault_service: VaultKeyService, vault_server: VaultServer, kek: Kek):
        """What we make is derived, and can be neither exported, backed up nor deleted."""
        data = vault_server.raw.must("GET", f"{TRANSIT}/keys/{kek.name}")["data"]
        wanted = {"type": "aes256-gcm96", "derived": True, "kdf": "hkdf_sha256", "convergent_encryption": False}
        unwanted = dict.fromkeys(["exportable", "allow_plaintext_backup", "deletion_allowed"], False)
        assert {**data, **wanted, **unwanted} == data

    def test_context_is_ignored_on_a_key_that_is_not_derived(self, vault_server: VaultServer, other_kek: Kek):
        """The trap itself: such a key opens under any context, and the server says nothing."""
        raw = vault_server.raw
        raw.must("POST", f"{TRANSIT}/keys/{other_kek.name}", {"type": "aes256-gcm96"})
        one = raw.must("POST", f"{TRANSIT}/datakey/plaintext/{other_kek.name}", {"context": b64(b"here")})
        body = {"ciphertext": one["data"]["ciphertext"], "context": b64(b"elsewhere")}
        two = raw.must("POST", f"{TRANSIT}/decrypt/{other_kek.name}", body)
        assert two["data"]["plaintext"] == one["data"]["plaintext"]
        assert not one["warnings"]
        assert not two["warnings"]

    @pytest.mark.parametrize(
        "made",
        [
            {"type": "aes256-gcm96"},
            {"type": "aes256-gcm96", "derived": True, "exportable": True},
            {"type": "aes256-gcm96", "derived": True, "allow_plaintext_backup": True},
            {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True},
            {"type": "chacha20-poly1305", "derived": True},
        ],
        ids=["not derived", "exportable", "backup", "convergent", "other cipher"],
    )
    def test_unsafe_key_is_refused(
        self, vault_service: VaultKeyService, vault_server: VaultServer, other_kek: Kek, made: dict[str, object]
    ):
        """A key that does not bind, or could leave, is refused by every use before anything is wrapped."""
        vault_server.raw.must("POST", f"{TRANSIT}/keys/{other_kek.name}", made)
        wrapped = WrappedKey(other_kek, bytes(16), 1, bytes(60))
        before = dict(vault_service.client.calls)
        for use in (
            lambda: vault_service.generate(other_kek),
            lambda: vault_service.unwrap([wrapped]),
            lambda: vault_service.rewrap([wrapped]),
            lambda: vault_service.rotate(other_kek),
            lambda: vault_service.retire(other_kek, 1),
            lambda: vault_service.versions(other_kek),
        ):
            with pytest.raises(IntegrityError):
                use()
        made_calls = {name for name, count in vault_service.client.calls.items() if count > before.get(name, 0)}
        assert made_calls <= {f"GET {TRANSIT}/keys", "GET auth/token/lookup-self"}

    def test_checked_once(self, vault_service: VaultKeyService, kek: Kek):
        """The properties are read once for each key, not at each use."""
        for _ in range(3):
            vault_service.generate(kek)
        count = vault_service.client.calls[f"GET {TRANSIT}/keys"]
        vault_service.unwrap([vault_service.generate(kek)[1]])
        assert vault_service.client.calls[f"GET {TRANSIT}/keys"] == count

    def test_every_item_is_bound(self, connect_vault, vault_proxy: FaultyProxy, kek: Kek):
        """In a batch every item carries its context: one beside the batch would be dropped without a word."""
        service = connect_vault(address=vault_proxy.address)
        wrapped = [service.generate(kek)[1] for _ in range(3)]
        service.rewrap(wrapped)
        service.unwrap(wrapped)
        bodies = [json.loads(r.body) for r in vault_proxy.seen if "/decrypt/" in r.path or "/rewrap/" in r.path]
        assert len(bodies) == 2
        for body in bodies:
            assert body.keys() == {"batch_input"}
            assert [item["context"] for item in body["batch_input"]] == [b64(kek.binding)] * 3

    def test_unknown_parameter_is_a_warning(self, vault_service: VaultKeyService, kek: Kek):
        """What the server does not know it answers with a warning and success: that is an error here."""
        with pytest.raises(IntegrityError, match="warning"):
            vault_service.client.write(
                f"{TRANSIT}/datakey/plaintext/{kek.name}", {"context": b64(kek.binding), "unheard_of": "x"}
            )

    @pytest.mark.parametrize("where", ["datakey", "decrypt", "rewrap", "sign", "data/anchors", "GET"])
    def test_warnings_are_fatal_everywhere(
        self, connect_vault, vault_service: VaultKeyService, vault_proxy: FaultyProxy, kek: Kek, where: str
    ):
        """A warning in any answer fails the call."""
        name = f"w{secrets.token_hex(8)}"
        vault_service.create_author(name)
        service = connect_vault(address=vault_proxy.address)
        _, wrapped = service.generate(kek)

        def warn(body: bytes) -> bytes:
            return json.dumps({**json.loads(body), "warnings": ["made by the proxy"]}).encode()

        vault_proxy.faults = [Fault(change=warn, times=-1, where=where)]
        with pytest.raises(IntegrityError, match="warning"):
            _ = (
                service.versions(kek),
                service.generate(kek),
                service.unwrap([wrapped]),
                service.rewrap([wrapped]),
                service.sign(name, b"x"),
                service.create_anchor(secrets.token_bytes(16), 0, b"x"),
            )


# --- batches --------------------------------------------------------------------------------


class TestBatches:
    """What fits into a request, and what a partly failed one answers."""

    def test_larger_than_the_server_takes(self, vault_service: VaultKeyService, kek: Kek):
        """A thousand wraps go out in pieces, and come back in order."""
        pairs = [vault_service.generate(kek) for _ in range(7)]
        batch = [pairs[number % 7][1] for number in range(1000)]
        keys = vault_service.unwrap(batch)
        assert [key.key_id for key in keys] == [item.key_id for item in batch]
        assert [item.key_id for item in vault_service.rewrap(batch)] == [item.key_id for item in batch]

    def test_server_refuses_more(self, vault_server: VaultServer, vault_service: VaultKeyService, kek: Kek):
        """The trap itself: 250 items of two fields are too complex for the server."""
        _, wrapped = vault_service.generate(kek)
        item = {"ciphertext": f"vault:v1:{b64(wrapped.ciphertext)}", "context": b64(kek.binding)}
        statuses = [
            vault_server.raw("POST", f"{TRANSIT}/decrypt/{kek.name}", {"batch_input": [item] * count})[0]
            for count in (150, 250)
        ]
        assert statuses == [200, 400]

    @pytest.mark.parametrize("use", ["unwrap", "rewrap"])
    def test_partial_failure(self, vault_service: VaultKeyService, kek: Kek, use: str):
        """One bad item among good ones fails the call, whether the server says 400 or 200."""
        good = [vault_service.generate(kek)[1] for _ in range(3)]
        bad = replace(good[1], ciphertext=bytes(60))
        with pytest.raises(TamperedError, match=bad.key_id.hex()):
            getattr(vault_service, use)([good[0], bad, good[2]])

    def test_answer_of_another_length(self, connect_vault, vault_proxy: FaultyProxy, kek: Kek):
        """A batch answer with items missing is not used."""
        service = connect_vault(address=vault_proxy.address)
        wrapped = [service.generate(kek)[1] for _ in range(3)]

        def shorten(body: bytes) -> bytes:
            answer = json.loads(body)
            answer["data"]["batch_results"].pop()
            return json.dumps(answer).encode()

        for use in (service.unwrap, service.rewrap):
            vault_proxy.faults = [Fault(change=shorten, where="/v1/")]
            with pytest.raises(Exception, match="answer is not"):
                use(wrapped)

    def test_no_secret_in_the_error_of_a_partial_failure(
        self, vault_service: VaultKeyService, vault_server: VaultServer, kek: Kek
    ):
        """The error of a partly failed batch does not hold the keys of the items that did not fail; hvac's does."""
        key, good = vault_service.generate(kek)
        bad = replace(good, ciphertext=bytes(60))
        with pytest.raises(TamperedError) as caught:
            vault_service.unwrap([good, bad])
        items = [
            {"ciphertext": f"vault:v1:{b64(item.ciphertext)}", "context": b64(kek.binding)} for item in (good, bad)
        ]
        with pytest.raises(Exception, match="batch_results") as hvacs:
            Client(vault_server.address, vault_server.root_token).secrets.transit.decrypt_data(
                kek.name, batch_input=items, mount_point=TRANSIT
            )
        assert b64(key.expose()) in str(hvacs.value)
        assert b64(key.expose()) not in f"{caught.value!r} {caught.value}"


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"{TRANSIT}/decrypt/../encrypt/x",
        f"{TRANSIT}/keys/a?list=true",
        f"{TRANSIT}/keys/a b",
        f"{TRANSIT}//keys",
        "/sys/health",
        "sys/health/",
        f"{TRANSIT}/keys/%2e%2e",
        f"{TRANSIT}/keys/é",
        f"{TRANSIT}/keys/a\n",
        f"{TRANSIT}/keys/a#b",
        "",
        "x" * 2000,
    ],
)
def test_paths_are_names_only(vault_service: VaultKeyService, path: str):
    """Nothing that could reach another endpoint is ever sent; hvac does not escape names."""
    _ = vault_service.client.read("auth/token/lookup-self")
    before = vault_service.calls
    for use in (
        vault_service.client.read,
        vault_service.client.list,
        lambda path: vault_service.client.write(path, {}),
    ):
        with pytest.raises(InvalidInput):
            use(path)
    assert vault_service.calls == before


@pytest.mark.parametrize("name", ["a.", "a-", "a..b"])
def test_author_names_that_transit_cannot_hold(vault_service: VaultKeyService, name: str):
    """Names that the interface allows and transit does not are refused, before anything is sent."""
    with pytest.raises(InvalidInput):
        vault_service.create_author(name)
    assert vault_service.calls == 0


# --- life cycle -------------------------------------------------------------------------------


class TestLifeCycle:
    """Making, retiring, signing."""

    def test_absent_key_is_not_made_by_use(self, vault_service: VaultKeyService, vault_server: VaultServer):
        """No use of a key that does not exist makes one."""
        kek = Kek(secrets.token_bytes(16), secrets.token_bytes(16))
        wrapped = WrappedKey(kek, bytes(16), 1, bytes(60))
        for use in (
            lambda: vault_service.generate(kek),
            lambda: vault_service.unwrap([wrapped]),
            lambda: vault_service.rewrap([wrapped]),
            lambda: vault_service.rotate(kek),
        ):
            with pytest.raises(KeyMissing):
                use()
        assert vault_server.raw("GET", f"{TRANSIT}/keys/{kek.name}")[0] == 404

    def test_server_makes_keys_twice_without_a_word(self, vault_server: VaultServer):
        """The trap itself: a key that exists is made again with success and no warning."""
        name = f"twice{secrets.token_hex(8)}"
        for _ in range(2):
            answer = vault_server.raw.must("POST", f"{TRANSIT}/keys/{name}", {"type": "aes256-gcm96"})
            assert not answer["warnings"]

    def test_made_by_other_means_is_not_made_again(
        self, vault_service: VaultKeyService, vault_server: VaultServer, other_kek: Kek
    ):
        """A key without the entry that says by whom it was made exists all the same."""
        vault_server.raw.must("POST", f"{TRANSIT}/keys/{other_kek.name}", {"type": "aes256-gcm96", "derived": True})
        with pytest.raises(AlreadyExists):
            vault_service.create(other_kek)
        vault_service.generate(other_kek)

    def test_version_zero_is_no_version(self, vault_service: VaultKeyService, kek: Kek):
        """Transit takes version 0 for version 1; we do not."""
        _, wrapped = vault_service.generate(kek)
        for version in (0, -1):
            with pytest.raises(IntegrityError):
                vault_service.unwrap([replace(wrapped, version=version)])

    def test_retired_is_gone_for_root(self, vault_service: VaultKeyService, vault_server: VaultServer, kek: Kek):
        """After a retirement not even root can lower the minimum again, and nothing opens."""
        _, old = vault_service.generate(kek)
        vault_service.rotate(kek)
        vault_service.retire(kek, 2)
        raw = vault_server.raw
        raw("POST", f"{TRANSIT}/keys/{kek.name}/config", {"min_decryption_version": 1})
        assert raw("POST", f"{TRANSIT}/keys/{kek.name}/trim", {"min_available_version": 1})[0] >= 400
        data = raw.must("GET", f"{TRANSIT}/keys/{kek.name}")["data"]
        assert data["min_available_version"] == 2
        body = {"ciphertext": f"vault:v1:{b64(old.ciphertext)}", "context": b64(kek.binding)}
        assert raw("POST", f"{TRANSIT}/decrypt/{kek.name}", body)[0] == 400
        with pytest.raises(KeyRetired):
            vault_service.unwrap([old])

    def test_interrupted_retirement_is_finished(
        self,
        connect_vault,
        vault_service: VaultKeyService,
        vault_proxy: FaultyProxy,
        vault_server: VaultServer,
        kek: Kek,
    ):
        """Cut short between raising the minimum and dropping the versions, doing it again drops them."""
        vault_service.rotate(kek)
        vault_proxy.faults = [Fault(status=500, where="/trim", times=-1)]
        service = connect_vault(address=vault_proxy.address, retry_s=0)
        with pytest.raises(Exception, match="trim"):
            service.retire(kek, 2)
        assert vault_server.raw.must("GET", f"{TRANSIT}/keys/{kek.name}")["data"]["min_available_version"] == 0
        vault_service.retire(kek, 2)
        assert vault_server.raw.must("GET", f"{TRANSIT}/keys/{kek.name}")["data"]["min_available_version"] == 2

    def test_signature_is_sha384_of_a_digest(self, connect_vault, vault_service, vault_proxy: FaultyProxy):
        """The hash is named, for the default would be SHA-256, and no message is sent."""
        name = f"s{secrets.token_hex(8)}"
        vault_service.create_author(name)
        connect_vault(address=vault_proxy.address).sign(name, b"canary" * 100)
        request = next(r for r in vault_proxy.seen if "/sign/" in r.path)
        body = json.loads(request.body)
        assert body["hash_algorithm"] == "sha2-384"
        assert body["prehashed"] is True
        assert len(base64.b64decode(body["input"])) == 48
        assert b"canary" not in request.body
        assert b64(b"canarycanary")[:12].encode() not in request.body

    def test_rotated_author_stays_itself(
        self, vault_service: VaultKeyService, vault_server: VaultServer, connect_vault
    ):
        """An author is the first version of its key: rotating it changes neither signatures nor public half."""
        name = f"s{secrets.token_hex(8)}"
        author = vault_service.create_author(name)
        vault_server.raw.must("POST", f"{TRANSIT}/keys/sh-author-{name}/rotate", {})
        fresh = connect_vault()
        assert fresh.author(name) == author
        verify(author.public_key, fresh.sign(name, b"message"), b"message")

    def test_author_of_another_kind(self, vault_service: VaultKeyService, vault_server: VaultServer):
        """A signing key of another type is refused."""
        name = f"s{secrets.token_hex(8)}"
        vault_server.raw.must("POST", f"{TRANSIT}/keys/sh-author-{name}", {"type": "ecdsa-p256"})
        with pytest.raises(IntegrityError):
            vault_service.author(name)


# --- anchors ----------------------------------------------------------------------------------


class TestAnchors:
    """Anchors against somebody who holds a producer's token, or more."""

    POLICY = f'path "{KV}/data/anchors/*" {{ capabilities = ["create", "read"] }}'

    def test_thief_can_neither_overwrite_nor_delete(self, vault_server: VaultServer, connect_vault):
        """With create and read, every way to change an entry is 403."""
        token = vault_server.raw.token_for(policy=self.POLICY)
        dataset_id = secrets.token_bytes(16)
        service = connect_vault(token=token)
        entry = service.create_anchor(dataset_id, 0, b"true")
        path = f"anchors/{dataset_id.hex()}/{0:016d}"
        thief = vault_servers.RawVault(vault_server.address, token)
        for method, target, body in (
            ("POST", f"{KV}/data/{path}", {"options": {"cas": 1}, "data": {"link": "old"}}),
            ("POST", f"{KV}/data/{path}", {"options": {"cas": 0}, "data": {"link": "old"}}),
            ("DELETE", f"{KV}/data/{path}", None),
            ("POST", f"{KV}/delete/{path}", {"versions": [1]}),
            ("POST", f"{KV}/undelete/{path}", {"versions": [1]}),
            ("POST", f"{KV}/destroy/{path}", {"versions": [1]}),
            ("POST", f"{KV}/metadata/{path}", {"max_versions": 1}),
            ("DELETE", f"{KV}/metadata/{path}", None),
        ):
            assert thief(method, target, body)[0] == 403, (method, target)
        assert service.read_anchor(dataset_id, 0) == entry

    @pytest.mark.parametrize("how", ["overwritten", "deleted", "destroyed"])
    def test_change_by_root_is_noticed(self, vault_server: VaultServer, vault_service: VaultKeyService, how: str):
        """What somebody with more rights did to an entry is an integrity error, never a silent answer or a gap."""
        dataset_id = secrets.token_bytes(16)
        vault_service.create_anchor(dataset_id, 0, b"true")
        path = f"anchors/{dataset_id.hex()}/{0:016d}"
        if how == "overwritten":
            body = {"options": {"cas": 1}, "data": {"link": b64(b"other")}}
            vault_server.raw.must("POST", f"{KV}/data/{path}", body)
        elif how == "deleted":
            vault_server.raw.must("DELETE", f"{KV}/data/{path}")
        else:
            vault_server.raw.must("POST", f"{KV}/destroy/{path}", {"versions": [1]})
        with pytest.raises(TamperedError):
            vault_service.read_anchor(dataset_id, 0)
        with pytest.raises(TamperedError):
            vault_service.create_anchor(dataset_id, 0, b"again")

    def test_without_the_right_to_create(self, vault_server: VaultServer, connect_vault):
        """Who may read only is denied, and is not told that somebody else was first."""
        policy = f'path "{KV}/data/anchors/*" {{ capabilities = ["read"] }}'
        service = connect_vault(token=vault_server.raw.token_for(policy=policy))
        with pytest.raises(AccessDenied):
            service.create_anchor(secrets.token_bytes(16), 0, b"link")

    def test_without_any_right(self, vault_server: VaultServer, connect_vault):
        """Who may not read is denied, and is not told that there is nothing."""
        policy = f'path "{KV}/data/elsewhere" {{ capabilities = ["read"] }}'
        service = connect_vault(token=vault_server.raw.token_for(policy=policy))
        with pytest.raises(AccessDenied):
            service.read_anchor(secrets.token_bytes(16), 0)
        with pytest.raises(AccessDenied):
            service.create_anchor(secrets.token_bytes(16), 0, b"link")


# --- HashiCorp's Vault, as far as it can be emulated ------------------------------------------------


class TestHashiCorp:
    """Where HashiCorp's Vault is known, from its source and documentation, to answer otherwise: by the proxy."""

    def test_key_that_existed(self, connect_vault, vault_service, vault_proxy: FaultyProxy, other_kek: Kek):
        """Its warning that a key existed already, in a race, leaves the decision to the entry beside the key."""

        def warn(body: bytes) -> bytes:
            return json.dumps({**json.loads(body), "warnings": [f"key {other_kek.name} already existed"]}).encode()

        service = connect_vault(address=vault_proxy.address)
        vault_proxy.faults = [Fault(change=warn, where=f"POST /v1/{TRANSIT}/keys")]
        service.create(other_kek)
        with pytest.raises(AlreadyExists):
            vault_service.create(other_kek)

    def test_rotation_without_a_body(self, connect_vault, vault_proxy: FaultyProxy, kek: Kek):
        """Older servers answer a rotation with 204 and nothing: the version is read."""
        service = connect_vault(address=vault_proxy.address)
        vault_proxy.faults = [Fault(change=lambda body: b"", where="/rotate")]
        assert service.rotate(kek) == 2

    def test_sealed_index(self, connect_vault, raft_vault: VaultServer):
        """An index that cannot be read is passed on as it is, the last one."""
        service = connect_vault(raft_vault, token=raft_vault.raw.token_for(ttl="1h"))
        for index in ("djE6b3BhcXVl", "djE6bmV3ZXI="):
            service.client.indexes.remember(index)
            assert service.client.indexes.newest == index

    def test_index_never_goes_back(self, connect_vault, raft_vault: VaultServer):
        """Of one cluster's indexes the newest is kept, in whatever order answers come; nonsense is ignored."""
        service = connect_vault(raft_vault)
        indexes = [b64(json.dumps({"cluster": "x", "value": str(value)}).encode()) for value in (9, 10, 2)]
        for index in (*indexes, "", "\n", "x" * 5000):
            service.client.indexes.remember(index)
        assert service.client.indexes.newest == indexes[1]

    def test_community_edition_has_no_index(self, connect_vault, raft_vault: VaultServer):
        """Its standbys forward everything: without an index it is believed, and OpenBao is not."""
        for edition, believed in ((b'"enterprise":false,', True), (b'"enterprise":true,', False), (b"", False)):
            proxy = FaultyProxy(raft_vault.address)
            try:
                proxy.hidden_headers = {"x-vault-index"}
                health = lambda body, edition=edition: body.replace(b"{", b"{" + edition, 1)  # noqa: E731
                proxy.faults = [Fault(change=health, times=-1, where="sys/health")]
                token = raft_vault.raw.token_for(ttl="1h")
                service = connect_vault(raft_vault, address=proxy.address, token=token)
                if believed:
                    assert service.read_anchor(secrets.token_bytes(16), 0) is None
                else:
                    with pytest.raises(StaleReplica):
                        service.read_anchor(secrets.token_bytes(16), 0)
            finally:
                proxy.close()


# --- registry ---------------------------------------------------------------------------------------


class TestRegistry:
    """What only this registry has: claims, and rights."""

    @pytest.fixture
    def ref(self) -> DatasetRef:
        """A dataset that nobody else uses."""
        return DatasetRef(secrets.token_bytes(16), (f"s3://traps/{secrets.token_hex(8)}",))

    def test_abandoned_claim_is_free_again(
        self, vault_service: VaultKeyService, vault_server: VaultServer, ref: DatasetRef, monkeypatch
    ):
        """A URL that was claimed for a dataset that never came is refused for a minute, and then given away."""
        ghost = secrets.token_hex(16)
        body = {"options": {"cas": 0}, "data": {"dataset": ghost}}
        vault_server.raw.must("POST", f"{KV}/data/{url_path(ref.urls[0])}", body)
        with pytest.raises(ConflictError):
            vault_service.register(ref)
        monkeypatch.setattr(registry, "CLAIM_LIFE", timedelta(seconds=-5))
        vault_service.register(ref)
        assert vault_service.lookup(ref.urls[0]) == ref

    def test_freed_url_can_be_taken_at_once(self, vault_service: VaultKeyService, ref: DatasetRef):
        """After a move the old URL is free, without waiting."""
        vault_service.register(ref)
        vault_service.register(replace(ref, urls=("s3://traps/" + secrets.token_hex(8),)))
        successor = replace(ref, dataset_id=secrets.token_bytes(16))
        vault_service.register(successor)
        assert vault_service.lookup(ref.urls[0]) == successor

    def test_several_lookups_are_one(self, vault_service: VaultKeyService, ref: DatasetRef):
        """Lookups in the same second are answered from memory; own changes are seen at once."""
        vault_service.register(ref)
        vault_service.lookup(ref.urls[0])
        before = vault_service.calls
        for name in (ref.urls[0], ref.dataset_id.hex(), ref.urls[0] + "/"):
            assert vault_service.lookup(name) == ref
        assert vault_service.calls == before
        vault_service.register(replace(ref, destroyed=True))
        assert vault_service.lookup(ref.urls[0]).destroyed

    def test_change_by_others_is_seen_after_a_second(self, vault_service, connect_vault, ref: DatasetRef):
        """What another client registers shows after a second at the latest."""
        other = connect_vault()
        vault_service.register(ref)
        assert other.lookup(ref.urls[0]) == ref
        vault_service.register(replace(ref, destroyed=True))
        time.sleep(registry.MEMORY_S + 0.05)
        assert other.lookup(ref.urls[0]).destroyed

    def test_reader_sees_what_it_may(self, vault_service, connect_vault, vault_server: VaultServer, ref: DatasetRef):
        """A reader looks up its dataset, lists no other one, and registers nothing."""
        other = DatasetRef(secrets.token_bytes(16), (ref.urls[0] + "-other",))
        vault_service.register(ref)
        vault_service.register(other)
        policy = f"""
            path "{KV}/data/urls/*" {{ capabilities = ["read"] }}
            path "{KV}/data/datasets/{ref.dataset_id.hex()}" {{ capabilities = ["read"] }}
            path "{KV}/metadata/datasets/" {{ capabilities = ["list"] }}
        """
        reader = connect_vault(token=vault_server.raw.token_for(policy=policy))
        assert reader.lookup(ref.urls[0]) == ref
        assert reader.datasets() == [ref]
        with pytest.raises(AccessDenied):
            reader.lookup(other.urls[0])
        with pytest.raises(AccessDenied):
            reader.register(replace(ref, destroyed=True))

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"urls": "s3://x", "policy": None, "destroyed": False},
            {"urls": [1], "policy": None, "destroyed": False},
            {"urls": [], "policy": None, "destroyed": "no"},
            {"urls": [], "policy": {"version": 0, "change": "", "digest": ""}, "destroyed": False},
            {"urls": [], "policy": {"version": "1", "change": "00" * 16, "digest": "00" * 48}, "destroyed": False},
            {"urls": [], "policy": [], "destroyed": False},
            {"urls": ["a\nb"], "policy": None, "destroyed": False},
        ],
        ids=range(8),
    )
    def test_damaged_record(self, vault_service, vault_server: VaultServer, ref: DatasetRef, data: dict[str, object]):
        """A record that is not what we write is an integrity error, or nothing when it is empty."""
        body = {"options": {"cas": 0}, "data": data}
        vault_server.raw.must("POST", f"{KV}/data/datasets/{ref.dataset_id.hex()}", body)
        try:
            with pytest.raises(TamperedError if data else NotFound):
                vault_service.lookup(ref.dataset_id.hex())
        finally:  # other tests list the records of this server
            vault_server.raw.must("DELETE", f"{KV}/metadata/datasets/{ref.dataset_id.hex()}")
