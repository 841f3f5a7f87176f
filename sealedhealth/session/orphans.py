"""Since when files of a store have been seen unneeded: the host's clock is not asked."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from sealedhealth.errors import ServiceUnavailable
from sealedhealth.log.strict import microseconds
from sealedhealth.session.statefile import replace_file

__all__ = ["Orphans"]


class Orphans:
    """A small file per dataset: unneeded names and when this machine saw them so for the first time."""

    def __init__(self, directory: Path, dataset_id: bytes) -> None:
        self._path = directory / f"{dataset_id.hex()}.orphans.json"

    def seen_for(self, names: Collection[str], *, now: datetime, grace: timedelta) -> list[str]:
        """Those of *names* that were seen unneeded *grace* ago or longer; the others are noted for next time."""
        known = self._load()
        at = microseconds(now)
        first = {name: min(known.get(name, at), at) for name in names}
        self._save(first)
        limit = at - grace // timedelta(microseconds=1)
        return [name for name, since in first.items() if since <= limit]

    def _load(self) -> dict[str, int]:
        try:
            document = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}  # worst case: orphans wait for another grace
        if not isinstance(document, dict):
            return {}
        return {name: since for name, since in document.items() if type(since) is int}

    def _save(self, first: dict[str, int]) -> None:
        try:
            replace_file(self._path, json.dumps(first).encode())
        except OSError as error:
            raise ServiceUnavailable(
                f"The state directory {self._path.parent} cannot be written: {error.strerror}.",
                safe="Nothing was deleted.",
                next="Make it writable, or name another one in the profile (state) or SEALEDHEALTH_HOME.",
            ) from error
