"""The life of a run: begun or gone on with, held by a command, closed, failed, cancelled."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from base.errors import ModelError, TransientError
from results.guard import Guard
from results.session import Database
from results.tables import BatchStatus, ItemStatus, RunStatus, batches, items, model_versions, runs

#: A run belongs to the command that began it until it was silent for so long.
HOLD_SECONDS = 30.0

OPEN = (RunStatus.LISTING, RunStatus.RUNNING)
# Written out and not as a parameter: only so does SQLite see that the partial index `ix_batches_open` answers it.
NOT_DONE = sa.literal_column("batches.status") != sa.literal_column("'done'")

_HAS_OPEN_BATCHES = sa.exists().where(batches.c.run_id == runs.c.id, NOT_DONE)
# All its images have their end, and somebody has only to note that.
_IS_COMPLETE = sa.and_(runs.c.status == RunStatus.RUNNING, ~_HAS_OPEN_BATCHES)

# Batches whose images get their end in one transaction, so that cancelling a huge run keeps nobody waiting for long.
_BATCHES_PER_PIECE = 100


class SourceHeld(Exception):
    """Another command is running this source."""

    def __init__(self, run_id: int, holder: str, held_until: float) -> None:
        super().__init__(f"run {run_id} is held by {holder}")
        self.run_id = run_id
        self.holder = holder
        self.command = holder.partition("#")[0]  #: as a person knows it, `host/process`
        self.held_until = held_until


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run is asked for. A run that was not finished is gone on with by the same request."""

    source: str
    model: str
    model_version: int
    content_hash: str | None  #: hex; what the registry's files must add up to; None: whatever the database knows
    include: tuple[str, ...] = ()  #: globs; none means the usual suffixes
    exclude: tuple[str, ...] = ()  #: globs
    everything: bool = False  #: unchanged images are classified again, too
    retry_of: int | None = None  #: the run whose failed images are listed, instead of the source
    top_k: int = 5  #: labels kept for each image; a run that is gone on with keeps its own
    guard: Guard | None = None  #: the run is staged, and published where this holds; None: published as it goes
    deadline: float | None = None  #: seconds since 1970 by the database's clock; what is not reached is cancelled


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run to go on with."""

    run_id: int
    model_version_id: int
    cursor: str | None  #: the last URI that is recorded
    is_listed: bool  #: the listing is complete
    resumed: bool  #: it was begun earlier


def open_run(db: Database, request: RunRequest, *, holder: str) -> OpenRun:
    """Begin a run, or go on with the unfinished one of the same request, and hold it.

    The first version of a model's name to be used is active at once.

    Args:
        holder: the command that will see to it, as `host/process`, which `#` and a token may follow.

    Raises:
        SourceHeld: another command is running the source.
        ModelError: the database knows this version with other contents.
    """

    def work(connection: sa.Connection) -> OpenRun:
        if not db.is_sqlite:
            # On SQLite all that write wait for each other. Here two would both find that nobody holds the source.
            lock = sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(request.source, 0))
            connection.execute(sa.select(lock))
        version_id = _register(connection, request)
        _refuse_held(connection, db, request.source, holder)
        held: dict[str, Any] = {"holder": holder, "held_until": db.now + HOLD_SECONDS}
        row = connection.execute(
            sa.select(runs).where(_unfinished(request, version_id)).with_for_update()
        ).one_or_none()
        if row is None:
            run_id = connection.execute(
                runs.insert()
                .values(
                    **_key(request),
                    **held,
                    **_terms(request),
                    top_k=request.top_k,
                    model_version_id=version_id,
                    status=RunStatus.LISTING,
                    started_at=db.now,
                )
                .returning(runs.c.id)
            ).scalar_one()
            return OpenRun(run_id=run_id, model_version_id=version_id, cursor=None, is_listed=False, resumed=False)
        if row.status == RunStatus.CANCELLED:
            raise TransientError(f"run {row.id} is being cancelled; try again in a moment")
        listed = row.listed_at is not None
        status = RunStatus.RUNNING if listed else RunStatus.LISTING
        connection.execute(
            runs.update()
            .where(runs.c.id == row.id)
            .values(**held, **_kept_terms(request, row), status=status, error=None)
        )
        return _unfinished_run(row)

    close_runs(db)  # One that is being cancelled is not gone on with.
    try:
        return db.write(work)
    except IntegrityError:  # Another process began it in between: it is there now.
        return db.write(work)


def find_unfinished(db: Database, request: RunRequest) -> OpenRun | None:
    """The run that `open_run` would go on with; changes nothing."""
    statement = (
        sa.select(runs)
        .join(model_versions)
        .where(
            _unfinished(request, model_versions.c.id),
            model_versions.c.name == request.model,
            model_versions.c.version == request.model_version,
            runs.c.status != RunStatus.CANCELLED,
            ~_IS_COMPLETE,
        )
    )
    row = db.read(lambda connection: connection.execute(statement).one_or_none())
    return None if row is None else _unfinished_run(row)


def find_model_version(db: Database, request: RunRequest) -> int | None:
    """The number that the database has for the request's model version; None when no run has used it.

    Raises:
        ModelError: the database knows it with other contents.
    """
    return db.read(lambda connection: _known_version(connection, request)[0])


def find_time(db: Database) -> float:
    """What time the database says it is, in seconds since 1970."""
    return db.read(lambda connection: connection.execute(sa.select(db.now)).scalar_one())


def find_hold(db: Database, source: str) -> SourceHeld | None:
    """Who is running a source."""
    row = db.read(lambda connection: connection.execute(_held(db, source)).one_or_none())
    return None if row is None else SourceHeld(row.id, row.holder, row.held_until)


def hold_run(db: Database, run_id: int, holder: str) -> None:
    """Show that the command that holds a run still lives."""
    _set_hold(db, run_id, holder, {"held_until": db.now + HOLD_SECONDS})


def let_go_of_run(db: Database, run_id: int, holder: str) -> None:
    """Leave a run to whoever comes next."""
    _set_hold(db, run_id, holder, {"holder": None, "held_until": None})


def fail_run(db: Database, run_id: int, message: str) -> None:
    """Stop a run because of something to mend; the next run of its source goes on with it."""
    statement = (
        runs.update().where(runs.c.id == run_id, runs.c.status.in_(OPEN)).values(status=RunStatus.FAILED, error=message)
    )
    db.write(lambda connection: connection.execute(statement))


def cancel_run(db: Database, run_id: int) -> bool:
    """Stop a run for good: images without an end become `cancelled`, and what is still worked on is not written.

    Of a staged run, nothing is published.

    Returns:
        False when it had ended before.
    """
    # A person's word counts more than a deadline that has passed.
    stop = runs.update().values(status=RunStatus.CANCELLED, out_of_time=False)
    unfinished = stop.where(runs.c.id == run_id, runs.c.finished_at.is_(None))
    open_still = sa.select(runs.c.id).where(runs.c.id == run_id, runs.c.finished_at.is_(None))
    stopped = db.write(lambda connection: connection.execute(unfinished).rowcount)
    # Again, should a worker have split a batch of it at the very moment.
    while stopped and db.read(lambda connection: connection.execute(open_still).first()):
        close_runs(db)
    return bool(stopped)


def close_runs(db: Database) -> None:
    """Close the runs whose images all have their end, stop those whose deadline has passed, and give the images of
    cancelled runs their end.

    Any process may do it, so that nothing depends on the command that cancelled a run living to the end of it.
    """
    cancelled = sa.and_(runs.c.status == RunStatus.CANCELLED, runs.c.finished_at.is_(None))
    is_late = sa.and_(runs.c.status.in_(OPEN), runs.c.deadline <= db.now, ~_IS_COMPLETE)
    # Looked at first: most of the time there is none, and on SQLite writing waits for whoever writes.
    ripe = sa.select(runs.c.id, _IS_COMPLETE.label("is_complete"), is_late.label("is_late")).where(
        sa.or_(_IS_COMPLETE, cancelled, is_late)
    )
    found = db.read(lambda connection: connection.execute(ripe).all())
    if any(row.is_late for row in found):
        now_late = runs.update().where(is_late).values(status=RunStatus.CANCELLED, out_of_time=True)
        db.write(lambda connection: connection.execute(now_late))
    for row in found:
        while not row.is_complete and _cancel_piece(db, row.id):
            pass
    if found:
        now_complete = runs.update().where(_IS_COMPLETE).values(status=RunStatus.COMPLETED, finished_at=db.now)
        now_cancelled = runs.update().where(cancelled, ~_HAS_OPEN_BATCHES).values(finished_at=db.now)
        db.write(lambda connection: (connection.execute(now_complete), connection.execute(now_cancelled)))


def _cancel_piece(db: Database, run_id: int) -> int:
    """End the images of some batches of a cancelled run; returns how many batches there were.

    Where the run is out of time, who works on a batch may end it, for as long as the lease is renewed.
    """
    of_run = sa.select(runs.c.id).where(runs.c.id == run_id, runs.c.status == RunStatus.CANCELLED)
    is_held = sa.and_(batches.c.status == BatchStatus.LEASED, batches.c.lease_until >= db.now)
    may_end = sa.and_(is_held, sa.exists().where(runs.c.id == run_id, runs.c.out_of_time))

    def work(connection: sa.Connection) -> int:
        # The batches first, as a worker does that finishes one, so that the two never wait for each other.
        some = sa.select(batches.c.id).where(batches.c.run_id.in_(of_run), NOT_DONE, ~may_end).order_by(batches.c.id)
        batch_ids = connection.scalars(some.limit(_BATCHES_PER_PIECE).with_for_update()).all()
        if not batch_ids:
            return 0
        connection.execute(
            batches.update()
            .where(batches.c.id.in_(batch_ids), NOT_DONE)
            .values(
                status=BatchStatus.DONE,
                cancelled=batches.c.size,
                fence=batches.c.fence + 1,  # Outdates the claim of whoever works on it.
                owner=None,
                lease_until=None,
                sent_at=None,
            )
        )
        connection.execute(
            items.update()
            .where(items.c.batch_id.in_(batch_ids), items.c.status == ItemStatus.PENDING)
            .values(status=ItemStatus.CANCELLED, finished_at=db.now)
        )
        return len(batch_ids)

    return db.write(work)


def listing_key(source: str, include: Sequence[str], exclude: Sequence[str]) -> dict[str, str]:
    """What the runs that list the same images share."""
    return {"source": source, "include": json.dumps(sorted(include)), "exclude": json.dumps(sorted(exclude))}


def _key(request: RunRequest) -> dict[str, Any]:
    return {
        **listing_key(request.source, request.include, request.exclude),
        "everything": request.everything,
        "retry_of": request.retry_of,
        "staged": request.guard is not None,
    }


def _terms(request: RunRequest) -> dict[str, Any]:
    """How a run ends."""
    return {
        "guard": None if request.guard is None else json.dumps(asdict(request.guard)),
        "deadline": request.deadline,
    }


def _kept_terms(request: RunRequest, row: sa.Row[Any]) -> dict[str, Any]:
    """How a run ends that is gone on with: what is not said again stays as it was said."""
    guard = request.guard
    if guard is not None and guard.max_failures is None:
        guard = replace(guard, max_failures=json.loads(row.guard)["max_failures"])
    return _terms(replace(request, guard=guard, deadline=request.deadline or row.deadline))


def _unfinished(request: RunRequest, version_id: Any) -> sa.ColumnElement[bool]:
    same = [runs.c[name].is_not_distinct_from(value) for name, value in _key(request).items()]
    return sa.and_(*same, runs.c.model_version_id == version_id, runs.c.finished_at.is_(None))


def _unfinished_run(row: sa.Row[Any]) -> OpenRun:
    return OpenRun(
        run_id=row.id,
        model_version_id=row.model_version_id,
        cursor=row.cursor,
        is_listed=row.listed_at is not None,
        resumed=True,
    )


def _held(db: Database, source: str) -> sa.Select[Any]:
    held = sa.and_(runs.c.source == source, runs.c.finished_at.is_(None), runs.c.held_until > db.now)
    return sa.select(runs.c.id, runs.c.holder, runs.c.held_until).where(held).order_by(runs.c.id).limit(1)


def _refuse_held(connection: sa.Connection, db: Database, source: str, holder: str) -> None:
    row = connection.execute(_held(db, source).where(runs.c.holder != holder)).one_or_none()
    if row is not None:
        raise SourceHeld(row.id, row.holder, row.held_until)


def _set_hold(db: Database, run_id: int, holder: str, values: dict[str, Any]) -> None:
    statement = runs.update().where(runs.c.id == run_id, runs.c.holder == holder).values(**values)
    db.write(lambda connection: connection.execute(statement))


def _known_version(connection: sa.Connection, request: RunRequest) -> tuple[int | None, bool]:
    """The number of the request's model version, None where it is new; and whether its name has any version."""
    known = connection.execute(sa.select(model_versions).where(model_versions.c.name == request.model)).all()
    for row in known:
        if row.version == request.model_version and request.content_hash in (row.content_hash, None):
            return int(row.id), True
        if row.version == request.model_version:
            raise ModelError(
                f"the database knows {request.model}:{request.model_version} with contents {row.content_hash[:12]}, "
                f"and this registry's are {str(request.content_hash)[:12]}. "
                "Set TAGMILL_MODELS_URL to the registry that the earlier runs used, "
                "or TAGMILL_DATABASE_URL to another database."
            )
    return None, bool(known)


def _register(connection: sa.Connection, request: RunRequest) -> int:
    version_id, has_name = _known_version(connection, request)
    if version_id is not None:
        return version_id
    inserted = connection.execute(
        model_versions.insert()
        .values(
            name=request.model,
            version=request.model_version,
            content_hash=request.content_hash,
            active=not has_name,
        )
        .returning(model_versions.c.id)
    )
    return int(inserted.scalar_one())
