"""A dataset whose keys are in a real OpenBao, and members of every role with exactly the policies that we ship."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vault_servers import VaultServer

from sealedhealth.keys.vault import TokenVariableLogin, VaultClient, VaultConfig
from sealedhealth.keys.vault.policies import DatasetKeys, Mounts, VaultRole, policy_name
from sealedhealth.keys.vault.setup import MemberTerms, apply, dataset_plan, member_plan, members_policies, server_plan
from sealedhealth.log.roster import Role
from sealedhealth.profiles import Profile, connect, disconnect, load_profile
from sealedhealth.session import Session, create_dataset, set_author
from sealedhealth.session.engine import Engine

ROOT_VARIABLE = "SEALEDHEALTH_TEST_ROOT_TOKEN"
MOUNTS = Mounts()


def admin_client(server: VaultServer, **more: Any) -> VaultClient:
    """Our client with the root token."""
    os.environ[ROOT_VARIABLE] = server.root_token
    return VaultClient(VaultConfig(server.address, **more), TokenVariableLogin(ROOT_VARIABLE))


class VaultWorld:
    """One dataset, and members with AppRole credentials and the shipped policies."""

    def __init__(
        self, root: Path, server: VaultServer, *, host: str | None = None, store: Mapping[str, Any] | None = None
    ) -> None:
        self.root = root
        self.server = server
        self.admin = admin_client(server)
        list(apply(server_plan(MOUNTS), self.admin))
        self.store = dict(store or {})
        self.tables: list[str] = []
        self.config = root / "profiles.toml"
        os.environ["SEALEDHEALTH_CONFIG"] = str(self.config)
        self.tag = secrets.token_hex(4)
        self.host = root / "host" / "dataset"
        self.controller = self.enrol("dpo", VaultRole.FOUNDER)
        self.session = create_dataset(host or str(self.host), self.controller)
        self.url = self.session.url
        self.dataset_id = self.session.dataset_id
        policy, _ = self.session.engine.trusted_policy()
        self.kek = self.session.engine.kek(policy.compartments[0])
        self.keys = DatasetKeys((self.kek,), self.session.engine.root_name, (self.url,))
        list(apply(dataset_plan(MOUNTS, self.keys), self.admin))
        # The founder's rights end with the ceremony: from here on it is the data controller.
        self.controller = self.enrol("dpo", VaultRole.CONTROLLER, only=True)
        self.session = self.open(self.controller)

    # -- members -------------------------------------------------------------------------

    def member(self, name: str) -> str:
        """The name of a member in Vault: several worlds share one."""
        return f"{name}-{self.tag}"

    def enrol(
        self, name: str, role: VaultRole, *, only: bool = False, terms: MemberTerms | None = None, address: str = ""
    ) -> Profile:
        """Make a member as ``sealedhealth vault enrol`` does, and a profile for it."""
        member = self.member(name)
        about = (
            self.dataset_id if role not in {VaultRole.FOUNDER, VaultRole.AUDITOR, VaultRole.KEY_ADMINISTRATOR} else None
        )
        carried = [] if only else members_policies(MOUNTS, member, self.admin)
        signs = role not in {VaultRole.READER, VaultRole.AUDITOR, VaultRole.KEY_ADMINISTRATOR}
        list(
            apply(
                member_plan(MOUNTS, member, [*carried, policy_name(role, about)], signs=signs, terms=terms), self.admin
            )
        )
        base = f"auth/{MOUNTS.approle}/role/{member}"
        role_id = self.server.raw.must("GET", f"{base}/role-id")["data"]["role_id"]
        secret = self.server.raw.must("POST", f"{base}/secret-id")["data"]["secret_id"]
        file = self.root / f"{member}.secret-id"
        file.write_text(secret)
        file.chmod(0o600)
        lines = [
            f"[profiles.{member}]",
            'keys = "vault"',
            f'author = "{member}"',
            f'state = "{self.root / "state" / member}"',
            f"[profiles.{member}.vault]",
            f'address = "{address or self.server.address}"',
            'allowed_hosts = ["127.0.0.1"]',
            'jurisdiction = "FR"',
            f'role = "{role}"',
            f"[profiles.{member}.vault.auth]",
            'method = "approle"',
            f'role_id = "{role_id}"',
            f'secret_id_file = "{file}"',
        ]
        if self.store:
            lines.append(f"[profiles.{member}.store]")
            lines += [f"{key} = {_toml(value)}" for key, value in self.store.items()]
        self.tables = [table for table in self.tables if not table.startswith(f"[profiles.{member}]\n")]
        self.tables.append("\n".join(lines))
        self.config.write_text("\n\n".join(self.tables) + "\n")
        disconnect()
        return load_profile(member)

    def join(self, name: str, role: VaultRole, *roles: Role, prefix: str = "") -> Profile:
        """Enrol a member, and put it on the roster as the data controller."""
        profile = self.enrol(name, role)
        session = self.open(self.controller)
        key = connect(self.controller).service.author(profile.author)
        set_author(session, key.public_key, name=name, roles=roles, prefix=prefix)
        return profile

    def token(self, profile: Profile) -> str:
        """A token as that member gets one."""
        assert profile.vault is not None
        login = profile.vault.login
        body = {"role_id": login.role_id, "secret_id": Path(login.secret_id_file).read_text()}
        return str(self.server.raw.must("POST", f"auth/{login.mount}/login", body)["auth"]["client_token"])

    # -- the dataset ---------------------------------------------------------------------

    def open(self, profile: Profile) -> Session:
        """Open everything anew, as another process would."""
        Engine.forget(self.url, profile)
        return Session.open(self.url, profile)

    def put(self, files: Mapping[str, bytes], profile: Profile | None = None) -> int:
        """Commit files and return the commit's number."""
        session = self.open(profile or self.controller)
        tx = session.begin()
        tx.put_many(files)
        committed = tx.commit()
        assert committed is not None
        return committed.sequence

    def files(self, profile: Profile | None = None) -> dict[str, bytes]:
        """Every file of the newest snapshot, opened anew."""
        session = self.open(profile or self.controller)
        return {path: session.read_ranges([(entry, 0, entry.length)])[0] for path, entry in session.snapshot.items()}

    def close(self) -> None:
        """Close every connection."""
        disconnect()
        self.admin.close()


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)
