"""Key material in memory."""

from __future__ import annotations

from typing import NoReturn, Self, SupportsIndex

from sealedhealth.errors import SealedHealthError

__all__ = ["HiddenBytes", "Secret"]


class Secret:
    """Bytes that must not leak by accident.

    Hides itself from ``repr`` (and so from tracebacks that show local variables), refuses to
    be pickled or copied, and is wiped by :meth:`close`, or when the last reference to it goes,
    as far as Python allows: :meth:`expose` makes copies that nobody can wipe.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes | bytearray) -> None:
        self._key: bytearray | None = bytearray(key)

    def expose(self) -> bytes:
        """The bare bytes. Don't keep them in a local variable of a function that can raise.

        Raises ``SealedHealthError`` when wiped.
        """
        if self._key is None:
            raise SealedHealthError("This key has been wiped from memory.", next="Fetch it again.")
        return bytes(self._key)

    def close(self) -> None:
        """Wipe the key from memory. Harmless when repeated."""
        if self._key is not None:
            self._key[:] = bytes(len(self._key))
            self._key = None

    @property
    def closed(self) -> bool:
        """Whether the key has been wiped."""
        return self._key is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_key"):  # a constructor that raised leaves an object without it
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} redacted>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")

    def __getstate__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")


class HiddenBytes(bytes):
    """Bytes that go to a file of keys: hidden from ``repr``, and so from tracebacks, like a :class:`Secret`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes redacted>"

    __str__ = __repr__  # bytes has one of its own, which shows them
