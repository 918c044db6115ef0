"""Transactions that are repeated, refused, or lose nothing."""

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from base.errors import DatabaseError, TransientError
from base.interrupts import Interrupts
from base.settings import Settings
from results import session
from results.session import Database, database_url, parse_database_url
from tests.processes import run_together
from tests.servers import free_port


def table_of(db: Database) -> None:
    db.write(lambda connection: connection.execute(sa.text("CREATE TABLE counter (value INTEGER)")))
    db.write(lambda connection: connection.execute(sa.text("INSERT INTO counter VALUES (0)")))


def value(db: Database) -> Any:
    return db.read(lambda connection: connection.scalar(sa.text("SELECT value FROM counter")))


def add_one(connection: sa.Connection) -> None:
    """Reads, then writes, as an update of our own may."""
    locked = "" if connection.dialect.name == "sqlite" else " FOR UPDATE"
    found = connection.scalar(sa.text(f"SELECT value FROM counter{locked}")) or 0
    connection.execute(sa.text("UPDATE counter SET value = :value"), {"value": found + 1})


class Fault:
    """Work that the database refuses a few times."""

    def __init__(self, error: sa.exc.DBAPIError, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self, connection: sa.Connection) -> str:
        add_one(connection)
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


def postgres_error(cause: type[psycopg.Error]) -> sa.exc.DBAPIError:
    return sa.exc.OperationalError("statement", {}, cause("refused"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between tries are seconds."""
    monkeypatch.setattr(session, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.mark.parametrize(
    "cause",
    [
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.AdminShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.errors.TooManyConnections,
        psycopg.errors.ConnectionFailure,
    ],
)
def test_refused_transaction_is_repeated_as_a_whole(db: Database, cause: type[psycopg.Error]) -> None:
    table_of(db)

    assert db.write(Fault(postgres_error(cause), times=3)) == "done"
    assert value(db) == 1


def test_database_that_keeps_refusing_is_transient(db: Database) -> None:
    table_of(db)
    work = Fault(postgres_error(psycopg.errors.DeadlockDetected), times=1000)

    with pytest.raises(TransientError, match="does not answer: refused"):
        db.write(work)

    assert (work.calls, value(db)) == (6, 0)


def test_mistake_of_ours_is_not_repeated(db: Database) -> None:
    table_of(db)
    calls: list[int] = []

    def work(connection: sa.Connection) -> None:
        add_one(connection)
        calls.append(1)
        connection.execute(sa.text("SELECT nonsense FROM counter"))

    with pytest.raises(sa.exc.DBAPIError, match="nonsense"):
        db.write(work)
    assert (len(calls), value(db)) == (1, 0)


def test_error_of_the_work_leaves_nothing_written(db: Database) -> None:
    table_of(db)

    def work(connection: sa.Connection) -> None:
        add_one(connection)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        db.write(work)
    assert value(db) == 0


def test_signal_waits_for_the_end_of_a_transaction(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = Interrupts()
    monkeypatch.setattr(session, "interrupts", interrupts)
    before = signal.signal(signal.SIGINT, interrupts.handle)

    table_of(db)

    def work(connection: sa.Connection) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        add_one(connection)

    try:
        with pytest.raises(KeyboardInterrupt):
            db.write(work)
    finally:
        signal.signal(signal.SIGINT, before)

    assert value(db) == 1


def test_server_that_is_not_there_is_transient() -> None:
    db = Database(parse_database_url(f"postgresql://u:secret@127.0.0.1:{free_port()}/x", "TAGMILL_DATABASE_URL"))

    with pytest.raises(TransientError, match="does not answer") as raised:
        db.read(lambda connection: None)

    assert "secret" not in str(raised.value)


def test_connection_that_was_cut_is_made_again(postgres_database: str) -> None:
    db = Database(parse_database_url(postgres_database, "TAGMILL_DATABASE_URL"))
    table_of(db)
    cut: list[int] = []

    def work(connection: sa.Connection) -> None:
        add_one(connection)
        if not cut:
            cut.append(connection.scalar(sa.text("SELECT pg_backend_pid()")) or 0)
            with psycopg.connect(postgres_database, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", cut)
        connection.scalar(sa.text("SELECT 1"))

    db.write(work)

    assert value(db) == 1
    db.close()


def test_read_modify_write_of_several_processes_loses_nothing(db: Database, database_address: str) -> None:
    table_of(db)
    code = (
        "import sys; from tests.integration.results.test_session import add_one;"
        "from results.session import Database, parse_database_url;"
        "db = Database(parse_database_url(sys.argv[1], 'x')); sys.stdin.read(1);"
        "[db.write(add_one) for _ in range(40)]; db.close()"
    )

    run_together(code, database_address)

    assert value(db) == 120


def test_sqlite_writer_never_has_to_begin_again(tmp_path: Path) -> None:
    url = sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db"))
    db, other = Database(url), Database(url)
    table_of(db)
    rival = threading.Thread(target=other.write, args=(add_one,))
    calls: list[int] = []

    def work(connection: sa.Connection) -> None:
        calls.append(connection.scalar(sa.text("SELECT value FROM counter")) or 0)
        if len(calls) == 1:
            rival.start()
            rival.join(0.2)  # Waits for us, because we began to write when we began to read.
        add_one(connection)

    db.write(work)
    rival.join()

    assert (len(calls), value(db)) == (1, 2)
    db.close()
    other.close()


def test_sqlite_reader_does_not_wait_for_the_writer(tmp_path: Path) -> None:
    db = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")))
    table_of(db)

    def write(connection: sa.Connection) -> Any:
        add_one(connection)
        return value(db)  # Of the moment before.

    assert db.write(write) == 0
    assert value(db) == 1
    db.close()


def test_read_only_sqlite_file_is_told(tmp_path: Path) -> None:
    db = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")))
    table_of(db)
    db.close()
    url = sa.make_url(f"sqlite:///file:{tmp_path / 'tagmill.db'}?mode=ro&uri=true")

    read_only = Database(url)

    with pytest.raises(DatabaseError, match="it cannot be written; check its owner and permissions"):
        read_only.write(add_one)
    read_only.close()


def test_read_only_postgresql_database_is_told(postgres_database: str) -> None:
    db = Database(parse_database_url(postgres_database, "TAGMILL_DATABASE_URL"))
    table_of(db)

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        add_one(connection)

    with pytest.raises(DatabaseError, match="it cannot be written"):
        db.write(work)
    db.close()


def test_time_is_that_of_the_database(database_address: str) -> None:
    db = Database(parse_database_url(database_address, "TAGMILL_DATABASE_URL"))

    first, second = [db.read(lambda connection: connection.scalar(sa.select(db.now))) for _ in range(2)]

    assert first is not None
    assert second is not None
    assert 1_700_000_000 < first <= second
    db.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("sqlite:////data/tagmill.db", "sqlite:////data/tagmill.db"),
        ("postgresql://u:p@db.example/tagmill", "postgresql+psycopg://u:p@db.example/tagmill"),
        ("postgres://u@db.example/tagmill", "postgresql+psycopg://u@db.example/tagmill"),  # As some hosters write it.
        ("postgresql+psycopg2://u@h/n", "postgresql+psycopg://u@h/n"),
        ("postgresql://u:p%40%2F@h:5433/n?sslmode=require", "postgresql+psycopg://u:p%40%2F@h:5433/n?sslmode=require"),
    ],
)
def test_address_gets_the_driver_that_we_ship(address: str, expected: str) -> None:
    assert parse_database_url(address, "TAGMILL_DATABASE_URL").render_as_string(hide_password=False) == expected


def test_relative_sqlite_address_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert parse_database_url("sqlite:///here.db", "X").database == str(tmp_path / "here.db")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "photos.db",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://u:secret@h/n",
        "postgresql://u:secret@h:port/n",
        "postgresql://u:pass@secret@h/n",
        "postgresql://u:pass@secret/word@h/n",
        "://",
    ],
)
def test_address_that_is_none_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(DatabaseError, match="TAGMILL_READER_URL is not the address of a database") as raised:
        parse_database_url(address, "TAGMILL_READER_URL")

    assert "secret" not in str(raised.value)


def test_database_is_below_the_home_unless_named(tmp_path: Path) -> None:
    assert database_url(Settings(home=tmp_path)).database == str(tmp_path / "tagmill.db")


def test_reading_sees_one_moment(db: Database) -> None:
    table_of(db)

    def look_twice(connection: sa.Connection) -> tuple[Any, Any]:
        query = sa.text("SELECT value FROM counter")
        before = connection.scalar(query)
        db.write(add_one)
        return before, connection.scalar(query)

    assert db.read(look_twice) == (0, 0)
    assert value(db) == 1
