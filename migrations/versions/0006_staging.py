"""Runs whose answers are kept apart until they are published, and runs with a deadline."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_UNFINISHED = ["source", "include", "model_version_id", "exclude", "everything"]


def upgrade() -> None:
    op.add_column("runs", sa.Column("staged", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("runs", sa.Column("guard", sa.Text()))
    op.add_column("runs", sa.Column("held_back", sa.Text()))
    op.add_column("runs", sa.Column("published_at", sa.Double()))
    op.add_column("runs", sa.Column("dropped_at", sa.Double()))
    op.add_column("runs", sa.Column("deadline", sa.Double()))
    op.add_column("runs", sa.Column("out_of_time", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.drop_index("uq_runs_unfinished", "runs")
    _unfinished([*_UNFINISHED, "staged"])
    op.create_table(
        "staged_predictions",
        sa.Column("run_id", Id, nullable=False),
        sa.Column("image_id", Id, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32)),
        sa.Column("classified_at", sa.Double(), nullable=False),
        sa.Column("needs_review", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "image_id", "rank", name="pk_staged_predictions"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_staged_predictions_run_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_staged_predictions_image_id"),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_staged_predictions_confidence")),
        sa.CheckConstraint("rank >= 1", name=op.f("ck_staged_predictions_rank")),
        sqlite_with_rowid=False,
    )
    condition = sa.text("rank = 1")
    op.create_index(
        "ix_staged_predictions_content_hash",
        "staged_predictions",
        ["content_hash", "run_id"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    op.create_table(
        "staged_images",
        sa.Column("run_id", Id, nullable=False),
        sa.Column("image_id", Id, nullable=False),
        sa.Column("gone_at", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "image_id", name="pk_staged_images"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_staged_images_run_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_staged_images_image_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("staged_images")
    op.drop_table("staged_predictions")
    # The older schema would publish the rest of these as it goes.
    op.execute("UPDATE runs SET status = 'cancelled', finished_at = started_at WHERE finished_at IS NULL AND staged")
    op.drop_index("uq_runs_unfinished", "runs")
    for column in ("out_of_time", "deadline", "dropped_at", "published_at", "held_back", "guard", "staged"):
        op.drop_column("runs", column)
    _unfinished(_UNFINISHED)


def _unfinished(columns: list[str]) -> None:
    condition = sa.text("finished_at IS NULL AND retry_of IS NULL")
    op.create_index(
        "uq_runs_unfinished", "runs", columns, unique=True, sqlite_where=condition, postgresql_where=condition
    )
