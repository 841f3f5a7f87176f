"""One commit from many processes: workers hand over change sets, and a driver commits them together.

A *job* is one such commit to be. Each worker seals what it writes as a change set of its own, a *part*,
stores it, and hands back a *receipt*: ids, a digest and numbers. A part counts for nothing until the driver
names it in a link; one link names them all.

The id of a part's change set is derived from the job, so that a receipt cannot name anything else: not
what somebody abandoned, not a part of another job, nothing that is committed already.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn, Self
from weakref import WeakKeyDictionary

from sealedhealth.errors import InvalidInput, RolledBack
from sealedhealth.log.link import DIGEST_SIZE, MAX_FILE, MAX_SEQUENCE, file_digest
from sealedhealth.log.names import change_name
from sealedhealth.log.section import MAX_ENTRIES
from sealedhealth.log.strict import Fields, load_json, microseconds
from sealedhealth.profiles import Profile
from sealedhealth.session.engine import Engine
from sealedhealth.session.session import Session
from sealedhealth.session.snapshot import Snapshot
from sealedhealth.session.transaction import Committed, Transaction

__all__ = ["Job", "Part", "Receipt", "new_job", "open_job", "part_id"]

_URL = 4096  #: characters
_PROFILE = 256
_JSON = 16384


def part_id(job_id: bytes, attempt: bytes) -> bytes:
    """The id of a part's change set: first 16 bytes of SHA-384("sealedhealth/v1/part" || 00 || job || attempt)."""
    return hashlib.sha384(b"sealedhealth/v1/part\0" + job_id + attempt).digest()[:16]


def _fields(document: Mapping[str, object] | str | bytes, what: str) -> Fields:
    if isinstance(document, Mapping):
        return Fields(dict(document), what)
    data = document.encode() if isinstance(document, str) else document
    if len(data) > _JSON:
        raise InvalidInput(f"This is too long for a {what}.")
    return load_json(data, what)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker has to know of a job. No secret: who has it can do no more than before."""

    url: str  #: of the dataset's root
    profile: str  #: name of a profile, which each process resolves under its own identity
    dataset_id: bytes
    job_id: bytes  #: 16 random bytes
    base: int  #: the commit that everybody starts from
    head: bytes  #: SHA-384 of its link, so that everybody starts from the same
    started_us: int  #: by the key service's clock

    def to_json(self) -> dict[str, str | int]:
        """As a JSON object."""
        return {
            "url": self.url,
            "profile": self.profile,
            "dataset": self.dataset_id.hex(),
            "job": self.job_id.hex(),
            "base": self.base,
            "head": self.head.hex(),
            "started": self.started_us,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, object] | str | bytes) -> Self:
        """From :meth:`to_json`, or its text. Raises ``MalformedError``."""
        fields = _fields(document, "task")
        job = cls(
            fields.text("url", limit=_URL),
            fields.text("profile", limit=_PROFILE),
            fields.hex("dataset", 16),
            fields.hex("job", 16),
            fields.integer("base", most=MAX_SEQUENCE),
            fields.hex("head", DIGEST_SIZE),
            fields.time("started"),
        )
        fields.finish()
        return job

    @property
    def started(self) -> datetime:
        """When the job began."""
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.started_us)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker hands back for a part. Holds no key, no name and no path."""

    job_id: bytes
    attempt: bytes  #: 16 random bytes: a task that runs twice leaves two parts
    digest: bytes  #: SHA-384 of the part's change set
    size: int  #: of it, in bytes
    files: int  #: put by the part
    sealed_bytes: int  #: of the part's objects

    @property
    def change_id(self) -> bytes:
        """The id of the part's change set."""
        return part_id(self.job_id, self.attempt)

    def to_json(self) -> dict[str, str | int]:
        """As a JSON object."""
        return {
            "job": self.job_id.hex(),
            "attempt": self.attempt.hex(),
            "digest": self.digest.hex(),
            "size": self.size,
            "files": self.files,
            "sealed": self.sealed_bytes,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, object] | str | bytes) -> Self:
        """From :meth:`to_json`, or its text. Raises ``MalformedError``."""
        fields = _fields(document, "receipt")
        receipt = cls(
            fields.hex("job", 16),
            fields.hex("attempt", 16),
            fields.hex("digest", DIGEST_SIZE),
            fields.integer("size", least=1, most=MAX_FILE),
            fields.integer("files", most=MAX_ENTRIES),
            fields.integer("sealed", most=1 << 62),
        )
        fields.finish()
        return receipt


def new_job(session: Session) -> Job:
    """A job on the session's snapshot."""
    engine = session.engine
    base = session.pinned
    return Job(
        session.url,
        session.profile.name,
        session.dataset_id,
        os.urandom(16),
        base.sequence,
        base.digest,
        microseconds(engine.context.service.now()),
    )


_bases: WeakKeyDictionary[Engine, Snapshot] = WeakKeyDictionary()  # what the tasks of one job share in a process


def open_job(job: Job, profile: Profile) -> Session:
    """A session on the snapshot that a job starts from, which may be written to.

    Raises
    ------
    RolledBack
        This process sees another history than the driver did.
    AccessDenied, NotFound, IntegrityError
        As :meth:`Session.open`.
    """
    session = Session.open(job.url, profile, dataset_id=job.dataset_id)
    engine = session.engine
    if session.sequence < job.base:
        raise RolledBack(
            f"The job starts from commit {job.base}, and the newest that this process sees is {session.sequence}.",
            safe="Nothing was written.",
            next="Check that driver and worker use the same key service.",
        )
    base = session.pinned
    if base.sequence != job.base:
        if not session.readable:
            return session  # it sees nothing of a snapshot anyhow
        known = _bases.get(engine)
        base = known if known is not None and known.digest == job.head else engine.at(job.base)
        _bases[engine] = base
    if base.digest != job.head:
        raise RolledBack(
            f"Commit {job.base} is not the one that the driver of this job saw.",
            safe="Nothing was written.",
            next="If the data controller took commits back meanwhile, begin the job again.",
        )
    session = Session(engine, base)
    session.read_only = False
    return session


class Part(Transaction):
    """What one worker writes for a job. :meth:`commit` stores it and leaves :attr:`receipt`; it commits nothing."""

    def __init__(self, session: Session, job: Job) -> None:
        session.engine.store.check_writable()
        super().__init__(session)
        # The objects of the whole job wait for one commit: all of it has to come before collection could take any.
        self._started = min(self._started, job.started)
        self._job = job
        self.attempt = os.urandom(16)
        self.receipt: Receipt | None = None  #: after the end; ``None`` when nothing was written

    def _commit(self) -> Committed | None:
        if self._empty:
            return None
        store = self._engine.store
        change_id = part_id(self._job.job_id, self.attempt)
        request = self._seal_change(change_id)
        store.put(change_name(change_id), request.raw)
        store.flush()
        self.receipt = Receipt(
            self._job.job_id,
            self.attempt,
            file_digest(request.raw),
            len(request.raw),
            len(request.puts),
            sum(request.change.inventory.sizes),
        )
        return None

    def copy(self, source: str, target: str) -> NoReturn:  # noqa: ARG002 - as it is declared
        """Refused; see :meth:`_for_the_driver`."""
        self._for_the_driver("copies or moves files")

    def restore(self, path: str, entry: object) -> NoReturn:  # noqa: ARG002 - as it is declared
        """Refused, too."""
        self._for_the_driver("restores files")

    def tag(self, name: str, sequence: int | None = None) -> NoReturn:  # noqa: ARG002 - as it is declared
        """Refused, too."""
        self._for_the_driver("tags")

    def untag(self, name: str) -> NoReturn:  # noqa: ARG002 - as it is declared
        """Refused, too."""
        self._for_the_driver("takes tags away")

    def _for_the_driver(self, what: str) -> NoReturn:
        """What a change set says of these, the driver could not check for conflicts."""
        raise InvalidInput(
            f"A part of a distributed write writes and deletes; the driver {what}.",
            safe="Nothing was changed.",
            next="Do it in the driver: the job has a file system of its own, and both become one commit.",
        )
