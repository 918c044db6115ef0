"""People's own SQL: one statement that can only read the views, by the database's own means."""

import contextlib
import secrets
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa

from base.errors import DatabaseError, SetupError
from base.settings import Settings
from results.session import Database, database_url, parse_database_url
from results.tables import VIEWS, metadata

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql


@dataclass(frozen=True)
class Rows:
    """What a statement answers."""

    columns: tuple[str, ...]
    rows: Iterator[Sequence[Any]]  #: read as they are asked for


@contextmanager
def read_only_rows(settings: Settings, statement: str) -> Iterator[Rows]:
    """Run one statement that may only read the views.

    Raises:
        SetupError: it is no such statement.
        DatabaseError: the database does not answer, or would let the statement do more than that.
    """
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        with _sqlite_rows(str(url.database), statement) as rows:
            yield rows
        return
    if settings.reader_url is None:
        raise SetupError(
            "TAGMILL_READER_URL is not set. Name a role that may only read the views: CREATE ROLE reader LOGIN "
            "PASSWORD '…', then 'tagmill db upgrade' with TAGMILL_READER_URL=postgresql://reader:…@HOST/NAME."
        )
    with _postgresql_rows(settings.reader_url.get_secret_value(), statement) as rows:
        yield rows


def grant_reader(db: Database, reader_address: str) -> str:
    """Let the role of an address read the views; returns the role's name.

    Raises:
        SetupError: the address names no role, or the database is not PostgreSQL.
        DatabaseError: there is no such role.
    """
    role = parse_database_url(reader_address, "TAGMILL_READER_URL").username
    if db.is_sqlite or not role:
        raise SetupError("TAGMILL_READER_URL is for PostgreSQL: postgresql://ROLE:PASSWORD@HOST/NAME. Unset it.")

    def work(connection: sa.Connection) -> None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(role)
        schema = connection.dialect.identifier_preparer.quote_identifier(
            connection.execute(sa.select(sa.func.current_schema())).scalar_one()
        )
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {quoted}")
        connection.exec_driver_sql(f"GRANT SELECT ON {', '.join(VIEWS)} TO {quoted}")

    try:
        db.write(work)
    except sa.exc.ProgrammingError as error:
        raise DatabaseError(
            f"{db}: {str(error.orig).strip()}. Make the role with CREATE ROLE … LOGIN PASSWORD '…', and run this as "
            "the owner of the views."
        ) from error
    return role


@contextmanager
def _sqlite_rows(path: str, statement: str) -> Iterator[Rows]:
    connection = sqlite3.connect(":memory:", uri=True, timeout=30)
    try:
        _attach_views(connection, path)
        connection.set_authorizer(_authorize)
        # Lets Ctrl-C end a statement that runs for long: Python sees signals between its own steps only.
        connection.set_progress_handler(lambda: 0, 100_000)
        cursor = connection.execute(statement)
        if cursor.description is None:
            raise SetupError(f"not a query: {statement!r}. Write a SELECT from {', '.join(VIEWS)}.")
        yield Rows(tuple(column[0] for column in cursor.description), cursor)
    except (sqlite3.Error, sqlite3.Warning) as error:
        if str(error) == "interrupted":
            raise KeyboardInterrupt from error
        message = str(error).removesuffix(".")
        raise SetupError(f"{message}. 'tagmill sql' takes one SELECT from {', '.join(VIEWS)}.") from error
    finally:
        connection.close()


def _attach_views(connection: sqlite3.Connection, path: str) -> None:
    """Make a connection in which a statement can name the views of a database, and nothing else of it.

    The authorizer could not tell: a query may name an intermediate table like a view, and what it is asked about
    count(*) over a view is what it is asked about count(*) over the view's tables. So the database is attached by a
    name that nobody can know, and each of its own names is covered by a temporary view, which SQLite finds first.
    """
    hidden = f"tagmill_{secrets.token_hex(16)}"
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"ATTACH ? AS {hidden}", (f"file:{quote(path)}?mode=ro",))
    statement = f"SELECT name FROM {hidden}.sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite%'"
    for (name,) in connection.execute(statement).fetchall():
        schema = hidden if name in VIEWS else "main"  # Which is empty: there is no such table.
        connection.execute(f'CREATE TEMP VIEW "{name}" AS SELECT * FROM {schema}."{name}"')
    for function in ("json_each", "json_tree"):  # Made on first use, which the authorizer would refuse.
        connection.execute(f"SELECT 1 FROM {function}('[]')").close()


def _authorize(action: int, first: str | None, second: str | None, schema: str | None, view: str | None) -> int:
    """SQLite asks this for whatever a statement would do: see https://www.sqlite.org/c3ref/set_authorizer.html."""
    allowed = (
        action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        # Both can make the process run code of somebody else's.
        or (action == sqlite3.SQLITE_FUNCTION and second not in ("load_extension", "fts3_tokenizer"))
        or (action == sqlite3.SQLITE_READ and not str(first).lower().startswith("sqlite_"))
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


@contextmanager
def _postgresql_rows(address: str, statement: str) -> Iterator[Rows]:
    import psycopg  # SQLite has no need of it.

    url = parse_database_url(address, "TAGMILL_READER_URL")
    # Not the address as text: libpq would read a `+` in its options as a plus.
    _, options = url.get_dialect()().create_connect_args(url)
    try:
        connection = psycopg.connect(**{**options, "connect_timeout": 5})
    except psycopg.OperationalError as error:
        raise DatabaseError(f"TAGMILL_READER_URL: {str(error).strip()}. Correct it, or make the role.") from error
    with connection:
        connection.read_only = True
        connection.execute("SET TIME ZONE 'UTC'")
        _refuse_more_than_reading(connection)
        try:
            # Streaming sends a statement in the protocol that takes only one. A stream that is not read to its end
            # keeps the connection's lock until it is closed, and to end the transaction would wait for that.
            with connection.cursor() as cursor, contextlib.closing(_stream(cursor, statement)) as stream:
                first = next(stream, None)
                yield Rows(_columns(cursor, statement), _with_first(first, stream))
        except psycopg.Error as error:
            if error.sqlstate is None and not connection.broken:  # The driver's own words, of what has no rows.
                raise SetupError(f"not a query: {statement!r}. Write a SELECT from {', '.join(VIEWS)}.") from error
            message = str(error).strip().partition("\n")[0]
            raise SetupError(f"{message}. 'tagmill sql' takes one SELECT from {', '.join(VIEWS)}.") from error


def _stream(cursor: "psycopg.Cursor[tuple[Any, ...]]", statement: str) -> Generator[Sequence[Any], None, None]:
    yield from cursor.stream(statement)


def _columns(cursor: "psycopg.Cursor[tuple[Any, ...]]", statement: str) -> tuple[str, ...]:
    if cursor.description is not None:
        return tuple(column.name for column in cursor.description)
    # An answer without rows: psycopg has the columns from the first row, so the server is asked.
    server, encoding = cursor.connection.pgconn, cursor.connection.info.encoding
    server.prepare(b"", statement.encode(encoding))
    described = server.describe_prepared(b"")
    return tuple((described.fname(index) or b"").decode(encoding) for index in range(described.nfields))


def _with_first(first: Sequence[Any] | None, rest: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    if first is not None:
        yield first
        yield from rest


def _refuse_more_than_reading(connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
    """Look at every role that this one may become as well: `SELECT set_config('role', …)` only reads.

    Raises:
        DatabaseError: the role is a superuser, or may touch a table.
    """
    from psycopg import sql

    role, is_superuser = _one(
        connection,
        sql.SQL("SELECT session_user, bool_or(rolsuper) FROM pg_roles WHERE pg_has_role(session_user, oid, 'MEMBER')"),
    )
    if is_superuser:
        raise DatabaseError(
            f"TAGMILL_READER_URL: the role {role!r} is a superuser. Name one that may only read the views."
        )
    (reachable,) = _one(
        connection,
        sql.SQL(
            "SELECT string_agg(DISTINCT relname::text, ', ' ORDER BY relname::text) FROM pg_class, pg_roles "
            "WHERE relkind IN ('r', 'p') AND relname = ANY({tables}) AND relnamespace IN "
            "(SELECT relnamespace FROM pg_class WHERE relkind = 'v' AND relname = ANY({views})) "
            "AND pg_has_role(session_user, pg_roles.oid, 'MEMBER') "
            "AND (has_table_privilege(pg_roles.oid, pg_class.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') "
            "OR has_any_column_privilege(pg_roles.oid, pg_class.oid, 'SELECT, INSERT, UPDATE'))"
        ).format(tables=sql.Literal(list(metadata.tables)), views=sql.Literal(list(VIEWS))),
    )
    if reachable:
        raise DatabaseError(
            f"TAGMILL_READER_URL: the role {role!r} may reach the tables {reachable}. Name one that may only read the "
            "views, as 'tagmill db upgrade' sets it up."
        )


def _one(connection: "psycopg.Connection[tuple[Any, ...]]", query: "sql.SQL | sql.Composed") -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
