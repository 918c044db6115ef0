"""Databases and brokers for the integration tests: SQLite and PostgreSQL alike."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from results.schema import upgrade
from results.session import Database, parse_database_url
from tests.clock import Clock
from tests.conftest import new_database


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with our tables, to be copied: the migrations take ten times as long."""
    path = tmp_path_factory.mktemp("migrated") / "tagmill.db"
    _upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: str) -> Iterator[str]:
    """The name of a PostgreSQL database with our tables, likewise."""
    with new_database(postgres) as address:
        _upgrade(address)
        yield address.rpartition("/")[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database on either server: empty, or with our tables where the test takes `db`."""
    is_migrated = "db" in request.fixturenames
    if request.param == "sqlite":
        path = tmp_path / "tagmill.db"
        if is_migrated:
            shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    template = request.getfixturevalue("migrated_postgres") if is_migrated else "template1"
    with new_database(request.getfixturevalue("postgres"), template) as address:
        yield address


@pytest.fixture
def clock() -> Clock:
    """The time that the database tells; it moves when a test says so."""
    return Clock()


@pytest.fixture
def db(database_address: str, clock: Clock) -> Iterator[Database]:
    """A database with our tables."""
    database = Database(parse_database_url(database_address, "TAGMILL_DATABASE_URL"), now=clock.expression)
    if database.is_sqlite:
        for engine in (database.engine, database.reader):
            sa.event.listen(engine, "connect", _without_waiting_for_the_disk)
    yield database
    database.close()


def _upgrade(address: str) -> None:
    database = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
    upgrade(database)
    database.close()


def _without_waiting_for_the_disk(connection: Any, record: object) -> None:
    """Nothing here outlives the tests; what a power cut leaves is SQLite's own affair."""
    connection.execute("PRAGMA synchronous=OFF").close()
