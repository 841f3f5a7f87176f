"""Distributed writes by real processes, on a disk and on a real object store; each looks the profile up by itself."""

import base64
import json
import multiprocessing
import os
import pickle
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import distributed
import pytest
from datasets import make_session, write_half_a_part, write_part, write_part_of_json

from sealedhealth.dataset import Dataset, Receipt
from sealedhealth.session.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SEAWEED = pytest.param("seaweed", marks=pytest.mark.seaweed)
FILES = [{f"labs/{n}.csv": b"%d" % n, f"images/{n}": bytes([n]) * 400_000} for n in range(6)]
PATHS = sorted(path for files in FILES for path in files)


@pytest.fixture
def make_ds(make_place, monkeypatch):
    """Make an empty dataset on a kind of host."""
    return lambda kind: Dataset(make_session(make_place(kind), monkeypatch))


@pytest.fixture(params=["local", SEAWEED])
def ds(request, make_ds):
    """An empty dataset on each."""
    return make_ds(request.param)


def whole(ds):
    """All was committed at once, and opens."""
    ds.refresh()
    assert ds.snapshot.sequence == 1
    assert ds.fs.find("") == PATHS
    assert ds.fs.cat_file("labs/3.csv") == b"3"
    assert ds.fs.cat_file("images/5")[-1:] == b"\5"
    assert verify(ds.session).files == len(PATHS)
    return True


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_processes(ds, method):
    """A pool of processes, started anew or forked from this one, with its open engine."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool, ds.distribute("by processes") as job:
        job.add(*pool.map(write_part, [job.task] * len(FILES), FILES))
    assert job.result.puts == len(PATHS)
    assert whole(ds)
    assert ds.history()[1].message == "by processes"


def test_json_only(make_ds):
    """What goes to the workers and comes back is JSON."""
    ds = make_ds("local")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool, ds.distribute() as job:
        task = json.dumps(job.task.to_json())
        for told in pool.map(write_part_of_json, [task] * len(FILES), FILES):
            job.add(Receipt.from_json(told))
    assert whole(ds)


def test_worker_killed_in_the_middle(make_ds, tmp_path):
    """It is killed with objects on the store; its task runs again elsewhere, and the commit is whole."""
    ds = make_ds("local")
    job = ds.distribute()
    started = tmp_path / "started"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=write_half_a_part, args=(job.task, str(started), 9_000_000))
    process.start()
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not ds.fs.find("")
    assert list(ds.session.engine.store.list("objects"))  # of no use to anybody
    job.commit([write_part(job.task, files) for files in FILES])
    assert whole(ds)


def test_dask_distributed(make_ds, keys_seen):
    """A cluster of two processes; no key is in what the scheduler has of the tasks, their results, events and logs."""
    ds = make_ds("local")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        with ds.distribute("by dask") as job:
            futures = [client.submit(write_part, job.task, files, pure=False) for files in FILES]
            receipts = client.gather(futures)
            job.add(*receipts)
        travelled = [pickle.dumps(task.run_spec) for task in cluster.scheduler.tasks.values()]
        travelled += [pickle.dumps(receipt) for receipt in receipts]
        logs = [client.get_scheduler_logs(), client.get_worker_logs(), client.get_events()]
        travelled += [repr(log).encode() for log in logs]
    assert whole(ds)
    everything = b"".join(travelled)
    assert everything.count(job.task.job.job_id) >= 2 * len(FILES)  # it would be found
    assert len(keys_seen) > 2 * len(FILES)  # the driver has opened every part
    for key in keys_seen:
        for form in (key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode()):
            assert form not in everything
