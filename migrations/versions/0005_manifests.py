"""The rows of manifests: what they say of each image beside where it is."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"

Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Uri = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "manifest_rows",
        sa.Column("source", Uri, nullable=False),
        sa.Column("image_id", Id, nullable=False),
        sa.Column("key", sa.Text(), server_default="", nullable=False),
        sa.Column("columns", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("source", "image_id", "key", name="pk_manifest_rows"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"], name="fk_manifest_rows_image_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_manifest_rows_key", "manifest_rows", ["key"])
    op.create_index("ix_manifest_rows_image_id", "manifest_rows", ["image_id"])


def downgrade() -> None:
    op.drop_table("manifest_rows")
