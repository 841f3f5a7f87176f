"""How the file system is built, and what of it travels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsspec.core import split_protocol
from fsspec.spec import make_instance
from fsspec.utils import tokenize

from sealedhealth.errors import InvalidInput
from sealedhealth.fs.listing import store_path
from sealedhealth.fs.writing import WritingFileSystem
from sealedhealth.profiles import load_profile
from sealedhealth.session import Session, find_root

__all__ = ["SealedFileSystem"]

#: Options that fsspec and its wrappers hand to every file system; they mean nothing here.
_IGNORED = frozenset({"asynchronous", "loop", "use_listings_cache", "listings_expiry_time", "max_paths"})


class SealedFileSystem(WritingFileSystem):
    """A sealed dataset as an fsspec file system.

    Made by ``Dataset.fs``, with names relative to the dataset; or from a URL, ``sealed::s3://bucket/x/file`` or
    ``sealed+s3://bucket/x/file``, with names as the store has them.  A write outside a transaction is one commit.

    Parameters
    ----------
    fo:
        The URL of the dataset or of anything in it; with ``target_protocol``, a path on that store.
    target_protocol:
        The protocol of the store in a chained URL.
    target_options:
        Must be empty: what the store needs is in the profile.
    profile:
        Name of a profile; ``$SEALEDHEALTH_PROFILE`` or ``local`` by default.  Nothing else of an identity travels in
        options and pickles.
    at:
        A sequence number or tag, for a read-only view of that snapshot.
    pin:
        The sequence number to start from, as it travels in a pickle; unlike with ``at``, writing stays possible.
    dataset_id:
        32 hexadecimal digits, instead of asking the registry or profile which dataset belongs to the URL, which then
        has to be the dataset's root.
    relative:
        Whether names are relative to the dataset's root.
    session:
        An open session, instead of everything else.

    Raises
    ------
    NotFound
        The profile knows no dataset at or above this URL.
    InvalidInput
        An unknown option, or options for the store.
    """

    def __init__(
        self,
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        *,
        profile: str | None = None,
        at: int | str | None = None,
        pin: int | None = None,
        dataset_id: str | None = None,
        relative: bool = False,
        session: Session | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._made = set()
        self._prefix = ""
        if session is None:
            _refuse_options(target_options, options)
            known = load_profile(profile)
            url = _full_url(fo, target_protocol)
            if dataset_id is None:
                url, _ = find_root(url, known)
            session = Session.open(url, known, dataset_id=bytes.fromhex(dataset_id) if dataset_id else None, at=at)
            if pin is not None and pin != session.sequence:
                session = Session(session.engine, session.engine.at(pin))
                session.read_only = False
            self._prefix = "" if relative else self._strip_protocol(store_path(url))
        self.session = session

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        # Only the spelled-out form says in itself where the dataset is.
        return {"fo": path.removeprefix("sealed+")} if path.startswith("sealed+") else {}

    def refresh(self) -> int:
        """Move on to the latest commit and return its sequence number."""
        return self.session.refresh().sequence

    # --- what travels ------------------------------------------------------------------

    @property
    def storage_options(self) -> dict[str, Any]:
        """What makes this file system again elsewhere: a URL, an id, the name of a profile, a sequence number."""
        options: dict[str, Any] = {
            "fo": self.session.url,
            "profile": self.session.profile.name,
            "dataset_id": self.session.dataset_id.hex(),
        }
        if not self._prefix:
            options["relative"] = True
        if self.session.readable:
            options["at" if self.session.read_only else "pin"] = self.session.sequence
        return options

    @storage_options.setter
    def storage_options(self, _: Any) -> None:
        """Ignore what fsspec notes here: what the caller passed, whatever that held."""

    @property
    def storage_args(self) -> tuple[Any, ...]:
        """Always empty; see :attr:`storage_options`."""
        return ()

    @storage_args.setter
    def storage_args(self, _: Any) -> None:
        """Ignore it, as above."""

    def __reduce__(self) -> Any:
        if self._active is not None:
            raise TypeError(
                "A file system in a transaction cannot be pickled: what another process wrote would not join it."
            )
        return make_instance, (type(self), (), self.storage_options)

    @property
    def fsid(self) -> str:
        """The same for every file system over this dataset."""
        return f"sealed-{self.session.dataset_id.hex()}"

    @property
    def _fs_token(self) -> str:
        transaction = id(self._active) if self._active is not None else 0
        token: str = tokenize(type(self).__name__, sorted(self.storage_options.items()), transaction)
        return token

    def __hash__(self) -> int:
        # Unlike the token, this does not change with commits.
        return hash((self.session.url, self.session.profile.name, self._prefix))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedFileSystem) and self._fs_token == other._fs_token

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session.url!r}, profile {self.session.profile.name!r}>"


def _full_url(fo: str | None, target_protocol: str | None) -> str:
    if not fo:
        raise InvalidInput(
            "This URL does not say where the dataset is.",
            next="Use sealed::s3://bucket/dataset/path or sealed+s3://bucket/dataset/path.",
        )
    if target_protocol and split_protocol(fo)[0] is None:
        return f"{target_protocol}://{fo}"
    return fo


def _refuse_options(target_options: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
    """Refuse what would carry secrets into pickles and caches, or would be ignored without a word."""
    if target_options:
        raise InvalidInput(
            f"Options for the store ({', '.join(sorted(target_options))}) cannot be given with a sealed URL.",
            safe="Nothing was opened.",
            next="Put them into the profile; only its name is passed: storage_options={'profile': 'NAME'}.",
        )
    unknown = sorted(options.keys() - _IGNORED)
    if unknown:
        raise InvalidInput(
            f"Unknown option for a sealed file system: {', '.join(unknown)}.",
            safe="Nothing was opened.",
            next="Known: profile, at, dataset_id. Keys, passphrases and store options belong in a profile.",
        )
