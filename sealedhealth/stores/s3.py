"""What is special about S3: uploads in parts, deletions in bulk, and settings that every S3 server takes."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn
from urllib.parse import urlsplit

from sealedhealth.errors import AccessDenied, NotFound, ResidencyViolation, StoreError, Throttled
from sealedhealth.stores.base import ObjectStore, StoreWriter, Unfinished
from sealedhealth.stores.errors import UploadGone, invalid_url, is_slow
from sealedhealth.stores.location import Location, endpoint_of
from sealedhealth.stores.parts import PartsWriter
from sealedhealth.stores.presets import known_parts, known_region

__all__ = ["S3Store", "s3_options"]

#: Keys in one request to delete.
DELETE_AT_ONCE = 1_000
#: Attempts to delete what the host could not delete at the moment, and the codes that say so.
DELETIONS = 4
#: Half the seconds before the second of them, at most; it doubles with each.
PAUSE = 0.5
PASSING = frozenset({"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"})
CONNECTIONS = 32
#: Bytes of the longest key, the root's included, and what a dataset's own names need of them.
LONGEST_NAME, OWN_NAMES = 1024, 128
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")  # what servers of their own allow, too


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` for s3fs with our defaults filled in; what the caller set stays."""
    settings = {
        "max_pool_connections": CONNECTIONS,
        # Our own digests check every byte; the checksums that botocore adds by itself cost time,
        # and several S3 servers do not know them.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        # Retries, so four attempts; nothing else repeats a request: see s3client.
        "retries": {"mode": "standard", "max_attempts": 3},
    }
    return {**options, "config_kwargs": settings | dict(options.get("config_kwargs") or {})}


class S3Store(ObjectStore):
    """A prefix of a bucket, through s3fs."""

    rereads = 2
    _watched: Any = None  #: the client whose requests are looked at, where the profile restricts them

    def __init__(self, fs: Any, root: str, *, options: Mapping[str, object] | None = None) -> None:
        super().__init__(fs, root, options=options)
        bucket, prefix = self._split(self.root)
        if not (_BUCKET.fullmatch(bucket) or bucket.startswith("arn:")):
            raise invalid_url(
                f"{self._scrub(repr(bucket))} cannot be the name of a bucket.",
                "It has 3 to 63 lower-case letters, digits, full stops and hyphens.",
            )
        if len(prefix.encode()) > LONGEST_NAME - OWN_NAMES:
            raise invalid_url(f"{self.url[:80]}... is too long for S3.", "Choose a shorter place in the bucket.")

    @property
    def location(self) -> Location:
        # What the client was made with, after the options, the environment and AWS's own files had their say.
        meta = self._client().meta
        endpoint = endpoint_of(meta.endpoint_url)
        configured = meta.region_name if self._region() == meta.region_name else ""
        return Location("s3", endpoint, configured or known_region(endpoint))

    def _region(self) -> str:
        """The region that somebody configured. Its client says ``us-east-1`` where nobody did: that is no fact."""
        given = (table.get("region_name") for table in (self.fs.client_kwargs, self.fs.config_kwargs))
        return str(next(filter(None, given), None) or self.fs.session.get_config_variable("region") or "")

    def _tried(self) -> tuple[str, str]:
        client = self.fs._s3  # as it is: it may be its making that failed
        endpoint = endpoint_of(client.meta.endpoint_url) if client is not None else ""
        named = self.fs.endpoint_url or self.fs.client_kwargs.get("endpoint_url")
        if named or not endpoint.endswith(".amazonaws.com"):
            return endpoint, ""
        return endpoint, "No endpoint is named, so it was AWS's own: for another host choose its profile by --profile."

    def _client(self) -> Any:
        return self._do(f"find the endpoint of {self.url}", lambda: self.fs.s3)

    def check_writable(self) -> None:
        super().check_writable()
        if self._rule is not None and self._client() is not self._watched:
            # AWS's client follows a bucket to the region that the host names, and a name of a bucket can be one of
            # an access point elsewhere: what goes out is looked at, too.
            self._watched = self._client()
            watcher = _Watcher(self._watched.meta.endpoint_url, self._split(self.root)[0])
            self._watched.meta.events.register("before-send.s3", watcher)

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        return _S3Writer(self, name, size_hint)

    def delete_many(self, names: Iterable[str]) -> None:
        # s3fs' own bulk deletion takes names for patterns and drops the errors in the answer.
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), DELETE_AT_ONCE):
            batch = keys[start : start + DELETE_AT_ONCE]
            for attempt in range(1, DELETIONS + 1):
                failed = self._delete(batch)
                if not failed:
                    break
                # The request as a whole succeeded, so the client did not retry what failed in it.
                if attempt == DELETIONS or not all(code in PASSING or is_slow(code) for code in failed.values()):
                    self._not_deleted(min(failed.values()), len(failed), len(batch))
                time.sleep(random.random() * PAUSE * 2**attempt)  # noqa: S311 - no secret
                batch = list(failed)

    def _delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete objects, and return the codes of those that the host did not delete."""
        answer = self._call("delete_objects", Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        found = {str(error.get("Key", "")): str(error.get("Code", "")) for error in answer.get("Errors", ())}
        return {key: code for key, code in found.items() if code != "NoSuchKey"}

    def _not_deleted(self, code: str, count: int, among: int) -> NoReturn:
        what = f"{self.url} did not delete {count} of {among} objects ({self._scrub(code)})."
        if is_slow(code):
            raise Throttled(what, safe="Nothing else was changed.", next="Try again later.")
        kind = AccessDenied if code == "AccessDenied" else StoreError
        raise kind(what, safe="Nothing else was changed.", next="Check that the credentials of the store may delete.")

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        _, root = self._split(self.root)
        top = len(f"{root}/".lstrip("/"))
        start = "/".join(part for part in (root, prefix.strip("/")) if part)
        pages: dict[str, str] = {"Prefix": f"{start}/" if start else ""}
        while True:
            answer = self._call("list_objects_v2", **pages)
            for found in answer.get("Contents", ()):
                if not found["Key"].endswith("/"):  # some consoles mark directories by an empty object
                    yield found["Key"][top:], int(found["Size"])
            if not answer.get("IsTruncated"):
                return
            pages["ContinuationToken"] = answer["NextContinuationToken"]

    def unfinished(self) -> Iterator[Unfinished]:
        top = len(f"{self._split(self.root)[1]}/".lstrip("/"))
        for upload in self._uploads():
            yield Unfinished(upload["Key"][top:], upload["Initiated"], None)

    def delete_unfinished(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        # All of them first: deleting moves what the next page of the listing would hold.
        old = [upload for upload in self._uploads() if upload["Initiated"] < before]
        for upload in old:
            with suppress(UploadGone):  # somebody else was quicker
                self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)

    def _uploads(self) -> Iterator[Mapping[str, Any]]:
        """The multipart uploads below the root that are neither completed nor aborted."""
        _, prefix = self._split(self.root)
        markers: dict[str, str] = {}
        while True:
            try:
                answer = self._call("list_multipart_uploads", Prefix=f"{prefix}/" if prefix else "", **markers)
            except UploadGone:  # how rclone says that the bucket never had one
                return
            yield from answer.get("Uploads", ())
            if not answer.get("IsTruncated"):
                return
            markers = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _split(self, path: str) -> tuple[str, str]:
        bucket, key, _ = self.fs.split_path(path)
        return bucket, key

    def _key(self, name: str) -> str:
        return self._split(self._path(name))[1]

    def _call(self, method: str, **arguments: Any) -> Any:
        bucket, _ = self._split(self.root)
        doing = f"{method.replace('_', ' ')} on {self.url}"
        return self._do(doing, partial(self.fs.call_s3, method, Bucket=bucket, **arguments), writing=True)


class _Watcher:
    """Refuses requests that would change something at a host other than the endpoint."""

    def __init__(self, endpoint_url: str, bucket: str) -> None:
        endpoint = urlsplit(endpoint_url).netloc.lower()
        self._hosts = {endpoint, f"{bucket}.{endpoint}"}

    def __call__(self, request: Any, **_: Any) -> None:
        host = urlsplit(request.url).netloc.lower()
        if request.method not in {"GET", "HEAD"} and host not in self._hosts:
            raise ResidencyViolation(
                f"A request to write was about to go to {host.rpartition('@')[2]}, not to the endpoint of the profile.",
                safe="It was not sent.",
                next="Name the endpoint of the bucket's own region in the profile.",
            )


class _S3Writer(PartsWriter):
    """A multipart upload."""

    part_size = 8 << 20
    most_parts = 10_000
    double_after = 1_000

    def __init__(self, store: S3Store, name: str, size_hint: int | None) -> None:
        self._key = store._key(name)
        self._call = store._call
        self._upload = ""
        self._sizes: dict[int, int] = {}
        known = known_parts(store.location.endpoint)
        if known is not None:
            self.most_parts, self.double_after = known, max(1, known // 10)
        super().__init__(store, name, size_hint)

    def _begin(self) -> None:
        self._upload = self._call("create_multipart_upload", Key=self._key)["UploadId"]

    def _send_part(self, number: int, data: bytearray) -> Any:
        answer = self._call("upload_part", Key=self._key, UploadId=self._upload, PartNumber=number, Body=data)
        self._sizes[number] = len(data)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(self, parts: list[Any]) -> None:
        try:
            self._call(
                "complete_multipart_upload", Key=self._key, UploadId=self._upload, MultipartUpload={"Parts": parts}
            )
        except UploadGone:
            # What a second request hears when the first succeeded and its answer was lost.
            if not self._stands(len(parts)):
                raise

    def _stands(self, parts: int) -> bool:
        """Whether the object is there as it was sent. Its name is random and used once, so it is nobody else's."""
        try:
            found = self._call("head_object", Key=self._key)
        except NotFound:
            return False
        made_of = str(found.get("ETag", "")).strip('"').rpartition("-")[2]  # "...-3" for three parts, on most hosts
        same = not made_of.isdigit() or len(made_of) > 5 or int(made_of) == parts
        return bool(found["ContentLength"] == sum(self._sizes.values()) and same)

    def _abort(self) -> None:
        with suppress(UploadGone):
            self._call("abort_multipart_upload", Key=self._key, UploadId=self._upload)
