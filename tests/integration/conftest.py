"""Databases and brokers for the integration tests: SQLite and PostgreSQL alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from results.schema import upgrade
from results.session import Database
from tests.clock import Clock


@pytest.fixture(params=["sqlite", "postgresql"])
def database_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database on either server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tagmill.db'}"
    address: str = request.getfixturevalue("postgres_database")
    return address


@pytest.fixture
def clock() -> Clock:
    """The time that the database tells; it moves when a test says so."""
    return Clock()


@pytest.fixture
def db(database_address: str, clock: Clock) -> Iterator[Database]:
    """A database with our tables."""
    url = sa.make_url(database_address)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    database = Database(url, now=clock.expression)
    upgrade(database)
    yield database
    database.close()
