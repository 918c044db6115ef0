"""What is printed can be read back, and writes nothing on the terminal by itself."""

import csv
import io
import json
from decimal import Decimal

import pytest

from cli.output import RowFormat, facts_table, print_json, print_rows, progress, say

TEXT_FORMATS = [RowFormat.TABLE, RowFormat.CSV, RowFormat.JSONL]
COLUMNS = ("image_uri", "label", "confidence")
HOSTILE = "cat \x1b[31m\x07\r\n\x9b2J\u202e, \"quoted\"; 'x'"
ROWS = [
    ("file:///a.jpg", "tabby cat", 0.8123456789),
    ("file:///" + "long/" * 100 + "b.jpg", HOSTILE, None),
    ("file:///c.jpg", "Kätzchen \N{CAT FACE}", 1e-9),
]


def test_csv_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_rows(COLUMNS, ROWS, RowFormat.CSV) == 3

    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert tuple(header) == COLUMNS
    assert [(uri, label, float(share) if share else None) for uri, label, share in rows] == ROWS


def test_carriage_return_ends_no_csv_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("label", "confidence"), [("cat\r=1+1", 0.5)], RowFormat.CSV)

    assert capsys.readouterr().out == 'label,confidence\n"cat\r=1+1",0.5\n'


@pytest.mark.parametrize("beginning", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])  # noqa: RUF001
def test_csv_cell_that_starts_a_formula_is_defused(beginning: str, capsys: pytest.CaptureFixture[str]) -> None:
    formula = f"{beginning}1+1"

    print_rows((formula,), [(formula,)], RowFormat.CSV)

    assert list(csv.reader(io.StringIO(capsys.readouterr().out, newline=""))) == [[f"'{formula}"], [f"'{formula}"]]


def test_csv_numbers_and_other_text_are_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("a", "b", "c", "d", "e"), [(-1, -0.5, Decimal("-2.50"), None, "1-1=0")], RowFormat.CSV)

    assert capsys.readouterr().out == "a,b,c,d,e\n-1,-0.5,-2.50,,1-1=0\n"


def test_csv_cells_without_text_of_their_own_have_a_plain_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("sku", "hash"), [({"a": [1, "ü"]}, b"\x00\xff")], RowFormat.CSV)

    assert capsys.readouterr().out == 'sku,hash\n"{""a"": [1, ""ü""]}",00ff\n'


def test_jsonl_does_not_change_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("label",), [("=1+1",)], RowFormat.JSONL)

    assert capsys.readouterr().out == '{"label": "=1+1"}\n'


def test_jsonl_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_rows(COLUMNS, ROWS, RowFormat.JSONL) == 3

    lines = capsys.readouterr().out.split("\n")
    assert [tuple(json.loads(line).values()) for line in lines[:-1]] == ROWS
    assert tuple(json.loads(lines[0])) == COLUMNS


def test_table_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_rows(COLUMNS, ROWS, RowFormat.TABLE) == 3

    printed = capsys.readouterr().out
    assert "long/" * 100 + "b.jpg" in printed
    assert len(printed.splitlines()) == 2 + len(ROWS)


def test_table_shows_control_characters_as_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(COLUMNS, ROWS, RowFormat.TABLE)

    printed = capsys.readouterr().out
    assert all(character.isprintable() for character in printed.replace("\n", ""))
    assert "cat \N{REPLACEMENT CHARACTER}[31m" in printed


def test_column_name_cannot_write_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """`tagmill sql` lets people name columns as they like."""
    print_rows(("a\x1b[2J",), [(1,)], RowFormat.TABLE)

    assert "\x1b" not in capsys.readouterr().out


def test_table_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("a", "label"), [(1, True), (1000, None), (0.5, "x")], RowFormat.TABLE)

    assert capsys.readouterr().out == "a       label\n------  -----\n1       yes\n1000\n0.5000  x\n"


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_answer_without_rows_prints_no_row(form: RowFormat, capsys: pytest.CaptureFixture[str]) -> None:
    assert print_rows(COLUMNS, [], form) == 0

    assert len(capsys.readouterr().out.splitlines()) == {"table": 2, "csv": 1, "jsonl": 0}[form]


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_more_rows_than_are_measured_are_printed(form: RowFormat, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ((f"image {number}", "x" * (number // 400), 0.5) for number in range(2500))

    assert print_rows(COLUMNS, rows, form) == 2500
    assert "x" * 6 in capsys.readouterr().out


def test_json_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"label": HOSTILE})

    assert json.loads(capsys.readouterr().out) == {"label": HOSTILE}


def test_messages_and_progress_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("run 1")
    with progress() as reporter:
        reporter.update("1 of 2 images", 0.5)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("run 1\n")


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as reporter:
        reporter.update("1 of 2 images", 0.5)

    assert capsys.readouterr() == ("", "")


def test_facts_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    facts_table([("listed", 3), ("images per second", "1.5")])

    assert capsys.readouterr().out == "listed             3\nimages per second  1.5\n"
