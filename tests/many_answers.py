"""Many classified images, made by the database itself: a million takes seconds."""

import sqlite3

import psycopg
import sqlalchemy as sa

_INDEXES = ("ix_predictions_label", "ix_predictions_confidence", "ix_predictions_content_hash")


def fill_answers(url: sa.URL, rows: int) -> None:
    """Answer that many images in an empty database with our tables; slow to look up by label or confidence."""
    if url.get_backend_name() == "sqlite":
        numbers = f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {rows})"
        with sqlite3.connect(str(url.database)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            for statement in _statements(numbers, rows):
                connection.execute(statement)
        connection.close()
        return
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as postgres:
        postgres.execute("SET session_replication_role = replica")  # Foreign keys need not be looked up.
        for statement in _statements(f"WITH n(x) AS (SELECT generate_series(1, {rows}))", rows):
            postgres.execute(statement)  # type: ignore[call-overload]
        postgres.execute("ANALYZE")


def _statements(numbers: str, rows: int) -> list[str]:
    return [
        *(f"DROP INDEX {name}" for name in _INDEXES),
        "INSERT INTO model_versions (id, name, version, content_hash, active) VALUES (1, 'm', 1, 'a', true)",
        """INSERT INTO runs (id, source, include, model_version_id, status, started_at, finished_at)
           VALUES (1, 'file:///photos', '[]', 1, 'completed', 0, 0)""",
        f"""INSERT INTO images (id, uri, fingerprint) {numbers}
            SELECT x, 'file:///photos/catalogue/' || ({rows} + x) || '.jpg', '1' FROM n""",
        f"""INSERT INTO predictions
            (image_id, model_version_id, fingerprint, rank, label, confidence, run_id, classified_at) {numbers}
            SELECT x, 1, '1', 1, 'label ' || (x % 1000), x % 997 / 1000.0, 1, 1700000000 + x FROM n""",
    ]
