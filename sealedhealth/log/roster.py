"""Who may do what: the roster, signed by the root key in a policy commit.

The public half (keys, roles, compartments) can be checked by anybody who holds a
copy of the log.  Names and path prefixes would tell the host what is inside, so
they stand in the sealed section of each compartment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sealedhealth.errors import MalformedError
from sealedhealth.log.strict import Fields

__all__ = ["Author", "Policy", "Role", "Settings"]

MAX_AUTHORS = 4096
MAX_COMPARTMENTS = 256
POINT_SIZE = 97
PACK_BELOW = 256 << 10  #: what settings mean that do not say
PACK_SIZE = 16 << 20


class Role(StrEnum):
    """What an author may commit."""

    PRODUCER = "producer"  #: add and replace, under its own path prefix
    CURATOR = "curator"  #: also delete, move, tag, checkpoint, collect garbage
    ROTATOR = "rotator"  #: replace wraps of known data keys, nothing else


@dataclass(frozen=True, slots=True)
class Author:
    """One entry of the roster."""

    author_id: bytes  #: 16 random bytes
    public_key: bytes = field(repr=False)  #: P-384 point, 97 bytes
    roles: frozenset[Role]
    compartments: frozenset[bytes]
    active: bool = True

    def may(self, *roles: Role) -> bool:
        """Whether the author is active and has one of *roles*."""
        return self.active and not self.roles.isdisjoint(roles)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the data controller decides once for everybody."""

    grace_s: int = 14 * 24 * 3600  #: how long dropped objects are kept, in seconds
    data_key_bytes: int = 1 << 42  #: most bytes sealed by one data key
    data_key_age_s: int = 24 * 3600  #: longest use of one data key, in seconds
    pack_below: int = PACK_BELOW  #: smaller files share sealed objects; plaintext bytes, 0: none does
    pack_size: int = PACK_SIZE  #: most plaintext bytes of an object that files share

    def to_json(self) -> dict[str, int]:
        """The JSON form; how files are packed is left out when it is as usual."""
        packing = {"pack_below": (self.pack_below, PACK_BELOW), "pack_size": (self.pack_size, PACK_SIZE)}
        return {
            "grace_s": self.grace_s,
            "data_key_bytes": self.data_key_bytes,
            "data_key_age_s": self.data_key_age_s,
            **{name: value for name, (value, usual) in packing.items() if value != usual},
        }

    @classmethod
    def read(cls, fields: Fields) -> Settings:
        """Read and bound the JSON form."""
        settings = cls(
            grace_s=fields.integer("grace_s", most=100 * 366 * 24 * 3600),
            data_key_bytes=fields.integer("data_key_bytes", least=1, most=1 << 48),
            data_key_age_s=fields.integer("data_key_age_s", least=1, most=366 * 24 * 3600),
            pack_below=fields.integer("pack_below", most=4 << 20, absent=PACK_BELOW),
            pack_size=fields.integer("pack_size", least=1 << 20, most=64 << 20, absent=PACK_SIZE),
        )
        fields.finish()
        return settings


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of the roster and settings."""

    version: int
    compartments: tuple[bytes, ...]
    authors: Mapping[bytes, Author]
    settings: Settings = Settings()

    def author_of(self, public_key: bytes) -> Author | None:
        """The roster's entry for a public key."""
        return next((author for author in self.authors.values() if author.public_key == public_key), None)

    def with_author(self, author: Author) -> Policy:
        """The next version, with *author* added or replaced."""
        return replace(self, version=self.version + 1, authors={**self.authors, author.author_id: author})

    def to_json(self) -> dict[str, object]:
        """The JSON form of the public half."""
        return {
            "version": self.version,
            "compartments": [compartment.hex() for compartment in self.compartments],
            "settings": self.settings.to_json(),
            "authors": [
                {
                    "id": author.author_id.hex(),
                    "key": author.public_key.hex(),
                    "roles": sorted(author.roles),
                    "compartments": sorted(compartment.hex() for compartment in author.compartments),
                    "active": author.active,
                }
                for author in self.authors.values()
            ],
        }

    @classmethod
    def read(cls, fields: Fields) -> Policy:
        """Read and check the JSON form."""
        version = fields.integer("version", least=1, most=1 << 31)
        compartments = tuple(
            _distinct(fields, "compartments", fields.hexes("compartments", 16, limit=MAX_COMPARTMENTS))
        )
        settings = Settings.read(fields.object("settings"))
        authors: dict[bytes, Author] = {}
        for item in fields.objects("authors", limit=MAX_AUTHORS):
            author = _read_author(item, compartments)
            if author.author_id in authors or author.author_id == bytes(16):
                raise MalformedError("The roster names an author twice, or by the root key's id.")
            authors[author.author_id] = author
        fields.finish()
        if len({author.public_key for author in authors.values()}) != len(authors):
            raise MalformedError("Two authors on the roster share a public key.")
        return cls(version=version, compartments=compartments, authors=authors, settings=settings)


def _read_author(item: Fields, compartments: Iterable[bytes]) -> Author:
    roles = item.items("roles", limit=len(Role))
    if not all(isinstance(role, str) and role in set(Role) for role in roles):
        item.fail("roles")
    own = item.hexes("compartments", 16, limit=MAX_COMPARTMENTS)
    if not set(own) <= set(compartments):
        item.fail("compartments")
    author = Author(
        author_id=item.hex("id", 16),
        public_key=item.hex("key", POINT_SIZE),
        roles=frozenset(Role(role) for role in roles),
        compartments=frozenset(own),
        active=item.boolean("active"),
    )
    item.finish()
    return author


def _distinct(fields: Fields, name: str, values: list[bytes]) -> list[bytes]:
    if len(set(values)) != len(values) or not values:
        fields.fail(name)
    return values
