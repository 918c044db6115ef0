"""The schema's version: open a database, and refuse one that is missing, old, new, or not ours."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

import migrations
from base.errors import DatabaseError
from base.folders import make_private_folder
from base.settings import Settings
from results.session import Database, database_url

if TYPE_CHECKING:
    from alembic.config import Config

# Not Alembic's own name, which another application in the same database may use.
VERSION_TABLE = "tagmill_schema"

_MIGRATIONS = Path(migrations.__path__[0])


def open_database(settings: Settings, *, create: bool = False, only_reads: bool = False) -> Database:
    """The database of the settings, with the schema that this tagmill needs.

    Args:
        create: make a SQLite file that does not exist, and bring an older one up to date. A server's database is
            only ever changed by `tagmill db upgrade`.
        only_reads: leave the very bytes of a SQLite file as they are.

    Raises:
        DatabaseError: it is missing, cannot be written, is not ours, or has another schema.
        TransientError: the server does not answer.
    """
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        _check_sqlite_file(Path(str(url.database)), create=create, in_home=settings.database_url is None)
    database = Database(url, only_reads=only_reads)
    try:
        found, wanted = schema_version(database), newest_schema()
        if found != wanted and database.is_sqlite and create:
            upgrade(database)
        elif found != wanted:
            raise DatabaseError(
                f"{database} has schema {found or 'none'}, and this tagmill needs {wanted}. Run 'tagmill db upgrade'."
            )
    except BaseException:
        database.close()
        raise
    return database


def open_existing(settings: Settings) -> Database | None:
    """The database of the settings to be looked at only, or None where there is none yet; errors as above."""
    url = database_url(settings)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return None
    return open_database(settings, only_reads=True)


def make_database(settings: Settings) -> tuple[Database, str | None, str]:
    """The database of the settings, made or brought up to date; what `tagmill db upgrade` does.

    Returns:
        The database, and its schema before and after.

    Raises:
        DatabaseError: it cannot be written, or is not ours.
        TransientError: the server does not answer.
    """
    url = database_url(settings)
    if url.get_backend_name() == "sqlite":
        _check_sqlite_file(Path(str(url.database)), create=True, in_home=settings.database_url is None)
    database = Database(url)
    try:
        return database, *upgrade(database)
    except BaseException:
        database.close()
        raise


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema up to date, with the data that is there.

    Returns:
        The schema before and after.

    Raises:
        DatabaseError: the database is not ours, or newer than this tagmill.
    """
    schema_version(database)  # Says in a line what is wrong with a server that cannot be reached.
    with _one_at_a_time(database):
        from alembic import command  # Every command opens the database; few change its schema.

        before = schema_version(database)
        config = migration_config()
        config.attributes["connection"] = database.engine
        try:
            command.upgrade(config, "head")
        except sa.exc.DBAPIError as error:
            database.refuse(error)
            raise
    return before, newest_schema()


def schema_version(database: Database) -> str | None:
    """The schema that a database has; None when it is empty.

    Raises:
        DatabaseError: it holds tables of somebody else, or a schema that this tagmill does not know.
    """
    found, tables = database.read(lambda connection: (version_of(connection), sa.inspect(connection).get_table_names()))
    strangers = sorted(set(tables) - {VERSION_TABLE})
    if found is None and strangers:
        raise DatabaseError(
            f"{database} is not tagmill's: it holds {', '.join(strangers[:3])}. Name another with TAGMILL_DATABASE_URL."
        )
    if found is not None and found not in known_schemas():
        raise DatabaseError(
            f"{database} has schema {found!r}, which this tagmill does not know: a newer one made it. "
            "Use that one, or name another database with TAGMILL_DATABASE_URL."
        )
    return found


def known_schemas() -> list[str]:
    """Every schema that there was, the oldest first: each migration's file name begins with its number."""
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def newest_schema() -> str:
    """The schema that this tagmill needs."""
    return known_schemas()[-1]


def migration_config() -> "Config":
    """Where Alembic finds the migrations, wherever tagmill is installed."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def version_of(connection: sa.Connection) -> str | None:
    """The version that a database says its schema has, whatever that is; None where it says nothing."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num"))
    return connection.scalar(sa.select(table.c.version_num))


def _check_sqlite_file(path: Path, *, create: bool, in_home: bool) -> None:
    if not path.exists() and not create:
        raise DatabaseError(f"there is no database at {path}. 'tagmill run SOURCE' makes one; or set TAGMILL_HOME.")
    if not in_home and not path.parent.is_dir():
        # A disk that is not mounted, or a typing error: a new, empty database there would help nobody.
        raise DatabaseError(f"there is no folder {path.parent}. Make it, or correct TAGMILL_DATABASE_URL.")
    try:
        make_private_folder(path.parent)
    except OSError as error:
        raise DatabaseError(
            f"the folder {path.parent} cannot be made: {error.strerror}. "
            "Name one that you may write to with TAGMILL_HOME."
        ) from error


@contextmanager
def _one_at_a_time(database: Database) -> Iterator[None]:
    """Two commands that start together must not both make the tables."""
    if not database.is_sqlite:
        with database.engine.connect() as connection:
            # Given back with the connection.
            connection.execute(sa.text("SELECT pg_advisory_lock(7461676)"))
            connection.commit()
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(7461676)"))
                connection.commit()
        return
    with open(f"{database.url.database}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
