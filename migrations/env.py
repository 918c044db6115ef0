"""What Alembic runs for every migration command; the connection comes from `results/schema.py`."""

from alembic import context
from sqlalchemy import Connection

from results.schema import VERSION_TABLE
from results.tables import VIEWS, metadata


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        compare_type=True,
        include_name=lambda name, kind, parents: kind != "table" or name not in VIEWS,
        # SQLite changes a table by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes["connection"]
if isinstance(given, Connection):
    _migrate(given)
else:
    with given.begin() as opened:
        _migrate(opened)
