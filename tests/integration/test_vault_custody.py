"""Custody: what goes to the host and what goes to Vault, captured on the wire, searched for what must not be there."""

import base64
import socket
import uuid

import pytest
from recorder import recording
from vault_world import VaultWorld

from sealedhealth.dataset import Dataset
from sealedhealth.errors import NotFound
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.log.roster import Role
from sealedhealth.profiles import connect, disconnect
from sealedhealth.prove import Needle, Tap, prove, spellings
from sealedhealth.session.maintenance import maintain

pytestmark = pytest.mark.vault

CANARIES = {
    "content": b"canary-2690549588157-content",
    "column": b"canary_condition_concept",
    "file": b"canary-dupont-anne",
    "directory": b"canary-lille-oncology",
    "message": b"canary biopsies of ward seven",
    "tag": b"canary-before-the-audit",
}


@pytest.mark.moto
def test_nothing_in_clear_reaches_the_host_and_no_data_reaches_vault(
    vault_server, moto_server, tmp_path, monkeypatch, keys_seen
):
    """A canary dataset is sealed, read, checkpointed, rotated, rewrapped and destroyed, both wires recorded."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret)
    with recording(moto_server.endpoint_url) as host, recording(vault_server.address) as vault:
        options = {**moto_server.options, "endpoint_url": host.address}
        options = {key: value for key, value in options.items() if key not in {"key", "secret"}}
        world = VaultWorld(tmp_path, vault_server, host=f"s3://foreign-host/{uuid.uuid4().hex}/dataset", store=options)
        # From here on every request of the package goes through the recorder.
        profile = world.enrol("dpo", VaultRole.CONTROLLER, only=True, address=vault.address)
        dataset = Dataset.open(world.url, profile=profile)
        line = CANARIES["column"] + b",value\n" + CANARIES["content"] + b",7\n"
        name = f"{CANARIES['directory'].decode()}/{CANARIES['file'].decode()}"
        with dataset.transaction(CANARIES["message"].decode()) as tx:
            tx.staged.put_many({f"{name}-{number}": line * (number + 1) for number in range(20)})
            writer = tx.staged.writer(f"{name}-large")
            for _ in range(9):
                writer.write((line * 30_000)[: 1 << 20])
            writer.close()
        dataset.tag(CANARIES["tag"].decode())
        maintain(world.open(profile), force=True)
        disconnect()
        again = Dataset.open(world.url, profile=profile)
        assert again.fs.cat_file(f"{name}-3") == line * 4
        assert again.rotate() == 2
        again.rewrap()
        again.destroy()
        sent, asked, answered = bytes(host.sent), bytes(vault.sent), bytes(vault.answered)
        world.close()
    assert len(keys_seen) > 8  # data keys and object keys; the small files share one object
    needles = [Needle(what, spellings(text)) for what, text in CANARIES.items()]
    needles += [Needle("key", spellings(key)) for key in keys_seen]
    for needle in needles:
        assert needle.found_in(sent) is None, needle.what
        assert needle.found_in(asked) is None, needle.what
    # The canaries are nowhere in Vault's answers either; the data keys are, and only there.
    assert not [needle for needle in needles if needle.what != "key" and needle.found_in(answered)]
    assert any(base64.b64encode(key) in answered for key in keys_seen)
    # The wires were heard: object names went to the host, the name of the key to Vault.
    assert b"PUT /foreign-host/" in sent
    assert b"/objects/" in sent
    assert world.kek.name.encode() in asked
    # What went to Vault is small: digests, wraps, links; the 10 MB of data are not hidden in it.
    assert len(sent) > 9 << 20
    assert len(asked) < 300_000


@pytest.fixture
def world(vault_server, tmp_path):
    """A dataset on a local host."""
    world = VaultWorld(tmp_path, vault_server)
    yield world
    world.close()


def test_prove_for_a_controller(world):
    """The user's own proof: everything is done, everything searched, nothing found, the canaries gone again."""
    result = prove(world.url, world.controller)
    assert result.kept
    assert result.looked_for["data key"] >= 2
    assert any("rotated" in step for step in result.steps)
    assert any(place.startswith("sent to 127.0.0.1") for place in result.looked_in)
    assert any("Vault" in control for control in result.controls)
    assert world.files() == {}


def test_prove_for_a_producer_that_cannot_read(world):
    """A producer proves what it can: that what it seals leaves sealed."""
    producer = world.join("lille", VaultRole.PRODUCER, Role.PRODUCER, prefix="lille")
    result = prove(f"{world.url}/lille", producer)
    assert result.kept
    assert [step for step in result.steps if "may only add" in step]
    assert len(world.files()) == 13


def test_prove_needs_a_dataset_when_the_keys_are_in_vault(world, tmp_path):
    """Nobody's role can both make and destroy a dataset, so none is made."""
    with pytest.raises(NotFound):
        prove(str(tmp_path / "elsewhere"), world.controller)


def test_a_leak_is_found(world, monkeypatch):
    """A store that also writes what it should not is caught: a data key beside an object, in base64."""
    from sealedhealth.stores.local import LocalStore

    service = connect(world.controller).service
    kept = []
    original = type(service).generate

    def generate(self, kek):
        key, wrapped = original(self, kek)
        kept.append(key.expose())
        return key, wrapped

    monkeypatch.setattr(type(service), "generate", generate)
    put = LocalStore.put_many

    def put_many(self, files):
        leak = {"objects/00/" + "0" * 32: b"x" + base64.b64encode(kept[-1]) + b"y"} if kept else {}
        return put(self, {**files, **leak})

    monkeypatch.setattr(LocalStore, "put_many", put_many)
    result = prove(world.url, world.controller)
    assert not result.kept
    assert any(leak.what.startswith("data key") and leak.where == "files on the host" for leak in result.leaks)


def test_the_tap_hears_plain_sockets():
    """Bytes are kept by peer, whichever method sends them, and the sockets are as before afterwards."""
    before = (socket.socket.send, socket.socket.sendall)
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = f"127.0.0.1:{server.getsockname()[1]}"
        tap = Tap()
        with tap.listening(), socket.create_connection(server.getsockname()) as client:
            client.send(b"one ")
            client.sendall(b"two ")
            client.sendmsg([b"three", b" four"])
        assert tap.heard[peer] == b"one two three four"
    assert (socket.socket.send, socket.socket.sendall) == before


@pytest.mark.parametrize("form", ["plain", "hex", "UTF-16", "base64+1", "base64url+2", "upper case", "reversed"])
def test_a_needle_is_found_in_each_spelling(form):
    """Each spelling is found inside other bytes."""
    secret = b"canary-of-thirty-two-bytes-long!"
    forms = dict(spellings(secret))
    assert Needle("x", spellings(secret)).found_in(b"..." + forms[form] + b"...") is not None


@pytest.mark.parametrize("shift", range(3))
def test_base64_is_found_at_every_alignment(shift):
    """Wherever a secret stands in what is encoded."""
    secret = bytes(range(100, 132))
    coded = base64.b64encode(b"abc"[:shift] + secret + b"tail")
    assert Needle("x", spellings(secret)).found_in(coded) is not None
