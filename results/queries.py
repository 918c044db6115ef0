"""What the commands ask; read only."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from base.errors import TransientError
from base.stages import Stage
from results.guard import Guard
from results.runs import RunRequest
from results.session import Database
from results.tables import (
    ItemStatus,
    RunStatus,
    batches,
    images,
    items,
    manifest_rows,
    model_versions,
    predictions,
    runs,
    staged_predictions,
)


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A run and how far it is."""

    run_id: int
    source: str
    model: str
    model_version: int
    status: RunStatus
    listed: int
    classified: int
    reused: int
    failed: int
    skipped: int
    cancelled: int
    new: int
    changed: int
    passed_over: int
    gone: int
    is_listed: bool  #: the listing is complete, so `listed` is final
    claims: int  #: how often a worker took a batch
    started_at: float  #: seconds since 1970
    finished_at: float | None
    now: float  #: the database's clock at this moment
    error: str | None
    staged: bool
    held_back: str | None  #: why a staged run was not published by itself
    published_at: float | None  #: of a staged run; the others are published as they go
    dropped_at: float | None  #: when the answers of a staged run were deleted that will not be published
    deadline: float | None
    out_of_time: bool  #: the deadline passed before all images had their end

    @property
    def publication(self) -> str | None:
        """Where a staged run stands; None for the others."""
        if not self.staged:
            return None
        if self.published_at is not None:
            return "published"
        if self.dropped_at is not None:
            return "dropped"
        return "staged" if self.held_back is None else "held back"

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is left to be done; of a staged run, by itself."""
        return self.finished_at is not None and self.publication != "staged"

    @property
    def done(self) -> int:
        """Images that have their end."""
        return self.classified + self.failed + self.skipped + self.cancelled

    @property
    def elapsed_seconds(self) -> float:
        return max((self.finished_at or self.now) - self.started_at, 0.0)


_COUNTERS = ("classified", "reused", "failed", "cancelled", "claims")


def find_runs(db: Database, run_id: int | None = None) -> list[RunProgress]:
    """The run of that number, or the latest one; empty where there is none."""
    wanted = sa.select(runs.c.id).order_by(runs.c.id.desc()).limit(1)
    if run_id is not None:
        wanted = sa.select(runs.c.id).where(runs.c.id == run_id)
    counts = (
        sa.select(
            batches.c.run_id,
            *(_total(batches.c["fence" if name == "claims" else name]).label(name) for name in _COUNTERS),
        )
        .where(batches.c.run_id.in_(wanted))
        .group_by(batches.c.run_id)
        .subquery()
    )
    statement = (
        sa.select(
            runs,
            model_versions.c.name.label("model"),
            model_versions.c.version.label("model_version"),
            *(sa.func.coalesce(counts.c[name], 0).label(name) for name in _COUNTERS),
            db.now.label("now"),
        )
        .join(model_versions, model_versions.c.id == runs.c.model_version_id)
        .outerjoin(counts, counts.c.run_id == runs.c.id)
        .where(runs.c.id.in_(wanted))
        .order_by(runs.c.id.desc())
    )
    rows = db.read(lambda connection: connection.execute(statement).all())
    return [
        RunProgress(
            run_id=row.id,
            source=row.source,
            model=row.model,
            model_version=row.model_version,
            status=RunStatus(row.status),
            listed=row.listed,
            classified=int(row.classified),
            reused=int(row.reused),
            failed=int(row.failed),
            skipped=row.skipped,
            cancelled=int(row.cancelled),
            new=row.new,
            changed=row.changed,
            passed_over=row.passed_over,
            gone=row.gone,
            is_listed=row.listed_at is not None,
            claims=int(row.claims),
            started_at=row.started_at,
            finished_at=row.finished_at,
            now=row.now,
            error=row.error,
            staged=row.staged,
            held_back=row.held_back,
            published_at=row.published_at,
            dropped_at=row.dropped_at,
            deadline=row.deadline,
            out_of_time=row.out_of_time,
        )
        for row in rows
    ]


def find_request(db: Database, run_id: int) -> RunRequest:
    """What a run was asked for."""
    statement = sa.select(runs, model_versions).join(model_versions).where(runs.c.id == run_id)
    row = db.read(lambda connection: connection.execute(statement).one())
    return RunRequest(
        source=row.source,
        model=row.name,
        model_version=row.version,
        content_hash=row.content_hash,
        include=tuple(json.loads(row.include)),
        exclude=tuple(json.loads(row.exclude)),
        everything=row.everything,
        retry_of=row.retry_of,
        top_k=row.top_k,
        guard=None if row.guard is None else Guard(**json.loads(row.guard)),
        deadline=row.deadline,
    )


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Where the time of the worker processes went in a run."""

    batches: int  #: those that were measured
    images: int  #: of these batches
    seconds: dict[Stage, float]  #: of all processes together


def find_stages(db: Database, run_id: int) -> StageTimes:
    """Add up where the time of a run's finished batches went."""
    seconds = [batches.c[f"{stage}_seconds"] for stage in Stage]
    statement = sa.select(
        sa.func.count().label("batches"),
        _total(batches.c.size).label("images"),
        *(sa.func.coalesce(sa.func.sum(column), 0.0).label(column.name) for column in seconds),
    ).where(batches.c.run_id == run_id, seconds[0].is_not(None))
    (row,) = db.rows(statement)
    return StageTimes(
        batches=row.batches,
        images=row.images,
        seconds={stage: getattr(row, f"{stage}_seconds") for stage in Stage},
    )


def recent_speed(db: Database, run_id: int, *, seconds: float = 60.0) -> float:
    """Images of a run that got their end per second, of late."""
    ended = sa.and_(items.c.run_id == run_id, items.c.finished_at >= db.now - seconds)
    statement = sa.select(
        sa.func.count(), sa.select(db.now - runs.c.started_at).where(runs.c.id == run_id).scalar_subquery()
    )
    images, age = db.read(lambda connection: connection.execute(statement.where(ended)).one())
    return float(images / min(seconds, age)) if age > 0 else 0.0


def count_failures(db: Database, run_id: int) -> dict[str, int]:
    """How many images of a run failed, by reason, the most frequent first."""
    statement = (
        sa.select(items.c.reason, sa.func.count().label("images"))
        .where(items.c.run_id == run_id, items.c.status == ItemStatus.FAILED)
        .group_by(items.c.reason)
        .order_by(sa.desc("images"), items.c.reason)
    )
    return {row.reason: row.images for row in db.read(lambda connection: connection.execute(statement).all())}


def count_labels(db: Database, *, source: str, model: str, limit: int = 10) -> list[tuple[str, int]]:
    """The most common labels of a source's images: (label, images), the most common first."""
    view = sa.table("current_labels", sa.column("label"), sa.column("image_uri"), sa.column("model"))
    statement = (
        sa.select(view.c.label, sa.func.count().label("images"))
        .where(view.c.model == model)
        .group_by(view.c.label)
        .order_by(sa.desc("images"), view.c.label)
        .limit(limit)
    )

    def work(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
        return connection.execute(statement.where(in_source(connection, view.c.image_uri, source))).all()

    return [(row.label, row.images) for row in db.read(work)]


@dataclass(frozen=True, kw_only=True)
class LabelFilter:
    """Which rows of `current_labels` are wanted; None, or no label, wants all."""

    labels: tuple[str, ...] = ()  #: any of them
    min_confidence: float | None = None
    max_confidence: float | None = None
    source: str | None = None  #: the URI of a folder, of one image, or of a manifest
    model: str | None = None
    model_version: int | None = None
    reviewed: bool | None = None  #: whether it is a person's answer
    needs_review: bool | None = None


#: The columns of `current_labels`, in order, and what each holds.
LABEL_COLUMNS: dict[str, type] = {
    "image_uri": str,
    "label": str,
    "confidence": float,
    "model": str,
    "model_version": int,
    "run_id": int,
    "answered_by": str,
    "needs_review": bool,
    "classified_at": datetime,
}
_ROWS_FETCHED = 2000


def list_labels(db: Database, wanted: LabelFilter, *, limit: int | None = None) -> Iterator[Sequence[Any]]:
    """The rows of `current_labels`, by image, as LABEL_COLUMNS; all of one moment, read as they are asked for.

    Times are text in one form on both databases: ISO 8601, UTC, milliseconds.

    Raises:
        TransientError: the database stopped answering.
    """
    try:
        with db.reader.connect() as connection:
            if not db.is_sqlite:
                # Whoever asks for the rows may take hours over them, and sorting very many takes more than a minute.
                limits = ("statement_timeout", "idle_in_transaction_session_timeout")
                connection.execute(sa.select(*(sa.func.set_config(name, "0", True) for name in limits)))
            reading = connection.execution_options(yield_per=_ROWS_FETCHED)
            with reading.execute(labels_statement(db, wanted).limit(limit)) as rows:
                yield from rows
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).strip().partition("\n")[0]
        raise TransientError(f"{db} stopped answering: {reason}. Try again.") from error


def labels_statement(db: Database, wanted: LabelFilter) -> sa.Select[Any]:
    """What `list_labels` asks the database."""
    # SQLite has no truth values of its own.
    types = {name: sa.Boolean() if kind is bool else None for name, kind in LABEL_COLUMNS.items()}
    view = sa.table("current_labels", *(sa.column(name, kind) for name, kind in types.items()))
    classified_at = (
        sa.func.replace(view.c.classified_at, " ", "T").concat("Z")
        if db.is_sqlite
        else sa.func.to_char(sa.func.timezone("UTC", view.c.classified_at), 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    )
    columns = [classified_at.label(column.name) if column is view.c.classified_at else column for column in view.c]
    conditions = db.read(lambda connection: list(_label_conditions(connection, view, wanted)))
    return sa.select(*columns).where(*conditions).order_by(view.c.image_uri, view.c.model)


def _label_conditions(
    connection: sa.Connection, view: sa.TableClause, wanted: LabelFilter
) -> Iterator[sa.ColumnElement[bool]]:
    is_range = wanted.source is not None and not _is_manifest(connection, wanted.source)
    # A range holds every URI, as they are ASCII, but makes SQLite go through the images by their index. Without one it
    # begins with the predictions, and has to sort the whole answer before its first row.
    below = str(wanted.source).rstrip("/") if is_range else ""
    yield view.c.image_uri >= below
    yield view.c.image_uri < (below + chr(ord("/") + 1) if below else "\x7f")
    if wanted.source is not None:
        yield in_source(connection, view.c.image_uri, wanted.source)
    if wanted.labels:
        yield view.c.label.in_(wanted.labels)
    if wanted.min_confidence is not None:
        yield view.c.confidence >= wanted.min_confidence
    if wanted.max_confidence is not None:
        yield view.c.confidence <= wanted.max_confidence
    if wanted.model is not None:
        yield view.c.model == wanted.model
    if wanted.model_version is not None:
        yield view.c.model_version == wanted.model_version
    if wanted.reviewed is not None:
        yield (view.c.answered_by == "human") == wanted.reviewed
    if wanted.needs_review is not None:
        yield view.c.needs_review == wanted.needs_review


def active_models(db: Database) -> dict[str, int]:
    """Every model whose answers `current_labels` shows, with its active version."""
    statement = sa.select(model_versions.c.name, model_versions.c.version).where(model_versions.c.active)
    return {row.name: row.version for row in db.read(lambda connection: connection.execute(statement).all())}


def known_labels(db: Database) -> list[str]:
    """Every label that is the most confident one of some image.

    Each is looked up in an index as the next after the one before, which takes no longer for more images.
    """
    label = predictions.c.label
    found = sa.select(sa.func.min(label).label("label")).cte("found", recursive=True)
    following = sa.select(sa.func.min(label)).where(label > found.c.label).scalar_subquery()
    found = found.union_all(sa.select(following).where(found.c.label.is_not(None)))
    is_first = sa.select(1).where(label == found.c.label, predictions.c.rank == 1).exists()
    statement = sa.select(found.c.label).where(is_first)
    return list(db.read(lambda connection: connection.scalars(statement).all()))


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that keeps a run from being proved."""

    what: str
    image_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The counts of a run, each taken from the images themselves and not from the counters that the run kept."""

    run_id: int
    listed: int
    classified: int
    failed: int
    skipped: int
    cancelled: int
    gaps: tuple[Gap, ...]  #: empty when the run is proved


def verify_run(db: Database, run_id: int, *, most_gaps: int = 100) -> Proof:
    """Prove that every listed image of a run has exactly one end, and every classified one its rows.

    Args:
        most_gaps: how many are named of each kind; all are counted.
    """
    return db.read(lambda connection: _verify(connection, run_id, most_gaps))


def _verify(connection: sa.Connection, run_id: int, most_gaps: int) -> Proof:
    run = connection.execute(sa.select(runs).where(runs.c.id == run_id)).one()
    counted = sa.select(items.c.status, sa.func.count()).where(items.c.run_id == run_id).group_by(items.c.status)
    by_status: dict[str, int] = dict(list(connection.execute(counted)))
    counters = connection.execute(
        sa.select(
            *(_total(batches.c[name]).label(name) for name in ("size", "classified", "failed", "cancelled"))
        ).where(batches.c.run_id == run_id)
    ).one()
    gaps: list[Gap] = []
    if run.listed_at is None and run.status != RunStatus.CANCELLED:
        gaps.append(Gap(what="the listing is not complete"))
    if run.status == RunStatus.CANCELLED and run.finished_at is None:
        still = "out of time, and its last batches still end" if run.out_of_time else "still being cancelled"
        gaps.append(Gap(what=f"it is {still}; 'tagmill cancel {run_id}' ends that"))
    ended = sum(by_status.get(status, 0) for status in ItemStatus if status is not ItemStatus.PENDING)
    if run.listed != ended + run.skipped:
        gaps.append(Gap(what=f"{run.listed} images listed, {ended + run.skipped} with an end"))
    for status in (ItemStatus.CLASSIFIED, ItemStatus.FAILED, ItemStatus.CANCELLED):
        kept = int(getattr(counters, status))
        if kept != by_status.get(status, 0):
            gaps.append(Gap(what=f"batches counted {kept} images {status}, there are {by_status.get(status, 0)}"))
    if int(counters.size) != sum(by_status.values()):
        gaps.append(Gap(what=f"batches hold {int(counters.size)} images, there are {sum(by_status.values())}"))
    gaps += _named(connection, "no end", _without_end(run_id), most_gaps)
    if run.dropped_at is None:
        gaps += _named(connection, "classified, but its predictions are not complete", _without_rows(run), most_gaps)
    return Proof(
        run_id=run_id,
        listed=run.listed,
        classified=by_status.get(ItemStatus.CLASSIFIED, 0),
        failed=by_status.get(ItemStatus.FAILED, 0),
        skipped=run.skipped,
        cancelled=by_status.get(ItemStatus.CANCELLED, 0),
        gaps=tuple(gaps),
    )


def _without_end(run_id: int) -> sa.Select[str]:
    return (
        sa.select(images.c.uri)
        .join(items, items.c.image_id == images.c.id)
        .where(items.c.run_id == run_id, items.c.status == ItemStatus.PENDING)
    )


def _without_rows(run: Any) -> sa.Select[str]:
    """Classified images whose ranks are not 1, 2, … without a hole, the most confident first."""
    is_apart = run.staged and run.published_at is None
    answers = staged_predictions if is_apart else predictions
    of_run = answers.c.run_id == run.id if is_apart else answers.c.model_version_id == run.model_version_id
    rows = (
        sa.select(
            answers.c.image_id,
            answers.c.fingerprint,
            sa.func.count().label("rows"),
            sa.func.max(answers.c.rank).label("last"),
            sa.func.max(answers.c.confidence).label("best"),
            sa.func.max(sa.case((answers.c.rank == 1, answers.c.confidence))).label("first"),
        )
        .join(items, sa.and_(items.c.image_id == answers.c.image_id, items.c.fingerprint == answers.c.fingerprint))
        .where(of_run, items.c.run_id == run.id)
        .group_by(answers.c.image_id, answers.c.fingerprint)
        .subquery()
    )
    return (
        sa.select(images.c.uri)
        .join(items, items.c.image_id == images.c.id)
        .outerjoin(rows, sa.and_(rows.c.image_id == items.c.image_id, rows.c.fingerprint == items.c.fingerprint))
        .where(
            items.c.run_id == run.id,
            items.c.status == ItemStatus.CLASSIFIED,
            sa.or_(rows.c.rows.is_(None), rows.c.rows != rows.c.last, rows.c.first != rows.c.best),
        )
    )


def _named(connection: sa.Connection, what: str, statement: sa.Select[str], most_gaps: int) -> list[Gap]:
    found = connection.scalar(sa.select(sa.func.count()).select_from(statement.subquery())) or 0
    gaps = [
        Gap(what=what, image_uri=uri) for uri in connection.scalars(statement.order_by(images.c.uri).limit(most_gaps))
    ]
    if found > most_gaps:
        gaps.append(Gap(what=f"{what}: {found - most_gaps} more images"))
    return gaps


def in_source(connection: sa.Connection, image_uri: sa.ColumnElement[str], source: str) -> sa.ColumnElement[bool]:
    """Whether an image is of a source: one that a manifest of that URI names, or `of_source`."""
    if not _is_manifest(connection, source):
        return of_source(image_uri, source)
    named = images.alias("named")
    rows = sa.select(named.c.uri).join(manifest_rows, manifest_rows.c.image_id == named.c.id)
    return image_uri.in_(rows.where(manifest_rows.c.source == source))


def _is_manifest(connection: sa.Connection, source: str) -> bool:
    """Whether it has named images."""
    return bool(connection.scalar(sa.select(sa.exists().where(manifest_rows.c.source == source))))


def of_source(image_uri: sa.ColumnElement[str], source: str) -> sa.ColumnElement[bool]:
    """The image of that URI, or those below it; as a range, which an index answers."""
    below = source.rstrip("/")
    return sa.or_(image_uri == source, sa.and_(image_uri >= below + "/", image_uri < below + chr(ord("/") + 1)))


def _total(column: sa.Column[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)
