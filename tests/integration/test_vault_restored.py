"""A Vault that was restored from an old backup, on raft storage, and how the data controller recovers."""

import pytest
import requests
import vault_servers
from vault_world import VaultWorld

from sealedhealth.errors import AnchorRolledBack, KeyMissing
from sealedhealth.profiles import connect, disconnect
from sealedhealth.session.maintenance import rewrap, rotate
from sealedhealth.session.recovery import reanchor

pytestmark = pytest.mark.vault


@pytest.fixture
def server(tmp_path):
    """A node of one's own, since it is restored."""
    with vault_servers.raft_server(tmp_path / "raft") as server:
        yield server


@pytest.fixture
def world(server, tmp_path):
    """A dataset with one commit."""
    world = VaultWorld(tmp_path, server)
    world.put({"a": b"before the backup"})
    yield world
    world.close()


def snapshot(server):
    """A backup, as `bao operator raft snapshot save` makes it."""
    headers = {"X-Vault-Token": server.root_token}
    return requests.get(f"{server.address}/v1/sys/storage/raft/snapshot", headers=headers, timeout=30).content


def restore(server, backup):
    """Put it back."""
    headers = {"X-Vault-Token": server.root_token}
    url = f"{server.address}/v1/sys/storage/raft/snapshot-force"
    assert requests.post(url, data=backup, headers=headers, timeout=60).status_code < 300
    vault_servers.unseal(server)


def test_commits_after_the_backup_are_anchored_again(world, server):
    """Every client refuses; the data controller anchors again from the host; nothing is lost, and digests agree."""
    backup = snapshot(server)
    world.put({"b": b"after the backup"})
    newest = world.put({"c": b"as well"})
    digest = world.open(world.controller).snapshot.digest.hex()
    restore(server, backup)
    disconnect()
    stranger = world.root / "state"
    for path in stranger.rglob("*.json"):  # a machine that never saw the dataset notices too
        path.unlink()
    with pytest.raises(AnchorRolledBack):
        world.files()
    planned = reanchor(world.url, world.controller, dry_run=True)
    assert (planned.after, planned.digest) == (newest, digest)
    with pytest.raises(AnchorRolledBack):
        world.files()
    report = reanchor(world.url, world.controller)
    assert (report.before, report.after, report.digest, report.lost_keys) == (newest - 2, newest, digest, 0)
    assert world.files() == {"a": b"before the backup", "b": b"after the backup", "c": b"as well"}
    world.put({"d": b"and on it goes"})
    assert len(world.files()) == 4
    assert reanchor(world.url, world.controller).before == newest + 1


def test_keys_wrapped_after_a_rotation_that_the_backup_lacks_are_lost(world, server):
    """The order of backups matters: what was wrapped by a version that is not in the backup cannot be had again."""
    backup = snapshot(server)
    assert rotate(world.open(world.controller)) == 2
    rewrap(world.open(world.controller))
    world.put({"b": b"under version 2"})
    restore(server, backup)
    disconnect()
    report = reanchor(world.url, world.controller)
    assert report.lost_keys >= 2
    session = world.open(world.controller)
    wraps = [key for key in session.engine.loaded.state.live_keys() if key.version == 2]
    with pytest.raises(KeyMissing):
        connect(world.controller).service.unwrap(wraps[:1])
