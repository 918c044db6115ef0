"""Only a database of ours, with the schema that we know, is opened."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from base.errors import DatabaseError
from base.settings import Settings
from results.schema import make_database, migration_config, newest_schema, open_database, schema_version, upgrade
from results.session import Database, parse_database_url
from tests.clock import Clock
from tests.integration.results.test_ledger import record
from tests.processes import run_together


def settings_of(address: str) -> Settings:
    return Settings(database_url=address)


def execute(address: str, *statements: str) -> None:
    database = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
    for statement in statements:
        database.write(lambda connection, statement=statement: connection.execute(sa.text(statement)))  # type: ignore[misc]
    database.close()


def downgrade(address: str) -> None:
    """To an older schema, with the data that is there."""
    database = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
    config = migration_config()
    config.attributes["connection"] = database.engine
    command.downgrade(config, "0002")
    database.close()


def refusal(address: str, *, create: bool = False) -> str:
    with pytest.raises(DatabaseError) as raised:
        open_database(settings_of(address), create=create)
    return str(raised.value)


def schema_of(address: str) -> str | None:
    """Of a database that opens."""
    database = open_database(settings_of(address))
    found = schema_version(database)
    database.close()
    return found


@pytest.fixture
def made(database_address: str) -> str:
    """The address of a database with our tables."""
    database, _, _ = make_database(settings_of(database_address))
    database.close()
    return database_address


def test_database_that_was_made_can_be_opened(made: str) -> None:
    assert schema_of(made) == newest_schema()


def test_empty_database_is_refused(database_address: str) -> None:
    if database_address.startswith("sqlite"):
        execute(database_address, "SELECT 1")  # Makes the file.

    assert "has schema none" in refusal(database_address)
    assert "Run 'tagmill db upgrade'" in refusal(database_address)


def test_missing_sqlite_file_is_refused_and_not_made(tmp_path: Path) -> None:
    assert "there is no database at" in refusal(f"sqlite:///{tmp_path / 'folder' / 'new.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"home": "new home"}, {"database_url": "sqlite:///new.db"}])
def test_missing_sqlite_file_is_made_when_asked(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    database = open_database(Settings(**settings), create=True)

    assert schema_version(database) == newest_schema()
    database.close()


def test_file_in_the_place_of_the_home_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DatabaseError, match="cannot be made"):
        open_database(Settings(home=tmp_path / "file" / "home"), create=True)


def test_database_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "there is no folder" in refusal(f"sqlite:///{tmp_path / 'disk' / 'new.db'}", create=True)
    assert not (tmp_path / "disk").exists()


def test_missing_postgresql_database_is_told(postgres: str) -> None:
    address = postgres.rpartition("/")[0] + "/nowhere_at_all"

    assert "does not exist; correct the address, or make the role and the database." in refusal(address)


def test_wrong_postgresql_password_is_told_and_not_shown(postgres: str) -> None:
    url = sa.make_url(postgres).set(password="not-the-password")

    message = refusal(url.render_as_string(hide_password=False))

    assert "password authentication failed" in message
    assert "not-the-password" not in message


@pytest.mark.parametrize("create", [False, True])
def test_database_of_somebody_else_is_left_alone(database_address: str, create: bool) -> None:
    execute(database_address, "CREATE TABLE customers (id INTEGER)")

    assert "is not tagmill's: it holds customers" in refusal(database_address, create=create)
    with pytest.raises(DatabaseError, match="is not tagmill's"):
        make_database(settings_of(database_address))


def test_newer_database_is_left_alone(made: str) -> None:
    execute(made, "UPDATE tagmill_schema SET version_num = '9999'")

    assert "has schema '9999', which this tagmill does not know: a newer one made it" in refusal(made, create=True)
    with pytest.raises(DatabaseError, match="9999"):
        make_database(settings_of(made))


def test_older_database_is_brought_up_to_date_with_its_data(db: Database, database_address: str) -> None:
    run_id = record(db, images=2)
    downgrade(database_address)

    assert "has schema 0002" in refusal(database_address)
    database, before, after = make_database(settings_of(database_address))

    assert (before, after) == ("0002", newest_schema())
    rows = database.read(lambda connection: connection.execute(sa.text("SELECT run_id FROM run_summary")).all())
    assert [row.run_id for row in rows] == [run_id]
    database.close()


def test_older_sqlite_file_is_upgraded_when_opened_for_a_run(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'tagmill.db'}"
    make_database(settings_of(address))[0].close()
    downgrade(address)

    database = open_database(settings_of(address), create=True)

    assert schema_version(database) == newest_schema()
    database.close()


def test_upgrade_of_a_current_database_changes_nothing(made: str) -> None:
    database, before, after = make_database(settings_of(made))

    assert before == after == newest_schema()
    database.close()


def test_processes_that_upgrade_together_make_it_once(database_address: str) -> None:
    code = (
        "import sys; from base.settings import Settings; from results.schema import make_database;"
        "sys.stdin.read(1); make_database(Settings(database_url=sys.argv[1]))[0].close()"
    )

    run_together(code, database_address)

    assert schema_of(database_address) == newest_schema()


def test_other_alembic_table_does_not_confuse(made: str) -> None:
    """Another application's version table, in the same PostgreSQL schema, is not ours."""
    execute(made, "CREATE TABLE alembic_version (version_num VARCHAR(32))")

    assert schema_of(made) == newest_schema()


def test_disk_that_is_full_when_tables_are_made_is_told(tmp_path: Path) -> None:
    database = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")))

    @sa.event.listens_for(database.engine, "connect")
    def _limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 5")

    with pytest.raises(DatabaseError, match="the disk is full; free some space"):
        upgrade(database)
    database.close()


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"not a database at all, but long enough" * 100)

    assert "is not a SQLite database, or damaged" in refusal(f"sqlite:///{tmp_path / 'photos.zip'}", create=True)


def test_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    assert "cannot be opened" in refusal(f"sqlite:///{tmp_path}", create=True)


def test_sqlite_keeps_what_it_says_it_wrote(tmp_path: Path, clock: Clock) -> None:
    database = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")), now=clock.expression)
    upgrade(database)
    pragmas = ("journal_mode", "synchronous", "foreign_keys")

    found = database.read(lambda connection: [connection.scalar(sa.text(f"PRAGMA {name}")) for name in pragmas])

    assert found == ["wal", 2, 1]
    database.close()
    with sqlite3.connect(tmp_path / "tagmill.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
