import json
from datetime import UTC, datetime

import pytest

from sealedhealth.cli import output
from sealedhealth.errors import TamperedError


@pytest.fixture(autouse=True)
def _plain_mode():
    """Every test begins and ends outside JSON mode."""
    output.set_json(False)
    yield
    output.set_json(False)


@pytest.mark.parametrize(
    "size,text",
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 30, "1.0 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_human_size(size, text):
    """Sizes are shown in the largest unit that keeps them above one."""
    assert output.human_size(size) == text


def test_safe_shows_control_characters():
    """What others wrote cannot steer the terminal: escapes, line ends and direction marks are shown as numbers."""
    assert output.safe("a\x1b[31mb\nc\u202ed\x9b") == "a\\x1b[31mb\\nc\\u202ed\\x9b"
    assert output.safe("Hémorragie 出血 😀") == "Hémorragie 出血 😀"


def test_table(capsys):
    """Columns are as wide as their widest cell, numbers stand to the right."""
    output.table(["N", "NAME"], [["1", "a"], ["12", "b\x07"]], right=(0,))
    assert capsys.readouterr().out == " N  NAME\n 1  a\n12  b\\x07\n"


def test_fields(capsys):
    """Documents are shown as names and values, one a line, and nested ones indented."""
    text = output.fields(
        {
            "data_key": b"\x01\xff",
            "when": datetime(2026, 3, 1, tzinfo=UTC),
            "none": None,
            "inner": {"count": 1234, "on": True},
        }
    )
    assert [line.split() for line in text.splitlines()] == [
        ["data", "key", "01ff"],
        ["when", "2026-03-01T00:00:00Z"],
        ["none", "-"],
        ["inner"],
        ["count", "1,234"],
        ["on", "yes"],
    ]


def test_json_mode(capsys):
    """In JSON mode results are lines of JSON, and nothing is said to humans."""
    output.set_json(True)
    output.emit({"time": datetime(2026, 3, 1, 12, tzinfo=UTC), "id": b"\x00\x01", "name": "é"}, "for humans")
    output.line("for humans")
    output.note("for humans")
    output.table(["A"], [["for humans"]])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"time": "2026-03-01T12:00:00Z", "id": "0001", "name": "é"}
    assert said.err == ""


def test_errors_say_three_things(capsys):
    """An error is shown with what happened, what is safe and what to do next; as JSON with its class and status."""
    error = TamperedError("It differs\x1b.", safe="Nothing was used.", next="Look for a copy.")
    output.error(error)
    assert capsys.readouterr().err == (
        "sealedhealth: It differs\\x1b.\n  safe: Nothing was used.\n  next: Look for a copy.\n"
    )
    output.set_json(True)
    output.error(error)
    assert json.loads(capsys.readouterr().err) == {
        "class": "TamperedError",
        "what": "It differs\x1b.",
        "safe": "Nothing was used.",
        "next": "Look for a copy.",
        "exit_code": 5,
    }


@pytest.mark.parametrize(
    "error,code",
    [(FileNotFoundError(2, "No such file", "x"), 3), (PermissionError(13, "No", "x"), 4), (OSError(5, "IO", "x"), 1)],
)
def test_errors_of_this_machine(capsys, error, code):
    """Errors of local files name the file, and have the exit code of what they are."""
    assert output.os_error(error) == code
    said = capsys.readouterr().err
    assert said.startswith("sealedhealth: x: ")
    assert "last commit" not in said
    assert "\n  next: " in said


def test_no_bar_without_a_terminal(capsys):
    """Progress is silent when nobody watches."""
    with output.progress("sealing") as bar:
        bar.total(10)
        bar.advance(10)
    assert capsys.readouterr() == ("", "")
