"""What people who use a dataset for the first time ran into."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from datasets import make_session

from sealedhealth.errors import AccessDenied, AlreadyExists, ConflictError
from sealedhealth.session import create_dataset, find_root, transaction
from sealedhealth.session import verify as verifying
from sealedhealth.session.engine import Engine
from sealedhealth.session.seen import Seen
from sealedhealth.session.verify import VerificationFailed, verify


@pytest.fixture
def session(make_place, monkeypatch):
    """A new dataset on local disk."""
    return make_session(make_place("local"), monkeypatch)


@pytest.mark.parametrize("size", [10, transaction.SMALL + 10])
@pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
def test_file_that_changes_while_it_is_read(session, tmp_path, monkeypatch, size, change):
    """Nothing of it is committed: its bytes could be of two versions."""
    source = tmp_path / "growing.csv"
    source.write_bytes(bytes(size))
    real = os.fstat
    looks = []

    def look(number):
        looks.append(number)
        if len(looks) == 2:
            if change == "touch":
                os.utime(source, ns=(1, 1))
            else:
                os.truncate(source, size + 1 if change == "grow" else size - 1)
        return real(number)

    monkeypatch.setattr(transaction.os, "fstat", look)
    with pytest.raises(ConflictError, match="changed while it was read"), session.begin() as tx:
        tx.put_files([(str(source), "growing.csv")])
    monkeypatch.undo()
    assert len(session.refresh()) == 0


@pytest.mark.parametrize("below", ["", "/a", "/a/b"])
def test_dataset_above_or_below_another(session, below):
    """Datasets are never nested, whichever of the two is made first: the upper one would hide the lower."""
    root = session.url
    upper = root.rpartition("/")[0]
    for url in (root + below, upper):
        with pytest.raises(AlreadyExists, match="nested"):
            create_dataset(url, session.profile)
    assert find_root(f"{root}/x/y", session.profile) == (root, "x/y")


def test_newest_link_that_stays_away(session, monkeypatch):
    """A link may come to the store a moment after its anchor; later, its absence is found."""
    with session.begin() as tx:
        tx.put_bytes("a", b"1")
    session.engine.store.delete_many([".sealedhealth/log/000000000001"])
    verify(session)
    monkeypatch.setattr(verifying, "_ON_ITS_WAY", timedelta(0))
    with pytest.raises(VerificationFailed, match="000000000001"):
        verify(session)


def test_state_directory_that_cannot_be_written(tmp_path, monkeypatch):
    """That is a matter of rights, not of a service that may come back."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sealedhealth.session.seen.replace_file", refuse)
    with pytest.raises(AccessDenied, match="Permission denied"):
        Seen(tmp_path, bytes(16)).remember(1, bytes(48))


def test_two_profiles_of_one_name(session):
    """Sessions share what is loaded only when their profiles are equal, not when they merely have the same name."""
    other = replace(session.profile, author="another")
    assert Engine.get(session.url, session.profile) is session.engine
    assert Engine.get(session.url, other) is not session.engine
