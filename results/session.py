"""The connection to the SQL database: engines, transactions, and what to do when it does not answer."""

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from base.errors import DatabaseError, TransientError
from base.interrupts import interrupts
from base.settings import Settings

T = TypeVar("T")

# A batch's transaction takes milliseconds; whoever waits longer than this has met a stuck one.
_BUSY_SECONDS = 30
_ATTEMPTS = 6
# PostgreSQL: serialization failure, deadlock, lock time-out, too many connections, shutting down, starting up.
_RETRIED_SQLSTATES = ("40001", "40P01", "55P03", "53300", "57P01", "57P02", "57P03")


class database_time(FunctionElement[float]):  # noqa: N801 (reads as the SQL function that it is)
    """Seconds since 1970 by the clock of the database, the one clock that all workers share."""

    type = sa.Double()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _sqlite_time(element: object, compiler: object, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_time, "postgresql")
def _postgresql_time(element: object, compiler: object, **options: Any) -> str:
    # Not now(), which stands still in a transaction, however long it waited for a lock.
    return "extract(epoch from clock_timestamp())::double precision"


class Database:
    """One database: an engine for writing, and one whose transactions only read and see a single moment.

    Make one per process, after it was started: connections do not survive a fork.
    """

    def __init__(self, url: sa.URL, *, now: sa.ColumnElement[float] | None = None, only_reads: bool = False) -> None:
        """
        Args:
            url: a SQLite or PostgreSQL address.
            now: the SQL expression of the current time in seconds; tests replace it.
            only_reads: leave the very bytes of a SQLite file as they are.
        """
        self.url = url
        self.now: sa.ColumnElement[float] = database_time() if now is None else now
        self.is_sqlite = url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            # Whoever closes a file last writes what a process that was killed left in its log, unless it may not write.
            # Where there is no log, a reader that may not write would leave an empty one.
            if only_reads and Path(f"{url.database}-wal").exists():
                url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
            self.engine = _sqlite_engine(url, begin="BEGIN IMMEDIATE")
            self.reader = _sqlite_engine(url, begin="BEGIN")
        else:
            self.engine = _postgresql_engine(url)
            # Of the same pool. By default each statement of a transaction would see a moment of its own.
            self.reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction; the whole of it again where the database asks for that.

        So `work` must be repeatable: it may have been committed when the connection broke.

        Raises:
            TransientError: the database did not answer, or refused, several times over some seconds.
            DatabaseError: the database cannot be written until somebody mends it.
        """
        return self._transact(self.engine, work, interrupts.wait)

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction that sees a single moment; errors as for `write`."""
        return self._transact(self.reader, work, nullcontext)  # It may last, and locks nobody out where it is left.

    def rows(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """All that one question finds; errors as for `write`."""
        return self.read(lambda connection: connection.execute(statement).all())

    def _transact(
        self, engine: sa.Engine, work: Callable[[sa.Connection], T], around: Callable[[], AbstractContextManager[None]]
    ) -> T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with around(), engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                self.refuse(error)
                if not _is_transient(error):
                    raise
                if attempt == _ATTEMPTS:
                    raise TransientError(f"{self} does not answer: {_first_line(error)}") from error
                # Spread out, so that two transactions that collided do not meet again.
                time.sleep(random.uniform(0.5, 1.0) * 0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def refuse(self, error: DBAPIError) -> None:
        """Tell of an error that comes again until somebody mends what is behind it; of others there is nothing to tell.

        Raises:
            DatabaseError: it is one.
        """
        permanent = _permanent_fault(error)
        if permanent is not None:
            raise DatabaseError(f"{self}: {permanent}") from error

    def close(self) -> None:
        """Give back the connections."""
        self.engine.dispose()
        self.reader.dispose()

    @property
    def address(self) -> str:
        """As people write it, with the password hidden, and without options, which may hold it, too."""
        plain = self.url.set(drivername=self.url.get_backend_name(), query={})
        return plain.render_as_string(hide_password=True)

    def __str__(self) -> str:
        return f"database {self.address}"


def database_url(settings: Settings) -> sa.URL:
    """The address of the database that the settings name, or of the SQLite file below the home.

    Raises:
        DatabaseError: it is no address of a SQLite or PostgreSQL database.
    """
    if settings.database_url is None:
        return sa.URL.create("sqlite", database=str(settings.home_path / "tagmill.db"))
    return parse_database_url(settings.database_url.get_secret_value(), "TAGMILL_DATABASE_URL")


def parse_database_url(address: str, setting: str) -> sa.URL:
    """An address as SQLAlchemy needs it, with the driver that we ship.

    Raises:
        DatabaseError: it is no address of a SQLite or PostgreSQL database; `setting` is named.
    """
    try:
        url = sa.make_url(address)
        backend = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        url, backend = sa.URL.create("none"), ""
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url.set(database=str(Path(url.database).expanduser().absolute()))
    # An @ behind the first one, or behind a slash, is one of a password that was not escaped, whose rest we would tell.
    if backend in ("postgresql", "postgres") and "@" not in f"{url.host}{url.database}":
        return url.set(drivername="postgresql+psycopg")
    # The address is not quoted: what is wrong with it may be a password in the wrong place.
    raise DatabaseError(
        f"{setting} is not the address of a database; write postgresql://USER:PASSWORD@HOST/NAME or sqlite:////PATH."
    )


def _sqlite_engine(url: sa.URL, *, begin: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: object) -> None:
        # The driver would begin transactions by itself, late and without a lock: of two processes that read and then
        # write, one loses its write without an error.
        connection.isolation_level = None
        # By default half and a tenth of that. A batch of a large run changes hundreds of pages, most of indices: they
        # are to be in memory (KiB), and not to be copied out of the log (pages of 4 KiB) after every other batch.
        tuned = ("cache_size=-4096", "wal_autocheckpoint=10000")
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *tuned):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    return sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_size=2,
        connect_args={
            "connect_timeout": 5,
            "application_name": "tagmill",
            "options": "-c statement_timeout=60s -c lock_timeout=20s -c timezone=UTC",
            # The plan of a prepared statement is kept. One from when the tables were small reads all of their rows, and
            # does so with each batch of the next large run, until the server counts again.
            "prepare_threshold": None,
        },
    )


def _permanent_fault(error: DBAPIError) -> str | None:
    text = str(error.orig)
    if "readonly database" in text or "read-only" in text:
        return "it cannot be written; check its owner and permissions."
    if "file is not a database" in text or "malformed" in text:
        return "the file is not a SQLite database, or damaged; name another, or restore it from a backup."
    if "unable to open database file" in text:
        return "the file cannot be opened; check that its folder exists and may be written."
    if "disk is full" in text or getattr(error.orig, "sqlstate", None) == "53100":
        return "the disk is full; free some space, and the same command goes on."
    if getattr(error.orig, "sqlstate", None) == "57014":
        return "a statement took longer than a minute, and was ended; look what else the server does."
    # Refused while connecting, which carries no SQLSTATE.
    if "authentication failed" in text or ("does not exist" in text and "FATAL" in text):
        return f"{_first_line(error)}; correct the address, or make the role and the database."
    return None


def _is_transient(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate.startswith(("08", "53")) or sqlstate in _RETRIED_SQLSTATES
    if isinstance(error.orig, sqlite3.Error):
        return any(words in str(error.orig) for words in ("locked", "busy", "disk I/O error"))
    # PostgreSQL that could not be reached at all.
    return isinstance(error, OperationalError | InterfaceError)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
