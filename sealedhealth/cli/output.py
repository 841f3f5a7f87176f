"""Everything that is printed: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from sealedhealth.dataset.progress import Bar
    from sealedhealth.errors import SealedHealthError

__all__ = [
    "binary",
    "emit",
    "error",
    "fields",
    "human_size",
    "interrupted",
    "line",
    "note",
    "os_error",
    "prepare",
    "progress",
    "safe",
    "table",
    "timestamp",
    "unexpected",
    "usage_error",
    "warn",
]

_json = False


def prepare(*, json_asked: bool) -> None:
    """Set up the streams. *json_asked* makes errors JSON even when the arguments cannot be parsed."""
    global _json
    _json = json_asked
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that lacks a character shows its number, rather than ending the command.
            reconfigure(errors="backslashreplace")


def json_mode() -> bool:
    """Whether results and errors are to be JSON."""
    return _json


def set_json(on: bool) -> None:
    """What the parsed ``--json`` option says."""
    global _json
    _json = on


# --- results ------------------------------------------------------------------------------


def emit(document: Mapping[str, Any], text: str | None = None) -> None:
    """One result: *document* as a line of JSON, or *text* for a human (nothing when ``None``)."""
    if _json:
        _write(json.dumps(document, ensure_ascii=False, default=_plain))
    elif text is not None:
        _write(text)


def line(text: str = "") -> None:
    """A line for a human; nothing in JSON mode."""
    if not _json:
        _write(text)


def _write(text: str) -> None:
    # Not by click, which flushes every line: a listing may have a million.
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A remark on standard error, for a human only."""
    if not _json:
        click.echo(text, err=True)


def warn(text: str) -> None:
    """A warning on standard error; a line of JSON in JSON mode."""
    if _json:
        click.echo(json.dumps({"warning": text}, ensure_ascii=False), err=True)
    else:
        click.echo(f"warning: {text}", err=True)


def binary() -> BinaryIO:
    """Standard output for bytes."""
    return sys.stdout.buffer


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """An aligned table without frames; columns in *right* are aligned to the right. Nothing in JSON mode."""
    if _json:
        return
    cells = [list(headings), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        parts = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        _write("  ".join(parts).rstrip())


def fields(document: Mapping[str, Any], indent: str = "") -> str:
    """*document* as lines of a name and a value."""
    lines = []
    for key, value in document.items():
        label = f"{indent}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            lines += [label, fields(value, indent + "  ")]
        else:
            lines.append(f"{label:<20} {_field(value)}")
    return "\n".join(lines)


def _field(value: object) -> str:
    if value is None or value in ((), []):
        return "-"
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return " ".join(_field(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else safe(str(value))


def safe(text: str) -> str:
    """*text* with control characters made visible: what others wrote must not steer this terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def human_size(size: int) -> str:
    """*size* bytes, in the largest binary unit that keeps it above one."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def timestamp(time: datetime | None) -> str:
    """*time* in UTC to the second, ``-`` when it is not known."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ") if time is not None else "-"


def _plain(value: object) -> object:
    """What JSON has no type for."""
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"no JSON form for {type(value).__name__}")


# --- errors -------------------------------------------------------------------------------


def _report(kind: str, what: str, safe_: str, next_: str, exit_code: int, **more: object) -> None:
    if _json:
        document = {"class": kind, "what": what, "safe": safe_, "next": next_, "exit_code": exit_code, **more}
        click.echo(json.dumps(document, ensure_ascii=False), err=True)
        return
    click.echo(f"sealedhealth: {safe(what)}", err=True)
    for label, part in (("safe", safe_), ("next", next_)):
        if part:
            click.echo(f"  {label}: {safe(part)}", err=True)


def error(problem: SealedHealthError) -> None:
    """Report an error of this package."""
    what = problem.what or type(problem).__name__
    failures = getattr(problem, "failures", ())  # of a verification: all of them, where the message names a few
    more = {"failures": list(failures)} if failures else {}
    _report(type(problem).__name__, what, problem.safe, problem.next, problem.exit_code, **more)


def os_error(problem: OSError) -> int:
    """Report an error of this machine's own files; the exit status."""
    code = 3 if isinstance(problem, FileNotFoundError) else 4 if isinstance(problem, PermissionError) else 1
    what = problem.strerror or type(problem).__name__
    if isinstance(problem.filename, str):
        what = f"{problem.filename}: {what}"
    safe_ = "What is committed stays as it is, and no half-written file is left."
    _report(type(problem).__name__, what, safe_, _NEXT.get(problem.errno or 0, "Check that path and its disk."), code)
    return code


_NO_ROOM = "Make room, or name another place, and run it again; with --update, put and get skip what is done."
_PERMISSION = "Check the owner and the permissions of that file or directory, or name another."
_PLACE = "Name another path."
_NEXT = {
    errno.ENOENT: "Check the path.",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "That disk is read-only: name another place.",
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.ENOTDIR: _PLACE,
    errno.EISDIR: _PLACE,
    errno.EEXIST: _PLACE,
    errno.ENAMETOOLONG: _PLACE,
}


def usage_error(problem: click.ClickException) -> None:
    """Report arguments that cannot be used."""
    hint = ""
    if isinstance(problem, click.UsageError) and problem.ctx is not None:
        hint = f"See `{problem.ctx.command_path} --help`."
    _report(type(problem).__name__, problem.format_message(), "", hint, problem.exit_code)


def unexpected(problem: BaseException) -> None:
    """Report a bug. Its text is not shown: nobody knows what is in it."""
    _report(
        type(problem).__name__,
        f"Unexpected {type(problem).__name__}: this is a bug in sealedhealth.",
        "The last commit is untouched.",
        "Run again with SEALEDHEALTH_DEBUG=1 for the traceback, and report it.",
        1,
    )


_READING = frozenset({"cat", "diff", "doctor", "du", "inspect", "log", "ls", "profile", "scan", "verify"})


def interrupted(verb: str, exit_code: int) -> None:
    """Report that the user stopped *verb*, or that somebody ended the process."""
    safe_, next_ = "A change is whole or was not made.", "Look with `sealedhealth log URL`, then run it again."
    if verb in _READING:
        safe_, next_ = "Nothing was changed.", "Run it again."
    elif verb == "put":
        safe_ = "What was committed before is whole, and nothing else became visible."
        next_ = "Run it again; --update skips what is there already."
    elif verb == "get":
        safe_ = "Each file that arrived is whole and checked; the dataset is unchanged."
        next_ = "Run it again; --update skips what has arrived already."
    elif verb == "replicate":
        safe_ = "The source is unchanged; the destination holds nothing that was not checked."
        next_ = "Run it again: it copies what is missing."
    _report("Interrupted", "Interrupted.", safe_, next_, exit_code)


# --- progress -----------------------------------------------------------------------------


@contextmanager
def progress(what: str, *, items: bool = False) -> Iterator[Bar]:
    """A progress bar on standard error, when that is a terminal and nobody asked for JSON."""
    from sealedhealth.dataset.progress import progress_bar

    with progress_bar(what, items=items, quiet=_json) as bar:
        yield bar
