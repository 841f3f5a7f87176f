"""Every operation of a store on Azurite, and on rclone's S3, which ignores conditional writes."""

import pytest
import servers
from s3fs import S3FileSystem

from sealedhealth.stores import open_store
from sealedhealth.testing import StoreConformance


class TestStores(StoreConformance):
    """The public kit, on each of these hosts in turn."""

    @pytest.fixture
    def open_at(self, host_place):
        """An empty place on the host."""
        return lambda suffix: open_store(f"{host_place.url}{suffix}", host_place.options)


@pytest.mark.rclone
def test_a_bucket_that_never_had_an_upload(tmp_path):
    """Asked for unfinished uploads, rclone says NoSuchUpload until there has been one: there is none, no error."""
    with servers.rclone(tmp_path) as server:
        S3FileSystem(**server.options, skip_instance_cache=True).mkdir("fresh")
        store = open_store("s3://fresh/dataset", server.options)
        assert list(store.unfinished()) == []
