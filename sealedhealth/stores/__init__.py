"""Where sealed objects lie: local disks, S3, and whatever else fsspec reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from sealedhealth.stores.base import Buffer, ObjectStore, StoreWriter, Unfinished
from sealedhealth.stores.errors import Scrubber, invalid_url
from sealedhealth.stores.location import Location

__all__ = ["Buffer", "Location", "ObjectStore", "StoreWriter", "Unfinished", "open_store"]

#: The extra of this package that brings the client for a kind of host.
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "gs": "gcs",
    "gcs": "gcs",
    "sftp": "sftp",
    "ssh": "sftp",
}


def open_store(
    url: str, options: Mapping[str, Any] | None = None, *, rule: Callable[[Location], None] | None = None
) -> ObjectStore:
    """The store at ``url``.  No request is made.

    Parameters
    ----------
    url:
        A path, or any URL that fsspec knows: ``file://``, ``s3://bucket/prefix``, ``az://container/prefix``,
        ``memory://``.
    options:
        Options of the fsspec file system, such as ``endpoint_url``, ``key`` and ``secret``.
        They come from a profile, never from anything stored.
    rule:
        Asked before every change there: it raises where nothing may be written.

    Raises
    ------
    InvalidInput
        The URL or an option cannot be used, or the package for this kind of host is not installed.
    """
    options = dict(options or {})
    shown = Scrubber(options)(url)
    if "::" not in url and "://" in url and urlsplit(url).password is not None:
        raise invalid_url(f"{shown} carries a password.", "Put credentials into the profile or the environment.")
    bare = shown.partition("?")[0].partition("#")[0]
    if url.startswith(("az://", "abfs://", "abfss://")) and bare != shown:
        # adlfs would cut the path there, and what follows may be a signature.
        raise invalid_url(
            f"{bare} goes on with ? or #, which no dataset's URL has on Azure.",
            "Put a signature (SAS) into AZURE_STORAGE_SAS_TOKEN, or choose another place.",
        )
    if "\0" in url or not url:
        raise invalid_url("The URL of a store is a path or a URL.", "Give one, such as s3://bucket/dataset.")

    from fsspec.core import split_protocol, url_to_fs  # costs 50 ms: only when a store is opened

    protocol = split_protocol(url)[0] or "file"
    made_with = dict(options)
    if protocol in {"s3", "s3a"}:
        from sealedhealth.stores.s3 import s3_options

        made_with = s3_options(options)
    if rule is not None:
        made_with["skip_instance_cache"] = True  # its client is watched: it must not be that of a store without a rule
    # A listing from a cache could hide what another process has written.
    if protocol not in {"file", "local", "memory", "sftp", "ssh"}:
        made_with.setdefault("use_listings_cache", False)
    try:
        if protocol in {"s3", "s3a"} and "::" not in url:
            from sealedhealth.stores.s3client import SteadyS3

            fs, root = SteadyS3(**made_with), SteadyS3._strip_protocol(url)
        elif protocol in {"sftp", "ssh"} and "::" not in url:
            from sealedhealth.stores.sftp import SftpFiles

            made_with = SftpFiles._get_kwargs_from_urls(url) | made_with
            fs, root = SftpFiles(**made_with), SftpFiles._strip_protocol(url)
        else:
            fs, root = url_to_fs(url, **made_with)
    except ImportError as error:
        following = f"See fsspec's documentation for {protocol}."
        if protocol in EXTRAS:
            following = f"Install it: pip install 'sealedhealth[{EXTRAS[protocol]}]'."
        raise invalid_url(
            f"{shown} needs a package that is not installed ({error.name or error}).", following
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        said = Scrubber(options)(str(error))
        if EXTRAS.get(protocol) == "azure" and "account_name" in said:  # how adlfs asks for it
            raise invalid_url(
                f"{shown} cannot be opened: it names no account.",
                "Give account_name in the profile's store, or AZURE_STORAGE_CONNECTION_STRING.",
            ) from None
        raise invalid_url(
            f"{shown} cannot be opened: {said.rstrip('.')}.", "Correct the URL or the store's options."
        ) from None

    store = _store_class(fs, protocol)(fs, root, options=options)
    if rule is not None:
        store.restrict(rule)
    return store


def _store_class(fs: Any, protocol: str) -> type[ObjectStore]:
    from fsspec.implementations.local import LocalFileSystem

    if isinstance(fs, LocalFileSystem):
        from sealedhealth.stores.local import LocalStore

        return LocalStore
    if protocol in {"s3", "s3a"}:
        from sealedhealth.stores.s3 import S3Store

        return S3Store
    if protocol in {"az", "abfs", "abfss"}:
        from sealedhealth.stores.azure import AzureStore

        return AzureStore
    if protocol in {"sftp", "ssh"}:
        from sealedhealth.stores.sftp import SftpStore

        return SftpStore
    return ObjectStore
