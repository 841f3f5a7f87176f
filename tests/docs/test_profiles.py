"""Every profile that the documentation shows can be used as it stands."""

import re
from pathlib import Path

import pytest

from sealedhealth.profiles import load_profile, profile_names

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(found[1], id=f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start())}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for text in [page.read_text(encoding="utf-8")]
    for found in BLOCK.finditer(text)
    if "[profiles." in found[1]
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example, tmp_path, monkeypatch):
    """A block of TOML in a page is a profile file, and each profile in it is read without a complaint."""
    path = tmp_path / "config.toml"
    path.write_text(example, encoding="utf-8")
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(path))
    names = set(re.findall(r"^\[profiles\.([\w-]+)", example, re.MULTILINE))
    assert names <= set(profile_names())
    for name in names:
        assert load_profile(name).name == name


def test_the_page_on_stores_is_among_them():
    """The pattern finds what it should: presets, Azure, AWS, others, and residency."""
    assert sum("stores.md" in str(example.id) for example in EXAMPLES) >= 6
