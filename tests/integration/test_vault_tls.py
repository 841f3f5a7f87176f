"""Over TLS, and a host behind S3: what `doctor` and `prove` see of the real thing."""

import json
import secrets
import uuid

import pytest
import servers
import vault_servers
from vault_world import VaultWorld

from sealedhealth.cli.app import run
from sealedhealth.errors import SealedHealthError, ServiceUnavailable
from sealedhealth.keys.vault.policies import VaultRole
from sealedhealth.profiles import connect, disconnect, load_profile
from sealedhealth.prove import prove

pytestmark = pytest.mark.vault


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory):
    """OpenBao with TLS, its certificate by an authority of its own; gives the address and the authority's file."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "tls").mkdir()
    (port,) = servers.free_ports(1)
    token = secrets.token_hex(10)
    command = [vault_servers.bao(), "server", "-dev-tls", f"-dev-tls-cert-dir={folder / 'tls'}", "-dev-no-store-token"]
    command += [f"-dev-root-token-id={token}", f"-dev-listen-address=127.0.0.1:{port}"]
    with servers._running(command, folder) as process:
        authority = folder / "tls" / "vault-ca.pem"
        address = f"https://127.0.0.1:{port}"
        for _ in range(200):
            if authority.exists() and "Root Token" in (folder / "server.log").read_text():
                break
            servers.time.sleep(0.05)
        yield address, authority, token, process.pid


def profile_text(address, authority, name="admin"):
    """A profile for that server."""
    ca = f'ca_file = "{authority}"\n' if authority else ""
    return (
        f'[profiles.{name}]\nkeys = "vault"\nauthor = "{name}"\n[profiles.{name}.vault]\naddress = "{address}"\n'
        f'allowed_hosts = ["127.0.0.1"]\njurisdiction = "FR"\n{ca}'
        f'[profiles.{name}.vault.auth]\nmethod = "token"\ntoken_variable = "TLS_TOKEN"\n'
    )


@pytest.fixture
def configure(tls_server, tmp_path, monkeypatch):
    """Write the profile file."""
    config = tmp_path / "config.toml"
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(config))
    monkeypatch.setenv("TLS_TOKEN", tls_server[2])

    def configure(authority):
        disconnect()
        config.write_text(profile_text(tls_server[0], authority))
        return load_profile("admin")

    yield configure
    disconnect()


def findings(capsys, *arguments):
    """What doctor says, by check."""
    capsys.readouterr()
    code = run(["doctor", "--json", "--profile", "admin", *arguments])
    return code, {row["check"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_doctor_reports_tls(configure, tls_server, capsys):
    """Protocol, and that the profile's own authority vouches for the server."""
    configure(tls_server[1])
    code, found = findings(capsys)
    assert code == 0, found
    assert found["TLS"]["detail"].startswith("TLSv1.3")
    assert found["vault address"]["detail"].startswith("https://")


def test_a_server_that_another_authority_vouches_for_is_not_spoken_to(configure, tls_server, capsys, tmp_path):
    """Without the right authority nothing is sent, neither by doctor nor by the service."""
    profile = configure(None)
    code, found = findings(capsys)
    assert code == 7
    assert found["TLS"]["state"] == "failed"
    with pytest.raises(ServiceUnavailable, match="could not prove who it is"):
        connect(profile).service.create_author("x")


def test_prove_hears_through_tls(configure, tls_server, tmp_path, capsys):
    """What is sent is taken before TLS encrypts it: the name of the key is heard, no canary and no data key."""
    profile = configure(tls_server[1])
    assert run(["vault", "setup", "--yes", "--profile", "admin"]) == 0
    assert run(["create", str(tmp_path / "host"), "--profile", "admin"]) == 0
    result = prove(str(tmp_path / "host"), profile)
    assert result.kept
    assert "the name of the key-encryption key in what was sent to the Vault" in result.controls
    code = run(["prove", str(tmp_path / "host"), "--profile", "admin"])
    said = capsys.readouterr().out
    assert code == 0
    assert "No canary and no data key left in clear." in said


@pytest.mark.moto
def test_prove_on_s3(vault_server, moto_server, tmp_path, monkeypatch):
    """With the host behind S3, objects are heard on their way there, in parts for large ones."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret)
    options = {key: value for key, value in moto_server.options.items() if key not in {"key", "secret"}}
    url = f"s3://foreign-host/{uuid.uuid4().hex}/dataset"
    world = VaultWorld(tmp_path, vault_server, host=url, store=options)
    try:
        result = prove(world.url, world.controller)
    finally:
        world.close()
    assert result.kept
    assert "an object's name in what was sent to the host" in result.controls
    (size,) = [size for place, size in result.looked_in.items() if place.endswith(moto_server.endpoint_url[-6:])]
    assert size > 6 << 20


def test_a_sealed_vault(tmp_path, capsys, monkeypatch):
    """Doctor says that it is sealed; a job gets one clear error; unsealed, all is as before."""
    with vault_servers.raft_server(tmp_path / "raft") as server:
        world = VaultWorld(tmp_path, server)
        world.put({"a": b"a"})
        job = world.enrol("job", VaultRole.READER)
        server.raw.must("POST", "sys/seal", {})
        disconnect()
        capsys.readouterr()
        code = run(["doctor", "--json", "--profile", job.name])
        found = {row["check"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
        assert code == 7
        assert "sealed" in found["seal"]["detail"]
        with pytest.raises(SealedHealthError, match="sealed"):
            world.files(job)
        vault_servers.unseal(server)
        assert world.files(job) == {"a": b"a"}
        world.close()
