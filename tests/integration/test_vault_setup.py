"""``sealedhealth vault``: from an empty Vault to a working dataset, by the commands alone."""

import contextlib
import json
import os
import secrets
import tomllib
from pathlib import Path

import pytest
from vault_world import MOUNTS, admin_client

from sealedhealth.cli.app import run
from sealedhealth.keys import Kek
from sealedhealth.keys.vault.policies import (
    DATASET_ROLES,
    SITE_ROLES,
    DatasetKeys,
    Rule,
    VaultRole,
    dataset_rules,
    policy_name,
    render,
)
from sealedhealth.keys.vault.setup import State, apply, role_text, server_plan
from sealedhealth.profiles import disconnect

pytestmark = pytest.mark.vault


@pytest.fixture
def namespace(vault_server):
    """A namespace with nothing in it: a Vault of its own, for all that these commands see."""
    name = f"test-{secrets.token_hex(4)}"
    vault_server.raw.must("POST", f"sys/namespaces/{name}", {})
    return name


@pytest.fixture
def command(vault_server, namespace, tmp_path, monkeypatch, capsys):
    """Run ``sealedhealth`` with profiles for that Vault; gives exit code, output and errors."""
    monkeypatch.setenv("ADMIN_TOKEN", vault_server.root_token)
    config = tmp_path / "config.toml"
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(config))
    config.write_text(_table("admin", vault_server, namespace, 'method = "token"\ntoken_variable = "ADMIN_TOKEN"'))

    def command(*arguments):
        disconnect()
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    command.config = config
    yield command
    disconnect()


def _table(name, server, namespace, auth, **more):
    lines = [f"[profiles.{name}]", 'keys = "vault"', f'author = "{name}"']
    lines += [f"[profiles.{name}.vault]", f'address = "{server.address}"', f'namespace = "{namespace}"']
    lines += ['allowed_hosts = ["127.0.0.1"]', 'jurisdiction = "FR"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in more.items()]
    return "\n".join([*lines, f"[profiles.{name}.vault.auth]", auth, "", ""])


def _enrol(command, server, namespace, tmp_path, name, *arguments):
    code, out, err = command("vault", "enrol", name, *arguments, "--yes", "--profile", "admin", "--json")
    assert code == 0, err
    role_id = json.loads(out.splitlines()[-1])["role_id"]
    code, out, err = command("vault", "secret-id", name, "--profile", "admin")
    assert code == 0, err
    file = tmp_path / f"{name}.wrapped"
    file.touch(0o600)
    file.write_text(out)
    auth = f'method = "approle"\nrole_id = "{role_id}"\nrole_name = "{name}"\nwrapped_secret_id_file = "{file}"'
    others = command.config.read_text().split(f"[profiles.{name}]")[0]
    command.config.write_text(others + _table(name, server, namespace, auth))


def test_from_nothing_to_a_producer_that_writes(command, vault_server, namespace, tmp_path):
    """Setup, create, policies, enrolment and roster, each by its command; then the producer puts a file."""
    host = str(tmp_path / "host")
    code, out, err = command("vault", "setup", "--profile", "admin", "--yes")
    assert (code, err) == (0, "")
    assert "done" in out
    _enrol(command, vault_server, namespace, tmp_path, "dpo", "founder")
    code, out, err = command("create", host, "--profile", "dpo")
    assert code == 0, err
    assert vault_server.address in out
    code, out, err = command("vault", "setup", host, "--profile", "admin", "--yes")
    assert code == 0, err
    _enrol(command, vault_server, namespace, tmp_path, "dpo", "controller", host, "--only")
    _enrol(command, vault_server, namespace, tmp_path, "lille", "producer", host)
    # A wrapped secret id opens once: each command below is a login of its own, so the next ones need new ones.
    code, out, err = command(
        "vault", "author", "lille", host, "--role", "producer", "--prefix", "lille", "--profile", "dpo"
    )
    assert code == 0, err
    (tmp_path / "labs.csv").write_text("person_id\n1\n")
    code, out, err = command("put", str(tmp_path / "labs.csv"), f"{host}/lille/labs.csv", "--profile", "lille")
    assert code == 0, err
    code, out, err = command("ls", host, "--profile", "admin")
    assert code == 0, err
    assert "lille" in out


def test_a_dry_run_prints_everything_and_changes_nothing(command, vault_server, namespace):
    """``--dry-run`` shows each call and the exact HCL; the Vault stays as it was."""
    code, out, _ = command("vault", "setup", "--profile", "admin", "--dry-run")
    assert code == 0
    assert "POST /v1/sys/mounts/sealedhealth-transit" in out
    for role in SITE_ROLES:
        assert role_text(MOUNTS, role).strip() in out
    with contextlib.closing(admin_client(vault_server, namespace=namespace)) as client:
        assert {step.state(client) for step in server_plan(MOUNTS)} == {State.MISSING}


def test_setup_is_idempotent_and_puts_right_what_differs(vault_server, namespace):
    """A second run does nothing; a policy that somebody widened is put back."""
    with contextlib.closing(admin_client(vault_server, namespace=namespace)) as client:
        plan = server_plan(MOUNTS)
        assert {state for _, state in apply(plan, client)} <= {State.MISSING, State.DIFFERS}
        assert {state for _, state in apply(plan, client)} == {State.DONE}
        name = policy_name(VaultRole.AUDITOR)
        client.write(f"sys/policies/acl/{name}", {"policy": 'path "*" { capabilities = ["sudo", "update"] }'})
        again = {step.path: state for step, state in apply(plan, client)}
        assert [path for path, state in again.items() if state is not State.DONE] == [f"sys/policies/acl/{name}"]
        assert client.read(f"sys/policies/acl/{name}")["policy"] == role_text(MOUNTS, VaultRole.AUDITOR)


def test_a_mount_that_is_something_else_is_refused(command, vault_server, namespace):
    """Where another engine is mounted under our name, nothing is overwritten."""
    with contextlib.closing(admin_client(vault_server, namespace=namespace)) as client:
        client.write("sys/mounts/sealedhealth-transit", {"type": "kv", "options": {"version": "1"}})
    code, _, err = command("vault", "setup", "--profile", "admin", "--yes")
    assert code == 6
    assert "something else" in err


def test_without_a_terminal_and_without_yes_nothing_is_done(command, vault_server, namespace):
    """Asking where nobody can answer does nothing."""
    code, _, _ = command("vault", "setup", "--profile", "admin")
    assert code != 0
    with contextlib.closing(admin_client(vault_server, namespace=namespace)) as client:
        assert server_plan(MOUNTS)[0].state(client) is State.MISSING


def test_vault_policy_prints_what_setup_writes(command, vault_server, namespace, tmp_path):
    """``vault policy ROLE`` shows the very text."""
    code, out, _ = command("vault", "policy", "auditor", "--profile", "admin")
    assert (code, out.rstrip("\n")) == (0, role_text(MOUNTS, VaultRole.AUDITOR).rstrip("\n"))
    code, _, err = command("vault", "policy", "producer", "--profile", "admin")
    assert code == 2
    assert "URL" in err


def test_expelled_members_are_out_at_once(command, vault_server, namespace, tmp_path):
    """The token that a member holds stops working with the command, and so does its secret id."""
    assert command("vault", "setup", "--profile", "admin", "--yes")[0] == 0
    _enrol(command, vault_server, namespace, tmp_path, "aud", "auditor")
    profile = tomllib.loads(command.config.read_text())["profiles"]["aud"]["vault"]["auth"]
    raw = vault_server.raw
    wrap = Path(profile["wrapped_secret_id_file"]).read_text().strip()
    inside = type(raw)(f"{vault_server.address}", raw.token)
    secret = inside.must("POST", "sys/wrapping/unwrap", {}, token=wrap)["data"]["secret_id"]
    body = {"role_id": profile["role_id"], "secret_id": secret}
    login = f"{namespace}/auth/{MOUNTS.approle}/login"
    token = inside.must("POST", login, body)["auth"]["client_token"]
    assert inside("GET", f"{namespace}/sys/mounts", token=token)[0] == 200
    code, out, err = command("vault", "expel", "aud", "--yes", "--profile", "admin")
    assert code == 0, err
    assert "1 token revoked" in out
    assert inside("GET", f"{namespace}/sys/mounts", token=token)[0] == 403
    assert inside("POST", login, body)[0] == 400
    assert command("vault", "expel", "aud", "--yes", "--profile", "admin")[0] == 3


def test_policies_of_a_dataset_name_its_keys_only():
    """No right of a dataset's role has a wildcard where a key's name stands, but to read members' public keys."""
    keys = DatasetKeys((Kek(b"d" * 16, b"c" * 16),), "root-ab")
    for role in DATASET_ROLES:
        rules = [rule for rule in dataset_rules(MOUNTS, role, keys) if rule.path.startswith(MOUNTS.transit)]
        wide = [rule for rule in rules if {"*", "+"} & set(rule.path) and rule.capabilities != ("deny",)]
        assert all(rule.path == f"{MOUNTS.transit}/keys/+" and rule.capabilities == ("read",) for rule in wide)
        assert bool(wide) == (role is VaultRole.CONTROLLER)


def test_hcl_quotes_what_it_is_given():
    """A rule's parts end up inside strings."""
    text = render("t", [Rule('a"b', ("read",), "why", {"context": ['x"y']})])
    assert 'path "a\\"b"' in text
    assert '["x\\"y"]' in text


def test_the_admin_token_is_in_no_output(command, vault_server, namespace):
    """Neither success nor failure shows the token."""
    for arguments in (
        ("vault", "setup", "--yes"),
        ("vault", "policy", "auditor"),
        ("vault", "expel", "nobody", "--yes"),
    ):
        _, out, err = command("vault", *arguments, "--profile", "admin")
        assert os.environ["ADMIN_TOKEN"] not in out + err


def test_a_controller_records_a_move(command, vault_server, namespace, tmp_path):
    """The dataset lies elsewhere: `register` by the data controller, and the old URL is free again."""
    host, moved = tmp_path / "host", tmp_path / "moved"
    assert command("vault", "setup", "--profile", "admin", "--yes")[0] == 0
    _enrol(command, vault_server, namespace, tmp_path, "dpo", "founder")
    code, out, err = command("create", str(host), "--profile", "dpo", "--json")
    assert code == 0, err
    dataset_id = json.loads(out)["dataset"]
    assert command("vault", "setup", str(host), "--profile", "admin", "--yes")[0] == 0
    _enrol(command, vault_server, namespace, tmp_path, "dpo", "controller", str(host), "--only")
    host.rename(moved)
    code, _, err = command("register", dataset_id, str(moved), "--profile", "dpo")
    assert code == 0, err
    assert command("verify", str(moved), "--profile", "admin")[0] == 0
    code, out, _ = command("vault", "list", "--profile", "admin")
    assert (code, dataset_id in out, str(moved) in out) == (0, True, True)
    assert command("verify", str(host), "--profile", "admin")[0] == 3
