"""The life of a batch: recorded, claimed, renewed, finished, given back, split.

Each function is one transaction. Messages may be lost or repeated and processes may die between any two lines; what
keeps every image at exactly one end is the fence: a claim raises it, and nothing is written for an older claim.
`docs/architecture.md` draws it.
"""

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from base.errors import FailureReason
from base.fingerprints import UNKNOWN
from base.stages import Stage
from results.runs import NOT_DONE, OPEN
from results.session import Database
from results.tables import (
    BatchStatus,
    ItemStatus,
    Priority,
    batches,
    images,
    items,
    model_versions,
    predictions,
    runs,
    staged_predictions,
)

#: A batch whose claims were lost this often is split; an image alone in its batch is given up.
CLAIMS_LEFT_UNANSWERED = 2

# Whoever chooses what to send on PostgreSQL holds the lock of this number meanwhile.
_SENDERS_LOCK = 7461677
_SENDER_MILLISECONDS = "10000"  # So long it may keep the others waiting between two statements.


class LeaseLost(Exception):
    """Somebody else holds the batch by now, or has finished it: drop the work."""


@dataclass(frozen=True, kw_only=True)
class ClaimedImage:
    """One image of a claimed batch."""

    image_id: int
    uri: str
    fingerprint: str  #: as it was listed


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold on a batch."""

    batch_id: int
    run_id: int
    fence: int
    model_version_id: int
    model: str
    model_version: int
    content_hash: str  #: hex; what the registry's files must add up to
    everything: bool  #: the run wants each image classified, also where its bytes were known before
    top_k: int  #: labels to keep for each image
    staged: bool  #: the answers are kept apart until the run is published
    images: tuple[ClaimedImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model version says of one image."""

    image_id: int
    fingerprint: str  #: of the bytes that were classified
    content_hash: bytes  #: sha256 of those bytes
    labels: Sequence[tuple[str, float]]  #: (label, confidence), the most confident first
    reused: bool = False  #: copied from an image with the same bytes
    needs_review: bool = False  #: a person should look at its first label


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why one image has no answer."""

    image_id: int
    fingerprint: str
    reason: FailureReason
    message: str


def claim(db: Database, batch_id: int, *, owner: str, lease_seconds: float) -> Claim | None:
    """Take a batch, so that nobody else works on it while the lease is renewed.

    A batch whose earlier claims were lost is split in two instead, and a single image is given up: that is how one
    image that kills its worker is found, with its neighbours unharmed.

    Args:
        owner: the worker process, as `worker/process`; the first part is shared by the processes of one worker.

    Returns:
        None when there is nothing to do here: another worker has the batch, it is done, or it was split just now.
    """

    def work(connection: sa.Connection) -> Claim | None:
        free = sa.or_(batches.c.status == BatchStatus.PENDING, batches.c.lease_until < db.now)
        open_run = sa.exists().where(runs.c.id == batches.c.run_id, runs.c.status.in_(OPEN))
        row = connection.execute(
            batches.update()
            .where(batches.c.id == batch_id, batches.c.status != BatchStatus.DONE, free, open_run)
            .values(
                status=BatchStatus.LEASED,
                owner=owner,
                fence=batches.c.fence + 1,
                attempts=batches.c.attempts + 1,
                lease_until=db.now + lease_seconds,
                sent_at=None,
                not_before=None,
                # Taken from an owner that never gave it back: the whole worker was lost.
                lost_reason=sa.case(
                    (batches.c.status == BatchStatus.LEASED, FailureReason.WORKER_LOST), else_=batches.c.lost_reason
                ),
            )
            .returning(*batches.c)
        ).one_or_none()
        if row is None:
            # A process holds one batch at a time: if this one is ours, an earlier try of this very claim was committed.
            ours = sa.and_(batches.c.id == batch_id, batches.c.status == BatchStatus.LEASED, batches.c.owner == owner)
            row = connection.execute(sa.select(batches).where(ours)).one_or_none()
            return None if row is None else _read_claim(connection, row)
        if row.attempts > CLAIMS_LEFT_UNANSWERED:
            _isolate(connection, db, row)
            return None
        return _read_claim(connection, row)

    return db.write(work)


def extend(db: Database, held: Claim, *, lease_seconds: float) -> None:
    """Renew the lease; called when there was progress, so that a worker that hangs loses its batch.

    Raises:
        LeaseLost: it ran out, and somebody else claimed the batch.
    """
    statement = batches.update().where(_ours(held)).values(lease_until=db.now + lease_seconds)
    if db.write(lambda connection: connection.execute(statement).rowcount) != 1:
        raise LeaseLost(f"batch {held.batch_id}, fence {held.fence}")


def finish(
    db: Database,
    held: Claim,
    answers: Sequence[Answer],
    failures: Sequence[Failure],
    *,
    seconds: Mapping[Stage, float] | None = None,
) -> None:
    """Save the end of every image of a batch, in one transaction and only while the claim is still ours.

    Doing it twice changes nothing, so it may be repeated when the outcome of a commit is unknown.

    Args:
        seconds: where the time of this process went since it last finished a batch. So saving is that of the batch
            before, as a transaction cannot hold how long it takes.

    Raises:
        LeaseLost: somebody else claimed the batch; nothing was written.
        ValueError: the ends are not those of the batch's images.
    """
    ends: list[Answer | Failure] = [*answers, *failures]
    ended = sorted(end.image_id for end in ends)
    if ended != sorted(image.image_id for image in held.images):
        raise ValueError(f"batch {held.batch_id} has {len(held.images)} images, and {len(ended)} ends were given")

    def work(connection: sa.Connection) -> None:
        done = batches.update().where(_ours(held))
        row = connection.execute(
            done.values(
                status=BatchStatus.DONE,
                owner=None,
                lease_until=None,
                classified=len(answers),
                reused=sum(answer.reused for answer in answers),
                failed=len(failures),
                **{f"{stage}_seconds": spent for stage, spent in (seconds or {}).items()},
            ).returning(batches.c.attempts, batches.c.earlier_attempts)
        ).one_or_none()
        if row is None:
            if _finished_by(connection, held):
                return
            raise LeaseLost(f"batch {held.batch_id}, fence {held.fence}")
        now = connection.execute(sa.select(db.now)).scalar_one()
        _end_items(connection, held.run_id, answers, failures, now=now, attempts=row.attempts + row.earlier_attempts)
        if held.staged:
            _stage_answers(connection, held, answers, now)
        else:
            _save_answers(connection, held, answers, now)
            _note_bytes(connection, answers, failures)

    db.write(work)


def give_back(db: Database, held: Claim, *, delay_seconds: float) -> None:
    """Return a batch that could not be worked on through no fault of its images; it costs them no attempt."""
    statement = (
        batches.update()
        .where(_ours(held))
        .values(**_FREED, attempts=batches.c.attempts - 1, not_before=db.now + delay_seconds)
    )
    db.write(lambda connection: connection.execute(statement))


def give_back_lost(db: Database, owner: str, reason: FailureReason | None) -> int:
    """Return the batches of a worker process that died, at once instead of when their leases run out.

    Args:
        owner: one process (`worker/process`) or, ending with `/`, all of a worker.
        reason: what a single image would fail with, if this keeps happening; None when the worker was stopped on
            purpose, which costs no attempt.

    Returns:
        How many there were.
    """
    cost = {"lost_reason": reason} if reason is not None else {"attempts": batches.c.attempts - 1}
    statement = batches.update().where(_held_by(owner)).values(**_FREED, **cost)
    return db.write(lambda connection: connection.execute(statement).rowcount)


def holds_batches(db: Database, owner: str) -> bool:
    """Whether a process or, ending with `/`, a worker is at some batch."""
    statement = sa.select(batches.c.id).where(_held_by(owner)).limit(1)
    return db.read(lambda connection: connection.execute(statement).first()) is not None


def take_due(db: Database, *, room: int, queued: int, resend_seconds: float) -> list[tuple[int, int]]:
    """Choose the batches to send now, and note that they are sent.

    Noted before they are sent, so that several senders neither choose the same ones nor fill the same room; one that
    dies in between has lost a message, and lost messages are sent again.

    Args:
        room: how many the broker may get; what was sent and is not there yet takes some of it.
        queued: messages that the broker holds now. While it holds as many as were sent and not taken, none is lost;
            when it holds none, those that were sent are lost, or a worker is about to begin with them.
        resend_seconds: a message that was sent longer ago is taken for lost; a sixth of it when the broker holds none.

    Returns:
        (run, batch) of each: the oldest run first, and of a run those with the lowest priority.
    """

    def work(connection: sa.Connection) -> list[tuple[int, int]]:
        if not db.is_sqlite:
            # On SQLite all that write wait for each other. Here two would count before either has noted what it takes.
            # Who vanishes in the middle must not keep all others waiting until its connection is missed.
            bound = sa.func.set_config("idle_in_transaction_session_timeout", _SENDER_MILLISECONDS, True)
            connection.execute(sa.select(bound, sa.func.pg_advisory_xact_lock(_SENDERS_LOCK)))
        is_open = sa.and_(NOT_DONE, runs.c.status.in_(OPEN))
        ready = sa.or_(
            sa.and_(batches.c.status == BatchStatus.PENDING, sa.func.coalesce(batches.c.not_before, 0) <= db.now),
            batches.c.lease_until < db.now,
        )
        # Who has no time for everything waits for the whole listing before going on to what has an answer of some kind.
        may_go = sa.or_(runs.c.deadline.is_(None), runs.c.listed_at.is_not(None), batches.c.priority <= Priority.NEW)
        waiting = sa.and_(is_open, ready, batches.c.sent_at.is_not(None))
        sent = connection.execute(
            sa.select(sa.func.count()).select_from(batches.join(runs)).where(waiting)
        ).scalar_one()

        def choose(which: sa.ColumnElement[bool], most: int) -> list[tuple[int, int, int]]:
            found = connection.execute(
                sa.select(batches.c.run_id, batches.c.priority, batches.c.id)
                .select_from(batches.join(runs))
                .where(is_open, ready, may_go, which)
                .order_by(batches.c.run_id, batches.c.priority, batches.c.id)
                .limit(max(most, 0))
                .with_for_update(skip_locked=True, of=batches)
            )
            return [(row.run_id, row.priority, row.id) for row in found]

        patience = resend_seconds if queued else resend_seconds / 6
        due = choose(batches.c.sent_at < db.now - patience, room) if queued < sent else []
        # What another sender has taken, and the broker does not hold yet, needs its room, too.
        due += choose(batches.c.sent_at.is_(None), room + queued - max(sent, queued + len(due)))
        if due:
            connection.execute(batches.update().where(batches.c.id.in_([one[2] for one in due])).values(sent_at=db.now))
        return [(run_id, batch_id) for run_id, _, batch_id in sorted(due)]

    return db.write(work)


def take_back_sent(db: Database, batch_ids: Collection[int]) -> None:
    """Undo the note that these were sent: the broker did not take them."""
    statement = batches.update().where(batches.c.id.in_(batch_ids), NOT_DONE).values(sent_at=None)
    db.write(lambda connection: connection.execute(statement))


def find_twins(db: Database, held: Claim, content_hashes: Collection[bytes]) -> dict[bytes, list[tuple[str, float]]]:
    """The answers of the claim's model version for bytes that it has seen before; in its own run, if that wants
    everything classified.

    Returns:
        Content hash to (label, confidence), the most confident first; hashes that are new are left out.
    """
    statements = [_published_twins(everything=held.everything)]
    if held.staged:
        statements.append(_staged_twins())
    wanted = {
        "content_hashes": list(content_hashes),
        "held_version": held.model_version_id,
        "held_run": held.run_id,
    }

    def work(connection: sa.Connection) -> list[Sequence[sa.Row[Any]]]:
        return [connection.execute(statement, wanted).all() for statement in statements]

    twins: dict[bytes, list[tuple[str, float]]] = {}
    for rows in db.read(work):
        found: dict[bytes, list[tuple[str, float]]] = {}
        for row in rows:
            found.setdefault(bytes(row.content_hash), []).append((row.label, row.confidence))
        twins = found | twins
    return twins


# To put such a question together takes longer than to answer it, so each process does that once.
_content_hashes: sa.BindParameter[bytes] = sa.bindparam("content_hashes", expanding=True)
_held_version: sa.BindParameter[int] = sa.bindparam("held_version")
_held_run: sa.BindParameter[int] = sa.bindparam("held_run")


@functools.cache
def _staged_twins() -> sa.Select[Any]:
    """The run's own answers."""
    first = staged_predictions.alias("first")
    known = (
        sa.select(first.c.content_hash, sa.func.min(first.c.image_id).label("image_id"))
        .where(first.c.run_id == _held_run, first.c.content_hash.in_(_content_hashes), first.c.rank == 1)
        .group_by(first.c.content_hash)
        .subquery()
    )
    is_its = sa.and_(staged_predictions.c.run_id == _held_run, staged_predictions.c.image_id == known.c.image_id)
    return (
        sa.select(known.c.content_hash, staged_predictions.c.label, staged_predictions.c.confidence)
        .select_from(known.join(staged_predictions, is_its))
        .order_by(known.c.content_hash, staged_predictions.c.rank)
    )


@functools.cache
def _published_twins(*, everything: bool) -> sa.Select[Any]:
    first = predictions.alias("first")
    usable = sa.and_(first.c.model_version_id == _held_version, first.c.rank == 1)
    if everything:
        usable = sa.and_(usable, first.c.run_id == _held_run)
    # One known image is as good as another: the one with the lowest number.
    known = (
        sa.select(first.c.content_hash, sa.func.min(first.c.image_id).label("image_id"))
        .where(first.c.content_hash.in_(_content_hashes), usable)
        .group_by(first.c.content_hash)
        .subquery()
    )
    # The same image may have had these bytes under several fingerprints.
    chosen = (
        sa.select(first.c.content_hash, first.c.image_id, sa.func.min(first.c.fingerprint).label("fingerprint"))
        .join(known, sa.and_(known.c.content_hash == first.c.content_hash, known.c.image_id == first.c.image_id))
        .where(usable)
        .group_by(first.c.content_hash, first.c.image_id)
        .subquery()
    )
    return (
        sa.select(chosen.c.content_hash, predictions.c.label, predictions.c.confidence)
        .select_from(chosen)
        .join(
            predictions,
            sa.and_(
                predictions.c.image_id == chosen.c.image_id,
                predictions.c.fingerprint == chosen.c.fingerprint,
                predictions.c.model_version_id == _held_version,
            ),
        )
        .order_by(chosen.c.content_hash, predictions.c.rank)
    )


_FREED = {"status": BatchStatus.PENDING, "owner": None, "lease_until": None, "sent_at": None}


def _held_by(owner: str) -> sa.ColumnElement[bool]:
    whose = batches.c.owner.startswith(owner, autoescape=True) if owner.endswith("/") else batches.c.owner == owner
    return sa.and_(NOT_DONE, batches.c.status == BatchStatus.LEASED, whose)


def _ours(held: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(batches.c.id == held.batch_id, batches.c.status == BatchStatus.LEASED, batches.c.fence == held.fence)


def _finished_by(connection: sa.Connection, held: Claim) -> bool:
    """Whether an earlier try of this very claim was committed although its answer got lost."""
    row = connection.execute(sa.select(batches.c.status, batches.c.fence).where(batches.c.id == held.batch_id)).one()
    return bool(row.status == BatchStatus.DONE and row.fence == held.fence)


def _read_claim(connection: sa.Connection, row: sa.Row[Any]) -> Claim:
    run = connection.execute(
        sa.select(runs.c.everything, runs.c.top_k, runs.c.staged, model_versions)
        .join(model_versions)
        .where(runs.c.id == row.run_id)
    ).one()
    found = connection.execute(
        sa.select(items.c.image_id, images.c.uri, items.c.fingerprint)
        .join(images, images.c.id == items.c.image_id)
        .where(items.c.batch_id == row.id)
        .order_by(items.c.image_id)
    ).all()
    return Claim(
        batch_id=row.id,
        run_id=row.run_id,
        fence=row.fence,
        model_version_id=run.id,
        model=run.name,
        model_version=run.version,
        content_hash=run.content_hash,
        everything=run.everything,
        top_k=run.top_k,
        staged=run.staged,
        images=tuple(
            ClaimedImage(image_id=item.image_id, uri=item.uri, fingerprint=item.fingerprint) for item in found
        ),
    )


def _isolate(connection: sa.Connection, db: Database, row: sa.Row[Any]) -> None:
    """Split a batch that loses its workers; give up an image that is alone in one."""
    attempts = row.attempts - 1 + row.earlier_attempts  # This claim does no work.
    if row.size == 1:
        reason = row.lost_reason or FailureReason.WORKER_LOST
        message = {
            FailureReason.TIMEOUT: "kept a worker busy beyond the limit each time it was tried alone",
            FailureReason.WORKER_LOST: "the worker process was lost each time it was tried alone",
        }[FailureReason(reason)]
        item = connection.execute(sa.select(items).where(items.c.batch_id == row.id)).one()
        failure = Failure(image_id=item.image_id, fingerprint=item.fingerprint, reason=reason, message=message)
        now = connection.execute(sa.select(db.now)).scalar_one()
        _end_items(connection, row.run_id, [], [failure], now=now, attempts=attempts)
        if not connection.execute(sa.select(runs.c.staged).where(runs.c.id == row.run_id)).scalar_one():
            _note_bytes(connection, [], [failure])
        connection.execute(
            batches.update()
            .where(batches.c.id == row.id)
            .values(status=BatchStatus.DONE, owner=None, lease_until=None, failed=1)
        )
        return
    image_ids = connection.scalars(
        sa.select(items.c.image_id).where(items.c.batch_id == row.id).order_by(items.c.image_id)
    ).all()
    middle = len(image_ids) // 2
    for half in (image_ids[:middle], image_ids[middle:]):
        half_id = connection.execute(
            batches.insert()
            .values(
                run_id=row.run_id,
                status=BatchStatus.PENDING,
                size=len(half),
                earlier_attempts=attempts,
                priority=row.priority,
            )
            .returning(batches.c.id)
        ).scalar_one()
        connection.execute(
            items.update().where(items.c.run_id == row.run_id, items.c.image_id.in_(half)).values(batch_id=half_id)
        )
    connection.execute(
        batches.update()
        .where(batches.c.id == row.id)
        .values(status=BatchStatus.DONE, owner=None, lease_until=None, size=0)
    )


def _answer_rows(held: Claim, answers: Sequence[Answer], now: float) -> list[dict[str, Any]]:
    return [
        {
            "image_id": answer.image_id,
            "fingerprint": answer.fingerprint,
            "rank": rank,
            "label": label,
            "confidence": confidence,
            "content_hash": answer.content_hash if rank == 1 else None,
            "run_id": held.run_id,
            "classified_at": now,
            "needs_review": answer.needs_review and rank == 1,
        }
        # Sorted by key, so that two transactions that meet lock the rows in the same order.
        for answer in sorted(answers, key=lambda answer: answer.image_id)
        for rank, (label, confidence) in enumerate(answer.labels, start=1)
    ]


def _stage_answers(connection: sa.Connection, held: Claim, answers: Sequence[Answer], now: float) -> None:
    """Keep them apart; an image has its end once in a run, so nothing is there yet."""
    rows = _answer_rows(held, answers, now)
    if rows:
        connection.execute(staged_predictions.insert(), rows)


def _save_answers(connection: sa.Connection, held: Claim, answers: Sequence[Answer], now: float) -> None:
    rows = [row | {"model_version_id": held.model_version_id} for row in _answer_rows(held, answers, now)]
    if not rows:
        return
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(predictions)
    key = [column.name for column in predictions.primary_key]
    changed = {column.name: insert.excluded[column.name] for column in predictions.c if column.name not in key}
    connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changed), rows)
    _drop_deeper(connection, held, answers)


def _drop_deeper(connection: sa.Connection, held: Claim, answers: Sequence[Answer]) -> None:
    """Drop what is left of earlier answers to the same bytes, when more labels were kept."""
    fewest = min(len(answer.labels) for answer in answers)
    earlier = sa.select(predictions.c.rank).where(
        predictions.c.image_id.in_([answer.image_id for answer in answers]),
        predictions.c.model_version_id == held.model_version_id,
        predictions.c.rank > fewest,
    )
    # Most often there is none, and one question takes less than a statement for each image.
    if connection.execute(earlier.limit(1)).first() is None:
        return
    deeper = predictions.delete().where(
        predictions.c.image_id == sa.bindparam("answered_image"),
        predictions.c.model_version_id == held.model_version_id,
        predictions.c.fingerprint == sa.bindparam("answered_fingerprint"),
        predictions.c.rank > sa.bindparam("last_rank"),
    )
    kept = [
        {
            "answered_image": answer.image_id,
            "answered_fingerprint": answer.fingerprint,
            "last_rank": len(answer.labels),
        }
        for answer in answers
    ]
    connection.execute(deeper, kept)


def _end_items(
    connection: sa.Connection,
    run_id: int,
    answers: Sequence[Answer],
    failures: Sequence[Failure],
    *,
    now: float,
    attempts: int,
) -> None:
    ends = [_item_values(answer, ItemStatus.CLASSIFIED, reused=answer.reused) for answer in answers]
    ends += [
        _item_values(failure, ItemStatus.FAILED, reason=failure.reason, message=failure.message) for failure in failures
    ]
    statement = (
        items.update()
        .where(
            items.c.run_id == run_id,
            items.c.image_id == sa.bindparam("ended_image"),
            items.c.status == ItemStatus.PENDING,
        )
        .values(finished_at=now, attempts=attempts)
    )
    updated = connection.execute(statement, sorted(ends, key=itemgetter("ended_image"))).rowcount
    if updated != len(ends):
        raise AssertionError(f"run {run_id}: {updated} of {len(ends)} images were waiting for their end")


def _item_values(
    end: Answer | Failure,
    status: ItemStatus,
    *,
    reused: bool = False,
    reason: FailureReason | None = None,
    message: str | None = None,
) -> dict[str, Any]:
    return {
        "ended_image": end.image_id,
        "fingerprint": end.fingerprint,
        "status": status,
        "reused": reused,
        "reason": reason,
        "message": message,
    }


def _note_bytes(connection: sa.Connection, answers: Sequence[Answer], failures: Sequence[Failure]) -> None:
    """Remember which bytes an image had, also where they could not be classified: an older answer is not theirs.

    Where a host was down, nobody knows which bytes there are, and the image keeps the answer that it has.
    """
    statement = (
        images.update()
        .where(
            images.c.id == sa.bindparam("ended_image"),
            sa.or_(images.c.fingerprint.is_(None), sa.bindparam("is_known", type_=sa.Boolean())),
        )
        .values(fingerprint=sa.bindparam("new_fingerprint"))
    )
    ends: list[Answer | Failure] = [*answers, *failures]
    parameters = [
        {"ended_image": end.image_id, "new_fingerprint": end.fingerprint, "is_known": not _is_unseen(end)}
        for end in ends
    ]
    connection.execute(statement, sorted(parameters, key=itemgetter("ended_image")))


def _is_unseen(end: Answer | Failure) -> bool:
    return isinstance(end, Failure) and end.reason is FailureReason.STORAGE_ERROR and end.fingerprint == UNKNOWN
