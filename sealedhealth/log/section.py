"""The sealed section of a change set: paths, message, tags, and where the bytes are."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sealedhealth.errors import MalformedError
from sealedhealth.log.columns import Column, Content, Field, Schema, decode, encode
from sealedhealth.log.link import MAX_SEQUENCE
from sealedhealth.log.paths import MAX_PATH_BYTES, check_canonical, lines_are_canonical
from sealedhealth.log.strict import MAX_TIME_US, Fields, dump_json, load_json

__all__ = ["AuthorNote", "ObjectRow", "Put", "Section"]

MAX_ENTRIES = 1 << 20  #: most puts or deletes in one section
MAX_MESSAGE = 4096  #: characters
MAX_TAG = 256  #: characters of a tag's name
MAX_NOTES = 4096
NOT_A_TAG = (1 << 64) - 1  #: stands for a tag that is taken away
_EXPANDED = 512 << 20

_SCHEMA = Schema(
    name="section/1",
    fields={
        "message": Field(str, 4 * MAX_MESSAGE),
        "notes": Field(str, 8 << 20, optional=True),
        "compartment": Field(str, 4 * 256, optional=True),
    },
    columns={
        "new_index": Column("u32", "new", compress=True),
        "new_salt": Column("bytes:24", "new"),
        "old_object": Column("bytes:16", "old", optional=True),
        "old_key": Column("bytes:16", "old", optional=True),
        "old_salt": Column("bytes:24", "old", optional=True),
        "old_root": Column("bytes:32", "old", optional=True),
        "old_size": Column("u64", "old", compress=True, optional=True),
        "put_path": Column("text", "put", compress=True),
        "put_object": Column("u32", "put", compress=True),
        "put_offset": Column("u64", "put", compress=True, optional=True),
        "put_length": Column("u64", "put", compress=True),
        "put_mtime": Column("u64", "put", compress=True),
        "delete_path": Column("text", "delete", compress=True, optional=True),
        "tag_name": Column("text", "tag", optional=True),
        "tag_sequence": Column("u64", "tag", optional=True),
    },
    tables={"new": MAX_ENTRIES, "old": MAX_ENTRIES, "put": MAX_ENTRIES, "delete": MAX_ENTRIES, "tag": 4096},
    max_expanded=_EXPANDED,
)


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One stored object, as an entry of a section refers to it."""

    object_id: bytes
    data_key_id: bytes
    salt: bytes = field(repr=False)
    root: bytes
    sealed_size: int


@dataclass(frozen=True, slots=True)
class Put:
    """A path that now has this content."""

    path: str
    object_index: int  #: into the section's new objects, then its old ones
    offset: int
    length: int
    mtime_us: int


@dataclass(frozen=True, slots=True)
class AuthorNote:
    """What the roster says of an author inside a compartment."""

    name: str
    prefix: str  #: the only place where a producer may put; ``""`` is everywhere


@dataclass(frozen=True, slots=True)
class Section:
    """What one change set does in one compartment."""

    message: str = ""
    new_objects: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)  #: index in the inventory, salt
    old_objects: tuple[ObjectRow, ...] = ()  #: objects of earlier change sets (copies, moves, restores)
    puts: tuple[Put, ...] = ()
    deletes: tuple[str, ...] = ()
    tags: Mapping[str, int | None] = field(default_factory=dict)  #: None takes a tag away
    notes: Mapping[bytes, AuthorNote] = field(default_factory=dict)  #: policy only
    compartment_name: str = ""  #: policy only

    def pack(self) -> bytes:
        """The plaintext of the section."""
        fields: dict[str, str | int | bool | bytes] = {"message": self.message}
        if self.notes:
            fields["notes"] = dump_notes(self.notes)
        if self.compartment_name:
            fields["compartment"] = self.compartment_name
        old = self.old_objects
        puts = self.puts
        return encode(
            _SCHEMA,
            rows={
                "new": len(self.new_objects),
                "old": len(old),
                "put": len(puts),
                "delete": len(self.deletes),
                "tag": len(self.tags),
            },
            fields=fields,
            columns={
                "new_index": array("I", [index for index, _ in self.new_objects]),
                "new_salt": b"".join(salt for _, salt in self.new_objects),
                "old_object": b"".join(row.object_id for row in old),
                "old_key": b"".join(row.data_key_id for row in old),
                "old_salt": b"".join(row.salt for row in old),
                "old_root": b"".join(row.root for row in old),
                "old_size": array("Q", [row.sealed_size for row in old]),
                "put_path": [put.path for put in puts],
                "put_object": array("I", [put.object_index for put in puts]),
                "put_offset": array("Q", [put.offset for put in puts]),
                "put_length": array("Q", [put.length for put in puts]),
                "put_mtime": array("Q", [put.mtime_us for put in puts]),
                "delete_path": list(self.deletes),
                "tag_name": list(self.tags),
                "tag_sequence": array("Q", [NOT_A_TAG if at is None else at for at in self.tags.values()]),
            },
        )

    @classmethod
    def read(cls, data: bytes) -> Section:
        """Parse an opened section.

        Raises
        ------
        MalformedError, UnsupportedFormat
            It breaks the format, or holds a path that is not canonical.
        """
        content = decode(_SCHEMA, data)
        message = content.string("message")
        if len(message) > MAX_MESSAGE:
            raise MalformedError("A commit message is longer than any may be.")
        mtimes = content.numbers("put_mtime")
        if mtimes and max(mtimes) > MAX_TIME_US:
            raise MalformedError("A file has an impossible modification time.")
        return cls(
            message=message,
            new_objects=tuple(zip(content.numbers("new_index"), content.blobs("new_salt"), strict=True)),
            old_objects=tuple(_old_rows(content)),
            puts=tuple(
                map(
                    Put,
                    _paths(content, "put_path"),
                    content.numbers("put_object"),
                    content.numbers("put_offset"),
                    content.numbers("put_length"),
                    mtimes,
                )
            ),
            deletes=tuple(_paths(content, "delete_path")),
            tags=_tags(content),
            notes=read_notes(str(content.fields.get("notes", ""))),
            compartment_name=str(content.fields.get("compartment", "")),
        )


def _old_rows(content: Content) -> Iterator[ObjectRow]:
    return map(
        ObjectRow,
        content.blobs("old_object"),
        content.blobs("old_key"),
        content.blobs("old_salt"),
        content.blobs("old_root"),
        content.numbers("old_size"),
    )


def _paths(content: Content, name: str) -> list[str]:
    lines = content.lines(name)
    if lines and not lines_are_canonical("\n".join(lines)):
        for line in lines:
            check_canonical(line)
    return lines


def _tags(content: Content) -> dict[str, int | None]:
    names = content.lines("tag_name")
    check_tags(names)
    tags: dict[str, int | None] = {}
    for name, sequence in zip(names, content.numbers("tag_sequence"), strict=True):
        if sequence != NOT_A_TAG and sequence > MAX_SEQUENCE:
            raise MalformedError("A tag names an impossible commit.")
        tags[name] = None if sequence == NOT_A_TAG else sequence
    if len(tags) != len(names):
        raise MalformedError("A tag stands twice in one change set.")
    return tags


def check_tags(names: Iterable[str]) -> None:
    """Raise ``MalformedError`` for a tag name that is empty, too long, all digits, or not printable."""
    for name in names:
        if not name or len(name) > MAX_TAG or name.isdigit() or not name.isprintable() or "/" in name:
            raise MalformedError("A tag has an impossible name.")


def dump_notes(notes: Mapping[bytes, AuthorNote]) -> str:
    """Names and prefixes of authors as JSON."""
    return dump_json(
        {"notes": [{"id": key.hex(), "name": note.name, "prefix": note.prefix} for key, note in notes.items()]}
    ).decode()


def read_notes(document: str) -> dict[bytes, AuthorNote]:
    """Names and prefixes of authors from :func:`dump_notes`; an empty document holds none."""
    if not document:
        return {}
    fields = load_json(document.encode(), "roster's names")
    notes: dict[bytes, AuthorNote] = {}
    for item in fields.objects("notes", limit=MAX_NOTES):
        author_id = item.hex("id", 16)
        notes[author_id] = _note(item)
    fields.finish()
    return notes


def _note(item: Fields) -> AuthorNote:
    note = AuthorNote(item.text("name", limit=256), item.text("prefix", limit=MAX_PATH_BYTES))
    item.finish()
    if note.prefix:
        check_canonical(note.prefix)
    return note
