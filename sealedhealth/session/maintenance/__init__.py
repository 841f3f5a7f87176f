"""Housekeeping: checkpoints, garbage collection, rotation, rewrapping, destruction."""

from sealedhealth.session.maintenance.checkpoints import CheckpointReport, checkpoint, checkpoint_due, maintain
from sealedhealth.session.maintenance.collect import CollectReport, collect
from sealedhealth.session.maintenance.destruction import DestroyReport, destroy_dataset, destroy_keys
from sealedhealth.session.maintenance.rotation import RewrapReport, rewrap, rotate

__all__ = [
    "CheckpointReport",
    "CollectReport",
    "DestroyReport",
    "RewrapReport",
    "checkpoint",
    "checkpoint_due",
    "collect",
    "destroy_dataset",
    "destroy_keys",
    "maintain",
    "rewrap",
    "rotate",
]
