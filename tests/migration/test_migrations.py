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
from tests.integration.results.test_reader import new_role

REQUEST = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64)
FIRST_VIEWS = ("current_labels", "predictions_top_k", "run_summary", "failures_by_image")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    address = f"sqlite:///{tmp_path / 'tagmill.db'}"
    if request.param == "postgresql":
        address = request.getfixturevalue("postgres_database")
    database = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
    yield database
    database.close()


def execute(db: Database, statement: str) -> None:
    db.write(lambda connection: connection.execute(sa.text(statement)))


def needs_review(db: Database) -> list[bool]:
    """Of every row of `current_labels`."""
    rows = sa.text("SELECT needs_review FROM current_labels ORDER BY image_uri")
    return [bool(value) for value in db.read(lambda connection: connection.scalars(rows).all())]


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
    for other in ({}, {"everything": True}, {"exclude": ("thumbs",)}, {"retry_of": 1}):
        open_run(empty, replace(REQUEST, **other), holder="test/1")
    config = migration_config()
    config.attributes["connection"] = empty.engine

    command.downgrade(config, "0002")

    unfinished = sa.text("SELECT id FROM runs WHERE finished_at IS NULL")
    assert empty.read(lambda connection: connection.scalars(unfinished).all()) == [1]


def test_answers_survive_the_column_that_they_have_not(empty: Database) -> None:
    """A worker of the version before goes on, and what it writes needs no review."""
    upgrade(empty)
    config = migration_config()
    config.attributes["connection"] = empty.engine
    run_id = open_run(empty, REQUEST, holder="test/1").run_id
    command.downgrade(config, "0003")
    execute(empty, "INSERT INTO images (id, uri, fingerprint) VALUES (1, 'file:///a', '1'), (2, 'file:///b', '1')")
    write = f"""
        INSERT INTO predictions
        (image_id, model_version_id, fingerprint, rank, label, confidence, run_id, classified_at)
        VALUES ({{image_id}}, 1, '1', 1, 'cat', 0.5, {run_id}, 0)
    """
    execute(empty, write.format(image_id=1))

    upgrade(empty)
    execute(empty, write.format(image_id=2))
    assert needs_review(empty) == [False, False]

    execute(empty, "UPDATE predictions SET needs_review = true WHERE image_id = 2")
    assert needs_review(empty) == [False, True]

    command.downgrade(config, "0003")
    assert needs_review(empty) == [False, False]


def test_role_that_reads_the_views_still_may_after_an_upgrade(postgres_database: str) -> None:
    db = Database(parse_database_url(postgres_database, "TAGMILL_DATABASE_URL"))
    upgrade(db)
    config = migration_config()
    config.attributes["connection"] = db.engine
    with new_role(db) as role:
        command.downgrade(config, "0003")
        for view in FIRST_VIEWS:
            execute(db, f'GRANT SELECT ON {view} TO "{role}"')

        upgrade(db)

        may_read = sa.select(*(sa.func.has_table_privilege(role, view, "SELECT") for view in FIRST_VIEWS))
        assert db.read(lambda connection: set(connection.execute(may_read).one())) == {True}
    db.close()


def test_file_names_tell_the_order_of_the_migrations() -> None:
    revisions = [script.revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()]

    assert known_schemas() == revisions[::-1]
