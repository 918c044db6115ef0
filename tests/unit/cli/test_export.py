"""An export is whole or is not there, and what cannot be is refused before a query is run."""

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import SetupError
from cli.export import Target, export_rows, find_target
from cli.output import RowFormat


@pytest.mark.parametrize(
    ("form", "name", "expected"),
    [
        (None, None, RowFormat.TABLE),
        (RowFormat.CSV, None, RowFormat.CSV),
        (None, "a.csv", RowFormat.CSV),
        (None, "a.b.JSONL", RowFormat.JSONL),
        (None, "a.parquet", RowFormat.PARQUET),
        (RowFormat.TABLE, "a.csv", RowFormat.TABLE),  # What is said counts more than what the file is called.
        (RowFormat.CSV, "a", RowFormat.CSV),
    ],
)
def test_format_is_as_said_or_as_the_file_ends(
    tmp_path: Path, form: RowFormat | None, name: str | None, expected: RowFormat
) -> None:
    path = tmp_path / name if name else None

    assert find_target(form, path) == Target(expected, path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.xlsx", "a.xlsx' does not end with .csv, .jsonl, .parquet. Add --format"),
        ("none/a.csv", "a.csv': there is no such folder"),
        (".", "is not a file"),
        ("/dev/null", "is not a file"),  # A file in its place would be missed.
    ],
)
def test_file_that_cannot_be_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        find_target(None, tmp_path / name)


def test_parquet_is_refused_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    with pytest.raises(SetupError, match="Add --output FILE"):
        find_target(RowFormat.PARQUET, None)


def full_disk() -> Iterator[tuple[str]]:
    yield ("half",)
    raise OSError(errno.ENOSPC, "No space left on device")


def test_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    with pytest.raises(SetupError, match=r"a.csv': No space left on device"):
        export_rows(find_target(None, path), ("label",), full_disk())

    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_file_is_there_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def rows() -> Iterator[tuple[str]]:
        assert not path.exists()
        yield ("cat",)

    assert export_rows(find_target(None, path), ("label",), rows()) == 1
    assert path.read_text() == "label\ncat\n"


def test_replaced_file_keeps_its_link_and_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "a.csv", tmp_path / "link.csv"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)

    export_rows(find_target(None, link), ("label",), [("cat",)])

    assert (path.read_text(), path.stat().st_mode & 0o777) == ("label\ncat\n", 0o640)
    assert link.is_symlink()
