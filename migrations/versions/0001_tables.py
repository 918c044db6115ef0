"""The tables of runs, images, batches, items and predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Uri = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "model_versions",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model_versions"),
    )
    op.create_index("uq_model_versions_name_version", "model_versions", ["name", "version"], unique=True)
    _partial_index("uq_model_versions_active", "model_versions", ["name"], "active", unique=True)

    op.create_table(
        "runs",
        sa.Column("id", Id, nullable=False),
        sa.Column("source", Uri, nullable=False),
        sa.Column("include", sa.Text(), nullable=False),
        sa.Column("model_version_id", Id, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("cursor", Uri),
        sa.Column("listed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("passed_over", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("gone", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("listed_at", sa.Double()),
        sa.Column("finished_at", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["model_version_id"], ["model_versions.id"], name="fk_runs_model_version_id"),
        sa.CheckConstraint(
            "status IN ('listing', 'running', 'completed', 'cancelled', 'failed')", name=op.f("ck_runs_status")
        ),
    )
    _partial_index(
        "uq_runs_unfinished", "runs", ["source", "include", "model_version_id"], "finished_at IS NULL", unique=True
    )

    op.create_table(
        "images",
        sa.Column("id", Id, nullable=False),
        sa.Column("uri", Uri, nullable=False),
        sa.Column("fingerprint", sa.Text()),
        sa.Column("gone_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_images"),
    )
    op.create_index("uq_images_uri", "images", ["uri"], unique=True)

    op.create_table(
        "batches",
        sa.Column("id", Id, nullable=False),
        sa.Column("run_id", Id, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("earlier_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost_reason", sa.Text()),
        sa.Column("sent_at", sa.Double()),
        sa.Column("not_before", sa.Double()),
        sa.Column("classified", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reused", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_batches"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_batches_run_id"),
        sa.CheckConstraint("status IN ('pending', 'leased', 'done')", name=op.f("ck_batches_status")),
    )
    op.create_index("ix_batches_run_id", "batches", ["run_id"])
    _partial_index("ix_batches_open", "batches", ["run_id", "id"], "status <> 'done'")

    op.create_table(
        "items",
        sa.Column("run_id", Id, nullable=False),
        sa.Column("image_id", Id, nullable=False),
        sa.Column("batch_id", Id, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column("attempts", sa.Integer()),
        sa.Column("finished_at", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "image_id", name="pk_items"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_items_run_id"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_items_image_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name="fk_items_batch_id"),
        sa.CheckConstraint("status IN ('pending', 'classified', 'failed', 'cancelled')", name=op.f("ck_items_status")),
        sa.CheckConstraint(
            "reason IN ('not_found', 'forbidden', 'unreadable', 'truncated', 'not_an_image', 'unsupported_format', "
            "'too_large', 'timeout', 'worker_lost', 'storage_error')",
            name=op.f("ck_items_reason"),
        ),
        sa.CheckConstraint("(status = 'failed') = (reason IS NOT NULL)", name=op.f("ck_items_failed_has_reason")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_items_batch_id", "items", ["batch_id"])

    op.create_table(
        "predictions",
        sa.Column("image_id", Id, nullable=False),
        sa.Column("model_version_id", Id, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32)),
        sa.Column("run_id", Id, nullable=False),
        sa.Column("classified_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("image_id", "model_version_id", "fingerprint", "rank", name="pk_predictions"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_predictions_image_id"),
        sa.ForeignKeyConstraint(["model_version_id"], ["model_versions.id"], name="fk_predictions_model_version_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_predictions_run_id"),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_predictions_confidence")),
        sa.CheckConstraint("rank >= 1", name=op.f("ck_predictions_rank")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_predictions_label", "predictions", ["label", "rank", "confidence"])
    _partial_index("ix_predictions_content_hash", "predictions", ["content_hash", "model_version_id"], "rank = 1")
    _partial_index("ix_predictions_confidence", "predictions", ["confidence"], "rank = 1")


def downgrade() -> None:
    for table in ("predictions", "items", "batches", "images", "runs", "model_versions"):
        op.drop_table(table)


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
