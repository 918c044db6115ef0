"""What a run was asked for beyond its source and model, and which command holds it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_UNFINISHED = ["source", "include", "model_version_id"]


def upgrade() -> None:
    op.add_column("runs", sa.Column("exclude", sa.Text(), server_default="[]", nullable=False))
    op.add_column("runs", sa.Column("everything", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("runs", sa.Column("top_k", sa.Integer(), server_default="5", nullable=False))
    # Without a foreign key: SQLite adds one only to a table that is copied.
    op.add_column("runs", sa.Column("retry_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
    op.add_column("runs", sa.Column("holder", sa.Text()))
    op.add_column("runs", sa.Column("held_until", sa.Double()))
    op.drop_index("uq_runs_unfinished", "runs")
    _unfinished("uq_runs_unfinished", [*_UNFINISHED, "exclude", "everything"], "AND retry_of IS NULL")
    _unfinished("uq_runs_unfinished_retry", ["retry_of"], "")


def downgrade() -> None:
    # The older schema cannot tell these from a plain run of their source, of which it allows one.
    op.execute("""
        UPDATE runs SET status = 'cancelled', finished_at = started_at
        WHERE finished_at IS NULL AND (retry_of IS NOT NULL OR everything OR exclude <> '[]')
    """)
    op.drop_index("uq_runs_unfinished_retry", "runs")
    op.drop_index("uq_runs_unfinished", "runs")
    for column in ("held_until", "holder", "retry_of", "top_k", "everything", "exclude"):
        op.drop_column("runs", column)
    _unfinished("uq_runs_unfinished", _UNFINISHED, "")


def _unfinished(name: str, columns: list[str], also: str) -> None:
    condition = sa.text(f"finished_at IS NULL {also}".strip())
    op.create_index(name, "runs", columns, unique=True, sqlite_where=condition, postgresql_where=condition)
