"""A column of a Parquet file, and listings of many files, beside plain s3fs."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hosts.places import OURS, PLAIN, UNCACHED, counted, new_dataset, opened, plain
from benchmarks.hosts.servers import BUCKET, Host, seaweed
from benchmarks.places import directory, in_memory
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import Race
from sealedhealth.session.maintenance import maintain

COLUMNS = 10
FOLDERS = 20
#: Requests that wait for an answer on one connection, and connections.
PIPELINE, CONNECTIONS = 100, 8


def run(*, quick: bool) -> Section:
    """The section of the report."""
    rows, files = (200_000, 2_000) if quick else (3_000_000, 100_000)
    section = Section(
        "Tables and listings on an object store",
        "",
        ["", "one column", "requests", f"list {files:,}", "requests"],
    )
    with directory(in_memory()), seaweed() as host:
        size, columns, requests = _parquet(host, rows, rounds=3 if quick else 9)
        listings, pages = _listing(host, files, rounds=1 if quick else 2)
    for name in (OURS, PLAIN, UNCACHED):
        listed = name in listings.seconds
        section.row(
            name,
            seconds(columns.median(name)),
            requests[name],
            seconds(listings.median(name)) if listed else "",
            str(pages[name]) if listed else "",
        )
    section.about = (
        f"One column of {COLUMNS} of a Parquet file of {size / 1e6:.0f} MB, opened and read by pyarrow, and all "
        f"{files:,} files of a dataset that is open, with their sizes; on SeaweedFS. {columns.disturbance}"
    )
    ours = sum(map(int, requests[OURS].split(" + ")))
    section.figure(Figure.at_most("time for one Parquet column / plain s3fs", 1 / columns.ratio(OURS, PLAIN), 1))
    section.figure(
        Figure.at_most('time for one Parquet column / s3fs, cache_type="none"', 1 / columns.ratio(OURS, UNCACHED), 1.3)
    )
    least = min(sum(map(int, requests[name].split(" + "))) for name in (PLAIN, UNCACHED))
    section.figure(Figure.at_most("requests for one Parquet column", ours, least))
    section.figure(Figure.at_least(f"listing {files:,} files / plain s3fs", listings.ratio(OURS, PLAIN), 20))
    return section


def _parquet(host: Host, rows: int, rounds: int) -> tuple[int, Race, dict[str, str]]:
    rng = np.random.default_rng(1)
    table = pa.table({f"c{number}": rng.random(rows) for number in range(COLUMNS)})
    sink = io.BytesIO()
    pq.write_table(table, sink, use_dictionary=False, compression="none")
    del table
    data = sink.getvalue()
    plain(host).pipe_file(f"{BUCKET}/plain/table.parquet", data)
    dataset = new_dataset(host, "tables")
    dataset.fs.pipe_file("table.parquet", data)

    def read(fs: object, path: str) -> None:
        with fs.open(path, "rb") as file:  # type: ignore[attr-defined]
            assert pq.ParquetFile(file).read(columns=["c3"]).num_rows == rows

    systems = {PLAIN: plain(host), UNCACHED: plain(host, default_cache_type="none")}
    contestants: dict[str, Callable[[], object]] = {OURS: lambda: read(dataset.fs, "table.parquet")}
    for name, fs in systems.items():
        contestants[name] = lambda fs=fs: read(fs, f"{BUCKET}/plain/table.parquet")
    requests = {}
    for name, action in contestants.items():
        dataset = opened(host.endpoint, "tables")  # no digest is known yet
        with counted() as calls:
            action()
        requests[name] = f"{calls['HEAD']} + {calls.total() - calls['HEAD']}"

    def anew() -> None:
        nonlocal dataset
        dataset = opened(host.endpoint, "tables")

    return len(data), Race(rounds).run(contestants, between=anew), requests


def _listing(host: Host, files: int, rounds: int) -> tuple[Race, dict[str, int]]:
    names = [f"d{number % FOLDERS:02}/labs-of-patient-{number:07}.json" for number in range(files)]
    dataset = new_dataset(host, "listing")
    with dataset.session.begin() as transaction:
        transaction.put_many(dict.fromkeys(names, b"{}"))
    maintain(dataset.session, force=True)
    asyncio.run(_fill(host, [f"/buckets/{BUCKET}/listing-plain/{name}" for name in names]))
    dataset = opened(host.endpoint, "listing")
    fs = plain(host, use_listings_cache=False)

    def listed(found: dict[str, object]) -> None:
        assert len(found) == files, len(found)

    contestants = {
        OURS: lambda: listed(dataset.fs.find("", detail=True)),
        PLAIN: lambda: listed(fs.find(f"{BUCKET}/listing-plain", detail=True)),
    }
    requests = {}
    for name, action in contestants.items():
        with counted() as calls:
            action()
        requests[name] = calls.total()
    return Race(rounds).run(contestants), requests


async def _fill(host: Host, paths: list[str]) -> None:
    """Tiny files, straight into SeaweedFS's filer: many requests on a connection before the first answer."""
    where = urlsplit(host.filer)

    async def some(mine: list[str]) -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for start in range(0, len(mine), PIPELINE):
            batch = mine[start : start + PIPELINE]
            for path in batch:
                writer.write(
                    f"PUT {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 2\r\n"
                    f"Content-Type: application/octet-stream\r\n\r\n{{}}".encode()
                )
            for _ in batch:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 201"), head
                size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(size.partition(b":")[2]))
        writer.close()

    await asyncio.gather(*(some(paths[number::CONNECTIONS]) for number in range(CONNECTIONS)))
