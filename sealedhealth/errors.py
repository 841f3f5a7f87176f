"""Every error sealedhealth raises.

Each error says three things: what happened, what is safe, and what to do next.
None of them carries a key, a passphrase, a token, or data.  ``exit_code`` is the
exit status of the command line for errors of that class.
"""

from __future__ import annotations

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "AnchorRolledBack",
    "AnchorTaken",
    "ConflictError",
    "DatasetMismatch",
    "IntegrityError",
    "InvalidInput",
    "InvalidPath",
    "KeyDestroyed",
    "KeyMissing",
    "KeyRetired",
    "MalformedError",
    "MissingError",
    "NotFound",
    "ResidencyViolation",
    "RolledBack",
    "RosterViolation",
    "SealedHealthError",
    "ServiceUnavailable",
    "SnapshotCollected",
    "StaleReplica",
    "StoreError",
    "TamperedError",
    "Throttled",
    "TruncatedError",
    "UnsupportedFormat",
    "WrongKey",
    "WrongPassphrase",
]


class SealedHealthError(Exception):
    """Base of every error of this package.

    Parameters
    ----------
    what:
        What happened, one sentence.
    safe:
        What is still safe (for example "The last commit is untouched.").
    next:
        What to do next.
    """

    exit_code = 1

    def __init__(self, what: str = "", *, safe: str = "", next: str = "") -> None:  # noqa: A002 - reads as English at every call
        self.what = what
        self.safe = safe
        self.next = next
        super().__init__(what)

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.safe, self.next) if part)


class InvalidInput(SealedHealthError, ValueError):
    """An argument, option or profile that cannot be used as given."""

    exit_code = 2


class InvalidPath(InvalidInput):
    """A logical path that is not in the one canonical form."""


class NotFound(SealedHealthError, FileNotFoundError):
    """No such dataset, path, snapshot or tag."""

    exit_code = 3


class SnapshotCollected(NotFound):
    """The snapshot is older than the history that garbage collection has kept."""


class KeyMissing(NotFound):
    """The key service does not have this key-encryption key."""


class AccessDenied(SealedHealthError, PermissionError):
    """The identity in use may not do this."""

    exit_code = 4


class ResidencyViolation(AccessDenied):
    """The profile does not allow data to be written to this place."""


class WrongPassphrase(AccessDenied):
    """The passphrase does not open this keystore."""


class KeyRetired(AccessDenied):
    """The key-encryption key version is below the service's minimum."""


class KeyDestroyed(AccessDenied):
    """The key was destroyed on purpose: what it sealed cannot be opened any more."""


class IntegrityError(SealedHealthError):
    """Something is not what its author signed. Never retried."""

    exit_code = 5


class TamperedError(IntegrityError):
    """Stored bytes differ from what was signed."""


class TruncatedError(TamperedError):
    """Stored bytes end too early, or go on too long."""


class MissingError(IntegrityError):
    """The signed log names something that the store does not have."""


class UnsupportedFormat(IntegrityError):
    """A format version, suite, flag or kind that this release does not know."""


class MalformedError(IntegrityError):
    """A structure that breaks the format's bounds or rules."""


class WrongKey(IntegrityError):
    """The key at hand is not the key this was sealed with."""


class DatasetMismatch(IntegrityError):
    """Another dataset is served here than the one the key service names."""


class RolledBack(IntegrityError):
    """The log is older than, or differs from, what this client has already seen."""


class AnchorRolledBack(RolledBack):
    """The store's log is ahead of the anchors: the key service was restored from an old copy."""


class RosterViolation(IntegrityError):
    """An author committed something that the roster does not allow it to."""


class ConflictError(SealedHealthError):
    """Somebody else changed the same path since this change began."""

    exit_code = 6


class AlreadyExists(ConflictError, FileExistsError):
    """What should be new exists already."""


class AnchorTaken(ConflictError):
    """Another writer created the anchor of this sequence number first."""


class ServiceUnavailable(SealedHealthError, OSError):
    """The key service or the object store cannot be reached or does not answer properly."""

    exit_code = 7


class StoreError(ServiceUnavailable):
    """The object store refused or failed an operation (full disk, quota, broken connection)."""


class Throttled(ServiceUnavailable):
    """The service asks to slow down."""


class StaleReplica(ServiceUnavailable):
    """The answer may come from a replica that lags behind; it was not used."""
