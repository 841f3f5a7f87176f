"""A stolen author commits what nobody can read, and stops everybody, until the data controller takes it back."""

import os
from dataclasses import replace

import pytest
from adversary import Adversary, Planted

from sealedhealth.errors import AccessDenied, ConflictError, IntegrityError, MissingError
from sealedhealth.log.changeset import ChangeKind
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import ChangeRef, Link, file_digest
from sealedhealth.log.names import change_name, link_name
from sealedhealth.log.roster import Role
from sealedhealth.replicate import PublicLog
from sealedhealth.replicate import public as public_log
from sealedhealth.session.engine import Engine
from sealedhealth.session.maintenance import destroy_keys, maintain
from sealedhealth.session.recovery import reanchor
from sealedhealth.session.verify import verify
from sealedhealth.session.voiding import void_commits
from sealedhealth.stores import open_store


@pytest.fixture
def bad(world, thief):
    """The thief."""
    return Adversary(world, "producer")


def take_back(world):
    """What the data controller does."""
    return void_commits(world.url, world.controller)


def goes_on(world, files):
    """Everybody reads, everything verifies, and others commit."""
    assert world.files(world.open(forgetful=True)) == files
    verify(world.open(forgetful=True))
    world.put({"shared/later": b"later"})
    assert world.files(world.open(forgetful=True)) == {**files, "shared/later": b"later"}
    verify(world.open(forgetful=True))


def stuck(world):
    """Nobody who comes anew reads anything."""
    with pytest.raises(IntegrityError):
        world.open(forgetful=True)


def plant(world, bad, path="hospital/x"):
    """A commit whose change set is on the store for now; its number, and where its file is."""
    change = bad.data([Planted(path, b"x")])
    return bad.commit(change), world.host / change_name(change.change_id)


# -- the attack, and the way out --------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["nothing", "other bytes", "more bytes", "one of two"])
def test_commit_that_nobody_can_read(world, bad, honest, what):
    """It stops every reader; once it is taken back everything is as it was, and the history says why."""
    session = world.open()
    change = bad.data([Planted("hospital/x", b"x")])
    raw = change.pack(bad.sign)
    files = {change.change_id: raw}
    if what == "one of two":
        second = bad.data([Planted("hospital/y", b"y")])
        files[second.change_id] = second.pack(bad.sign)
        bad.store.put(change_name(second.change_id), files[second.change_id])
        honest = {**honest, "hospital/y": b"y"}
    elif what != "nothing":
        bad.store.put(change_name(change.change_id), os.urandom(len(raw)) if what == "other bytes" else raw + b"x")
    sequence = bad.anchor(bad.link(files))
    stuck(world)
    with pytest.raises(IntegrityError):
        session.refresh()
    report = take_back(world)
    assert (report.first, report.last, report.commit) == (sequence, sequence, sequence + 1)
    assert report.missing == (change.change_id.hex(),)
    assert report.author == bad.author_id.hex()
    assert world.files(session) == honest
    history = world.open(forgetful=True).history()
    assert f"took it back in commit {sequence + 1}" in history[sequence].void
    assert history[sequence + 1].author == ("root" if what != "one of two" else history[sequence - 1].author)
    goes_on(world, honest)


def test_thief_goes_on(world, bad, honest):
    """Each time the controller can answer, whatever was wasted and repeated in between."""
    for _ in range(2):
        for _ in range(2):
            bad.anchor(b"garbage", world.newest() + 1)
        state = world.open().engine.loaded.state
        raw = bad.data([Planted("hospital/x", b"x")]).pack(bad.sign)
        link = bad.link({os.urandom(16): raw}, sequence=state.sequence + 1, parent=state.head)
        bad.anchor(link, state.sequence + 1)
        bad.anchor(os.urandom(300), state.sequence + 2)
        stuck(world)
        assert take_back(world).first == state.sequence + 1
    goes_on(world, honest)
    assert take_back(world).first is None


def test_nothing_to_take_back(world, thief, honest):
    """Where everything can be read, nothing is done."""
    newest = world.newest()
    assert take_back(world).first is None
    assert world.newest() == newest
    goes_on(world, honest)


def test_dry_run(world, bad, honest):
    """It tells, and writes nothing."""
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    before = {path for path in world.host.rglob("*") if path.is_file()}, world.newest()
    report = void_commits(world.url, world.controller, dry_run=True)
    assert report.commit == world.newest() + 1
    assert ({path for path in world.host.rglob("*") if path.is_file()}, world.newest()) == before
    stuck(world)


# -- readers who were given the file ----------------------------------------------------------------------


@pytest.mark.parametrize("checkpointed", [False, True])
def test_reader_who_had_the_file(world, bad, honest, checkpointed):
    """Who read the commit before it was taken back ends where everybody else does, checkpoint or not."""
    world.join("curator", Role.CURATOR)
    sequence, file = plant(world, bad)
    reader = world.open(world.profile("curator"))
    assert "hospital/x" in world.files(reader)
    if checkpointed:
        maintain(reader, force=True)
    file.rename(file.with_suffix(".hidden"))
    if not checkpointed:
        stuck(world)
    assert take_back(world).first == sequence
    assert world.files(reader) == honest
    fresh = world.open(forgetful=True)
    states = [replace(session.engine.loaded.state, refusals=()) for session in (reader, fresh)]
    assert states[0] == states[1]
    file.with_suffix(".hidden").rename(file)  # the host shows it again: too late
    assert world.files(world.open(forgetful=True)) == honest
    for number in range(sequence - 1, world.newest() + 1):
        assert [path for path, _ in world.open(forgetful=True).at(number).snapshot.items()] == sorted(honest)
    maintain(reader, force=True)
    goes_on(world, honest)


def test_honest_commits_that_followed(world, bad, honest):
    """What others committed meanwhile, who were given the file, counts again."""
    sequence, file = plant(world, bad)
    world.put({"shared/between": b"between"})
    world.join("late", Role.PRODUCER, prefix="late")
    world.put({"late/x": b"late"}, world.profile("late"))
    file.unlink()
    stuck(world)
    report = take_back(world)
    assert (report.first, len(report.again)) == (sequence, 3)
    goes_on(world, {**honest, "shared/between": b"between", "late/x": b"late"})


def test_transaction_that_was_open(world, bad, honest):
    """Who began before, and has seen what is taken back, commits after it."""
    _, file = plant(world, bad)
    tx = world.open().begin()
    tx.put_many({"shared/open": b"open"})
    file.unlink()
    take_back(world)
    tx.commit()
    goes_on(world, {**honest, "shared/open": b"open"})


def test_producer_who_cannot_read_goes_on(world, bad, honest):
    """The public part of the log is enough to know."""
    profile = world.join("blind", Role.PRODUCER, prefix="blind", encrypt_only=True)
    session = world.open(profile)
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    take_back(world)
    tx = session.begin()
    tx.put_many({"blind/a": b"a"})
    tx.commit()
    goes_on(world, {**honest, "blind/a": b"a"})


def test_destruction_since(world, bad):
    """A destruction cannot be taken back: the controller is told to find the file instead."""
    _, file = plant(world, bad)
    destroy_keys(world.open(), [world.open().snapshot.get("shared/one").data_key_id])
    content = file.read_bytes()
    file.unlink()
    newest = world.newest()
    with pytest.raises(ConflictError, match="destroyed"):
        take_back(world)
    assert world.newest() == newest
    file.write_bytes(content)
    assert world.files(world.open(forgetful=True)).keys() == {"hospital/honest", "hospital/x"}


# -- nobody else's word counts ----------------------------------------------------------------------------


def crafted(world, who, *, first, sign=None, **parts):
    """A link that takes back from *first* on, by some author, and its anchor's number."""
    change = who.change(ChangeKind.COLLECT, horizon=0)
    raw = change.pack(who.sign)
    who.store.put(change_name(change.change_id), raw)
    state = who.state()
    given = {
        "dataset_id": world.dataset_id,
        "sequence": world.newest() + 1,
        "parent": state.head,
        "author_id": who.author_id,
        "changes": (ChangeRef(change.change_id, file_digest(raw), len(raw)),),
        "time_us": 0,
        "void": first,
        **parts,
    }
    return Link(**given).pack(sign or who.sign)


@pytest.mark.parametrize("who", ["producer", "curator", "forged root"])
def test_others_take_nothing_back(world, bad, honest, who):
    """By an author, or in the name of the root key without its signature, it is a void link and no more."""
    world.join("curator", Role.CURATOR)
    author = Adversary(world, "producer" if who == "producer" else "curator")
    parts = {"author_id": ROOT_AUTHOR} if who == "forged root" else {}
    sequence = author.anchor(crafted(world, author, first=2, **parts))
    assert world.open(forgetful=True).history()[sequence].void
    goes_on(world, honest)


@pytest.mark.parametrize("wrong", ["number", "dataset", "itself", "later"])
def test_root_link_in_a_foreign_place(world, bad, honest, wrong):
    """A genuine link of the root key counts at its own number of its own dataset, and only for what came before."""
    root = Adversary(world, "root")
    number = world.newest() + 1
    raw = {
        "number": lambda: crafted(world, root, first=2, sequence=number + 5),
        "dataset": lambda: crafted(world, root, first=2, dataset_id=os.urandom(16)),
        "itself": lambda: crafted(world, root, first=number),
        "later": lambda: crafted(world, root, first=number + 3),
    }[wrong]()
    sequence = bad.anchor(raw)
    assert world.open(forgetful=True).history()[sequence].void
    goes_on(world, honest)


def test_old_word_of_the_root_key_repeated(world, bad, honest):
    """The link that took something back takes nothing back a second time, at another number."""
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    commit = take_back(world).commit
    word = world.open().engine.log.anchor(commit).link
    world.put({"shared/since": b"since"})
    sequence = bad.anchor(word, world.newest() + 1)
    assert world.open(forgetful=True).history()[sequence].void
    goes_on(world, {**honest, "shared/since": b"since"})


def test_copy_on_the_store_is_not_believed(world, bad, honest):
    """Without its anchor the root key's word is no word: the host shows a lost anchor, not another history."""
    root = Adversary(world, "root")
    raw = crafted(world, root, first=2, parent=file_digest(world.open().engine.log.anchor(1).link))
    bad.store.put(link_name(world.newest() + 1), raw)
    with pytest.raises(IntegrityError, match="goes on"):
        world.open(forgetful=True)


def test_host_withholds_what_the_word_names(world, bad, honest):
    """The commit that takes back is a commit like others: without its change set it is an error."""
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    commit = take_back(world).commit
    link = Link.read(Link.split(world.open().engine.log.anchor(commit).link))
    file = world.host / change_name(link.changes[0].change_id)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(MissingError):
        world.open(forgetful=True)
    file.write_bytes(content)
    goes_on(world, honest)


def test_stranger_takes_nothing_back(world, bad, monkeypatch):
    """Who does not have the root key is told so, and nothing is written."""
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    newest = world.newest()
    profile = world.profile("producer")
    monkeypatch.setattr(Engine, "root_name", property(lambda engine: "nobody"))
    with pytest.raises(AccessDenied, match="data controller"):
        void_commits(world.url, profile)
    assert world.newest() == newest


def test_anchors_lost_afterwards(world, bad, honest):
    """The store's copies bring the word back with everything else."""
    sequence = bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    commit = take_back(world).commit
    world.put({"shared/since": b"since"})
    for number in range(sequence, world.newest() + 1):
        world.anchor_file(number).unlink()
    Engine.forget(world.url, world.controller)  # or it would still know
    reanchor(world.url, world.controller)
    assert commit <= world.newest()
    goes_on(world, {**honest, "shared/since": b"since"})


def test_curator_points_to_what_was_taken_back(world, bad, honest):
    """A checkpoint of a commit that does not count is left aside, whoever names it later."""
    profile = world.join("curator", Role.CURATOR)
    _, file = plant(world, bad)
    maintain(world.open(profile), force=True)
    curator = Adversary(world, "curator")
    tainted = curator.state().checkpoint
    file.unlink()
    take_back(world)
    curator = Adversary(world, "curator")
    curator.commit(curator.change(ChangeKind.COLLECT), checkpoint=tainted)
    assert world.files(world.open(forgetful=True)) == honest


@pytest.mark.parametrize("window", [1, 64])
@pytest.mark.parametrize("anchored", [False, True])
def test_keyless_reader(world, bad, honest, anchored, window, monkeypatch):
    """Who checks a store without a key comes to the same log: first stopped, then past it."""
    monkeypatch.setattr(public_log, "_WINDOW", window)
    bad.commit(bad.data([Planted("hospital/x", b"x")]), store=False)
    anchors = world.service if anchored else None

    def read():
        return PublicLog.read(open_store(world.url, {}), world.dataset_id, anchors=anchors)

    assert [problem.missing for problem in read().problems] == [True]
    commit = take_back(world).commit
    world.put({"shared/since": b"since"})
    public = read()
    assert public.problems == []
    assert (public.sequence, public.head) == (commit + 1, world.open().engine.loaded.state.head)
    assert public.state.voids == ((commit - 1, commit),)
    goes_on(world, {**honest, "shared/since": b"since"})
