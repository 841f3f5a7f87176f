"""Where profiles, keystores and state lie on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["config_path", "home", "path_of"]


def _platform_dir(kind: str) -> Path:
    """The directory for this user's ``config`` or ``data`` files on this platform."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "sealedhealth"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming") / "sealedhealth"
    variable, default = {"config": ("XDG_CONFIG_HOME", ".config"), "data": ("XDG_DATA_HOME", ".local/share")}[kind]
    base = os.environ.get(variable, "")
    # The XDG specification says that relative values are to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / default) / "sealedhealth"


def home() -> Path:
    """Directory of the default keystore and state: ``$SEALEDHEALTH_HOME``, else the platform's data directory."""
    given = os.environ.get("SEALEDHEALTH_HOME")
    return path_of(given) if given else _platform_dir("data")


def config_path() -> Path:
    """The profile file: ``$SEALEDHEALTH_CONFIG``, else ``config.toml`` in the platform's config directory."""
    given = os.environ.get("SEALEDHEALTH_CONFIG")
    return path_of(given) if given else _platform_dir("config") / "config.toml"


def path_of(text: str) -> Path:
    """The path that *text* means: absolute, with ``~`` for the home directory, links as they are."""
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - resolve() would follow links
