"""Seal health datasets before they leave the machine.

Any object store can hold a sealed dataset; the keys stay at home::

    import sealedhealth as sh

    ds = sh.Dataset.create("s3://any-host/cardio-2026")
    with ds.transaction("labs, week 12"):
        ds.put("exports/", "labs/")

Names are imported when first used: ``import sealedhealth`` alone is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealedhealth import errors
    from sealedhealth.dataset import Dataset

    __version__: str

__all__ = ["Dataset", "__version__", "errors"]


def __getattr__(name: str) -> Any:
    """Import *name* when it is first asked for."""
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("sealedhealth")
    elif name == "errors":
        value = import_module("sealedhealth.errors")
    elif name == "Dataset":
        value = import_module("sealedhealth.dataset").Dataset
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
