"""Runs every vector of the log through the code that reads it."""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
import uuid
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealedhealth.errors import DatasetMismatch, MalformedError, MissingError, TamperedError, UnsupportedFormat
from sealedhealth.keys import AnchorEntry, DataKey
from sealedhealth.log.changeset import ChangeSet
from sealedhealth.log.envelope import verify_envelope
from sealedhealth.log.link import Descriptor, Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name
from sealedhealth.log.reading import apply_content
from sealedhealth.log.replay import Log
from sealedhealth.log.section import Section
from sealedhealth.stores import open_store

HERE = Path(__file__).parent
ERRORS = {
    "tampered": TamperedError,
    "malformed": MalformedError,
    "unsupported": UnsupportedFormat,
    "mismatch": DatasetMismatch,
    "missing": MissingError,
}


def _generator(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and one generator imports the other
    spec.loader.exec_module(module)
    return module


# Names come from here, so that a missing file fails.
GENERATED = {
    (folder, name): vector
    for folder in ("log", "replay")
    for name, vector in _generator(f"generate_{folder}").vectors().items()
}


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
    later = {}
    if change.location is not None:
        later["location"] = asdict(change.location)
    if change.reused_keys:
        later["reused"] = [[key.key_id.hex(), key.compartment_id.hex()] for key in change.reused_keys]
        later["object-keys"] = list(change.inventory.key_index)
    return {
        **later,
        "dataset": change.dataset_id.hex(),
        "id": change.change_id.hex(),
        "kind": str(change.kind),
        "time": change.time_us,
        "keys": [[k.key_id.hex(), k.kek.compartment_id.hex(), k.version, k.ciphertext.hex()] for k in change.keys],
        "objects": [[row.object_id.hex(), row.root.hex(), row.sealed_size] for row in rows],
        "section": section_result(section),
    }


class Anchors:
    """The anchors of a vector."""

    def __init__(self, links):
        self.links = links

    def read_anchor(self, dataset_id, sequence):
        """The link of this number."""
        if not 0 <= sequence < len(self.links):
            return None
        return AnchorEntry(sequence, self.links[sequence], datetime(2026, 1, 1, tzinfo=UTC))


def read_replay(vector: Vector):
    """Replay a whole log; ``apply_content`` is what every session does with it."""
    held = json.loads(vector.data)
    store = open_store(f"memory://{uuid.uuid4().hex}")
    store.put(DESCRIPTOR_NAME, base64.b64decode(held["descriptor"]))
    for change, data in held["changes"].items():
        store.put(change_name(bytes.fromhex(change)), base64.b64decode(data))
    secrets = {bytes.fromhex(name): bytes.fromhex(secret) for name, secret in held["data-keys"].items()}
    compartment = vector.bytes("compartment")

    log = Log(store, Anchors([base64.b64decode(link) for link in held["links"]]), vector.bytes("dataset-id"))
    state = log.start()
    steps = log.replay(state, log.anchors_from(0))
    contents = {}

    def keys(wrapped):
        return {item.key_id: DataKey(secrets[item.key_id]) for item in wrapped}

    apply_content(contents, state, steps, keys, compartments=[compartment])
    content = contents[compartment]
    bad = {refusal.change_id: "refused" for refusal in state.refusals}
    bad |= {refusal.change_id: "section refused" for refusal in content.refusals}
    outcome = [
        ", ".join(dict.fromkeys(bad.get(ref.change_id, "accepted") for ref in step.link.changes))
        if step.link
        else "void"
        for step in steps
    ]
    result = {
        "steps": outcome,
        "paths": [path for path, _ in content.catalogue.items()],
        "tags": content.tags,
    }
    if "entries" in json.loads(vector.fields["result"]):
        result["entries"] = {
            path: [entry.object_id.hex(), entry.object_key.hex(), entry.data_key_id.hex(), entry.offset, entry.length]
            for path, entry in content.catalogue.items()
        }
    if "locations" in json.loads(vector.fields["result"]):
        result["locations"] = [
            change.location and asdict(change.location)
            for step in steps
            for change in (accepted.change for accepted in step.accepted)
        ]
    if "settings" in json.loads(vector.fields["result"]):
        result["settings"] = asdict(state.policy.settings)
    return result


READERS = {
    "descriptor": read_descriptor,
    "link": read_link,
    "container": read_container,
    "change set": read_change_set,
    "replay": read_replay,
}


def test_the_files_are_those_of_the_generator():
    """No vector is missing, stale or left over; how they are compressed may differ between machines."""
    files = {
        (folder, path.stem): Vector.parse(path.read_text(encoding="utf-8"))
        for folder in ("log", "replay")
        for path in (HERE / folder).glob("*")
    }
    assert files == {place: Vector.parse(vector.text()) for place, vector in GENERATED.items()}
    assert len(files) >= 150


@pytest.mark.parametrize("place", sorted(GENERATED), ids="/".join)
def test_vector(place):
    """Reading says what the vector says."""
    vector = Vector.parse((HERE / place[0] / f"{place[1]}.txt").read_text(encoding="utf-8"))
    read = READERS[vector.fields["structure"]]
    if vector.fields["expect"] == "success":
        assert read(vector) == json.loads(vector.fields["result"])
    else:
        with pytest.raises(ERRORS[vector.fields["expect"]]):
            read(vector)
    if "digest" in vector.fields:
        assert file_digest(vector.data).hex() == vector.fields["digest"]
