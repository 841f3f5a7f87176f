"""Moving and checking a dataset with no key: what the public part of the log says, copied and compared."""

from __future__ import annotations

from sealedhealth.replicate.claims import Claim, Claims
from sealedhealth.replicate.mover import check_host, replicate
from sealedhealth.replicate.public import Expected, Files, Problem, PublicLog, PublicStep, no_dataset
from sealedhealth.replicate.report import Finding, PublicReport, ReplicateReport

__all__ = [
    "Claim",
    "Claims",
    "Expected",
    "Files",
    "Finding",
    "Problem",
    "PublicLog",
    "PublicReport",
    "PublicStep",
    "ReplicateReport",
    "check_host",
    "no_dataset",
    "replicate",
]
