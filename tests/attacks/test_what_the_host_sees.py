"""What lies on the host, byte by byte: nothing that was sealed, no name, and no key."""

from __future__ import annotations

import zlib
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from sealedhealth.dataset import Dataset
from sealedhealth.log.roster import Role
from sealedhealth.profiles import create_keystore, load_profile
from sealedhealth.session import set_author
from sealedhealth.stores import ObjectStore, StoreWriter, local

NIR = b"2690549588157 80"  # a number as those of persons
SECRETS = {
    "content": NIR,
    "magic of Parquet": b"PAR1",
    "column": b"condition_concept_id",
    "directory": b"lille-oncology",
    "file": b"dupont-anne",
    "message": b"biopsies of ward seven",
    "tag": b"before-the-audit",
    "author": b"professeur-martin",
    "prefix": b"martins-own-place",
    "compartment": b"default",
}


@pytest.fixture
def sent(monkeypatch):
    """Every name and every byte that is handed to the store, whatever becomes of it."""
    stored: list[bytes] = []
    assert issubclass(local.LocalStore, ObjectStore)
    for owner, method in ((ObjectStore, "put"), (ObjectStore, "put_many"), (StoreWriter, "write")):
        for kind in {owner, *_subclasses(owner)}:
            if method in vars(kind):
                monkeypatch.setattr(kind, method, _recording(vars(kind)[method], stored))
    return stored


def _subclasses(kind):
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def _recording(method, stored):
    def recorded(self, *args):
        for value in args:
            if isinstance(value, str):
                stored.append(value.encode())
            elif isinstance(value, dict):
                stored.extend(part if isinstance(part, bytes) else part.encode() for part in value)
                stored.extend(bytes(part) for part in value.values())
            elif isinstance(value, bytes | bytearray | memoryview):
                stored.append(bytes(value))
        return method(self, *args)

    return recorded


def use(root: Path) -> None:
    """Do everything with a dataset that writes to its host."""
    profile = load_profile()
    service = create_keystore(profile, development=True).service
    ds = Dataset.create(str(root), profile=profile)
    table = b"PAR1" + NIR + b"condition_concept_id" * 50 + b"PAR1"
    with ds.transaction("biopsies of ward seven"):
        ds.fs.pipe_file("lille-oncology/dupont-anne.parquet", table)
        ds.fs.pipe_file("lille-oncology/scan.dcm", NIR * 400_000)  # large enough for a stream
    ds.tag("before-the-audit")
    author = service.create_author("professeur-martin")
    roles = [Role.PRODUCER]
    set_author(ds.session, author.public_key, name="professeur-martin", roles=roles, prefix="martins-own-place")
    ds.mv("lille-oncology/dupont-anne.parquet", "lille-oncology/dupont-anne-2.parquet")
    with pytest.raises(KeyboardInterrupt), ds.fs.open("lille-oncology/lost", "wb") as file:
        file.write(NIR * 400_000)
        raise KeyboardInterrupt
    ds.maintain(force=True)
    ds.rotate()
    ds.rewrap()
    ds.rm("lille-oncology/scan.dcm")
    ds.untag("before-the-audit")
    ds.gc(grace=timedelta())
    ds.destroy_key(commit=1)


def everything(root: Path) -> list[bytes]:
    """Names and content of all that lies on the host, compressed parts expanded too."""
    found = []
    for path in sorted(root.rglob("*")):
        found.append(path.relative_to(root).as_posix().encode())
        if path.is_file():
            found.append(path.read_bytes())
    return found


def expanded(data: bytes) -> list[bytes]:
    """Whatever in *data* is a zlib stream."""
    streams = []
    at = data.find(b"\x78")
    while at >= 0:
        with suppress(zlib.error):
            streams.append(zlib.decompressobj().decompress(memoryview(data)[at:], 1 << 20))
        at = data.find(b"\x78", at + 1)
    return streams


def test_nothing_sealed_and_no_key_reaches_the_host(tmp_path, sent, keys_seen):
    """Neither what lies there in the end nor anything on the way holds content, names, messages, or keys."""
    root = tmp_path / "host"
    use(root)
    assert len(sent) > 30
    assert sum(map(len, sent)) > 2 * len(NIR) * 400_000  # streams are seen, too
    seen = sent + everything(root)
    seen += [stream for data in seen if len(data) < 1 << 18 for stream in expanded(data)]
    for what, secret in SECRETS.items():
        assert not any(secret in data for data in seen), what
    keystore = [path for path in load_profile().keystore.rglob("*") if path.parent.name in {"keks", "authors"}]
    bare = [path.read_bytes()[at : at + 32] for path in keystore for at in range(path.stat().st_size - 31)]
    assert len(keys_seen) > 10
    assert len(bare) > 100
    for key in {*keys_seen, *bare}:
        for data in seen:
            assert key not in data
            assert key.hex().encode() not in data


def test_the_search_would_find_it(tmp_path):
    """The same search finds a canary that lies on the host in a compressed part."""
    (tmp_path / "leak").write_bytes(b"..." + zlib.compress(NIR * 3))
    assert any(NIR in stream for data in everything(tmp_path) for stream in expanded(data))
