"""Custody, proved on the user's own profile: what leaves this process, searched for what must never leave it.

A canary dataset is sealed, read and rotated while every byte that the process hands to
a socket is kept, before TLS encrypts it, and everything that the host then holds is
read back.  Canaries and data keys must not be found in it, in any usual spelling; what
has to be found (random object names, key names) is looked for as well, so that a tap
that hears nothing cannot pass for a proof.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sealedhealth.dataset import Dataset
from sealedhealth.errors import AccessDenied, NotFound, SealedHealthError
from sealedhealth.keys.base import DataKey, Kek, WrappedKey
from sealedhealth.log.names import object_name
from sealedhealth.profiles import KeyContext, Profile, substitute
from sealedhealth.session.engine import Engine

__all__ = ["Custody", "Leak", "Needle", "Tap", "prove", "spellings"]

_FILES = 12
_LARGE = 6 << 20  # above what is sealed in memory: goes up in parts
_LISTEN_LIMIT = 1 << 30


# --- hearing what leaves -----------------------------------------------------------------


class Tap:
    """Keeps what this process hands to sockets, by peer, before TLS encrypts it.

    It stands in the standard library's sockets, whoever uses them: ``requests``,
    ``aiohttp``, and anything else that should not be talking at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: dict[str, bytearray] = {}
        self._names: dict[int, str] = {}

    @property
    def heard(self) -> dict[str, bytes]:
        """What went to each peer, ``host:port``."""
        with self._lock:
            return {peer: bytes(data) for peer, data in self._heard.items()}

    def _keep(self, peer: str, *parts: Any) -> None:
        with self._lock:
            held = self._heard.setdefault(peer, bytearray())
            for part in parts:
                held += memoryview(part).cast("B")
            if len(held) > _LISTEN_LIMIT:
                raise SealedHealthError("The proof sent more than it can hold in memory.")

    @contextmanager
    def listening(self) -> Iterator[Tap]:
        """Listen until the end of the block."""
        originals = [
            (owner, name, getattr(owner, name))
            for owner, names in (
                (socket.socket, ("send", "sendall", "sendmsg", "sendto")),
                (ssl.SSLSocket, ("send",)),
                (ssl.SSLObject, ("write",)),
            )
            for name in names
            if hasattr(owner, name)
        ]
        own = {(owner, name): name in vars(owner) for owner, name, _ in originals}
        try:
            for owner, name, original in originals:
                setattr(owner, name, self._wrapped(name, original))
            yield self
        finally:
            for owner, name, original in originals:
                if own[owner, name]:
                    setattr(owner, name, original)
                else:
                    delattr(owner, name)

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def heard(sock: Any, data: Any, *rest: Any, **more: Any) -> Any:
            self._keep(_peer(sock), *(data if name == "sendmsg" else (data,)))
            return original(sock, data, *rest, **more)

        return heard


def _peer(sock: Any) -> str:
    if isinstance(sock, ssl.SSLObject):
        return f"{sock.server_hostname or 'unnamed'} (TLS)"
    try:
        name = sock.getpeername()
    except OSError:
        return "unconnected"
    if isinstance(name, tuple):
        return f"{name[0]}:{name[1]}"
    # a pair of sockets inside this process, as event loops use to wake themselves
    return "this process" if not name else str(name)


# --- what is looked for ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Needle:
    """Something to look for, with every spelling it might have."""

    what: str
    forms: tuple[tuple[str, bytes], ...] = field(repr=False)  #: name of the spelling, bytes

    def found_in(self, data: bytes) -> str | None:
        """The spelling that occurs in *data*, if any does."""
        return next((name for name, form in self.forms if form in data), None)


def spellings(secret: bytes) -> tuple[tuple[str, bytes], ...]:
    """How *secret* might be written: as it is, hexadecimal, base64 at each alignment, UTF-16, compressed, reversed."""
    forms = {
        "plain": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "reversed": secret[::-1],
        "deflated": zlib.compress(secret)[2:-4],
    }
    if secret.isascii():
        forms["UTF-16"] = secret.decode().encode("utf-16-le")
        forms["upper case"] = secret.upper()
    for shift in range(3):
        # Inside a longer base64 text only the middle is certain: the first and last characters mix with neighbours.
        coded = base64.b64encode(bytes(shift) + secret)[4 if shift else 0 : -4]
        forms[f"base64+{shift}"] = coded
        forms[f"base64url+{shift}"] = coded.translate(bytes.maketrans(b"+/", b"-_"))
    return tuple(forms.items())


@dataclass(frozen=True, slots=True)
class Leak:
    """A needle that was found where it must not be."""

    what: str
    where: str
    spelling: str


@dataclass(frozen=True, slots=True)
class Custody:
    """What was looked for, where, and what was found."""

    dataset: str
    steps: tuple[str, ...]  #: what was done, in order
    looked_for: Mapping[str, int]  #: kind of needle: how many
    looked_in: Mapping[str, int]  #: place: bytes
    controls: tuple[str, ...]  #: what had to be found, and was
    leaks: tuple[Leak, ...]

    @property
    def kept(self) -> bool:
        """Whether nothing was found that must not be."""
        return not self.leaks


class _Keys:
    """A key service that notes every data key that passes, and is otherwise the one behind it."""

    def __init__(self, service: Any, seen: dict[bytes, bytes]) -> None:
        self._service = service
        self._seen = seen

    def generate(self, kek: Kek) -> tuple[DataKey, WrappedKey]:
        """See :class:`sealedhealth.keys.KeyService`."""
        key, wrapped = self._service.generate(kek)
        self._seen[key.key_id] = key.expose()
        return key, wrapped

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """See :class:`sealedhealth.keys.KeyService`."""
        keys: list[DataKey] = self._service.unwrap(wrapped)
        self._seen.update((key.key_id, key.expose()) for key in keys)
        return keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)


# --- the proof ---------------------------------------------------------------------------


def prove(url: str, profile: Profile) -> Custody:
    """Seal canaries on the host at *url* with the keys of *profile*, read and rotate them, and search what left.

    Inside a dataset the canaries become one commit, under ``sealedhealth-prove/`` or the
    only directory where this identity may put, and are deleted again as far as it may.
    Anywhere else a dataset of its own is made there, and destroyed at the end; with a
    Vault that is not done, since no role can do both.

    Raises
    ------
    NotFound
        The keys are in a Vault, and there is no dataset at *url*.
    AccessDenied
        The identity may not write.
    SealedHealthError
        What had to be heard was not: nothing is proved.
    """
    run = _Run(profile)
    with run.tap.listening(), substitute(profile, run.substitute):
        run.perform(url)
    return run.judge()


class _Run:
    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.tap = Tap()
        self.keys: dict[bytes, bytes] = {}
        self.mark = os.urandom(6).hex()
        self.canaries = {
            "content": f"canary-content-{self.mark}-{os.urandom(12).hex()}",
            "column name": f"canary_column_{self.mark}",
            "file name": f"canary-file-{self.mark}",
            "directory name": f"canary-directory-{self.mark}",
            "message": f"canary message {self.mark}",
        }
        self.steps: list[str] = []
        self.held: dict[str, bytes] = {}  #: every file that the host held at any time, by name and step
        self.url = ""
        self.dataset_hex = ""
        self.objects: set[str] = set()

    def substitute(self, context: KeyContext) -> KeyContext:
        """Note the data keys that pass."""
        return KeyContext(_Keys(context.service, self.keys), context.anchors, context.registry)

    # -- doing ---------------------------------------------------------------------------

    def perform(self, url: str) -> None:
        """Seal, read, rotate, and clean up, looking at the host after each."""
        try:
            dataset, inside = Dataset.find(url, profile=self.profile)
            own = False
        except NotFound:
            if self.profile.vault is not None:
                raise  # nobody with a member's rights can both make a dataset and destroy it
            dataset = Dataset.create(f"{url.rstrip('/')}/sealedhealth-prove-{self.mark}", profile=self.profile)
            inside, own = "", True
            self._done("made a dataset of its own", dataset)
        self.url, self.dataset_hex = dataset.url, dataset.id
        where = f"{inside.strip('/') + '/' if inside else ''}{self.canaries['directory name']}"
        self._seal(dataset, where)
        if dataset.session.readable:
            self._read(where)
        else:
            self.steps.append("not read: this identity may only add")
        self._rotate()
        if own:
            Dataset.open(self.url, profile=self.profile).destroy()
            self._done("destroyed it", dataset)
            self._remove_files()
        elif dataset.session.readable:
            self._delete(where)

    def _seal(self, dataset: Dataset, where: str) -> None:
        line = f"{self.canaries['column name']},value\n{self.canaries['content']},42\n".encode()
        with dataset.transaction(self.canaries["message"]) as tx:
            name = f"{where}/{self.canaries['file name']}"
            tx.staged.put_many({f"{name}-{number}.csv": line * (number + 1) for number in range(_FILES)})
            writer = tx.staged.writer(f"{name}-large.csv")
            for _ in range(_LARGE // len(line * 1000) + 1):
                writer.write(line * 1000)
            writer.close()
        self._done(f"sealed {_FILES + 1} files", dataset)

    def _read(self, where: str) -> None:
        Engine.forget(self.url, self.profile)
        dataset = Dataset.open(self.url, profile=self.profile)
        for path, entry in dataset.snapshot.items(where):
            self.objects.add(entry.object_id.hex())
            dataset.session.read_ranges([(entry, 0, entry.length)])
            if not path.endswith("large.csv") and self.canaries["content"].encode() not in dataset.fs.cat_file(path):
                raise SealedHealthError("A canary did not come back as it was sealed.")
        self._done("read them again, with nothing in memory", dataset)

    def _rotate(self) -> None:
        dataset = Dataset.open(self.url, profile=self.profile)
        try:
            version = dataset.rotate()
            report = dataset.rewrap()
        except AccessDenied:
            self.steps.append("not rotated: this identity may not")
            return
        self._done(f"rotated to version {version} and rewrapped {report.keys} data keys", dataset)

    def _delete(self, where: str) -> None:
        dataset = Dataset.open(self.url, profile=self.profile)
        try:
            dataset.rm(where, recursive=True)
        except AccessDenied:
            self.steps.append(f"left {where} where it is: this identity may not delete")
            return
        self._done("deleted them", dataset)

    def _remove_files(self) -> None:
        store = self.profile.open_store(self.url)
        store.delete_many([name for name, _ in list(store.list(""))])
        self.steps.append("removed its files from the host")

    def _done(self, what: str, dataset: Dataset) -> None:
        """Note a step, and read back everything that the host holds now and did not hold before."""
        self.steps.append(what)
        store = self.profile.open_store(dataset.url)
        for name, size in store.list(""):
            if f"{name} ({size})" not in self.held:
                self.held[f"{name} ({size})"] = store.get(name, limit=size)

    # -- judging ---------------------------------------------------------------------------

    def needles(self) -> dict[str, list[Needle]]:
        """What must not be found, by kind."""
        found = {f"canary: {what}": [Needle(what, spellings(text.encode()))] for what, text in self.canaries.items()}
        found["data key"] = [
            Needle(f"data key {key_id.hex()[:8]}…", spellings(key)) for key_id, key in self.keys.items()
        ]
        return found

    def judge(self) -> Custody:
        """Search everything."""
        heard = self.tap.heard
        places = {f"sent to {peer}": data for peer, data in sorted(heard.items()) if peer != "this process"}
        places["files on the host"] = b"\n".join(self.held.values())
        places["names on the host"] = "\n".join(self.held).encode()
        needles = self.needles()
        leaks = [
            Leak(needle.what, where, spelling)
            for kind in needles.values()
            for needle in kind
            for where, data in places.items()
            if (spelling := needle.found_in(data)) is not None
        ]
        return Custody(
            self.dataset_hex,
            tuple(self.steps),
            {kind: len(items) for kind, items in needles.items()},
            {where: len(data) for where, data in places.items()},
            self._controls(places),
            tuple(leaks),
        )

    def _controls(self, places: Mapping[str, bytes]) -> tuple[str, ...]:
        """What has to be there if the tap hears and the search finds anything at all."""
        found = []
        everything = places["names on the host"]
        if not self.objects:
            self.objects = set(_object_ids(everything.decode()))
        seen = [object_id for object_id in self.objects if object_name(bytes.fromhex(object_id)).encode() in everything]
        if not seen or not self.keys:
            raise SealedHealthError("The search did not find the objects that it has just sealed.", next="Report this.")
        found.append(f"{len(seen)} objects by their random names on the host")
        remote = [where for where in places if where.startswith("sent to")]
        if "://" in self.url and not self.url.startswith(("file://", "memory://")):
            _must_hear(places, remote, seen[0].encode(), "the host")
            found.append("an object's name in what was sent to the host")
        if self.profile.vault is not None:
            _must_hear(places, remote, f"sh-{self.dataset_hex}".encode(), "the Vault")
            found.append("the name of the key-encryption key in what was sent to the Vault")
        needle = Needle("control", spellings(next(iter(self.keys.values()))))
        sample = b"x" + base64.b64encode(b"ab" + next(iter(self.keys.values())) + b"cd") + b"y"
        if needle.found_in(sample) is None:
            raise SealedHealthError("The search does not find a key that was planted.", next="Report this.")
        found.append("a data key planted in a sample, in base64")
        return tuple(found)


def _object_ids(names: str) -> Iterator[str]:
    for line in names.splitlines():
        name = line.rpartition(" (")[0]
        if name.startswith("objects/"):
            yield name.rpartition("/")[2]


def _must_hear(places: Mapping[str, bytes], remote: Sequence[str], what: bytes, whom: str) -> None:
    if not any(what in places[where] for where in remote):
        raise SealedHealthError(
            f"The tap did not hear what was sent to {whom}: nothing is proved.",
            next="Report this, with the versions that `sealedhealth doctor` prints.",
        )
