"""Where the files of a dataset stand on the store."""

from __future__ import annotations

__all__ = ["DESCRIPTOR_NAME", "change_name", "checkpoint_name", "link_name", "object_name"]

DESCRIPTOR_NAME = ".sealedhealth/dataset"


def link_name(sequence: int) -> str:
    """Where the copy of a link stands on the store."""
    return f".sealedhealth/log/{sequence:012d}"


def change_name(change_id: bytes) -> str:
    """Where a change set stands on the store."""
    return f".sealedhealth/changes/{change_id.hex()}"


def checkpoint_name(part_id: bytes) -> str:
    """Where a manifest or segment of a checkpoint stands on the store."""
    return f".sealedhealth/checkpoints/{part_id.hex()}"


def object_name(object_id: bytes) -> str:
    """Where a sealed object stands on the store."""
    name = object_id.hex()
    return f"objects/{name[:2]}/{name}"
