"""The embedded key service: a directory, no server.

It protects keys with a passphrase, or, in ``development`` mode, by file permissions alone;
that is then shown wherever the service is named.
"""

from __future__ import annotations

from sealedhealth.keys.local.backup import backup, restore
from sealedhealth.keys.local.passphrase import (
    PASSPHRASE_FILE_VARIABLE,
    PassphraseSource,
    passphrase_from_environment,
    read_passphrase_file,
)
from sealedhealth.keys.local.service import LocalKeyService, keystore_mode

__all__ = [
    "PASSPHRASE_FILE_VARIABLE",
    "LocalKeyService",
    "PassphraseSource",
    "backup",
    "keystore_mode",
    "passphrase_from_environment",
    "read_passphrase_file",
    "restore",
]
