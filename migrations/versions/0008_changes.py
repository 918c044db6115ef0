"""What a run found to be new or changed, and images found by their fingerprint."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_COLUMNS = ("new", "changed")


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("runs", sa.Column(column, sa.BigInteger(), server_default="0", nullable=False))
    # With a condition, so that nobody takes it for the views: images without bytes share a fingerprint by the thousand.
    condition = sa.text("fingerprint NOT IN ('missing', 'unknown')")
    op.create_index(
        "ix_images_fingerprint", "images", ["fingerprint"], sqlite_where=condition, postgresql_where=condition
    )


def downgrade() -> None:
    op.drop_index("ix_images_fingerprint", "images")
    for column in reversed(_COLUMNS):
        op.drop_column("runs", column)
