"""Runs every vector of sealed objects through every way of reading one."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealedhealth.errors import TamperedError, UnsupportedFormat, WrongKey
from sealedhealth.format import (
    Checker,
    Header,
    Kind,
    Layout,
    Opener,
    RangeReader,
    data_key_id,
    object_key,
    open_sealed,
)
from sealedhealth.format.chunks import ChunkOpener

HERE = Path(__file__).parent
KINDS = {"object": Kind.OBJECT, "log-section": Kind.LOG_SECTION, "checkpoint-section": Kind.CHECKPOINT_SECTION}
ERRORS = {"tampered": TamperedError, "unsupported": UnsupportedFormat, "wrong key": WrongKey}


def _generator():
    spec = importlib.util.spec_from_file_location("vector_generator", HERE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


GENERATED = _generator().vectors()  # names come from here, so that a missing file fails


@dataclass(frozen=True)
class Vector:
    """A vector file, parsed."""

    fields: dict[str, str]
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Vector:
        """Read a file: fields, an empty line, the object."""
        head, body = text.split("\n\n")
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        assert fields.pop("encoding") == "zlib+base64"
        return cls(fields, zlib.decompress(base64.b64decode(body)))

    def __getitem__(self, name: str) -> str:
        return self.fields[name]

    def bytes(self, name: str) -> bytes:
        """A field in hexadecimal."""
        return bytes.fromhex(self.fields[name])

    @property
    def header(self) -> Header:
        """The header that the log says the object has."""
        return Header(KINDS[self["kind"]], *(self.bytes(name) for name in ("dataset-id", "data-key-id", "object-id")))

    @property
    def key(self) -> bytes:
        """The object key that the reader derives."""
        return object_key(self.bytes("data-key"), self.header.kind, self.header.object_id)

    @property
    def size(self) -> int:
        """The size that the log says the object has."""
        return int(self["sealed-size"])

    def judge(self, expected: str, read) -> None:
        """Run a way of reading, and compare what it says with what it must say."""
        if expected == "success":
            payload = read()
            if "payload-sha256" in self.fields:
                assert len(payload) == int(self["payload-length"])
                assert hashlib.sha256(payload).hexdigest() == self["payload-sha256"]
        else:
            with pytest.raises(ERRORS[expected]):
                read()


@pytest.fixture(params=sorted(GENERATED))
def vector(request) -> Vector:
    """A vector, read from its file."""
    return Vector.parse((HERE / "objects" / f"{request.param}.txt").read_text(encoding="ascii"))


def test_the_files_are_those_of_the_generator():
    """No vector is missing, stale or left over; how they are compressed may differ between machines."""
    files = {path.stem: Vector.parse(path.read_text(encoding="ascii")) for path in (HERE / "objects").glob("*")}
    assert files == {name: Vector.parse(vector.text()) for name, vector in GENERATED.items()}
    assert len(files) >= 75


def test_header(vector):
    """Parsing the header alone says what the vector says."""
    expected = vector["expect-header"]
    if expected == "success":
        assert Header.parse(vector.data).pack() == vector.data[:64]
    else:
        with pytest.raises(ERRORS[expected]):
            Header.parse(vector.data)


def test_derived_values(vector):
    """Ids and keys on the way from the data key to the chunks are those of the vector."""
    if vector["expect"] == "success" and "aead-key" in vector.fields:
        assert data_key_id(vector.bytes("data-key")) == vector.bytes("data-key-id")
        assert vector.key == vector.bytes("object-key")
        chunks = ChunkOpener(vector.key, vector.bytes("salt"), vector.header.pack())
        assert chunks.commitment == vector.bytes("commitment")
        assert chunks._base_nonce == int.from_bytes(vector.bytes("base-nonce"), "big")
        assert Layout.of_plain(int(vector["payload-length"])).sealed_size == vector.size == len(vector.data)


def test_whole(vector):
    """Opening in memory."""
    vector.judge(
        vector["expect"], lambda: open_sealed(vector.key, vector.header, vector.data, root=vector.bytes("root"))
    )


@pytest.mark.parametrize("step", [5000, 1 << 20])
def test_stream(vector, step):
    """Opening as a stream; the trailer lies where the signed size says."""

    def read() -> bytes:
        lo, hi = Layout.of_sealed(vector.size).trailer_span
        opener = Opener(
            vector.key,
            vector.header,
            root=vector.bytes("root"),
            sealed_size=vector.size,
            trailer=vector.data[lo:hi],
        )
        parts = [opener.update(vector.data[at : at + step]) for at in range(0, len(vector.data), step)]
        return b"".join([*parts, opener.finalize()])

    vector.judge(vector["expect"], read)


def test_ranged(vector):
    """All the plaintext by one ranged read: it fetches what the plan says, as far as there are bytes."""

    def read() -> bytes:
        reader = RangeReader(
            vector.key,
            vector.header,
            salt=vector.bytes("salt"),
            root=vector.bytes("root"),
            sealed_size=vector.size,
        )
        everything = [(0, reader.plain_size)]
        return reader.finish(everything, [((lo, hi), vector.data[lo:hi]) for lo, hi in reader.plan(everything)])[0]

    vector.judge(vector["expect-ranged"], read)


def test_check_without_a_key(vector):
    """The check that movers make: it cannot know keys, and catches everything else."""

    def read() -> None:
        checker = Checker(root=vector.bytes("root"), sealed_size=vector.size)
        for at in range(0, len(vector.data), 70_000):
            checker.update(vector.data[at : at + 70_000])
        checker.finalize()

    if vector["expect"] == "tampered":
        with pytest.raises(TamperedError):
            read()
    else:
        read()
