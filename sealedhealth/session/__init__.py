"""Sessions: datasets opened, read, changed and maintained."""

from sealedhealth.session.admin import change_settings, checked_settings, create_dataset, set_author
from sealedhealth.session.session import CommitInfo, EntryReader, Session
from sealedhealth.session.snapshot import Snapshot, View
from sealedhealth.session.transaction import Committed, EntryWriter, Transaction
from sealedhealth.session.urls import find_root, normal_url, refuse_nesting

__all__ = [
    "CommitInfo",
    "Committed",
    "EntryReader",
    "EntryWriter",
    "Session",
    "Snapshot",
    "Transaction",
    "View",
    "change_settings",
    "checked_settings",
    "create_dataset",
    "find_root",
    "normal_url",
    "refuse_nesting",
    "set_author",
]
