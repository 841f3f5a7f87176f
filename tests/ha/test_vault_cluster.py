"""A cluster of three OpenBao nodes: leaders die and step down, standbys lag and are cut off, nodes are sealed.

Whatever happens ends in success or in one clear error, the last commit is intact, and trying again works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import vault_cluster
from vault_cluster import Cluster
from vault_sessions import Site, files_of, many, put, vault_of

from sealedhealth import profiles
from sealedhealth.errors import SealedHealthError, ServiceUnavailable, StaleReplica
from sealedhealth.keys.vault.client import Call
from sealedhealth.profiles import Profile, connect

pytestmark = [pytest.mark.vault, pytest.mark.ha]

BEFORE = {"before/one": b"committed before the fault", "before/two": b"x" * 100_000}
FILES = 300


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with vault_cluster.cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, whole."""
    _cluster.heal()
    yield _cluster
    profiles.disconnect()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    """A place with an empty dataset, whose first files are committed through the leader."""
    site = Site(tmp_path, cluster.server())
    put(site.create(site.client()), BEFORE)
    return site


def when(profile: Profile, part: str, action: Callable[[], object]) -> None:
    """Do *action* once, right after the first request of *profile* whose path holds *part*."""
    done = threading.Event()

    def watch(call: Call) -> None:
        if part in call.path and not done.is_set():
            done.set()
            action()

    vault_of(profile).observe = watch


def all_or_nothing(
    site: Site, cluster: Cluster, attempt: Callable[[], int], new: dict[str, bytes], *, may_fail: bool = False
) -> None:
    """Run *attempt*: it succeeds, or where it *may_fail*, ends in one clear error; look from elsewhere; try again."""
    error: SealedHealthError | None = None
    try:
        attempt()
    except ServiceUnavailable as caught:
        error = caught
    assert error is None or (error.what and error.safe and error.next)
    assert error is None or may_fail
    cluster.heal()
    site.server = cluster.server()
    found = files_of(site.open(site.client()))
    assert {path: found.get(path) for path in BEFORE} == BEFORE
    # Whole or not at all, and there when it was said to be.
    assert found in (BEFORE, BEFORE | new)
    if error is None:
        assert found == BEFORE | new
    again = site.client()
    put(site.open(again), {"after/one": b"committed after the fault"} | new)
    assert files_of(site.open(site.client())) == BEFORE | new | {"after/one": b"committed after the fault"}


# --- the leader goes --------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["datakey", "/sign/"])
def test_leader_killed_during_a_put_of_many_files(cluster: Cluster, site: Site, point: str):
    """SIGKILL after the data key was made, or right before the anchor: a client of a standby goes on by itself."""
    leader = cluster.leader
    writer = site.client(address=cluster.standbys[0].address, retry_s=45)
    session = site.open(writer)
    when(writer, point, leader.kill)
    all_or_nothing(site, cluster, lambda: put(session, many(FILES)), many(FILES))
    assert cluster.leader is not leader


def test_leader_killed_at_any_moment(cluster: Cluster, site: Site, long_walk: bool):
    """SIGKILL while commits follow each other: each one that was reported is there, and at most one more."""
    for turn in range(5 if long_walk else 1):
        cluster.heal()
        site.server = cluster.server()
        writer = site.client(address=cluster.standbys[0].address, retry_s=45)
        session = site.open(writer)
        leader = cluster.leader
        timer = threading.Timer(0.15 + 0.13 * turn, leader.kill)
        timer.start()
        reported: dict[str, bytes] = {}
        failed: dict[str, bytes] = {}
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            files = many(20, f"turn{turn}-{len(reported)}")
            alive = leader.running
            try:
                put(session, files)
            except ServiceUnavailable:
                failed = files
                break
            reported |= files
            if not alive:
                break  # a whole commit after the failover
        timer.join()
        cluster.heal()
        site.server = cluster.server()
        found = files_of(site.open(site.client()))
        mine = {path: data for path, data in found.items() if path.startswith(f"turn{turn}-")}
        assert mine in (reported, reported | failed)
        assert {path: found[path] for path in BEFORE} == BEFORE


def test_client_of_the_killed_leader_itself(cluster: Cluster, site: Site):
    """A client that knows only the node that died gets one clear error, and goes on once it is back."""
    leader = cluster.leader
    writer = site.client(address=leader.address, retry_s=1)
    session = site.open(writer)
    when(writer, "datakey", leader.kill)
    with pytest.raises(ServiceUnavailable, match=r"cannot be reached|did not answer"):
        put(session, many(FILES))
    cluster.heal()
    assert put(session, many(FILES)) == session.sequence
    site.server = cluster.server()
    assert files_of(site.open(site.client())) == BEFORE | many(FILES)


def test_leader_steps_down_during_a_put(cluster: Cluster, site: Site):
    """A planned change of leader costs time and nothing else."""
    leader = cluster.leader
    writer = site.client(address=cluster.standbys[0].address, retry_s=45)
    session = site.open(writer)
    when(writer, "datakey", lambda: cluster.raw(leader)("PUT", "sys/step-down"))
    all_or_nothing(site, cluster, lambda: put(session, many(FILES)), many(FILES))


# --- quorum -----------------------------------------------------------------------------------


def test_lost_quorum(cluster: Cluster, site: Site):
    """With two of three nodes gone nothing is committed, nothing is half done, and all goes on with them back."""
    leader = cluster.leader
    writer = site.client(address=leader.address, retry_s=2, timeout_s=3)
    session = site.open(writer)
    for node in cluster.standbys:
        node.kill()
    all_or_nothing(site, cluster, lambda: put(session, many(20)), many(20), may_fail=True)


# --- standbys that lag -----------------------------------------------------------------------


def test_standby_never_serves_an_old_commit(cluster: Cluster, site: Site):
    """Fifty times: commit through the leader, then open through a standby at once, as a machine that holds no index."""
    session = site.open(site.client())
    token = site.server.raw.token_for(ttl="1h")
    for turn in range(50):
        reader = site.client(address=cluster.standbys[turn % 2].address, token=token)
        sequence = put(session, {"counter": str(turn).encode()})
        opened = site.open(reader)
        assert opened.sequence == sequence
        assert files_of(opened)["counter"] == str(turn).encode()
        vault_of(reader).close()


def test_standby_alone_would_be_stale(cluster: Cluster, site: Site):
    """The trap itself: read plainly, some standby does not know yet what the leader has acknowledged."""
    raw = cluster.raw(cluster.leader)
    path = "sealedhealth-kv/data/trap"
    stale = 0
    for turn in range(100):
        raw.must("POST", f"{path}{turn}", {"options": {"cas": 0}, "data": {"x": "y"}})
        stale += any(cluster.raw(node)("GET", f"{path}{turn}")[0] == 404 for node in cluster.standbys)
    assert stale


def test_session_on_a_standby_sees_what_others_commit(cluster: Cluster, site: Site):
    """A session that stays open on a standby: a refresh right after somebody else's commit shows it."""
    writing = site.open(site.client())
    reading = site.open(site.client(address=cluster.standbys[0].address))
    for turn in range(20):
        sequence = put(writing, {"counter": str(turn).encode()})
        reading.refresh()
        assert reading.sequence == sequence


def test_writers_on_every_node(cluster: Cluster, site: Site):
    """Writers on all three nodes at once: every commit that was reported is there, none is lost or doubled."""
    sessions = [site.open(site.client(address=node.address)) for node in cluster.nodes]
    committed: list[int] = []
    errors: list[BaseException] = []

    def write(at: int) -> None:
        try:
            committed.extend(put(sessions[at], {f"{at}/{turn}": b"x"}) for turn in range(4))
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(committed)) == 12
    assert len(files_of(site.open(site.client()))) == 12 + len(BEFORE)


# --- standbys that are cut off ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["freeze", "kill"])
def test_standby_cut_off_from_its_cluster(cluster: Cluster, site: Site, how: str):
    """The others are silent or gone: what the node still has may be old, and is not taken for the newest."""
    standby = cluster.standbys[0]
    reader = site.client(address=standby.address, retry_s=1, timeout_s=2)
    session = site.open(reader)
    fresh = site.client(address=standby.address, retry_s=1, timeout_s=2)
    for other in cluster.nodes:
        if other is not standby:
            getattr(other, how)()
    # Dead peers are noticed at once; frozen ones keep it waiting until our own patience ends.
    with pytest.raises(StaleReplica if how == "kill" else ServiceUnavailable, match=r"its cluster|did not answer"):
        session.refresh()
    with pytest.raises(ServiceUnavailable):  # a machine that comes new cannot even log in
        site.open(fresh)
    # The pinned snapshot stays readable: it needs no key service.
    assert files_of(session) == BEFORE
    cluster.heal()
    assert session.refresh().sequence == session.sequence


def test_standby_that_proves_nothing(cluster: Cluster, site: Site):
    """A node that answers reads and gives no index with anything: StaleReplica, said in these words."""
    standby = cluster.standbys[0]
    reader = site.client(address=standby.address, retry_s=1, timeout_s=2)
    session = site.open(reader)
    client = vault_of(reader)
    exchange = client._wire.exchange

    def without_index(*arguments: object, **more: object) -> object:
        sent = exchange(*arguments, **more)  # type: ignore[arg-type]
        for name in [name for name in sent.answer.headers if name == "x-vault-index"]:
            del sent.answer.headers[name]  # type: ignore[attr-defined]
        return sent

    client._wire.exchange = without_index  # type: ignore[method-assign,assignment]
    with pytest.raises(StaleReplica, match="in touch with its cluster"):
        session.refresh()


# --- sealed ------------------------------------------------------------------------------------


def test_leader_sealed_in_the_middle(cluster: Cluster, site: Site):
    """Somebody seals the node that a client speaks to: one clear error that says so, and it goes on when unsealed."""
    leader = cluster.leader
    writer = site.client(address=leader.address, retry_s=5)
    session = site.open(writer)
    when(writer, "datakey", lambda: cluster.raw(leader)("PUT", "sys/seal"))
    with pytest.raises(ServiceUnavailable, match="sealed"):
        put(session, many(FILES))
    assert files_of(session) == BEFORE
    cluster.heal()
    put(session, many(FILES))
    site.server = cluster.server()
    assert files_of(site.open(site.client())) == BEFORE | many(FILES)


def test_cluster_still_serves_after_it_all(cluster: Cluster, site: Site):
    """Keys, anchors and registry of a new dataset, through each node."""
    for node in cluster.nodes:
        session = site.open(site.client(address=node.address))
        assert files_of(session) == BEFORE
        assert connect(session.profile).service.versions(session.engine.kek(_compartment(session))).latest == 1


def _compartment(session: object) -> bytes:
    policy, _ = session.engine.trusted_policy()  # type: ignore[attr-defined]
    return policy.compartments[0]
