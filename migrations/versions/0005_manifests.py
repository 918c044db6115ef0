"""The rows of manifests: what they say of each image beside where it is; and what that makes of products."""

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
    # The key as it is, and not NULL where it is empty: SQLite joins by an index, and there is none on an expression.
    op.execute("""
        CREATE VIEW image_columns AS
        SELECT images.uri AS image_uri,
               manifest_rows.source,
               manifest_rows.key,
               manifest_rows.columns
        FROM manifest_rows
        JOIN images ON images.id = manifest_rows.image_id
        WHERE images.gone_at IS NULL
    """)
    # An image that several manifests name for a product votes once. That is not asked with DISTINCT, through which
    # SQLite does not look for a single key. Sums of the same numbers may differ in their last digits, and where they
    # are the same, the label decides, byte by byte.
    label = "label" if op.get_bind().dialect.name == "sqlite" else 'label COLLATE "C"'
    op.execute(f"""
        CREATE VIEW current_products AS
        WITH voted AS (
            SELECT manifest_rows.key,
                   current_labels.model,
                   current_labels.model_version,
                   current_labels.label,
                   count(*) AS votes,
                   sum(current_labels.confidence) AS weight,
                   count(CASE WHEN current_labels.needs_review THEN 1 END) AS unsure
            FROM manifest_rows
            JOIN images ON images.id = manifest_rows.image_id
            JOIN current_labels ON current_labels.image_uri = images.uri
            WHERE manifest_rows.key <> ''
              AND NOT EXISTS (
                  SELECT 1 FROM manifest_rows AS other
                  WHERE other.image_id = manifest_rows.image_id
                    AND other.key = manifest_rows.key
                    AND other.source < manifest_rows.source
              )
            GROUP BY manifest_rows.key, current_labels.model, current_labels.model_version, current_labels.label
        ),
        ranked AS (
            SELECT voted.*,
                   CAST(sum(votes) OVER (PARTITION BY key, model, model_version) AS BIGINT) AS images,
                   sum(unsure) OVER (PARTITION BY key, model, model_version) AS all_unsure,
                   count(*) OVER (PARTITION BY key, model, model_version) AS labels,
                   row_number() OVER (
                       PARTITION BY key, model, model_version ORDER BY round(CAST(weight AS numeric), 9) DESC, {label}
                   ) AS place
            FROM voted
        )
        SELECT key,
               label,
               weight / CAST(images AS double precision) AS confidence,
               images,
               CAST(votes AS double precision) / CAST(images AS double precision) AS agreement,
               labels > 1 AS conflict,
               labels > 1 OR all_unsure > 0 AS needs_review,
               model,
               model_version
        FROM ranked
        WHERE place = 1
    """)


def downgrade() -> None:
    op.execute("DROP VIEW current_products")
    op.execute("DROP VIEW image_columns")
    op.drop_table("manifest_rows")
