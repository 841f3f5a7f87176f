"""The part of the facade that keeps a dataset in order, and ends it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sealedhealth.dataset.progress import Bar, bar_for
from sealedhealth.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from sealedhealth.log.roster import Settings
    from sealedhealth.session import Session
    from sealedhealth.session.maintenance import CheckpointReport, CollectReport, DestroyReport, RewrapReport
    from sealedhealth.session.verify import VerifyReport

__all__ = ["Upkeep", "parse_id"]


class Upkeep:
    """Verification, checkpoints, garbage collection, rotation and destruction of the dataset of :attr:`session`."""

    session: Session  #: the open dataset

    def verify(self, *, data: bool = True, progress: bool | Bar = False) -> VerifyReport:
        """Check the whole log and, with *data*, every byte of every object of this snapshot. Raises on failure."""
        from sealedhealth.session.verify import verify

        with bar_for(progress, "verifying") as bar:
            if data:
                bar.total(self.session.snapshot.total_size())
            return verify(self.session, data=data, progress=bar.advance)

    def maintain(self, *, force: bool = False) -> CheckpointReport | None:
        """Write a checkpoint when one is due (or *force*), so that opening stays quick. Safe to run at any time."""
        from sealedhealth.session import maintenance

        return maintenance.maintain(self.session, force=force)

    def gc(self, *, grace: timedelta | None = None, dry_run: bool = False) -> CollectReport:
        """Delete objects that no kept snapshot needs; *grace* defaults to the dataset's setting."""
        from sealedhealth.session import maintenance

        return maintenance.collect(self.session, grace=grace, dry_run=dry_run)

    def change_settings(
        self, *, grace: timedelta | None = None, pack_below: int | None = None, pack_size: int | None = None
    ) -> Settings:
        """Change what is given and say how it is then; see :meth:`Dataset.create` for what each means.

        They hold for what is written and collected from then on.

        Raises
        ------
        AccessDenied
            Only the data controller, who holds the root key, may change them.
        InvalidInput
            A value is out of bounds; nothing was changed.
        """
        from sealedhealth.session import change_settings, checked_settings

        policy = self.session.engine.refresh().state.policy
        settings = checked_settings(
            policy.settings if policy is not None else None, grace=grace, pack_below=pack_below, pack_size=pack_size
        )
        change_settings(self.session, settings)
        return settings

    def rotate(self) -> int:
        """Give the key-encryption keys a new version, which wraps every data key from now on; its number."""
        from sealedhealth.session import maintenance

        return maintenance.rotate(self.session)

    def rewrap(self) -> RewrapReport:
        """Wrap every data key by the newest version; no object is touched."""
        from sealedhealth.session import maintenance

        return maintenance.rewrap(self.session)

    def keys_of(self, commit: int) -> list[bytes]:
        """The ids of the data keys that *commit* brought, destroyed ones too: a destruction can be done again."""
        state = self.session.engine.loaded.state
        return [key_id for key_id, record in state.keys.items() if record.sequence == commit]

    def destroy_key(self, *, commit: int | None = None, key_id: str | None = None) -> DestroyReport:
        """Destroy the data keys of one commit, or one data key by its hexadecimal id: what they sealed is gone.

        Raises
        ------
        NotFound
            No such key, or the commit sealed nothing.
        AccessDenied
            Only the data controller may destroy.
        """
        from sealedhealth.session import maintenance

        if (commit is None) == (key_id is None):
            raise InvalidInput("Name either a commit or a data key.")
        if commit is not None:
            doomed = self.keys_of(commit)
            if not doomed:
                raise NotFound(
                    f"Commit {commit} has no data key that could be destroyed.", safe="Nothing was destroyed."
                )
        else:
            doomed = [parse_id(key_id or "", "data key")]
        return maintenance.destroy_keys(self.session, doomed)

    def destroy(self) -> None:
        """Destroy every key of the dataset: nothing in it can ever be opened again, wherever copies lie."""
        from sealedhealth.session import maintenance

        maintenance.destroy_dataset(self.session)


def parse_id(text: str, what: str) -> bytes:
    """The id of a *what*, from 32 hexadecimal digits. Raises ``InvalidInput``."""
    try:
        parsed = bytes.fromhex(text)
    except ValueError:
        parsed = b""
    if len(parsed) != 16:
        raise InvalidInput(
            f"{text!r} is no id of a {what}: that is 32 hexadecimal digits.",
            safe="Nothing was changed.",
            next="`sealedhealth keystore list` shows the ids, or `vault list` where keys are in a Vault."
            if what == "dataset"
            else "`sealedhealth log --json URL` shows the ids.",
        )
    return parsed
