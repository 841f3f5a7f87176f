"""Processes that die, or whose disk fails, at any step; and a judge of what they leave behind.

A step is a system call that changes a disk: the store's, the keystore's or that of the state
directory.  An operation runs in a forked child on a copy of a prepared world; the judge is
another forked child, which knows nothing of the first but what is on the disk.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from sealedhealth import transfer
from sealedhealth.profiles import Profile
from sealedhealth.session import Session, maintenance, sealing, transaction
from sealedhealth.session.verify import verify
from sealedhealth.stores import open_store

#: Every call by which this package changes a disk. Syncs are left out: a killed process loses nothing unsynced.
STEPS = ("open", "write", "pwrite", "link", "replace", "rename", "unlink", "mkdir", "rmdir")
#: Every call that can report that the disk fails.
FALLIBLE = (*STEPS, "fsync")
#: Files larger than this are streamed here, so that a stream needs no megabytes.
SMALL = 4096
PIECE = 65536
DEADLINE = 60

Contents = dict[str, bytes]


class Died(Exception):
    """A child did not do what it should; the message is what it said."""


# --- steps ---------------------------------------------------------------------------------


class Watch:
    """Counts steps, and has something happen at some of them.

    ``at`` is called before each step with its number and the call's name, and may kill,
    raise, or do nothing.
    """

    def __init__(self, at: Callable[[int, str], None] = lambda *_: None, names: Sequence[str] = STEPS) -> None:
        self.steps = 0
        self._at = at
        self._names = names

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch every step until the end of the block."""
        originals = {name: getattr(os, name) for name in self._names}
        for name, original in originals.items():
            setattr(os, name, self._watched(name, original))
        try:
            yield self
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return original(*arguments, **options)
            step = self.steps
            self.steps += 1
            try:
                self._at(step, name)
            except HalfWritten:  # half a write is worse than none
                if name in {"write", "pwrite"}:
                    data = bytes(arguments[1])
                    original(arguments[0], data[: len(data) // 2], *arguments[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call


class HalfWritten(BaseException):
    """Asks for death in the middle of the step."""


def killing(step: int) -> Watch:
    """Kills the process at a step: before it, or half through it when it is a write."""

    def at(number: int, _: str) -> None:
        if number == step:
            raise HalfWritten

    return Watch(at)


def failing(step: int, number: int, *, always: bool) -> Watch:
    """Lets a step fail with an error number of the system; with *always* every one after it, too."""

    def at(now: int, name: str) -> None:
        if now == step or (always and now > step):
            raise OSError(number, os.strerror(number), name)

    return Watch(at, FALLIBLE)


# --- children ------------------------------------------------------------------------------


def child(action: Callable[[], Any]) -> tuple[bool, Any]:
    """Run *action* in a forked child: whether it was killed, and else what it returned. Raises ``Died``."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        _be_child(action, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGKILL:
            return True, None
        raise Died(f"signal {os.WTERMSIG(status)}: it hung, or crashed")
    kind, value = pickle.loads(answer)
    if kind != "value":
        raise Died(value)
    return False, value


def start(action: Callable[[], Any]) -> int:
    """Run *action* in a forked child that nobody waits for here: its process id."""
    unread, writing = os.pipe()
    process = os.fork()
    if process == 0:
        _be_child(action, writing)
    os.close(writing)
    os.close(unread)
    return process


def _be_child(action: Callable[[], Any], writing: int) -> None:
    """Never returns: a child must not go on as a second test runner."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE)
        os.fsync = lambda _: None  # type: ignore[assignment]
        try:
            answer = pickle.dumps(("value", action()))
        except BaseException:  # noqa: BLE001 - handed on as text
            answer = pickle.dumps(("error", traceback.format_exc()))
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


# --- worlds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A machine and a host in one directory: keystore, state, files to put, and the sealed dataset."""

    root: Path

    @property
    def work(self) -> Path:
        """Where everything lies, always under the same name."""
        return self.root / "work"

    @property
    def host(self) -> Path:
        """The dataset's directory on the host."""
        return self.work / "host"

    @property
    def url(self) -> str:
        """The dataset's URL."""
        return str(self.host)

    @property
    def profile(self) -> Profile:
        """The profile of the machine."""
        return Profile("local", keystore=self.work / "keystore", state=self.work / "state")

    def open(self) -> Session:
        """Open the dataset."""
        return Session.open(self.url, self.profile)

    def keep(self) -> None:
        """From now on, :meth:`reset` goes back to what there is now."""
        shutil.rmtree(self.root / "pristine", ignore_errors=True)
        shutil.copytree(self.work, self.root / "pristine", symlinks=True)

    def reset(self) -> None:
        """Go back to what was kept."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.root / "pristine", self.work, symlinks=True)


@contextmanager
def new_world() -> Iterator[World]:
    """An empty world, in memory where there is such a disk."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    open_store("file:///nowhere")  # what is imported when used is imported here, not in every child
    with tempfile.TemporaryDirectory(dir=fast, prefix="sealedhealth-") as root:
        (Path(root) / "work").mkdir()
        yield World(Path(root))


@contextmanager
def small_streams() -> Iterator[None]:
    """Stream files from 4 KiB on, in pieces of 64 KiB."""
    places = [(sealing, "SMALL", SMALL), (transaction, "SMALL", SMALL)]
    places += [(transaction, "PIECE", PIECE), (transfer, "PIECE", PIECE)]
    with ExitStack() as stack:
        for module, name, value in places:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


# --- the judge -----------------------------------------------------------------------------


def contents(session: Session) -> Contents:
    """Every file of a session's snapshot with what is in it, read and checked."""
    files = list(session.snapshot.items())
    data = session.read_ranges([(entry, 0, entry.size) for _, entry in files])
    return {path: bytes(content) for (path, _), content in zip(files, data, strict=True)}


def summary(found: Mapping[str, bytes]) -> dict[str, str]:
    """Short enough to be read when it is wrong."""
    return {path: f"{data[:12]!r} ({len(data)})" for path, data in found.items()}


def judge(
    world: World, allowed: Collection[Contents], *, tags: Mapping[str, Contents] | None = None, data: bool = True
) -> int:
    """Check in this process that one of *allowed* is what the dataset holds, whole, and that work can go on.

    Nothing in between is accepted; *tags* name snapshots that must still open. Then a commit
    must work, every link must be back on the store, and garbage collection must leave exactly
    what is needed. Returns which of *allowed* it was.
    """
    session = world.open()
    found = contents(session)
    assert found in list(allowed), f"neither before nor after: {summary(found)}"
    verify(session, data=data)
    _check_tags(session, tags or {})

    for path in world.profile.state.glob(".*"):  # left an hour ago by somebody who was killed
        os.utime(path, (0, 0))
    with session.begin("later") as staged:
        staged.put_bytes("later.txt", b"later")
    later = {**found, "later.txt": b"later"}
    session = _anew(world)
    assert contents(session) == later
    links = {name.rpartition("/")[2] for name, _ in session.engine.store.list(".sealedhealth/log")}
    assert links == {f"{sequence:012d}" for sequence in range(session.sequence + 1)}, "a link was not healed"

    maintenance.collect(session, grace=timedelta(0))
    session = _anew(world)
    assert contents(session) == later
    _check_tags(session, tags or {})
    _check_nothing_left_over(world, session, tags or {})
    return list(allowed).index(found)


def _anew(world: World) -> Session:
    session = world.open()
    type(session.engine).forget(session.url, world.profile)
    return world.open()


def _check_tags(session: Session, tags: Mapping[str, Contents]) -> None:
    for tag, expected in tags.items():
        assert contents(session.at(tag)) == expected, f"the snapshot {tag!r} is not what it was"


def _check_nothing_left_over(world: World, session: Session, tags: Mapping[str, Contents]) -> None:
    views = [session, *map(session.at, {*tags, *session.snapshot.tags})]
    needed = {entry.object_id.hex() for view in views for _, entry in view.snapshot.items()}
    stored = {path.name for path in (world.host / "objects").rglob("*") if path.is_file()}
    assert stored == needed, f"{len(stored - needed)} objects too many, {len(needed - stored)} missing"
    changes = {path.name for path in (world.host / ".sealedhealth/changes").iterdir()}
    assert changes == {change.hex() for change in session.engine.loaded.state.changes}
    assert not list(world.host.rglob(".tmp-*"))
    assert not list(world.profile.state.glob(".*")), "temporary files in the state directory"
    session.engine.context.service.create_author("sweeper")  # whoever changes keys wipes what others left
    assert not list((world.profile.keystore / "tmp").iterdir())
