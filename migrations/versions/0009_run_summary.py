"""`run_summary` tells what was new, changed and gone, until when, and whether and why not it was published."""

from alembic import op

revision = "0009"
down_revision = "0008"

_ADDED = """,
               runs.new,
               runs.changed,
               runs.gone,
               {deadline} AS deadline,
               {published_at} AS published_at,
               runs.held_back"""
_GROUPED = ", runs.new, runs.changed, runs.gone, runs.deadline, runs.staged, runs.published_at, runs.held_back"


def upgrade() -> None:
    added = _ADDED.format(
        deadline=_timestamp("runs.deadline"),
        # What is not staged is published as it goes.
        published_at=_timestamp("CASE WHEN runs.staged THEN runs.published_at ELSE runs.finished_at END"),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP VIEW run_summary")
        _show("CREATE", added, _GROUPED)
    else:
        # Replaced and not dropped, so that those who may read it still may.
        _show("CREATE OR REPLACE", added, _GROUPED)


def downgrade() -> None:
    op.execute("DROP VIEW run_summary")
    _show("CREATE", "", "")


def _show(create: str, added: str, grouped: str) -> None:
    op.execute(f"""
        {create} VIEW run_summary AS
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
               {_timestamp("runs.finished_at")} AS finished_at{added}
        FROM runs
        JOIN model_versions ON model_versions.id = runs.model_version_id
        LEFT JOIN batches ON batches.run_id = runs.id
        GROUP BY runs.id, runs.source, model_versions.name, model_versions.version, runs.status, runs.listed,
                 runs.skipped, runs.started_at, runs.finished_at{grouped}
    """)


def _timestamp(seconds: str) -> str:
    if op.get_bind().dialect.name == "sqlite":
        return f"strftime('%Y-%m-%d %H:%M:%f', {seconds}, 'unixepoch')"
    return f"to_timestamp({seconds})"
