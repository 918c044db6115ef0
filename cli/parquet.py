"""Rows as Parquet. pyarrow writes it: an extra, as it takes 170 MB of disk."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from base.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Sequence[Any]

# As many are in memory at a time; readers can skip a group by its least and greatest values.
_ROWS_PER_GROUP = 20_000
# What a query can answer and every reader of Parquet knows.
_PLAIN_TYPES = (bool, int, float, str, bytes, date, time, type(None))


def require_pyarrow() -> None:
    """Find out before a query is run.

    Raises:
        SetupError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401 (it is about whether that works)
    except ImportError as error:
        raise SetupError("Parquet needs pyarrow. Install it with: pip install 'tagmill[parquet]'.") from error


def write_parquet(out: BinaryIO, columns: Sequence[str], rows: Iterable[Row], types: Sequence[type] | None) -> int:
    """Write rows as they come; returns how many there were.

    Args:
        types: what each column holds, where a `datetime` may come as ISO 8601 text; None: the first rows decide.

    Raises:
        SetupError: a value does not fit its column.
    """
    from pyarrow import parquet

    groups = _groups(rows if types is not None else ([_plain(value) for value in row] for row in rows))
    first = next(groups, [])
    schema = _found_schema(columns, first) if types is None else _known_schema(columns, types)
    sink = _Sink(out)
    written = 0
    writer = parquet.ParquetWriter(sink, schema, compression="zstd")
    try:
        for group in chain([first] if first else [], groups):
            writer.write_batch(_record_batch(schema, group, written))
            written += len(group)
        writer.close()
    except BaseException:
        sink.is_abandoned = True
        raise
    return written


class _Sink:
    """Takes what pyarrow writes until something goes wrong.

    Even then a writer that is forgotten ends the file, which would make half an export look whole.
    """

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.is_abandoned = False

    def write(self, data: bytes) -> int:
        return len(data) if self.is_abandoned else self._out.write(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while group := list(islice(remaining, _ROWS_PER_GROUP)):
        yield group


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)  # Its digits vary from row to row, and a decimal column of Parquet has a fixed number.
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if isinstance(value, _PLAIN_TYPES) else str(value)


def _known_schema(columns: Sequence[str], types: Sequence[type]) -> "pa.Schema":
    import pyarrow as pa

    known = {
        str: pa.string(),
        float: pa.float64(),
        int: pa.int64(),
        bool: pa.bool_(),
        datetime: pa.timestamp("us", "UTC"),
    }
    return pa.schema([(name, known[kind]) for name, kind in zip(columns, types, strict=True)])


def _found_schema(columns: Sequence[str], rows: Sequence[Row]) -> "pa.Schema":
    import pyarrow as pa

    cells = zip(*rows, strict=True) if rows else ([] for _ in columns)
    found = [(name, _array(name, values, "").type) for name, values in zip(columns, cells, strict=True)]
    # Of a column without any value nothing is known; text can hold what may come later, if the query makes it text.
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in found])


def _record_batch(schema: "pa.Schema", rows: Sequence[Row], before: int) -> "pa.RecordBatch":
    import pyarrow as pa

    where = f" in rows {before + 1} to {before + len(rows)}"
    arrays = [
        _array(field.name, values, where, field.type)
        for field, values in zip(schema, zip(*rows, strict=True), strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)


def _array(name: str, values: Sequence[Any], where: str, kind: "pa.DataType | None" = None) -> "pa.Array":
    import pyarrow as pa

    try:
        array = pa.array(values)
        # Not by giving `array` the type: it would cut 1.5 down to 1.
        return array if kind is None else array.cast(kind)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        as_type = f" as {kind}" if kind else ""
        raise SetupError(
            f"the column {name!r}{where} does not fit into Parquet{as_type}: {error}. "
            f"Give it one type in the query, such as CAST({name} AS TEXT)."
        ) from error
