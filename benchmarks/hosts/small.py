"""Many small files, put in one transaction and got again, beside plain s3fs."""

from __future__ import annotations

import shutil
from statistics import median

from benchmarks.hosts.places import OURS, PLAIN, counted, new_dataset, plain
from benchmarks.hosts.servers import BUCKET, seaweed
from benchmarks.places import directory, in_memory, make_file
from benchmarks.report import Figure, Section, seconds
from benchmarks.timing import timed


def run(*, quick: bool) -> Section:
    """The section of the report."""
    count = 300 if quick else 10_000
    section = Section(
        "Small files on an object store",
        f"{count:,} files of 4 KiB between tmpfs and SeaweedFS: `put` and `get` of the directory. The plain way once, "
        "sealed before and after it.",
        ["", "put", "requests", "get", "requests"],
    )
    with directory(in_memory()) as place, seaweed() as host:
        source, back = place / "source", place / "back"
        source.mkdir()
        for number in range(count):
            make_file(source / f"{number:05}.json", 4096)
        dataset, fs = new_dataset(host, "dataset"), plain(host)
        puts: list[float] = []
        gets: list[float] = []

        def sealed() -> None:
            for _ in range(2):
                puts.append(timed(lambda: dataset.put(f"{source}/", f"d{len(puts)}")))
                gets.append(timed(lambda: dataset.get(f"d{len(puts) - 1}/", f"{back}/")))
                shutil.rmtree(back)

        sealed()
        with counted() as requests:
            put = timed(lambda: fs.put(f"{source}/", f"{BUCKET}/plain/", recursive=True))
            plain_puts = requests.total()
            get = timed(lambda: fs.get(f"{BUCKET}/plain/", f"{back}/", recursive=True))
            plain_gets = requests.total() - plain_puts
        shutil.rmtree(back)
        sealed()
        with counted() as requests:
            dataset.put(f"{source}/", "counted")
            our_puts = requests.total()
            dataset.get("counted/", f"{back}/")
            our_gets = requests.total() - our_puts
    section.row(OURS, seconds(median(puts)), f"{our_puts:,}", seconds(median(gets)), f"{our_gets:,}")
    section.row(PLAIN, seconds(put), f"{plain_puts:,}", seconds(get), f"{plain_gets:,}")
    section.figure(Figure.at_least(f"{count:,} files of 4 KiB put / plain s3fs", put / median(puts), 5))
    section.figure(Figure.at_least(f"{count:,} files of 4 KiB got / plain s3fs", get / median(gets), 5))
    return section
