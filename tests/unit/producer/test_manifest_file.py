"""What each format says, and what is told of a line that says nothing."""

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from base.errors import SourceError
from producer.manifest_file import ManifestRow, read_manifest


def read(
    name: str, content: bytes | str, column: str | None = None, key: str | None = None
) -> list[tuple[str, str, Any]]:
    """Address, key and columns of each row."""
    file = io.BytesIO(content.encode() if isinstance(content, str) else content)
    rows: list[ManifestRow] = list(read_manifest(file, name, column=column, key=key))
    return [(row.address, row.key, json.loads(row.columns)) for row in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_keeps_its_other_columns_as_text(delimiter: str, mark: str, end: str) -> None:
    lines = [["sku", "image", "title"], ["A1", "a.jpg", '"red, or; so"'], [], ["007", " b.jpg ", '"two\nlines"']]
    content = mark + end.join(delimiter.join(line) for line in lines)

    assert read("m.csv", content, key="sku") == [
        ("a.jpg", "A1", {"title": "red, or; so"}),
        ("b.jpg", "007", {"title": "two\nlines"}),
    ]


def test_json_lines_keep_types() -> None:
    content = '{"url": "a.jpg", "sku": 7, "price": 1.5, "tags": ["x"], "sold": null}\n\n{"url": "b.jpg", "new": true}\n'

    assert read("m.jsonl", content, key="sku") == [
        ("a.jpg", "7", {"price": 1.5, "tags": ["x"], "sold": None}),
        ("b.jpg", "", {"new": True}),
    ]


def test_parquet_keeps_types_that_json_has() -> None:
    rows = {
        "path": ["a.jpg", "b.jpg"],
        "sku": [1.0, None],  # What pandas makes of whole numbers with a hole.
        "price": [Decimal("1.50"), None],
        "weight": [float("nan"), 2.0],
        "day": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "UTC")),
        "time": pa.array([1_001, None], pa.time64("ns")),
        "took": pa.array([1_001, None], pa.duration("ns")),
    }
    file = io.BytesIO()
    parquet.write_table(pa.table(rows), file)

    found = read("m.parquet", file.getvalue(), key="sku")

    day = datetime(2023, 11, 14, 22, 13, 20, 123456, UTC).isoformat()
    assert found == [
        ("a.jpg", "1", {"price": 1.5, "weight": None, "day": day, "time": "00:00:00.000001", "took": "0:00:00.000001"}),
        ("b.jpg", "", {"price": None, "weight": 2.0, "day": None, "time": None, "took": None}),
    ]


DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": pa.array([10**8], pa.date32())}, "m.parquet cannot be read after row 0: date value out of range"),
        ({"x": pa.array([[1]], pa.list_(pa.timestamp("ns")))}, "m.parquet cannot be read after row 0: Nanosecond"),
        ({"x": [1], "X": [2]}, "there are several columns 'x' in m.parquet"),
    ],
)
def test_parquet_that_python_cannot_hold_is_told(columns: dict[str, pa.Array], told: str) -> None:
    file = io.BytesIO()
    table = pa.table({"path": ["a.jpg"], **columns})
    parquet.write_table(table.rename_columns([name.lower() for name in table.column_names]), file)

    with pytest.raises(SourceError) as raised:
        read("m.parquet", file.getvalue())

    assert told in str(raised.value)


def test_text_has_one_address_a_line() -> None:
    assert read("m.TXT", "a, b.jpg\n\nhttps://x/c.jpg\r\n") == [("a, b.jpg", "", {}), ("https://x/c.jpg", "", {})]


def test_columns_are_the_same_text_in_any_order() -> None:
    rows = [
        json.dumps(dict(pairs)) for pairs in ([("url", "a"), ("x", 1), ("y", 2)], [("y", 2), ("x", 1), ("url", "a")])
    ]

    first, second = read_manifest(io.BytesIO("\n".join(rows).encode()), "m.jsonl", column=None, key=None)

    assert first.columns == second.columns


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("m.csv", "image,sku\na.jpg\n", "m.csv, line 2: 1 values for 2 columns"),
        ("m.csv", "image,sku\na.jpg,1\n,2\n", "m.csv, line 3: 'image' is '', and no address"),
        ("m.csv", 'image,sku\na.jpg,"1\n', "m.csv, line 2: unexpected end of data"),
        ("m.csv", b"image,sku\na.jpg,1\n\xff.jpg,2\n", "m.csv, line 3: it is not UTF-8"),
        ("m.csv", "image,sku\na.jpg,1\0\n", "m.csv, line 2: there is text"),
        ("m.csv", "image,sku,sku\n", "there are several columns 'sku' in m.csv"),
        ("m.csv", f"image,sku\na.jpg,{'1' * 501}\n", "m.csv, line 2: 'sku' is '1"),
        ("m.csv", f"image,sku\na.jpg,{'椅' * 167}\n", "m.csv, line 2: 'sku' is '椅"),
        ("m.csv", "picture,sku\na.jpg,1\n", "the images is not clear; there are 'picture', 'sku'"),
        ("m.csv", "image,url,sku\n", "is not clear; there are 'image', 'url', 'sku'. Name it with --column"),
        ("m.csv", "image\na.jpg\n", "there is no column 'sku' in m.csv; there are 'image'"),
        ("m.csv", "", "it has no columns"),
        ("m.ndjson", '{"url": "a.jpg", "sku": 1}\n{"url"\n', "m.ndjson, line 2: it is not JSON"),
        ("m.jsonl", '{"url": "a.jpg", "sku": 1}\n["a.jpg"]\n', "m.jsonl, line 2: '[\"a.jpg\"]' is no object"),
        ("m.jsonl", '{"url": "a.jpg", "sku": 1}\n{"sku": 2}\n', "m.jsonl, line 2: 'url' is None, and no address"),
        ("m.jsonl", '{"url": "a.jpg", "sku": [1]}\n', "m.jsonl, line 1: 'sku' is '[1]', and no key"),
        ("m.jsonl", '{"url": "a.jpg", "sku": "\\ud800"}\n', "m.jsonl, line 1: there is text that is not UTF-8"),
        ("m.jsonl", f'{{"url": "a.jpg", "sku": 1, "x": {DEEP}}}\n', "m.jsonl, line 1: lists or objects"),
        ("m.parquet", "image,sku\n", "m.parquet cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(name: str, content: bytes | str, told: str) -> None:
    with pytest.raises(SourceError) as raised:
        read(name, content, key="sku")

    assert told in str(raised.value)


def test_column_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(SourceError, match=r"no column 'img' in m\.csv; there are 'image', 'a'"):
        read("m.csv", "image,a\n", column="img")
