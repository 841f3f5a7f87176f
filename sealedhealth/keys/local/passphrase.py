"""Where the passphrase of a keystore comes from."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path

from sealedhealth.errors import AccessDenied, InvalidInput
from sealedhealth.keys.secret import Secret

__all__ = [
    "PASSPHRASE_FILE_VARIABLE",
    "PassphraseSource",
    "passphrase_from_environment",
    "read_passphrase",
    "read_passphrase_file",
]

#: Called when the passphrase is needed for the first time; never before.
PassphraseSource = Callable[[], str | bytes]

PASSPHRASE_FILE_VARIABLE = "SEALEDHEALTH_PASSPHRASE_FILE"  # noqa: S105 - the name of a variable
MAX_PASSPHRASE_SIZE = 4096


def passphrase_from_environment() -> PassphraseSource | None:
    """A source that reads the file named by ``SEALEDHEALTH_PASSPHRASE_FILE``, or ``None`` when it is not set.

    The variable holds a path, never a passphrase: the environment of a process is easily
    seen by others. The file is read, by :func:`read_passphrase_file`, when the passphrase is
    needed.
    """
    name = os.environ.get(PASSPHRASE_FILE_VARIABLE)
    if not name:
        return None
    path = Path(name)
    return lambda: read_passphrase_file(path)


def read_passphrase_file(path: Path) -> bytes:
    """The passphrase that a file holds; one line end at the end of the file is no part of it.

    Raises ``InvalidInput`` when it cannot be read or is no regular file, and ``AccessDenied``
    when others than its owner may read it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidInput(f"The passphrase file {path} is no regular file.")
            if status.st_mode & 0o077:
                raise AccessDenied(
                    f"Others than its owner may read the passphrase file {path}.",
                    safe="It was not used.",
                    next=f"chmod 600 {path}, and change the passphrase if somebody may have seen it.",
                )
            content = file.read(MAX_PASSPHRASE_SIZE + 3)  # one byte more than fits, and a line end
    except OSError as error:
        if isinstance(error, AccessDenied):
            raise
        raise InvalidInput(
            f"The passphrase file {path} cannot be read ({error.strerror}).",
            next=f"Check {PASSPHRASE_FILE_VARIABLE}.",
        ) from error
    return content.removesuffix(b"\n").removesuffix(b"\r")


def read_passphrase(source: PassphraseSource) -> Secret:
    """Ask *source*, and bring the answer into one form. Raises ``InvalidInput`` when it is empty or too long.

    Text is taken as UTF-8 in normalisation form C, so that a passphrase typed on one system
    and read from a file on another is the same.
    """
    passphrase = _normalised(source)
    if passphrase is None:
        raise InvalidInput(
            f"The passphrase is empty, or longer than {MAX_PASSPHRASE_SIZE} bytes.",
            safe="Nothing was opened or changed.",
            next="Give the passphrase of this keystore.",
        )
    return passphrase


def _normalised(source: PassphraseSource) -> Secret | None:
    given = source()
    # Neither raises for any text or bytes, and keeps different ones apart: these frames hold the passphrase.
    text = given.decode(errors="surrogateescape") if isinstance(given, bytes) else given
    encoded = unicodedata.normalize("NFC", text).encode(errors="surrogatepass")
    return Secret(encoded) if 0 < len(encoded) <= MAX_PASSPHRASE_SIZE else None
