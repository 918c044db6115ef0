"""What a run found to be new or changed, and images found by their fingerprint."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_COLUMNS = ("new", "changed")


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("runs", sa.Column(column, sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("ix_images_fingerprint", "images", ["fingerprint"])


def downgrade() -> None:
    op.drop_index("ix_images_fingerprint", "images")
    for column in reversed(_COLUMNS):
        op.drop_column("runs", column)
