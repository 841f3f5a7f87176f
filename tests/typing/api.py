"""The public types as a caller sees them: never run, checked by mypy --strict."""

from __future__ import annotations

from typing import assert_type

from sealedhealth.errors import AccessDenied, IntegrityError, ResidencyViolation, SealedHealthError
from sealedhealth.profiles import Profile, load_profile
from sealedhealth.stores import Location, ObjectStore


def errors_say_what_to_do(error: SealedHealthError) -> None:
    """Every error has the three texts and an exit code."""
    assert_type(error.what, str)
    assert_type(error.safe, str)
    assert_type(error.next, str)
    assert_type(error.exit_code, int)
    refused: type[AccessDenied] = ResidencyViolation
    assert_type(refused.exit_code, int)
    integrity: type[SealedHealthError] = IntegrityError
    assert_type(integrity.exit_code, int)


def stores_are_opened_by_profiles() -> None:
    """A profile opens a store, which tells where it is."""
    profile = load_profile("local")
    assert_type(profile, Profile)
    store = profile.open_store("s3://bucket/dataset")
    assert_type(store, ObjectStore)
    assert_type(profile.locate(store.location), Location)
