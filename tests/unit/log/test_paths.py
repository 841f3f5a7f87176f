import sys
import time
import unicodedata

import pytest

from sealedhealth.errors import InvalidPath, MalformedError
from sealedhealth.log.paths import (
    MAX_PATH_BYTES,
    canonical,
    check_canonical,
    is_under,
    lines_are_canonical,
    parents,
)

BAD = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "./a",
    "../a",
    "a/.",
    "a/..",
    "a/./b",
    "a/../b",
    "a\\b",
    "..\\a",
    "a\0b",
    "a\tb",
    "a\nb",
    "a\n",
    "a\rb",
    "\x1f",
    "a\x7f",
    "a\x80",
    "é\x85",
    "a\x9f",
    "a\u2028b",
    "a\u2029b",
    "a\ud800",
    "\udfffa",
    "x" * (MAX_PATH_BYTES + 1),
    "é" * (MAX_PATH_BYTES // 2 + 1),
    "a" + "\u0301" * 10_000,
]
GOOD = [
    "a",
    "a/b/c.parquet",
    "...",
    ".hidden/..c/d..",
    "a b/c:d;e",
    "labs/é.csv",
    "Ω/漢字/😀",
    "x" * MAX_PATH_BYTES,
    "é" * (MAX_PATH_BYTES // 2),
    "\xa0",
    "\ufffd",
    "\ue000",
]


@pytest.mark.parametrize("path", GOOD)
def test_canonical_path_stays(path):
    """A path in canonical form comes back as it is, for writing as well as for looking up."""
    assert canonical(path) == canonical(path, new=True) == check_canonical(path) == path
    assert lines_are_canonical(path)
    assert lines_are_canonical(f"a\n{path}\nb")


@pytest.mark.parametrize("path", BAD, ids=lambda path: ascii(path[:12]))
def test_bad_path_is_refused(path):
    """A path without canonical form is refused, however it arrives, and the error says why and what to do."""
    with pytest.raises(InvalidPath) as caught:
        canonical(path)
    assert caught.value.what
    assert caught.value.next
    assert len(str(caught.value)) < 400
    with pytest.raises(MalformedError):
        check_canonical(path)
    if "\n" not in path:
        assert not lines_are_canonical(path)
        assert not lines_are_canonical(f"a\n{path}\nb")


def test_two_spellings_are_one_name():
    """A decomposed name (as macOS writes it) is the same path as the composed one."""
    assert canonical("e\u0301te\u0301.csv") == "été.csv"


def test_log_must_hold_nfc():
    """A path in a log is never mended: in another normalisation it is refused."""
    with pytest.raises(MalformedError):
        check_canonical("e\u0301")
    assert not lines_are_canonical("a\ne\u0301")


def test_unknown_character_cannot_be_written():
    """A character that Unicode has not assigned could normalise differently later: looked up yes, written no."""
    path = "a\u0378"
    assert canonical(path) == path
    with pytest.raises(InvalidPath, match="Unicode"):
        canonical(path, new=True)


def test_normalising_brings_nothing_forbidden():
    """No character becomes a separator, a dot, a backslash or a control character by NFC."""
    special = set("/\\.") | {chr(code) for code in (*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029)}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        assert character in special or special.isdisjoint(unicodedata.normalize("NFC", character))


def test_bound_before_normalising_is_exact():
    """Composition makes at most two characters into one byte, so the bound on characters refuses no valid path."""
    for code in range(0x80, sys.maxunicode + 1):
        character = chr(code)
        if not 0xD800 <= code < 0xE000:
            assert len(unicodedata.normalize("NFD", character)) <= 2 * len(character.encode())


def test_error_shows_no_long_path():
    """The start of a long path is enough to find it."""
    with pytest.raises(InvalidPath, match="…"):
        canonical("secret/" * 1000)


def test_is_under():
    """A prefix is a directory or the path itself, not the start of a name; everything is under the root."""
    assert is_under("a/b", "a")
    assert is_under("a", "a")
    assert is_under("a", "")
    assert not is_under("ab", "a")
    assert not is_under("a", "a/b")


def test_parents():
    """Nearest first, without the root."""
    assert parents("a/b/c") == ["a/b", "a"]
    assert parents("a") == []


def test_hostile_path_takes_no_time():
    """Long runs of dots, separators or combining characters are refused in time that does not run away."""
    start = time.perf_counter()
    for path in ("./" * 500_000, "a/" * 500_000, "." * 1_000_000, "\u0301\u0316" * 4000, "a" * 10_000_000):
        with pytest.raises(InvalidPath):
            canonical(path)
    assert time.perf_counter() - start < 5
