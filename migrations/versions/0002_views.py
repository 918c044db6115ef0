"""The four views that people query; their columns are a contract."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(f"""
        CREATE VIEW current_labels AS
        SELECT images.uri AS image_uri,
               predictions.label,
               predictions.confidence,
               model_versions.name AS model,
               model_versions.version AS model_version,
               predictions.run_id,
               'model' AS answered_by,
               false AS needs_review,
               {_timestamp("predictions.classified_at")} AS classified_at
        FROM images
        JOIN predictions ON predictions.image_id = images.id
                        AND predictions.fingerprint = images.fingerprint
                        AND predictions.rank = 1
        JOIN model_versions ON model_versions.id = predictions.model_version_id AND model_versions.active
        WHERE images.gone_at IS NULL
    """)
    op.execute("""
        CREATE VIEW predictions_top_k AS
        SELECT images.uri AS image_uri,
               predictions.rank,
               predictions.label,
               predictions.confidence,
               model_versions.name AS model,
               model_versions.version AS model_version,
               predictions.run_id
        FROM images
        JOIN predictions ON predictions.image_id = images.id AND predictions.fingerprint = images.fingerprint
        JOIN model_versions ON model_versions.id = predictions.model_version_id
    """)
    op.execute(f"""
        CREATE VIEW run_summary AS
        SELECT runs.id AS run_id,
               runs.source,
               model_versions.name AS model,
               model_versions.version AS model_version,
               runs.status,
               runs.listed,
               CAST(COALESCE(SUM(batches.classified), 0) AS BIGINT) AS classified,
               CAST(COALESCE(SUM(batches.reused), 0) AS BIGINT) AS reused,
               CAST(COALESCE(SUM(batches.failed), 0) AS BIGINT) AS failed,
               runs.skipped,
               CAST(COALESCE(SUM(batches.cancelled), 0) AS BIGINT) AS cancelled,
               {_timestamp("runs.started_at")} AS started_at,
               {_timestamp("runs.finished_at")} AS finished_at
        FROM runs
        JOIN model_versions ON model_versions.id = runs.model_version_id
        LEFT JOIN batches ON batches.run_id = runs.id
        GROUP BY runs.id, runs.source, model_versions.name, model_versions.version, runs.status, runs.listed,
                 runs.skipped, runs.started_at, runs.finished_at
    """)
    op.execute(f"""
        CREATE VIEW failures_by_image AS
        SELECT items.run_id,
               images.uri AS image_uri,
               items.reason,
               items.message,
               items.attempts,
               {_timestamp("items.finished_at")} AS failed_at
        FROM items
        JOIN images ON images.id = items.image_id
        WHERE items.status = 'failed'
    """)


def downgrade() -> None:
    for view in ("failures_by_image", "run_summary", "predictions_top_k", "current_labels"):
        op.execute(f"DROP VIEW {view}")


def _timestamp(seconds: str) -> str:
    """UTC in the database's own way: a timestamptz, or the text that SQLite's date functions take."""
    if op.get_bind().dialect.name == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', {seconds}, 'unixepoch')"
    return f"to_timestamp({seconds})"
