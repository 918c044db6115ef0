"""Upgrade from nothing gives what `results/tables.py` says, and every downgrade works, on both databases."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from results.runs import RunRequest, open_run
from results.schema import known_schemas, migration_config, schema_version, upgrade
from results.session import Database, parse_database_url
from results.tables import VIEWS, metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    address = f"sqlite:///{tmp_path / 'tagmill.db'}"
    if request.param == "postgresql":
        address = request.getfixturevalue("postgres_database")
    database = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
    yield database
    database.close()


def test_upgrade_from_nothing_equals_tables(empty: Database) -> None:
    upgrade(empty)

    config = migration_config()
    config.attributes["connection"] = empty.engine
    command.check(config)  # Raises when the two differ.
    assert set(sa.inspect(empty.engine).get_view_names()) == set(VIEWS)
    assert set(metadata.tables) <= set(sa.inspect(empty.engine).get_table_names())


def test_each_downgrade_works_and_can_be_upgraded_again(empty: Database) -> None:
    upgrade(empty)
    config = migration_config()
    config.attributes["connection"] = empty.engine
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]

    for older in [*revisions[1:], None]:
        command.downgrade(config, older or "base")
        assert schema_version(empty) == older

    upgrade(empty)
    assert schema_version(empty) == revisions[0]


def test_downgrade_keeps_one_unfinished_run_of_a_source(empty: Database) -> None:
    upgrade(empty)
    request = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64)
    for other in ({}, {"everything": True}, {"exclude": ("thumbs",)}, {"retry_of": 1}):
        open_run(empty, replace(request, **other), holder="test/1")
    config = migration_config()
    config.attributes["connection"] = empty.engine

    command.downgrade(config, "0002")

    unfinished = sa.text("SELECT id FROM runs WHERE finished_at IS NULL")
    assert empty.read(lambda connection: connection.scalars(unfinished).all()) == [1]


def test_file_names_tell_the_order_of_the_migrations() -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()]

    assert known_schemas() == revisions[::-1]
