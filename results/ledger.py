"""The life of a batch: recorded, claimed, renewed, finished, given back, split.

Each function is one transaction. Messages may be lost or repeated and processes may die between any two lines; what
keeps every image at exactly one end is the fence: a claim raises it, and nothing is written for an older claim.
`docs/architecture.md` draws it.
"""

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from base.errors import FailureReason
from base.fingerprints import UNKNOWN
from base.stages import Stage
from results.many_rows import Given, ManyRows
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
            ).returning(batches.c.attempts, batches.c.earlier_attempts, db.now.label("now"))
        ).one_or_none()
        if row is None:
            if _finished_by(connection, held):
                return
            raise LeaseLost(f"batch {held.batch_id}, fence {held.fence}")
        now = row.now
        _end_items(connection, held.run_id, answers, failures, now=now, attempts=row.attempts + row.earlier_attempts)
        if held.staged:
            _STAGED.execute(connection, _answer_rows(held, answers, now))
        else:
            _PREDICTIONS.execute(connection, _answer_rows(held, answers, now))
            _drop_deeper(connection, held, answers)
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
    published = _questions(predictions, of_run=held.everything)
    questions = [published, _questions(staged_predictions, of_run=True)] if held.staged else [published]
    held_by = {"held_version": held.model_version_id, "held_run": held.run_id}

    def work(connection: sa.Connection) -> dict[bytes, list[tuple[str, float]]]:
        twins: dict[bytes, list[tuple[str, float]]] = {}
        for known_images, their_answers in questions:
            hashes = {"content_hashes": list(content_hashes)}
            known = {
                (row.image_id, bytes(row.content_hash)) for row in connection.execute(known_images, held_by | hashes)
            }
            if known:  # Most often none is.
                images_known = {"known_images": [image_id for image_id, _ in known]}
                twins = _labels_by_bytes(connection.execute(their_answers, held_by | images_known), known) | twins
        return twins

    return db.read(work)


# To put such a question together takes longer than to answer it, so each process does that once.
@functools.cache
def _questions(answers: sa.Table, *, of_run: bool) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Which image has which of the bytes, and the answers to the bytes of those images."""
    is_usable = [answers.c.run_id == sa.bindparam("held_run")] if of_run else []
    if "model_version_id" in answers.c:
        is_usable.append(answers.c.model_version_id == sa.bindparam("held_version"))
    has_bytes = answers.c.content_hash.in_(sa.bindparam("content_hashes", expanding=True))
    # One known image is as good as another: the one with the lowest number.
    known_images = (
        sa.select(answers.c.content_hash, sa.func.min(answers.c.image_id).label("image_id"))
        .where(*is_usable, has_bytes, answers.c.rank == 1)
        .group_by(answers.c.content_hash)
    )
    their_answers = (
        sa.select(answers.c.image_id, answers.c.content_hash, answers.c.label, answers.c.confidence)
        .where(*is_usable, answers.c.image_id.in_(sa.bindparam("known_images", expanding=True)))
        .order_by(answers.c.image_id, answers.c.fingerprint, answers.c.rank)
    )
    return known_images, their_answers


def _labels_by_bytes(
    rows: Iterable[sa.Row[Any]], known: Collection[tuple[int, bytes]]
) -> dict[bytes, list[tuple[str, float]]]:
    """The first answer to the bytes of each known image, which may have had them under several fingerprints."""
    labels_of: dict[bytes, list[tuple[str, float]]] = {}
    labels: list[tuple[str, float]] = []
    for row in rows:
        if row.content_hash is not None:  # Rank 1: here another answer begins.
            labels = []
            if (row.image_id, row.content_hash) in known:
                labels_of.setdefault(bytes(row.content_hash), labels)
        labels.append((row.label, row.confidence))
    return labels_of


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
        reason = FailureReason(row.lost_reason or FailureReason.WORKER_LOST)
        message = {
            FailureReason.TIMEOUT: "kept a worker busy beyond the limit each time it was tried alone",
            FailureReason.WORKER_LOST: "the worker process was lost each time it was tried alone",
        }[reason]
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


def _types(table: sa.Table, *names: str) -> dict[str, sa.types.TypeEngine[Any]]:
    return {name: table.c[name].type for name in names}


def _in_order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By image, so that two transactions that meet lock the rows in the same order.

    Where PostgreSQL chooses another, it breaks the deadlock, and the transaction is done again.
    """
    return sorted(rows, key=itemgetter(0))


_ANSWER = _types(
    predictions,
    *("image_id", "fingerprint", "rank", "label", "confidence", "content_hash", "run_id", "classified_at"),
    *("needs_review", "model_version_id"),
)


def _answer_rows(held: Claim, answers: Sequence[Answer], now: float) -> list[tuple[Any, ...]]:
    """For each label the values of `_ANSWER`, in its order."""
    rows = [
        (
            answer.image_id,
            answer.fingerprint,
            rank,
            label,
            confidence,
            answer.content_hash if rank == 1 else None,
            held.run_id,
            now,
            answer.needs_review and rank == 1,
            held.model_version_id,
        )
        for answer in answers
        for rank, (label, confidence) in enumerate(answer.labels, start=1)
    ]
    return _in_order(rows)


def _insert_predictions(dialect: str, given: Given) -> sa.Insert:
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(predictions)
    key = [column.name for column in predictions.primary_key]
    changed = {name: insert.excluded[name] for name in given if name not in key}
    # Without a condition SQLite takes what follows the SELECT for a part of it (sqlite.org/lang_upsert.html, 2.2).
    rows = sa.select(*given.values()).where(sa.true())
    upsert: sa.Insert = insert.from_select(list(given), rows).on_conflict_do_update(index_elements=key, set_=changed)
    return upsert


def _insert_staged(_: str, given: Given) -> sa.Insert:
    """An image has its end once in a run, so nothing is there yet."""
    names = [name for name in given if name in staged_predictions.c]
    return staged_predictions.insert().from_select(names, sa.select(*(given[name] for name in names)))


_PREDICTIONS = ManyRows(_ANSWER, _insert_predictions)
_STAGED = ManyRows(_ANSWER, _insert_staged)


def _drop_deeper(connection: sa.Connection, held: Claim, answers: Sequence[Answer]) -> None:
    """Drop what is left of earlier answers to the same bytes, when more labels were kept."""
    fewest = min((len(answer.labels) for answer in answers), default=0)
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
    same = (run_id, attempts, now)
    rows: list[tuple[Any, ...]] = [
        (answer.image_id, answer.fingerprint, ItemStatus.CLASSIFIED.value, answer.reused, None, None, *same)
        for answer in answers
    ]
    rows += [
        (end.image_id, end.fingerprint, ItemStatus.FAILED.value, False, end.reason.value, end.message, *same)
        for end in failures
    ]
    updated = _ITEMS.execute(connection, _in_order(rows))
    if updated != len(rows):
        raise AssertionError(f"run {run_id}: {updated} of {len(rows)} images were waiting for their end")


def _update_items(_: str, given: Given) -> sa.Update:
    key = ("run_id", "image_id")
    waiting = [items.c[name] == given[name] for name in key]
    return (
        items.update()
        # A literal, as all that is bound belongs to a row.
        .where(*waiting, items.c.status == sa.literal_column(f"'{ItemStatus.PENDING}'"))
        .values({name: value for name, value in given.items() if name not in key})
    )


_ITEMS = ManyRows(
    _types(
        items, "image_id", "fingerprint", "status", "reused", "reason", "message", "run_id", "attempts", "finished_at"
    ),
    _update_items,
)


def _note_bytes(connection: sa.Connection, answers: Sequence[Answer], failures: Sequence[Failure]) -> None:
    """Remember which bytes an image had, also where they could not be classified: an older answer is not theirs.

    Where a host was down, nobody knows which bytes there are, and the image keeps the answer that it has.
    """
    ends: list[Answer | Failure] = [*answers, *failures]
    _BYTES.execute(connection, _in_order([(end.image_id, end.fingerprint, not _is_unseen(end)) for end in ends]))


def _update_images(_: str, given: Given) -> sa.Update:
    is_news = sa.or_(images.c.fingerprint.is_(None), given["is_seen"])
    return images.update().where(images.c.id == given["image_id"], is_news).values(fingerprint=given["fingerprint"])


_BYTES = ManyRows(
    {"image_id": images.c.id.type, "fingerprint": images.c.fingerprint.type, "is_seen": sa.Boolean()}, _update_images
)


def _is_unseen(end: Answer | Failure) -> bool:
    return isinstance(end, Failure) and end.reason is FailureReason.STORAGE_ERROR and end.fingerprint == UNKNOWN
