"""Every operation of a store on Azurite, and on rclone's S3, which ignores conditional writes."""

import pytest

from sealedhealth.stores import open_store
from sealedhealth.testing import StoreConformance


class TestStores(StoreConformance):
    """The public kit, on each of these hosts in turn."""

    @pytest.fixture
    def open_at(self, host_place):
        """An empty place on the host."""
        return lambda suffix: open_store(f"{host_place.url}{suffix}", host_place.options)
