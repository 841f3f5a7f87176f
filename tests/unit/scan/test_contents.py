"""Canaries inside what is compressed: found whatever it is embedded in, in bounded memory and time."""

import bz2
import gzip
import io
import lzma
import os
import sys
import tarfile
import zipfile
import zlib

import pytest

from sealedhealth.scan.canaries import Canary, Needles
from sealedhealth.scan.columnar import search_parquet_bytes
from sealedhealth.scan.contents import Budget, Contents

TEXT = "Dupont, Anne, 12/03/1972"
TABLE = b"person_id,name,born\n" + b"1,Martin,1950\n" * 200 + b"2," + TEXT.encode() + b"\n" + b"3,Petit,1960\n" * 200


def zstd(data):
    """*data* as zstd."""
    if sys.version_info >= (3, 14):
        from compression import zstd as library
    else:
        from backports import zstd as library
    return library.compress(data)


def zipped(data, method=zipfile.ZIP_DEFLATED):
    """*data* as a member of a zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("labs.csv", data)
    return out.getvalue()


def tarred(data):
    """*data* as a member of a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("labs.csv")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


WAYS = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "zip": zipped,
    "zip by bzip2": lambda data: zipped(data, zipfile.ZIP_BZIP2),
    "zip, stored": lambda data: zipped(data, zipfile.ZIP_STORED),
    "tar.gz": lambda data: gzip.compress(tarred(data)),
    "gzip in zip in xz": lambda data: lzma.compress(zipped(gzip.compress(data))),
}


def search(data, step=1 << 20, **limits):
    """What is found in *data* when it comes in pieces, and the budget."""
    found = []
    budget = Budget(limits.pop("left", 100 << 20))
    contents = Contents(Needles([Canary(TEXT, "here")]), found.append, budget, parquet=search_parquet_bytes)
    for start in range(0, len(data), step):
        contents.feed(data[start : start + step])
    contents.finish()
    return found, budget


class TestFound:
    """Found, and said where."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("step", [7, 1000, 1 << 20])
    def test_each_kind(self, way, step):
        """Each kind of compression, in pieces of any size."""
        packed = WAYS[way](TABLE)
        assert way == "zip, stored" or TEXT.encode() not in packed
        found, budget = search(packed, step)
        assert found
        assert not budget.notes

    @pytest.mark.parametrize("way", WAYS)
    def test_embedded(self, way):
        """In the middle of random bytes, and at their offset."""
        noise = os.urandom(100_000)
        found, _ = search(noise + WAYS[way](TABLE) + noise, 8192)
        assert found
        assert 100_000 <= found[0].offset <= 100_000 + len(TABLE)

    @pytest.mark.parametrize("way", ["gzip", "zlib", "bzip2", "xz", "zstd", "zip"])
    def test_cut_short(self, way):
        """An upload that broke off, so that its end is missing."""
        rest = os.urandom(1_000_000 if way == "bzip2" else 100_000)  # a block of bzip2 has 900,000 bytes
        packed = WAYS[way](TABLE + rest.hex().encode())
        found, _ = search(packed[: len(packed) * 3 // 4])
        assert found

    def test_one_after_the_other(self):
        """Several compressed parts, as appended logs have them; each place is reported."""
        found, _ = search(gzip.compress(TABLE) + gzip.compress(b"nothing") + gzip.compress(TABLE))
        assert len(found) == 2

    def test_what_it_is_in_is_said(self):
        """The kinds, outermost first."""
        found, _ = search(lzma.compress(gzip.compress(TABLE)))
        assert ("xz", "gzip") in {one.inside for one in found}

    def test_parquet_in_a_zip(self):
        """Parquet, whose pages are compressed, inside something compressed."""
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        out = io.BytesIO()
        parquet.write_table(pa.table({"name": [f"nobody {number}" for number in range(500)] + [TEXT] * 3}), out)
        found, _ = search(zipped(out.getvalue()), 4096)
        assert ("zip", "Parquet") in {one.inside for one in found}


class TestBounded:
    """What others made must not take all memory or time."""

    @pytest.mark.parametrize("way", ["gzip", "bzip2", "xz", "zstd", "zip"])
    def test_bomb(self, way):
        """What expands without end is left when the budget is spent, and that is said."""
        bomb = WAYS[way](bytes(16 << 20) + TABLE)
        found, budget = search(bomb, left=2 << 20)
        assert not found
        assert budget.spent < 4 << 20
        assert any("hundredfold" in note for note in budget.notes)

    def test_too_deep(self):
        """Compression inside compression is followed a few levels only."""
        data = TABLE
        for _ in range(12):
            data = gzip.compress(data)
        assert search(data)[0] == []

    def test_many_beginnings(self):
        """A file of nothing but beginnings of gzip ends in bounded work, and the surplus is said."""
        start = gzip.compress(b"")[:10] + b"\0\xff\xff\0\0"  # announces 64 KiB that are stored as they are
        _, budget = search(start * 5_000, left=4 << 20)
        assert budget.spent < 6 << 20
        assert any("at once" in note or "hundredfold" in note for note in budget.notes)

    def test_encrypted_zip_is_said(self):
        """What cannot be opened is said, not passed over."""
        packed = bytearray(zipped(TABLE))
        packed[6] |= 1  # the flag of its header
        _, budget = search(bytes(packed))
        assert "zip: encrypted" in budget.notes

    def test_random_bytes_make_no_notes(self):
        """Beginnings by chance are no findings."""
        found, budget = search(os.urandom(8 << 20))
        assert not found
        assert not budget.notes
