"""Whether the database is there, ours, whole and set up so that it keeps what it is given. It only looks."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa

from base.errors import AppError, SetupError
from base.findings import Finding, clock_finding, fault, fault_of, ok, warning
from base.settings import Settings
from results.reader import read_only_rows
from results.schema import VERSION_TABLE, known_schemas, newest_schema, version_of
from results.session import Database, database_time, database_url
from results.tables import VIEWS, model_versions

_QUICK_CHECK_SECONDS = 3.0
# WAL needs memory that all who have the file open share, and locks that hold; these have one or neither of them.
_NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "ceph", "lustre", "gpfs", "beegfs", "afs", "fuse.sshfs", "fuse.gluster")
_POSTGRESQL_SETTINGS = (
    "server_version",
    "server_encoding",
    "max_connections",
    "superuser_reserved_connections",
    "fsync",
    "full_page_writes",
)


class ActiveVersion(NamedTuple):
    """A model version whose answers `current_labels` shows."""

    name: str
    version: int
    content_hash: str


def check_database(
    settings: Settings, *, processes: int, now: sa.ColumnElement[float] | None = None
) -> Iterator[Finding]:
    """Look at the database of the settings.

    Args:
        processes: of the workers on this machine, for which it needs connections.
        now: the SQL expression of the current time in seconds; tests replace it.

    Raises:
        DatabaseError: the address is none.
    """
    url = database_url(settings)
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        path = Path(str(url.database))
        yield from _check_file(path, in_home=settings.database_url is None)
        if not path.is_file():
            return
    try:
        with _looking(url) as connection:
            yield from _check_sqlite(connection) if is_sqlite else _check_postgresql(connection, url, processes)
            yield from _check_schema(connection, is_sqlite=is_sqlite)
            before = time.time()
            theirs = connection.execute(sa.select(database_time() if now is None else now)).scalar_one()
            yield clock_finding("the database's", theirs, before=before, after=time.time())
            if is_sqlite:
                yield _check_integrity(connection)
    except sa.exc.DBAPIError as error:
        yield _unreadable(error, url)


def check_reader(settings: Settings) -> Iterator[Finding]:
    """Look at the role that `tagmill sql` reads as: it may read the views, and nothing more.

    Raises:
        DatabaseError: the database's address is none.
    """
    if database_url(settings).get_backend_name() == "sqlite":
        return
    if settings.reader_url is None:
        yield ok("reader", "TAGMILL_READER_URL is not set, so 'tagmill sql' has no role to read as")
        return
    try:
        # All of them at once, and no row of any.
        with read_only_rows(settings, f"SELECT 1 FROM {', '.join(VIEWS)} LIMIT 0"):  # noqa: S608 (names of ours)
            yield ok("reader", "may read the views, and nothing else")
    except SetupError as error:
        refused = "permission denied" in str(error) or "does not exist" in str(error)
        mend = "Run 'tagmill db upgrade', which gives it the views." if refused else fault_of("reader", error).mend
        yield fault("reader", fault_of("reader", error).found, mend)


def active_versions(settings: Settings) -> list[ActiveVersion]:
    """The active version of each model; none where the database cannot tell, which `check_database` reports."""
    try:
        url = database_url(settings)
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).is_file():
            return []
        with _looking(url) as connection:
            columns = model_versions.c
            rows = connection.execute(
                sa.select(columns.name, columns.version, columns.content_hash).where(columns.active).order_by("name")
            )
            return [ActiveVersion(*row) for row in rows]
    except (AppError, sa.exc.DBAPIError):
        return []


@contextmanager
def _looking(url: sa.URL) -> Iterator[sa.Connection]:
    """A connection that makes and changes nothing, and is tried only once."""
    if url.get_backend_name() == "sqlite":
        # `Database` would make the file, and set its journal.
        path = str(url.database)
        engine = sa.create_engine("sqlite://", creator=lambda: _open_to_look(path), poolclass=sa.NullPool)
    else:
        engine = Database(url).reader
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _open_to_look(path: str) -> sqlite3.Connection:
    # A file that nobody has open would get two others beside it, just by being read.
    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    return sqlite3.connect(f"file:{quote(path)}?{mode}", uri=True, timeout=2)


def _check_file(path: Path, *, in_home: bool) -> Iterator[Finding]:
    filesystem = filesystem_of(path)
    if filesystem is not None and filesystem.startswith(_NETWORK_FILESYSTEMS):
        yield warning(
            "database",
            f"SQLite lies on a network file system ({filesystem}), which may damage it",
            "Move it to a disk of this machine with TAGMILL_HOME or TAGMILL_DATABASE_URL, or use PostgreSQL.",
        )
    if not path.exists() and (in_home or path.parent.is_dir()):
        yield ok("database", f"none yet at {path}; 'tagmill run SOURCE' makes it")
    elif not path.exists():
        yield fault(
            "database", f"there is no folder {path.parent}", "Make or mount it, or correct TAGMILL_DATABASE_URL."
        )
    elif not path.is_file():
        yield fault("database", f"{path} is no file", "Name another with TAGMILL_DATABASE_URL.")
    elif not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        yield fault("database", f"{path} or its folder cannot be written", "Correct the owner and permissions of both.")


def filesystem_of(path: Path) -> str | None:
    """The type of the file system that a path lies on, whether it exists or not; None where there is no telling."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return None
    resolved = path.resolve()
    # The longest is the nearest; of several at one place the last covers the others.
    over = [
        (len(point), number, kind)
        for number, (_, point, kind, *_) in enumerate(mounts)
        if resolved.is_relative_to(point.replace("\\040", " "))
    ]
    return max(over)[2] if over else None


def _check_sqlite(connection: sa.Connection) -> Iterator[Finding]:
    (_, _, path) = connection.exec_driver_sql("PRAGMA database_list").one()
    yield ok("database", f"SQLite at {path}")
    with open(path, "rb") as file:
        header = file.read(20)
    # Not PRAGMA journal_mode, which does not tell of a file that nobody else has open.
    if header[18:20] != b"\x02\x02":
        yield warning(
            "database",
            "SQLite does not use its write-ahead log, so that who reads holds up who writes",
            "The next run sets it; keep other programs from changing it.",
        )


def _check_postgresql(connection: sa.Connection, url: sa.URL, processes: int) -> Iterator[Finding]:
    facts = connection.execute(
        sa.select(*(sa.func.current_setting(name).label(name) for name in _POSTGRESQL_SETTINGS))
    ).one()
    place = f"{url.host or 'this machine'}:{url.port or 5432}/{url.database}"
    yield ok("database", f"PostgreSQL {facts.server_version} at {place}")
    if connection.execute(sa.select(sa.func.pg_is_in_recovery())).scalar_one():
        yield fault("database", "the server is a standby, which takes no changes", "Name the primary instead.")
    if facts.server_encoding != "UTF8":
        yield fault(
            "database",
            f"its encoding is {facts.server_encoding}, which cannot hold every label and file name",
            "Make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
        )
    # Two for each process and for their parent, and two for a command.
    needed = 2 * (processes + 1) + 2
    usable = int(facts.max_connections) - int(facts.superuser_reserved_connections)
    if usable < needed:
        yield warning(
            "database",
            f"max_connections leaves {usable}, and a worker on this machine may need {needed}",
            "Raise max_connections, or start fewer processes with 'tagmill worker --processes N'.",
        )
    for setting in ("fsync", "full_page_writes"):
        if getattr(facts, setting) == "off":
            yield warning("database", f"{setting} is off: a power cut may damage it", f"Set {setting} to 'on'.")


def _check_schema(connection: sa.Connection, *, is_sqlite: bool) -> Iterator[Finding]:
    found, wanted = version_of(connection), newest_schema()
    strangers = sorted(set(sa.inspect(connection).get_table_names()) - {VERSION_TABLE})
    if found is None and strangers:
        yield fault(
            "database",
            f"it is not tagmill's: it holds {', '.join(strangers[:3])}",
            "Name another with TAGMILL_DATABASE_URL.",
        )
    elif found is not None and found not in known_schemas():
        yield fault(
            "database",
            f"its schema {found!r} is newer than this tagmill, which knows {wanted} at the most",
            "Upgrade tagmill on this machine, or name another database with TAGMILL_DATABASE_URL.",
        )
    elif found != wanted:
        yield fault(
            "database", f"it has schema {found or 'none'}, and this tagmill needs {wanted}", "Run 'tagmill db upgrade'."
        )
    else:
        yield ok("database", f"schema {found}")
        may_write = sa.text("SELECT has_table_privilege('runs', 'INSERT')")
        if not is_sqlite and not connection.execute(may_write).scalar_one():
            yield fault("database", "the role of TAGMILL_DATABASE_URL may not write", "Name the owner of the tables.")


def _check_integrity(connection: sa.Connection) -> Finding:
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + _QUICK_CHECK_SECONDS
    driver.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    except sa.exc.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return ok("database", f"too large to look through within {_QUICK_CHECK_SECONDS:g} s; PRAGMA quick_check does")
    finally:
        driver.set_progress_handler(None, 0)
    if found != "ok":
        return fault("database", f"the file is damaged: {str(found).splitlines()[-1]}", "Restore it from a backup.")
    return ok("database", "quick_check finds the file whole")


def _unreadable(error: sa.exc.DBAPIError, url: sa.URL) -> Finding:
    text = str(error.orig).strip().partition("\n")[0]
    if url.get_backend_name() == "sqlite":
        if "locked" in text:
            return fault("database", f"{url.database}: {text}", "See which program holds it, and end that.")
        return fault("database", f"{url.database}: {text}", "Restore it from a backup, or name another file.")
    if "authentication failed" in text or "no password supplied" in text:
        return fault("database", text, "Correct the role and the password in TAGMILL_DATABASE_URL.")
    if "does not exist" in text:
        return fault("database", text, "Make the role and the database, or correct TAGMILL_DATABASE_URL.")
    return fault("database", text, "Start it, or correct TAGMILL_DATABASE_URL.")
