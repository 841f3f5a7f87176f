"""Leaks planted on a host, one by one: a scan finds each of them, and nothing where there is none."""

import base64
import bz2
import gzip
import io
import os
import zipfile
from pathlib import Path

import pytest
from datasets import local_profile, write_profile

from sealedhealth.dataset import Dataset
from sealedhealth.format import Header, Kind, plain_size, sealed_size
from sealedhealth.log.names import change_name, object_name
from sealedhealth.scan import Canary, reading, scan

TEXT = "Dupont, Anne, 12/03/1972"
CANARY = [Canary(TEXT, "canaries.txt, line 1")]
TABLE = b"person_id,name\n" + b"1,somebody else\n" * 500 + b"2," + TEXT.encode() + b"\n"


class Host:
    """A bucket with one sealed dataset, and things beside it."""

    def __init__(self, place, monkeypatch):
        write_profile(place.options, monkeypatch)
        self.place = place
        self.dataset = Dataset.create(f"{place.url}/cardio", profile=local_profile())
        with self.dataset.transaction(TEXT):
            self.dataset.fs.pipe_file(f"labs of {TEXT.replace('/', '.')}/labs.csv", TABLE)
            self.dataset.fs.pipe_file("large.bin", TABLE * 700)  # 5 MiB: of several segments
        self.store = place.store()

    def put(self, name, data):
        """Somebody puts *data* there, past the package."""
        self.store.fs.makedirs(f"{self.store.root}/{name}".rpartition("/")[0], exist_ok=True)
        self.store.fs.pipe_file(f"{self.store.root}/{name}", data)

    def get(self, name):
        """What is there."""
        return self.store.fs.cat_file(f"{self.store.root}/{name}")

    def object_names(self):
        """The sealed objects, the largest first."""
        sizes = dict(self.store.list("cardio/objects"))
        return sorted(sizes, key=sizes.__getitem__, reverse=True)

    def scan(self, canaries=CANARY, **options):
        """Kind and name of everything found."""
        ids = [bytes.fromhex(self.dataset.id)]
        return {(one.kind, one.name) for one in scan(self.store, ids=ids, canaries=canaries, **options).findings}


@pytest.fixture(params=["local", "memory", pytest.param("seaweed", marks=pytest.mark.seaweed)])
def host(request, make_place, monkeypatch):
    """A host of each kind."""
    return Host(make_place(request.param), monkeypatch)


@pytest.fixture
def disk(make_place, monkeypatch):
    """A local disk."""
    return Host(make_place("local"), monkeypatch)


def parquet(rows=2000, compression="snappy"):
    """A Parquet file of names, the canary among them."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    out = io.BytesIO()
    # Every value at another distance from a repetition, so that no run of the compressed bytes holds it by itself.
    names = [f"{number:x}-{TEXT[: number % 20]}" for number in range(rows)]
    pq.write_table(pa.table({"name": [*names, TEXT], "n": range(rows + 1)}), out, compression=compression)
    return out.getvalue()


def zipped(data):
    """A zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labs.csv", data)
    return out.getvalue()


PLANTED = {
    "CSV beside the dataset": ("labs.csv", TABLE),
    "CSV inside the prefix": ("cardio/labs.csv", TABLE),
    "CSV in the place of an object": ("cardio/" + object_name(bytes(range(16))), TABLE),
    "CSV in the place of a change set": ("cardio/" + change_name(bytes(range(16))), TABLE),
    "CSV in the place of a link": ("cardio/.sealedhealth/log/000000000099", TABLE),
    "gzip inside the prefix": ("cardio/objects/labs.csv.gz", gzip.compress(TABLE)),
    "bzip2": ("cardio/labs.csv.bz2", bz2.compress(TABLE)),
    "zip": ("backup.zip", zipped(TABLE)),
    "base64": ("cardio/labs.b64", base64.b64encode(b"." + TABLE)),
    "hexadecimal": ("labs.hex", TABLE.hex().encode()),
    "UTF-16": ("labs.txt", TABLE.decode().encode("utf-16")),
    "a file written by a tool that does not know sealed:: URLs": ("sealed::labs.csv", TABLE),
    "a hidden file": (".cardio.swp", TABLE),
}


class TestPlaintext:
    """Plaintext, under whatever name and in whatever form."""

    @pytest.mark.parametrize("what", PLANTED)
    def test_planted(self, disk, what):
        """Each is found as a file that is not sealed, and the canary in it is, too."""
        name, data = PLANTED[what]
        disk.put(name, data)
        assert disk.scan() - {("log", name)} == {("not sealed", name), ("canary", name)}

    def test_on_each_host(self, host):
        """All of them on hosts of each kind; without canaries they are known by their first bytes."""
        for name, data in PLANTED.values():
            host.put(name, data)
        names = {name for name, _ in PLANTED.values()}
        assert {name for kind, name in host.scan() if kind == "canary"} == names
        assert {name for kind, name in host.scan(canaries=()) if kind == "not sealed"} == names

    @pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
    def test_parquet(self, disk, compression):
        """A text in a column, however its pages are compressed."""
        data = parquet(compression=compression)
        assert compression == "none" or TEXT.encode() not in data
        disk.put("labs.parquet", data)
        assert disk.scan() == {("not sealed", "labs.parquet"), ("canary", "labs.parquet")}

    def test_across_two_fetches(self, disk, monkeypatch):
        """A canary of which one fetch brings the beginning and the next one the end."""
        for cut in (1, len(TEXT) // 2, len(TEXT) - 1):
            disk.put(f"cut-{cut}", bytes(reading.PIECE - cut) + TEXT.encode() + bytes(100))
        assert {name for kind, name in disk.scan() if kind == "canary"} == {f"cut-{c}" for c in (1, 12, 23)}

    def test_in_a_name(self, disk):
        """A name is a stored text as well; the report does not repeat it."""
        disk.put(f"cardio/{TEXT.replace('/', '.')}", b"")
        canary = [Canary(TEXT.replace("/", "."), "here")]
        assert ("canary", "cardio/[canary]") in disk.scan(canary)
        assert ("canary", f"cardio/{canary[0].text}") in disk.scan(canary, reveal=True)

    def test_a_link_on_a_disk(self, disk, tmp_path):
        """What a link points to is not looked at, and the link is told."""
        (tmp_path / "labs.csv").write_bytes(TABLE)
        Path(f"{disk.store.root}/cardio/labs.csv").symlink_to(tmp_path / "labs.csv")
        assert disk.scan() == {("not sealed", "cardio/labs.csv")}

    def test_a_temporary_file(self, disk):
        """A file that looks like one of an unfinished write, and holds plaintext."""
        disk.put("cardio/objects/.tmp-1-2-3", TABLE)
        assert disk.scan() == {("not sealed", "cardio/objects/.tmp-1-2-3"), ("canary", "cardio/objects/.tmp-1-2-3")}


class TestSealedInNameOnly:
    """Files that look like sealed ones."""

    def plant(self, host, dataset_id, body):
        """An object with a genuine header, and *body* after it, of a size that sealed objects have."""
        object_id = os.urandom(16)
        header = Header(Kind.OBJECT, dataset_id, os.urandom(16), object_id).pack()
        size = sealed_size(max(0, len(body) - 16))
        name = f"cardio/{object_name(object_id)}"
        host.put(name, header + os.urandom(56) + body.ljust(size - 120, b"\0")[: size - 120])
        assert plain_size(len(host.get(name))) >= 0
        return name

    def test_plaintext_after_a_header(self, disk):
        """Ciphertext cannot be compressed: this can."""
        name = self.plant(disk, bytes.fromhex(disk.dataset.id), TABLE)
        assert ("not ciphertext", name) in disk.scan(())
        assert ("canary", name) in disk.scan()

    def test_plaintext_in_the_middle(self, disk):
        """Random bytes first, plaintext later: found where every byte is read."""
        body = os.urandom(600_000) + TABLE * 40 + os.urandom(600_000)
        name = self.plant(disk, bytes.fromhex(disk.dataset.id), body)
        no_such = [Canary("no such text anywhere", "here")]
        assert ("not ciphertext", name) in disk.scan(no_such)

    def test_gzip_in_the_middle(self, disk):
        """What is compressed cannot be told from ciphertext by its looks; the canary in it is found."""
        body = os.urandom(70_001) + gzip.compress(TABLE) + os.urandom(10_000)
        name = self.plant(disk, bytes.fromhex(disk.dataset.id), body)
        assert {("canary", name), ("not in the log", name)} == disk.scan()

    def test_parquet_in_the_middle(self, disk):
        """The same for Parquet, which has to be read out of order."""
        name = self.plant(disk, bytes.fromhex(disk.dataset.id), os.urandom(70_001) + parquet() + os.urandom(10_000))
        assert ("canary", name) in disk.scan()

    def test_sealed_for_somebody_else(self, disk):
        """Who holds the other dataset's keys reads it."""
        name = self.plant(disk, os.urandom(16), os.urandom(20_000))
        assert disk.scan() == {("other dataset", name)}

    def test_bytes_after_an_object(self, host):
        """What follows a sealed object was sealed by nobody."""
        name = host.object_names()[0]
        host.put(name, host.get(name) + b"\n" + TABLE)
        assert {("longer", name), ("canary", name)} <= host.scan()
        assert ("longer", name) in host.scan(())

    def test_an_object_of_an_unknown_format(self, disk):
        """A header that nobody can read might hold anything."""
        name = disk.object_names()[0]
        data = bytearray(disk.get(name))
        data[8] = 77
        disk.put(name, bytes(data))
        assert ("not sealed", name) in disk.scan()

    def test_another_dataset_altogether(self, disk):
        """The id says which dataset belongs here."""
        other = os.urandom(16)
        found = scan(disk.store, ids=[other], canaries=CANARY)
        assert {one.kind for one in found.findings} == {"other dataset"}
        assert not found.datasets[0].known

    def test_an_altered_log(self, disk):
        """What the log says is believed only when it is its authors'."""
        [name, *_] = [name for name, _ in disk.store.list("cardio/.sealedhealth/changes")]
        data = bytearray(disk.get(name))
        data[60] ^= 1
        disk.put(name, bytes(data))
        assert ("log", name) in disk.scan(())


class TestUntidy:
    """What leaks nothing by itself is told, and is no leak."""

    def test_left_over(self, host):
        """Sealed objects that no commit names, under their own name and another."""
        [name, other, *_] = host.object_names()
        data = host.get(other)
        host.put(f"{name[:-2]}zz", data)
        host.put("copy.bin", data)
        found = scan(host.store, ids=[bytes.fromhex(host.dataset.id)], canaries=CANARY)
        assert {(one.kind, one.name) for one in found.findings} == {
            ("misplaced", f"{name[:-2]}zz"),
            ("misplaced", "copy.bin"),
        }
        assert not found.leaks

    def test_cut_short(self, disk):
        """Damage is for `verify` to judge; what is missing leaks nothing."""
        name = disk.object_names()[0]
        disk.put(name, disk.get(name)[:-50])
        assert disk.scan() == {("shorter", name)}

    def test_empty_ones(self, disk):
        """A mark of a directory and an empty file show their name only."""
        disk.put("mark", b"")
        assert disk.scan() == {("empty", "mark")}


@pytest.mark.seaweed
class TestBehindTheListing:
    """What an S3 host keeps and no plain listing shows."""

    @pytest.fixture
    def bucket(self, seaweed_server, make_place, monkeypatch):
        """A bucket of its own on SeaweedFS, with versions."""
        from conftest import Place
        from s3fs import S3FileSystem

        name = f"versioned-{os.urandom(6).hex()}"
        fs = S3FileSystem(**seaweed_server.options, skip_instance_cache=True)
        fs.mkdir(name)
        fs.call_s3("put_bucket_versioning", Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return Host(Place("seaweed", f"s3://{name}/here", seaweed_server.options), monkeypatch)

    def test_plaintext_that_was_deleted(self, bucket):
        """A file that was uploaded by mistake and deleted is still there, as an older version."""
        bucket.put("labs.csv", TABLE)
        bucket.store.fs.rm_file(f"{bucket.store.root}/labs.csv")
        assert not bucket.store.fs.exists(f"{bucket.store.root}/labs.csv")
        assert bucket.scan() == {("not sealed", "labs.csv"), ("canary", "labs.csv")}

    def test_plaintext_that_was_replaced(self, bucket):
        """The same under a newer version that is sealed."""
        name = bucket.object_names()[0]
        data = bucket.get(name)
        bucket.put(name, TABLE)
        bucket.put(name, data)
        assert {("not sealed", name), ("canary", name), ("older version", name)} == bucket.scan()

    def test_an_aborted_upload_of_plaintext(self, make_place, monkeypatch):
        """Parts cannot be read by anybody but the host; the upload is named by its key."""
        host = Host(make_place("seaweed"), monkeypatch)
        bucket, prefix, _ = host.store.fs.split_path(host.store.root)
        for name in ("cardio/labs.csv", f"cardio/{object_name(bytes(16))}"):
            upload = host.store.fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/{name}")
            host.store.fs.call_s3(
                "upload_part",
                Bucket=bucket,
                Key=f"{prefix}/{name}",
                UploadId=upload["UploadId"],
                PartNumber=1,
                Body=TABLE,
            )
        host.put("cardio/labs.csv", TABLE)  # under the same name as an upload: neither hides the other
        report = scan(host.store, ids=[bytes.fromhex(host.dataset.id)], canaries=CANARY)
        assert {(one.kind, one.name) for one in report.findings} == {
            ("canary", "cardio/labs.csv"),
            ("not sealed", "cardio/labs.csv"),
            ("unfinished", f"cardio/{object_name(bytes(16))}"),
        }
        assert all(one.modified for one in report.findings)
        assert {one.size for one in report.findings} == {None, len(TABLE)}
        assert any("unfinished uploads" in what for what in report.not_looked_into)

    def test_metadata_and_tags(self, make_place, monkeypatch):
        """What somebody writes beside an object is stored, too."""
        host = Host(make_place("seaweed"), monkeypatch)
        bucket, prefix, _ = host.store.fs.split_path(host.store.root)
        one, other, *_ = host.object_names()
        host.store.fs.call_s3(
            "put_object", Bucket=bucket, Key=f"{prefix}/{one}", Body=host.get(one), Metadata={"patient": TEXT}
        )
        tags = {"TagSet": [{"Key": "patient", "Value": "Dupont Anne 1972"}]}
        host.store.fs.call_s3("put_object_tagging", Bucket=bucket, Key=f"{prefix}/{other}", Tagging=tags)
        canaries = [*CANARY, Canary("Dupont Anne 1972", "line 2")]
        assert host.scan(canaries) == set()
        assert host.scan(canaries, labels=True) == {("canary", one), ("canary", other)}
