"""The tables. People query the views of `migrations/`, whose columns are a contract; the tables may change.

Times are seconds since 1970 in UTC by the database's own clock, so that machines whose clocks differ agree on leases.
"""

from enum import IntEnum, StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from base.errors import FailureReason
from base.stages import Stage


class RunStatus(StrEnum):
    """The life of a run."""

    LISTING = "listing"  # The producer still walks the source.
    RUNNING = "running"  # The listing is complete; batches are not.
    COMPLETED = "completed"  # Every image has its end.
    CANCELLED = "cancelled"  # Stopped for good before that.
    FAILED = "failed"  # Stopped by something to mend; the next run of the source goes on with it.


class BatchStatus(StrEnum):
    """The life of a batch; every change is one transaction, most of them in `ledger.py`."""

    PENDING = "pending"  # Waits for a worker.
    LEASED = "leased"  # A worker holds it until its lease runs out.
    DONE = "done"  # Each of its images has its end, or went to another batch.


class Priority(IntEnum):
    """Which batches of a run go first: those with the lowest."""

    LEFT_OVER = 0  # The last run of the source had no time left for them.
    NEW = 1
    CHANGED = 2
    RETRY = 3  # Failed before, or wanted once more.


class ItemStatus(StrEnum):
    """The end of one image within one run, or that it has none yet."""

    PENDING = "pending"
    CLASSIFIED = "classified"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SlotStatus(StrEnum):
    """The life of a slot: one time at which a schedule wants a run."""

    DUE = "due"  # Nobody has begun with it.
    RUNNING = "running"  # A producer sees to its run.
    DONE = "done"  # Its run has ended, and says how.
    FAILED = "failed"  # It could not be run, or its run stopped; `message` says why.
    SKIPPED = "skipped"  # Left out, because an earlier one was still going or it was missed.


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts up only in a column declared INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")
# URIs are ASCII and compared byte by byte, so that the database's order is the producer's listing order.
_Uri = Text().with_variant(Text(collation="C"), "postgresql")

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("content_hash", String(64), nullable=False),  # Of the registry's files; the version's identity.
    Column("active", Boolean(name="active"), nullable=False),  # Its answers are those of `current_labels`.
    Index("uq_model_versions_name_version", "name", "version", unique=True),
    Index(
        "uq_model_versions_active",
        "name",
        unique=True,
        sqlite_where=text("active"),
        postgresql_where=text("active"),
    ),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("source", _Uri, nullable=False),
    Column("include", Text, nullable=False),  # JSON list of globs; [] means the usual suffixes.
    Column("exclude", Text, nullable=False, server_default="[]"),  # JSON list of globs.
    Column("everything", Boolean(name="everything"), nullable=False, server_default=text("false")),  # Unchanged, too.
    Column("retry_of", _Id),  # The run whose failed images this one lists, instead of the source.
    Column("top_k", Integer, nullable=False, server_default="5"),  # Labels kept for each image.
    Column("model_version_id", ForeignKey("model_versions.id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("cursor", _Uri),  # The last URI whose end is recorded; the listing goes on after it.
    Column("listed", BigInteger, nullable=False, server_default="0"),
    Column("skipped", BigInteger, nullable=False, server_default="0"),
    Column("passed_over", BigInteger, nullable=False, server_default="0"),  # Links, devices and the like.
    Column("gone", BigInteger, nullable=False, server_default="0"),
    Column("new", BigInteger, nullable=False, server_default="0"),  # Of the listed: without any answer before.
    Column("changed", BigInteger, nullable=False, server_default="0"),  # Of the listed: others than before.
    Column("started_at", Double, nullable=False),
    Column("listed_at", Double),  # When the listing was complete.
    Column("finished_at", Double),
    Column("error", Text),  # Why it stopped, where it did.
    Column("holder", Text),  # The command that sees to it, as `host/process`.
    Column("held_until", Double),  # Renewed while that command lives.
    # Its answers are kept apart until they are published.
    Column("staged", Boolean(name="staged"), nullable=False, server_default=text("false")),
    Column("guard", Text),  # Of a staged run, JSON: what has to hold before it is published.
    Column("held_back", Text),  # Why it was not.
    Column("published_at", Double),  # Of a staged run; the others are published as they go.
    Column("dropped_at", Double),  # When the answers of a staged run were deleted that will not be published.
    Column("deadline", Double),  # What is not reached until then is cancelled.
    Column("out_of_time", Boolean(name="out_of_time"), nullable=False, server_default=text("false")),  # It was.
    CheckConstraint(_one_of("status", RunStatus), name="status"),
    # At most one unfinished run of the same request: the one to go on with.
    Index(
        "uq_runs_unfinished",
        "source",
        "include",
        "model_version_id",
        "exclude",
        "everything",
        "staged",
        unique=True,
        sqlite_where=text("finished_at IS NULL AND retry_of IS NULL"),
        postgresql_where=text("finished_at IS NULL AND retry_of IS NULL"),
    ),
    Index(
        "uq_runs_unfinished_retry",
        "retry_of",
        unique=True,
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
)

images = Table(
    "images",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("uri", _Uri, nullable=False),
    # Of the bytes that were last classified, or failed to be; a listing that finds another one means: changed.
    Column("fingerprint", Text),
    Column("gone_at", Double),  # When a listing no longer found it.
    Index("uq_images_uri", "uri", unique=True),
    # Not for the views, and so with a condition: images without bytes share a fingerprint by the thousand.
    Index(
        "ix_images_fingerprint",
        "fingerprint",
        sqlite_where=text("fingerprint NOT IN ('missing', 'unknown')"),
        postgresql_where=text("fingerprint NOT IN ('missing', 'unknown')"),
    ),
)

manifest_rows = Table(
    "manifest_rows",
    metadata,
    Column("source", _Uri, primary_key=True),  # The manifest's URI.
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("key", Text, primary_key=True, server_default=""),  # Of the product; empty where no column is the key.
    Column("columns", JSON().with_variant(JSONB(), "postgresql"), nullable=False),  # The others, by name.
    Index("ix_manifest_rows_key", "key"),
    Index("ix_manifest_rows_image_id", "image_id"),
    sqlite_with_rowid=False,
)

batches = Table(
    "batches",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("size", Integer, nullable=False),  # Its images; 0 once it was split.
    Column("owner", Text),
    Column("lease_until", Double),
    Column("fence", Integer, nullable=False, server_default="0"),  # Outdates every earlier claim.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("earlier_attempts", Integer, nullable=False, server_default="0"),  # Of the batches it was split from.
    Column("lost_reason", Text),  # How the last claim ended, when it ended without an answer.
    Column("sent_at", Double),  # None: to be sent.
    Column("not_before", Double),
    Column("classified", Integer, nullable=False, server_default="0"),
    Column("reused", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("cancelled", Integer, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False, server_default="0"),  # One of `Priority`.
    # Where the time of the process went that finished it; None before that, and from before it was measured.
    *(Column(f"{stage}_seconds", Double) for stage in Stage),
    CheckConstraint(_one_of("status", BatchStatus), name="status"),
    Index("ix_batches_run_id", "run_id"),
    # Small however many batches are done, and it answers both "what is due" and "is the run complete".
    Index(
        "ix_batches_open",
        "run_id",
        "priority",
        "id",
        sqlite_where=text("status <> 'done'"),
        postgresql_where=text("status <> 'done'"),
    ),
)

items = Table(
    "items",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("batch_id", ForeignKey("batches.id"), nullable=False),
    Column("fingerprint", Text, nullable=False),  # As listed; once ended, of the bytes that were looked at.
    Column("status", Text, nullable=False),
    Column("reused", Boolean(name="reused"), nullable=False, server_default=text("false")),
    Column("reason", Text),
    Column("message", Text),
    Column("attempts", Integer),
    Column("finished_at", Double),
    CheckConstraint(_one_of("status", ItemStatus), name="status"),
    CheckConstraint(_one_of("reason", FailureReason), name="reason"),
    CheckConstraint("(status = 'failed') = (reason IS NOT NULL)", name="failed_has_reason"),
    Index("ix_items_batch_id", "batch_id"),
    sqlite_with_rowid=False,
)

predictions = Table(
    "predictions",
    metadata,
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("model_version_id", ForeignKey("model_versions.id"), primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("label", Text, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("content_hash", LargeBinary(32)),  # On rank 1: sha256 of the bytes that this is the answer to.
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("classified_at", Double, nullable=False),
    # On rank 1: a person should look at it.
    Column("needs_review", Boolean(name="needs_review"), nullable=False, server_default=text("false")),
    CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence"),
    CheckConstraint("rank >= 1", name="rank"),
    Index("ix_predictions_label", "label", "rank", "confidence"),
    Index(
        "ix_predictions_content_hash",
        "content_hash",
        "model_version_id",
        sqlite_where=text("rank = 1"),
        postgresql_where=text("rank = 1"),
    ),
    Index(
        "ix_predictions_confidence",
        "confidence",
        sqlite_where=text("rank = 1"),
        postgresql_where=text("rank = 1"),
    ),
    sqlite_with_rowid=False,
)

# The answers of a staged run, until they are published or dropped.
staged_predictions = Table(
    "staged_predictions",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("content_hash", LargeBinary(32)),  # On rank 1.
    Column("classified_at", Double, nullable=False),
    Column("needs_review", Boolean(name="needs_review"), nullable=False, server_default=text("false")),
    CheckConstraint("confidence >= 0 AND confidence <= 1", name="confidence"),
    CheckConstraint("rank >= 1", name="rank"),
    Index(
        "ix_staged_predictions_content_hash",
        "content_hash",
        "run_id",
        sqlite_where=text("rank = 1"),
        postgresql_where=text("rank = 1"),
    ),
    sqlite_with_rowid=False,
)

# Images that a staged run found to be gone, or to be back.
staged_images = Table(
    "staged_images",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("image_id", ForeignKey("images.id"), primary_key=True),
    Column("gone_at", Double),  # None: it is back.
    sqlite_with_rowid=False,
)

slots = Table(
    "slots",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due_at", BigInteger, primary_key=True, autoincrement=False),  # To the minute.
    Column("status", Text, nullable=False),
    Column("run_id", ForeignKey("runs.id")),
    Column("message", Text),  # Why it failed or was skipped.
    Column("holder", Text),  # The producer that sees to it.
    Column("held_until", Double),  # Renewed while that lives.
    CheckConstraint(_one_of("status", SlotStatus), name="status"),
)

#: What people query; see docs/sql.md.
VIEWS = (
    "current_labels",
    "predictions_top_k",
    "run_summary",
    "failures_by_image",
    "image_columns",
    "current_products",
    "schedule_slots",
)
