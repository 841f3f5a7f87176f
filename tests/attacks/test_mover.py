"""A mover without a key, and hosts that hand it something else: what it copies is what was signed, or it is named.

The mover knows the dataset's id; sometimes what a client saw last, or the key service's anchors.  It has no key.
"""

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import Adversary, Planted, World

from sealedhealth.errors import IntegrityError, RolledBack
from sealedhealth.log.link import Link, file_digest
from sealedhealth.log.names import DESCRIPTOR_NAME, change_name, link_name, object_name
from sealedhealth.log.roster import Role
from sealedhealth.log.section import Section
from sealedhealth.replicate import PublicLog, check_host, replicate
from sealedhealth.session import Session, maintenance
from sealedhealth.stores import open_store


@pytest.fixture
def host(world):
    """The store, as anybody may read it."""
    return open_store(world.url, {})


@pytest.fixture
def target(world):
    """An empty place elsewhere."""
    return open_store(str(world.root / "elsewhere"), {})


def copy(world, host, target, **options):
    """What the mover does."""
    return replicate(host, target, world.dataset_id, pause=lambda _: None, **options)


def stored(store):
    """Every file of a store."""
    return {name: store.get(name, limit=1 << 30) for name, _ in store.list("")}


def name_of(world, path):
    """Where the object of a file stands."""
    return world.object_file(path).relative_to(world.host).as_posix()


def test_no_key_and_no_key_service(world, host, target, keys_seen, monkeypatch):
    """Copying and checking need the id and nothing else: no key is derived, no key service is spoken to."""
    world.put({"shared/large": os.urandom(400_000)})
    keys_seen.clear()
    for method in ("unwrap", "generate", "rewrap", "sign", "author", "read_anchor", "lookup"):
        monkeypatch.setattr(type(world.service), method, None)
    assert copy(world, host, target).error() is None
    assert check_host(target, world.dataset_id).error() is None
    assert keys_seen == set()
    needed = PublicLog.read(host, world.dataset_id).files
    assert stored(target) == {name: data for name, data in stored(host).items() if name in needed}


class TestAlteredObjects:
    """What the host does to objects never arrives."""

    def test_swapped(self, world, host, target):
        """Two objects that changed places."""
        world.put({"shared/three": b"six"})  # as long as "one"
        one, two = name_of(world, "shared/one"), name_of(world, "shared/three")
        first, second = (world.host / one).read_bytes(), (world.host / two).read_bytes()
        (world.host / one).write_bytes(second)
        (world.host / two).write_bytes(first)
        report = copy(world, host, target)
        assert sorted(report.corrupted) == sorted([one, two])
        assert not target.exists(one)
        assert not target.exists(two)

    @pytest.mark.parametrize("harm", [lambda raw: raw[:-1], lambda raw: raw + b"x", lambda raw: b"", lambda _: None])
    def test_truncated_or_longer(self, world, host, target, harm):
        """Cut short, lengthened, emptied or gone: named, and nothing of it is copied."""
        name = name_of(world, "shared/two")
        raw = harm((world.host / name).read_bytes())
        (world.host / name).unlink() if raw is None else (world.host / name).write_bytes(raw)
        report = copy(world, host, target)
        assert [finding.name for finding in report.findings] == [name]
        assert not target.exists(name)
        assert [finding.name for finding in check_host(host, world.dataset_id).findings] == [name]

    def test_altered_after_the_move(self, world, host, target):
        """What the old host does later touches nobody who reads from the new one."""
        assert copy(world, host, target).error() is None
        for name in [name for name, _ in host.list("")]:
            host.put(name, b"gone")
        world.service.register(replace(world.service.lookup(world.dataset_id.hex()), urls=(target.url,)))
        session = Session.open(target.url, world.profile("author"))
        assert world.files(session) == {"shared/one": b"one", "shared/two": b"two" * 1000}


class TestAlteredLog:
    """What the host does to the log."""

    def test_another_datasets_log(self, world, target, tmp_path_factory):
        """Another dataset under the same URL is another dataset, however genuine."""
        other = World(tmp_path_factory.mktemp("other"))
        with pytest.raises(IntegrityError, match=r"where .* belongs"):
            copy(world, open_store(other.url, {}), target)
        assert stored(target) == {}

    def test_another_datasets_links(self, world, host, target, tmp_path_factory):
        """Links of another dataset, signed by somebody this one does not know, count for nothing and are named."""
        other = World(tmp_path_factory.mktemp("other"))
        other.put({"x": b"x"})
        last = world.newest()
        (world.host / link_name(last)).write_bytes((other.host / link_name(1)).read_bytes())
        report = copy(world, host, target)
        assert report.corrupted == [link_name(last)]
        assert report.sequence == last - 1

    def test_forged_link(self, world, thief, host, target):
        """A link by somebody who is on no roster, in the right place and with the right parent."""
        stranger = Adversary(world, "producer")
        stranger.author_id = os.urandom(16)
        change = stranger.data([Planted("hospital/forged", b"forged")])
        raw = change.pack(stranger.sign)
        host.put(change_name(change.change_id), raw)
        last = world.newest()
        host.put(link_name(last + 1), stranger.link({change.change_id: raw}))
        report = copy(world, host, target)
        assert report.sequence == last
        assert report.corrupted == [link_name(last + 1)]
        assert not target.exists(link_name(last + 1))
        assert copy(world, host, target, anchors=world.service).error() is None  # nobody anchored it

    def test_newest_link_held_back(self, world, host, target):
        """Invisible by itself; what a client saw shows it, and the anchors make good for it."""
        last = world.newest()
        digest = file_digest((world.host / link_name(last)).read_bytes())
        (world.host / link_name(last)).unlink()
        report = copy(world, host, target)
        assert report.error() is None
        assert report.freshness == "unknown"
        with pytest.raises(RolledBack, match="holds the newest links back"):
            copy(world, host, target, head=(last, digest))
        report = copy(world, host, target, anchors=world.service)
        assert report.error() is None
        assert report.sequence == last
        assert report.freshness == "anchors"

    def test_newest_commit_held_back(self, world, host, target):
        """Link and change set gone: with anchors its absence is named."""
        last = world.newest()
        [ref] = Link.read(Link.split((world.host / link_name(last)).read_bytes())).changes
        change = change_name(ref.change_id)
        for name in (link_name(last), change):
            (world.host / name).unlink()
        report = copy(world, host, target, anchors=world.service)
        assert change in report.missing
        assert report.sequence == last - 1

    def test_rolled_back(self, world, host, target):
        """The whole store as it was yesterday."""
        yesterday = world.backup(world.host)
        world.put({"shared/new": b"new"})
        last = world.newest()
        digest = file_digest((world.host / link_name(last)).read_bytes())
        world.restore(yesterday, world.host)
        with pytest.raises(RolledBack):
            copy(world, host, target, head=(last, digest))
        report = copy(world, host, target, anchors=world.service)
        assert report.error() is not None
        assert report.sequence == last - 1

    def test_rolled_back_under_a_newer_copy(self, world, host, target):
        """A destination that has more is not made older."""
        yesterday = world.backup(world.host)
        world.put({"shared/new": b"new"})
        assert copy(world, host, target).error() is None
        before = stored(target)
        world.restore(yesterday, world.host)
        with pytest.raises(RolledBack, match="the source ends with"):
            copy(world, host, target)
        assert stored(target) == before

    def test_descriptor_of_another_root(self, world, host, target, tmp_path_factory):
        """The root of trust cannot be exchanged."""
        other = World(tmp_path_factory.mktemp("other"))
        host.put(DESCRIPTOR_NAME, (other.host / DESCRIPTOR_NAME).read_bytes())
        with pytest.raises(IntegrityError):
            copy(world, host, target)


class TestStolenProducer:
    """Whoever may commit as a producer cannot make keyless checks fail for ever."""

    def test_claims_the_id_of_another_object(self, world, thief, host, target):
        """Reported, and the genuine object counts as right: it is what one of the two signed."""
        name = name_of(world, "shared/two")
        object_id = bytes.fromhex(name.rpartition("/")[2])
        Adversary(world, "producer").commit(
            Adversary(world, "producer").data([Planted("hospital/mine", b"mine", object_id=object_id, store=False)])
        )
        report = check_host(host, world.dataset_id)
        assert report.error() is None
        [said] = report.disputed
        assert said.startswith(name)
        assert copy(world, host, target).error() is None
        assert target.get(name, limit=1 << 20) == (world.host / name).read_bytes()

    def test_claim_does_not_hide_an_altered_object(self, world, thief, host):
        """Bytes that nobody signed are still wrong."""
        name = name_of(world, "shared/two")
        adversary = Adversary(world, "producer")
        object_id = bytes.fromhex(name.rpartition("/")[2])
        adversary.commit(adversary.data([Planted("hospital/mine", b"mine", object_id=object_id, store=False)]))
        raw = (world.host / name).read_bytes()
        (world.host / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        assert check_host(host, world.dataset_id).corrupted == [name]

    def test_object_that_was_never_uploaded(self, world, thief, host):
        """Missing, and named with whoever claims it, until a curator has deleted its path and collected garbage."""
        adversary = Adversary(world, "producer")
        adversary.commit(adversary.data([Planted("hospital/ghost", b"ghost", store=False)]))
        assert len(check_host(host, world.dataset_id).missing) == 1
        session = world.open()
        tx = session.begin()
        tx.delete("hospital/ghost")
        tx.commit()
        maintenance.collect(world.open(), grace=timedelta(0))
        assert check_host(host, world.dataset_id).error() is None

    def test_refused_section(self, world, thief, host):
        """Objects of a commit outside of its author's prefix: collecting garbage ends the claim to them."""
        adversary = Adversary(world, "producer")
        adversary.commit(adversary.data([Planted("elsewhere/x", b"x")]))
        assert check_host(host, world.dataset_id).error() is None
        maintenance.collect(world.open(), grace=timedelta(0))
        maintenance.collect(world.open(), grace=timedelta(0))
        assert check_host(host, world.dataset_id).error() is None

    def test_objects_without_a_path(self, world, thief, host):
        """Objects that were never uploaded and that no path names: the same."""
        adversary = Adversary(world, "producer")
        ghost = [Planted("hospital/ghost", b"ghost", store=False)]
        adversary.commit(adversary.data(ghost, section=Section(new_objects=((0, bytes(24)),))))
        maintenance.collect(world.open(), grace=timedelta(0))
        maintenance.collect(world.open(), grace=timedelta(0))
        assert check_host(host, world.dataset_id).error() is None

    def test_wasted_numbers(self, world, thief, host, target):
        """Anchors that hold nothing leave gaps; the log goes on behind them."""
        adversary = Adversary(world, "producer")
        for _ in range(3):
            adversary.anchor(b"nothing")
        world.put({"shared/after": b"after"})
        for anchors in (None, world.service):
            report = check_host(host, world.dataset_id, anchors=anchors)
            assert report.error() is None
            assert report.sequence == world.newest()
        assert copy(world, host, target).error() is None

    def test_link_that_nobody_anchored(self, world, thief, host, target):
        """Signed by rights and put on the store only: no commit for whoever reads the anchors, and one for others."""
        adversary = Adversary(world, "producer")
        change = adversary.data([Planted("hospital/x", b"x")])
        raw = change.pack(adversary.sign)
        last = world.newest()
        host.put(change_name(change.change_id), raw)
        host.put(link_name(last + 1), adversary.link({change.change_id: raw}))
        assert PublicLog.read(host, world.dataset_id).sequence == last + 1
        report = copy(world, host, target, anchors=world.service)
        assert report.error() is None
        assert report.sequence == last
        assert not target.exists(link_name(last + 1))
        assert not target.exists(change_name(change.change_id))

    def test_left_the_roster(self, world, thief, host):
        """What it signed before it left stays checked, and counts."""
        world.join("producer", Role.PRODUCER, prefix="hospital", active=False)
        assert check_host(host, world.dataset_id).error() is None

    def test_collected_object_claimed_again(self, world, thief, host):
        """An id that garbage collection gave up is missed when somebody claims it anew, and only then."""
        name = name_of(world, "shared/two")
        world.put({"shared/one": b"newer", "shared/two": b"newer"})  # packed into one object
        maintenance.collect(world.open(), grace=timedelta(0))
        assert check_host(host, world.dataset_id).error() is None
        assert not (world.host / name).exists()
        adversary = Adversary(world, "producer")
        object_id = bytes.fromhex(name.rpartition("/")[2])
        adversary.commit(adversary.data([Planted("hospital/mine", b"mine", object_id=object_id)]))
        assert check_host(host, world.dataset_id).error() is None
        assert object_name(object_id) in PublicLog.read(host, world.dataset_id).files
