"""How a client's errors become ours, and that no credential is among their words."""

import errno
import traceback

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from sealedhealth.errors import (
    AccessDenied,
    AlreadyExists,
    MissingError,
    NotFound,
    ServiceUnavailable,
    StoreError,
    Throttled,
)
from sealedhealth.stores.errors import Scrubber, is_range_outside, translate

OPTIONS = {
    "key": "AKIAEXAMPLE",
    "secret": "wJalrXUtnFEMI/K7MDENG",
    "endpoint_url": "https://s3.example.org",
    "client_kwargs": {"region_name": "eu-west-3", "aws_session_token": "session-token-value"},
    "headers": {"Authorization": "Bearer abcdefgh"},
    "password": "any",
    "default_block_size": 123456,
}


def client_error(code, message="no"):
    """An error as botocore raises it."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetObject")


def translated(error, **options):
    """The error to raise, for an operation with a plain name."""
    return translate(error, doing="read a/b of s3://bucket/root", scrub=Scrubber(OPTIONS), **options)[0]


@pytest.mark.parametrize(
    "error,expected",
    [
        (FileNotFoundError(errno.ENOENT, "no"), MissingError),
        (NotADirectoryError(errno.ENOTDIR, "no"), MissingError),
        (PermissionError(errno.EACCES, "no"), AccessDenied),
        (NoCredentialsError(), AccessDenied),
        (OSError(errno.ENOSPC, "full"), StoreError),
        (OSError(errno.EDQUOT, "full"), StoreError),
        (OSError(errno.EINVAL, "refused"), StoreError),
        (FileExistsError(errno.EEXIST, "there"), StoreError),
        (client_error("SlowDown"), Throttled),
        (client_error("InternalError"), ServiceUnavailable),
        (OSError(errno.EIO, "broken"), ServiceUnavailable),
        (TimeoutError("slow"), ServiceUnavailable),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ServiceUnavailable),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:9"), ServiceUnavailable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_kinds(error, expected):
    """Each failure of a host has one class of ours, with three texts."""
    ours = translated(error)
    assert type(ours) is expected
    assert ours.what
    assert ours.safe
    assert ours.next


def test_an_absent_bucket_when_writing():
    """A write cannot miss an object: what is absent is the bucket or the directory."""
    assert type(translated(FileNotFoundError("no bucket"), writing=True)) is NotFound


def test_no_credentials_at_all():
    """Nothing was asked of the host: it did not refuse anything. Where AWS's client looks is said."""
    ours = translated(NoCredentialsError())
    assert "no usable credentials were found" in ours.what
    assert "AWS_ACCESS_KEY_ID" in ours.next
    azure = pytest.importorskip("azure.core.exceptions")
    ours = translated(azure.ClientAuthenticationError("no"))
    assert "no usable credentials were found" in ours.what
    assert "AZURE_" in ours.next


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
        NoCredentialsError(),
        client_error("AccessDenied"),
        client_error("InvalidAccessKeyId"),
        client_error("NoSuchBucket"),
        client_error("SlowDown"),
        client_error("PermanentRedirect"),
    ],
    ids=str,
)
def test_the_endpoint_is_named(error):
    """Which host it was, and what may be wrong with the choice of it, is part of the error."""
    ours = translated(error, endpoint="s3.example.org", hint="Is it the right host?")
    assert "s3.example.org" in ours.what
    throttled = isinstance(ours, Throttled)
    assert ours.next.endswith("Is it the right host?") is not throttled


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), ZeroDivisionError(), AlreadyExists("ours")])
def test_mistakes_of_programs_stay_what_they_are(error):
    """Only hosts' failures are translated."""
    assert translated(error) is error


@pytest.mark.parametrize(
    "text",
    [
        "https://AKIAEXAMPLE:wJalrXUtnFEMI/K7MDENG@s3.example.org/bucket failed",
        "ftp://someone:else@host/path",
        "token session-token-value expired",
        "GET /x?X-Amz-Credential=AKIAOTHER%2F2026&X-Amz-Signature=0123abcd&sig=deadbeef",
        "headers: Authorization: Bearer abcdefgh, Host: x",
    ],
)
def test_no_credential_in_any_text(text):
    """Neither the message nor the cause nor the traceback shows one."""
    try:
        try:
            raise OSError(errno.EIO, text)
        except OSError as error:
            ours, cause = translate(error, doing=text, scrub=Scrubber(OPTIONS))
        raise ours from cause
    except ServiceUnavailable as error:
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
    shown = shown.replace(repr(text), "").replace(text, "")  # the source line of this very test is not the point
    for secret in ("AKIAEXAMPLE", "wJalr", "session-token-value", "someone:", "0123abcd", "deadbeef", "abcdefgh"):
        assert secret not in shown


def test_what_is_no_secret_stays_readable():
    """Endpoints, regions and made-up passwords like "any" are not cut out."""
    scrub = Scrubber(OPTIONS)
    text = "any host: https://s3.example.org/bucket in eu-west-3 gave 123456"
    assert scrub(text) == text
    assert "AKIA" not in repr(scrub)


def test_a_range_beyond_the_end_is_recognised():
    """S3 answers 416 for a range that begins behind the end."""
    assert is_range_outside(client_error("InvalidRange"))
    error = OSError(errno.EINVAL, "range")
    error.__cause__ = client_error("InvalidRange")
    assert is_range_outside(error)
    assert not is_range_outside(OSError(errno.EINVAL, "range"))


@pytest.mark.parametrize("name", ["/data/cardio/objects/3f/.tmp-12-ab-0", "/data/cardio/objects/3f"])
def test_local_directory_without_permission(name):
    """A local directory is named, and nobody is sent to look for credentials."""
    error = translated(PermissionError(errno.EACCES, "Permission denied", name), writing=True)
    assert isinstance(error, AccessDenied)
    assert "/data/cardio/objects/3f," in error.next
    assert "credentials" not in str(error)
    assert "last commit" not in str(error)
