"""What a snapshot knows of one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the content of one file is, and what opens and checks it.

    ``object_key`` and ``salt`` stay out of ``repr``, and an entry refuses to be pickled or copied: it holds a key.
    """

    object_id: bytes  #: 16 bytes; names the sealed object
    object_key: bytes = field(repr=False)  #: 32 bytes, secret: opens the sealed object
    data_key_id: bytes  #: 16 bytes; the data key that the object key derives from
    salt: bytes = field(repr=False)  #: 24 bytes
    root: bytes  #: 32 bytes; digest that every byte of the object is checked against
    sealed_size: int  #: bytes of the sealed object
    offset: int  #: where the file begins in the plaintext of the object; 0 unless small files are packed together
    length: int  #: bytes of the file
    mtime_us: int  #: modification time, microseconds since 1970 UTC, never negative
    sequence: int  #: the commit that wrote this entry, 0 to 2**32 - 1

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.length

    @property
    def content(self) -> tuple[bytes, bytes, int, int]:
        """Equal for two entries exactly when they name the same stored bytes.

        The data key id is part of it: an author can repeat another's object id, but not a data key.
        """
        return self.data_key_id, self.object_id, self.offset, self.length

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError("an Entry holds a key: it cannot be copied or pickled")

    __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse
