"""One statement over the rows of a batch.

SQLAlchemy has a way for that, which takes longer to prepare 320 rows than SQLite takes to store them, and PostgreSQL
executes its statement once for each. Here PostgreSQL gets one JSON document, which `json_to_recordset` makes rows of
(PostgreSQL's documentation, "JSON Processing Functions"), and SQLite's driver gets plain tuples.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

#: The values of a row as SQL expressions, by name.
Given = Mapping[str, sa.ColumnElement[Any]]

_DOCUMENT = "document"


class ManyRows:
    """A statement that is written once for both databases and executed once for all rows.

    Args:
        types: those of a row's values, by name and in their order.
        write: puts the statement together, for the dialect of that name; an INSERT is one from a SELECT, and nothing
            is bound but the row's values.
    """

    def __init__(
        self, types: Mapping[str, sa.types.TypeEngine[Any]], write: Callable[[str, Given], sa.Insert | sa.Update]
    ) -> None:
        self._types = types
        self._write = write
        # To put a statement together takes longer than to execute it.
        self._for_sqlite = functools.cache(self._compile_for_sqlite)
        self._for_postgresql = functools.cache(self._make_for_postgresql)

    def execute(self, connection: sa.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute it where there are rows, and tell how many it wrote.

        Args:
            rows: values as the drivers take them, so no members of an enum; in the order of the types.
        """
        if not rows:
            return 0
        if connection.dialect.name == "sqlite":
            statement, order = self._for_sqlite(connection.dialect)
            return connection.exec_driver_sql(
                statement, [tuple([row[place] for place in order]) for row in rows]
            ).rowcount
        records = [dict(zip(self._types, map(_as_json, row), strict=True)) for row in rows]
        # Characters as they are: a database in another encoding than UTF-8 does not know what stands for them.
        document = json.dumps(records, ensure_ascii=False)
        return connection.execute(self._for_postgresql(), {_DOCUMENT: document}).rowcount

    def _compile_for_sqlite(self, dialect: sa.Dialect) -> tuple[str, tuple[int, ...]]:
        """The statement, and for each of its question marks the place of the value in a row."""
        given = {name: sa.bindparam(_parameter(name), type_=kind) for name, kind in self._types.items()}
        compiled = self._write("sqlite", given).compile(dialect=dialect)
        places = {_parameter(name): place for place, name in enumerate(self._types)}
        return str(compiled), tuple(places[name] for name in compiled.positiontup or ())

    def _make_for_postgresql(self) -> sa.Insert | sa.Update:
        # In a subquery, so that the server does not parse it once to plan and once to execute.
        document = sa.select(sa.cast(sa.bindparam(_DOCUMENT, type_=sa.Text()), sa.JSON())).scalar_subquery()
        columns = [sa.column(name, kind) for name, kind in self._types.items()]
        rows = sa.func.json_to_recordset(document).table_valued(*columns).render_derived(name="rows", with_types=True)
        # A limit that is not known until then is taken for a tenth of 100 rows, and each of so few is looked up by its
        # key. For 100 the server may rather read all of a table that holds some thousands.
        no_limit = sa.select(sa.cast(sa.null(), sa.BigInteger())).scalar_subquery()
        given = sa.select(rows).limit(no_limit).subquery("given")
        return self._write("postgresql", dict(given.c.items()))


def _parameter(name: str) -> str:
    return f"given_{name}"  # SQLAlchemy keeps the names of columns for itself.


def _as_json(value: Any) -> Any:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else value  # As PostgreSQL writes bytes.
