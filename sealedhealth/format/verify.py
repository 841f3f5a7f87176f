"""What every reader checks before it lets anything out, and the check that needs no key."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

from sealedhealth.errors import TamperedError, TruncatedError, WrongKey
from sealedhealth.format.header import HEADER_SIZE, ID_SIZE, Header
from sealedhealth.format.layout import DIGEST_SIZE, Layout
from sealedhealth.format.segments import Buffer, SegmentHasher, frozen, root_of, trailer_of

_SAFE = "Nothing that failed the check was let out."
_NEXT = "Fetch it again or from another copy; if that fails too, the host or the way to it has altered it."


class Checker:
    """Checks a sealed object that passes by against its signed root; needs no key and holds a bounded part of it.

    Feed the whole object, trailer included, from its first byte.  Raises
    :class:`TruncatedError` when no object has *sealed_size* bytes.
    """

    def __init__(self, *, root: bytes, sealed_size: int, executor: Executor | None = None) -> None:
        self._layout = Layout.of_sealed(sealed_size)
        self._root = root
        self._hasher = SegmentHasher(executor)
        self._trailer = bytearray()

    def update(self, sealed: Buffer) -> None:
        """Take the next bytes. Raises :class:`TruncatedError` when they are more than there should be."""
        view = frozen(sealed)
        body = view[: self._layout.body_end - self._hasher.total]
        self._hasher.update(body)
        self._trailer += view[len(body) :]
        if self._hasher.total + len(self._trailer) > self._layout.sealed_size:
            raise too_long(self._layout.sealed_size)

    def finalize(self) -> None:
        """Say whether the object is the signed one: raises :class:`TruncatedError` or :class:`TamperedError` if not."""
        size = self._hasher.total + len(self._trailer)
        if size < self._layout.sealed_size:
            raise too_short(size, self._layout.sealed_size)
        digests = self._hasher.finish()
        if root_of(self._layout.body_end, digests) != self._root or trailer_of(digests) != self._trailer:
            raise tampered("A sealed object is not the one whose root was signed.")


class SignedSegments:
    """What the digest of each segment must be, by the signed root and the trailer.

    Raises :class:`TruncatedError` for a trailer of another length, and
    :class:`TamperedError` for one that is not the list that was signed.
    """

    def __init__(self, layout: Layout, root: bytes, trailer: Buffer) -> None:
        self._layout = layout
        self._root = root
        self.trailer = bytes(trailer)
        expected = layout.sealed_size - layout.body_end
        if len(self.trailer) < expected:
            raise too_short(len(self.trailer), expected)
        if len(self.trailer) > expected:
            raise too_long(expected)
        # A single segment has no list: its own digest makes the root.
        if expected and root_of(layout.body_end, self.trailer) != root:
            raise tampered("The segment list of a sealed object is not the one whose root was signed.")

    def check(self, segments: Iterable[int], digests: bytes) -> None:
        """Compare the digests of some segments, joined; :class:`TamperedError` names the first that differs."""
        for at, segment in enumerate(segments):
            digest = digests[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]
            if self.trailer:
                genuine = digest == self.trailer[segment * DIGEST_SIZE : (segment + 1) * DIGEST_SIZE]
            else:
                genuine = root_of(self._layout.body_end, digest) == self._root
            if not genuine:
                raise tampered(f"Segment {segment} of a sealed object is not the signed one.")


def check_header(expected: Header, found: bytes) -> None:
    """Compare the header of an object with the one it must have; only the ids are worth telling apart.

    Raises :class:`TamperedError`.
    """
    wanted = expected.pack()
    if found == wanted:
        return
    if found[: HEADER_SIZE - ID_SIZE] == wanted[: HEADER_SIZE - ID_SIZE]:
        raise tampered("Another sealed object was put in the place of this one.")
    raise tampered("The header of a sealed object is not the signed one.")


def tampered(what: str) -> TamperedError:
    """The error for bytes that differ from what was signed."""
    return TamperedError(what, safe=_SAFE, next=_NEXT)


def too_short(size: int, expected: int) -> TruncatedError:
    """The error for an object, or a part of one, that ends too early."""
    return TruncatedError(
        f"A sealed object ends too early: {size} bytes where {expected} should be.", safe=_SAFE, next=_NEXT
    )


def too_long(expected: int) -> TruncatedError:
    """The error for an object, or a part of one, that goes on."""
    return TruncatedError(f"A sealed object goes on after its {expected} bytes.", safe=_SAFE, next=_NEXT)


def wrong_key() -> WrongKey:
    """The error for a body that is what was signed and still does not open."""
    return WrongKey(
        "A sealed object is intact, but the key at hand is not the one it was sealed with.",
        safe="Nothing was let out.",
        next="Check that the data key is the one that the log names for it.",
    )
