"""Revocation and destruction in a real Vault, on the assumption that the host kept every byte it was ever given."""

import base64
import shutil

import pytest
from vault_world import MOUNTS, VaultWorld

from sealedhealth.errors import AccessDenied, KeyDestroyed, KeyRetired, SnapshotCollected
from sealedhealth.keys.vault import TokenVariableLogin, VaultConfig, VaultKeyService
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.keys.vault.setup import expel
from sealedhealth.log.roster import Role
from sealedhealth.profiles import connect, disconnect
from sealedhealth.session import Session
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import destroy_dataset, destroy_keys, maintain, rewrap, rotate

pytestmark = pytest.mark.vault

T = MOUNTS.transit


@pytest.fixture
def world(vault_server, tmp_path):
    """A dataset with two commits, each under a data key of its own, and a checkpoint."""
    world = VaultWorld(tmp_path, vault_server)
    world.put({"keep/a": b"to keep"})
    world.put({"secret-name/b": b"to destroy"})
    maintain(world.open(world.controller), force=True)
    yield world
    world.close()


def wraps_on(world, host):
    """Every wrap of a data key in a copy of the host, checkpoints' included: found by form, not by our own reader."""
    session = world.open(world.controller)
    log = session.engine.log
    state = log.start()
    steps = log.replay(state, log.anchors_from(0))
    found = [wrapped for step in steps for accepted in step.accepted for wrapped in accepted.change.keys]
    for step in steps:
        hint = getattr(step.link, "checkpoint", None)
        if hint is not None:
            manifest, _ = log.nearest_checkpoint(step.entry.sequence, session.engine.trusted_policy()[0]) or (
                None,
                None,
            )
            if manifest is not None:
                found += [segment.wrapped for segment in manifest.segments]
    return {(wrapped.key_id, wrapped.version, wrapped.ciphertext): wrapped for wrapped in found}.values()


def opens(world, wrapped):
    """Whether a wrap opens for root, by a bare request."""
    body = {
        "ciphertext": f"vault:v{wrapped.version}:{base64.b64encode(wrapped.ciphertext).decode()}",
        "context": base64.b64encode(wrapped.kek.binding).decode(),
    }
    return world.server.raw("POST", f"{T}/decrypt/{wrapped.kek.name}", body)[0] == 200


def copy_of_host(world):
    """All that the host was ever given."""
    copy = world.root / "hoard"
    shutil.copytree(world.host, copy, dirs_exist_ok=True)
    return copy


def test_one_destroyed_key(world):
    """With old ciphertext, old wraps, old checkpoints and a root token the destroyed file does not open; others do."""
    wraps = list(wraps_on(world, world.host))
    copy_of_host(world)
    session = world.open(world.controller)
    doomed = session.snapshot.get("secret-name/b").data_key_id
    assert all(opens(world, wrapped) for wrapped in wraps)
    report = destroy_keys(session, [doomed])
    assert report.proved >= 1
    assert not any(opens(world, wrapped) for wrapped in wraps)
    assert world.files() == {"keep/a": b"to keep"}

    # The hoard put back in place of what the host was told to keep: nothing more opens, the name neither.
    shutil.copytree(world.root / "hoard", world.host, dirs_exist_ok=True)
    assert world.files() == {"keep/a": b"to keep"}
    with pytest.raises((KeyDestroyed, KeyRetired, SnapshotCollected)):
        world.open(world.controller).at(2).snapshot.get("secret-name/b")

    # Root lowers the minimum again, and looks for the versions: they are gone.
    raw = world.server.raw
    raw("POST", f"{T}/keys/{world.kek.name}/config", {"min_decryption_version": 1, "min_encryption_version": 1})
    assert not any(opens(world, wrapped) for wrapped in wraps)
    versions = raw.must("GET", f"{T}/keys/{world.kek.name}")["data"]["keys"]
    assert min(map(int, versions)) == report.minimum


def test_a_destroyed_dataset(world):
    """Every wrap that was ever on the host is dead, for root as well; opening says that it was destroyed."""
    rotate(world.open(world.controller))
    rewrap(world.open(world.controller))
    wraps = list(wraps_on(world, world.host))
    assert len(wraps) >= 6
    copy_of_host(world)
    destroy_dataset(world.open(world.controller))
    assert not any(opens(world, wrapped) for wrapped in wraps)
    shutil.copytree(world.root / "hoard", world.host, dirs_exist_ok=True)
    disconnect()
    Engine.forget(world.url, world.controller)
    with pytest.raises(KeyDestroyed):
        Session.open(world.url, world.controller)
    # A client with the all-powerful token, told the dataset's id past the registry.
    root = VaultKeyService(VaultConfig(world.server.address), TokenVariableLogin("SEALEDHEALTH_TEST_ROOT_TOKEN"))
    with root:
        for wrapped in wraps:
            with pytest.raises(KeyRetired):
                root.unwrap([wrapped])


def test_a_revoked_reader(world):
    """Its next key use fails and its token is dead, while the job that it ran keeps only what it had opened."""
    reader = world.enrol("job", VaultRole.READER)
    session = world.open(reader)
    service = session.engine.context.service
    wrapped = next(iter(wraps_on(world, world.host)))
    assert world.files(reader)
    token = world.token(reader)
    assert expel(MOUNTS, reader.author, world.admin) >= 2
    with pytest.raises(AccessDenied):
        service.unwrap([wrapped])
    assert world.server.raw("GET", "auth/token/lookup-self", token=token)[0] == 403
    disconnect()
    Engine.forget(world.url, reader)
    with pytest.raises(AccessDenied):
        Session.open(world.url, reader).snapshot  # noqa: B018 - the property is the attempt
    assert world.files()


def test_a_reader_cannot_write_or_anchor(world):
    """Neither by the package nor past it."""
    reader = world.enrol("job", VaultRole.READER)
    with pytest.raises(AccessDenied):
        world.put({"x": b"forged"}, reader)
    with pytest.raises(AccessDenied):
        connect(reader).anchors.create_anchor(world.dataset_id, 99, b"forged")
    with pytest.raises(AccessDenied):
        connect(reader).service.generate(world.kek)
    with pytest.raises(AccessDenied):
        connect(reader).service.sign(world.member("dpo"), b"forged")


def test_a_rotator_rewraps_and_sees_nothing(world):
    """Rotation and rewrap by an identity that can open nothing: no object touched, no data key in an answer."""
    rotator = world.join("rot", VaultRole.ROTATOR, Role.ROTATOR)
    objects = {path: path.read_bytes() for path in (world.host / "objects").rglob("*") if path.is_file()}
    session = world.open(rotator)
    before = session.engine.context.service.calls
    assert rotate(session) == 2
    report = rewrap(session)
    assert report.version == 2
    assert report.objects_rewritten == 0
    assert session.engine.context.service.calls - before < 25
    assert {path: path.read_bytes() for path in (world.host / "objects").rglob("*") if path.is_file()} == objects
    with pytest.raises(AccessDenied):
        session.engine.context.service.unwrap([next(iter(wraps_on(world, world.host)))])
    assert world.files() == {"keep/a": b"to keep", "secret-name/b": b"to destroy"}
