"""What a host's client raises, said in this package's errors and without credentials."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping

from sealedhealth.errors import (
    AccessDenied,
    InvalidInput,
    InvalidPath,
    MissingError,
    NotFound,
    SealedHealthError,
    ServiceUnavailable,
    StoreError,
    Throttled,
)

__all__ = [
    "Scrubber",
    "UploadGone",
    "error_code",
    "invalid_url",
    "is_missing",
    "is_range_outside",
    "is_slow",
    "translate",
]

#: Packages whose exceptions mean that the host or the way to it failed, not that a program is wrong.
_CLIENTS = frozenset(
    {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "paramiko", "s3fs", "urllib3"}
)
#: Class names of botocore and azure that mean "no or bad credentials".
_CREDENTIALS = frozenset(
    {
        "AuthenticationException",
        "ClientAuthenticationError",
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_UNKNOWN = frozenset({"InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "SignatureDoesNotMatch"})
#: How Azure says that, in the text of an AuthenticationFailed.
_EXPIRED_SIGNATURE, _OLD_DATE = "Signature not valid in the specified time frame", "date header too old"
#: What S3 and Azure say when the bucket or container is absent, not only an object in it.
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SLOW = frozenset({"SlowDown", "ServerBusy", "503", "TooManyRequests", "429", "RequestLimitExceeded", "Throttling"})
#: Statuses of a request that would be refused again: all of the client's faults but a slow or late one.
_REFUSED = frozenset(range(400, 500)) - {408, 429}
_SAFE = "What is committed stays as it is."


class UploadGone(StoreError):
    """The host does not know an upload in parts: somebody completed or discarded it."""


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
    _SECRET = re.compile(r"(?i)key|secret|token|pass|credential|auth|sas|signature|user|connection|cookie")

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        self._secrets = sorted(set(self._texts(options or {})), key=len, reverse=True)

    def __repr__(self) -> str:
        return "Scrubber()"

    @classmethod
    def _texts(cls, value: object, key: str = "") -> Iterator[str]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from cls._texts(item, f"{key} {name}")
        elif isinstance(value, str) and ";" in value and "=" in value:  # a connection string of Azure
            parts = (part.partition("=") for part in value.split(";"))
            yield from cls._texts({name: text for name, _, text in parts})
            yield value
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
    """The code in an error answer of S3 or Azure ("NoSuchKey", ...), its status where it has none, or an empty text."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
        code = getattr(seen, "error_code", None) or getattr(seen, "status_code", None)  # Azure
        if code:
            return str(getattr(code, "value", code))
        seen = seen.__cause__
    return ""


def is_missing(error: BaseException) -> bool:
    """Whether the host says that it has no such object; not when it has not even the bucket."""
    if isinstance(error, SealedHealthError) or _is_without_bucket(error):
        return False
    return isinstance(error, FileNotFoundError | NotADirectoryError) or _is_a(error, "ResourceNotFoundError")


def _is_without_bucket(error: BaseException) -> bool:
    return error_code(error) in _NO_BUCKET


def _is_a(error: BaseException, *names: str) -> bool:
    """Whether the error is of a class of this name, which is not imported only to compare with it."""
    return any(cls.__name__ in names for cls in type(error).__mro__)


def _status(error: BaseException) -> int:
    """The status of an answer of S3 or Azure, or 0."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(seen, "status_code", None)
        if isinstance(status, int):
            return status
        seen = seen.__cause__
    return 0


def is_range_outside(error: BaseException) -> bool:
    """Whether the host says that a range begins behind the end of the object."""
    return error_code(error) in {"InvalidRange", "416", "RequestedRangeNotSatisfiable"}


def _is_ours_to_tell(error: Exception) -> bool:
    if isinstance(error, OSError | EOFError):  # TimeoutError is an OSError
        return True
    return any(cls.__module__.partition(".")[0] in _CLIENTS for cls in type(error).__mro__)


def translate(
    error: Exception, *, doing: str, scrub: Scrubber, writing: bool = False, endpoint: str = "", hint: str = ""
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
    endpoint:
        The host that was asked, as in "s3.example.org:9000", if it is known.
    hint:
        What may be wrong with the choice of that host.
    """
    if isinstance(error, SealedHealthError) or not _is_ours_to_tell(error):
        return error, error.__cause__ if isinstance(error.__cause__, Exception) else None
    # The original may carry a request with its headers, so only its scrubbed text goes on.
    said = scrub(str(error).partition("\nContent: ")[0]) or type(error).__name__  # Azure's answer, said twice
    number = error.errno if isinstance(error, OSError) else None
    cause: Exception = OSError(number, said) if number is not None else OSError(f"{type(error).__name__}: {said}")
    raised = _kind(error, number, scrub(doing), writing=writing, endpoint=endpoint)
    if hint and isinstance(raised, AccessDenied | NotFound | ServiceUnavailable) and not isinstance(raised, Throttled):
        raised.next = f"{raised.next} {hint}"
    return raised, cause


def _kind(error: Exception, number: int | None, doing: str, *, writing: bool, endpoint: str) -> SealedHealthError:
    host = f"the host {endpoint}" if endpoint else "the host"
    if error_code(error) == "NoSuchUpload":
        return UploadGone(
            f"Could not {doing}: the host does not have this upload any more.", safe=_SAFE, next="Try again."
        )
    if number == errno.ENOTSUP:
        return StoreError(
            f"Could not {doing}: the host does not serve ranges of an object.",
            safe=_SAFE,
            next="Look for a proxy or gateway in between that drops the Range header.",
        )
    if _is_without_bucket(error) or (writing and is_missing(error)):
        return NotFound(
            f"Could not {doing}: the bucket or directory does not exist{f' at {endpoint}' if endpoint else ''}.",
            safe="Nothing was changed.",
            next="Create it, or correct the URL.",
        )
    if is_missing(error):
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
    code = error_code(error)
    if code in _UNKNOWN | _EXPIRED | {"RequestTimeTooSkewed"} or _status(error) in {401, 403}:
        return _denied(doing, code, str(error), host)
    if _is_a(error, *_CREDENTIALS):
        return AccessDenied(
            f"Could not {doing}: no usable credentials were found for {host}.", safe=_SAFE, next=_where_to_put(error)
        )
    if isinstance(error, PermissionError):
        return _denied(doing, code, "", host)
    if 300 <= _status(error) < 400 or code in {"PermanentRedirect", "TemporaryRedirect"}:
        return StoreError(
            f"Could not {doing}: {host} sends us to another address.",
            safe="It was not followed: requests go to the endpoint of the profile only. " + _SAFE,
            next="Name the endpoint and the region of the bucket in the profile.",
        )
    if number in _FULL:
        return StoreError(
            f"Could not {doing}: no space left (disk, quota or file size limit).",
            safe=_SAFE,
            next="Make room and try again.",
        )
    if is_slow(code):
        return Throttled(f"Could not {doing}: {host} asks to slow down.", safe=_SAFE, next="Try again later.")
    if number == errno.ENAMETOOLONG:
        return InvalidPath(
            f"Could not {doing}: the name is too long for the host.",
            safe="Nothing was changed.",
            next="Choose a shorter place for the dataset.",
        )
    if isinstance(error, FileExistsError | IsADirectoryError) or number == errno.EINVAL or _status(error) in _REFUSED:
        return StoreError(f"Could not {doing}: {host} refused it.", safe=_SAFE, next="See the cause below.")
    return ServiceUnavailable(
        f"Could not {doing}: {host} cannot be reached or did not answer properly.",
        safe=_SAFE,
        next="Check the network and the endpoint, then try again.",
    )


def _where_to_put(error: Exception) -> str:
    """Where the client of this host looks for credentials."""
    if any(cls.__module__.startswith("azure.") for cls in type(error).__mro__):
        return (
            "Azure's SDK looks in AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_ID with its"
            " secret, a managed identity, and what `az login` left."
        )
    return (
        "AWS's SDK looks in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in ~/.aws/credentials (AWS_PROFILE names the"
        " section), and for the role of this machine."
    )


def _denied(doing: str, code: str, said: str, host: str) -> AccessDenied:
    what, following = f"{host} does not allow it.", "Check the credentials of the store."
    if code in _EXPIRED or _EXPIRED_SIGNATURE in said:
        what, following = "the credentials expired.", "Get new credentials for the store, then try again."
    elif code in _UNKNOWN:
        what = f"{host} does not know these credentials, or the secret is wrong."
    elif code == "RequestTimeTooSkewed" or _OLD_DATE in said:
        what = "the clocks of this machine and of the host differ by too much."
        following = "Set the clock of this machine, then try again."
    return AccessDenied(f"Could not {doing}: {what}", safe=_SAFE, next=following)


def is_slow(code: str) -> bool:
    """Whether a code in an error answer asks to slow down."""
    return code in _SLOW


def invalid_url(what: str, following: str) -> InvalidInput:
    """An error for a URL that cannot be used."""
    return InvalidInput(what, safe="Nothing was read or written.", next=following)
