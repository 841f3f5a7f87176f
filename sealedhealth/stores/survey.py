"""Everything that a host shows to somebody with these credentials: whatever its name, and older versions too.

The stores themselves read and write the files of a dataset. What else lies there may have names that no dataset
uses, or be hidden under a newer version.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sealedhealth.errors import AccessDenied, MissingError, SealedHealthError, ServiceUnavailable, TruncatedError
from sealedhealth.stores.base import ObjectStore
from sealedhealth.stores.errors import is_missing, is_range_outside
from sealedhealth.stores.local import LocalStore
from sealedhealth.stores.s3 import S3Store

__all__ = ["Stored", "Survey", "below", "survey"]

_TRIES = 3  #: for an answer that breaks off in the middle
_AT_ONCE = 16  #: requests on their way
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "created")  #: what file systems call it

Span = tuple["Stored", int, int]


@dataclass(frozen=True, slots=True)
class Stored:
    """One thing that lies on a host."""

    name: str  #: relative to the root of the survey
    size: int  #: bytes
    modified: datetime | None = None  #: by the host's clock
    version: str = ""  #: of one that is hidden by a newer version or was deleted: the host's name of it
    kind: str = "file"  #: on a local disk also "directory" (an empty one), "link" or "other"


def survey(store: ObjectStore) -> Survey:
    """The survey for this kind of host."""
    if isinstance(store, LocalStore):
        return _LocalSurvey(store)
    if isinstance(store, S3Store):
        return _S3Survey(store)
    return Survey(store)


def below(store: ObjectStore, path: str) -> ObjectStore:
    """The store at *path* below the root of another one, for reading."""
    if not path:
        return store
    found = type(store)(store.fs, f"{store.root}/{path}")
    found._scrub = store._scrub
    found._url = f"{store.url}/{path}"
    return found


class Survey:
    """What lies below the root of a store, by way of fsspec."""

    has_labels = False  #: whether files have metadata and tags beside their names

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        #: what could not be looked at, and why
        self.notes: list[str] = ["older versions and snapshots: this kind of host is not asked for them"]

    def files(self) -> Iterator[Stored]:
        """Everything there."""
        store = self.store
        try:
            found = store._do(f"list {store.url}", lambda: store.fs.find(store.root, detail=True))
        except MissingError:
            return
        top = len(store._bare(store.root)) + 1
        for key, info in found.items():
            yield Stored(store._bare(key)[top:], int(info["size"] or 0), _time(info))

    def read(self, spans: Sequence[Span]) -> list[bytes | None]:
        """Byte ranges, all at once; ``None`` for what is gone, and less than was asked for where a file is shorter."""
        wanted = [(stored.name, lo, hi) for stored, lo, hi in spans]
        try:
            return list(self.store.get_ranges(wanted))
        except (MissingError, TruncatedError):
            return [self._read_one(*span) for span in wanted]

    def _read_one(self, name: str, lo: int, hi: int) -> bytes | None:
        try:
            [data] = self.store.get_ranges([(name, lo, hi)])
        except (MissingError, TruncatedError):  # deleted or replaced since it was listed
            return None
        return data

    def labels(self, spans: Sequence[Stored]) -> list[Mapping[str, str]]:
        """What somebody wrote beside each: user metadata and tags. Nothing where a host has none."""
        return [{} for _ in spans]


def _time(info: Mapping[str, Any]) -> datetime | None:
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
    return None


class _LocalSurvey(Survey):
    """A directory; links are not followed."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.notes = []

    def files(self) -> Iterator[Stored]:
        store = self.store
        top = len(store.root) + 1
        waiting = [store.root]
        while waiting:
            directory = waiting.pop()
            try:
                entries = store._do(f"list {directory}", partial(_scan, directory))
            except MissingError:
                continue
            if not entries and directory != store.root:
                yield Stored(directory[top:], 0, kind="directory")
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found = _status(entry)
                    if found is not None:
                        yield Stored(entry.path[top:], found.st_size, _when(found), kind=_kind(found))

    def read(self, spans: Sequence[Span]) -> list[bytes | None]:
        return [self.store._do(f"read {stored.name}", partial(self._read, stored, lo, hi)) for stored, lo, hi in spans]

    def _read(self, stored: Stored, lo: int, hi: int) -> bytes | None:
        try:
            # Whatever stands there now: neither followed nor waited for.
            file = os.open(
                f"{self.store.root}/{stored.name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            )
        except FileNotFoundError:
            return None
        try:
            return os.pread(file, hi - lo, lo) if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)


def _scan(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # deleted meanwhile
        return None


def _when(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "link" if stat.S_ISLNK(status.st_mode) else "other"


class _S3Survey(Survey):
    """A prefix of a bucket: every key as it is, and every version that the host still has."""

    has_labels = True

    def __init__(self, store: S3Store) -> None:
        super().__init__(store)
        self.notes = []
        self._bucket, prefix = store._split(store.root)
        self._prefix = f"{prefix}/" if prefix else ""

    def files(self) -> Iterator[Stored]:
        # Those that are hidden come first, so that what is deleted meanwhile is seen at least once.
        try:
            for item in self._pages("list_object_versions", "Versions"):
                if not item.get("IsLatest", True):
                    yield self._stored(item, str(item["VersionId"]))
        except MissingError:
            return
        except (AccessDenied, ServiceUnavailable) as error:
            self.notes.append(f"older versions: the host does not list them ({type(error).__name__})")
        try:
            for item in self._pages("list_objects_v2", "Contents"):
                yield self._stored(item)
        except MissingError:
            return

    def _stored(self, item: Mapping[str, Any], version: str = "") -> Stored:
        return Stored(item["Key"][len(self._prefix) :], int(item["Size"]), item["LastModified"], version)

    def _pages(self, method: str, what: str) -> Iterator[Mapping[str, Any]]:
        following: dict[str, str] = {}
        while True:
            answer = self._call(method, Prefix=self._prefix, **following)
            for item in answer.get(what, ()):
                if item["Key"] != self._prefix:  # the root itself, as some consoles mark it
                    yield item
            if not answer.get("IsTruncated"):
                return
            if method == "list_objects_v2":
                following = {"ContinuationToken": answer["NextContinuationToken"]}
            else:
                following = {"KeyMarker": answer["NextKeyMarker"]}
                if answer.get("NextVersionIdMarker"):
                    following["VersionIdMarker"] = answer["NextVersionIdMarker"]

    def _call(self, method: str, **arguments: Any) -> Any:
        call = partial(self.store.fs.call_s3, method, Bucket=self._bucket, **arguments)
        return self.store._do(f"{method.replace('_', ' ')} of {self.store.url}", call)

    def read(self, spans: Sequence[Span]) -> list[bytes | None]:
        return self._together([partial(self._get, *span) for span in spans], "read")

    async def _get(self, stored: Stored, lo: int, hi: int) -> bytes:
        if hi <= lo:
            return b""
        answer = await self.store.fs._call_s3(
            "get_object", **self._where(stored), Range=f"bytes={lo}-{hi - 1}", **self.store.fs.req_kw
        )
        async with answer["Body"] as body:
            data: bytes = await body.read()
        return data[: hi - lo]  # a host that knows no ranges sends everything

    def labels(self, spans: Sequence[Stored]) -> list[Mapping[str, str]]:
        return [found or {} for found in self._together([partial(self._labels, stored) for stored in spans], "look at")]

    async def _labels(self, stored: Stored) -> Mapping[str, str]:
        call = self.store.fs._call_s3
        head = await call("head_object", **self._where(stored), **self.store.fs.req_kw)
        named = ("ContentType", "ContentDisposition", "ContentEncoding", "ContentLanguage", "CacheControl")
        found = {name: str(head[name]) for name in named if head.get(name)}
        found |= {f"metadata {name}": str(value) for name, value in head.get("Metadata", {}).items()}
        tags = await call("get_object_tagging", **self._where(stored))
        return found | {f"tag {tag['Key']}": tag["Value"] for tag in tags.get("TagSet", ())}

    def _where(self, stored: Stored) -> dict[str, str]:
        version = {"VersionId": stored.version} if stored.version else {}
        return {"Bucket": self._bucket, "Key": self._prefix + stored.name, **version}

    def _together(self, calls: Sequence[Any], doing: str) -> list[Any]:
        """The answers of many calls at once; those that break off in the middle are made again."""
        from fsspec.asyn import sync

        store = self.store
        doing = f"{doing} {len(calls)} objects of {store.url}"
        answers: list[Any] = [None] * len(calls)
        waiting = list(range(len(calls)))
        for attempt in range(1, _TRIES + 1):
            found = store._do(doing, partial(sync, store.fs.loop, _gather, [calls[index] for index in waiting]))
            failed = []
            for index, answer in zip(waiting, found, strict=True):
                if isinstance(answer, Exception) and not is_missing(answer) and not is_range_outside(answer):
                    error, cause = store._translate(answer, doing)
                    if attempt == _TRIES or not _passing(error):
                        raise error from cause
                    failed.append(index)
                elif not isinstance(answer, BaseException):
                    answers[index] = answer
            waiting = failed
            if not waiting:
                break
        return answers


def _passing(error: Exception) -> bool:
    return isinstance(error, ServiceUnavailable) and isinstance(error, SealedHealthError)


async def _gather(calls: Sequence[Any]) -> list[Any]:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Any) -> Any:
        async with limit:
            return await call()

    return await asyncio.gather(*(one(call) for call in calls), return_exceptions=True)
