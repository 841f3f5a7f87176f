"""What a transaction has staged: puts and deletions on top of a snapshot, and the two together as one view."""

from __future__ import annotations

from collections import Counter

from sealedhealth.errors import AccessDenied
from sealedhealth.log.catalogue import Catalogue
from sealedhealth.log.entry import Entry
from sealedhealth.log.paths import parents
from sealedhealth.session.packing import Packer, Part
from sealedhealth.session.snapshot import CatalogueView, Snapshot, View

__all__ = ["Staging"]

Content = Entry | Part


class Staging:
    """The staged changes of one transaction, which has the lock.

    Parameters
    ----------
    base:
        What they lie on; ``None`` for an identity that cannot read.
    compartment:
        Where they go.
    """

    def __init__(self, base: Snapshot | None, compartment: bytes, packer: Packer) -> None:
        self.puts: dict[str, Content] = {}
        self.deletes: set[str] = set()
        self._base = base
        self._compartment = compartment
        self._packer = packer
        self._dirs: Counter[str] = Counter()  # directories of staged files, and how many lie under each
        self._view: CatalogueView | None = None
        self._catalogues: list[Catalogue] = []
        self._position = 0  # of the compartment's in them
        self._unseen: set[str] = set()  # staged since the view was made
        self._provisional: set[str] = set()  # in the view as parts of packs that were not sealed yet

    @property
    def sequence(self) -> int:
        """What staged entries have for a commit."""
        return self._base.sequence if self._base is not None else 0

    def entry(self, content: Content) -> Entry:
        """The entry of a staged content; provisional until its pack is sealed."""
        return content.entry(self.sequence) if isinstance(content, Part) else content

    def entries(self) -> dict[str, Entry]:
        """Everything put, once all of it is sealed."""
        return {path: self.entry(content) for path, content in self.puts.items()}

    # -- looking ----------------------------------------------------------------------------------

    def get(self, path: str) -> Content | None:
        """What is at a path: staged, or else in the base as far as this identity can read it."""
        content = self.puts.get(path)
        if content is not None or path in self.deletes or self._base is None:
            return content
        return self._base.get(path)

    def is_dir(self, path: str) -> bool:
        """Whether a file lies under *path*."""
        # Without the view, which costs a new catalogue after every change, unless files were deleted.
        if self._dirs[path] or self._base is None:
            return self._dirs[path] > 0
        return self._base.is_dir(path) and (not self.deletes or self.outline().is_dir(path))

    def outline(self) -> View:
        """Base plus what is staged, to list: a file in an open pack has its size and time, and does not open yet.

        Raises ``AccessDenied`` when this identity cannot read.
        """
        if self._view is None:
            if self._base is None or self._base.contents is None:
                raise AccessDenied(
                    "This identity may write to the dataset but not read it.",
                    next="Open it with the profile of a reader.",
                )
            catalogues = {key: content.catalogue for key, content in self._base.contents.items()}
            catalogues.setdefault(self._compartment, Catalogue.empty())
            self._position = list(catalogues).index(self._compartment)
            self._catalogues = list(catalogues.values())
            self._view = CatalogueView(self.sequence, self._catalogues)
        if self._unseen:
            puts: dict[str, Entry] = {}
            for path in self._unseen & self.puts.keys():
                content = self.puts[path]
                puts[path] = self.entry(content)
                if isinstance(content, Part) and not content.sealed:
                    self._provisional.add(path)
            gone = self._unseen - puts.keys()
            self._catalogues[self._position] = self._catalogues[self._position].apply(puts, gone)
            self._view = CatalogueView(self.sequence, self._catalogues)
            self._unseen = set()
        return self._view

    def settle(self) -> None:
        """Bring everything staged to the store, so that it can be read."""
        self._packer.settle()
        self._unseen |= self._provisional
        self._provisional = set()

    # -- changing ---------------------------------------------------------------------------------

    def put(self, path: str, content: Content) -> None:
        """Stage a content under a path."""
        if path not in self.puts:
            for parent in parents(path):
                self._dirs[parent] += 1
        self._release(path)
        self.puts[path] = content
        self.deletes.discard(path)
        self._unseen.add(path)

    def copy(self, source: Content, target: str) -> None:
        """Stage the content of another path under *target*, too."""
        if isinstance(source, Part):
            source.uses += 1
        self.put(target, source)

    def delete(self, path: str) -> None:
        """Stage that a path goes."""
        if path in self.puts:
            for parent in parents(path):
                self._dirs[parent] -= 1
        self._release(path)
        self.puts.pop(path, None)
        if self._base is None or self._base.get(path) is not None:
            self.deletes.add(path)
        self._unseen.add(path)

    def _release(self, path: str) -> None:
        old = self.puts.get(path)
        if isinstance(old, Part):
            old.uses -= 1
