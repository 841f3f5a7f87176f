"""Counting what a store is asked for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from unittest import mock

from sealedhealth.stores import Buffer, ObjectStore, StoreWriter


class CountingStore(ObjectStore):
    """Hands everything on to another store and counts it.

    ``requests`` counts what a host would be asked for (each object of ``put_many`` is one
    "put", each range one "range"), ``calls`` the calls of methods, ``bytes`` what came and
    went ("in" to the host, "out" of it), and ``log`` lists ``(kind, name)`` in order.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner.fs, inner.root)
        self.inner = inner
        self.reset()

    def reset(self) -> None:
        """Start counting again from nothing."""
        self.requests: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []

    def _count(self, call: str, kind: str, names: Iterable[str]) -> None:
        self.calls[call] += 1
        for name in names:
            self.requests[kind] += 1
            self.log.append((kind, name))

    def put(self, name: str, data: Buffer) -> None:
        self._count("put", "put", [name])
        self.bytes["in"] += len(data)
        self.inner.put(name, data)

    def put_many(self, objects: Mapping[str, Buffer]) -> None:
        self._count("put_many", "put", objects)
        self.bytes["in"] += sum(map(len, objects.values()))
        self.inner.put_many(objects)

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        self._count("writer", "put", [name])
        return _CountingWriter(self, self.inner.writer(name, size_hint=size_hint))

    def delete_many(self, names: Iterable[str]) -> None:
        names = list(names)
        self._count("delete_many", "delete", names)
        self.inner.delete_many(names)

    def flush(self) -> None:
        self.calls["flush"] += 1
        self.log.append(("flush", ""))
        self.inner.flush()

    def delete_unfinished(self, older_than: timedelta) -> int:
        self.calls["delete_unfinished"] += 1
        return self.inner.delete_unfinished(older_than)

    def get(self, name: str, *, limit: int) -> bytes:
        self._count("get", "get", [name])
        data = self.inner.get(name, limit=limit)
        self.bytes["out"] += len(data)
        return data

    def get_many(self, names: Sequence[str], *, limit: int, missing_ok: bool = False) -> dict[str, bytes]:
        self._count("get_many", "get", names)
        found = self.inner.get_many(names, limit=limit, missing_ok=missing_ok)
        self.bytes["out"] += sum(map(len, found.values()))
        return found

    def get_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        self._count("get_ranges", "range", [name for name, lo, hi in ranges if hi > lo])
        found = self.inner.get_ranges(ranges)
        self.bytes["out"] += sum(map(len, found))
        return found

    def exists(self, name: str) -> bool:
        self._count("exists", "exists", [name])
        return self.inner.exists(name)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._count("list", "list", [prefix])
        return self.inner.list(prefix)


class _CountingWriter(StoreWriter):
    def __init__(self, store: CountingStore, inner: StoreWriter) -> None:
        self._store = store
        self._inner = inner

    def write(self, data: Buffer) -> None:
        self._store.bytes["in"] += len(data)
        self._inner.write(data)

    def commit(self) -> None:
        self._inner.commit()

    def discard(self) -> None:
        self._inner.discard()


@contextlib.contextmanager
def s3_requests() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Every S3 operation that s3fs sends meanwhile, as ``(operation, arguments without the body)``."""
    from s3fs import S3FileSystem

    seen: list[tuple[str, dict[str, Any]]] = []
    send = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *more: Any, **arguments: Any) -> Any:
        seen.append((method, {name: value for name, value in arguments.items() if name != "Body"}))
        return await send(self, method, *more, **arguments)

    # call_s3 was made from _call_s3 when the class was made, so both are replaced
    from fsspec.asyn import sync_wrapper

    with mock.patch.multiple(S3FileSystem, _call_s3=counted, call_s3=sync_wrapper(counted)):
        yield seen


@contextlib.contextmanager
def azure_requests() -> Iterator[list[tuple[str, str, dict[str, str]]]]:
    """Every request that Azure's client sends meanwhile, as ``(method, operation, headers)``."""
    from urllib.parse import parse_qs, urlsplit

    from azure.core.pipeline.transport import AioHttpTransport

    seen: list[tuple[str, str, dict[str, str]]] = []
    send = AioHttpTransport.send

    async def counted(self: Any, request: Any, **options: Any) -> Any:
        query = parse_qs(urlsplit(request.url).query)
        seen.append((request.method, query.get("comp", ["blob"])[0], dict(request.headers)))
        return await send(self, request, **options)

    with mock.patch.object(AioHttpTransport, "send", counted):
        yield seen
