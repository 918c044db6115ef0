"""The end of a staged run: judged, and published or held back.

Any process may judge, as any may close a run, so that nothing depends on the command that began it living to the end.
"""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from base.errors import FailureReason, SetupError
from base.fingerprints import UNKNOWN
from base.logs import get_logger
from results.guard import Guard, Listed, Shown, check_answers, check_listing
from results.queries import in_source
from results.runs import close_runs, listing_key
from results.session import Database
from results.tables import (
    ItemStatus,
    RunStatus,
    batches,
    images,
    items,
    model_versions,
    predictions,
    runs,
    staged_images,
    staged_predictions,
)

log = get_logger()

_LOOKED_AT = (ItemStatus.CLASSIFIED, ItemStatus.FAILED)


def _is_published(run: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether `current_labels` has all that a run will ever give it; one that is not staged publishes as it goes."""
    has_ended = sa.or_(run.c.status == RunStatus.COMPLETED, sa.and_(run.c.out_of_time, run.c.finished_at.is_not(None)))
    return sa.or_(run.c.published_at.is_not(None), sa.and_(~run.c.staged, has_ended))


def _is_superseded() -> sa.ColumnElement[bool]:
    """Whether a later run of the same source and model has been published, which knows better what is gone."""
    later, version, later_version = runs.alias("later"), model_versions.alias(), model_versions.alias()
    return sa.exists().where(
        later.c.id > runs.c.id,
        *(later.c[name] == runs.c[name] for name in ("source", "include", "exclude")),
        later.c.retry_of.is_(None),
        later.c.listed_at.is_not(None),
        _is_published(later),
        version.c.id == runs.c.model_version_id,
        later_version.c.id == later.c.model_version_id,
        later_version.c.name == version.c.name,
    )


_WAITS = sa.and_(
    runs.c.staged, runs.c.finished_at.is_not(None), runs.c.published_at.is_(None), runs.c.dropped_at.is_(None)
)
_CANNOT_BE_PUBLISHED = sa.or_(sa.and_(runs.c.status == RunStatus.CANCELLED, ~runs.c.out_of_time), _is_superseded())


def settle_runs(db: Database) -> None:
    """Close the runs whose images all have their end; of the staged ones publish those that pass their guard, hold back
    the others, and drop the answers of those that can no longer be published.
    """
    close_runs(db)
    for run_id in _find(db, _WAITS, runs.c.held_back.is_(None), ~_CANNOT_BE_PUBLISHED):
        verdict = db.write(partial(_judge, db, run_id))
        if verdict:
            log.warning("run_held_back", run_id=run_id, reasons=verdict)
        elif verdict is not None:
            log.info("run_published", run_id=run_id)
    for run_id in _find(db, _WAITS, _CANNOT_BE_PUBLISHED):
        db.write(partial(_drop, db, run_id))
        log.info("run_dropped", run_id=run_id)


def publish_run(db: Database, run_id: int) -> None:
    """Publish a finished run, whatever its guard says.

    Raises:
        SetupError: it cannot be published; the message says why, and what to do.
    """

    def work(connection: sa.Connection) -> None:
        _allow_minutes(connection, db)
        run = _lock(connection, run_id, skip_locked=False)
        if run is not None:  # An earlier try of this was committed, or somebody else published it just now.
            _publish(connection, db, run)

    _refuse_unpublishable(db, run_id)
    db.write(work)
    settle_runs(db)  # Older runs that were held back are superseded now.


def was_published(db: Database, source: str, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> bool:
    """Whether a run that listed this, with any model, has been published."""
    listing = listing_key(source, include, exclude)
    statement = sa.select(runs.c.id).where(*_same_listing(listing), _is_published(runs)).limit(1)
    return db.read(lambda connection: connection.execute(statement).first()) is not None


def _find(db: Database, *conditions: sa.ColumnElement[bool]) -> list[int]:
    statement = sa.select(runs.c.id).where(*conditions).order_by(runs.c.id)
    return list(db.read(lambda connection: connection.scalars(statement).all()))


def _judge(db: Database, run_id: int, connection: sa.Connection) -> list[str] | None:
    """Publish a run, or hold it back; why it is held back, or None where somebody else has judged it."""
    _allow_minutes(connection, db)
    run = _lock(connection, run_id, skip_locked=True)
    if run is None or run.held_back is not None:
        return None
    guard = Guard(**json.loads(run.guard))
    reasons = list(check_listing(guard, _listed(connection, run), _last_listed(connection, run)))
    if not reasons:
        # Published on trial: what `current_labels` would show is then a plain question, and always the right one.
        before, trial = _shown(connection, run), connection.begin_nested()
        _publish(connection, db, run)
        reasons = list(check_answers(guard, before, _shown(connection, run)))
        if not reasons:
            trial.commit()
            return []
        trial.rollback()
    connection.execute(runs.update().where(runs.c.id == run_id).values(held_back="; ".join(reasons)))
    return reasons


def _lock(connection: sa.Connection, run_id: int, *, skip_locked: bool) -> sa.Row[Any] | None:
    """A run that waits to be published, kept from being judged by somebody else at the same time."""
    statement = sa.select(runs, model_versions.c.name.label("model")).join(model_versions)
    statement = statement.where(runs.c.id == run_id, _WAITS)
    return connection.execute(statement.with_for_update(of=runs, key_share=True, skip_locked=skip_locked)).one_or_none()


def _allow_minutes(connection: sa.Connection, db: Database) -> None:
    """A million answers take longer to publish than any other statement may."""
    if not db.is_sqlite:
        connection.execute(sa.select(sa.func.set_config("statement_timeout", "0", True)))


def _listed(connection: sa.Connection, run: sa.Row[Any]) -> Listed:
    failed = sa.select(sa.func.coalesce(sa.func.sum(batches.c.failed), 0)).where(batches.c.run_id == run.id)
    return Listed(
        run_id=run.id,
        listed=run.listed,
        failed=int(connection.execute(failed).scalar_one()),
        is_complete=run.listed_at is not None,
    )


def _last_listed(connection: sa.Connection, run: sa.Row[Any]) -> Listed | None:
    """The last run before that was published and listed the same."""
    earlier = sa.select(runs).where(*_same_listing(run._mapping), runs.c.id < run.id, _is_published(runs))
    last = connection.execute(earlier.order_by(runs.c.id.desc()).limit(1)).one_or_none()
    return None if last is None else _listed(connection, last)


def _same_listing(run: Any) -> list[sa.ColumnElement[bool]]:
    """The runs whose complete listing is of the same images as that of a run, by its columns."""
    same = [runs.c[name] == run[name] for name in ("source", "include", "exclude")]
    return [*same, runs.c.retry_of.is_(None), runs.c.listed_at.is_not(None)]


def _shown(connection: sa.Connection, run: sa.Row[Any]) -> Shown:
    view = sa.table("current_labels", *map(sa.column, ("label", "confidence", "image_uri", "model")))
    statement = (
        sa.select(view.c.label, sa.func.count().label("images"), sa.func.sum(view.c.confidence).label("confidence"))
        .where(in_source(connection, view.c.image_uri, run.source), view.c.model == run.model)
        .group_by(view.c.label)
    )
    rows = connection.execute(statement).all()
    labels = {row.label: int(row.images) for row in rows}
    return Shown(labels=labels, mean_confidence=sum(row.confidence for row in rows) / max(sum(labels.values()), 1))


def _publish(connection: sa.Connection, db: Database, run: sa.Row[Any]) -> None:
    """Give `current_labels` the answers of a run, and what it found to be gone or back; in the caller's transaction."""
    _publish_answers(connection, run)
    _publish_images(connection, run)
    _delete_staged(connection, run.id)
    connection.execute(runs.update().where(runs.c.id == run.id).values(published_at=db.now))


def _publish_answers(connection: sa.Connection, run: sa.Row[Any]) -> None:
    staged = staged_predictions.c
    fixed = {"model_version_id": sa.literal(run.model_version_id)}
    columns = {
        column.name: fixed[column.name] if column.name in fixed else staged[column.name] for column in predictions.c
    }
    rows = sa.select(*columns.values()).where(staged.run_id == run.id).order_by(staged.image_id, staged.rank)
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(predictions)
    key = [column.name for column in predictions.primary_key]
    changed = {name: insert.excluded[name] for name in columns if name not in key}
    upsert = insert.from_select(list(columns), rows).on_conflict_do_update(index_elements=key, set_=changed)
    connection.execute(upsert)
    # Of an earlier answer to the same bytes, when more labels were kept.
    last_rank = sa.select(sa.func.max(staged.rank)).where(
        staged.run_id == run.id,
        staged.image_id == predictions.c.image_id,
        staged.fingerprint == predictions.c.fingerprint,
    )
    connection.execute(
        predictions.delete().where(
            predictions.c.image_id.in_(sa.select(staged.image_id).where(staged.run_id == run.id)),
            predictions.c.model_version_id == run.model_version_id,
            predictions.c.rank > last_rank.scalar_subquery(),
        )
    )


def _publish_images(connection: sa.Connection, run: sa.Row[Any]) -> None:
    """Note which bytes the images had, and which images are gone or back; a run that looked later knows better."""
    other = items.alias("other")
    seen_later = sa.exists().where(
        other.c.image_id == images.c.id,
        other.c.run_id > run.id,
        other.c.status.in_(_LOOKED_AT),
        runs.c.id == other.c.run_id,
        sa.or_(~runs.c.staged, runs.c.published_at.is_not(None)),
    )
    connection.execute(
        images.update()
        .where(
            images.c.id == items.c.image_id,
            items.c.run_id == run.id,
            items.c.status.in_(_LOOKED_AT),
            images.c.fingerprint.is_distinct_from(items.c.fingerprint),
            # Where a host was down nobody knows which bytes there are, and the image keeps the answer that it has.
            sa.or_(
                images.c.fingerprint.is_(None),
                items.c.fingerprint != UNKNOWN,
                items.c.reason.is_distinct_from(FailureReason.STORAGE_ERROR),
            ),
            ~seen_later,
        )
        .values(fingerprint=items.c.fingerprint)
    )
    connection.execute(
        images.update()
        .where(images.c.id == staged_images.c.image_id, staged_images.c.run_id == run.id, ~seen_later)
        .values(gone_at=staged_images.c.gone_at)
    )


def _drop(db: Database, run_id: int, connection: sa.Connection) -> None:
    _allow_minutes(connection, db)
    if _lock(connection, run_id, skip_locked=True) is not None:
        _delete_staged(connection, run_id)
        connection.execute(runs.update().where(runs.c.id == run_id).values(dropped_at=db.now))


def _delete_staged(connection: sa.Connection, run_id: int) -> None:
    for table in (staged_predictions, staged_images):
        connection.execute(table.delete().where(table.c.run_id == run_id))


def _refuse_unpublishable(db: Database, run_id: int) -> None:
    statement = sa.select(runs, _is_superseded().label("superseded")).where(runs.c.id == run_id)
    run = db.read(lambda connection: connection.execute(statement).one())
    if not run.staged:
        raise SetupError(f"run {run_id} is not staged: its answers were published as it went. See 'tagmill results'.")
    if run.published_at is not None:
        raise SetupError(f"run {run_id} is published already; 'tagmill status {run_id}' tells since when.")
    if run.finished_at is None:
        raise SetupError(
            f"run {run_id} is {run.status}, and can be published once it has ended. 'tagmill run' with its source and "
            f"--stage goes on with it; 'tagmill status {run_id}' shows how far it is."
        )
    if run.superseded:
        raise SetupError(
            f"run {run_id} is superseded: a later run of the same source and model has been published. "
            "'tagmill run' with its source classifies what that did not reach."
        )
    if run.status == RunStatus.CANCELLED and not run.out_of_time:
        raise SetupError(
            f"run {run_id} was cancelled, and its answers are dropped. 'tagmill run' with its source and --stage "
            "begins anew."
        )
