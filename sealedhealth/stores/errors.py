"""What a host's client raises, said in this package's errors and without credentials."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping

from sealedhealth.errors import (
    AccessDenied,
    InvalidInput,
    MissingError,
    NotFound,
    SealedHealthError,
    ServiceUnavailable,
    StoreError,
    Throttled,
)

__all__ = ["Scrubber", "error_code", "invalid_url", "is_missing", "is_range_outside", "translate"]

#: Packages whose exceptions mean that the host or the way to it failed, not that a program is wrong.
_CLIENTS = frozenset({"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "s3fs", "urllib3"})
#: Class names of botocore and azure that mean "no or bad credentials".
_CREDENTIALS = frozenset({"ClientAuthenticationError", "CredentialRetrievalError", "NoCredentialsError"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SLOW = frozenset({"SlowDown", "503", "TooManyRequests", "429", "RequestLimitExceeded", "Throttling"})
_SAFE = "What is committed stays as it is."


class Scrubber:
    """Removes credentials from texts: user names in URLs, and every secret option of a store.

    Parameters
    ----------
    options:
        The options of the store, as given to fsspec.  Texts whose name says that they are
        secret (key, token, password, ...), at any depth, are removed wherever they appear.
    """

    _USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
    _SIGNED = re.compile(r"(?i)((?:x-amz-[a-z-]+|sig|signature|authorization|awsaccesskeyid)[=:]\s*)[^&\s,;\"']+")
    _SECRET = re.compile(r"(?i)key|secret|token|pass|credential|auth|sas|user|connection|cookie")

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        self._secrets = sorted(set(self._texts(options or {})), key=len, reverse=True)

    def __repr__(self) -> str:
        return "Scrubber()"

    @classmethod
    def _texts(cls, value: object, key: str = "") -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from cls._texts(item, f"{key} {name}")
        # Shorter texts are made-up ones such as "any"; cutting them out would garble every message.
        elif isinstance(value, str) and len(value) >= 6 and cls._SECRET.search(key):
            yield value

    def __call__(self, text: str) -> str:
        """``text`` without credentials."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        text = self._USERINFO.sub("", text)
        return self._SIGNED.sub(r"\1***", text)


def error_code(error: BaseException) -> str:
    """The code in an S3 error answer ("NoSuchKey", ...), or an empty text."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__
    return ""


def is_missing(error: BaseException) -> bool:
    """Whether the host says that it has no such object."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) and not isinstance(error, SealedHealthError)


def is_range_outside(error: BaseException) -> bool:
    """Whether the host says that a range begins behind the end of the object."""
    return error_code(error) in {"InvalidRange", "416", "RequestedRangeNotSatisfiable"}


def _is_ours_to_tell(error: Exception) -> bool:
    if isinstance(error, OSError | EOFError):  # TimeoutError is an OSError
        return True
    return any(cls.__module__.partition(".")[0] in _CLIENTS for cls in type(error).__mro__)


def translate(
    error: Exception, *, doing: str, scrub: Scrubber, writing: bool = False
) -> tuple[Exception, Exception | None]:
    """The error to raise and its cause.

    Parameters
    ----------
    error:
        What the client raised.  Errors of this package and mistakes of a program
        (``TypeError`` and the like) come back as they are.
    doing:
        What was tried, as in "read objects/ab/... of s3://bucket/root".
    scrub:
        Removes credentials from what the client says.
    writing:
        Whether something was written: then an absent bucket or directory is meant, not
        an absent object.
    """
    if isinstance(error, SealedHealthError) or not _is_ours_to_tell(error):
        return error, error.__cause__ if isinstance(error.__cause__, Exception) else None
    # The original may carry a request with its headers, so only its scrubbed text goes on.
    said = scrub(str(error)) or type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    cause: Exception = OSError(number, said) if number is not None else OSError(f"{type(error).__name__}: {said}")
    doing = scrub(doing)
    return _kind(error, number, doing, writing=writing), cause


def _kind(error: Exception, number: int | None, doing: str, *, writing: bool) -> SealedHealthError:
    if is_missing(error):
        if writing:
            return NotFound(
                f"Could not {doing}: the bucket or directory does not exist.",
                safe="Nothing was changed.",
                next="Create it, or correct the URL.",
            )
        return MissingError(
            f"Could not {doing}: the host does not have it.",
            safe="Keys and other objects are not affected.",
            next="Look for another copy of the dataset, or ask the host.",
        )
    if number in {errno.EACCES, errno.EPERM, errno.EROFS} and isinstance(error, OSError) and error.filename:
        # Of a local disk. A file that is about to be made has a name of no meaning: its directory counts.
        folder, _, name = str(error.filename).rpartition("/")
        place = folder if name.startswith(".tmp-") else error.filename
        return AccessDenied(
            f"Could not {doing}: this account may not.",
            safe=_SAFE,
            next=f"Check the owner and the permissions of {place}, or name another directory.",
        )
    if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        return AccessDenied(
            f"Could not {doing}: the host does not allow it.", safe=_SAFE, next="Check the credentials of the store."
        )
    if number in _FULL:
        return StoreError(
            f"Could not {doing}: no space left (disk, quota or file size limit).",
            safe=_SAFE,
            next="Make room and try again.",
        )
    if error_code(error) in _SLOW:
        return Throttled(f"Could not {doing}: the host asks to slow down.", safe=_SAFE, next="Try again later.")
    if isinstance(error, FileExistsError | IsADirectoryError) or number in {errno.EINVAL, errno.ENAMETOOLONG}:
        return StoreError(f"Could not {doing}: the host refused it.", safe=_SAFE, next="See the cause below.")
    return ServiceUnavailable(
        f"Could not {doing}: the host cannot be reached or did not answer properly.",
        safe=_SAFE,
        next="Check the network and the endpoint, then try again.",
    )


def invalid_url(what: str, following: str) -> InvalidInput:
    """An error for a URL that cannot be used."""
    return InvalidInput(what, safe="Nothing was read or written.", next=following)
