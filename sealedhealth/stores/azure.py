"""What is special about Azure Blob Storage: blocks, deletions in batches, pages of listings, names it cannot hold."""

from __future__ import annotations

import asyncio
import builtins
import io
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from sealedhealth.errors import AccessDenied, MissingError, NotFound, StoreError
from sealedhealth.stores.base import PATIENCE, SLOWEST, Buffer, ObjectStore, StoreWriter, Unfinished
from sealedhealth.stores.errors import invalid_url
from sealedhealth.stores.location import Location, endpoint_of
from sealedhealth.stores.parts import PartsWriter

__all__ = ["AzureStore"]

_T = TypeVar("_T")

#: Blobs in one request to delete: the most that Azure takes.
DELETE_AT_ONCE = 256
#: Requests under way at once.
CONNECTIONS = 32
#: Characters of the longest name, the root's included, and what a dataset's own names need of them.
LONGEST_NAME, OWN_NAMES = 1024, 128
#: Where adlfs keeps what it found in the options or in the environment.
_SECRETS = ("account_key", "client_secret", "connection_string", "sas_token")
_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]|\$root|\$web")


class AzureStore(ObjectStore):
    """A prefix of a container, through the clients that adlfs has made.

    adlfs finds the account and the credentials (options, ``AZURE_STORAGE_...``, or Azure's
    default credential) and keeps the connections.  Its own methods are not used: they cut names
    at ``#`` and ``?``, send one block after the other, and list whole containers into memory.
    """

    rereads = 2

    def __init__(self, fs: Any, root: str, *, options: Mapping[str, object] | None = None) -> None:
        found = {name: getattr(fs, name, None) for name in _SECRETS}
        super().__init__(fs, root, options={"options": options or {}, **found})
        self._kind = "az"
        self._url = self._scrub(f"az://{self.root}")
        self._container, _, self._prefix = self.root.partition("/")
        self._check_names()
        self._client = fs.service_client.get_container_client(self._container)
        self._timeouts: dict[str, Any] = dict(getattr(fs, "_timeout_kwargs", {}))
        _retry_soon(fs.service_client)
        _follow_nobody(fs.service_client)

    def _check_names(self) -> None:
        if not _CONTAINER.fullmatch(self._container):
            raise invalid_url(
                f"{self._container!r} cannot be the name of a container on Azure.",
                "It has 3 to 63 lower-case letters, digits and single hyphens.",
            )
        parts = self._prefix.split("/") if self._prefix else []
        if len(self._prefix) > LONGEST_NAME - OWN_NAMES:
            raise invalid_url(f"{self._url[:80]}... is too long for Azure.", "Choose a shorter place in the container.")
        if any(not part or part.endswith(".") for part in parts):
            raise invalid_url(
                f"{self._url} has a part that is empty or ends with a full stop, which Azure does not keep.",
                "Choose another place in the container.",
            )

    @property
    def location(self) -> Location:
        return Location("az", endpoint_of(str(self.fs.service_client.url)))

    def _tried(self) -> tuple[str, str]:
        return self.location.endpoint, ""

    # --- writing -----------------------------------------------------------------------

    def put_many(self, objects: Mapping[str, Buffer]) -> None:
        if not objects:
            return

        async def put(name: str) -> None:
            await self._blob(name).upload_blob(bytes(objects[name]), overwrite=True, **self._timeouts)

        names = builtins.list(objects)
        for name in names:
            self._path(name)
        doing = self._what("write", names)
        size = sum(map(len, objects.values()))
        for answer in self._run(doing, partial(_all, put, names), writing=True, size=size):
            if isinstance(answer, Exception):
                self._raise(answer, doing, writing=True)

    def writer(self, name: str, *, size_hint: int | None = None) -> StoreWriter:
        return _AzureWriter(self, name, size_hint)

    def delete_many(self, names: Iterable[str]) -> None:
        keys = [self._key(name) for name in names]
        for start in range(0, len(keys), DELETE_AT_ONCE):
            batch = keys[start : start + DELETE_AT_ONCE]
            answers = self._run(f"delete objects of {self.url}", partial(self._delete, batch), writing=True)
            refused = [(status, code) for status, code in answers if status >= 300 and code != "BlobNotFound"]
            if refused:
                self._refused(refused, len(batch))

    async def _delete(self, keys: Sequence[str]) -> builtins.list[tuple[int, str]]:
        answers = await self._client.delete_blobs(*keys, raise_on_any_failure=False, **self._timeouts)
        return [(answer.status_code, answer.headers.get("x-ms-error-code", "")) async for answer in answers]

    def _refused(self, refused: Sequence[tuple[int, str]], count: int) -> None:
        status, code = refused[0]
        what = f"{self.url} did not delete {len(refused)} of {count} objects ({self._scrub(code or str(status))})."
        if code == "ContainerNotFound":
            raise NotFound(what, safe="Nothing was changed.", next="Create the container, or correct the URL.")
        kind = AccessDenied if status in {401, 403} else StoreError
        raise kind(what, safe="Nothing else was changed.", next="Check that the credentials of the store may delete.")

    # --- unfinished --------------------------------------------------------------------

    def unfinished(self) -> Iterator[Unfinished]:
        """What was begun and not committed: Azure itself forgets it a week after its last block."""
        top = len(f"{self._prefix}/".lstrip("/"))
        # Blocks that somebody sent for a blob which exists are not listed by Azure, and not found here.
        for blob in self._listed("", ["uncommittedblobs"]):
            if not blob.size:
                size = self._waiting(blob.name)
                if size:
                    yield Unfinished(blob.name[top:], blob.last_modified, size)

    def _waiting(self, key: str) -> int:
        """The size of a blob's blocks that are not committed."""

        async def ask() -> int:
            _, blocks = await self._client.get_blob_client(key).get_block_list("all", **self._timeouts)
            return sum(block.size for block in blocks)

        try:
            return self._run(f"list unfinished uploads of {self.url}", ask)
        except MissingError:  # committed or discarded meanwhile
            return 0

    def delete_unfinished(self, older_than: timedelta) -> int:
        before = datetime.now(UTC) - older_than
        old = [one.name for one in self.unfinished() if one.started is not None and one.started < before]
        return sum(self._forget(name) for name in old)

    def _forget(self, name: str) -> bool:
        """Drop the blocks of a blob that does not exist; whether there was none to keep."""

        async def forget() -> bool:
            from azure.core import MatchConditions
            from azure.core.exceptions import ResourceExistsError, ResourceModifiedError

            blob = self._blob(name)
            # Azure deletes no blob that is not there, and blocks go with the next commit only: one of
            # no block at all, and never in the place of what somebody has committed meanwhile.
            try:
                made = await blob.commit_block_list([], match_condition=MatchConditions.IfMissing, **self._timeouts)
            except (ResourceExistsError, ResourceModifiedError):
                return False
            await blob.delete_blob(etag=made["etag"], match_condition=MatchConditions.IfNotModified, **self._timeouts)
            return True

        return self._run(f"discard {name} of {self.url}", forget, writing=True)

    # --- reading -----------------------------------------------------------------------

    def _fetch(self, ranges: Sequence[tuple[str, int, int]]) -> Sequence[Any]:
        async def fetch(asked: tuple[str, int, int]) -> bytes:
            name, lo, hi = asked
            answer = await self._blob(name).download_blob(offset=lo, length=hi - lo, **self._timeouts)
            data: bytes = await answer.readall()
            return data

        return self._sync(partial(_all, fetch, ranges), sum(hi - lo for _, lo, hi in ranges))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        top = len(f"{self._prefix}/".lstrip("/"))
        # Accounts with a hierarchical namespace list directories too, and tell so in the metadata.
        for blob in self._listed(prefix.strip("/"), ["metadata"]):
            folder = (blob.metadata or {}).get("hdi_isfolder") == "true"
            if not folder and not blob.name.endswith("/"):
                yield blob.name[top:], int(blob.size)

    def _listed(self, prefix: str, include: builtins.list[str]) -> Iterator[Any]:
        """The blobs in a directory, page by page."""
        doing = f"list {prefix or 'everything'} of {self.url}"
        start = f"{self._key(prefix)}/" if prefix else f"{self._prefix}/".lstrip("/")
        pages = self._client.list_blobs(name_starts_with=start, include=include, **self._timeouts).by_page()

        async def following() -> builtins.list[Any] | None:
            async for page in pages:
                return [blob async for blob in page]
            return None

        while (page := self._run(doing, following)) is not None:
            yield from page

    # --- below -------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        self._path(name)
        return f"{self._prefix}/{name}" if self._prefix else name

    def _blob(self, name: str) -> Any:
        return self._client.get_blob_client(self._key(name))

    def _sync(self, action: Callable[[], Awaitable[_T]], size: int = 0) -> _T:
        from fsspec.asyn import sync

        # No timeout of the client ends an upload that the host does not take.
        result: _T = sync(self.fs.loop, action, timeout=PATIENCE + size // SLOWEST)
        return result

    def _run(self, doing: str, action: Callable[[], Awaitable[_T]], *, writing: bool = False, size: int = 0) -> _T:
        """Run *action*, which carries *size* bytes."""
        return self._do(doing, partial(self._sync, action, size), writing=writing)


class _AzureWriter(PartsWriter):
    """Blocks, and the list of them at the commit."""

    part_size = 8 << 20
    most_parts = 50_000
    double_after = 6_000

    def __init__(self, store: AzureStore, name: str, size_hint: int | None) -> None:
        self._azure = store
        self._path = store._path(name)
        self._doing = f"write {name} of {store.url}"
        # Of its own: two writers of one name do not take each other's blocks.
        self._token = secrets.token_hex(12)
        super().__init__(store, name, size_hint)

    def _begin(self) -> None:
        """Nothing: the first block begins it."""

    def _send_part(self, number: int, data: bytearray) -> str:
        block = f"{self._token}{number:08}"  # all of one length, as Azure wants it

        async def send() -> None:
            # As a file: that is how its transport takes large bodies.
            body = io.BytesIO(data)
            await self._azure._blob(self._name).stage_block(block, body, length=len(data), **self._azure._timeouts)

        self._azure._run(self._doing, send, writing=True, size=len(data))
        return block

    def _complete(self, parts: list[Any]) -> None:
        from azure.storage.blob import BlobBlock

        async def commit() -> None:
            blocks = [BlobBlock(block) for block in parts]
            await self._azure._blob(self._name).commit_block_list(blocks, **self._azure._timeouts)

        self._azure._run(self._doing, commit, writing=True)

    def _abort(self) -> None:
        self._azure._forget(self._name)


async def _all(action: Callable[[Any], Awaitable[_T]], items: Iterable[Any]) -> list[_T | BaseException]:
    """The result of ``action`` on each item, or what it raised; so many at once as there may be connections."""
    limit = asyncio.Semaphore(CONNECTIONS)

    async def one(item: Any) -> _T:
        async with limit:
            return await action(item)

    return await asyncio.gather(*(one(item) for item in items), return_exceptions=True)


def _retry_soon(client: Any) -> None:
    """Let the client wait for moments before it tries again.

    Its own waits of 15 to 45 seconds make a host that is not there an error after a minute.
    """
    policy: Any = getattr(getattr(client, "_config", None), "retry_policy", None)
    if hasattr(policy, "initial_backoff"):
        policy.initial_backoff, policy.increment_base, policy.random_jitter_range = 0.2, 1.4, 0.5


def _follow_nobody(client: Any) -> None:
    """Let redirects be errors.

    The client would follow them to any host, and sign what it sends there: a SAS goes along in the URL.
    """
    for policy in getattr(getattr(client, "_pipeline", None), "_impl_policies", ()):
        if hasattr(policy, "max_redirects"):
            policy.allow = False
