"""Many clients of one dataset at once, each a process of its own: what ``tests/hosts`` and the benchmark let loose.

Each writes what happens to it, a JSON object a line, into a file of its own: a process that is
killed in the middle of a write can spoil nobody else's.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from sealedhealth.profiles import connect, load_profile
from sealedhealth.session import Session
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import collect, maintain

#: Imported once by the process that all others are forked from.
PRELOAD = ["many", "s3fs", "hvac", "sealedhealth.dataset"]
TOGETHER = ("current/labs", "current/stays")  #: replaced by each transaction, under the producer's prefix


class Client:
    """One process: a profile, a dataset, and a file to write to."""

    def __init__(self, environment: Mapping[str, str], profile: str, url: str, folder: str) -> None:
        os.environ.update(environment)
        self.folder = Path(folder)
        self.profile = load_profile(profile)
        self.url = url
        self._file = (self.folder / f"{profile}-{os.getpid()}.jsonl").open("a", buffering=1, encoding="utf-8")

    def tell(self, **what: Any) -> None:
        """Write down what happened."""
        self._file.write(json.dumps({"at": time.time(), **what}) + "\n")

    def open(self) -> Session:
        """Open everything anew."""
        Engine.forget(self.url, self.profile)
        return Session.open(self.url, self.profile)

    @property
    def over(self) -> bool:
        """Whether those that run throughout may end."""
        return (self.folder / "over").exists()


def name_of(prefix: str, number: int) -> str:
    """The file that only transaction *number* of a producer puts."""
    return f"{prefix}/done/{number:04}"


def produce(client: Client, prefix: str, first: int, last: int) -> None:
    """Commit transactions *first* to *last*: three files each, with one token."""
    session = client.open()
    offered = 0

    def observe(call: Any) -> None:
        nonlocal offered
        offered += call.method == "POST" and "/anchors/" in call.path

    connect(client.profile).service.client.observe = observe  # type: ignore[attr-defined]
    client.tell(ready=True)
    while not (client.folder / "go").exists():
        time.sleep(0.005)
    for number in range(first, last + 1):
        begun, offered = time.monotonic(), 0
        token = f"{prefix} {number:04} {os.getpid()}"
        with session.begin(token) as transaction:
            for name in (*(f"{prefix}/{place}" for place in TOGETHER), name_of(prefix, number)):
                transaction.put_bytes(name, token.encode())
            committed = transaction.commit()
        assert committed is not None
        client.tell(
            token=token, sequence=committed.sequence, lost=offered - 1, seconds=round(time.monotonic() - begun, 4)
        )


def watch(client: Client, anew: bool) -> None:
    """Look again and again; *anew*: as a machine that was just started does, else by one session."""
    session = client.open()
    newest = -1
    looks = 0
    while not client.over:
        if anew:
            session = client.open()
        else:
            session.refresh()
        problem = inspect(session, newest)
        if problem:
            client.tell(problem=problem, sequence=session.sequence)
            return
        newest = session.sequence
        looks += 1
        time.sleep(0.05)
    client.tell(looks=looks, sequence=newest)


def inspect(session: Session, newest: int) -> str:
    """What is wrong with a snapshot; an empty text when nothing is."""
    if session.sequence < newest:
        return f"back from commit {newest} to {session.sequence}"
    files = dict(session.snapshot.items())
    names = list(files)
    texts = session.read_ranges([(files[name], 0, files[name].length) for name in names])
    found = dict(zip(names, (text.decode() for text in texts), strict=True))
    for prefix in {name.partition("/")[0] for name in names}:
        labs, stays = (found.get(f"{prefix}/{place}", "") for place in TOGETHER)
        last = int(labs.split()[1]) if labs else 0
        done = [found.get(name_of(prefix, number), "") for number in range(1, last + 1)]
        if labs != stays or labs != done[-1]:
            return f"a mix: {labs!r}, {stays!r}, {done[-1:]!r}"
        if [text.split()[:2] for text in done] != [[prefix, f"{number:04}"] for number in range(1, last + 1)]:
            return f"{prefix}: transactions before {last} are missing"
        if name_of(prefix, last + 1) in found:
            return f"{prefix}: a file of transaction {last + 1} without the others"
    return ""


def keep(client: Client, grace_s: float) -> None:
    """Checkpoint and collect garbage again and again, as cron would."""
    session = client.open()
    checkpoints = collected = 0
    while not client.over:
        session.refresh()
        checkpoints += maintain(session, force=checkpoints == 0) is not None
        report = collect(session, grace=timedelta(seconds=grace_s))
        collected += report.dropped + report.orphans
        client.tell(checkpoints=checkpoints, collected=collected, waiting=report.waiting)
        time.sleep(0.5)


class Crowd:
    """The processes, and what they wrote down."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._processes: list[Any] = []
        # The one that they are forked from may have been started under other settings.
        self._environment = {k: v for k, v in os.environ.items() if k.startswith(("SEALEDHEALTH_", "AWS_"))}

    def start(self, role: Callable[..., None], profile: str, *arguments: Any) -> Any:
        """Start a process in a role."""
        client = (self._environment, profile, self.url, str(self.folder))
        process = self._context.Process(target=_run, args=(role, client, arguments), daemon=True)
        process.start()
        self._processes.append(process)
        return process

    def told(self, key: str, profile: str = "") -> list[dict[str, Any]]:
        """What was written down with *key*, by all or by one profile's processes."""
        lines = [
            json.loads(line)
            for file in sorted(self.folder.glob(f"{profile}*.jsonl"))
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n")
        ]
        return [line for line in lines if key in line]

    def wait(self, what: Callable[[], bool], seconds: float) -> None:
        """Wait until *what*, and say what went wrong when it does not come to that."""
        deadline = time.monotonic() + seconds
        while not what():
            problems = [line for key in ("problem", "error") for line in self.told(key)]
            assert not problems, problems
            assert time.monotonic() < deadline, f"nothing after {seconds} s"
            time.sleep(0.02)

    def go(self) -> None:
        """Let the producers begin."""
        (self.folder / "go").touch()

    def end(self) -> None:
        """Let those end that run throughout."""
        (self.folder / "over").touch()
        for process in self._processes:
            process.join(30)
        problems = [line for key in ("problem", "error") for line in self.told(key)]
        assert not problems, problems

    def close(self) -> None:
        """Kill what is left."""
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join()
            process.close()


def _run(role: Callable[..., None], client: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    here = Client(*client)
    try:
        role(here, *arguments)
    except BaseException as error:
        here.tell(error=f"{type(error).__name__}: {error}", role=role.__name__, cause=repr(error.__cause__))
        raise


@contextlib.contextmanager
def crowd(folder: Path, url: str) -> Iterator[Crowd]:
    """Processes around one dataset; none is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Crowd(folder, url)
    try:
        yield made
    finally:
        made.close()
