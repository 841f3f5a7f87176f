"""Runs every vector of the log through the code that reads it."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealedhealth.errors import DatasetMismatch, MalformedError, TamperedError, UnsupportedFormat
from sealedhealth.keys import DataKey
from sealedhealth.log.changeset import ChangeSet
from sealedhealth.log.envelope import verify_envelope
from sealedhealth.log.link import Descriptor, Link, file_digest
from sealedhealth.log.section import Section

HERE = Path(__file__).parent
ERRORS = {
    "tampered": TamperedError,
    "malformed": MalformedError,
    "unsupported": UnsupportedFormat,
    "mismatch": DatasetMismatch,
}


def _generator():
    spec = importlib.util.spec_from_file_location("log_vector_generator", HERE / "generate_log.py")
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
        """Read a file: fields, an empty line, the file of the log."""
        head, body = text.split("\n\n")
        fields = dict(line.split(": ", 1) for line in head.splitlines())
        assert fields.pop("encoding") == "zlib+base64"
        return cls(fields, zlib.decompress(base64.b64decode(body)))

    def bytes(self, name: str) -> bytes:
        """A field in hexadecimal."""
        return bytes.fromhex(self.fields[name])


def read_descriptor(vector: Vector):
    """Read a descriptor where the reader expects a dataset."""
    found = Descriptor.load(vector.data, dataset_id=vector.bytes("dataset-id"))
    return {
        "root": found.root_key.hex(),
        "nonce": found.nonce.hex(),
        "created": found.created_us,
        "dataset": found.dataset_id.hex(),
    }


def read_link(vector: Vector):
    """Check and parse a link."""
    envelope = Link.split(vector.data)
    verify_envelope(envelope, vector.bytes("public-key"))
    link = Link.read(envelope)
    assert Link.read(Link.split(link.pack(lambda _: bytes(96)))) == link  # what was read can be written
    return json.loads(Link.split(link.pack(lambda _: bytes(96))).payload)


def section_result(section: Section):
    """A section as the vectors write it."""
    return {
        "message": section.message,
        "new": [[index, salt.hex()] for index, salt in section.new_objects],
        "puts": [[put.path, put.object_index, put.offset, put.length, put.mtime_us] for put in section.puts],
        "deletes": list(section.deletes),
        "tags": dict(section.tags),
    }


def read_container(vector: Vector):
    """Parse the plaintext of a section."""
    return section_result(Section.read(vector.data))


def read_change_set(vector: Vector):
    """Check and parse a change set, and open its section."""
    envelope = ChangeSet.split(vector.data)
    verify_envelope(envelope, vector.bytes("public-key"))
    change = ChangeSet.read(envelope)
    [ref] = change.sections
    with DataKey(vector.bytes("data-key")) as key:
        section = Section.read(change.open_section(ref, key))
    rows = [change.object_row(index, salt, ref.compartment_id) for index, salt in section.new_objects]
    return {
        "dataset": change.dataset_id.hex(),
        "id": change.change_id.hex(),
        "kind": str(change.kind),
        "time": change.time_us,
        "keys": [[k.key_id.hex(), k.kek.compartment_id.hex(), k.version, k.ciphertext.hex()] for k in change.keys],
        "objects": [[row.object_id.hex(), row.root.hex(), row.sealed_size] for row in rows],
        "section": section_result(section),
    }


READERS = {
    "descriptor": read_descriptor,
    "link": read_link,
    "container": read_container,
    "change set": read_change_set,
}


def test_the_files_are_those_of_the_generator():
    """No vector is missing, stale or left over; how they are compressed may differ between machines."""
    files = {path.stem: Vector.parse(path.read_text(encoding="utf-8")) for path in (HERE / "log").glob("*")}
    assert files == {name: Vector.parse(vector.text()) for name, vector in GENERATED.items()}
    assert len(files) >= 100


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_vector(name):
    """Reading says what the vector says."""
    vector = Vector.parse((HERE / "log" / f"{name}.txt").read_text(encoding="utf-8"))
    read = READERS[vector.fields["structure"]]
    if vector.fields["expect"] == "success":
        assert read(vector) == json.loads(vector.fields["result"])
    else:
        with pytest.raises(ERRORS[vector.fields["expect"]]):
            read(vector)
    if "digest" in vector.fields:
        assert file_digest(vector.data).hex() == vector.fields["digest"]
