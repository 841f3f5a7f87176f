"""What is special about S3: uploads in parts, deletions in bulk, and settings that every S3 server takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from sealedhealth.errors import StoreError
from sealedhealth.stores.base import Buffer, ObjectStore, StoreWriter, Unfinished
from sealedhealth.stores.location import Location, endpoint_of

__all__ = ["S3Store", "s3_options"]

PART_SIZE = 8 << 20
#: S3 takes at most 10,000 parts of an object.
PARTS = 10_000
#: Without a size hint parts double in size after so many, which reaches the largest object that S3 takes.
DOUBLE_AFTER = 1_000
#: Parts of one object on their way at once; each is in memory until it has arrived.
IN_FLIGHT = 3
#: Keys in one request to delete.
DELETE_AT_ONCE = 1_000
CONNECTIONS = 32


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` for s3fs with our defaults filled in; what the caller set stays."""
    settings = {
        "max_pool_connections": CONNECTIONS,
        # Our own digests check every byte; the checksums that botocore adds by itself cost time,
        # and several S3 servers do not know them.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "retries": {"mode": "standard", "max_attempts": 3},
    }
    return {**options, "config_kwargs": settings | dict(options.get("config_kwargs") or {})}


class S3Store(ObjectStore):
    """A prefix of a bucket, through s3fs."""

    @property
    def location(self) -> Location:
        # What the client was made with, after the options, the environment and AWS's own files had their say.
        meta = self._do(f"find the endpoint of {self.url}", lambda: self.fs.s3.meta)
        return Location("s3", endpoint_of(meta.endpoint_url), meta.region_name or "")

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        return _S3Writer(self, name, size_hint)

    def delete_many(self, names: Iterable[str]) -> None:
        # s3fs' own bulk deletion takes names for patterns and drops the errors in the answer.
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), DELETE_AT_ONCE):
            batch = keys[start : start + DELETE_AT_ONCE]
            answer = self._call("delete_objects", Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True})
            for error in answer.get("Errors", ()):
                if error.get("Code") != "NoSuchKey":
                    raise StoreError(
                        f"{self.url} did not delete {len(answer['Errors'])} of {len(batch)} objects "
                        f"({self._scrub(str(error.get('Code')))}).",
                        safe="Nothing else was changed.",
                        next="Check that the credentials of the store may delete.",
                    )

    def unfinished(self) -> Iterator[Unfinished]:
        top = len(f"{self._split(self.root)[1]}/".lstrip("/"))
        for upload in self._uploads():
            yield Unfinished(upload["Key"][top:], upload["Initiated"], None)

    def delete_unfinished(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        # All of them first: deleting moves what the next page of the listing would hold.
        old = [upload for upload in self._uploads() if upload["Initiated"] < before]
        for upload in old:
            self._call("abort_multipart_upload", Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)

    def _uploads(self) -> Iterator[Mapping[str, Any]]:
        """The multipart uploads below the root that are neither completed nor aborted."""
        _, prefix = self._split(self.root)
        markers: dict[str, str] = {}
        while True:
            answer = self._call("list_multipart_uploads", Prefix=f"{prefix}/" if prefix else "", **markers)
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


class _S3Writer(StoreWriter):
    """One request for a small object, a multipart upload for a large one.

    s3fs' own writer uploads one part after the other, and completes the upload when it is
    merely abandoned; here parts go up side by side, and nothing but a commit completes.
    """

    def __init__(self, store: S3Store, name: str, size_hint: int | None) -> None:
        self._store = store
        self._name = name
        self._key = store._key(name)
        # A tenth more than was announced still fits.
        self._part_size = max(PART_SIZE, -(-(size_hint or 0) * 11 // (PARTS * 10)))
        self._growing = size_hint is None
        self._buffer = bytearray()
        self._upload = ""
        self._parts: list[Future[Any]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._open = True

    def write(self, data: Buffer) -> None:
        self._check_open()
        self._buffer += data
        # Strictly more: the last part, which is sent by commit, is never empty.
        while len(self._buffer) > self._part_size:
            with memoryview(self._buffer) as view:
                part = bytes(view[: self._part_size])
            del self._buffer[: self._part_size]
            self._send(part)

    def _send(self, part: bytes) -> None:
        if self._pool is None:
            self._upload = self._store._call("create_multipart_upload", Key=self._key)["UploadId"]
            self._pool = ThreadPoolExecutor(IN_FLIGHT, "sealedhealth-part")
        waiting = len(self._parts) - IN_FLIGHT
        if waiting >= 0:
            self._parts[waiting].result()  # bounds the memory; raises what went wrong with it
        number = len(self._parts) + 1
        send: Callable[..., Any] = self._store._call
        self._parts.append(
            self._pool.submit(send, "upload_part", Key=self._key, UploadId=self._upload, PartNumber=number, Body=part)
        )
        if self._growing and number % DOUBLE_AFTER == 0:
            self._part_size *= 2

    def commit(self) -> None:
        self._check_open()
        if self._pool is None:
            self._store.put(self._name, self._buffer)
        else:
            self._send(bytes(self._buffer))
            parts = [
                {"PartNumber": number, "ETag": part.result()["ETag"]} for number, part in enumerate(self._parts, 1)
            ]
            self._store._call(
                "complete_multipart_upload", Key=self._key, UploadId=self._upload, MultipartUpload={"Parts": parts}
            )
            self._upload = ""
        self._close()

    def discard(self) -> None:
        if not self._open:
            return
        for part in self._parts:
            part.cancel()
        self._close()  # waits for the parts on their way: one that arrives after the abort would stay
        if self._upload:
            upload, self._upload = self._upload, ""
            self._store._call("abort_multipart_upload", Key=self._key, UploadId=upload)

    def _close(self) -> None:
        self._open = False
        self._buffer = bytearray()
        if self._pool is not None:
            self._pool.shutdown()
        self._parts = []

    def _check_open(self) -> None:
        if not self._open:
            raise ValueError("This writer is closed.")

    def __del__(self) -> None:
        # Only what needs no request: this may run in the thread that would have to answer it.
        # delete_unfinished() aborts what is left on the host.
        with suppress(Exception):
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
