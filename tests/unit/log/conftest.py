"""Signing keys that need no key service."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sealedhealth.keys.local import signing


@dataclass(frozen=True)
class Signer:
    """One author's key."""

    public_key: bytes
    sign: Callable[[bytes], bytes]


def make_signer():
    """A fresh key."""
    key = signing.generate()
    return Signer(signing.public_key(key), lambda message: signing.sign(key, message))


@pytest.fixture(scope="session")
def root():
    """The root key."""
    return make_signer()


@pytest.fixture(scope="session")
def alice():
    """A producer's key."""
    return make_signer()


@pytest.fixture(scope="session")
def bob():
    """Another key."""
    return make_signer()
