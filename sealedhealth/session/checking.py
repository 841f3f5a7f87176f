"""Checking every byte of a snapshot: each object once, however many files share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, cast

from sealedhealth.errors import IntegrityError, KeyDestroyed
from sealedhealth.format import plain_size
from sealedhealth.log.content import DESTROYED_KEY
from sealedhealth.log.entry import Entry
from sealedhealth.log.names import object_name
from sealedhealth.session.session import Session

__all__ = ["Checked", "check_files"]

_SMALL = 1 << 20  #: objects up to this size are fetched many at a time
_TOGETHER = 16 << 20  #: bytes of them in memory

Progress = Callable[[int], None]


@dataclass(slots=True)
class Checked:
    """What was looked at, and what was wrong with it."""

    files: int = 0
    bytes: int = 0  #: of files that are genuine
    destroyed: int = 0  #: files whose data key was destroyed
    failures: list[str] = field(default_factory=list)


class _Nowhere:
    """A sink for plaintext that nobody wants: it only has to be genuine."""

    def write(self, data: bytes) -> int:
        return len(data)


_NOWHERE = cast("BinaryIO", _Nowhere())


def check_files(session: Session, *, data: bool, progress: Progress | None = None) -> Checked:
    """Count the files of the pinned snapshot and, with *data*, fetch and open everything that they lie in.

    Failures are told by file: of an object that several share, those that do not open.
    """
    done = Checked()
    if not session.readable:
        return done
    gone = session.engine.loaded.state.destroyed
    # Reads ask for the bytes that were signed and never see what a host appends; a listing shows it.
    stored = dict(session.engine.store.list("objects")) if data else {}
    objects = _Objects(session)
    for path, entry in session.snapshot.items():
        done.files += 1
        if entry.object_key == DESTROYED_KEY or entry.data_key_id in gone:
            done.destroyed += 1
        elif data:
            if objects.is_new(entry):
                longer = stored.get(object_name(entry.object_id), 0) - entry.sealed_size
                if longer > 0:
                    done.failures.append(f"{path!r}: {longer} bytes that nobody signed follow its object")
                reported = objects.check(entry, progress)
            else:
                reported = False
            done.bytes += entry.length
            if progress is not None and not reported:
                progress(entry.length)
    objects.finish()
    if objects.wrong:
        _name_files(session, objects.wrong, done)
    return done


class _Objects:
    """Fetches whole objects, the small ones many at a time, and notes those that do not open."""

    def __init__(self, session: Session) -> None:
        self.wrong: dict[bytes, IntegrityError | KeyDestroyed] = {}
        self._session = session
        self._seen: set[bytes] = set()
        self._waiting: list[Entry] = []
        self._size = 0

    def is_new(self, entry: Entry) -> bool:
        """Whether the object of *entry* was not asked about before."""
        before = len(self._seen)
        self._seen.add(_uid(entry))
        return len(self._seen) > before

    def check(self, entry: Entry, progress: Progress | None) -> bool:
        """Check the object that *entry* lies in, now or soon; whether *progress* was told of the file's bytes."""
        whole = replace(entry, offset=0, length=plain_size(entry.sealed_size))
        if whole.length > _SMALL:
            alone = whole.length == entry.length
            self._one(whole, progress if alone else None)
            return alone
        if self._size + whole.length > _TOGETHER or len(self._waiting) == 256:
            self.finish()
        self._waiting.append(whole)
        self._size += whole.length
        return False

    def finish(self) -> None:
        """Check what waits."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        try:
            self._session.read_ranges([(whole, 0, whole.length) for whole in waiting])
        except (IntegrityError, KeyDestroyed):
            for whole in waiting:
                self._one(whole)

    def _one(self, whole: Entry, progress: Progress | None = None) -> None:
        try:
            self._session.download(whole, _NOWHERE, progress=progress)
        except (IntegrityError, KeyDestroyed) as error:
            self.wrong[_uid(whole)] = error


def _name_files(session: Session, wrong: dict[bytes, IntegrityError | KeyDestroyed], done: Checked) -> None:
    """Say which files the objects that do not open spoil."""
    named: set[bytes] = set()
    for path, entry in _within(session, wrong):
        error: IntegrityError | KeyDestroyed | None = wrong[_uid(entry)]
        if entry.length < plain_size(entry.sealed_size):
            error = _error_of(session, entry)  # what is wrong may lie in another file
        if error is None:
            continue
        named.add(_uid(entry))
        done.bytes -= entry.length
        if isinstance(error, KeyDestroyed):
            done.destroyed += 1
        else:
            done.failures.append(f"{path!r}: {error.what}")
    for uid, error in wrong.items():
        if uid not in named:
            done.failures.append(f"{error.what} No file of this snapshot lies in that part of it.")


def _within(session: Session, objects: dict[bytes, IntegrityError | KeyDestroyed]) -> Iterator[tuple[str, Entry]]:
    gone = session.engine.loaded.state.destroyed
    for path, entry in session.snapshot.items():
        destroyed = entry.object_key == DESTROYED_KEY or entry.data_key_id in gone
        if _uid(entry) in objects and not destroyed:
            yield path, entry


def _error_of(session: Session, entry: Entry) -> IntegrityError | KeyDestroyed | None:
    try:
        session.download(entry, _NOWHERE)
    except (IntegrityError, KeyDestroyed) as error:
        return error
    return None


def _uid(entry: Entry) -> bytes:
    return entry.data_key_id + entry.object_id
