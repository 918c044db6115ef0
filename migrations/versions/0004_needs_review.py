"""Whether a person should look at an answer, kept with it and shown by `current_labels`."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # Workers of the version before leave it out, and so say no.
    op.add_column(
        "predictions", sa.Column("needs_review", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    _show("predictions.needs_review")


def downgrade() -> None:
    _show("false")
    op.drop_column("predictions", "needs_review")


def _show(needs_review: str) -> None:
    """Make `current_labels` anew as 0002 has it, but for that one column."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP VIEW current_labels")
        create, classified_at = "CREATE", "strftime('%Y-%m-%d %H:%M:%f', predictions.classified_at, 'unixepoch')"
    else:
        # Replaced and not dropped, so that those who may read it still may.
        create, classified_at = "CREATE OR REPLACE", "to_timestamp(predictions.classified_at)"
    op.execute(f"""
        {create} VIEW current_labels AS
        SELECT images.uri AS image_uri,
               predictions.label,
               predictions.confidence,
               model_versions.name AS model,
               model_versions.version AS model_version,
               predictions.run_id,
               'model' AS answered_by,
               {needs_review} AS needs_review,
               {classified_at} AS classified_at
        FROM images
        JOIN predictions ON predictions.image_id = images.id
                        AND predictions.fingerprint = images.fingerprint
                        AND predictions.rank = 1
        JOIN model_versions ON model_versions.id = predictions.model_version_id AND model_versions.active
        WHERE images.gone_at IS NULL
    """)
