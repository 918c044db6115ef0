"""What commands print: results to stdout, everything meant for a person's eyes meanwhile to stderr."""

import csv
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from base.errors import SetupError
from base.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

#: What a listing passes over, for people.
PASSED_OVER = "links, devices and folders that cannot be read"

_LINE_SECONDS = 5.0
_ROWS_MEASURED = 1000
_LEFT_OUT_NAMED = 20
# What makes a spreadsheet take a cell for a formula. Source: OWASP, "CSV Injection", with the full-width signs that
# spreadsheets take for the others where people write Chinese, Japanese or Korean.
_FORMULA_BEGINNINGS = frozenset(
    "=+-@\t\r\n\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
# Looked at for each value of a million rows, before anything that takes longer.
_CSV_AS_IT_IS = frozenset((int, float, bool, Decimal, type(None)))
_JSON_AS_IT_IS = frozenset((int, str, bool, type(None)))
_json_line = json.JSONEncoder(ensure_ascii=False, default=str).encode


def quiet_logs(settings: Settings) -> None:
    """Log what is wrong, and nothing to stdout."""
    from base.logs import configure_logs

    configure_logs(json_lines=settings.json_logs, level=logging.WARNING)


class RowFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def say(text: str) -> None:
    """Tell the person at the terminal, or the log of whoever called us."""
    print(text, file=sys.stderr, flush=True)


def tell_left_out(images: Sequence[tuple[str, str]]) -> None:
    """Name the images of a dataset that took no part, (path, reason) each; of very many the first."""
    for path, reason in images[:_LEFT_OUT_NAMED]:
        say(f"left out: {printable(path)}: {printable(reason)}")
    if len(images) > _LEFT_OUT_NAMED:
        say(f"left out: {len(images) - _LEFT_OUT_NAMED:,} more images")


def print_json(facts: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(facts, indent=2, ensure_ascii=False, default=str))


def print_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], form: RowFormat, *, types: Sequence[type] | None = None
) -> int:
    """Print rows as they come, as `write_rows` does; returns how many there were.

    Whoever reads them may have seen enough before the end, as `head` has: that is no fault of ours or theirs.
    """
    try:
        printed = write_rows(sys.stdout, columns, rows, form, types=types)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return 1
    return printed


def silence_stdout() -> None:
    """Drop what is still to be printed: Python flushes once more at exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_rows(
    out: TextIO,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    form: RowFormat,
    *,
    types: Sequence[type] | None = None,
) -> int:
    """Write rows as they come; returns how many there were.

    Args:
        types: what each column holds; only Parquet asks, and without them lets the first rows decide.

    Raises:
        SetupError: the format cannot hold columns or values like these.
    """
    if form in (RowFormat.JSONL, RowFormat.PARQUET) and len(set(columns)) < len(columns):
        raise SetupError(f"two of the columns {', '.join(columns)} have one name. Give each its own with AS.")
    if form is RowFormat.PARQUET:
        from cli.parquet import write_parquet

        return write_parquet(out.buffer, columns, rows, types)
    if form is RowFormat.JSONL:
        return _write_jsonl(out, columns, rows)
    if form is RowFormat.CSV:
        return _write_csv(out, columns, rows)
    return _write_table(out, columns, rows)


def _write_jsonl(out: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    written = 0
    for row in rows:
        values = [value if type(value) in _JSON_AS_IT_IS else _json_value(value) for value in row]
        out.write(_json_line(dict(zip(columns, values, strict=True))) + "\n")
        written += 1
    return written


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity, and knows only one kind of number."""
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value


def _write_csv(out: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    writer = csv.writer(_LineFeeds(out), lineterminator="\r\n")
    writer.writerow([_csv_cell(column) for column in columns])
    written = 0
    for row in rows:
        writer.writerow([value if type(value) in _CSV_AS_IT_IS else _csv_cell(value) for value in row])
        written += 1
    return written


def _csv_cell(value: Any) -> str:
    """Text that a spreadsheet takes for text."""
    text = as_text(value)
    return "'" + text if text[:1] in _FORMULA_BEGINNINGS else text


class _LineFeeds:
    """Ends rows as Unix does. A CSV writer that did it itself would not quote a carriage return within a cell."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, row: str) -> int:
        return self._out.write(row[:-2] + "\n")


def _write_table(out: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Columns as wide as the first rows need; nothing is ever cut off, because people copy from tables."""
    remaining = iter(rows)
    first = [[printable(value) for value in row] for row in islice(remaining, _ROWS_MEASURED)]
    names = [printable(column) for column in columns]
    widths = [max(len(cells[index]) for cells in [names, *first]) for index in range(len(names))]
    written = 0

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() + "\n"

    out.write(line(names))
    out.write("  ".join("-" * width for width in widths) + "\n")
    for cells in chain(first, ([printable(value) for value in row] for row in remaining)):
        out.write(line(cells))
        written += 1
    return written


def as_text(value: object) -> str:
    """What a value is where there is only text for it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return _json_line(value) if isinstance(value, dict | list) else str(value)


def printable(value: object) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = as_text(value)
    if text.isprintable():
        return text
    # A label or a file name must not be able to write on the terminal in a way of its own.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class Reporter(Protocol):
    """Shows how far something is."""

    def update(self, text: str, share: float | None) -> None:
        """
        Args:
            text: what is being done.
            share: of the work that is done, 0 to 1; None when it is not known.
        """


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Reporter]:
    """A bar on a terminal; a plain line every few seconds where stderr is none; nothing when `quiet`."""
    if quiet:
        yield _Silence()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(bar)
    else:
        lines = _Lines()
        yield lines
        lines.end()


class _Silence:
    def update(self, text: str, share: float | None) -> None:
        pass


class _Bar:
    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def update(self, text: str, share: float | None) -> None:
        from rich.markup import escape

        total = None if share is None else 1.0
        self._bar.update(self._task, description=escape(text), total=total, completed=share or 0.0)


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + 1.0
        self._last = self._latest = ""

    def update(self, text: str, share: float | None) -> None:
        now = time.monotonic()
        if now >= self._next and text != self._last:
            say(text)
            self._next, self._last = now + _LINE_SECONDS, text
        self._latest = text

    def end(self) -> None:
        """The last step too, where some were told: what stops in the middle looks as if it had failed."""
        if self._last not in ("", self._latest):
            say(self._latest)


def duration(seconds: float) -> str:
    """As a person says it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def facts_table(facts: Sequence[tuple[str, object]]) -> None:
    """Names and values on stdout, one pair a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name.ljust(width)}  {value if isinstance(value, float) else printable(value)}")
