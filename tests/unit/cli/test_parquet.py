"""Parquet has the types that are promised, whatever the rows, and half of it is never taken for the whole."""

import io
import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from base.errors import SetupError
from cli.output import RowFormat, write_rows
from cli.parquet import require_pyarrow

COLUMNS = ("image_uri", "label", "confidence", "run_id", "needs_review", "classified_at")
TYPES = (str, str, float, int, bool, datetime)
SCHEMA = pa.schema(
    [
        ("image_uri", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("run_id", pa.int64()),
        ("needs_review", pa.bool_()),
        ("classified_at", pa.timestamp("us", "UTC")),
    ]
)


def row(number: int) -> tuple[Any, ...]:
    return f"file:///{number}.jpg", "=1+1", 0.25, number, True, "2026-11-22T20:25:41.375Z"


def export(columns: Sequence[str], rows: Any, types: Sequence[type] | None = None) -> bytes:
    out = io.TextIOWrapper(io.BytesIO())
    write_rows(out, columns, rows, RowFormat.PARQUET, types=types)
    return out.buffer.getvalue()  # type: ignore[attr-defined]


def read(written: bytes) -> pa.Table:
    return parquet.read_table(pa.BufferReader(written))


@pytest.mark.parametrize("rows", [0, 1, 30_000])
def test_known_columns_have_their_types_and_rows(rows: int) -> None:
    table = read(export(COLUMNS, (row(number) for number in range(rows)), TYPES))

    assert (table.schema, table.num_rows) == (SCHEMA, rows)
    assert table["run_id"].to_pylist() == list(range(rows))


def test_values_are_not_changed() -> None:
    (written,) = read(export(COLUMNS, [row(7)], TYPES)).to_pylist()

    seen_at = datetime(2026, 11, 22, 20, 25, 41, 375000, tzinfo=UTC)
    assert written == dict(zip(COLUMNS, (*row(7)[:-1], seen_at), strict=True))


def test_row_groups_stay_small_and_labels_are_numbered() -> None:
    found = parquet.ParquetFile(pa.BufferReader(export(COLUMNS, map(row, range(45_000)), TYPES))).metadata

    assert [found.row_group(index).num_rows for index in range(found.num_row_groups)] == [20_000, 20_000, 5_000]
    assert "RLE_DICTIONARY" in found.row_group(0).column(1).encodings


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (7, pa.int64(), 7),
        ("é", pa.string(), "é"),
        (b"\xff", pa.binary(), b"\xff"),
        (None, pa.string(), None),
        (Decimal("2.50"), pa.float64(), 2.5),  # PostgreSQL's numeric, of any number of digits.
        ({"sku": ["A", 1]}, pa.string(), json.dumps({"sku": ["A", 1]})),  # Its jsonb.
        (uuid.UUID(int=1), pa.string(), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 1, tzinfo=UTC), pa.timestamp("us", "UTC"), datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_columns_of_a_query_take_the_type_of_their_values(value: object, kind: pa.DataType, expected: object) -> None:
    table = read(export(("x",), [(value,)]))

    assert (table.schema.field("x").type, table["x"].to_pylist()) == (kind, [expected])


def test_column_that_begins_without_values_holds_text() -> None:
    table = read(export(("x",), ((None if number < 20_000 else "a",) for number in range(20_001))))

    assert table["x"].to_pylist()[-2:] == [None, "a"]


def test_query_without_rows_has_its_columns() -> None:
    assert read(export(("a", "b"), [])).column_names == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "late"),
    [
        (1, "a"),
        (1, 1.5),  # Which pyarrow would cut down to 1.
        (1, 2**70),
        (0.5, 2**60 + 1),  # No double.
        (b"\xff", 1),
    ],
)
def test_late_value_of_another_type_is_refused(first: object, late: object) -> None:
    with pytest.raises(SetupError, match=r"the column 'x' in rows 20001 to 20001 .* CAST\(x AS TEXT\)"):
        export(("x",), ((first,) if number < 20_000 else (late,) for number in range(20_001)))


def test_values_of_two_types_are_refused() -> None:
    with pytest.raises(SetupError, match=r"the column 'x' does not fit .* CAST\(x AS TEXT\)"):
        export(("x",), [(1,), ("a",)])


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(SetupError, match="have one name"):
        export(("a", "a"), [(1, 2)])


def test_interrupted_rows_do_not_look_whole() -> None:
    def rows() -> Iterator[tuple[int]]:
        yield from ((number,) for number in range(50_000))
        raise KeyboardInterrupt

    out = io.TextIOWrapper(io.BytesIO())
    with pytest.raises(KeyboardInterrupt):
        write_rows(out, ("x",), rows(), RowFormat.PARQUET)

    with pytest.raises(pa.ArrowInvalid):
        read(out.buffer.getvalue())  # type: ignore[attr-defined]


def test_missing_pyarrow_is_told_with_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    with pytest.raises(SetupError, match=r"pip install 'tagmill\[parquet\]'"):
        require_pyarrow()
