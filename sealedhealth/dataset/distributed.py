"""Distributed writes: workers in threads, processes or on other machines, and one commit of what they wrote.

::

    with ds.distribute("labs, week 12") as job:            # in the driver
        for receipt in pool.map(partial(write, job.task), pieces):
            job.add(receipt)

    def write(task, piece):                                 # in each worker
        with task.open() as part:
            piece.to_parquet(f"labs/{part.id}.parquet", filesystem=part.fs)
        return part.receipt
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from sealedhealth.errors import InvalidInput
from sealedhealth.profiles import Profile, load_profile
from sealedhealth.session.gathering import Gathering
from sealedhealth.session.handover import Job, Part, Receipt, new_job, open_job
from sealedhealth.session.session import Session

if TYPE_CHECKING:
    from sealedhealth.fs import SealedFileSystem
    from sealedhealth.session import Committed, EntryWriter, Transaction
    from sealedhealth.stores import Buffer

__all__ = ["DistributedPart", "DistributedTask", "DistributedWrite", "Receipt"]


def _fs_of(session: Session, staged: Transaction) -> SealedFileSystem:
    """A file system whose changes join *staged*, and are refused once that is over."""
    from sealedhealth.fs import SealedFileSystem, SealedTransaction

    transaction = SealedTransaction(SealedFileSystem(session=session))
    transaction.start(attach=False, staged=staged)
    fs: SealedFileSystem = transaction.fs
    return fs


@dataclass(frozen=True, slots=True)
class DistributedTask:
    """What a worker needs to write a part: small, and can be pickled or sent as JSON.

    It names a dataset, a commit to start from, a job, and a *profile*, and holds no key, token or path of a file.
    """

    job: Job

    def open(self, *, profile: str | Profile | None = None) -> DistributedPart:
        """Begin a part, for a ``with`` block; each attempt of a task begins one of its own.

        Parameters
        ----------
        profile:
            This worker's profile; default: the one of the driver's name, as it is on this machine.

        Raises
        ------
        InvalidInput
            There is no such profile here.
        AccessDenied
            Its identity may not write.
        RolledBack
            It does not see the commit that the driver starts from.
        """
        session = open_job(self.job, self._profile(profile))
        return DistributedPart(session, Part(session, self.job))

    def resume(self, message: str = "", *, profile: str | Profile | None = None) -> DistributedWrite:
        """The job in another process, as its driver: to commit there what the workers handed over.

        One that was committed already says so (``AlreadyExists``) instead of being committed twice.
        """
        return DistributedWrite(open_job(self.job, self._profile(profile)), self.job, message, resumed=True)

    def _profile(self, profile: str | Profile | None) -> Profile:
        return profile if isinstance(profile, Profile) else load_profile(profile or self.job.profile)

    def to_json(self) -> dict[str, str | int]:
        """As a JSON object, for engines that do not pickle."""
        return self.job.to_json()

    @classmethod
    def from_json(cls, document: Mapping[str, object] | str | bytes) -> Self:
        """From :meth:`to_json`, or its text. Raises ``MalformedError``."""
        return cls(Job.from_json(document))


class DistributedPart:
    """What one worker writes. Visible to nobody until the driver commits; an exception leaves nothing.

    Made by :meth:`DistributedTask.open`, used as a context manager, in one process (and its threads).
    """

    def __init__(self, session: Session, part: Part) -> None:
        self._session = session
        self._part = part
        self._fs: SealedFileSystem | None = None

    @property
    def id(self) -> str:
        """32 hexadecimal digits, different for each attempt of a task: put them into names of files."""
        return self._part.attempt.hex()

    @property
    def fs(self) -> SealedFileSystem:
        """A file system, with names relative to the dataset's root, whose changes join this part.

        It shows the snapshot that the job starts from and what this part wrote.
        """
        if self._fs is None:
            self._fs = _fs_of(self._session, self._part)
        return self._fs

    def put_bytes(self, path: str, data: Buffer) -> None:
        """Write one file."""
        self._part.put_bytes(path, data)

    def put_many(self, items: Mapping[str, Buffer]) -> None:
        """Write many files, small ones into shared objects."""
        self._part.put_many(items)

    def writer(self, path: str) -> EntryWriter:
        """A writer for one file, which its ``close`` adds to the part and its ``discard`` does not."""
        return self._part.writer(path)

    def delete(self, path: str) -> None:
        """Delete one file; for curators. Raises ``NotFound``."""
        self._part.delete(path)

    def finish(self) -> Receipt | None:
        """End the part, as the end of the ``with`` block does, and give its receipt."""
        if not self._part.closed:
            self._part.commit()
        return self._part.receipt

    def discard(self) -> None:
        """Forget what was written."""
        self._part.discard()

    @property
    def receipt(self) -> Receipt | None:
        """What to hand to the driver; ``None`` when nothing was written, which the driver takes, too.

        Raises ``InvalidInput`` before the end.
        """
        if not self._part.closed:
            raise InvalidInput("This part is not finished.", next="Take its receipt after the `with` block.")
        return self._part.receipt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        else:
            self.finish()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A part cannot be pickled: send the task to the worker, and its receipt back.")


class DistributedWrite:
    """A job in its driver: one commit of what many workers wrote, or none.

    Made by ``Dataset.distribute``. As a context manager it commits what was added at the end of the block, and
    commits nothing after an exception. Engines that call back instead use :meth:`commit` and :meth:`abort`.
    """

    def __init__(
        self, session: Session, job: Job, message: str, *, resumed: bool, origin: Session | None = None
    ) -> None:
        self._session = session
        self._origin = origin
        self._resumed = resumed
        self._staged = Gathering(session, job, message)
        self._fs: SealedFileSystem | None = None
        self.task = DistributedTask(job)  #: for the workers
        self.result: Committed | None = None  #: the commit, once there is one

    @classmethod
    def begin(cls, session: Session, message: str = "") -> Self:
        """A new job on the snapshot of *session*."""
        own = Session(session.engine, session.pinned)
        own.read_only = session.read_only
        return cls(own, new_job(own), message, resumed=False, origin=session)

    @property
    def fs(self) -> SealedFileSystem:
        """A file system whose changes are the driver's own in this commit.

        They come first: what is deleted here, workers may write anew.
        """
        if self._fs is None:
            self._fs = _fs_of(self._session, self._staged)
        return self._fs

    @property
    def receipts(self) -> list[Receipt]:
        """What was added."""
        return self._staged.receipts

    def add(self, *receipts: Receipt | None) -> None:
        """Take receipts of finished parts. One that comes twice counts once.

        Raises ``InvalidInput`` for a receipt of another job.
        """
        self._staged.add(receipts)

    def commit(self, receipts: Iterable[Receipt | None] = ()) -> Committed | None:
        """Make what was added, and *receipts*, one commit; ``None`` when there is nothing to commit.

        The job is over either way.

        Raises
        ------
        ConflictError
            Two parts write one path, or somebody else changed a path since the base.
        AlreadyExists
            The job was committed already.
        AccessDenied
            A part is by an author who may not write it, or by another author and this one is no curator; or the
            job took too long.
        IntegrityError
            What a receipt names is not there, or not what was handed over.
        InvalidInput
            More parts than one commit can name.
        """
        self._staged.add(receipts)
        self.result = self._staged.commit()
        if self.result is not None and self._origin is not None:
            self._origin.committed(self.result.sequence)
        return self.result

    def abort(self, receipts: Iterable[Receipt | None] = ()) -> None:
        """Commit nothing. Objects of the parts go now where that is surely safe, else by garbage collection."""
        if self._staged.closed:
            return
        if self._resumed:  # perhaps another process has committed, or is about to
            self._staged.discard()
            return
        self._staged.add(receipts)
        self._staged.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._staged.closed:
            self.commit()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A job cannot be pickled: send its task, and resume it from that where it is to be committed.")
