"""One large file, put and got, beside plain s3fs and rclone's own encryption."""

from __future__ import annotations

from benchmarks.hosts.places import OURS, PLAIN, RCLONE, new_dataset, opened, plain, rclone
from benchmarks.hosts.servers import BUCKET, seaweed
from benchmarks.places import directory, in_memory, make_file
from benchmarks.report import Figure, Section, rate
from benchmarks.timing import Race, in_new_process, measured


def run(*, quick: bool) -> Section:
    """The section of the report."""
    size = (64 if quick else 1024) << 20
    section = Section(
        "A large file on an object store",
        f"{size >> 20} MiB between a file on tmpfs and SeaweedFS. `cache_type` makes no difference for whole files.",
        ["", "put MB/s", "ratio", "get MB/s", "ratio"],
    )
    with directory(in_memory()) as place, seaweed() as host:
        source, target = make_file(place / "source", size), place / "target"
        dataset, fs, copy = new_dataset(host, "dataset"), plain(host), rclone(host)
        rounds = 1 if quick else 3
        put = Race(rounds).run(
            {
                OURS: lambda: dataset.put(str(source), "file"),
                PLAIN: lambda: fs.put_file(str(source), f"{BUCKET}/plain/file"),
                RCLONE: lambda: copy("copyto", str(source), "crypt:file"),
            }
        )
        get = Race(rounds).run(
            {
                OURS: lambda: dataset.get("file", str(target)),
                PLAIN: lambda: fs.get_file(f"{BUCKET}/plain/file", str(target)),
                RCLONE: lambda: copy("copyto", "crypt:file", str(target)),
            },
            between=lambda: target.unlink(missing_ok=True),
        )
        memory = [
            in_new_process("hosts.large:put", host.endpoint, str(source)),
            in_new_process("hosts.large:get", host.endpoint, str(target)),
        ]
    for name in put.seconds:
        section.row(
            name,
            rate(size, put.median(name)),
            f"{put.ratio(name, PLAIN):.2f}",
            rate(size, get.median(name)),
            f"{get.ratio(name, PLAIN):.2f}",
        )
    shown = f"{size >> 20} MiB"
    section.figure(Figure.at_least(f"put of {shown} / plain s3fs", put.ratio(OURS, PLAIN), 0.9))
    section.figure(Figure.at_least(f"get of {shown} / plain s3fs", get.ratio(OURS, PLAIN), 0.9))
    added = [f"{found['peak']:.0f} MiB" for found in memory]
    section.about += f" Sealed put added {added[0]} to the memory of its process, get {added[1]}."
    section.about += f" {get.disturbance}"
    return section


def put(endpoint: str, source: str) -> dict[str, float]:
    """Put the file, in a new process."""
    dataset = opened(endpoint, "dataset")
    return measured(lambda: dataset.put(source, "again"))


def get(endpoint: str, target: str) -> dict[str, float]:
    """Get the file, in a new process."""
    dataset = opened(endpoint, "dataset")
    return measured(lambda: dataset.get("file", target))
