"""What a stored file is, by its name and its bytes, with no key.

That something looks sealed is no proof: ciphertext and other compressed or random bytes look alike.  What can be said
is the reverse.  The public parts of a file are read as strictly as by a reader of the log, and what should be
ciphertext must not be compressible: of all strings of a length, less than one in 2**127 gets 16 bytes shorter by
whatever means.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from sealedhealth.errors import IntegrityError, TruncatedError
from sealedhealth.format import HEADER_SIZE, Header, Kind, Layout
from sealedhealth.format.header import MAGIC
from sealedhealth.log.changeset import ChangeSet
from sealedhealth.log.checkpoint import Manifest
from sealedhealth.log.envelope import MAGIC as LOG_MAGIC
from sealedhealth.log.envelope import FileKind
from sealedhealth.log.link import DESCRIPTOR_SIZE, LINK_LIMIT, Descriptor, Link
from sealedhealth.log.names import DESCRIPTOR_NAME

__all__ = ["HEAD", "Judgement", "is_place", "judge", "judge_unfinished", "looks_readable", "readable_sample"]

HEAD = 4096  #: bytes from the start of a file that are always looked at
WHOLE = 128 << 20  #: bytes of a file of the log that is read as a whole
SAMPLE = 1024  #: bytes that are looked at of every so many:
SAMPLE_EVERY = 256 << 10
_SAVED = 16  #: bytes by which ciphertext cannot be compressed
_PREFIX = 120  #: header, salt and commitment of a sealed object

_PLACES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("descriptor", re.compile(re.escape(DESCRIPTOR_NAME))),
    ("link", re.compile(r"\.sealedhealth/log/\d{12,15}")),
    ("change", re.compile(r"\.sealedhealth/changes/[0-9a-f]{32}")),
    ("checkpoint", re.compile(r"\.sealedhealth/checkpoints/[0-9a-f]{32}")),
    ("object", re.compile(r"objects/([0-9a-f]{2})/\1[0-9a-f]{30}")),
)
_BELONGS = {Kind.OBJECT: "object", Kind.CHECKPOINT_SECTION: "checkpoint"}
_LOG_BELONGS = {
    FileKind.DESCRIPTOR: "descriptor",
    FileKind.LINK: "link",
    FileKind.CHANGE_SET: "change",
    FileKind.CHECKPOINT: "checkpoint",
}
#: Stands for a link that counted for nothing, where anchors were made again.
_VOID = b"sealedhealth: a void link that was lost\n"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a file is."""

    kind: str = ""  #: of the finding; "" when it is what it should be
    detail: str = ""
    sealed: bool = True  #: whether it has the form of a file of a dataset
    ciphertext: bool = False  #: whether everything after the header has to be ciphertext


def is_place(name: str) -> bool:
    """Whether a dataset gives such names to its files."""
    return any(pattern.fullmatch(name) for _, pattern in _PLACES)


def looks_readable(data: bytes) -> bool:
    """Whether these bytes cannot be ciphertext, since they can be compressed."""
    return len(data) > _SAVED and len(zlib.compress(data, 1)) <= len(data) - _SAVED


def readable_sample(data: bytes, at: int) -> int | None:
    """Where in a piece that stands *at* bytes into a sealed object there is something that is no ciphertext."""
    start = max(0, _PREFIX - at)
    for place in range(start, len(data), SAMPLE_EVERY):
        if looks_readable(data[place : place + SAMPLE]):
            return at + place
    return None


def judge(
    name: str, head: bytes, size: int, dataset_id: bytes | None, *, checked: bool, whole: Callable[[], bytes | None]
) -> Judgement:
    """What the file *name*, relative to the root of its dataset, is.

    Parameters
    ----------
    head:
        Its first bytes, :data:`HEAD` or all.
    dataset_id:
        The dataset that it lies in; ``None`` when it lies in none.
    checked:
        Whether its digest has been compared with the log: then it need not be read whole.
    whole:
        Gives all of it; ``None`` when it is gone.
    """
    place = next((kind for kind, pattern in _PLACES if pattern.fullmatch(name)), "")
    if head.startswith(MAGIC):
        return _object(name, place, head, size, dataset_id)
    if head.startswith(LOG_MAGIC):
        return _log_file(name, place, head, size, dataset_id, checked=checked, whole=whole)
    if place == "link" and head == _VOID:
        return Judgement()
    if not size:
        return Judgement("empty", "its name is all that shows", sealed=False)
    return Judgement("not sealed", "it begins like no file of a dataset", sealed=False)


def judge_unfinished(head: bytes, dataset_id: bytes | None) -> Judgement:
    """What a file is of which the first bytes may be all that has been written yet."""
    if not any(magic.startswith(head[: len(magic)]) for magic in (MAGIC, LOG_MAGIC)):
        return Judgement("not sealed", "an unfinished file that begins like none of a dataset", sealed=False)
    if head.startswith(MAGIC) and len(head) >= HEADER_SIZE:
        try:
            foreign = _foreign(Header.parse(head).dataset_id, dataset_id)
        except IntegrityError as error:
            return Judgement("not sealed", f"its header is none of ours: {error.what}", sealed=False)
        if foreign is not None:
            return foreign
        if looks_readable(head[_PREFIX:]):
            return Judgement("not ciphertext", "what follows its header can be compressed")
    return Judgement("unfinished", "a file that is being written, or was given up", ciphertext=head.startswith(MAGIC))


def _object(name: str, place: str, head: bytes, size: int, dataset_id: bytes | None) -> Judgement:
    try:
        header = Header.parse(head)
    except IntegrityError as error:
        return Judgement("not sealed", f"its header is none of ours: {error.what}", sealed=False)
    if looks_readable(head[_PREFIX:]):
        return Judgement("not ciphertext", "what follows its header can be compressed", sealed=False)
    foreign = _foreign(header.dataset_id, dataset_id)
    if foreign is not None:
        return foreign
    try:
        Layout.of_sealed(size)
    except TruncatedError:
        return Judgement("longer", f"no sealed object has {size} bytes: it was extended, or cut", ciphertext=True)
    own = bytes.fromhex(name[-32:]) if place else b""
    if dataset_id is None or _BELONGS.get(header.kind) != place or header.object_id != own:
        return Judgement("misplaced", f"a sealed object of dataset {header.dataset_id.hex()}", ciphertext=True)
    return Judgement(ciphertext=True)


def _foreign(found: bytes, dataset_id: bytes | None) -> Judgement | None:
    if dataset_id is None or found == dataset_id:
        return None
    return Judgement("other dataset", f"sealed for dataset {found.hex()}")


def _log_file(
    name: str,
    place: str,
    head: bytes,
    size: int,
    dataset_id: bytes | None,
    *,
    checked: bool,
    whole: Callable[[], bytes | None],
) -> Judgement:
    kind = head[9] if len(head) > 9 else 0
    if checked and _LOG_BELONGS.get(FileKind(kind) if kind in set(FileKind) else FileKind.DESCRIPTOR) == place:
        return Judgement()
    if size > WHOLE:
        return Judgement("not sealed", f"a file of a log, too large to be looked through ({size} bytes)", sealed=False)
    data = head if len(head) == size else whole()
    if data is None:
        return Judgement()
    try:
        own, belongs, named = _read(kind, data)
    except IntegrityError as error:
        return Judgement("not sealed", f"it begins like a file of a log, and is none: {error.what}", sealed=False)
    foreign = _foreign(own, dataset_id)
    if foreign is not None:
        return foreign
    if dataset_id is None or belongs != place or named not in {"", name.rpartition("/")[2]}:
        return Judgement("misplaced", f"a {belongs} of the log of dataset {own.hex()}")
    return Judgement()


def _read(kind: int, data: bytes) -> tuple[bytes, str, str]:
    """Dataset id, kind and name of a file of the log, read strictly to its last byte."""
    if kind == FileKind.LINK:
        if len(data) > LINK_LIMIT:
            raise TruncatedError("It is longer than any link.")
        link = Link.read(Link.split(data))
        return link.dataset_id, "link", f"{link.sequence:012d}"
    if kind == FileKind.CHANGE_SET:
        change = ChangeSet.read(ChangeSet.split(data))
        for section in change.sealed:
            if Header.parse(section).dataset_id != change.dataset_id or looks_readable(section[_PREFIX:][:HEAD]):
                raise TruncatedError("A section of it is not sealed.")
        return change.dataset_id, "change", change.change_id.hex()
    if kind == FileKind.CHECKPOINT:
        manifest = Manifest.read(Manifest.split(data))
        return manifest.dataset_id, "checkpoint", manifest.checkpoint_id.hex()
    if len(data) > DESCRIPTOR_SIZE:
        raise TruncatedError("It is longer than any descriptor.")
    return Descriptor.load(data, dataset_id=None).dataset_id, "descriptor", ""
