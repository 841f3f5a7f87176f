"""Moving and checking a dataset with no key: what the public part of the log says, copied and compared."""

from __future__ import annotations

from sealedhealth.replicate.claims import Claim, Claims
from sealedhealth.replicate.public import Expected, Files, Problem, PublicLog, PublicStep

__all__ = ["Claim", "Claims", "Expected", "Files", "Problem", "PublicLog", "PublicStep"]
