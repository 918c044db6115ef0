"""People's own SQL reads the views and nothing else, on both databases."""

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from base.errors import DatabaseError, SetupError
from base.settings import Settings
from results.ledger import finish
from results.reader import grant_reader, read_only_rows
from results.schema import upgrade
from results.session import Database, parse_database_url
from tests.conftest import new_database
from tests.integration.results.test_ledger import answers, claim, record

_PASSWORD = "reader-password"

Answer = tuple[tuple[str, ...], list[tuple[object, ...]]]


def ask(settings: Settings, statement: str) -> Answer:
    with read_only_rows(settings, statement) as answer:
        return answer.columns, [tuple(row) for row in answer.rows]


def classify_one(db: Database) -> None:
    record(db, images=1)
    held = claim(db)
    finish(db, held, answers(held), [])


@pytest.fixture(scope="module")
def sqlite_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A SQLite database in which one image is a cat; no test can change it."""
    home = tmp_path_factory.mktemp("home")
    settings = Settings(home=home)
    db = Database(sa.URL.create("sqlite", database=str(home / "tagmill.db")))
    upgrade(db)
    classify_one(db)
    db.close()
    return settings


@pytest.fixture(scope="module")
def postgres_db(postgres: str) -> Iterator[Database]:
    """A PostgreSQL database in which one image is a cat."""
    with new_database(postgres) as address:
        db = Database(parse_database_url(address, "TAGMILL_DATABASE_URL"))
        upgrade(db)
        classify_one(db)
        yield db
        db.close()


@contextmanager
def new_role(db: Database, options: str = "") -> Iterator[str]:
    """A role that may log in."""
    role = f"reader_{secrets.token_hex(4)}"
    run_sql(db, f"CREATE ROLE {role} LOGIN PASSWORD '{_PASSWORD}' {options}")
    yield role
    run_sql(db, f"REASSIGN OWNED BY {role} TO postgres")
    run_sql(db, f"DROP OWNED BY {role}")
    run_sql(db, f"DROP ROLE {role}")


@pytest.fixture
def role(postgres_db: Database) -> Iterator[str]:
    """A role without any rights."""
    with new_role(postgres_db) as name:
        yield name


def run_sql(db: Database, statement: str) -> None:
    with psycopg.connect(superuser_address(db), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


def superuser_address(db: Database) -> str:
    return db.url.set(drivername="postgresql").render_as_string(hide_password=False)


def reader_address(db: Database, role: str) -> str:
    url = db.url.set(drivername="postgresql", username=role, password=_PASSWORD)
    return url.render_as_string(hide_password=False)


def settings_of(db: Database, reader_url: str) -> Settings:
    return Settings(database_url=superuser_address(db), reader_url=reader_url)


@pytest.fixture(scope="module")
def postgres_settings(postgres_db: Database) -> Iterator[Settings]:
    """A role that was granted the views."""
    with new_role(postgres_db) as name:
        address = reader_address(postgres_db, name)
        grant_reader(postgres_db, address)
        yield settings_of(postgres_db, address)


@pytest.fixture(params=["sqlite_settings", "postgres_settings"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Either database, ready to be asked."""
    found: Settings = request.getfixturevalue(request.param)
    return found


_ROWS = {"current_labels": 1, "predictions_top_k": 2, "run_summary": 1, "failures_by_image": 0, "schedule_slots": 0}


@pytest.mark.parametrize("view", _ROWS)
def test_every_view_can_be_read(settings: Settings, view: str) -> None:
    columns, rows = ask(settings, f"SELECT * FROM {view}")

    assert {"run_id"} <= set(columns)
    assert len(rows) == _ROWS[view]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT count(*) FROM Current_Labels", 1),
        ("SELECT label FROM current_labels;", "cat"),  # As people end their statements.
        ("SELECT '100%' FROM current_labels", "100%"),  # No placeholder.
        ("SELECT count(*) FROM predictions_top_k", 2),
        ("WITH mine AS (SELECT label FROM predictions_top_k) SELECT count(*) FROM mine", 2),
        ("WITH current_labels AS (SELECT label FROM predictions_top_k) SELECT count(label) FROM current_labels", 2),
        ("WITH images AS (SELECT label AS uri FROM current_labels) SELECT uri FROM images", "cat"),
        ("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 4) SELECT max(x) FROM n", 4),
        ("SELECT max(mine.label) FROM (SELECT label FROM current_labels) AS mine JOIN run_summary ON true", "cat"),
        ("VALUES (7)", 7),
    ],
)
def test_any_query_over_the_views_runs(settings: Settings, statement: str, expected: object) -> None:
    _, rows = ask(settings, statement)

    assert rows == [(expected,)]


@pytest.mark.parametrize("function", ["json_each", "json_tree"])
def test_sqlite_table_functions_can_be_used(sqlite_settings: Settings, function: str) -> None:
    _, rows = ask(sqlite_settings, f"SELECT label, value FROM current_labels, {function}('[5]') WHERE atom = 5")

    assert rows == [("cat", 5)]


@pytest.mark.timeout(30)
def test_query_that_is_not_read_to_its_end_can_be_left(settings: Settings) -> None:
    with pytest.raises(SetupError, match="the disk is full"), read_only_rows(settings, "SELECT 1 AS a") as answer:
        raise SetupError(f"the disk is full, and {answer.columns} is not printed")


def test_query_without_rows_still_has_columns(settings: Settings) -> None:
    assert ask(settings, "SELECT label, confidence FROM current_labels WHERE label = 'x'") == (
        ("label", "confidence"),
        [],
    )


_BASE_TABLES = ("images", "items", "batches", "runs", "predictions", "model_versions", "tagmill_schema")


@pytest.mark.parametrize("table", [*_BASE_TABLES, "Images", "RUNS"])
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM {table}",
        "SELECT count(*) FROM {table}",
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM {table})",
        "SELECT * FROM {table} AS current_labels",
        "SELECT * FROM (SELECT * FROM {table}) AS current_labels",
        "SELECT (SELECT count(*) FROM {table}) FROM current_labels",
        "WITH current_labels AS (SELECT * FROM {table}) SELECT * FROM current_labels",
        "WITH mine AS (SELECT 1 AS x FROM {table}) SELECT count(x) FROM mine",
        "SELECT label FROM current_labels UNION ALL SELECT '1' FROM {table}",
        "SELECT label FROM current_labels ORDER BY (SELECT count(*) FROM {table})",
    ],
)
def test_no_query_reaches_a_table(settings: Settings, statement: str, table: str) -> None:
    with pytest.raises(SetupError, match="takes one SELECT from current_labels"):
        ask(settings, statement.format(table=table))


@pytest.mark.parametrize(
    "statement",
    [
        "WITH run_summary AS MATERIALIZED (SELECT uri FROM images) SELECT uri FROM run_summary AS x",
        "WITH RECURSIVE run_summary(x) AS (SELECT uri FROM images UNION SELECT 1) SELECT x FROM run_summary",
        "WITH json_each AS (SELECT uri FROM images) SELECT * FROM json_each",
        "SELECT * FROM sqlite_master",
        "SELECT count(*) FROM Sqlite_Master",
        "SELECT * FROM sqlite_schema",
        "SELECT * FROM sqlite_temp_master",
        "SELECT * FROM temp.sqlite_schema",
        "SELECT * FROM pragma_table_info('images')",
        "SELECT * FROM pragma_table_list",
        "SELECT * FROM dbstat",
        "SELECT * FROM main.images",
        "SELECT * FROM temp.images",
        "SELECT * FROM sqlite_stat1",
        "SELECT rowid FROM images",
        "EXPLAIN QUERY PLAN SELECT * FROM images",
        "SELECT load_extension('libc.so.6')",
        "SELECT fts3_tokenizer('simple')",
        "PRAGMA table_info(images)",
        "PRAGMA query_only = 0",
        "PRAGMA writable_schema = 1",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "VACUUM INTO 'copy.db'",
        "REINDEX",
        "ANALYZE",
        "SAVEPOINT mine",
        "ATTACH 'file:other.db?mode=rwc' AS other",
        "CREATE VIRTUAL TABLE mine USING fts5(x)",
        "CREATE TEMP TRIGGER mine INSTEAD OF INSERT ON current_labels BEGIN SELECT 1; END",
        "PRAGMA temp_store_directory = '.'",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "SELECT * FROM pragma_journal_mode",
        # Of SQLite's own shell; a library that has them must not give them to us.
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('other.txt', 'x')",
        "SELECT edit('x', 'touch other.txt')",
        "SELECT * FROM fsdir('.')",
        "SELECT * FROM csv('/etc/passwd')",
    ],
)
def test_sqlite_refuses_every_other_way_in(
    sqlite_settings: Settings, statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)

    with pytest.raises(SetupError, match="takes one SELECT from current_labels"):
        ask(sqlite_settings, statement)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM images",
        "DELETE FROM current_labels",
        "UPDATE images SET uri = 'x'",
        "INSERT INTO images (uri) VALUES ('x')",
        "INSERT INTO images (uri) VALUES ('x') RETURNING uri",
        "WITH mine AS (SELECT 1) DELETE FROM images",
        "DROP TABLE images",
        "DROP VIEW current_labels",
        "CREATE TABLE mine (x INTEGER)",
        "CREATE TEMP TABLE mine (x INTEGER)",
        "CREATE VIEW mine AS SELECT 1",
        "COMMIT; DROP TABLE images",
        "SELECT 1; DROP TABLE images",
        "SELECT 1; SELECT 2",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "",
        "-- nothing",
        "no sql at all",
        "SELECT nonsense FROM current_labels",
    ],
)
def test_whatever_is_no_query_is_refused(settings: Settings, statement: str) -> None:
    with pytest.raises(SetupError, match="SELECT from current_labels"):
        ask(settings, statement)

    assert ask(settings, "SELECT label FROM current_labels")[1] == [("cat",)]


def test_sqlite_query_for_one_image_uses_the_index(sqlite_settings: Settings) -> None:
    _, plan = ask(sqlite_settings, "EXPLAIN QUERY PLAN SELECT * FROM current_labels WHERE image_uri = 'x'")

    assert [str(step[-1]).split()[0] for step in plan] == ["SEARCH"] * 3


def test_sqlite_error_while_rows_are_read_is_told(sqlite_settings: Settings) -> None:
    overflow = "SELECT abs(column1) FROM (VALUES (1), (-9223372036854775808))"

    with pytest.raises(SetupError, match="integer overflow"):
        ask(sqlite_settings, overflow)


def test_endless_sqlite_query_ends_with_ctrl_c(sqlite_settings: Settings) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    code = (
        "import signal, sys; from base.settings import Settings; from results.reader import read_only_rows\n"
        # A shell has those ignore it that it starts in the background, and so perhaps these tests.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print('begins', flush=True)\n"
        "with read_only_rows(Settings(home=sys.argv[1]), sys.argv[2]) as answer: print(list(answer.rows))"
    )
    # A process of its own, whose Ctrl-C nothing else can catch.
    with subprocess.Popen(
        [sys.executable, "-c", code, sqlite_settings.home, endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begins\n"
        time.sleep(0.5)

        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()

    assert process.returncode == -signal.SIGINT
    assert said.strip().endswith(b"KeyboardInterrupt")


def test_postgresql_needs_a_reader_address(postgres_db: Database) -> None:
    with pytest.raises(SetupError, match="TAGMILL_READER_URL is not set"):
        ask(Settings(database_url=superuser_address(postgres_db)), "SELECT 1")


def test_superuser_is_refused_as_reader(postgres_db: Database) -> None:
    with pytest.raises(DatabaseError, match="'postgres' is a superuser"):
        ask(settings_of(postgres_db, superuser_address(postgres_db)), "SELECT 1")


def test_superuser_in_disguise_is_refused(postgres_db: Database, role: str) -> None:
    disguised = f"{superuser_address(postgres_db)}?options=-c%20role%3D{role}"

    with pytest.raises(DatabaseError, match="is a superuser"):
        ask(settings_of(postgres_db, disguised), "SELECT 1")


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT SELECT ON images TO {role}",
        "GRANT INSERT ON images TO {role}",
        "GRANT DELETE ON images TO {role}",
        "GRANT SELECT (uri) ON images TO {role}",
        "GRANT UPDATE (uri) ON images TO {role}",
        "ALTER TABLE images OWNER TO {role}",
        "GRANT pg_read_all_data TO {role}",
    ],
)
def test_role_that_may_touch_a_table_is_refused(postgres_db: Database, role: str, grant: str) -> None:
    grant_reader(postgres_db, reader_address(postgres_db, role))
    run_sql(postgres_db, grant.format(role=role))

    with pytest.raises(DatabaseError, match=f"{role!r} may reach the tables .*images"):
        ask(settings_of(postgres_db, reader_address(postgres_db, role)), "SELECT 1")


def test_role_that_may_become_another_is_refused(postgres_db: Database, role: str) -> None:
    with new_role(postgres_db, "NOINHERIT") as member:
        run_sql(postgres_db, f"GRANT SELECT ON images TO {role}")
        run_sql(postgres_db, f"GRANT {role} TO {member}")

        with pytest.raises(DatabaseError, match="may reach the tables images"):
            ask(settings_of(postgres_db, reader_address(postgres_db, member)), "SELECT 1")


def test_role_is_checked_whatever_its_search_path(postgres_db: Database, role: str) -> None:
    run_sql(postgres_db, f"CREATE SCHEMA {role} AUTHORIZATION {role}")  # The first of the search path: "$user".
    run_sql(postgres_db, f"GRANT SELECT ON images TO {role}")

    with pytest.raises(DatabaseError, match="may reach the tables images"):
        ask(settings_of(postgres_db, reader_address(postgres_db, role)), "SELECT 1")


@pytest.mark.parametrize(
    "statement",
    [
        "COPY images TO STDOUT",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SELECT nextval('images_id_seq')",
        "SELECT setval('images_id_seq', 1)",
        "COPY (SELECT 1) TO '/tmp/tagmill-other'",
        "COPY images FROM PROGRAM 'echo 1'",
        "SELECT pg_read_binary_file('/etc/passwd')",
        "SELECT pg_ls_dir('.')",
        "SELECT pg_stat_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT lo_export(1, '/tmp/tagmill-other')",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> session_user",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename <> session_user",
        "SELECT pg_reload_conf()",
        "SELECT pg_stat_reset()",
        "SELECT * FROM dblink('dbname=postgres', 'SELECT 1') AS t(x integer)",
        "SELECT set_config('session_authorization', 'postgres', false)",
        "SELECT set_config('log_statement', 'none', false)",
        "SELECT query_to_xml('DELETE FROM images', true, false, '')",
        "SELECT passwd FROM pg_shadow",
        "SELECT rolpassword FROM pg_authid",
        "CREATE TEMP TABLE mine AS SELECT 1",
        "SELECT 1 AS x INTO mine",
        "CREATE EXTENSION dblink",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "SET SESSION AUTHORIZATION postgres",
        "SET transaction_read_only = off",
        "RESET ALL",
        "LOAD 'plpgsql'",
        "NOTIFY mine",
        "LISTEN mine",
        "CHECKPOINT",
        "VACUUM",
        "REFRESH MATERIALIZED VIEW current_labels",
        "PREPARE mine AS SELECT 1",
        "DECLARE mine CURSOR FOR SELECT 1",
        "SELECT lo_create(0)",
        "SELECT query_to_xml('SELECT * FROM images', true, false, '')",
        "EXPLAIN ANALYZE DELETE FROM images",
        "SELECT * FROM public.images",
        "SELECT label FROM current_labels FOR UPDATE",
        "DO $$ BEGIN DELETE FROM images; END $$",
        "SET ROLE postgres",
    ],
)
def test_postgresql_refuses_every_other_way_in(postgres_settings: Settings, statement: str) -> None:
    with pytest.raises(SetupError, match="SELECT from current_labels"):
        ask(postgres_settings, statement)


@pytest.mark.parametrize("statement", ["", "LISTEN mine"])
def test_postgresql_statement_without_rows_is_quoted(postgres_settings: Settings, statement: str) -> None:
    with pytest.raises(SetupError, match=f"not a query: {statement!r}"):
        ask(postgres_settings, statement)


def test_role_without_grants_reads_nothing(postgres_db: Database, role: str) -> None:
    with pytest.raises(SetupError, match="permission denied"):
        ask(settings_of(postgres_db, reader_address(postgres_db, role)), "SELECT * FROM current_labels")


def test_reader_that_cannot_connect_is_told_without_password(postgres_db: Database) -> None:
    with pytest.raises(DatabaseError, match="TAGMILL_READER_URL: ") as raised:
        ask(settings_of(postgres_db, reader_address(postgres_db, "nobody_at_all")), "SELECT 1")

    assert _PASSWORD not in str(raised.value)


def test_granting_to_a_missing_role_says_what_to_do(postgres_db: Database) -> None:
    with pytest.raises(DatabaseError, match=r"missing_role.*does not exist.*CREATE ROLE"):
        grant_reader(postgres_db, reader_address(postgres_db, "missing_role"))


def test_reader_of_a_sqlite_database_is_refused(sqlite_settings: Settings) -> None:
    db = Database(sa.URL.create("sqlite", database=str(sqlite_settings.home_path / "tagmill.db")))

    with pytest.raises(SetupError, match="TAGMILL_READER_URL is for PostgreSQL"):
        grant_reader(db, "postgresql://reader@db.example/tagmill")
    db.close()


def test_file_name_with_odd_characters_is_opened(tmp_path: Path) -> None:
    home = tmp_path / "50% of #1? yes"
    home.mkdir()
    db = Database(sa.URL.create("sqlite", database=str(home / "tagmill.db")))
    upgrade(db)
    db.close()

    assert ask(Settings(home=home), "SELECT count(*) FROM current_labels")[1] == [(0,)]
