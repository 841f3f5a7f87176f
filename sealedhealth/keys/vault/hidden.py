"""Text that must not show: tokens, secret ids, encoded keys."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

__all__ = ["HiddenText"]


class HiddenText(str):
    """Text hidden from ``repr``, and so from tracebacks that show local variables; not to be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} characters redacted>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret cannot be copied or pickled")
