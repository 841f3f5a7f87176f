"""Sessions whose keys are in a real Vault: one dataset, and any number of clients of it, each a machine of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vault_servers import RawVault, VaultServer

from sealedhealth.keys.vault import TokenFileLogin, VaultClient, VaultConfig
from sealedhealth.keys.vault.policies import Mounts
from sealedhealth.keys.vault.table import VaultTable
from sealedhealth.profiles import Profile, connect
from sealedhealth.session import Session, create_dataset
from sealedhealth.session.engine import Engine


class Site:
    """A folder for hosts, tokens and states; *server* makes the tokens."""

    def __init__(self, root: Path, server: VaultServer) -> None:
        self.root = root
        self.server = server
        self.url = str(root / "host" / "dataset")

    def client(
        self, *, address: str = "", token: str = "", login: Any = None, author: str = "author", **config: Any
    ) -> Profile:
        """A client on a new machine: it has seen nothing yet, and has a token of its own, with all rights."""
        name = f"client-{secrets.token_hex(4)}"
        address = address or self.server.address
        if login is None:
            token = token or self.server.raw.token_for(ttl="1h")
            self._until_known(address, token)
            file = self.root / f"{name}.token"
            file.touch(0o600)
            file.write_text(token)
            login = TokenFileLogin(file)
        settings = VaultConfig(**{"address": address, "timeout_s": 5.0, "retry_s": 20.0, **config})
        return Profile(
            name=name,
            keystore=self.root / "no-keystore",
            state=self.root / "state" / name,
            keys="vault",
            author=author,
            vault=VaultTable(settings, login, Mounts(), None),
        )

    @staticmethod
    def _until_known(address: str, token: str) -> None:
        """A standby hears of a token a moment later."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if RawVault(address, token)("GET", "auth/token/lookup-self")[0] == 200:
                return
            time.sleep(0.02)

    def create(self, profile: Profile) -> Session:
        """An empty dataset, named anew."""
        self.url = create_dataset(self.url, profile).url
        return self.open(profile)

    def open(self, profile: Profile) -> Session:
        """Open everything anew, as another process would."""
        Engine.forget(self.url, profile)
        return Session.open(self.url, profile)


def vault_of(profile: Profile) -> VaultClient:
    """What *profile* speaks to its Vault with."""
    client = connect(profile).service.client  # type: ignore[attr-defined]
    assert isinstance(client, VaultClient)
    return client


def put(session: Session, files: Mapping[str, bytes], *, message: str = "") -> int:
    """Commit files and return the commit's number."""
    transaction = session.begin(message)
    transaction.put_many(files)
    committed = transaction.commit()
    assert committed is not None
    return committed.sequence


def files_of(session: Session) -> dict[str, bytes]:
    """Every file of the session's snapshot."""
    items = list(session.snapshot.items())
    data = session.read_ranges([(entry, 0, entry.length) for _, entry in items])
    return dict(zip((path for path, _ in items), data, strict=True))


def many(count: int, tag: str = "new") -> dict[str, bytes]:
    """Small files."""
    return {f"{tag}/{number:04}": f"{tag} {number}".encode() * 20 for number in range(count)}
