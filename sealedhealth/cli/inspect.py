"""``inspect``: what anybody can see of a dataset or of one of its files, without a key."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from sealedhealth.cli import output
from sealedhealth.cli.options import profile, verb
from sealedhealth.errors import IntegrityError, InvalidInput, NotFound, UnsupportedFormat

if TYPE_CHECKING:
    from sealedhealth.stores import ObjectStore

__all__ = ["inspect_command"]

_UNCHECKED = "Without keys: nothing here was compared with the key service."


@verb("inspect")
@click.argument("target", metavar="URL|FILE")
@click.option("--objects", is_flag=True, help="Also list the store, to count the sealed objects and their bytes.")
def inspect_command(profile_name: str | None, target: str, objects: bool) -> None:
    """Show what the host of a dataset can see. Needs no key, no keystore and no registry.

    TARGET is the root of a dataset, or one file of it: a sealed object, a link, a change set, the descriptor. The
    profile only gives the options of the store. What is shown is what the store says; `verify` checks it.

    Examples
    --------
    sealedhealth inspect s3://bucket/cardio --objects
    sealedhealth inspect s3://bucket/cardio/objects/3f/3f0c9a…
    sealedhealth inspect /mnt/export/cardio/.sealedhealth/log/000000000003
    """
    bare = target.removeprefix("sealed::").removeprefix("sealed+")
    place = bare if "://" in bare else os.path.abspath(os.path.expanduser(bare))  # noqa: PTH100, PTH111
    chosen = profile(profile_name)
    store = chosen.open_store(place)
    found = _dataset(store, objects=objects)
    if found is None:
        parent, _, name = place.rstrip("/").rpartition("/")
        found = _file(chosen.open_store(parent or "/"), name)
    if found is None:
        raise NotFound(
            f"There is no sealed dataset at {target}, and no file of one.",
            next="Name the root of a dataset, or a file in it.",
        )
    output.emit(found, output.fields(found))
    output.note(_UNCHECKED)


# --- a dataset ----------------------------------------------------------------------------


def _dataset(store: ObjectStore, *, objects: bool) -> dict[str, Any] | None:
    from sealedhealth.log.link import DESCRIPTOR_SIZE, LINK_LIMIT
    from sealedhealth.log.names import DESCRIPTOR_NAME

    raw = store.get_many([DESCRIPTOR_NAME], limit=DESCRIPTOR_SIZE, missing_ok=True).get(DESCRIPTOR_NAME)
    if raw is None:
        return None
    found = {"what": "dataset", "url": store.url, **_descriptor(raw)}
    links = sorted(name for name, _ in store.list(".sealedhealth/log"))
    found["links"] = len(links)
    if links:
        found["newest_link"] = {"name": links[-1].rpartition("/")[2], **_link(store.get(links[-1], limit=LINK_LIMIT))}
    if objects:
        sizes = [size for _, size in store.list("objects")]
        found["objects"] = len(sizes)
        found["object_bytes"] = sum(sizes)
    return found


# --- one file -----------------------------------------------------------------------------


def _file(store: ObjectStore, name: str) -> dict[str, Any] | None:
    from sealedhealth.format import HEADER_SIZE
    from sealedhealth.format.header import MAGIC
    from sealedhealth.log.changeset import CHANGE_SET_LIMIT
    from sealedhealth.log.envelope import MAGIC as LOG_MAGIC

    try:
        size = int(store.fs.size(f"{store.root}/{name}"))
        [start] = store.get_ranges([(name, 0, min(size, HEADER_SIZE))])
    except (FileNotFoundError, IntegrityError, TypeError):  # nothing there, or a directory
        return None
    where = {"url": f"{store.url}/{name}", "size": size}
    if start.startswith(LOG_MAGIC):
        return {**_log_file(store.get(name, limit=CHANGE_SET_LIMIT)), **where}
    if not start.startswith(MAGIC):
        raise InvalidInput(
            f"{where['url']} is not a sealed object, nor a file of a dataset's log: it begins otherwise.",
            safe="It was only read.",
            next="Name the root of a dataset, or a file in it.",
        )
    return {**_object(start, size), **where}


def _object(header: bytes, size: int) -> dict[str, Any]:
    from sealedhealth.format import Header, Layout

    parsed = Header.parse(header)
    layout = Layout.of_sealed(size)
    return {
        "what": f"sealed {parsed.kind.name.lower().replace('_', ' ')}",
        "format": 1,
        "suite": "Cobblestone-256",
        "dataset": parsed.dataset_id.hex(),
        "data_key": parsed.data_key_id.hex(),
        "object": parsed.object_id.hex(),
        "plain_size": layout.plain_size,
        "chunks": layout.chunks,
        "segments": layout.segments,
    }


def _log_file(data: bytes) -> dict[str, Any]:
    readers: dict[int, tuple[str, Callable[[bytes], dict[str, Any]]]] = {
        1: ("descriptor", _descriptor),
        2: ("change set", _change_set),
        3: ("link", _link),
        4: ("checkpoint", _checkpoint),
    }
    kind = data[9] if len(data) > 9 else 0  # after the magic and the version
    if kind not in readers:
        raise UnsupportedFormat("This log file is of a kind that this release does not know.", next="Upgrade.")
    what, reader = readers[kind]
    return {"what": what, **reader(data)}


def _descriptor(data: bytes) -> dict[str, Any]:
    from sealedhealth.log.envelope import FileKind, split_envelope
    from sealedhealth.log.link import DESCRIPTOR_SIZE, Descriptor, dataset_id_of
    from sealedhealth.log.roster import POINT_SIZE

    payload = split_envelope(FileKind.DESCRIPTOR, data, limit=DESCRIPTOR_SIZE).payload
    # The id that it claims: only the key service can say whether it is the right one.
    claimed = dataset_id_of(payload[:POINT_SIZE], payload[POINT_SIZE : POINT_SIZE + 32])
    descriptor = Descriptor.load(data, dataset_id=claimed)
    return {
        "dataset": descriptor.dataset_id.hex(),
        "created": _time(descriptor.created_us),
        "root_key": descriptor.root_key.hex(),
        "signature": "good, by its own root key",
    }


def _link(data: bytes) -> dict[str, Any]:
    from sealedhealth.log.link import Link, file_digest

    link = Link.read(Link.split(data))
    return {
        "dataset": link.dataset_id.hex(),
        "commit": link.sequence,
        "time": _time(link.time_us),
        "author": link.author_id.hex(),
        "parent": link.parent.hex(),
        "digest": file_digest(data).hex(),
        "changes": [change.change_id.hex() for change in link.changes],
        "checkpoint": link.checkpoint.sequence if link.checkpoint else None,
        "takes_back_from": link.void,
        "signature": "not checked",
    }


def _change_set(data: bytes) -> dict[str, Any]:
    from sealedhealth.log.changeset import ChangeSet

    change = ChangeSet.read(ChangeSet.split(data))
    return {
        "dataset": change.dataset_id.hex(),
        "change": change.change_id.hex(),
        "kind": str(change.kind),
        "author": change.author_id.hex(),
        "time": _time(change.time_us),
        "location": None if change.location is None else str(change.location),
        "wrapped_keys": len(change.keys),
        "reused_keys": len(change.reused_keys),
        "objects": len(change.inventory),
        "object_bytes": sum(change.inventory.sizes),
        "sealed_sections": [section.size for section in change.sections],
        "destroyed_keys": len(change.destroyed),
        "signature": "not checked",
    }


def _checkpoint(data: bytes) -> dict[str, Any]:
    from sealedhealth.log.checkpoint import Manifest

    manifest = Manifest.read(Manifest.split(data))
    return {
        "dataset": manifest.dataset_id.hex(),
        "commit": manifest.sequence,
        "segments": len(manifest.segments),
        "segment_bytes": sum(segment.size for segment in manifest.segments),
        "signature": "not checked",
    }


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC)
