"""The facade as a caller sees it: never run, checked by mypy --strict."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import sealedhealth as sh
from sealedhealth.dataset import Change, DistributedTask, DistributedWrite, Receipt, Transferred
from sealedhealth.session import Committed


def use(url: str) -> None:
    """What a user of the facade relies on."""
    ds = sh.Dataset.create(url, profile="chu-lille")
    assert_type(ds, sh.Dataset)
    with ds.transaction("labs, week 12"):
        assert_type(ds.put("exports/", "labs/", progress=True), Transferred)
        ds.put([Path("a"), "b"], update=True, links="skip", commit_every=1 << 30)
    assert_type(sh.Dataset.find(url), tuple[sh.Dataset, str])
    assert_type(ds.get("labs", Path("out")).files, int)
    assert_type(ds.at("before-audit").diff(1, 2), list[Change])
    assert_type(ds.restore(12), list[Change])
    assert_type(ds.tags, dict[str, int])
    assert_type(ds.rm("a") + ds.cp("a", "b") + ds.mv("a", "b"), int)
    assert_type(ds.verify().files, int)
    assert_type(ds.gc(dry_run=True).bytes, int)
    assert_type(ds.destroy_key(commit=12).keys, tuple[str, ...])
    with ds.distribute("labs, week 12") as job:
        assert_type(job, DistributedWrite)
        assert_type(job.task, DistributedTask)
        with DistributedTask.from_json(job.task.to_json()).open(profile="worker") as part:
            part.put_bytes(f"labs/{part.id}", b"x")
        assert_type(part.receipt, Receipt | None)
        job.add(part.receipt)
    assert_type(job.result, Committed | None)
    assert_type(sh.__version__, str)
