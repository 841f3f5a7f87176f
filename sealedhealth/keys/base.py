"""The interfaces of a key service, and the values that travel through them.

Three narrow interfaces stand between sealedhealth and whatever holds the keys:
:class:`KeyService` (key-encryption keys and signatures), :class:`AnchorStore`
(create-only entries that say which commit is the latest) and :class:`Registry`
(which dataset belongs to which URL).  One object may implement all three.
``sealedhealth.testing`` has a conformance kit for each.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, runtime_checkable

from sealedhealth.errors import InvalidInput
from sealedhealth.format import Kind, data_key_id, object_key
from sealedhealth.keys.secret import Secret

__all__ = [
    "AnchorEntry",
    "AnchorIndex",
    "AnchorStore",
    "AuthorKey",
    "Capabilities",
    "DataKey",
    "DatasetRef",
    "Kek",
    "KekVersions",
    "KeyService",
    "PolicyRef",
    "Registry",
    "WrappedKey",
]

ID_SIZE = 16
MAX_URL_SIZE = 4096  #: bytes of UTF-8
HEX_ID = re.compile(r"[0-9a-fA-F]{32}")  #: a dataset id as text
DATA_KEY_SIZE = 32
MAX_LINK_SIZE = 65536  #: bytes of one anchor's value
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Kek:
    """Names one key-encryption key: there is one per dataset and compartment.

    The name derives from the two ids, never from anything read from a store.
    """

    dataset_id: bytes  #: 16 bytes
    compartment_id: bytes  #: 16 bytes

    def __post_init__(self) -> None:
        # Other lengths would let two different pairs share one binding.
        if len(self.dataset_id) != ID_SIZE or len(self.compartment_id) != ID_SIZE:
            raise InvalidInput(f"Dataset and compartment ids have {ID_SIZE} bytes.")

    @property
    def name(self) -> str:
        """The name of the key in the key service."""
        return f"sh-{self.dataset_id.hex()}-{self.compartment_id.hex()}"

    @property
    def binding(self) -> bytes:
        """32 bytes that tie a wrapped key to its dataset and compartment.

        SHA-256 of the format version (1 byte), dataset id and compartment id; the
        key-derivation context of the wrap, so that it survives a rewrap.
        """
        return hashlib.sha256(bytes([FORMAT_VERSION]) + self.dataset_id + self.compartment_id).digest()


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key wrapped by a key-encryption key; safe to store anywhere."""

    kek: Kek
    key_id: bytes  #: 16 bytes, derived from the data key
    version: int  #: version of the KEK that wraps it, from 1
    ciphertext: bytes = field(repr=False)  #: opaque to everybody but the key service


class DataKey(Secret):
    """A 32-byte data key in memory; hidden, neither copied nor pickled, wiped when closed or dropped."""

    __slots__ = ("key_id",)

    def __init__(self, key: bytes | bytearray) -> None:
        if len(key) != DATA_KEY_SIZE:
            raise ValueError(f"a data key has {DATA_KEY_SIZE} bytes")
        super().__init__(key)
        self.key_id = data_key_id(self.expose())  #: 16 bytes, derived from the key

    def object_key(self, kind: Kind, object_id: bytes) -> bytes:
        """The 32-byte key of one sealed object or section under this data key."""
        return object_key(self.expose(), kind, object_id)

    def __repr__(self) -> str:
        return f"<DataKey {self.key_id.hex()[:8]}… redacted>"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a key service can do."""

    label: str  #: shown in listings, for example ``local (development)``
    max_batch: int  #: most keys in one unwrap or rewrap call
    rewrap_without_plaintext: bool  #: whether the caller of rewrap never sees a data key
    development: bool = False  #: True when keys are not protected; shown everywhere


@dataclass(frozen=True, slots=True)
class KekVersions:
    """The versions of one KEK that the service still has."""

    minimum: int  #: oldest version that still unwraps
    latest: int  #: version that wraps new keys


@dataclass(frozen=True, slots=True)
class AuthorKey:
    """The public half of a signing key."""

    name: str  #: the name of the key in the key service
    public_key: bytes  #: P-384 point, uncompressed, X9.62: 97 bytes


@runtime_checkable
class KeyService(Protocol):
    """Key-encryption keys that never leave, and signatures.

    Every method may raise ``ServiceUnavailable``, ``Throttled`` or ``AccessDenied``.
    """

    def capabilities(self) -> Capabilities:
        """What this service can do; no request."""
        ...

    def now(self) -> datetime:
        """The service's clock (aware, UTC): never the store's."""
        ...

    def create(self, kek: Kek) -> None:
        """Make version 1 of *kek*. Raises ``AlreadyExists``."""
        ...

    def generate(self, kek: Kek) -> tuple[DataKey, WrappedKey]:
        """A fresh random data key, wrapped by the latest version. Raises ``KeyMissing``."""
        ...

    def unwrap(self, wrapped: Sequence[WrappedKey]) -> list[DataKey]:
        """Open wrapped keys, in order, in as few requests as it takes.

        Raises ``KeyRetired`` (version below the minimum: its key material is gone),
        ``KeyMissing``, or ``IntegrityError`` (altered, or bound to another place).
        """
        ...

    def rewrap(self, wrapped: Sequence[WrappedKey]) -> list[WrappedKey]:
        """Wrap the same data keys by the latest KEK version; same errors as :meth:`unwrap`."""
        ...

    def rotate(self, kek: Kek) -> int:
        """Add a version to *kek* and return its number."""
        ...

    def retire(self, kek: Kek, minimum: int) -> None:
        """Destroy every version below *minimum* for good.

        A *minimum* at or below the present one changes nothing. Raises ``KeyMissing``, or
        ``InvalidInput`` when it is below 1 or above the latest.
        """
        ...

    def versions(self, kek: Kek) -> KekVersions:
        """Which versions are still there. Raises ``KeyMissing``."""
        ...

    def create_author(self, name: str) -> AuthorKey:
        """Make an ECDSA P-384 signing key.

        *name* has 1 to 128 letters, digits, ``.``, ``_`` or ``-``, a letter or digit first
        (otherwise ``InvalidInput``). Raises ``AlreadyExists``.
        """
        ...

    def author(self, name: str) -> AuthorKey:
        """The public half of a signing key. Raises ``KeyMissing``."""
        ...

    def sign(self, name: str, message: bytes) -> bytes:
        """ECDSA P-384 with SHA-384 over *message*: 96 bytes, r and s of 48 bytes each, big-endian (IEEE P1363)."""
        ...


@dataclass(frozen=True, slots=True)
class AnchorEntry:
    """One create-only entry: the link that was the commit of this sequence number."""

    sequence: int
    link: bytes = field(repr=False)  #: the whole link file
    created: datetime  #: by the key service's clock


@runtime_checkable
class AnchorStore(Protocol):
    """Says which commit is the latest. Nothing here overwrites or deletes."""

    def create_anchor(self, dataset_id: bytes, sequence: int, link: bytes) -> AnchorEntry:
        """Create the entry, durably. *link* has 1 to 65,536 bytes, *sequence* is 0 to 2^53 - 1.

        Raises ``AnchorTaken`` when the entry exists, whatever it holds.
        """
        ...

    def read_anchor(self, dataset_id: bytes, sequence: int) -> AnchorEntry | None:
        """The entry, or ``None`` when it does not exist. Raises ``StaleReplica`` when freshness is in doubt."""
        ...


@runtime_checkable
class AnchorIndex(Protocol):
    """What an anchor store may have beside: finding the last entry at once, where probing would take many requests."""

    def last_anchor(self, dataset_id: bytes, least: int) -> int | None:
        """The last number of the unbroken run that goes on from *least*, or *least* when nothing follows it.

        ``None`` when it cannot be told this way, for example for want of a right. Raises what
        :meth:`AnchorStore.read_anchor` raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """The newest policy that the key service knows: readers accept nothing older."""

    version: int  #: roster version, from 1
    change_id: bytes  #: 16 bytes
    digest: bytes  #: SHA-384 of the change-set file


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """What the key service knows of a dataset."""

    dataset_id: bytes  #: 16 bytes
    urls: tuple[str, ...]  #: where it may be found
    policy: PolicyRef | None = None
    destroyed: bool = False

    def checked(self) -> DatasetRef:
        """The same with URLs in one form and each once. Raises ``InvalidInput`` for what no registry may hold."""
        urls = tuple(dict.fromkeys(url.rstrip("/") for url in self.urls))
        policy = self.policy
        if len(self.dataset_id) != ID_SIZE:
            raise InvalidInput(f"A dataset id has {ID_SIZE} bytes.")
        for url in urls:
            size = len(url.encode("utf-8", "replace"))
            if not 0 < size <= MAX_URL_SIZE or not url.isprintable() or HEX_ID.fullmatch(url):
                raise InvalidInput(f"{url[:200]!r} cannot be the URL of a dataset.", safe="Nothing was changed.")
        if policy is not None and (policy.version < 1 or len(policy.change_id) != 16 or len(policy.digest) != 48):
            raise InvalidInput("A policy has a version from 1, a change id of 16 bytes and a digest of 48.")
        return replace(self, urls=urls)


@runtime_checkable
class Registry(Protocol):
    """Which dataset belongs to which URL or name: told by the key service, never by the store."""

    def lookup(self, url_or_id: str) -> DatasetRef:
        """The dataset registered for a URL or for a hexadecimal id.

        URLs match exactly, save for a trailing ``/``. A destroyed dataset is found by its URL
        until another one takes that URL, and by its id for good. Raises ``NotFound``.
        """
        ...

    def register(self, ref: DatasetRef) -> None:
        """Write or replace the record of ``ref.dataset_id``. URLs lose their trailing ``/``.

        Raises ``ConflictError``, and changes nothing, when one of its URLs belongs to another
        dataset that is not destroyed; when its policy is older than the recorded one (none at
        all counts as older), or another policy of the same version; or when the recorded
        dataset is destroyed and *ref* is not.
        """
        ...

    def datasets(self) -> list[DatasetRef]:
        """Every record this identity may see."""
        ...
