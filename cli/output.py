"""What commands print: results to stdout, everything meant for a person's eyes meanwhile to stderr."""

import csv
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from itertools import chain, islice
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from base.errors import SetupError

_LINE_SECONDS = 5.0
_ROWS_MEASURED = 1000


class RowFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSONL = "jsonl"


def say(text: str) -> None:
    """Tell the person at the terminal, or the log of whoever called us."""
    print(text, file=sys.stderr, flush=True)


def print_json(facts: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(facts, indent=2, ensure_ascii=False, default=str))


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: RowFormat) -> int:
    """Print rows as they come; returns how many there were.

    Whoever reads them may have seen enough before the end, as `head` has: that is no fault of ours or theirs.
    """
    try:
        printed = _print_rows(columns, rows, form)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return 1
    return printed


def silence_stdout() -> None:
    """Drop what is still to be printed: Python flushes once more at exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_rows(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: RowFormat) -> int:
    printed = 0
    if form is RowFormat.JSONL:
        if len(set(columns)) < len(columns):
            raise SetupError(f"two of the columns {', '.join(columns)} have one name. Give each its own with AS.")
        for row in rows:
            values = [_json_value(value) for value in row]
            print(json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False, default=str))
            printed += 1
    elif form is RowFormat.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
            printed += 1
    else:
        printed = _print_table(columns, rows)
    return printed


def _json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity, and knows only one kind of number."""
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Columns as wide as the first rows need; nothing is ever cut off, because people copy from tables."""
    remaining = iter(rows)
    first = [[printable(value) for value in row] for row in islice(remaining, _ROWS_MEASURED)]
    names = [printable(column) for column in columns]
    widths = [max(len(cells[index]) for cells in [names, *first]) for index in range(len(names))]
    printed = 0

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    print(line(names))
    print("  ".join("-" * width for width in widths))
    for cells in chain(first, ([printable(value) for value in row] for row in remaining)):
        print(line(cells))
        printed += 1
    return printed


def printable(value: object) -> str:
    """A value as a person reads it, on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    # A label or a file name must not be able to write on the terminal in a way of its own.
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(value))


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
        columns = (SpinnerColumn(), BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(bar)
    else:
        yield _Lines()


class _Silence:
    def update(self, text: str, share: float | None) -> None:
        pass


class _Bar:
    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def update(self, text: str, share: float | None) -> None:
        total = None if share is None else 1.0
        self._bar.update(self._task, description=escape(text), total=total, completed=share or 0.0)


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + 1.0
        self._last = ""

    def update(self, text: str, share: float | None) -> None:
        now = time.monotonic()
        if now >= self._next and text != self._last:
            say(text)
            self._next, self._last = now + _LINE_SECONDS, text


def facts_table(facts: Sequence[tuple[str, object]]) -> None:
    """Names and values on stdout, one pair a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name.ljust(width)}  {value if isinstance(value, float) else printable(value)}")
