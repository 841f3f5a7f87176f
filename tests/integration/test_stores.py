"""Every operation of a store on every kind of host: memory, local disk, moto and SeaweedFS."""

import pytest

from sealedhealth.stores import open_store
from sealedhealth.testing import StoreConformance


class TestStores(StoreConformance):
    """The public kit, on each kind of host in turn; tests/hosts has the others."""

    @pytest.fixture
    def open_at(self, any_place):
        """An empty place on the host."""
        return lambda suffix: open_store(f"{any_place.url}{suffix}", any_place.options)
