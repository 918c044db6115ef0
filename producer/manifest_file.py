"""What a manifest says: CSV, JSON Lines, Parquet or plain addresses → rows, read as they are asked for."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO, TypeVar

from base.errors import SourceError

#: What makes a file a manifest, and not an image.
MANIFEST_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet", ".txt")

_GUESSED = ("image", "image_uri", "uri", "url", "path")
_DELIMITERS = ",;\t"
_ROWS_PER_GROUP = 5000
# In bytes: an index of PostgreSQL takes some 2,700 for a key with the manifest's URI.
_LONGEST_KEY = 500

T = TypeVar("T")
_Record = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """What one line says of one image."""

    line: int  #: counting from 1; in Parquet, of the row
    address: str  #: as it is written
    key: str  #: of the product; empty where there is none
    columns: str  #: the others by name, as JSON that is the same for the same values


def read_manifest(file: BinaryIO, name: str, *, column: str | None, key: str | None) -> Iterator[ManifestRow]:
    """Read a manifest from its beginning.

    Args:
        name: what the file is named, for people; its suffix tells the format.
        column: the column of the addresses; None for the one whose name says it.
        key: the column of the products' keys, if any.

    Raises:
        SourceError: it cannot be read as what its name says, or lacks a column; the message names the line.
    """
    if name.lower().endswith(".txt"):
        for line, text in _lines(file, name):
            if text.strip():
                yield ManifestRow(line=line, address=text.strip(), key="", columns="{}")
        return
    names, records = _open(file, name)
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise SourceError(f"there are several columns {twice[0]!r} in {name}. Give each a name of its own.")
    image = _image_column(name, names, column)
    if key is not None and key not in names:
        raise SourceError(f"there is no column {key!r} in {name}; {_there_are(names)} Name one of them with --key.")
    for line, record in records:
        yield _row(name, line, record, image, key)


def columns_to_json(columns: Mapping[str, Any]) -> str:
    """The same text for the same columns."""
    return json.dumps(columns, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _row(name: str, line: int, record: Mapping[str, Any], image: str, key: str | None) -> ManifestRow:
    address = record.get(image)
    if not isinstance(address, str) or not address.strip():
        raise SourceError(f"{_at(name, line)}: {image!r} is {address!r}, and no address. Correct it, or drop the line.")
    try:
        columns = {other: _plain(value) for other, value in record.items() if other not in (image, key)}
        text = columns_to_json(columns)
    except RecursionError as error:
        raise SourceError(f"{_at(name, line)}: lists or objects in each other are too deep. Flatten them.") from error
    product = "" if key is None else _key(name, line, key, record.get(key))
    if "\0" in address + product or "\\u0000" in text or not _is_text(text + address + product):
        raise SourceError(f"{_at(name, line)}: there is text that is not UTF-8, or a NUL in it. Correct it.")
    return ManifestRow(line=line, address=address.strip(), key=product, columns=text)


def _key(name: str, line: int, column: str, value: Any) -> str:
    """A product's key as text, whatever type a file gave it; empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():  # What whole numbers become in a column with holes.
        value = int(value)
    if not isinstance(value, str | int | Decimal) or isinstance(value, bool) or _bytes(str(value)) > _LONGEST_KEY:
        raise SourceError(
            f"{_at(name, line)}: {column!r} is {str(value)[:50]!r}, and no key of a product. Write a text of up to "
            f"{_LONGEST_KEY} bytes, or a whole number."
        )
    return str(value)


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def _open(file: BinaryIO, name: str) -> tuple[Sequence[str], Iterator[_Record]]:
    """The columns, and the rows by column."""
    match name.lower().rpartition(".")[2]:
        case "csv":
            return _open_csv(file, name)
        case "parquet":
            return _open_parquet(file, name)
        case _:
            return _open_json_lines(file, name)


def _open_csv(file: BinaryIO, name: str) -> tuple[Sequence[str], Iterator[_Record]]:
    lines = (text for _, text in _lines(file, name))
    header = next(lines, "")
    reader = csv.reader(_with_first(header, lines), delimiter=max(_DELIMITERS, key=header.count), strict=True)
    names = next(_csv_rows(reader, name), (0, []))[1]

    def records() -> Iterator[_Record]:
        for line, cells in _csv_rows(reader, name):
            if len(cells) != len(names):
                raise SourceError(
                    f"{_at(name, line)}: {len(cells)} values for {len(names)} columns. Correct it; a value that holds "
                    "the delimiter stands in double quotes."
                )
            yield line, dict(zip(names, cells, strict=True))

    return names, records()


def _csv_rows(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(f"{_at(name, reader.line_num)}: {error}. Correct it; it has to be CSV.") from error
        if cells:
            yield reader.line_num, cells


def _open_json_lines(file: BinaryIO, name: str) -> tuple[Sequence[str], Iterator[_Record]]:
    """The columns are those of the first line."""
    records = _json_records(file, name)
    first = next(records, None)
    return (list(first[1]), _with_first(first, records)) if first is not None else ([], iter(()))


def _json_records(file: BinaryIO, name: str) -> Iterator[_Record]:
    for line, text in _lines(file, name):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{_at(name, line)}: it is not JSON: {error}. Write one object a line.") from error
        if not isinstance(record, dict):
            raise SourceError(f"{_at(name, line)}: {text.strip()[:50]!r} is no object. Write one object a line.")
        yield line, record


def _open_parquet(file: BinaryIO, name: str) -> tuple[Sequence[str], Iterator[_Record]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(
            f"{name} cannot be read: Parquet needs pyarrow. Install it with: pip install 'tagmill[parquet]'."
        ) from error
    try:
        table = parquet.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name} cannot be read: {error}. Name a Parquet file.") from error

    def records() -> Iterator[_Record]:
        line = 0
        try:
            for group in table.iter_batches(_ROWS_PER_GROUP):
                for record in pa.Table.from_batches([group]).cast(_readable(group.schema), safe=False).to_pylist():
                    line += 1
                    yield line, record
        # Of Python, too: a year after 9999, text that is not UTF-8, a time zone or two fields of one name.
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise SourceError(
                f"{name} cannot be read after row {line}: {str(error).rstrip('.')}. Write it anew, with text in the "
                "place of what cannot be read."
            ) from error

    return table.schema_arrow.names, records()


def _readable(schema: Any) -> Any:
    """The same with times to the microsecond, which is as far as Python's go."""
    import pyarrow as pa

    for position, column in enumerate(schema):
        if getattr(column.type, "unit", None) == "ns":
            if pa.types.is_timestamp(column.type):
                kind = pa.timestamp("us", column.type.tz)
            else:
                kind = pa.time64("us") if pa.types.is_time(column.type) else pa.duration("us")
            schema = schema.set(position, column.with_type(kind))
    return schema


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{_at(name, number)}: it is not UTF-8. Save the file as UTF-8.") from error


def _image_column(name: str, names: Sequence[str], wanted: str | None) -> str:
    if wanted is not None and wanted in names:
        return wanted
    if wanted is not None:
        raise SourceError(f"there is no column {wanted!r} in {name}; {_there_are(names)} Name one with --column.")
    found = [one for one in names if one in _GUESSED]
    if len(found) != 1:
        raise SourceError(
            f"which column of {name} has the images is not clear; {_there_are(names)} Name it with --column."
        )
    return found[0]


def _there_are(names: Sequence[str]) -> str:
    return f"there are {', '.join(map(repr, names))}." if names else "it has no columns."


def _plain(value: Any) -> Any:
    """A value as JSON has it, and as it comes back from either database."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # PostgreSQL writes out large numbers and knows no negative zero.
        return int(value) if abs(value) >= 1e16 or value == 0 else value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_first(first: T, rest: Iterable[T]) -> Iterator[T]:
    yield first
    yield from rest


def _at(name: str, line: int) -> str:
    return f"{name}, {'row' if name.lower().endswith('.parquet') else 'line'} {line}"
