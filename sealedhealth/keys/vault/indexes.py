"""Indexes: how far a cluster had got when a node answered. Sent along, they keep standbys from answering too early."""

from __future__ import annotations

import base64
import json
import threading

__all__ = ["Indexes"]

MAX_INDEX_SIZE = 4096
MAX_CLUSTERS = 8


class Indexes:
    """The newest index of each cluster that has answered."""

    def __init__(self) -> None:
        self.newest = ""  #: what to send along; empty before any index was heard
        self._known: dict[str, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def remember(self, index: str) -> None:
        """Take note of an index; answers may come in any order."""
        if not index or len(index) > MAX_INDEX_SIZE or not index.isascii() or not index.isprintable():
            return
        try:
            parsed = json.loads(base64.b64decode(index))
            cluster, value = str(parsed["cluster"]), int(parsed["value"])
        except (ValueError, KeyError, TypeError):
            cluster, value = "", 0  # HashiCorp's are sealed: the last one counts
        with self._lock:
            known = self._known.get(cluster)
            if known is None or value >= known[0]:
                if len(self._known) > MAX_CLUSTERS:
                    self._known.clear()
                self._known[cluster] = (value, index)
                self.newest = index
