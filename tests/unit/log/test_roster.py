"""The public half of the roster."""

import json
from dataclasses import replace

import pytest

from sealedhealth.errors import MalformedError
from sealedhealth.log.roster import MAX_AUTHORS, MAX_COMPARTMENTS, Author, Policy, Role, Settings
from sealedhealth.log.strict import dump_json, load_json

HERE, THERE = b"h" * 16, b"t" * 16


@pytest.fixture
def policy(alice, bob):
    """Two authors, two compartments."""
    authors = [
        Author(b"a" * 16, alice.public_key, frozenset(Role), frozenset([HERE, THERE])),
        Author(b"b" * 16, bob.public_key, frozenset([Role.PRODUCER]), frozenset([HERE]), active=False),
    ]
    return Policy(3, (HERE, THERE), {author.author_id: author for author in authors}, Settings(grace_s=0))


def read(policy, change=None):
    """Read a policy whose JSON was changed."""
    document = json.loads(dump_json(policy.to_json()))
    if change is not None:
        change(document)
    return Policy.read(load_json(dump_json(document), "policy"))


def test_round_trip(policy):
    """A policy comes back as it was."""
    assert read(policy) == policy


def test_who_may(policy):
    """An author may what one of its roles says, as long as it is active."""
    everything, removed = policy.authors.values()
    assert all(everything.may(role) for role in Role)
    assert everything.may(Role.PRODUCER, Role.CURATOR)
    assert not removed.may(*Role)
    assert not Author(b"c" * 16, b"", frozenset(), frozenset()).may(*Role)
    assert not everything.may()


def test_next_version(policy, alice):
    """Adding or replacing an author makes the next version and leaves the present one alone."""
    added = policy.with_author(Author(b"c" * 16, b"k" * 97, frozenset(), frozenset()))
    assert (added.version, len(added.authors), len(policy.authors)) == (4, 3, 2)
    assert policy.author_of(alice.public_key).author_id == b"a" * 16
    assert policy.author_of(b"unknown") is None


@pytest.mark.parametrize("name", ["version", "compartments", "settings", "authors"])
@pytest.mark.parametrize("value", [None, 0, -1, True, "", "x", {}, [1], [[]], [{}]])
def test_each_field(policy, name, value):
    """A value of another type or out of bounds is malformed."""
    with pytest.raises(MalformedError):
        read(policy, lambda document: document.update({name: value}))
    with pytest.raises(MalformedError):
        read(policy, lambda document: document.pop(name))


@pytest.mark.parametrize(
    "name, value",
    [
        ("id", "00"), ("id", "00" * 16), ("id", (b"b" * 16).hex()), ("key", "04"), ("key", None), ("active", 1),
        ("active", None), ("roles", ["admin"]), ("roles", "producer"), ("roles", [1]), ("roles", [["producer"]]),
        ("roles", [{}]), ("roles", ["producer"] * 4), ("roles", [None]), ("compartments", ["00" * 16]),
        ("compartments", [[]]), ("compartments", HERE.hex()), ("more", 1),
    ],
)  # fmt: skip
def test_each_field_of_an_author(policy, name, value):
    """The same for authors: known roles, known compartments, ids that nobody else has, never the root key's."""
    with pytest.raises(MalformedError):
        read(policy, lambda document: document["authors"][0].update({name: value}))


def test_two_authors_with_one_key(policy):
    """One key is one author: else its removal would leave the other."""
    with pytest.raises(MalformedError, match="share"):
        read(policy, lambda d: d["authors"][1].update(key=d["authors"][0]["key"]))


@pytest.mark.parametrize(
    "name, value",
    [("grace_s", -1), ("grace_s", 10**12), ("grace_s", "1"), ("data_key_bytes", 0), ("data_key_bytes", 1 << 49),
     ("data_key_age_s", 0), ("data_key_age_s", 10**9), ("data_key_age_s", None), ("more", 1),
     ("pack_below", -1), ("pack_below", (4 << 20) + 1), ("pack_below", None), ("pack_below", True),
     ("pack_size", (1 << 20) - 1), ("pack_size", (64 << 20) + 1), ("pack_size", 0), ("pack_size", "1")],
)  # fmt: skip
def test_each_setting(policy, name, value):
    """Settings are bounded."""
    with pytest.raises(MalformedError):
        read(policy, lambda document: document["settings"].update({name: value}))


@pytest.mark.parametrize("below, size", [(0, 1 << 20), (4 << 20, 64 << 20), (262_144, 1 << 20), (1, 16 << 20)])
def test_packing(policy, below, size):
    """How files are packed comes back as it was, at the bounds too."""
    settings = Settings(pack_below=below, pack_size=size)
    assert read(replace(policy, settings=settings)).settings == settings


def test_packing_is_optional(policy):
    """A policy from before packing says nothing of it and means the usual; the usual is not written."""
    assert policy.settings.to_json().keys() == {"grace_s", "data_key_bytes", "data_key_age_s"}
    assert (policy.settings.pack_below, policy.settings.pack_size) == (262_144, 16_777_216)
    written = read(policy, lambda document: document["settings"].update(pack_below=262_144, pack_size=1 << 24))
    assert written == policy


def test_compartments(policy):
    """There is at least one, each once, and not too many."""
    for compartments in (
        [],
        [HERE.hex(), HERE.hex()],
        [n.to_bytes(16, "big").hex() for n in range(MAX_COMPARTMENTS + 1)],
    ):
        with pytest.raises(MalformedError):
            read(policy, lambda document, c=compartments: document.update(compartments=c, authors=[]))


def test_too_many_authors(policy):
    """The roster is bounded before its entries are looked at."""
    with pytest.raises(MalformedError):
        read(policy, lambda document: document.update(authors=[1] * (MAX_AUTHORS + 1)))


def test_keys_stay_out_of_sight(policy):
    """A listing of authors is not drowned in keys."""
    assert policy.authors[b"a" * 16].public_key.hex() not in repr(policy)
