"""Where the time of each batch went."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_STAGES = ("waiting", "loading", "fetching", "decoding", "preprocessing", "inference", "saving", "ledger")


def upgrade() -> None:
    for stage in _STAGES:
        op.add_column("batches", sa.Column(f"{stage}_seconds", sa.Double()))


def downgrade() -> None:
    for stage in reversed(_STAGES):
        op.drop_column("batches", f"{stage}_seconds")
