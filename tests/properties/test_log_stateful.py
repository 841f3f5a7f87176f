"""The whole log against a plain model: one dictionary per commit."""

import itertools
import shutil
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from adversary import Adversary, Planted, World
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from repacking import commit_repack

from sealedhealth.errors import AccessDenied, ConflictError, InvalidInput, KeyDestroyed, NotFound, SnapshotCollected
from sealedhealth.log.names import change_name
from sealedhealth.log.paths import parents
from sealedhealth.log.roster import Role
from sealedhealth.session.maintenance import collect, destroy_keys, maintain, rewrap, rotate
from sealedhealth.session.verify import verify
from sealedhealth.session.voiding import void_commits

MEMORY = Path("/dev/shm")
ACTORS = st.sampled_from(["author", "second", "third"])
PATHS = st.sampled_from(["a", "b", "b/c", "d", "d/x", "d/y", "d/e/z", "é"])
TAGS = st.sampled_from(["first", "release 1"])
CONTENTS = st.sampled_from([b"", b"x", b"content " * 50])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PATHS, CONTENTS),
        st.tuples(st.just("delete"), PATHS),
        st.tuples(st.just("copy"), PATHS, PATHS),
        st.tuples(st.just("move"), PATHS, PATHS),
    ),
    min_size=1,
    max_size=5,
)


class Staged:
    """What one transaction should see and do; a file is a pair of a token, new for every put, and its bytes."""

    def __init__(self, base, tokens):
        self.base = base
        self.view = dict(base)
        self.puts, self.deletes, self.reads = set(), set(), set()
        self.tokens = tokens

    def prepare(self, path):
        """Whether *path* may be put."""
        below = any(name.startswith(path + "/") for name in self.view)
        if below or any(parent in self.view for parent in parents(path)):
            raise InvalidInput

    def put(self, path, data):
        """Stage a new content."""
        self.prepare(path)
        self.set(path, (next(self.tokens), data))

    def set(self, path, file):
        """Stage a content that is known."""
        self.view[path] = file
        self.puts.add(path)
        self.deletes.discard(path)

    def delete(self, path):
        """Stage a deletion."""
        if self.view.pop(path, None) is None:
            raise NotFound
        self.puts.discard(path)
        if path in self.base:
            self.deletes.add(path)

    def copy(self, source, target):
        """Stage a copy."""
        if source not in self.view:
            raise NotFound
        self.prepare(target)
        self.reads.add(source)
        self.set(target, self.view[source])

    def move(self, source, target):
        """Stage a move."""
        if source != target:
            self.copy(source, target)
            self.delete(source)

    def conflicts(self, current):
        """Whether the commit has to be refused on top of *current*."""
        if any(self.base.get(path) != current.get(path) for path in self.puts | self.deletes | self.reads):
            return True
        left = {path for path in current if path not in self.deletes} | self.puts
        return any(
            any(parent in left for parent in parents(path)) or any(name.startswith(path + "/") for name in left)
            for path in self.puts
        )


class LogModel(RuleBasedStateMachine):
    """Three curators with engines of their own, who look at different moments."""

    @initialize()
    def create(self):
        """A dataset of three authors, each of whom has just opened it."""
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.world = World(self.root)
        self.profiles = {
            "author": self.world.profile("author"),
            **{name: self.world.join(name, Role.PRODUCER, Role.CURATOR, Role.ROTATOR) for name in ("second", "third")},
        }
        self.sessions = {name: self.world.open(profile) for name, profile in self.profiles.items()}
        self.commits = [{} for _ in range(self.sessions["author"].sequence + 1)]
        self.tags = {}
        self.tokens = itertools.count()
        self.horizon = 0
        self.voids = 0
        self.forgotten = 0  # snapshots before this may not open: keys of theirs were destroyed

    def teardown(self):
        """The dataset verifies, and nothing is left behind."""
        if hasattr(self, "world"):
            try:
                report = verify(self.world.open())
                assert report.void == self.voids
                assert report.refused == ()
                assert report.commits == len(self.commits)
            finally:
                shutil.rmtree(self.root)

    def advanced(self, session, files=None):
        """Note that *session* committed; the last of its commits brought *files*."""
        missing = session.sequence + 1 - len(self.commits)
        assert missing >= 0
        self.commits += [dict(self.commits[-1]) for _ in range(missing)]
        if files is not None:
            self.commits[-1] = files

    def same(self, snapshot, files):
        """A snapshot has exactly these files and directories."""
        assert [path for path, _ in snapshot.items()] == sorted(files)
        assert len(snapshot) == len(files)
        for path, (_, data) in files.items():
            assert snapshot.get(path).length == len(data)
            assert all(snapshot.is_dir(parent) and snapshot.get(parent) is None for parent in parents(path))
        assert snapshot.total_size() == sum(len(data) for _, data in files.values())

    def reads(self, session, files):
        """Every file has its bytes."""
        spans = [(session.snapshot.get(path), 0, len(data)) for path, (_, data) in files.items()]
        assert session.read_ranges(spans) == [data for _, data in files.values()]

    def counts(self, session):
        """Uses of shared objects, and births of repacked ones, are those of the catalogue."""
        for content in session.engine.loaded.contents.values():
            uses = Counter(entry.data_key_id + entry.object_id for _, entry in content.catalogue.items())
            assert content.shared == {uid: count for uid, count in uses.items() if count > 1}
            assert content.born.keys() <= uses.keys()
            assert content.dropped.keys().isdisjoint(uses)

    # -- rules -------------------------------------------------------------------------------------

    @rule(actor=ACTORS, operations=OPERATIONS)
    def transact(self, actor, operations):
        """Stage some operations on whatever this actor saw last, and commit them."""
        session = self.sessions[actor]
        staged = Staged(self.commits[session.sequence], self.tokens)
        tx = session.begin("a message")
        for verb, *arguments in operations:
            error = None
            try:
                getattr(staged, verb)(*arguments)
            except (InvalidInput, NotFound) as raised:
                error = type(raised)
            if error is not None:
                with pytest.raises(error):
                    getattr(tx, {"put": "put_bytes"}.get(verb, verb))(*arguments)
            else:
                getattr(tx, {"put": "put_bytes"}.get(verb, verb))(*arguments)
        self.same(tx.view, staged.view)
        if not staged.puts and not staged.deletes:
            assert tx.commit() is None
        elif staged.conflicts(self.commits[-1]):
            with pytest.raises(ConflictError):
                tx.commit()
        else:
            since = self.commits[session.sequence + 1 :]
            try:
                committed = tx.commit()
            except ConflictError:
                # Changed and changed back: a conflict for who saw the change, none for who did not.
                assert any(staged.conflicts(files) for files in since)
                return
            assert committed.sequence == len(self.commits)
            merged = {path: file for path, file in self.commits[-1].items() if path not in staged.deletes}
            merged |= {path: staged.view[path] for path in staged.puts}
            self.advanced(session, merged)
            self.same(session.snapshot, merged)

    @rule(actor=ACTORS, operations=OPERATIONS)
    def discard(self, actor, operations):
        """Stage, then think better of it: nothing happened."""
        tx = self.sessions[actor].begin()
        for verb, *arguments in operations:
            try:
                getattr(tx, {"put": "put_bytes"}.get(verb, verb))(*arguments)
            except (InvalidInput, NotFound):
                continue
        tx.discard()

    @rule(actor=ACTORS, name=TAGS, back=st.integers(0, 3))
    def tag(self, actor, name, back):
        """Tag a commit that is still whole."""
        session = self.sessions[actor]
        session.refresh()
        sequence = max(len(self.commits) - 1 - back, self.horizon, self.forgotten)
        with session.begin() as tx:
            tx.tag(name, sequence)
        self.advanced(session)
        self.tags[name] = sequence
        assert session.snapshot.tags == self.tags

    @rule(actor=ACTORS, name=TAGS)
    def untag(self, actor, name):
        """Take a tag away."""
        session = self.sessions[actor]
        session.refresh()
        tx = session.begin()
        if name not in self.tags:
            with pytest.raises(NotFound):
                tx.untag(name)
            tx.discard()
            return
        tx.untag(name)
        tx.commit()
        self.advanced(session)
        del self.tags[name]
        assert session.snapshot.tags == self.tags

    @rule(actor=ACTORS)
    def refresh(self, actor):
        """Look for commits of others: the newest snapshot is the last of the model, to the byte."""
        session = self.sessions[actor]
        session.refresh()
        assert session.sequence == len(self.commits) - 1
        self.same(session.snapshot, self.commits[-1])
        self.reads(session, self.commits[-1])
        self.counts(session)
        assert session.snapshot.tags == self.tags

    @rule(actor=ACTORS)
    def reopen(self, actor):
        """Read everything from the store again, as a new process would."""
        self.sessions[actor] = self.world.open(self.profiles[actor])
        self.refresh(actor)

    @rule(actor=ACTORS)
    def checkpoint(self, actor):
        """A checkpoint changes nothing that anybody sees."""
        session = self.sessions[actor]
        maintain(session, force=True)
        self.advanced(session)
        self.refresh(actor)

    @rule(actor=ACTORS)
    def garbage(self, actor):
        """Collecting at once takes nothing from the newest snapshot nor from tagged ones."""
        session = self.sessions[actor]
        report = collect(session, grace=timedelta(0))
        session.refresh()
        self.advanced(session)
        assert report.horizon >= self.horizon
        if not self.tags:
            assert not any(content.dropped for content in session.engine.loaded.contents.values())
        self.horizon = report.horizon
        # Half-open transactions would lose their objects: whoever looks later begins anew.
        self.refresh(actor)

    @precondition(lambda self: any(self.commits[-1]))
    @rule(actor=ACTORS, data=st.data())
    def repack(self, actor, data):
        """Some files of one data key move into one object under it: the same bytes, in another place."""
        session = self.sessions[actor]
        session.refresh()
        files = dict(self.commits[-1])
        keys = {path: session.snapshot.get(path).data_key_id for path in files}
        chosen = data.draw(st.sampled_from(sorted(files)))
        others = [path for path in sorted(files) if keys[path] == keys[chosen] and path != chosen]
        moved = [chosen, *data.draw(st.lists(st.sampled_from(others), unique=True) if others else st.just([]))]
        commit_repack(session, moved)
        # Whoever looked before has other stored bytes in view: a change of the same path is a conflict.
        self.advanced(session, files | {path: (next(self.tokens), files[path][1]) for path in moved})
        entries = [session.snapshot.get(path) for path in moved]
        assert {entry.data_key_id for entry in entries} == {keys[chosen]}
        assert len({entry.object_id for entry in entries}) == 1
        self.refresh(actor)

    @rule(actor=ACTORS, shown=st.booleans())
    def taken_back(self, actor, shown):
        """Somebody commits what nobody has, or only this actor was shown; the controller takes it back."""
        thief = Adversary(self.world, "third")
        change = thief.data([Planted("stolen", b"x")])
        thief.commit(change, store=shown)
        if shown:
            self.sessions[actor].refresh()
            assert self.sessions[actor].snapshot.get("stolen") is not None
            thief.store.delete_many([change_name(change.change_id)])
        report = void_commits(self.world.url, self.profiles["author"])
        assert report.first == len(self.commits)
        self.commits += [dict(self.commits[-1])] * 2
        self.voids += 1
        self.refresh(actor)

    @rule(actor=ACTORS)
    def renew_keys(self, actor):
        """Rotation and rewrapping touch no object."""
        session = self.sessions[actor]
        version = rotate(session)
        report = rewrap(session)
        assert report.version == version
        session.refresh()
        self.advanced(session)
        self.refresh(actor)

    @precondition(lambda self: any(self.commits[-1]))
    @rule(data=st.data())
    def destroy(self, data):
        """The controller destroys what one commit sealed: those files are gone, or say so; everything else stays."""
        session = self.sessions["author"]
        session.refresh()
        path = data.draw(st.sampled_from(sorted(self.commits[-1])))
        key_id = session.snapshot.get(path).data_key_id
        destroy_keys(session, [key_id])
        session.refresh()
        left = {}
        for name, entry in session.snapshot.items():
            if entry.data_key_id == key_id:
                # Moved or copied later: its name belongs to another commit.
                with session.begin() as tx:
                    tx.delete(name)
            else:
                left[name] = self.commits[-1][name]
        self.advanced(session, left)
        self.forgotten = len(self.commits) - 1
        self.commits[-1] = left
        self.tags = {name: at for name, at in self.tags.items() if name in session.snapshot.tags}
        self.refresh("author")

    @rule(actor=ACTORS, data=st.data())
    def look_back(self, actor, data):
        """Every earlier commit opens as it was, unless its objects were collected."""
        session = self.sessions[actor]
        session.refresh()
        sequence = data.draw(st.integers(0, len(self.commits) - 1))
        if sequence < self.horizon and sequence not in self.tags.values():
            with pytest.raises(SnapshotCollected):
                session.at(sequence)
            return
        if sequence < self.forgotten:
            self.look_before_destruction(session, sequence)
            return
        earlier = session.at(sequence)
        assert earlier.sequence == sequence
        assert earlier.read_only
        self.same(earlier.snapshot, self.commits[sequence])
        self.reads(earlier, self.commits[sequence])

    def look_before_destruction(self, session, sequence):
        """A snapshot from before a destruction opens without what is gone, or says why it does not."""
        try:
            earlier = session.at(sequence)
        except AccessDenied:
            return
        known = self.commits[sequence]
        for path, entry in earlier.snapshot.items():
            try:
                assert session.read_ranges([(entry, 0, entry.length)]) == [known[path][1]]
            except KeyDestroyed:
                continue

    @invariant()
    def history_is_whole(self):
        """Anchors and model have the same length."""
        if hasattr(self, "commits"):
            assert self.world.newest() == len(self.commits) - 1


TestLog = LogModel.TestCase
TestLog.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # one run takes seconds: shrinking would take an hour
)
