"""Bad input, on every kind of host: one clear error each, of the right class, with the right exit code, and no secret.

Through the command line, as an operator meets it; in this process, because that is quick.
"""

from datetime import UTC, datetime, timedelta

import pytest
from adlfs import AzureBlobFileSystem
from datasets import local_profile, write_profile

import sealedhealth as sh
from sealedhealth.cli import app
from sealedhealth.profiles import disconnect
from sealedhealth.stores import open_store
from sealedhealth.stores.s3client import SteadyS3

MOTO, SEAWEED, RCLONE, AZURITE = (
    pytest.param(kind, marks=getattr(pytest.mark, kind)) for kind in ("moto", "seaweed", "rclone", "azurite")
)
NOT_FOUND, DENIED, USAGE = 3, 4, 2


@pytest.fixture
def place(request, make_place):
    """An empty place on the host that the test names."""
    return make_place(request.param)


@pytest.fixture(autouse=True)
def _forget():
    yield
    disconnect()


@pytest.fixture
def fails(capsys):
    """Runs a command that has to fail with an exit code, and gives what it says."""

    def run(code, *arguments):
        assert app.run([str(argument) for argument in arguments]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert "unexpected" not in err.lower()
        return " ".join(err.split())

    return run


def reach(options, monkeypatch):
    """Write a profile for these options, and a keystore; as in a new process, where no client is connected yet."""
    for client in (SteadyS3, AzureBlobFileSystem):
        client.clear_instance_cache()
    write_profile(options, monkeypatch)
    local_profile()


def elsewhere(place, bucket):
    """The URL of a place in another bucket of the same host."""
    return f"{place.url.partition('://')[0]}://{bucket}/dataset"


@pytest.mark.parametrize("place", [MOTO, SEAWEED, RCLONE, AZURITE], indirect=True)
def test_a_bucket_that_does_not_exist(place, monkeypatch, fails, tmp_path):
    """Told when a dataset is made there and when one is read from there: not as a lost object."""
    reach(place.options, monkeypatch)
    url = elsewhere(place, "no-such-bucket")
    assert "does not exist" in fails(NOT_FOUND, "create", url)
    assert "knows no dataset" in fails(NOT_FOUND, "ls", url)
    assert "does not exist" in fails(NOT_FOUND, "inspect", url)
    made = sh.Dataset.create(place.url)
    disconnect()
    assert "does not exist" in fails(NOT_FOUND, "register", made.id, url, "--also")  # mistyped after a move


@pytest.mark.parametrize("place", ["memory", "local", MOTO, SEAWEED, RCLONE, AZURITE], indirect=True)
def test_a_url_that_is_no_dataset(place, monkeypatch, fails, tmp_path):
    """Whatever lies there: the key service does not know it."""
    reach(place.options, monkeypatch)
    place.store().put("some/file.txt", b"not sealed")
    (tmp_path / "file").write_text("x")
    for command in (["ls", place.url], ["put", tmp_path / "file", place.url], ["verify", place.url]):
        assert "knows no dataset" in fails(NOT_FOUND, *command)


@pytest.mark.parametrize("place", [SEAWEED, RCLONE, AZURITE], indirect=True)
def test_wrong_credentials(place, monkeypatch, fails, request):
    """Access denied, and no word of them."""
    options = dict(place.options)
    if place.kind == "azurite":
        key = request.getfixturevalue("azurite_server").key
        options["connection_string"] = options["connection_string"].replace(key, "c3RyYW5nZXItc3RyYW5nZXI=")
    else:
        options |= {"key": "stranger-access-key", "secret": "stranger-secret-key"}
    reach(options, monkeypatch)
    for command in (["create", place.url], ["inspect", place.url]):
        said = fails(DENIED, *command)
        assert "credentials" in said
        assert "stranger" not in said
        assert "c3RyYW5nZXI" not in said


@pytest.mark.parametrize("place", [SEAWEED, AZURITE], indirect=True)
def test_a_place_that_may_only_be_read(place, monkeypatch, fails, request, tmp_path):
    """Nothing can be made or written there; what is there can be read."""
    reach(place.options, monkeypatch)
    ds = sh.Dataset.create(place.url)
    (tmp_path / "file").write_text("x")
    ds.put(tmp_path / "file", "file")
    disconnect()
    reach(reading_only(place, request), monkeypatch)
    before = dict(open_store(place.url, place.options).list(""))
    assert sh.Dataset.open(place.url).fs.cat("file") == b"x"
    fails(DENIED, "put", tmp_path / "file", f"{place.url}/second")
    fails(DENIED, "create", f"{place.url}-beside")
    assert dict(open_store(place.url, place.options).list("")) == before


def reading_only(place, request):
    """Options of an identity that may read and list."""
    if place.kind == "seaweed":
        key, secret = request.getfixturevalue("seaweed_server").reader
        return {**place.options, "key": key, "secret": secret}
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    server = request.getfixturevalue("azurite_server")
    signature = generate_container_sas(
        server.account,
        place.url.split("/")[2],
        account_key=server.key,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    text = place.options["connection_string"].replace(f"AccountKey={server.key}", f"SharedAccessSignature={signature}")
    return {"connection_string": text}


@pytest.mark.parametrize("place", ["local", MOTO, SEAWEED, RCLONE, AZURITE], indirect=True)
def test_a_name_that_is_too_long(place, monkeypatch, fails):
    """A mistake in the URL, not of the host: nothing is retried, and nothing is made."""
    reach(place.options, monkeypatch)
    said = fails(USAGE, "create", f"{place.url}/{'x' * 1200}")
    assert "too long" in said


@pytest.mark.parametrize("place", [MOTO, AZURITE], indirect=True)
@pytest.mark.parametrize("bucket", ["a", "no spaces", "excl!aim"])
def test_a_bucket_that_cannot_be(place, monkeypatch, fails, bucket):
    """Names that no host of the kind would take are told without asking one."""
    reach(place.options, monkeypatch)
    assert "cannot be the name" in fails(USAGE, "create", elsewhere(place, bucket))
