"""The slots of schedules, and which images of a run come first."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "slots",
        sa.Column("schedule", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("run_id", Id),
        sa.Column("message", sa.Text()),
        sa.Column("holder", sa.Text()),
        sa.Column("held_until", sa.Double()),
        sa.PrimaryKeyConstraint("schedule", "due_at", name="pk_slots"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_slots_run_id"),
        sa.CheckConstraint("status IN ('due', 'running', 'done', 'failed', 'skipped')", name=op.f("ck_slots_status")),
    )
    op.execute(f"""
        CREATE VIEW schedule_slots AS
        SELECT slots.schedule, {_timestamp("slots.due_at")} AS due_at, slots.status, slots.run_id, slots.message
        FROM slots
    """)
    op.add_column("batches", sa.Column("priority", sa.Integer(), server_default="0", nullable=False))
    op.drop_index("ix_batches_open", "batches")
    _open(["run_id", "priority", "id"])


def downgrade() -> None:
    op.drop_index("ix_batches_open", "batches")
    op.drop_column("batches", "priority")
    _open(["run_id", "id"])
    op.execute("DROP VIEW schedule_slots")
    op.drop_table("slots")


def _open(columns: list[str]) -> None:
    condition = sa.text("status <> 'done'")
    op.create_index("ix_batches_open", "batches", columns, sqlite_where=condition, postgresql_where=condition)


def _timestamp(seconds: str) -> str:
    if op.get_bind().dialect.name == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', {seconds}, 'unixepoch')"
    return f"to_timestamp({seconds})"
