"""Every role against every operation, on a real server with the policies that we ship.

What is allowed is written down in ``docs/vault-roles.md``, which this test generates:
``SEALEDHEALTH_TEST_WRITE_DOCS=1 pytest tests/integration/test_vault_roles.py`` writes it anew.
"""

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from vault_world import MOUNTS, VaultWorld

from sealedhealth.keys.vault.layout import anchor_path, author_key, claim_path, dataset_path, url_path
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.profiles import connect

pytestmark = pytest.mark.vault

PAGE = Path(__file__).parents[2] / "docs" / "vault-roles.md"
ROLES = ["producer", "reader", "curator", "rotator", "controller", "founder", "key-administrator", "auditor"]
T, K = MOUNTS.transit, MOUNTS.kv


class Scene:
    """A dataset, what stands in its Vault, and a fresh name for everything that an attempt makes."""

    def __init__(self, world: VaultWorld) -> None:
        self.world = world
        self.kek = world.kek.name
        self.context = base64.b64encode(world.kek.binding).decode()
        self.other_context = base64.b64encode(hashlib.sha256(b"another dataset").digest()).decode()
        self.digest = base64.b64encode(hashlib.sha384(b"anything").digest()).decode()
        key = connect(world.controller).service.generate(world.kek)[1]
        self.ciphertext = f"vault:v{key.version}:{base64.b64encode(key.ciphertext).decode()}"
        self.item = {"ciphertext": self.ciphertext, "context": self.context}
        raw = world.server.raw
        self.stranger = world.member("stranger")
        raw.must("POST", f"{T}/keys/{author_key(self.stranger)}", {"type": "ecdsa-p384"})
        self.foreign = f"sh-{os.urandom(16).hex()}-{os.urandom(16).hex()}"
        raw.must("POST", f"{T}/keys/{self.foreign}", {"type": "aes256-gcm96", "derived": True})
        self.foreign_ciphertext = raw.must("POST", f"{T}/datakey/wrapped/{self.foreign}", {"context": self.context})[
            "data"
        ]["ciphertext"]
        self.counter = 1000
        self.author = ""  # of whoever tries

    def fresh(self) -> int:
        """A number that was not used."""
        self.counter += 1
        return self.counter

    def taken(self) -> int:
        """The version of the registry's entry of a URL that another dataset has."""
        path = f"{K}/data/{url_path('s3://bucket/taken')}"
        status, answer = self.world.server.raw("GET", path)
        if status == 404:
            self.world.server.raw.must("POST", path, kv({"dataset": "0" * 32}))
            return 1
        return int(answer["data"]["metadata"]["version"])

    def anchor(self, sequence: int, tree: str = "data") -> str:
        """The path of an anchor."""
        return f"{K}/{tree}/{anchor_path(self.world.dataset_id, sequence)}"


def kv(data: Mapping[str, Any], cas: int = 0) -> dict[str, Any]:
    """The body of a KV write."""
    return {"options": {"cas": cas}, "data": dict(data)}


def entry(scene: Scene) -> int:
    """The version that a dataset's record has now."""
    path = f"{K}/data/{dataset_path(scene.world.dataset_id)}"
    return int(scene.world.server.raw.must("GET", path)["data"]["metadata"]["version"])


def record(scene: Scene) -> dict[str, Any]:
    """The same record once more."""
    path = f"{K}/data/{dataset_path(scene.world.dataset_id)}"
    return kv(scene.world.server.raw.must("GET", path)["data"]["data"], entry(scene))


WRITERS = {"producer", "curator", "rotator", "controller"}
EVERYBODY = set(ROLES)
DATASET = {*WRITERS, "reader"}

OPERATIONS: list[tuple[str, set[str], Callable[[Scene], tuple[str, str, Any]]]] = [
    # --- data keys
    (
        "get a new data key",
        {"producer", "curator", "controller", "founder"},
        lambda s: ("POST", f"{T}/datakey/plaintext/{s.kek}", {"context": s.context}),
    ),
    (
        "get a new data key bound to another dataset",
        {"founder"},
        lambda s: ("POST", f"{T}/datakey/plaintext/{s.kek}", {"context": s.other_context}),
    ),
    (
        "get a new data key of another dataset's key",
        {"founder"},
        lambda s: ("POST", f"{T}/datakey/plaintext/{s.foreign}", {"context": s.context}),
    ),
    ("encrypt a data key of one's own choice", set(), lambda s: (
        "POST", f"{T}/encrypt/{s.kek}", {"plaintext": s.context, "context": s.context})),
    (
        "open a data key",
        {"reader", "curator", "controller"},
        lambda s: ("POST", f"{T}/decrypt/{s.kek}", {"batch_input": [s.item]}),
    ),
    (
        "open a data key of another dataset",
        set(),
        lambda s: ("POST", f"{T}/decrypt/{s.foreign}", {"ciphertext": s.foreign_ciphertext, "context": s.context}),
    ),
    (
        "rewrap a data key",
        {"rotator", "controller"},
        lambda s: ("POST", f"{T}/rewrap/{s.kek}", {"batch_input": [s.item]}),
    ),
    # --- key-encryption keys
    (
        "read a key's properties",
        EVERYBODY,
        lambda s: ("GET", f"{T}/keys/{s.kek}", None),
    ),
    ("rotate the key", {"rotator", "controller", "key-administrator"}, lambda s: (
        "POST", f"{T}/keys/{s.kek}/rotate", {})),
    ("rotate another dataset's key", {"key-administrator"}, lambda s: (
        "POST", f"{T}/keys/{s.foreign}/rotate", {})),
    ("make a key", {"founder", "key-administrator"}, lambda s: (
        "POST", f"{T}/keys/made-{s.fresh()}", {"type": "aes256-gcm96", "derived": True})),
    ("make an exportable key", set(), lambda s: (
        "POST", f"{T}/keys/made-{s.fresh()}", {"type": "aes256-gcm96", "derived": True, "exportable": True})),
    ("make a key of another kind", set(), lambda s: (
        "POST", f"{T}/keys/made-{s.fresh()}", {"type": "ed25519"})),
    ("raise the minimum version (destruction)", {"controller"}, lambda s: (
        "POST", f"{T}/keys/{s.kek}/config", {"min_decryption_version": 1, "min_encryption_version": 1})),
    ("make a key exportable", set(), lambda s: ("POST", f"{T}/keys/{s.kek}/config", {"exportable": True})),
    ("make a key deletable", set(), lambda s: ("POST", f"{T}/keys/{s.kek}/config", {"deletion_allowed": True})),
    ("drop old versions for good (destruction)", {"controller"}, lambda s: (
        "POST", f"{T}/keys/{s.kek}/trim", {"min_available_version": 1})),
    ("delete a key softly", set(), lambda s: ("POST", f"{T}/keys/{s.foreign}/soft-delete", {})),
    ("delete a key", set(), lambda s: ("DELETE", f"{T}/keys/{s.foreign}", None)),
    ("export a key", set(), lambda s: ("GET", f"{T}/export/encryption-key/{s.kek}", None)),
    ("back a key up", set(), lambda s: ("GET", f"{T}/backup/{s.kek}", None)),
    ("export a signing key", set(), lambda s: ("GET", f"{T}/export/signing-key/{author_key(s.author)}", None)),
    ("list keys", {"key-administrator", "auditor"}, lambda s: ("LIST", f"{T}/keys", None)),
    ("let sealing make keys by mistake", set(), lambda s: ("POST", f"{T}/config/keys", {"disable_upsert": True})),
    # --- signatures
    ("sign by one's own key", {*WRITERS, "founder"}, lambda s: (
        "POST", f"{T}/sign/{author_key(s.author)}",
        {"input": s.digest, "prehashed": True, "hash_algorithm": "sha2-384", "marshaling_algorithm": "jws"})),
    ("sign by another member's key", set(), lambda s: (
        "POST", f"{T}/sign/{author_key(s.stranger)}", {"input": s.digest})),
    ("sign by the dataset's root key", {"controller", "founder"}, lambda s: (
        "POST", f"{T}/sign/{author_key(s.world.keys.root_key)}", {"input": s.digest})),
    # --- anchors
    ("read an anchor", {*DATASET, "founder", "auditor"}, lambda s: ("GET", s.anchor(0), None)),
    ("create the next anchor", {*WRITERS, "founder"}, lambda s: ("POST", s.anchor(s.fresh()), kv({"link": "eA=="}))),
    ("create an anchor of another dataset", {"founder"}, lambda s: (
        "POST", f"{K}/data/{anchor_path(os.urandom(16), 0)}", kv({"link": "eA=="}))),
    ("overwrite an anchor", set(), lambda s: ("POST", s.anchor(0), kv({"link": "eA=="}, 1))),
    ("patch an anchor", set(), lambda s: ("PATCH", s.anchor(0), kv({"link": "eA=="}, 1))),
    ("delete an anchor", set(), lambda s: ("DELETE", s.anchor(0), None)),
    ("destroy an anchor's version", set(), lambda s: ("POST", s.anchor(0, "destroy"), {"versions": [1]})),
    ("delete an anchor's metadata (rollback)", set(), lambda s: ("DELETE", s.anchor(0, "metadata"), None)),
    ("change an anchor's metadata", set(), lambda s: ("POST", s.anchor(0, "metadata"), {"max_versions": 1})),
    ("list a dataset's anchors", {*DATASET, "founder", "auditor"}, lambda s: (
        "LIST", f"{K}/metadata/anchors/{s.world.dataset_id.hex()}/", None)),
    ("list another dataset's anchors", {"founder", "auditor"}, lambda s: (
        "LIST", f"{K}/metadata/anchors/{'0' * 32}/", None)),
    # --- registry
    ("look a URL up", {*DATASET, "founder", "auditor"}, lambda s: ("GET", f"{K}/data/{url_path(s.world.url)}", None)),
    ("read the dataset's record", {*DATASET, "founder", "auditor"}, lambda s: (
        "GET", f"{K}/data/{dataset_path(s.world.dataset_id)}", None)),
    ("record a new policy of the dataset", {"controller", "founder"}, lambda s: (
        "POST", f"{K}/data/{dataset_path(s.world.dataset_id)}", record(s))),
    ("register a URL that nobody has", {"controller", "founder"}, lambda s: (
        "POST", f"{K}/data/{url_path(f's3://bucket/{s.fresh()}')}", kv({"dataset": "0" * 32}))),
    ("take another dataset's URL over", {"founder"}, lambda s: (
        "POST", f"{K}/data/{url_path('s3://bucket/taken')}", kv({"dataset": "1" * 32}, s.taken()))),
    ("delete the dataset's record", set(), lambda s: (
        "DELETE", f"{K}/metadata/{dataset_path(s.world.dataset_id)}", None)),
    ("claim the making of a key", {"founder", "key-administrator"}, lambda s: (
        "POST", f"{K}/data/{claim_path(f'k{s.fresh()}')}", kv({"id": "00"}))),
    ("read another dataset's record", {"founder", "auditor"}, lambda s: (
        "GET", f"{K}/data/{dataset_path(bytes(16))}", None)),
    ("list datasets", {"controller", "founder", "auditor"}, lambda s: ("LIST", f"{K}/metadata/datasets", None)),
    # --- Vault itself
    ("read a policy", {"auditor"}, lambda s: ("GET", "sys/policies/acl/sealedhealth-self", None)),
    ("write a policy", set(), lambda s: (
        "POST", "sys/policies/acl/sealedhealth-self", {"policy": 'path "*" { capabilities = ["sudo"] }'})),
    ("list audit devices", {"auditor"}, lambda s: ("GET", "sys/audit", None)),
    ("switch an audit device off", set(), lambda s: ("DELETE", "sys/audit/file", None)),
    ("make a token", set(), lambda s: ("POST", "auth/token/create", {"policies": ["root"]})),
    ("make a secret id for somebody else", set(), lambda s: (
        "POST", f"auth/{MOUNTS.approle}/role/{s.world.member('dpo')}/secret-id", {})),
    ("unmount the keys", set(), lambda s: ("DELETE", f"sys/mounts/{T}", None)),
    ("take a backup of Vault", set(), lambda s: ("GET", "sys/storage/raft/snapshot", None)),
    ("seal Vault", set(), lambda s: ("POST", "sys/seal", {})),
    ("see one's own token", EVERYBODY, lambda s: ("GET", "auth/token/lookup-self", None)),
    ("renew one's own token", EVERYBODY, lambda s: ("POST", "auth/token/renew-self", {})),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(vault_server, tmp_path_factory):
    """One dataset with a member of every role."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("roles")
        patch.setenv("SEALEDHEALTH_HOME", str(root / "home"))
        patch.setenv("SEALEDHEALTH_CONFIG", str(root / "profiles.toml"))
        world = VaultWorld(root, vault_server)
        yield world
        world.close()


@pytest.fixture(scope="module")
def tokens(world):
    """A token of each role, as its member gets it."""
    return {role: (world.member(f"m-{role}"), world.token(world.enrol(f"m-{role}", VaultRole(role)))) for role in ROLES}


def attempt(world, method, path, body, token):
    """One request with one token: status and text of the answer."""
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer = requests.request(
        method,
        f"{world.server.address}/v1/{path}",
        json=body,
        headers={"X-Vault-Token": token, "Content-Type": kind},
        timeout=30,
    )
    return answer.status_code, answer.text


@pytest.fixture(scope="module")
def outcomes(world, tokens):
    """Who could do what: every role, every operation."""
    scene = Scene(world)
    table: dict[str, dict[str, bool]] = {}
    for what, _, call in OPERATIONS:
        for role, (member, token) in tokens.items():
            scene.author = member
            method, path, body = call(scene)
            status, answer = attempt(world, method, path, body, token)
            assert status in {200, 204, 403, 404}, (what, role, status, answer)
            # 404: allowed to ask, and nothing is there
            table.setdefault(what, {})[role] = status != 403
    return table


def test_each_role_can_do_what_it_should_and_nothing_else(outcomes):
    """The measured table is the intended one, cell by cell."""
    wrong = {
        (what, role): outcomes[what][role]
        for what, who, _ in OPERATIONS
        for role in ROLES
        if outcomes[what][role] != (role in who)
    }
    assert not wrong


def test_the_table_in_the_documentation_is_the_measured_one(outcomes):
    """``docs/vault-roles.md`` shows what was measured; it is written anew when asked for."""
    lines = [
        "# Who may do what in Vault",
        "",
        "Measured, not intended: a test logs in as a member of each role, with the policies that",
        "`sealedhealth vault setup` writes, and tries every operation on a real OpenBao. It generates this",
        "page, and fails when the page is not what it measures.",
        "",
        "*founder* is for the ceremony in which a dataset is made: `vault enrol NAME controller URL --only`",
        "ends it. A *curator* signs by its own key, so it cannot forge what a producer wrote; a *reader* and",
        "an *auditor* sign nothing. What each may *commit* is the roster's business, which every reader checks.",
        "",
        f"| | {' | '.join(ROLES)} |",
        f"|---|{':-:|' * len(ROLES)}",
    ]
    lines += [
        f"| {what} | {' | '.join('yes' if row[role] else '-' for role in ROLES)} |" for what, row in outcomes.items()
    ]
    text = "\n".join(lines) + "\n"
    if os.environ.get("SEALEDHEALTH_TEST_WRITE_DOCS"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text
