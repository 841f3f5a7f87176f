"""A real OpenBao cluster of three nodes, which can be killed, frozen, sealed and brought back."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import servers
from vault_servers import KV, RawVault, VaultServer, bao

PATIENCE_S = 60.0


class Node:
    """One node of a cluster."""

    def __init__(self, name: str, folder: Path, port: int, cluster_port: int) -> None:
        self.name = name
        self.folder = folder
        self.address = f"http://127.0.0.1:{port}"
        self.cluster_address = f"http://127.0.0.1:{cluster_port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    def configure(self, peers: list[Node], audit: str = "") -> None:
        """Write its configuration."""
        joins = "".join(
            f'  retry_join {{ leader_api_addr = "{peer.address}" }}\n' for peer in peers if peer is not self
        )
        (self.folder / "raft").mkdir(parents=True)
        (self.folder / "server.hcl").write_text(f"""
storage "raft" {{
  path    = "{self.folder}/raft"
  node_id = "{self.name}"
  performance_multiplier = 1
{joins}}}
listener "tcp" {{
  address         = "{self.address.removeprefix("http://")}"
  cluster_address = "{self.cluster_address.removeprefix("http://")}"
  tls_disable     = true
}}
api_addr     = "{self.address}"
cluster_addr = "{self.cluster_address}"
{audit}
""")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-c", servers._DIE_WITH_PARENT, bao(), "server",
                 f"-config={self.folder / 'server.hcl'}"],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.frozen = False
        servers._wait_until_up(f"{self.address}/v1/sys/seal-status", self.process, self.folder)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: to the others it is as if the network were gone."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        if self.frozen and self.running:
            assert self.process is not None
            os.kill(self.process.pid, signal.SIGCONT)
        self.frozen = False


class Cluster:
    """Three nodes, initialised and unsealed, with the engines mounted."""

    def __init__(self, folder: Path, *, size: int = 3) -> None:
        ports = servers.free_ports(2 * size)
        self.nodes = [Node(f"node{at}", folder / f"node{at}", ports[2 * at], ports[2 * at + 1]) for at in range(size)]
        self.root_token = ""
        self.unseal_key = ""
        for node in self.nodes:
            node.configure(self.nodes)

    def start(self) -> None:
        """From nothing to a whole cluster."""
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        made = RawVault(first.address).must("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self.root_token, self.unseal_key = made["root_token"], made["keys"][0]
        self.unseal(first)
        self.until(lambda: RawVault(first.address)("GET", "sys/health")[0] == 200)
        # A node has no vote until it has been well for that long: 10 seconds by default.
        autopilot = {"server_stabilization_time": "1s"}
        self.raw(first).must("POST", "sys/storage/raft/autopilot/configuration", autopilot)
        for node in self.nodes[1:]:
            # It joins by itself; until it has, there is nothing to unseal.
            self.until(lambda node=node: RawVault(node.address)("GET", "sys/seal-status")[1].get("initialized"))
            self.unseal(node)
        VaultServer(first.address, self.root_token, 0).mount()
        self.until_whole()

    def stop(self) -> None:
        """Kill every node, each by its pid."""
        for node in self.nodes:
            node.thaw()
            node.kill()

    # -- state --------------------------------------------------------------------------------

    def raw(self, node: Node) -> RawVault:
        """Plain requests to one node, as root."""
        return RawVault(node.address, self.root_token)

    def status(self, node: Node) -> int:
        """200 active, 429 standby, 503 sealed, 0 no answer."""
        if node.frozen or not node.running:
            return 0
        with contextlib.suppress(OSError, ValueError):
            return RawVault(node.address)("GET", "sys/health")[0]
        return 0

    @property
    def leader(self) -> Node:
        """The active node, once there is one."""
        found: list[Node] = []

        def look() -> bool:
            found[:] = [node for node in self.nodes if self.status(node) == 200]
            return len(found) == 1

        self.until(look)
        return found[0]

    @property
    def standbys(self) -> list[Node]:
        """The other nodes."""
        leader = self.leader
        return [node for node in self.nodes if node is not leader]

    def server(self, node: Node | None = None) -> VaultServer:
        """A node (the leader unless given) as tests know a server."""
        node = node or self.leader
        assert node.process is not None
        return VaultServer(node.address, self.root_token, node.process.pid, self.unseal_key, node.folder)

    @staticmethod
    def until(condition: object, patience_s: float = PATIENCE_S) -> None:
        """Wait for it."""
        deadline = time.monotonic() + patience_s
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "the cluster does not come to rest"
            time.sleep(0.05)

    # -- bringing back --------------------------------------------------------------------------

    def unseal(self, node: Node) -> None:
        """Give a node the key, for as long as it takes: one that is just joining refuses it."""

        def unsealed() -> bool:
            status, answer = RawVault(node.address)("PUT", "sys/unseal", {"key": self.unseal_key})
            return status == 200 and answer.get("sealed") is False

        self.until(unsealed)

    def heal(self) -> None:
        """Thaw, restart and unseal whatever is not as it should be."""
        if any(node.frozen for node in self.nodes):
            for node in self.nodes:
                node.thaw()
            time.sleep(1)  # who was leader has to find out first that it is no more
        for node in self.nodes:
            if not node.running:
                node.start()
        for node in self.nodes:
            if RawVault(node.address)("GET", "sys/seal-status")[1].get("sealed"):
                self.unseal(node)
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until one node is active, all of them vote, and each sees what the active one writes."""
        self.until(self._whole)

    def _whole(self) -> bool:
        leader = self.leader  # looked for anew each time: who was thawed may lose it only now
        raw = self.raw(leader)
        mark = secrets.token_hex(8)
        with contextlib.suppress(OSError, KeyError):
            voters = raw("GET", "sys/storage/raft/configuration")[1]["data"]["config"]["servers"]
            known = raw("GET", f"{KV}/data/mark")[1].get("data") or {}
            body = {"options": {"cas": (known.get("metadata") or {}).get("version", 0)}, "data": {"mark": mark}}
            if (
                sum(voter["voter"] for voter in voters) < len(self.nodes)
                or raw("POST", f"{KV}/data/mark", body)[0] > 200
            ):
                return False
            for _ in range(20):
                found = [self.raw(node)("GET", f"{KV}/data/mark")[1] for node in self.nodes]
                if all(one["data"]["data"]["mark"] == mark for one in found):
                    return True
                time.sleep(0.05)
        return False


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A running cluster, stopped at the end."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
