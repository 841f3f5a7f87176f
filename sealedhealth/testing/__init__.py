"""Conformance kits: what every key service, anchor store, registry and object store must do.

Subclass a kit in your own tests and give it the fixture it asks for::

    import pytest
    from sealedhealth.testing import KeyServiceConformance

    class TestMyService(KeyServiceConformance):
        @pytest.fixture
        def service(self):
            return MyService(...)

Each kit makes keys, datasets and names of its own, drawn at random, so it can run against a
server that others use; it never looks at what it did not make. Needs ``pytest``.
"""

from __future__ import annotations

import pytest

# Before the kits are imported: so that a failed assertion shows its values.
pytest.register_assert_rewrite(
    "sealedhealth.testing.anchors",
    "sealedhealth.testing.key_service",
    "sealedhealth.testing.registry",
    "sealedhealth.testing.store",
)

from sealedhealth.testing.anchors import AnchorStoreConformance  # noqa: E402 - see above
from sealedhealth.testing.key_service import KeyServiceConformance  # noqa: E402 - see above
from sealedhealth.testing.registry import RegistryConformance  # noqa: E402 - see above
from sealedhealth.testing.store import StoreConformance  # noqa: E402 - see above

__all__ = ["AnchorStoreConformance", "KeyServiceConformance", "RegistryConformance", "StoreConformance"]
