"""What this client saw last of a dataset: the memory that makes a rollback visible."""

from __future__ import annotations

from pathlib import Path

from sealedhealth.errors import AccessDenied, MalformedError, ServiceUnavailable
from sealedhealth.log.link import DIGEST_SIZE, MAX_SEQUENCE
from sealedhealth.log.strict import dump_json, load_json
from sealedhealth.session.statefile import replace_file

__all__ = ["Seen"]


class Seen:
    """A small file per dataset: number and digest of the newest anchor seen."""

    def __init__(self, directory: Path, dataset_id: bytes) -> None:
        self._path = directory / f"{dataset_id.hex()}.json"

    def recall(self) -> tuple[int, bytes] | None:
        """Sequence and digest of the link seen last; ``None`` when this client never saw the dataset.

        Raises
        ------
        MalformedError
            The file is damaged. It is not passed over: that would switch the check off.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(4096)
        except FileNotFoundError:
            return None
        try:
            fields = load_json(data, "record of what was seen last")
            seen = fields.integer("sequence", most=MAX_SEQUENCE), fields.hex("digest", DIGEST_SIZE)
            fields.finish()
        except MalformedError as error:
            raise MalformedError(
                f"{self._path} is damaged, so that a rollback could go unnoticed.",
                next="Compare `sealedhealth log` with a colleague's, then delete the file.",
            ) from error
        return seen

    def remember(self, sequence: int, digest: bytes) -> None:
        """Record the newest anchor seen; an older one than recorded changes nothing."""
        known = self.recall()
        if known is not None and known[0] >= sequence:
            return
        try:
            replace_file(self._path, dump_json({"sequence": sequence, "digest": digest.hex()}))
        except OSError as error:
            kind = AccessDenied if isinstance(error, PermissionError) else ServiceUnavailable
            raise kind(
                f"What was seen last of this dataset cannot be recorded in {self._path.parent}: {error.strerror}.",
                safe="The dataset is untouched.",
                next="Make the directory writable, or name another one in the profile (state) or SEALEDHEALTH_HOME.",
            ) from error
