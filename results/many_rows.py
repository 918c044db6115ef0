"""One statement over the rows of a batch.

SQLAlchemy has a way for that, which takes longer to prepare 320 rows than SQLite takes to store them, and PostgreSQL
executes its statement once for each. Here PostgreSQL gets one array for each column, which `unnest` makes rows of
(PostgreSQL's documentation, "Array Functions"), and SQLite's driver gets plain tuples.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

#: The values of a row as SQL expressions, by name.
Given = Mapping[str, sa.ColumnElement[Any]]


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
        columns = dict(zip(map(_parameter, self._types), map(list, zip(*rows, strict=True)), strict=True))
        return connection.execute(self._for_postgresql(), columns).rowcount

    def _compile_for_sqlite(self, dialect: sa.Dialect) -> tuple[str, tuple[int, ...]]:
        """The statement, and for each of its question marks the place of the value in a row."""
        given = {name: sa.bindparam(_parameter(name), type_=kind) for name, kind in self._types.items()}
        compiled = self._write("sqlite", given).compile(dialect=dialect)
        places = {_parameter(name): place for place, name in enumerate(self._types)}
        return str(compiled), tuple(places[name] for name in compiled.positiontup or ())

    def _make_for_postgresql(self) -> sa.Insert | sa.Update:
        arrays = [sa.bindparam(_parameter(name), type_=postgresql.ARRAY(kind)) for name, kind in self._types.items()]
        columns = [sa.column(name, kind) for name, kind in self._types.items()]
        # In a subquery, so that the server plans for few rows, and looks each up by its key. When it knows how many
        # there are it may compare each with all that wait in the table.
        hidden = [sa.select(array).scalar_subquery() for array in arrays]
        given = sa.func.unnest(*hidden).table_valued(*columns).render_derived(name="given")
        return self._write("postgresql", dict(given.c.items()))


def _parameter(name: str) -> str:
    return f"given_{name}"  # SQLAlchemy keeps the names of columns for itself.
