"""Rows sorted by URI in a file that nobody else sees, however many there are."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Pages that are kept in memory; what comes in no order at all is written back and forth less.
_CACHE_KIBIBYTES = 16 * 1024


class Row(NamedTuple):
    """What is sorted: by `uri`, then by `key`; of two that have both in common the last one counts."""

    uri: str
    key: str
    text: str
    number: int


class Sorted:
    """A sorted file, as long as it is not closed."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        self._connection.execute(
            "CREATE TABLE sorted (uri TEXT, key TEXT, text TEXT, number INTEGER, PRIMARY KEY (uri, key)) WITHOUT ROWID"
        )
        self._connection.execute("BEGIN")

    def add(self, rows: Iterable[Row]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO sorted VALUES (?, ?, ?, ?)", rows)

    def read(self, after: str | None = None) -> Iterator[Row]:
        """The rows in order, beginning after a URI."""
        rows = self._connection.execute("SELECT * FROM sorted WHERE uri > ? ORDER BY uri, key", (after or "",))
        yield from map(Row._make, rows)

    def close(self) -> None:
        self._connection.close()
