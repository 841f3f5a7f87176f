"""Seal and open in memory: from one buffer, the output thrown away as it comes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, cast
from unittest import mock

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.peers import PIECE, Peer, all_peers
from benchmarks.report import Figure, Section, rate
from benchmarks.timing import Race
from sealedhealth.format import HEADER_SIZE, Header, Kind, Layout, Opener, Sealer

KEY = os.urandom(32)
OURS = "**sealedhealth**, two threads hash"
SINGLE = "**sealedhealth**, one thread"
BARE = "**sealedhealth**, digests left out"
NATIVE = "cryptography: Cobblestone-256"


@dataclass(frozen=True)
class Codec:
    """One contestant; ``size`` is what it seals and opens, in bytes."""

    name: str
    seal: Callable[[], object]
    open: Callable[[], object]
    size: int


class Source(io.RawIOBase):
    """A file in memory that is read without copies."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        """Whether it gives data: yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """A view, though called bytes."""
        stop = len(self._data) if size < 0 else self._at + size
        piece = self._data[self._at : stop]
        self._at += len(piece)
        return cast("bytes", piece)


class Nowhere(io.RawIOBase):
    """A sink that takes everything, and keeps it only when told to."""

    def __init__(self, *, keep: bool = False) -> None:
        self.kept: list[bytes] | None = [] if keep else None

    def writable(self) -> bool:
        """Whether it takes data: yes."""
        return True

    def write(self, data: object) -> int:
        """Take *data*."""
        view = memoryview(data)  # type: ignore[arg-type]
        if self.kept is not None:
            self.kept.append(bytes(view))
        return view.nbytes


def _pieces(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    return (view[at : at + PIECE] for at in range(0, len(view), PIECE))


def _ours(name: str, data: bytes, threads: int) -> Codec:
    executor = ThreadPoolExecutor(threads) if threads else None
    header = Header(Kind.OBJECT, bytes(16), bytes(16), os.urandom(16))
    first = Sealer(KEY, header)
    sealed = b"".join([*map(first.update, _pieces(data)), first.finalize()])
    layout = Layout.of_sealed(len(sealed))
    body, trailer = memoryview(sealed)[: layout.body_end], sealed[layout.body_end :]

    def seal() -> None:
        sealer = Sealer(KEY, header, executor=executor)
        for piece in _pieces(data):
            sealer.update(piece)
        sealer.finalize()

    def open_() -> None:
        root, size = first.info.root, len(sealed)
        opener = Opener(KEY, header, root=root, sealed_size=size, trailer=trailer, executor=executor)
        at = 0
        while step := opener.advise(PIECE):
            for _ in opener.pieces(body[at : at + step]):
                pass
            at += step
        opener.finalize()

    return Codec(name, seal, open_, len(data))


class _NoDigest:
    def __init__(self, *_: object) -> None: ...

    def update(self, data: object) -> None: ...

    def digest(self) -> bytes:
        return bytes(32)


@contextmanager
def _no_digests() -> Iterator[None]:
    """Hashing taken out, to see what the rest costs: objects made so are of no use."""

    def trust(self: object, _layout: object, _root: object, trailer: bytes) -> None:
        self.trailer = trailer  # type: ignore[attr-defined]

    with (
        mock.patch("sealedhealth.format.segments.sha256", _NoDigest),
        mock.patch("sealedhealth.format.verify.SignedSegments.__init__", trust),
        mock.patch("sealedhealth.format.verify.SignedSegments.check", return_value=None),
    ):
        yield


def _bare(codec: Codec) -> Codec:
    def without(action: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with _no_digests():
                action()

        return run

    return Codec(BARE, without(codec.seal), without(codec.open), codec.size)


def _cobblestone(data: bytes) -> Codec:
    context = bytes(HEADER_SIZE)
    first = Cobblestone256Encryptor(KEY, context)
    sealed = b"".join([*map(first.update, _pieces(data)), first.finalize()])

    def seal() -> None:
        encryptor = Cobblestone256Encryptor(KEY, context)
        for piece in _pieces(data):
            encryptor.update(piece)
        encryptor.finalize()

    def open_() -> None:
        decryptor = Cobblestone256Decryptor(KEY, context)
        for piece in _pieces(sealed):
            decryptor.update(piece)
        decryptor.finalize()

    return Codec(NATIVE, seal, open_, len(data))


def _aes_gcm(data: bytes) -> Codec:
    aead = AESGCM(KEY)
    sealed = [aead.encrypt(at.to_bytes(12, "big"), piece, None) for at, piece in enumerate(_pieces(data))]

    def seal() -> None:
        for at, piece in enumerate(_pieces(data)):
            aead.encrypt(at.to_bytes(12, "big"), piece, None)

    def open_() -> None:
        for at, piece in enumerate(sealed):
            aead.decrypt(at.to_bytes(12, "big"), piece, None)

    return Codec("cryptography: AESGCM, loose messages of 1 MiB", seal, open_, len(data))


def _sha256(data: bytes) -> Codec:
    def run() -> None:
        digest = sha256()
        for piece in _pieces(data):
            digest.update(piece)

    return Codec("SHA-256 alone, one thread", run, run, len(data))


def _peer(peer: Peer, data: bytes) -> Codec:
    data = data[: int(len(data) * peer.part)]
    kept = Nowhere(keep=True)
    peer.encrypt(cast("BinaryIO", io.BytesIO(data)), cast("BinaryIO", kept))
    sealed = b"".join(kept.kept or [])

    def seal() -> None:
        # Only Tink is fast enough for the copies of BytesIO to matter, and takes views.
        source = Source(data) if peer.name.startswith("Tink") else io.BytesIO(data)
        peer.encrypt(cast("BinaryIO", source), cast("BinaryIO", Nowhere()))

    def open_() -> None:
        peer.decrypt(io.BytesIO(sealed), cast("BinaryIO", Nowhere()))

    return Codec(peer.name, seal, open_, len(data))


def run(*, quick: bool) -> Section:
    """The section of the report."""
    size = (16 if quick else 128) << 20
    data = os.urandom(size)
    single = _ours(SINGLE, data, 0)
    peers = [_peer(peer, data) for peer in all_peers()]
    codecs = [_ours(OURS, data, 2), single, _bare(single), _cobblestone(data), _aes_gcm(data), _sha256(data), *peers]
    rounds = 2 if quick else 7
    seal = Race(rounds).run({codec.name: codec.seal for codec in codecs})
    opened = Race(rounds).run({codec.name: codec.open for codec in codecs})
    sizes = {codec.name: codec.size for codec in codecs}

    section = Section(
        "Seal and open in memory",
        f"{size >> 20} MiB in buffers of 1 MiB; the output is thrown away as it comes. Ratios are to native "
        f"Cobblestone; peers run in one thread, as their interfaces do. {opened.disturbance}",
        ["", "seal MB/s", "ratio", "open MB/s", "ratio"],
    )
    for name, size_ in sizes.items():
        section.row(
            name,
            rate(size_, seal.median(name)),
            f"{_ratio(seal, sizes, name, NATIVE):.2f}",
            rate(size_, opened.median(name)),
            f"{_ratio(opened, sizes, name, NATIVE):.2f}",
        )
    for verb, race in (("Seal", seal), ("Open", opened)):
        native = _ratio(race, sizes, BARE, NATIVE)
        section.figure(Figure.at_least(f"{verb} in memory without digests / native Cobblestone", native, 0.9))
        for about, ours, target in (("without digests", BARE, 3.0), ("with digests", OURS, 1.0)):
            worst = min(_ratio(race, sizes, ours, peer.name) for peer in peers)
            section.figure(Figure.at_least(f"{verb} in memory {about} / fastest peer", worst, target))
    return section


def _ratio(race: Race, sizes: dict[str, int], name: str, reference: str) -> float:
    return race.ratio(name, reference) * sizes[name] / sizes[reference]
