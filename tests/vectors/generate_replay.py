"""Writes the vectors of replay: ``python tests/vectors/generate_replay.py``.

Each is a whole small log: what a reader must take for void, refused or an error, and what paths and
tags are left.  Like generate_log.py, which it builds on, it shares no code with the package.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from generate_log import (
    CURATOR,
    DATASET,
    NOW,
    ROOT,
    STRANGER,
    Author,
    Document,
    container,
    descriptor,
    envelope,
    hkdf_expand,
    label,
    numbers,
    one_way,
    write,
)

HERE = Path(__file__).parent / "replay"
PRODUCER = Author("producer")
OTHER = Author("other producer")
ROTATOR = Author("rotator")
COMPARTMENT = label("replayed compartment", 16)
ELSEWHERE = label("another compartment", 16)
ROSTER = {
    PRODUCER: (["producer"], "lille"),
    OTHER: (["producer"], "nantes"),
    CURATOR: (["curator"], ""),
    ROTATOR: (["rotator"], ""),
}


@dataclass(frozen=True)
class Key:
    """A data key, and its wrap at a version of the KEK."""

    name: str
    version: int = 1
    compartment: bytes = COMPARTMENT

    @property
    def secret(self) -> bytes:
        """32 bytes."""
        return label("data key " + self.name, 32)

    @property
    def id(self) -> bytes:
        """16 bytes."""
        return hkdf_expand(self.secret, b"sealedhealth/v1/id", 16)


def sealed(key: Key, object_id: bytes, plaintext: bytes) -> tuple[bytes, bytes]:
    """A log section of one chunk, and its root."""
    assert len(plaintext) < 16384
    header = bytes.fromhex("895348310d0a1a0a") + bytes([1, 1, 0, 0, 2, 0, 0, 0]) + DATASET + key.id + object_id
    secret = hkdf_expand(key.secret, b"sealedhealth/v1/log-section\0" + object_id, 32)
    salt = label("salt of " + object_id.hex(), 24)
    derived = hkdf_expand(secret, b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + header, 76)
    body = header + salt + derived[44:] + AESGCM(derived[:32]).encrypt(derived[32:44], plaintext, None)
    return body, hashlib.sha256(
        b"sealedhealth/v1/segments\0" + len(body).to_bytes(8, "big") + hashlib.sha256(body).digest()
    ).digest()


@dataclass(frozen=True)
class Change:
    """A change set."""

    name: str
    author: Author
    kind: str = "data"
    keys: tuple[Key, ...] = ()
    puts: dict[str, int] = field(default_factory=dict)  #: path and length, each in an object of its own
    reach: int = 0  #: bytes that puts reach beyond their objects
    old: tuple[tuple[str, Key, str], ...] = ()  #: path, data key and change that an older object is from
    deletes: tuple[str, ...] = ()
    tags: dict[str, int] = field(default_factory=dict)
    policy: Document | None = None
    notes: list[Document] | None = None
    destroyed: tuple[Key, ...] = ()
    minimum: dict[bytes, int] = field(default_factory=dict)
    horizon: int = 0
    section: bool = True
    plaintext: bytes | None = None  #: of the section, when it is nonsense
    dataset: bytes = DATASET
    signer: Author | None = None
    named: str = ""  #: the id that stands in it, when it is not its own
    reused: tuple[Key, ...] = ()  #: data keys of earlier commits; all objects are under the first
    pack: str = ""  #: the name of one object that all puts lie in
    object_id: bytes = b""  #: of that object, when it is not its own
    location: str | None = None

    @property
    def id(self) -> bytes:
        """16 bytes."""
        return label("change " + self.name, 16)

    def object(self, path: str) -> bytes:
        """The id of the object of a path."""
        return self.object_id or label(f"object {self.name} {path}", 16)

    def objects(self) -> dict[str, int]:
        """What each new object is called, and its length."""
        return {self.pack: sum(self.puts.values())} if self.pack else self.puts

    def entry(self, path: str, offset: int = 0) -> list[Any]:
        """What a reader says of a path that was put."""
        key, object_id = (self.reused or self.keys)[0], self.object(self.pack or path)
        secret = hkdf_expand(key.secret, b"sealedhealth/v1/object\0" + object_id, 32)
        return [object_id.hex(), secret.hex(), key.id.hex(), offset, self.puts[path]]

    def body(self) -> bytes:
        """The plaintext of the section."""
        if self.plaintext is not None:
            return self.plaintext
        paths = [*self.puts, *(path for path, _, _ in self.old)]
        lengths = [length + self.reach for length in self.puts.values()] + [10] * len(self.old)
        objects = self.objects()
        columns = {
            "new_index": ("u32", numbers(4, *range(len(objects)))),
            "new_salt": ("bytes:24", b"".join(label("salt " + name, 24) for name in objects)),
            "put_path": ("text", "\n".join(paths).encode()),
            "put_object": ("u32", numbers(4, *([0] * len(paths) if self.pack else range(len(paths))))),
            "put_length": ("u64", numbers(8, *lengths)),
            "put_mtime": ("u64", numbers(8, *[NOW] * len(paths))),
        }
        if self.pack:
            columns["put_offset"] = ("u64", numbers(8, *accumulate([0, *self.puts.values()][:-1])))
        if self.old:
            origins = [(key, label(f"object {change} {path}", 16)) for path, key, change in self.old]
            columns |= {
                "old_object": ("bytes:16", b"".join(object_id for _, object_id in origins)),
                "old_key": ("bytes:16", b"".join(key.id for key, _ in origins)),
                "old_salt": ("bytes:24", b"".join(label("salt " + path, 24) for path, _, _ in self.old)),
                "old_root": ("bytes:32", b"".join(label("root " + path, 32) for path, _, _ in self.old)),
                "old_size": ("u64", numbers(8, *[146] * len(self.old))),
            }
        if self.deletes:
            columns["delete_path"] = ("text", "\n".join(self.deletes).encode())
        if self.tags:
            columns["tag_name"] = ("text", "\n".join(self.tags).encode())
            columns["tag_sequence"] = ("u64", numbers(8, *self.tags.values()))
        rows = {
            "new": len(objects),
            "old": len(self.old),
            "put": len(paths),
            "delete": len(self.deletes),
            "tag": len(self.tags),
        }
        fields: Document = {"message": self.name}
        if self.notes is not None:
            fields |= {"notes": one_way({"notes": self.notes}).decode(), "compartment": "all"}
        return container("section/1", fields, rows, columns)

    def file(self) -> bytes:
        """The change-set file."""
        parts = []
        has_section = self.section and self.kind in {"data", "policy"} and (self.reused or self.keys)
        if has_section:
            parts = [((self.reused or self.keys)[0], label("section " + self.name, 16))]
        made = [sealed(key, object_id, self.body()) for key, object_id in parts]
        fields: Document = {
            "dataset": self.dataset.hex(),
            "id": (label("change " + self.named, 16) if self.named else self.id).hex(),
            "kind": self.kind,
            "time": NOW,
            "horizon": self.horizon,
        }
        if self.policy is not None:
            fields["policy"] = one_way(self.policy).decode()
        if self.location is not None:
            fields["location"] = self.location
        objects = self.objects()
        columns = {
            "key_id": ("bytes:16", b"".join(key.id for key in self.keys)),
            "key_compartment": ("bytes:16", b"".join(key.compartment for key in self.keys)),
            "key_version": ("u32", numbers(4, *[key.version for key in self.keys])),
            "key_wrap": ("text", b"\n".join(base64.b64encode(label("wrap " + key.name, 104)) for key in self.keys)),
            "object_id": ("bytes:16", b"".join(self.object(name) for name in objects)),
            "object_root": ("bytes:32", b"".join(label("root " + name, 32) for name in objects)),
            "object_size": ("u64", numbers(8, *[136 + length for length in objects.values()])),
            "object_key": ("u32", numbers(4, *[len(self.keys) if self.reused else 0] * len(objects))),
            "section_compartment": ("bytes:16", b"".join(key.compartment for key, _ in parts)),
            "section_key": ("bytes:16", b"".join(key.id for key, _ in parts)),
            "section_object": ("bytes:16", b"".join(object_id for _, object_id in parts)),
            "section_size": ("u64", numbers(8, *[len(data) for data, _ in made])),
            "section_root": ("bytes:32", b"".join(root for _, root in made)),
        }
        if self.destroyed:
            columns["destroyed"] = ("bytes:16", b"".join(key.id for key in self.destroyed))
        if self.minimum:
            columns["minimum_compartment"] = ("bytes:16", b"".join(self.minimum))
            columns["minimum_version"] = ("u32", numbers(4, *self.minimum.values()))
        rows = {
            "key": len(self.keys),
            "object": len(objects),
            "section": len(parts),
            "destroyed": len(self.destroyed),
            "minimum": len(self.minimum),
            "collected": 0,
        }
        if self.reused:
            columns["reused_key"] = ("bytes:16", b"".join(key.id for key in self.reused))
            columns["reused_compartment"] = ("bytes:16", b"".join(key.compartment for key in self.reused))
            rows["reused"] = len(self.reused)
        payload = container("change/1", fields, rows, columns)
        return envelope("change-set", payload, self.author, signer=self.signer) + b"".join(data for data, _ in made)


def policy(version: int, roster: dict[Author, tuple[list[str], str]], gone: tuple[Author, ...] = ()) -> Document:
    """The public half of a policy."""
    return {
        "version": version,
        "compartments": [COMPARTMENT.hex()],
        "settings": {"grace_s": 86400, "data_key_bytes": 1 << 40, "data_key_age_s": 3600},
        "authors": [
            {
                "id": author.id.hex(),
                "key": author.public.hex(),
                "roles": roles,
                "compartments": [COMPARTMENT.hex()],
                "active": author not in gone,
            }
            for author, (roles, _) in roster.items()
        ],
    }


def notes(roster: dict[Author, tuple[list[str], str]]) -> list[Document]:
    """The sealed half."""
    return [{"id": author.id.hex(), "name": author.name, "prefix": prefix} for author, (_, prefix) in roster.items()]


def policy_change(version: int, roster: Any = None, *, author: Author = ROOT, gone: tuple[Author, ...] = ()) -> Change:
    """A policy change set."""
    roster = roster or ROSTER
    name = f"policy {version} by {author.name}"
    return Change(name, author, "policy", (Key(name),), policy=policy(version, roster, gone), notes=notes(roster))


class Log:
    """A log that grows by valid links; what is odd is put in by hand."""

    def __init__(self) -> None:
        self.descriptor = descriptor()
        self.head = hashlib.sha384(self.descriptor).digest()
        self.links: list[bytes] = []
        self.files: dict[bytes, bytes] = {}
        self.keys: dict[bytes, Key] = {}

    def add(
        self,
        *changes: Change,
        author: Author | None = None,
        head: bool = True,
        signer: Author | None = None,
        **members: Any,
    ) -> bytes:
        """Anchor a link; without *head* later links do not build on it."""
        refs = []
        for change in changes:
            data = change.file()
            self.files[change.id] = data
            self.keys |= {key.id: key for key in change.keys}
            refs.append({"id": change.id.hex(), "digest": hashlib.sha384(data).hexdigest(), "size": len(data)})
        document = {
            "dataset": DATASET.hex(),
            "sequence": len(self.links),
            "parent": self.head.hex(),
            "changes": refs,
            "time": NOW,
            "checkpoint": None,
            **members,
        }
        data = envelope("link", one_way(document), author or changes[0].author, signer=signer)
        self.links.append(data)
        if head:
            self.head = hashlib.sha384(data).digest()
        return data


def started() -> Log:
    """A log with a policy, and one file of each producer."""
    log = Log()
    log.add(policy_change(1))
    log.add(Change("first", PRODUCER, keys=(Key("first"),), puts={"lille/a": 10}))
    log.add(Change("second", OTHER, keys=(Key("second"),), puts={"nantes/b": 20}))
    return log


A, B = "lille/a", "nantes/b"


@dataclass(frozen=True)
class Vector:
    """A log, and what replaying it must say."""

    comment: str
    log: Log
    outcome: list[str]  #: of each anchor after the third: void, accepted, refused, section refused
    paths: tuple[str, ...] = (A, B)
    tags: dict[str, int] = field(default_factory=dict)
    expect: str = "success"
    more: Document = field(default_factory=dict)  #: further members of the result

    def text(self) -> str:
        """The file."""
        log = self.log
        body = {
            "descriptor": base64.b64encode(log.descriptor).decode(),
            "links": [base64.b64encode(link).decode() for link in log.links],
            "changes": {key.hex(): base64.b64encode(data).decode() for key, data in log.files.items()},
            "data-keys": {key.id.hex(): key.secret.hex() for key in log.keys.values()},
        }
        fields = {
            "comment": self.comment,
            "structure": "replay",
            "expect": self.expect,
            "dataset-id": DATASET.hex(),
            "compartment": COMPARTMENT.hex(),
        }
        if self.expect == "success":
            result = {"steps": ["accepted"] * 3 + self.outcome, "paths": sorted(self.paths), "tags": self.tags}
            fields["result"] = one_way({**result, **self.more}).decode()
        fields["encoding"] = "zlib+base64"
        head = "".join(f"{name}: {value}\n" for name, value in fields.items())
        data = zlib.compress(json.dumps(body, sort_keys=True).encode(), 9)
        return head + "\n" + textwrap.fill(base64.b64encode(data).decode(), 76) + "\n"


def with_change(comment: str, outcome: str, change: Change, *more: str, **expected: Any) -> Vector:
    """One more commit, by the change set's own author."""
    log = started()
    log.add(change)
    return Vector(comment, log, [outcome, *more], **expected)


def with_link(comment: str, act: Callable[[Log], object], **expected: Any) -> Vector:
    """One void link, and after it one that counts."""
    log = started()
    act(log)
    log.add(data("last", CURATOR, puts={"c": 5}))
    return Vector(comment, log, ["void", "accepted"], (A, B, "c"), **expected)


def data(name: str, author: Author, **parts: Any) -> Change:
    """A data change set under a key of its own."""
    return Change(name, author, keys=(Key(name),), **parts)


def accepted() -> dict[str, Vector]:
    """What everybody may do within its rights."""
    first = Key("first")
    log = started()
    log.add(
        data("one of two", PRODUCER, puts={"lille/c": 5}),
        data("two of two", OTHER, puts={"nantes/d": 5}),
        author=CURATOR,
    )
    two = Vector("a curator links two authors' change sets", log, ["accepted"], (A, B, "lille/c", "nantes/d"))
    log = started()
    log.add(policy_change(2, gone=(PRODUCER,)))
    log.add(data("after", PRODUCER, puts={"lille/c": 5}), author=CURATOR)
    off = Vector("off the roster; what was committed before stays", log, ["accepted", "refused"])
    log = started()
    log.add(Change("destroy", ROOT, "destroy", minimum={COMPARTMENT: 2}))
    log.add(Change("rewrap", ROTATOR, "rewrap", (Key("first", 2), Key("second", 2))))
    log.add(Change("old wrap", PRODUCER, keys=(Key("old wrap", 1),), puts={"lille/c": 5}))
    log.add(Change("new wrap", PRODUCER, keys=(Key("new wrap", 2),), puts={"lille/d": 5}))
    minimum = Vector(
        "a minimum version, and a wrap below it",
        log,
        ["accepted", "accepted", "refused", "accepted"],
        (A, B, "lille/d"),
    )
    return {
        "accepted_replace": with_change(
            "a producer replaces its file", "accepted", data("again", PRODUCER, puts={A: 30})
        ),
        "accepted_curator": with_change(
            "a curator deletes, moves and tags",
            "accepted",
            data("move", CURATOR, old=((A, first, "first"),), deletes=(A, B), tags={"t": 2}),
            paths=(A,),
            tags={"t": 2},
        ),
        "accepted_rewrap": with_change(
            "a rotator wraps a key anew", "accepted", Change("rewrap", ROTATOR, "rewrap", (Key("first", 2),))
        ),
        "accepted_collect": with_change(
            "a curator collects", "accepted", Change("collect", CURATOR, "collect", horizon=2)
        ),
        "accepted_two_authors": two,
        "accepted_off_the_roster": off,
        "accepted_minimum": minimum,
    }


def void() -> dict[str, Vector]:
    """Links that count for nothing."""

    def one(log: Log, **how: Any) -> None:
        log.add(data("x", CURATOR, puts={"x": 1}), head=False, **how)

    def replayed(log: Log) -> None:
        log.links.append(log.links[1])

    def repeated(log: Log) -> None:
        log.add(Change("first", PRODUCER, keys=(Key("first"),), puts={A: 10}), head=False)

    return {
        "void_stranger": with_link("by somebody on no roster", lambda log: one(log, author=STRANGER)),
        "void_signature": with_link("signed by another key", lambda log: one(log, signer=STRANGER)),
        "void_sequence": with_link("says that it is another number", lambda log: one(log, sequence=7)),
        "void_parent": with_link("builds on something else", lambda log: one(log, parent=label("else", 48).hex())),
        "void_dataset": with_link("of another dataset", lambda log: one(log, dataset=label("else", 16).hex())),
        "void_replayed": with_link("a genuine link once more", replayed),
        "void_repeated_change": with_link("a change set that is committed already", repeated),
        "void_garbage": with_link("no link at all", lambda log: log.links.append(b"garbage")),
    }


def refused() -> dict[str, Vector]:
    """Change sets that break a public rule."""
    third = started()
    third.add(data("of another", OTHER, puts={"nantes/c": 5}), author=PRODUCER)
    unknown = {CURATOR: (["curator"], "")}
    return {
        "refused_link_by_another": Vector(
            "linked by somebody who is neither its author nor a curator", third, ["refused"]
        ),
        "refused_role_collect": with_change(
            "a producer collects", "refused", Change("collect", PRODUCER, "collect", horizon=1)
        ),
        "refused_role_rewrap": with_change(
            "a curator rewraps", "refused", Change("rewrap", CURATOR, "rewrap", (Key("first", 2),))
        ),
        "refused_role_data": with_change("a rotator puts", "refused", data("put", ROTATOR, puts={"c": 5})),
        "refused_policy_by_curator": with_change("a policy by a curator", "refused", policy_change(2, author=CURATOR)),
        "refused_policy_version": with_change("a version left out", "refused", policy_change(3)),
        "refused_policy_again": with_change(
            "the version that is in force already",
            "refused",
            Change("again", ROOT, "policy", (Key("again"),), policy=policy(1, unknown), notes=notes(unknown)),
        ),
        "refused_destroy_by_curator": with_change(
            "a tombstone by a curator", "refused", Change("destroy", CURATOR, "destroy", destroyed=(Key("first"),))
        ),
        "refused_destroy_unknown": with_change(
            "a tombstone of a key that is not there",
            "refused",
            Change("destroy", ROOT, "destroy", destroyed=(Key("nowhere"),)),
        ),
        "refused_known_key": with_change(
            "it brings a data key that the log has",
            "refused",
            Change("theft", OTHER, keys=(Key("first"),), puts={"nantes/c": 5}),
        ),
        "refused_rewrap_unknown": with_change(
            "a rewrap of a key that is not there",
            "refused",
            Change("rewrap", ROTATOR, "rewrap", (Key("nowhere", 2),)),
        ),
        "refused_compartment": with_change(
            "a key for a compartment that does not exist",
            "refused",
            Change(
                "elsewhere",
                CURATOR,
                keys=(Key("elsewhere", compartment=ELSEWHERE),),
                section=False,
            ),
        ),
        "refused_horizon": with_change(
            "it collects what is not committed", "refused", Change("collect", CURATOR, "collect", horizon=4)
        ),
        "refused_signature": with_change(
            "signed by another key", "refused", data("forged", PRODUCER, puts={"lille/c": 5}, signer=OTHER)
        ),
        "refused_dataset": with_change(
            "of another dataset", "refused", data("else", PRODUCER, puts={"lille/c": 5}, dataset=label("else", 16))
        ),
        "refused_other_id": with_change(
            "another id stands in it", "refused", data("this", PRODUCER, puts={"lille/c": 5}, named="that")
        ),
    }


def sections_refused() -> dict[str, Vector]:
    """Sections that break a rule of content."""

    def case(comment: str, author: Author, **parts: Any) -> Vector:
        return with_change(comment, "section refused", data("bad", author, **parts))

    return {
        "section_prefix": case("a put outside the prefix", PRODUCER, puts={"lille/c": 5, "nantes/c": 5}),
        "section_prefix_sibling": case("a prefix ends at '/'", PRODUCER, puts={"lille-2/c": 5}),
        "section_delete": case("a producer deletes", PRODUCER, deletes=(A,)),
        "section_tag": case("a producer tags", PRODUCER, tags={"t": 1}),
        "section_copy": case("a producer copies", PRODUCER, old=((A, Key("first"), "first"),)),
        "section_nonsense": case("it opens to nonsense", PRODUCER, plaintext=b"nonsense"),
        "section_reaches": case("an entry beyond its object", PRODUCER, puts={"lille/c": 5}, reach=1),
        "section_unknown_key": case(
            "an old object under a data key that is not there", CURATOR, old=((A, Key("nowhere"), "first"),)
        ),
        "section_notes": case("no policy, and names authors", CURATOR, notes=notes(ROSTER)),
        "section_later_key": key_of_the_future(),
    }


def key_of_the_future() -> Vector:
    """An old object under a data key that only a later commit brings: refused, also by who replays both at once."""
    log = started()
    log.add(data("early", CURATOR, old=(("lille/z", Key("later"), "later"),)))
    log.add(data("later", CURATOR, puts={"lille/z": 10}))
    comment = "an old object under a data key that a later commit brings"
    return Vector(comment, log, ["section refused", "accepted"], (A, B, "lille/z"))


FIRST = Key("first")
REPACKED = {A: 10, "lille/c": 7}


def repack(name: str, author: Author = CURATOR, under: Key = FIRST, **parts: Any) -> Change:
    """Two files in one new object under a data key of an earlier commit."""
    given = {"puts": REPACKED, "pack": "pack", **parts}
    return Change(name, author, reused=(under,), **given)


def repacked() -> dict[str, Vector]:
    """Data keys of earlier commits: who may reuse which."""
    good = repack("repack")
    packed = data("packed", PRODUCER, puts=REPACKED, pack="pack")
    second = Change("second", OTHER, keys=(Key("second"),), puts={B: 20})
    entries = {A: good.entry(A), "lille/c": good.entry("lille/c", 10), B: second.entry(B)}
    paths = (A, B, "lille/c")

    log = started()
    log.add(good)
    log.add(Change("destroy", ROOT, "destroy", destroyed=(FIRST,)))
    ended = Vector("repacked files end with the data key they were sealed under", log, ["accepted"] * 2, (B,))
    log = started()
    log.add(good)
    log.add(data("move", CURATOR, old=(("pack", FIRST, "repack"),), deletes=(A,)))
    log.add(Change("destroy", ROOT, "destroy", destroyed=(FIRST,)))
    moved = Vector(
        "a file that was moved after that keeps its name",
        log, ["accepted"] * 3, (B, "pack"),
        more={"entries": {B: second.entry(B), "pack": [good.object("pack").hex(), "00" * 32, FIRST.id.hex(), 0, 10]}},
    )  # fmt: skip
    log = started()
    log.add(Change("destroy", ROOT, "destroy", destroyed=(FIRST,)))
    log.add(repack("late"))
    late = Vector("it reuses a data key that was destroyed", log, ["accepted", "refused"], (B,))
    log = started()
    log.add(good)
    log.add(repack("again", object_id=good.object("pack"), puts={"lille/d": 5}))
    again = Vector("a new object goes by the name of one that is there", log, ["accepted", "section refused"], paths)
    return {
        "accepted_packed": with_change(
            "two files in one object", "accepted", packed, paths=paths,
            more={"entries": {A: packed.entry(A), "lille/c": packed.entry("lille/c", 10), B: second.entry(B)}},
        ),
        "accepted_repack": with_change(
            "a curator seals files anew under their own data key", "accepted", good, paths=paths,
            more={"entries": entries},
        ),
        "accepted_repack_by_root": with_change(
            "so may the root key", "accepted", repack("repack", ROOT), paths=paths
        ),
        "accepted_repack_destroyed": ended,
        "accepted_repack_moved_destroyed": moved,
        "refused_reuse_destroyed": late,
        "section_object_there_already": again,
        "refused_reuse_by_producer": with_change(
            "a producer seals under its own old data key", "refused", repack("own", PRODUCER)
        ),
        "refused_reuse_of_anothers": with_change(
            "a producer seals under another's data key", "refused",
            repack("theft", OTHER, puts={"nantes/c": 5}),
        ),
        "refused_reuse_by_rotator": with_change("a rotator seals", "refused", repack("turn", ROTATOR)),
        "refused_reuse_unknown": with_change(
            "a data key that the log does not have", "refused", repack("nowhere", under=Key("nowhere"))
        ),
        "refused_reuse_compartment": with_change(
            "a data key of another compartment than it says", "refused",
            repack("elsewhere", ROOT, under=Key("first", compartment=ELSEWHERE)),
        ),
        "refused_reuse_policy": with_change(
            "a data key of a policy", "refused", repack("hidden", ROOT, under=Key("policy 1 by root"))
        ),
    }  # fmt: skip


PLACES: list[Document] = [
    {"store": "az", "endpoint": "account.blob.example.net", "region": "", "jurisdiction": "US"},
    {"store": "s3", "endpoint": "s3.example.fr", "region": "fr-par", "jurisdiction": "FR"},
]


def placed() -> dict[str, Vector]:
    """Where change sets were written."""
    log = started()
    for number, place in enumerate(PLACES):
        log.add(data(f"at {number}", CURATOR, puts={"c": 5}, location=one_way(place).decode()))
    moved = Vector(
        "written at one store and, after a move, at another; those before do not say where",
        log, ["accepted"] * 2, (A, B, "c"), more={"locations": [None, None, None, *PLACES]},
    )  # fmt: skip
    log = started()
    log.add(data("nowhere", PRODUCER, puts={"lille/c": 5}, location='{"store": "s3"}'))
    log.add(data("after", PRODUCER, puts={"lille/d": 5}))
    return {
        "accepted_locations": moved,
        "refused_location": Vector(
            "a location that is none; reading goes on", log, ["refused", "accepted"], (A, B, "lille/d")
        ),
    }


def settings() -> dict[str, Vector]:
    """How files are packed, in a policy."""

    def case(comment: str, outcome: str, below: object, size: object, **more: Any) -> Vector:
        document = policy(2, ROSTER)
        document["settings"] |= {"pack_below": below, "pack_size": size}
        name = "policy with packing"
        change = Change(name, ROOT, "policy", (Key(name),), policy=document, notes=notes(ROSTER))
        return with_change(comment, outcome, change, more=more)

    plain = policy(1, ROSTER)["settings"]
    usual = {"settings": {**plain, "pack_below": 262_144, "pack_size": 16_777_216}}
    return {
        "accepted_packing": case(
            "what is packed, and how", "accepted", 4 << 20, 1 << 20,
            settings={**plain, "pack_below": 4 << 20, "pack_size": 1 << 20},
        ),
        "accepted_packing_off": case(
            "nothing is packed", "accepted", 0, 64 << 20, settings={**plain, "pack_below": 0, "pack_size": 64 << 20}
        ),
        "accepted_packing_unsaid": with_change(
            "a policy that says nothing of it", "accepted", policy_change(2), more=usual
        ),
        "refused_pack_below": case("above 4 MiB", "refused", (4 << 20) + 1, 1 << 24, **usual),
        "refused_pack_size": case("above 64 MiB", "refused", 1 << 18, (64 << 20) + 1, **usual),
        "refused_pack_size_small": case("below 1 MiB", "refused", 1 << 18, (1 << 20) - 1, **usual),
        "refused_pack_null": case("null is no number", "refused", None, 1 << 24, **usual),
    }  # fmt: skip


def taken_back() -> dict[str, Vector]:
    """Commits that the root key takes back, whether or not the store has their change sets."""

    def commit(log: Log, name: str = "x", *, missing: bool = True) -> Log:
        change = data(name, PRODUCER, puts={"lille/x": 5})
        log.add(change)
        if missing:
            del log.files[change.id]
        return log

    def take_back(log: Log, first: int, *again: Change, author: Author = ROOT, **how: Any) -> None:
        nothing = Change(f"nothing {len(log.links)}", author, "collect")
        log.add(*(again or (nothing,)), author=author, void=first, **how)

    def digest(log: Log, number: int) -> str:
        return hashlib.sha384(log.links[number]).hexdigest()

    def others(comment: str, **how: Any) -> Vector:
        log = started()
        take_back(log, 1, head=False, **how)
        log.add(last)
        return Vector(comment, log, ["void", "accepted"], (A, B, "c"))

    last = data("last", CURATOR, puts={"c": 5})
    found = {}
    for name, absent in {"missing": True, "present": False}.items():
        log = commit(started(), missing=absent)
        take_back(log, 3, parent=digest(log, 2))
        log.add(last)
        comment = f"its change set is {name}, and it does not count"
        found[f"taken_back_{name}"] = Vector(comment, log, ["void", "accepted", "accepted"], (A, B, "c"))
    log = commit(started())
    between = data("between", OTHER, puts={"nantes/d": 5})
    log.add(between)
    take_back(log, 3, between, parent=digest(log, 2))
    again = Vector(
        "what others committed meanwhile is committed again", log, ["void", "void", "accepted"], (A, B, "nantes/d")
    )
    log = commit(started())
    take_back(log, 3, parent=digest(log, 2))
    commit(log, "y")
    log.links.append(b"garbage")
    take_back(log, 5, parent=digest(log, 4))
    log.add(last)
    twice = Vector("twice", log, ["void", "accepted", "void", "void", "accepted", "accepted"], (A, B, "c"))
    log = commit(started())
    take_back(log, 3, parent=digest(log, 2))
    take_back(log, 4, parent=digest(log, 2))
    log.add(last)
    over = Vector(
        "the link that took it back is taken back: what it said of those before it stays",
        log, ["void", "void", "accepted", "accepted"], (A, B, "c"),
    )  # fmt: skip
    log = commit(started())
    take_back(log, 3, parent=digest(log, 2))
    del log.files[label("change nothing 4", 16)]
    withheld = Vector("the change set of the link that takes back is missing", log, [], expect="missing")
    return {
        **found,
        "taken_back_again": again,
        "taken_back_twice": twice,
        "taken_back_over": over,
        "taken_back_withheld": withheld,
        "taken_back_by_curator": others("a curator takes something back", author=CURATOR),
        "taken_back_forged": others("not signed by the root key", signer=CURATOR),
        "taken_back_elsewhere": others("a genuine link, at another number", sequence=9),
        "taken_back_foreign": others("a genuine link of another dataset", dataset=label("else", 16).hex()),
    }


def errors() -> dict[str, Vector]:
    """What the store must not do."""
    log = started()
    log.files[label("change first", 16)] = log.files[label("change second", 16)]
    swapped = Vector("one change set in the place of another", log, [], expect="tampered")
    log = started()
    first = label("change first", 16)
    log.files[first] = log.files[first][:-1]
    cut = Vector("a byte of a change set is missing", log, [], expect="tampered")
    log = started()
    del log.files[first]
    return {
        "error_swapped": swapped,
        "error_cut": cut,
        "error_missing": Vector("a change set is missing", log, [], expect="missing"),
    }


def vectors() -> dict[str, Vector]:
    """Every vector, by the name of its file."""
    counted = accepted() | repacked() | placed() | settings()
    return counted | void() | refused() | sections_refused() | taken_back() | errors()


def main() -> int:
    """Write the vectors of replay."""
    return write(HERE, {name: vector.text() for name, vector in vectors().items()})


if __name__ == "__main__":
    sys.exit(main())
