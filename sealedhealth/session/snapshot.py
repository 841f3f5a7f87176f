"""Snapshots: the committed state of a dataset at one commit, seen as files and directories."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import NoReturn, Protocol

from sealedhealth.log.catalogue import Catalogue, Entry
from sealedhealth.log.content import ContentState
from sealedhealth.log.state import Refusal

__all__ = ["CatalogueView", "Snapshot", "View"]


class View(Protocol):
    """Files and directories at one moment: a snapshot, or what a transaction has staged on top of one."""

    @property
    def sequence(self) -> int:
        """The commit that this is the state after."""
        ...

    def get(self, path: str) -> Entry | None:
        """The entry of a canonical path."""
        ...

    def is_dir(self, path: str) -> bool:
        """Whether files lie under *path*; the root always is a directory."""
        ...

    def children(self, path: str) -> Iterator[tuple[str, Entry | None]]:
        """Names directly in a directory, sorted; ``None`` stands for a directory."""
        ...

    def items(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """Every file under a directory (or the one file), sorted by path."""
        ...

    def total_size(self, prefix: str = "") -> int:
        """Bytes of the files under *prefix*."""
        ...

    def __len__(self) -> int: ...


class CatalogueView:
    """One view over the catalogues of several compartments (usually one)."""

    def __init__(self, sequence: int, catalogues: Sequence[Catalogue]) -> None:
        self.sequence = sequence
        self._catalogues = tuple(catalogues)

    def get(self, path: str) -> Entry | None:
        """See :class:`View`."""
        for catalogue in self._catalogues:
            entry = catalogue.get(path)
            if entry is not None:
                return entry
        return None

    def is_dir(self, path: str) -> bool:
        """See :class:`View`."""
        return any(catalogue.is_dir(path) for catalogue in self._catalogues)

    def children(self, path: str) -> Iterator[tuple[str, Entry | None]]:
        """See :class:`View`."""
        if len(self._catalogues) == 1:
            yield from self._catalogues[0].children(path)
            return
        last: tuple[str, bool] | None = None
        for name, entry in heapq.merge(*(c.children(path) for c in self._catalogues), key=itemgetter(0)):
            if last != (name, entry is None):
                yield name, entry
            last = (name, entry is None)

    def items(self, prefix: str = "") -> Iterator[tuple[str, Entry]]:
        """See :class:`View`."""
        if len(self._catalogues) == 1:
            return self._catalogues[0].items(prefix)
        return heapq.merge(*(catalogue.items(prefix) for catalogue in self._catalogues), key=itemgetter(0))

    def total_size(self, prefix: str = "") -> int:
        """See :class:`View`."""
        return sum(catalogue.total_size(prefix) for catalogue in self._catalogues)

    def __len__(self) -> int:
        return sum(len(catalogue) for catalogue in self._catalogues)


class Snapshot(CatalogueView):
    """The committed state after one commit. Immutable; it holds keys, so it is never pickled."""

    def __init__(
        self, sequence: int, digest: bytes, time: datetime, contents: Mapping[bytes, ContentState] | None
    ) -> None:
        self.digest = digest  #: SHA-384 of the commit's link
        self.time = time  #: of the commit, by the key service's clock
        self.contents = contents  #: by compartment; None when this identity cannot read
        super().__init__(sequence, [content.catalogue for content in (contents or {}).values()])

    @property
    def readable(self) -> bool:
        """Whether this identity could open the sealed part of the log."""
        return self.contents is not None

    @property
    def tags(self) -> dict[str, int]:
        """Commits by tag."""
        return {name: at for content in (self.contents or {}).values() for name, at in content.tags.items()}

    @property
    def refusals(self) -> list[Refusal]:
        """Sections that broke the rules of the roster and had no effect."""
        return [refusal for content in (self.contents or {}).values() for refusal in content.refusals]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a snapshot holds keys: pickle a dataset's URL, profile and commit number instead")

    def __repr__(self) -> str:
        return f"<Snapshot {self.sequence} {self.digest.hex()[:12]}>"
