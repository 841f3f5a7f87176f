"""The facade: everything one does with a dataset, in one class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, Self

from sealedhealth.dataset.plan import Links, Upload, batches, inside, plan_get, plan_put
from sealedhealth.dataset.progress import Bar, bar_for
from sealedhealth.dataset.tree import Change, differences, files_under, pairs
from sealedhealth.dataset.upkeep import Upkeep, parse_id
from sealedhealth.errors import AccessDenied, AnchorRolledBack, InvalidInput, MissingError, NotFound, RolledBack
from sealedhealth.log.roster import Settings
from sealedhealth.profiles import Profile, connect, load_profile
from sealedhealth.session import Session, checked_settings, create_dataset, find_root, normal_url, refuse_nesting
from sealedhealth.session.engine import Engine

if TYPE_CHECKING:
    from sealedhealth.dataset.distributed import DistributedWrite
    from sealedhealth.fs import SealedFileSystem, SealedTransaction
    from sealedhealth.session import CommitInfo, Snapshot, Transaction, View

__all__ = ["Change", "Dataset", "Transferred"]

Where = int | str
_STREAM = 1 << 20  # bytes per write when sealing a stream


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a put or get did."""

    files: int  #: files sealed or written
    size: int  #: their bytes
    skipped: int = 0  #: files that were the same already
    commits: tuple[int, ...] = ()  #: sequence numbers


class Dataset(Upkeep):
    """One sealed dataset, at one snapshot.

    Made by :meth:`create` and :meth:`open`. Reading shows the snapshot at opening, and own commits at once;
    :meth:`refresh` moves on. A change outside :meth:`transaction` is one commit.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._fs: SealedFileSystem | None = None

    # --- making one -------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        url: str,
        *,
        profile: str | Profile | None = None,
        grace: timedelta | None = None,
        pack_below: int | None = None,
        pack_size: int | None = None,
    ) -> Self:
        """Make a new, empty dataset at *url*: a store's URL or a local directory.

        Parameters
        ----------
        grace:
            How long garbage collection keeps what was dropped (14 days by default).
        pack_below:
            Files smaller than so many bytes share sealed objects (256 KiB by default); 0: none does.
        pack_size:
            Most bytes of such an object (16 MiB by default).

        Raises
        ------
        InvalidInput
            A setting is out of bounds; nothing was made.
        AlreadyExists
            There is a dataset already.
        AccessDenied
            There is no keystore, or it cannot be opened.
        """
        settings = checked_settings(grace=grace, pack_below=pack_below, pack_size=pack_size)
        return cls(create_dataset(_place(url), _profile(profile), settings=settings))

    @classmethod
    def open(
        cls,
        url: str,
        *,
        profile: str | Profile | None = None,
        dataset_id: str | None = None,
        at: Where | None = None,
    ) -> Self:
        """Open the latest committed snapshot of the dataset at *url*, or the snapshot *at* a commit or tag.

        *dataset_id* (32 hexadecimal digits) is for a dataset that the registry does not know.

        Raises
        ------
        NotFound
            No such dataset, commit or tag.
        IntegrityError
            It is not what its authors signed, or older than what is known to exist.
        """
        wanted = parse_id(dataset_id, "dataset") if dataset_id is not None else None
        return cls(Session.open(_place(url), _profile(profile), dataset_id=wanted, at=at))

    @classmethod
    def register(cls, url: str, dataset_id: str, *, profile: str | Profile | None = None, also: bool = False) -> Self:
        """Tell the key service that one of its datasets now lies at *url* (with *also*: there, too), and open it.

        Raises
        ------
        NotFound
            The key service does not know *dataset_id*.
        ConflictError
            *url* belongs to another dataset, lies inside one, or would hide one.
        IntegrityError
            What lies there is not this dataset, or not whole; the registry is as before.
        """
        known = _profile(profile)
        registry = connect(known).registry
        before = registry.lookup(parse_id(dataset_id, "dataset").hex())
        place = normal_url(_place(url))
        refuse_nesting(place, known, but=before.dataset_id)
        registry.register(replace(before, urls=(*before.urls, place) if also else (place,)))
        for url_before in before.urls:
            Engine.forget(url_before, known)
        try:
            return cls.open(place, profile=known)
        except BaseException as error:
            registry.register(before)
            if isinstance(error, MissingError | RolledBack) and not isinstance(error, AnchorRolledBack):
                old = next((other for other in before.urls if other != place), "SRC")
                error.next = (
                    f"A copy that is old or not whole? Run `sealedhealth replicate {old} {place}` (again): it copies"
                    " what is missing. Then register it."
                )
                error.safe = "The key service's registry is as it was."
            raise

    @classmethod
    def find(cls, url: str, *, profile: str | Profile | None = None, at: Where | None = None) -> tuple[Self, str]:
        """Open the dataset that *url* points into; also the path inside it, with its trailing slash if it has one."""
        known = _profile(profile)
        root, path = _locate(url, known)
        return cls.open(root, profile=known, at=at), path

    # --- what it is -------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it is."""
        return self.session.url

    @property
    def id(self) -> str:
        """Its id: 32 hexadecimal digits."""
        return self.session.dataset_id.hex()

    @property
    def profile(self) -> Profile:
        """The profile it was opened with."""
        return self.session.profile

    @property
    def development(self) -> bool:
        """Whether its keys are in a development keystore, which protects nothing."""
        return connect(self.profile).service.capabilities().development

    @property
    def settings(self) -> Settings:
        """What its data controller decided for everybody: the grace, and how small files are packed."""
        policy = self.session.engine.loaded.state.policy
        return policy.settings if policy is not None else Settings()

    @property
    def snapshot(self) -> Snapshot:
        """What is read. Raises ``AccessDenied`` when this identity may only write."""
        return self.session.snapshot

    @property
    def fs(self) -> SealedFileSystem:
        """The dataset as an fsspec file system, with names relative to its root."""
        if self._fs is None:
            from sealedhealth.fs import SealedFileSystem

            self._fs = SealedFileSystem(session=self.session)
        return self._fs

    def locate(self, url: str) -> tuple[str, str]:
        """The root URL of the dataset that *url* points into, and the path inside it. Raises ``NotFound``."""
        return _locate(url, self.profile)

    def refresh(self) -> int:
        """Move on to the latest commit and return its sequence number."""
        return self.session.refresh().sequence

    def __repr__(self) -> str:
        return f"<Dataset {self.url!r}, profile {self.profile.name!r}>"

    # --- changing ---------------------------------------------------------------------

    def transaction(self, message: str = "") -> SealedTransaction:
        """Every change until the end of the ``with`` block as one commit; none of it after an exception.

        The same object as ``fs.transaction``.
        """
        return self.fs.new_transaction(message)

    def distribute(self, message: str = "") -> DistributedWrite:
        """One commit from many processes or machines: workers write parts, this process commits them together.

        Independent of a transaction that is open; its base is the snapshot that this dataset shows.

        Raises
        ------
        AccessDenied
            This identity may not write.
        InvalidInput
            This is an earlier snapshot, to read only.
        """
        from sealedhealth.dataset.distributed import DistributedWrite

        return DistributedWrite.begin(self.session, message)

    @contextmanager
    def _change(self, message: str) -> Iterator[_Change]:
        """The open transaction, or one of its own that is committed at the end of the block."""
        joined = self._open_transaction()
        if joined is not None:
            yield _Change(joined)
            return
        change = _Change(self.session.begin(message))
        try:
            yield change
        except BaseException:
            change.staged.discard()
            raise
        commit = change.staged.commit()
        change.commits = (commit.sequence,) if commit is not None else ()

    def _open_transaction(self) -> Transaction | None:
        if self._fs is None:
            return None
        try:
            staged: Transaction = self._fs.transaction.staged
        except InvalidInput:
            return None
        return staged

    def _view(self) -> View:
        """What is there, to list; the entries of a transaction do not all open yet."""
        staged = self._open_transaction()
        return self.session.snapshot if staged is None else staged.outline

    def put(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        path: str = "",
        *,
        update: bool = False,
        links: Links = "refuse",
        commit_every: int | None = None,
        message: str = "",
        progress: bool | Bar = False,
    ) -> Transferred:
        """Seal local files and directories, and commit.

        Parameters
        ----------
        source:
            One or several. A directory goes under *path* by its own name; ``"exports/"``, with a trailing slash,
            puts what is in it.
        path:
            Where to. One file gets this very path, unless that ends with a slash or is a directory.
        update:
            Leave out files whose size and modification time are those of the entry that is there.
        links:
            What to do about symbolic links inside a directory: ``refuse``, ``follow`` or ``skip``.
        commit_every:
            Commit whenever so many bytes are sealed; an interruption then loses only what came after.
        message:
            What the commits are about; sealed. A transaction that is open has its own.
        progress:
            ``True`` for a bar on the terminal.

        Raises
        ------
        NotFound
            A source does not exist.
        InvalidInput
            A link or special file inside a directory, a name that cannot be a path, or *commit_every* inside a
            transaction.
        """
        sources = [os.fspath(source)] if isinstance(source, str | os.PathLike) else [os.fspath(item) for item in source]
        if commit_every is not None and self._open_transaction() is not None:
            raise InvalidInput("commit_every makes commits of its own: not inside a transaction.")
        view = self._view_or_none()
        uploads = plan_put(sources, path, view, links=links)
        wanted = [upload for upload in uploads if not (update and view is not None and _same(view, upload))]
        size = sum(upload.size for upload in wanted)
        commits: list[int] = []
        with bar_for(progress, "sealing") as bar:
            bar.total(size)
            for batch in batches(wanted, commit_every):
                with self._change(message) as change:
                    change.staged.put_files([(upload.source, upload.path) for upload in batch], progress=bar.advance)
                commits += change.commits
        return Transferred(len(wanted), size, len(uploads) - len(wanted), tuple(commits))

    def put_stream(
        self, stream: BinaryIO, path: str, *, message: str = "", progress: bool | Bar = False
    ) -> Transferred:
        """Seal everything that *stream* gives as the file *path*, with flat memory, and commit."""
        logical = inside(path)
        if not logical or path.endswith("/"):
            raise InvalidInput("A stream needs the path of a file.", next="Give it a name: URL/path.")
        with bar_for(progress, "sealing") as bar, self._change(message) as change:
            writer = change.staged.writer(logical)
            try:
                while data := stream.read(_STREAM):
                    writer.write(data)
                    bar.advance(len(data))
                writer.close()
            except BaseException:
                writer.discard()
                raise
        return Transferred(1, writer.size, commits=change.commits)

    def rm(self, path: str, *, recursive: bool = False, message: str = "") -> int:
        """Delete a file, or with *recursive* a directory; how many files that were. Raises ``NotFound``."""
        logical = inside(path)
        with self._change(message) as change:
            doomed = [name for name, _ in files_under(change.staged.outline, logical, recursive=recursive)]
            for name in doomed:
                change.staged.delete(name)
        return len(doomed)

    def cp(self, source: str, target: str, *, recursive: bool = False, message: str = "") -> int:
        """Copy a file, or with *recursive* a directory, without sealing anything again; how many files.

        As in the shell, *source* goes into *target* when that is a directory or ends with a slash, and becomes
        *target* otherwise.
        """
        with self._change(message) as change:
            moves = pairs(change.staged.outline, source, target, recursive=recursive)
            for old, new in moves:
                change.staged.copy(old, new)
        return len(moves)

    def mv(self, source: str, target: str, *, message: str = "") -> int:
        """Move or rename a file or directory; how many files. The rule for *target* is that of :meth:`cp`."""
        with self._change(message) as change:
            moves = pairs(change.staged.outline, source, target, recursive=True)
            for old, new in moves:
                change.staged.move(old, new)
        return len(moves)

    # --- reading ----------------------------------------------------------------------

    def get(
        self, path: str, destination: str | os.PathLike[str], *, update: bool = False, progress: bool | Bar = False
    ) -> Transferred:
        """Open files and directories into local ones; each appears whole and checked, or not at all.

        A directory arrives in *destination* by its own name; with a trailing slash, or as the root ``""``, what is
        in it does. A file arrives in *destination* when that is a directory or ends with a slash. Modification
        times come along. With *update*, files of the same size and time are left alone.

        Raises
        ------
        NotFound
            No such path.
        IntegrityError
            What is stored is not what was signed; the file in question was not written.
        """
        from sealedhealth.dataset.download import download, up_to_date

        staged = self._open_transaction()
        view = self.session.snapshot if staged is None else staged.view
        plan = plan_get(view, path, os.fspath(destination))
        wanted = [item for item in plan if not (update and up_to_date(item[1], item[2]))]

        with bar_for(progress, "opening") as bar:
            bar.total(sum(entry.size for _, entry, _ in wanted))
            download(self.session, wanted, bar.advance)
        return Transferred(len(wanted), sum(entry.size for _, entry, _ in wanted), len(plan) - len(wanted))

    def at(self, where: Where) -> Dataset:
        """The same dataset as of commit *where* (a sequence number or a tag), to read only."""
        return type(self)(self.session.at(where))

    def history(self) -> list[CommitInfo]:
        """Every commit, newest last."""
        return self.session.history()

    def diff(self, first: Where, second: Where | None = None, *, path: str = "") -> list[Change]:
        """What changed under *path* from snapshot *first* to *second* (the present one by default), by path."""
        before = self.session.at(first).snapshot
        after = self._view() if second is None else self.session.at(second).snapshot
        return list(differences(before, after, inside(path)))

    # --- names for snapshots ----------------------------------------------------------

    @property
    def tags(self) -> dict[str, int]:
        """Tags and the sequence numbers they name."""
        return dict(self.session.snapshot.tags)

    def tag(self, name: str, at: Where | None = None) -> int:
        """Give a snapshot a name; garbage collection keeps it from then on. The sequence number it names."""
        sequence = self.session.snapshot.sequence if at is None else self.session.at(at).snapshot.sequence
        with self._change("") as change:
            change.staged.tag(name, sequence)
        return sequence

    def untag(self, name: str) -> None:
        """Take a name away. Raises ``NotFound``."""
        with self._change("") as change:
            change.staged.untag(name)

    def restore(self, at: Where, path: str = "", *, message: str = "") -> list[Change]:
        """Make *path* what it was in an earlier snapshot, by a new commit; history stays. What that changed."""
        logical = inside(path)
        old = self.session.at(at).snapshot
        if logical and old.get(logical) is None and not old.is_dir(logical):
            raise NotFound(
                f"There is no {logical} in that snapshot.",
                safe="Nothing was changed.",
                next=f"See what it holds: `sealedhealth ls --at {at} URL`.",
            )
        with self._change(message or f"restore {logical or 'everything'} from {at}") as change:
            staged = change.staged
            changes = list(differences(staged.outline, old, logical))
            # What goes first makes room: a file may stand where a directory was, and the other way round.
            for gone in changes:
                if gone.kind == "removed":
                    staged.delete(gone.path)
            for back in changes:
                entry = old.get(back.path)
                if entry is not None:
                    staged.restore(back.path, entry)
        return changes

    def _view_or_none(self) -> View | None:
        """What is there, or ``None`` for an identity that may only write."""
        try:
            return self._view()
        except AccessDenied:
            return None


@dataclass(slots=True)
class _Change:
    """A transaction that a change goes into, and what it was committed as (nothing when it joined one)."""

    staged: Transaction
    commits: tuple[int, ...] = ()


def _profile(profile: str | Profile | None) -> Profile:
    return profile if isinstance(profile, Profile) else load_profile(profile)


def _place(url: str) -> str:
    """*url*, or for a local path the absolute one without ``..``: the registry knows one spelling of each place."""
    bare = url.removeprefix("sealed::")
    return bare if "://" in bare else os.path.abspath(os.path.expanduser(bare))  # noqa: PTH100, PTH111 - not resolve()


def _locate(url: str, profile: Profile) -> tuple[str, str]:
    root, path = find_root(_place(url), profile)
    return root, path + "/" if path and url.endswith("/") else path


def _same(view: View, upload: Upload) -> bool:
    entry = view.get(upload.path)
    return entry is not None and (entry.size, entry.mtime_us) == (upload.size, upload.mtime_us)
