"""Source and destination have to be two places."""

import pytest

from sealedhealth.errors import InvalidInput
from sealedhealth.replicate.target import refuse_same_place
from sealedhealth.stores import open_store


def s3(port, path="same-bucket/dataset"):
    """A place on an S3 server that need not be there."""
    options = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "key": "access-key",
        "secret": "secret-key",
        "client_kwargs": {"region_name": "eu-west-3"},
    }
    return open_store(f"s3://{path}", options)


def test_same_names_on_two_hosts():
    """A bucket of the same name on another host is another place: so datasets are moved."""
    refuse_same_place(s3(1111), s3(2222))


@pytest.mark.parametrize("path", ["same-bucket/dataset", "same-bucket/dataset/inside", "same-bucket"])
def test_one_host(path):
    """On one host it is refused, and so is a place inside the other."""
    with pytest.raises(InvalidInput):
        refuse_same_place(s3(1111), s3(1111, path))


def test_one_directory(tmp_path):
    """So it is with a local directory."""
    with pytest.raises(InvalidInput):
        refuse_same_place(open_store(str(tmp_path)), open_store(str(tmp_path)))
