"""The public state machine, fed by hand: no key, no store, no anchors."""

from dataclasses import replace

import pytest

from sealedhealth.errors import MalformedError, TamperedError
from sealedhealth.keys.base import Kek, WrappedKey
from sealedhealth.log.changeset import ChangeKind, ChangeSet, Inventory, ReusedKey, SectionRef
from sealedhealth.log.envelope import ROOT_AUTHOR
from sealedhealth.log.link import ChangeRef, CheckpointRef, Descriptor, Link, file_digest
from sealedhealth.log.roster import Author, Policy, Role, Settings
from sealedhealth.log.state import LogState, VoidLink

HERE, THERE = b"h" * 16, b"t" * 16
ALICE, BOB, CAROL = b"a" * 16, b"b" * 16, b"c" * 16


class Bench:
    """A log in memory: alice produces, bob curates and rotates."""

    def __init__(self, root, alice, bob):
        self.keys = {ROOT_AUTHOR: root, ALICE: alice, BOB: bob}
        self.descriptor = Descriptor(root.public_key, b"n" * 32, 0)
        self.dataset_id = self.descriptor.dataset_id
        self.state = LogState.initial(self.descriptor, self.descriptor.pack(root.sign))
        self.number = 0
        self.policy = Policy(
            1,
            (HERE, THERE),
            {
                ALICE: Author(ALICE, alice.public_key, frozenset([Role.PRODUCER]), frozenset([HERE])),
                BOB: Author(BOB, bob.public_key, frozenset([Role.CURATOR, Role.ROTATOR]), frozenset([HERE, THERE])),
            },
            Settings(),
        )

    def change(self, author=ALICE, kind=ChangeKind.DATA, **parts):
        """A change set."""
        self.number += 1
        given = {"dataset_id": self.dataset_id, "change_id": self.number.to_bytes(16, "big"), "time_us": 0, **parts}
        return ChangeSet(author_id=author, kind=kind, **given)

    def wrapped(self, number, compartment=HERE, version=1, ciphertext=b"wrap"):
        """A wrapped key with the number as id."""
        return WrappedKey(Kek(self.dataset_id, compartment), number.to_bytes(16, "big"), version, ciphertext)

    def link(self, *changes, author=None, signer=None, **parts):
        """A link over change sets, and its files."""
        author = changes[0].author_id if author is None else author
        files = {c.change_id: c.pack(self.keys[c.author_id].sign) for c in changes}
        given = {
            "dataset_id": self.dataset_id,
            "sequence": self.state.sequence + 1,
            "parent": self.state.head,
            "changes": tuple(ChangeRef(key, file_digest(raw), len(raw)) for key, raw in files.items()),
            "time_us": 0,
            **parts,
        }
        return Link(author_id=author, **given).pack(self.keys[signer or author].sign), files

    def take(self, raw, files):
        """What replay does with one anchor."""
        return self.state.advance(self.state.check_link(self.state.sequence + 1, raw), raw, files)

    def commit(self, *changes, **parts):
        """Commit change sets and return the reasons of refusals that this brought."""
        known = len(self.state.refusals)
        self.take(*self.link(*changes, **parts))
        return [refusal.reason for refusal in self.state.refusals[known:]]

    def begin(self):
        """The first policy."""
        assert self.commit(self.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=self.policy)) == []
        return self


@pytest.fixture
def fresh(root, alice, bob):
    """A log before its first commit."""
    return Bench(root, alice, bob)


@pytest.fixture
def bench(fresh):
    """A log with its policy."""
    return fresh.begin()


def public(state):
    """What refused change sets must leave alone."""
    return state.keys, state.destroyed, state.minimum, state.policy, state.horizon


# -- the beginning -------------------------------------------------------------------------------------------


def test_first_commit_is_a_policy_by_the_root_key(fresh):
    """Before a policy, nobody but the root key commits, and nothing but a policy begins a log."""
    with pytest.raises(VoidLink, match="roster"):
        fresh.take(*fresh.link(fresh.change(ALICE)))
    with pytest.raises(MalformedError, match="policy"):
        fresh.take(*fresh.link(fresh.change(ROOT_AUTHOR, ChangeKind.COLLECT)))


def test_state_after_commits(bench):
    """Sequence, head and keys follow the commits."""
    raw, files = bench.link(bench.change(keys=(bench.wrapped(1),)))
    [accepted] = bench.take(raw, files)
    state = bench.state
    assert (state.sequence, state.head_sequence, state.head) == (1, 1, file_digest(raw))
    assert accepted.policy == bench.policy
    record = state.keys[(1).to_bytes(16, "big")]
    assert (record.sequence, record.kind) == (1, ChangeKind.DATA)
    assert list(state.live_keys()) == [bench.wrapped(1)]
    assert state.changes == {(1).to_bytes(16, "big"), (2).to_bytes(16, "big")}


def test_copy_is_independent(bench):
    """A trial on a copy leaves the state alone."""
    copy = bench.state.copy()
    before = bench.state.copy()
    raw, files = bench.link(bench.change(keys=(bench.wrapped(1),)))
    copy.advance(copy.check_link(1, raw), raw, files)
    assert bench.state == before
    assert copy != before


# -- void links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts, reason",
    [
        ({"parent": bytes(48)}, "parent"),
        ({"sequence": 7}, "number 7"),
        ({"dataset_id": bytes(16)}, "another dataset"),
        ({"signer": BOB}, "signature"),
        ({"author": CAROL, "signer": BOB}, "roster"),
        ({"author": ROOT_AUTHOR, "signer": BOB}, "signature"),
    ],
)
def test_void_links(bench, parts, reason):
    """A link of the wrong place, author or signature is void and changes nothing but the count."""
    head = bench.state.head
    raw, _ = bench.link(bench.change(), **parts)
    with pytest.raises(VoidLink, match=reason) as caught:
        bench.state.check_link(1, raw)
    bench.state.skip(1, caught.value.what)
    assert (bench.state.sequence, bench.state.head_sequence, bench.state.head) == (1, 0, head)
    assert bench.commit(bench.change(keys=(bench.wrapped(1),))) == []
    assert bench.state.head_sequence == 2


@pytest.mark.parametrize("raw", [b"", b"x", bytes(140), bytes(70_000)])
def test_what_is_no_link(bench, raw):
    """Any bytes can stand in an anchor."""
    with pytest.raises(VoidLink):
        bench.state.check_link(1, raw)


def test_links_come_in_order(bench):
    """The caller feeds anchors one by one."""
    raw, _ = bench.link(bench.change())
    with pytest.raises(ValueError, match="order"):
        bench.state.check_link(2, raw)


def test_repeated_change_set(bench):
    """A change set counts once, also when it was refused, also when the file now is another."""
    change = bench.change()
    refused = bench.change(ALICE, ChangeKind.COLLECT)
    bench.commit(change)
    bench.commit(refused)
    for again in (change, refused, replace(change, time_us=5)):
        raw, _ = bench.link(again)
        with pytest.raises(VoidLink, match="repeats"):
            bench.state.check_link(bench.state.sequence + 1, raw)


def test_file_that_is_not_the_named_one(bench):
    """Other bytes than the link names are an error, and the state stays as it was."""
    change = bench.change(keys=(bench.wrapped(1),))
    raw, files = bench.link(change)
    before = bench.state.copy()
    for data in (
        files[change.change_id] + b"x",
        files[change.change_id][:-1],
        b"",
        bytes(len(files[change.change_id])),
    ):
        with pytest.raises(TamperedError, match=change.change_id.hex()):
            bench.take(raw, {change.change_id: data})
    assert bench.state == before


# -- who may what --------------------------------------------------------------------------------------------


PARTS = {
    ChangeKind.DATA: lambda b: {"keys": (b.wrapped(9),)},
    ChangeKind.REWRAP: lambda b: {"keys": (b.wrapped(1, version=2, ciphertext=b"new"),)},
    ChangeKind.COLLECT: lambda b: {"horizon": 1},
    ChangeKind.POLICY: lambda b: {"policy": replace(b.policy, version=2)},
    ChangeKind.DESTROY: lambda b: {"destroyed": ((1).to_bytes(16, "big"),), "minimum": {HERE: 2}},
}
ALLOWED = {
    ALICE: {ChangeKind.DATA},
    BOB: {ChangeKind.DATA, ChangeKind.REWRAP, ChangeKind.COLLECT},
    ROOT_AUTHOR: set(ChangeKind),
}


@pytest.mark.parametrize("author", ALLOWED)
@pytest.mark.parametrize("kind", ChangeKind)
def test_kinds_and_roles(bench, author, kind):
    """Each role commits its kinds and no other; a refused change set leaves no trace."""
    bench.commit(bench.change(keys=(bench.wrapped(1),)))
    before = bench.state.copy()
    reasons = bench.commit(bench.change(author, kind, **PARTS[kind](bench)))
    assert (reasons == []) == (kind in ALLOWED[author])
    if reasons:
        assert public(bench.state) == public(before)
    assert bench.state.head_sequence == 2


@pytest.mark.parametrize("role", Role)
def test_each_role_alone(bench, role):
    """One role is one right."""
    bench.commit(bench.change(keys=(bench.wrapped(1),)))
    only = replace(bench.policy.authors[ALICE], roles=frozenset([role]))
    bench.commit(
        bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=replace(bench.policy, version=2, authors={ALICE: only}))
    )
    allowed = {
        Role.PRODUCER: {ChangeKind.DATA},
        Role.CURATOR: {ChangeKind.DATA, ChangeKind.COLLECT},
        Role.ROTATOR: {ChangeKind.REWRAP},
    }[role]
    done = {kind for kind in PARTS if not bench.commit(bench.change(ALICE, kind, **PARTS[kind](bench)))}
    assert done == allowed


def test_compartments_of_an_author(bench):
    """An author touches its own compartments only: by keys and by sections."""
    assert bench.commit(bench.change(keys=(bench.wrapped(1, THERE),)))
    ref = SectionRef(THERE, (2).to_bytes(16, "big"), bytes(16), 1, bytes(32))
    there = bench.change(keys=(bench.wrapped(2, THERE),), sections=(ref,), sealed=(b"x",))
    assert bench.commit(there)
    assert bench.commit(bench.change(BOB, keys=(bench.wrapped(3, THERE),))) == []
    assert bench.commit(bench.change(BOB, keys=(bench.wrapped(4, b"x" * 16),)))


def test_who_links_what(bench):
    """A curator or the root key may link others' change sets; a producer its own only."""
    assert bench.commit(bench.change(BOB), author=ALICE)
    assert bench.commit(bench.change(ALICE), author=BOB) == []
    assert bench.commit(bench.change(ALICE), author=ROOT_AUTHOR) == []
    assert bench.commit(bench.change(ALICE), bench.change(BOB), author=BOB) == []


def test_foreign_change_set(bench, alice):
    """A change set of another dataset, or under another id than its own, is refused."""
    assert bench.commit(bench.change(dataset_id=bytes(16)))
    change = bench.change()
    raw = change.pack(alice.sign)
    link, _ = bench.link(change, changes=(ChangeRef(b"x" * 16, file_digest(raw), len(raw)),))
    bench.take(link, {b"x" * 16: raw})
    assert "another place" in bench.state.refusals[-1].reason


def test_removed_author(bench):
    """After its removal an author's links are void and its change sets refused."""
    late = bench.change(ALICE)
    gone = replace(bench.policy.authors[ALICE], active=False)
    policy = replace(bench.policy, version=2, authors={**bench.policy.authors, ALICE: gone})
    bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=policy))
    raw, _ = bench.link(late)
    with pytest.raises(VoidLink):
        bench.state.check_link(2, raw)
    assert bench.commit(late, author=BOB)


@pytest.mark.parametrize("version", [1, 3, 100])
def test_policy_versions(bench, version):
    """Policies follow each other by one."""
    policy = replace(bench.policy, version=version)
    assert bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=policy))
    assert bench.state.policy == bench.policy


def test_two_policies_in_one_commit(bench):
    """Change sets of one link count in order: the second policy builds on the first."""
    two = bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=replace(bench.policy, version=2))
    three = bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=replace(bench.policy, version=3))
    assert bench.commit(two, three) == []
    assert (bench.state.policy.version, bench.state.policy_sequence) == (3, 1)
    assert bench.state.policy_ref.change_id == three.change_id


# -- keys ----------------------------------------------------------------------------------------------------


def test_keys_are_introduced_once(bench):
    """A data key id never comes twice: in one change set, in two of one link, or later."""
    assert bench.commit(bench.change(keys=(bench.wrapped(1), bench.wrapped(1))))
    assert bench.commit(bench.change(keys=(bench.wrapped(2),)), bench.change(keys=(bench.wrapped(2),)))
    assert bench.commit(bench.change(keys=(bench.wrapped(2, ciphertext=b"other"),)))
    assert bench.state.keys.keys() == {(2).to_bytes(16, "big")}


def test_rewrap(bench):
    """A rewrap exchanges the wrap and keeps what the log knows of the key."""
    bench.commit(bench.change(keys=(bench.wrapped(1), bench.wrapped(2))))
    newer = bench.wrapped(1, version=3, ciphertext=b"newer")
    assert bench.commit(bench.change(BOB, ChangeKind.REWRAP, keys=(newer,))) == []
    record = bench.state.keys[newer.key_id]
    assert (record.wrapped, record.sequence, record.kind) == (newer, 1, ChangeKind.DATA)
    for wrong in (
        bench.wrapped(1, version=2),
        bench.wrapped(7, version=3),
        bench.wrapped(2, THERE, version=3),
    ):
        assert bench.commit(bench.change(BOB, ChangeKind.REWRAP, keys=(wrong,)))
    assert bench.state.keys[newer.key_id] == record


def test_destruction(bench):
    """A tombstone is for known keys; from then on wraps below the minimum are refused, and the minimum never falls."""
    bench.commit(bench.change(keys=(bench.wrapped(1), bench.wrapped(2))))
    one = (1).to_bytes(16, "big")

    def destroy(keys, minimum):
        return bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.DESTROY, destroyed=keys, minimum=minimum))

    assert destroy((b"x" * 16,), {})
    assert destroy((one,), {HERE: 3}) == []
    assert bench.state.destroyed == {one: bench.state.sequence}
    assert [key.key_id for key in bench.state.live_keys()] == [(2).to_bytes(16, "big")]
    assert destroy((), {HERE: 2})
    assert bench.commit(bench.change(keys=(bench.wrapped(3, version=2),)))
    assert bench.commit(bench.change(keys=(bench.wrapped(4, version=3),))) == []
    assert bench.commit(bench.change(BOB, ChangeKind.REWRAP, keys=(bench.wrapped(1, version=3),)))
    assert bench.commit(bench.change(BOB, ChangeKind.REWRAP, keys=(bench.wrapped(2, version=2),)))
    assert bench.commit(bench.change(BOB, ChangeKind.REWRAP, keys=(bench.wrapped(2, version=3),))) == []


def test_collection(bench):
    """The horizon moves forward only, and never beyond the present."""
    assert bench.commit(bench.change(BOB, ChangeKind.COLLECT, horizon=1)) == []
    assert bench.commit(bench.change(BOB, ChangeKind.COLLECT, horizon=0)) == []
    assert bench.state.horizon == 1
    assert bench.commit(bench.change(BOB, ChangeKind.COLLECT, horizon=99))
    assert bench.state.horizon == 1


def test_objects_of_a_known_key_only_come_with_it(bench):
    """Whoever names objects brings the data key that they were sealed under."""
    change = bench.change(keys=(bench.wrapped(1),), inventory=Inventory(bytes(16), bytes(32), [136], [0]))
    assert bench.commit(change) == []


# -- data keys of earlier commits ----------------------------------------------------------------------------


def reusing(bench, number, author=BOB, compartment=HERE):
    """A change set with one object under an earlier data key."""
    key_id = number.to_bytes(16, "big")
    return bench.change(
        author,
        reused_keys=(ReusedKey(key_id, compartment),),
        inventory=Inventory(bytes(16), bytes(32), [136], [0]),
        sections=(SectionRef(compartment, key_id, bytes(16), 1, bytes(32)),),
        sealed=(b"x",),
    )


@pytest.mark.parametrize("author", [BOB, ROOT_AUTHOR])
def test_curator_reuses_a_data_key(bench, author):
    """A curator and the root key may; the log knows the key as it did before."""
    bench.commit(bench.change(keys=(bench.wrapped(1),)))
    before = dict(bench.state.keys)
    assert bench.commit(reusing(bench, 1, author)) == []
    assert bench.state.keys == before


def test_key_of_the_same_link_is_reused(bench):
    """Change sets of one link count in order: what the first brings, the second may reuse."""
    brings = bench.change(BOB, keys=(bench.wrapped(1),))
    assert bench.commit(reusing(bench, 1), brings)
    assert bench.commit(bench.change(BOB, keys=(bench.wrapped(2),)), reusing(bench, 2)) == []


def test_producer_reuses_no_data_key(bench):
    """Not even its own: a data key ends with the commit that brought it."""
    bench.commit(bench.change(keys=(bench.wrapped(1),)))
    before = bench.state.copy()
    [reason] = bench.commit(reusing(bench, 1, ALICE))
    assert "earlier commit" in reason
    assert bench.commit(reusing(bench, 1, ALICE), author=BOB) == [reason]
    assert public(bench.state) == public(before)


@pytest.mark.parametrize("number, compartment", [(7, HERE), (1, THERE), (2, HERE)])
def test_reused_key_is_known_where_it_is_claimed(bench, number, compartment):
    """A key that the log does not have, or has in another compartment, is not reused."""
    bench.commit(bench.change(BOB, keys=(bench.wrapped(1), bench.wrapped(2, THERE))))
    [reason] = bench.commit(reusing(bench, number, compartment=compartment))
    assert "unknown or of another compartment" in reason


def test_destroyed_key_is_not_reused(bench):
    """Nothing is sealed under a data key after its destruction."""
    bench.commit(bench.change(keys=(bench.wrapped(1),)))
    bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.DESTROY, destroyed=((1).to_bytes(16, "big"),)))
    [reason] = bench.commit(reusing(bench, 1))
    assert "destroyed" in reason


def test_key_of_a_policy_is_not_reused(bench):
    """The destruction of a dataset leaves the keys of policies: no data may lie under one."""
    policy = replace(bench.policy, version=2)
    bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=policy, keys=(bench.wrapped(1),)))
    [reason] = bench.commit(reusing(bench, 1, ROOT_AUTHOR))
    assert "seals no data" in reason


def test_compartments_of_a_curator(bench):
    """A curator reuses keys of its own compartments only."""
    bench.commit(bench.change(BOB, keys=(bench.wrapped(1, THERE),)))
    curator = replace(bench.policy.authors[ALICE], roles=frozenset([Role.CURATOR]))
    policy = replace(bench.policy, version=2, authors={**bench.policy.authors, ALICE: curator})
    bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.POLICY, policy=policy))
    [reason] = bench.commit(reusing(bench, 1, ALICE, THERE))
    assert "no part in" in reason


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_hints(bench):
    """A curator's or the root key's link moves the hint, a producer's does not, and none takes it away."""
    hint = CheckpointRef(b"k" * 16, bytes(48), 10, 0)
    bench.commit(bench.change(ALICE), checkpoint=hint)
    assert bench.state.checkpoint is None
    bench.commit(bench.change(BOB), checkpoint=hint)
    assert bench.state.checkpoint == hint
    bench.commit(bench.change(ALICE), checkpoint=replace(hint, size=11))
    bench.commit(bench.change(BOB))
    assert bench.state.checkpoint == hint
    bench.commit(bench.change(ROOT_AUTHOR, ChangeKind.COLLECT), checkpoint=replace(hint, size=12))
    assert bench.state.checkpoint.size == 12
