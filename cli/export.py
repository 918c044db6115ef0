"""Where the rows of a command go: to stdout, or into a file that is there only once it is whole."""

import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from base.errors import SetupError
from cli.output import Reporter, RowFormat, print_rows, progress, say, write_rows

Format = Annotated[
    RowFormat | None, typer.Option("--format", help="How rows are written; a table, or as FILE ends, unless given.")
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Write here; what is there is replaced at the end.")
]

_SUFFIXES = {f".{form}": form for form in RowFormat if form is not RowFormat.TABLE}
_ROWS_BETWEEN_REPORTS = 1000


@dataclass(frozen=True)
class Target:
    """What was asked for, and found possible."""

    form: RowFormat
    path: Path | None  #: None: stdout


def find_target(form: RowFormat | None, path: Path | None) -> Target:
    """Where rows go; asked before a query that may take long.

    Raises:
        SetupError: the format is not clear, not for a terminal, or lacks its package; or there can be no such file.
    """
    if path is not None:
        _check_file(path)
    if form is None and path is not None:
        form = _SUFFIXES.get(path.suffix.lower())
        if form is None:
            raise SetupError(f"{str(path)!r} does not end with {', '.join(_SUFFIXES)}. Add --format, or rename it.")
    if form is RowFormat.PARQUET:
        from cli.parquet import require_pyarrow

        require_pyarrow()
        if path is None and sys.stdout.isatty():
            raise SetupError("Parquet is nothing for a terminal. Add --output FILE, or send it to a command with '|'.")
    return Target(form or RowFormat.TABLE, path)


def export_rows(
    target: Target, columns: Sequence[str], rows: Iterable[Sequence[Any]], types: Sequence[type] | None = None
) -> int:
    """Write rows as they come, as `write_rows` does; returns how many there were.

    Raises:
        SetupError: the file cannot be written, or the format cannot hold the rows.
    """
    if target.path is None:
        return print_rows(columns, rows, target.form, types=types)
    with _replaced(target.path) as out, progress() as reporter:
        written = write_rows(out, columns, _reported(rows, reporter), target.form, types=types)
    say(f"{written} {'row' if written == 1 else 'rows'} in {target.path}")
    return written


def _check_file(path: Path) -> None:
    if not path.resolve().parent.is_dir():
        raise SetupError(f"{str(path)!r}: there is no such folder. Make it, or name another file with --output.")
    if str(path) == "-":
        raise SetupError("'-' is no name for a file. Leave --output away for stdout.")
    if path.exists() and not path.is_file():
        # A device that was replaced by a file would be missed.
        raise SetupError(f"{str(path)!r} is not a file. Name one, or leave --output away for stdout.")


@contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` when all went well; until then it lies beside it, and if not it goes."""
    target = path.resolve()  # Not a link to it.
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "x", encoding="utf-8", errors="backslashreplace", newline="") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except OSError as error:
        raise SetupError(f"{str(path)!r}: {error.strerror}. Mend that, or name another file with --output.") from error
    finally:
        part.unlink(missing_ok=True)


def _reported(rows: Iterable[Sequence[Any]], reporter: Reporter) -> Iterator[Sequence[Any]]:
    for number, row in enumerate(rows, 1):
        if number % _ROWS_BETWEEN_REPORTS == 0:
            reporter.update(f"{number} rows", None)
        yield row
