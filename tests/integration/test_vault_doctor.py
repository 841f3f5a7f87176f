"""``doctor`` and profiles with a Vault: what is found, and what is refused before a byte is sent."""

import json
import socket
import threading

import pytest
from vault_world import MOUNTS, VaultWorld

from sealedhealth.cli.app import run
from sealedhealth.errors import InvalidInput, SealedHealthError
from sealedhealth.keys.vault.policies import VaultRole, policy_name
from sealedhealth.log.roster import Role
from sealedhealth.profiles import connect, disconnect, load_profile

pytestmark = pytest.mark.vault

T = MOUNTS.transit


@pytest.fixture(scope="module")
def world(vault_server, tmp_path_factory):
    """A dataset with members of each role."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("doctor")
        patch.setenv("SEALEDHEALTH_HOME", str(root / "home"))
        patch.setenv("SEALEDHEALTH_CONFIG", str(root / "profiles.toml"))
        world = VaultWorld(root, vault_server)
        world.join("lille", VaultRole.PRODUCER, Role.PRODUCER, prefix="lille")
        world.join("cur", VaultRole.CURATOR, Role.CURATOR)
        world.join("rot", VaultRole.ROTATOR, Role.ROTATOR)
        world.enrol("job", VaultRole.READER)
        yield world
        world.close()


@pytest.fixture
def doctor(world, capsys, monkeypatch):
    """Run ``doctor`` as a member; gives the exit code and the findings by check."""
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(world.config))

    def doctor(name, *arguments):
        disconnect()
        capsys.readouterr()
        code = run(["doctor", "--json", "--profile", name, *arguments])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, {row["check"]: row for row in rows}

    return doctor


@pytest.mark.parametrize("name", ["lille", "cur", "rot", "job", "dpo"])
def test_every_role_is_found_to_have_what_it_needs(world, doctor, name):
    """Address, jurisdiction, seal, version, clock, token, key properties and rights: nothing failed."""
    code, found = doctor(world.member(name), world.url)
    assert code == 0, found
    assert found["vault address"]["detail"].startswith(world.server.address)
    assert found["jurisdiction"]["detail"].startswith("FR")
    assert found["seal"]["detail"] == "unsealed"
    assert found["clock"]["state"] == "ok"
    assert found["vault version"]["state"] == "ok"
    assert "sealedhealth" in found["fsspec protocols"]["detail"]
    assert found["TLS"]["state"] == "warning"  # plain HTTP on loopback
    (key,) = [row for check, row in found.items() if check.startswith("key ")]
    assert key["detail"].startswith("derived, not exportable, not deletable")
    assert found["rights"]["state"] == "ok", found["rights"]
    assert "keystore" not in found


def test_rights_that_are_too_wide_are_named(world, doctor):
    """A reader that somebody also gave a broad policy: doctor fails, and names the paths."""
    raw = world.server.raw
    member = world.member("job")
    name = f"broad-{member}"
    raw.must("POST", f"sys/policies/acl/{name}", {"policy": f'path "{T}/keys/*" {{ capabilities = ["update"] }}'})
    role = f"auth/{MOUNTS.approle}/role/{member}"
    before = raw.must("GET", role)["data"]["token_policies"]
    raw.must("POST", role, {"token_policies": [*before, name]})
    try:
        code, found = doctor(member, world.url)
    finally:
        raw.must("POST", role, {"token_policies": before})
    assert code == 4
    assert "wider than role reader needs" in found["rights"]["detail"]
    assert f"update on {T}/keys/" in found["rights"]["detail"]


def test_a_key_that_is_not_as_it_should_be_is_named(world, doctor):
    """One that was made deletable fails the check; every reader keeps away from one that is exportable."""
    raw = world.server.raw
    raw.must("POST", f"{T}/keys/{world.kek.name}/config", {"deletion_allowed": True})
    try:
        code, found = doctor(world.member("job"), world.url)
    finally:
        raw.must("POST", f"{T}/keys/{world.kek.name}/config", {"deletion_allowed": False})
    (key,) = [row for check, row in found.items() if check.startswith("key ")]
    assert (code, key["state"]) == (5, "failed")
    assert "deletable" in key["detail"]


def test_a_root_token_is_warned_about(world, doctor, monkeypatch):
    """Working as root is for set-up only."""
    monkeypatch.setenv("ROOT_TOKEN", world.server.root_token)
    table = (
        '\n[profiles.as-root]\nkeys = "vault"\n[profiles.as-root.vault]\n'
        f'address = "{world.server.address}"\nallowed_hosts = ["127.0.0.1"]\njurisdiction = "FR"\n'
        '[profiles.as-root.vault.auth]\nmethod = "token"\ntoken_variable = "ROOT_TOKEN"\n'
    )
    text = world.config.read_text()
    world.config.write_text(text + table)
    code, found = doctor("as-root")
    world.config.write_text(text)
    assert code == 0
    assert "root token" in found["token"]["detail"]


def test_a_server_that_is_not_there(world, doctor, monkeypatch):
    """Nobody listens: said in one line, with the exit code of a service that is unavailable."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("SEALEDHEALTH_VAULT_ADDRESS", f"http://127.0.0.1:{port}")
    code, found = doctor(world.member("job"))
    assert code == 7
    assert found["vault"]["state"] == "failed"


# --- residency ---------------------------------------------------------------------------------

GOOD = """
[profiles.x]
keys = "vault"
[profiles.x.vault]
address = "{address}"
allowed_hosts = {hosts}
jurisdiction = "FR"
[profiles.x.vault.auth]
method = "token"
token_variable = "X_TOKEN"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a profile file."""
    path = tmp_path / "residency.toml"
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))
    monkeypatch.setenv("X_TOKEN", "s.abc")

    def write(text):
        path.write_text(text)

    return write


@pytest.fixture
def listener():
    """A server on loopback that counts who connects."""
    met = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def accept():
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                met.append(client)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", met
        thread.join()
    for client in met:
        client.close()


def test_a_host_that_is_not_allowed_is_never_spoken_to(write, listener, monkeypatch):
    """Whether the file or the environment names it: refused, and nobody connected."""
    address, met = listener
    write(GOOD.format(address=address, hosts='["vault.example.fr"]'))
    with pytest.raises(InvalidInput, match="does not allow"):
        load_profile("x")
    write(GOOD.format(address="https://vault.example.fr", hosts='["vault.example.fr"]'))
    monkeypatch.setenv("SEALEDHEALTH_VAULT_ADDRESS", address)
    with pytest.raises(InvalidInput, match="does not allow"):
        load_profile("x")
    assert met == []


@pytest.mark.parametrize(
    "address",
    [
        "http://vault.example.fr",
        "https://vault.example.fr.evil.example",
        "https://vault.example.fr@evil.example",
        "https://evil.example/vault.example.fr",
        "https://evil.example#vault.example.fr",
        "ftp://vault.example.fr",
        "vault.example.fr",
        "https://",
    ],
)
def test_addresses_that_only_look_allowed(write, address):
    """Plain HTTP over a network, look-alikes, credentials and paths in the address: refused."""
    write(GOOD.format(address=address, hosts='["vault.example.fr"]'))
    with pytest.raises(InvalidInput):
        load_profile("x")


@pytest.mark.parametrize(
    "change",
    [
        ('jurisdiction = "FR"', ""),
        ('jurisdiction = "FR"', 'jurisdiction = ""'),
        ('allowed_hosts = ["h.fr"]', ""),
        ('allowed_hosts = ["h.fr"]', "allowed_hosts = []"),
        ('allowed_hosts = ["h.fr"]', 'allowed_hosts = "h.fr"'),
        ('keys = "vault"', ""),
        ('keys = "vault"', 'keys = "vault"\nkeystore = "/x"'),
        ('method = "token"', 'method = "guess"'),
        ('token_variable = "X_TOKEN"', ""),
        ('token_variable = "X_TOKEN"', 'token = "s.secret"'),
        ('jurisdiction = "FR"', 'jurisdiction = "FR"\nadress = "https://typo.fr"'),
        ('jurisdiction = "FR"', 'jurisdiction = "FR"\nrole = "boss"'),
        ('jurisdiction = "FR"', 'jurisdiction = "FR"\ntimeout_s = true'),
        ('jurisdiction = "FR"', 'jurisdiction = "FR"\nkv_mount = "../sys"'),
    ],
)
def test_a_table_with_anything_wrong_is_refused(write, change):
    """Strict: nothing is guessed, nothing misspelt is passed over, no secret is taken."""
    good = GOOD.format(address="https://h.fr", hosts='["h.fr"]')
    write(good)
    assert load_profile("x").vault.config.jurisdiction == "FR"
    write(good.replace(*change))
    with pytest.raises(InvalidInput):
        load_profile("x")


@pytest.mark.parametrize(
    "auth",
    [
        'method = "approle"\nrole_id = "r"\nsecret_id_file = "/x"',
        'method = "approle"\nrole_id = "r"\nwrapped_secret_id_file = "/x"\nrole_name = "n"\nmount = "m"',
        'method = "jwt"\nrole = "r"\ntoken_file = "/x"',
        'method = "kubernetes"\nrole = "r"',
        'method = "cert"\ncertificate = "/x"\nkey = "/y"',
        'method = "token"\ntoken_file = "/x"',
    ],
)
def test_every_way_to_log_in_can_be_named(write, auth):
    """Each method's table is read; nothing is opened or sent by reading it."""
    good = GOOD.format(address="https://h.fr", hosts='["h.fr"]')
    write(good[: good.index("method")] + auth)
    assert load_profile("x").vault.login is not None


def test_nothing_is_taken_from_the_usual_places(write, monkeypatch, tmp_path, vault_server):
    """VAULT_TOKEN, VAULT_ADDR and ~/.vault-token are ignored: without its own token the profile has none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".vault-token").write_text(vault_server.root_token)
    monkeypatch.setenv("VAULT_TOKEN", vault_server.root_token)
    monkeypatch.setenv("BAO_TOKEN", vault_server.root_token)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    monkeypatch.delenv("X_TOKEN")
    write(GOOD.format(address=vault_server.address, hosts='["127.0.0.1"]'))
    profile = load_profile("x")
    with pytest.raises(SealedHealthError, match="X_TOKEN"):
        connect(profile).service.create_author("nobody")
    disconnect()


def test_policy_names_tell_the_role_when_the_profile_does_not(world, doctor):
    """Without `role` in the profile, the rights are measured against the policies' names."""
    text = world.config.read_text()
    world.config.write_text(text.replace('role = "reader"\n', ""))
    try:
        code, found = doctor(world.member("job"), world.url)
    finally:
        world.config.write_text(text)
    assert code == 0
    assert "policies' names" in found["rights"]["detail"]
    assert policy_name(VaultRole.READER, world.dataset_id) in found["token"]["detail"]
