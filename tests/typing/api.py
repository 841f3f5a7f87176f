"""The public types as a caller sees them: never run, checked by mypy --strict."""

from __future__ import annotations

from typing import assert_type

from sealedhealth.errors import IntegrityError, SealedHealthError


def errors_say_what_to_do(error: SealedHealthError) -> None:
    """Every error has the three texts and an exit code."""
    assert_type(error.what, str)
    assert_type(error.safe, str)
    assert_type(error.next, str)
    assert_type(error.exit_code, int)
    integrity: type[SealedHealthError] = IntegrityError
    assert_type(integrity.exit_code, int)
