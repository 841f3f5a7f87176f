from datetime import timedelta
from pathlib import Path

import click
import pytest

from sealedhealth.cli import app
from sealedhealth.cli.options import DURATION, SIZE, SNAPSHOT, help_text


@pytest.mark.parametrize(
    "text,size",
    [
        ("1", 1),
        ("500000", 500_000),
        ("1B", 1),
        ("2K", 2048),
        ("2k", 2048),
        ("256M", 256 << 20),
        ("1GiB", 1 << 30),
        ("5GB", 5_000_000_000),
        ("3 TiB", 3 << 40),
    ],
)
def test_sizes(text, size):
    """Sizes are bytes; units are binary unless they are spelled out with B alone."""
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "0M", "-1", "1.5G", "ten", "1X", "G", "1" * 16])
def test_no_sizes(text):
    """What is no size, or none above zero, is a usage error."""
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    "text,span",
    [("14d", timedelta(days=14)), ("36h", timedelta(hours=36)), ("90m", timedelta(minutes=90)), ("0s", timedelta(0))],
)
def test_durations(text, span):
    """A number and a unit make a time span."""
    assert DURATION.convert(text, None, None) == span


@pytest.mark.parametrize("text", ["", "14", "d", "-1d", "1w", "1.5d", "12345678d"])
def test_no_durations(text):
    """What is no time span is a usage error."""
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    "text,where", [("12", 12), ("0", 0), ("before-audit", "before-audit"), ("12a", "12a"), ("²", "²")]
)
def test_snapshots(text, where):
    """Digits are the number of a commit, anything else is a tag."""
    assert SNAPSHOT.convert(text, None, None) == where


def test_help_text_keeps_lines_of_examples():
    """Headings get a colon and their lines stay lines; other paragraphs are left to be filled."""
    shown = help_text(
        """
        First line
        and more.

        Examples
        --------
        sealedhealth a
          sealedhealth b
        """
    )
    assert shown == "First line\nand more.\n\n\b\nExamples:\n  sealedhealth a\n    sealedhealth b"


@pytest.mark.parametrize("verb", [["init"], ["list"], ["backup", "x.zip"], ["restore", "x.zip"], ["passphrase"]])
def test_a_keystore_is_not_looked_for_where_keys_are_in_a_vault(verb, tmp_path, monkeypatch, capsys):
    """The profile says that they are in a Vault: nobody is told to make a keystore, nor is one made."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[profiles.dpo]\nkeys = "vault"\n[profiles.dpo.vault]\naddress = "http://127.0.0.1:9"\n'
        'allowed_hosts = ["127.0.0.1"]\njurisdiction = "FR"\n'
        '[profiles.dpo.vault.auth]\nmethod = "token"\ntoken_variable = "DPO_TOKEN"\n'
    )
    monkeypatch.setenv("SEALEDHEALTH_CONFIG", str(config))
    monkeypatch.chdir(tmp_path)
    Path("x.zip").touch()
    assert app.run(["keystore", *verb, "--profile", "dpo"]) == 2
    said = capsys.readouterr().err
    assert "keeps its keys in a Vault" in said
    assert "sealedhealth vault list" in said
