"""A thief has a producer's machine: its Vault credentials, its signing key, its state, and write access to the host.

Everything here runs against a real OpenBao with the policies that ``sealedhealth vault setup`` writes.
"""

import base64
import os
from pathlib import Path

import pytest
from vault_world import MOUNTS, VaultWorld

from sealedhealth.errors import AccessDenied, AnchorTaken, IntegrityError, SealedHealthError
from sealedhealth.keys import Kek
from sealedhealth.keys.vault.layout import anchor_path, author_key, dataset_path, url_path
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.log.roster import Role
from sealedhealth.log.state import LogState
from sealedhealth.profiles import connect
from sealedhealth.session import set_author

pytestmark = pytest.mark.vault

T, K = MOUNTS.transit, MOUNTS.kv


@pytest.fixture(scope="module")
def world(vault_server, tmp_path_factory):
    """A dataset with two files of its controller."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("thief")
        patch.setenv("SEALEDHEALTH_HOME", str(root / "home"))
        patch.setenv("SEALEDHEALTH_CONFIG", str(root / "profiles.toml"))
        world = VaultWorld(root, vault_server)
        world.put({"shared/one": b"one", "shared/two": b"two" * 1000})
        yield world
        world.close()


@pytest.fixture(scope="module")
def thief(world):
    """The stolen profile of a producer, confined to ``hospital/``, that has committed an honest file."""
    profile = world.join("lille", VaultRole.PRODUCER, Role.PRODUCER, prefix="hospital")
    world.put({"hospital/honest": b"honest"}, profile)
    return profile


@pytest.fixture(autouse=True)
def _own_configuration(world, monkeypatch):
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(world.config))


@pytest.fixture
def token(world, thief):
    """A token of the thief's, to use past every check of our own client."""
    return world.token(thief)


@pytest.fixture
def honest(world, thief):
    """What the dataset holds; has to be the same after every attack."""
    before = world.files()
    assert before["hospital/honest"] == b"honest"
    yield before
    assert world.files() == before


def every_wrap(world):
    """Every wrap that was ever committed, the producer's own included."""
    session = world.open(world.controller)
    log = session.engine.log
    state: LogState = log.start()
    steps = log.replay(state, log.anchors_from(0))
    return [wrapped for step in steps for accepted in step.accepted for wrapped in accepted.change.keys]


def test_nothing_stored_opens_by_its_rights(world, thief, token, honest):
    """No wrap on the host opens, neither through the package nor by bare requests, its own earlier runs' included."""
    wraps = every_wrap(world)
    assert len(wraps) >= 4
    service = connect(thief).service
    for wrapped in wraps:
        with pytest.raises(AccessDenied):
            service.unwrap([wrapped])
        with pytest.raises(AccessDenied):
            service.rewrap([wrapped])
        item = {
            "ciphertext": f"vault:v{wrapped.version}:{base64.b64encode(wrapped.ciphertext).decode()}",
            "context": base64.b64encode(wrapped.kek.binding).decode(),
        }
        for operation in ("decrypt", "rewrap"):
            assert world.server.raw("POST", f"{T}/{operation}/{wrapped.kek.name}", item, token=token)[0] == 403


def test_it_cannot_list_or_read(world, thief, honest):
    """Through the package, reading is refused with a plain error, and a listing is not empty but refused."""
    session = world.open(thief)
    assert not session.readable
    with pytest.raises(AccessDenied):
        session.snapshot  # noqa: B018 - the property is the attempt


def test_its_own_new_keys_do_not_open_later(world, thief, token, honest):
    """A data key that it asks for now comes once: its wrap does not open by the same credentials a moment later."""
    key, wrapped = connect(thief).service.generate(world.kek)
    key.close()
    with pytest.raises(AccessDenied):
        connect(thief).service.unwrap([wrapped])


def test_it_cannot_get_keys_that_open_elsewhere(world, thief, token, honest):
    """The binding is pinned by the policy: a data key for another dataset or compartment cannot be had."""
    body = {"context": base64.b64encode(Kek(world.dataset_id, os.urandom(16)).binding).decode()}
    assert world.server.raw("POST", f"{T}/datakey/plaintext/{world.kek.name}", body, token=token)[0] == 403
    status, answer = world.server.raw("POST", f"{T}/datakey/plaintext/{world.kek.name}", {}, token=token)
    assert status == 400
    assert "context" in str(answer)


@pytest.mark.parametrize("path", ["shared/one", "elsewhere", "hospitality/x", "shared/new/deep"])
def test_what_it_puts_outside_its_prefix_has_no_effect(world, thief, honest, path):
    """Vault lets it anchor, for Vault knows no paths; no reader takes what is in there, and the history says why."""
    sequence = world.put({path: b"forged"}, thief)
    refused = world.open(world.controller).history()[sequence].refused
    assert "prefix" in refused[0]


@pytest.mark.parametrize(
    "method, tree, body",
    [
        ("POST", "data", {"options": {"cas": 1}, "data": {"link": "eA=="}}),
        ("POST", "data", {"data": {"link": "eA=="}}),
        ("POST", "data", {"options": {"cas": 0}, "data": {"link": "eA=="}}),
        ("DELETE", "data", None),
        ("DELETE", "metadata", None),
        ("POST", "metadata", {"max_versions": 1, "cas_required": False}),
        ("POST", "destroy", {"versions": [1]}),
        ("POST", "delete", {"versions": [1]}),
        ("POST", "undelete", {"versions": [1]}),
    ],
)
def test_it_cannot_roll_an_anchor_back(world, thief, token, honest, method, tree, body):
    """No request overwrites, deletes, or empties an anchor, or resets its counter: 403, and the link stays."""
    newest = world.open(world.controller).sequence
    for sequence in (0, newest):
        before = connect(world.controller).anchors.read_anchor(world.dataset_id, sequence)
        path = f"{K}/{tree}/{anchor_path(world.dataset_id, sequence)}"
        assert world.server.raw(method, path, body, token=token)[0] == 403
        assert connect(world.controller).anchors.read_anchor(world.dataset_id, sequence).link == before.link


def test_it_cannot_take_an_anchor_that_exists(world, thief, honest):
    """Creating over an anchor is told from creating the next."""
    with pytest.raises(AnchorTaken):
        connect(thief).anchors.create_anchor(world.dataset_id, 0, b"another history")


def test_rubbish_as_the_next_anchor_is_void(world, thief, honest):
    """It can waste a number; the link is void, and everybody goes on after it."""
    newest = world.open(world.controller).sequence
    connect(thief).anchors.create_anchor(world.dataset_id, newest + 1, b"rubbish")
    assert world.files() == honest
    world.put({"shared/later": b"later"})
    assert world.files() == {**honest, "shared/later": b"later"}
    session = world.open(world.controller)
    tx = session.begin()
    tx.delete("shared/later")
    tx.commit()


def test_it_cannot_anchor_elsewhere(world, thief, token, honest):
    """Other datasets' anchors are out of its reach, to read too."""
    path = f"{K}/data/{anchor_path(os.urandom(16), 0)}"
    assert world.server.raw("GET", path, token=token)[0] == 403
    body = {"options": {"cas": 0}, "data": {"link": "eA=="}}
    assert world.server.raw("POST", path, body, token=token)[0] == 403


def test_it_cannot_sign_as_others(world, thief, token, honest):
    """Neither as the root key nor as another member."""
    digest = base64.b64encode(bytes(48)).decode()
    for name in (world.keys.root_key, world.member("dpo")):
        path = f"{T}/sign/{author_key(name)}"
        assert world.server.raw("POST", path, {"input": digest}, token=token)[0] == 403
        assert world.server.raw("POST", f"{path}/sha2-384", {"input": digest}, token=token)[0] == 403


def test_it_cannot_change_roster_or_registry(world, thief, token, honest):
    """It can't promote itself, and the registry's entries are read-only for it."""
    key = connect(thief).service.author(thief.author)
    with pytest.raises(SealedHealthError):
        set_author(world.open(thief), key.public_key, name="me", roles=list(Role))
    for path in (dataset_path(world.dataset_id), url_path(world.url)):
        for method, tree in (("POST", "data"), ("DELETE", "data"), ("DELETE", "metadata")):
            body = {"options": {"cas": 1}, "data": {}} if method == "POST" else None
            assert world.server.raw(method, f"{K}/{tree}/{path}", body, token=token)[0] == 403


def test_it_cannot_delete_or_move(world, thief, honest):
    """Erasing needs the curator's role."""
    session = world.open(thief)
    tx = session.begin()
    with pytest.raises((AccessDenied, SealedHealthError)):
        tx.delete("hospital/honest")
        tx.commit()


def test_deleting_on_the_host_is_noticed(world, thief, honest):
    """With write access to the host it can destroy copies: every reader says so, none takes it for an empty dataset."""
    objects = [path for path in (world.host / "objects").rglob("*") if path.is_file()]
    kept = {path: path.read_bytes() for path in objects}
    for path in objects:
        path.unlink()
    with pytest.raises(IntegrityError):
        world.files()
    for path, data in kept.items():
        path.write_bytes(data)


def test_once_off_the_roster_and_expelled_it_is_out(world):
    """After the runbook's two steps its token is dead, and what it signs counts for nothing."""
    from sealedhealth.keys.vault.setup import expel

    profile = world.join("nantes", VaultRole.PRODUCER, Role.PRODUCER, prefix="nantes")
    world.put({"nantes/a": b"a"}, profile)
    token = world.token(profile)
    session = world.open(profile)  # it has a connection that works
    key = connect(world.controller).service.author(profile.author)
    set_author(world.open(world.controller), key.public_key, name="nantes", roles=[], active=False)
    with pytest.raises(AccessDenied):
        world.put({"nantes/b": b"b"}, profile)
    assert expel(MOUNTS, profile.author, world.admin) >= 1
    assert world.server.raw("GET", "auth/token/lookup-self", token=token)[0] == 403
    with pytest.raises(AccessDenied):
        session.engine.context.service.generate(world.kek)
    assert world.files()["nantes/a"] == b"a"


def test_the_secret_id_file_alone_is_what_was_stolen(thief):
    """The profile that the thief holds has no secret in it but by the name of a file."""
    assert thief.vault is not None
    secret = Path(thief.vault.login.secret_id_file).read_text()
    assert secret not in repr(thief)
