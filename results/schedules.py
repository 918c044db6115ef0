"""The slots of schedules: recorded once each, claimed by one producer at a time, ended as their run ends."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from results.runs import HOLD_SECONDS
from results.session import Database
from results.tables import RunStatus, SlotStatus, runs, slots


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One time at which a schedule wants a run."""

    schedule: str  #: its name
    due_at: int  #: the minute, in seconds since 1970

    @property
    def time(self) -> str:
        """For people."""
        return f"{datetime.fromtimestamp(self.due_at, UTC):%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, kw_only=True)
class ClaimedSlot:
    """A slot that a producer sees to."""

    run_id: int | None  #: begun by a producer that did not come to the end of its listing


@dataclass(frozen=True, kw_only=True)
class EndedSlot:
    """What came of a slot."""

    slot: Slot
    status: SlotStatus
    message: str | None


def latest_slot(db: Database, schedule: str) -> Slot | None:
    """The latest slot of a schedule that is recorded."""
    statement = sa.select(sa.func.max(slots.c.due_at)).where(slots.c.schedule == schedule)
    due_at = db.read(lambda connection: connection.execute(statement).scalar_one())
    return None if due_at is None else Slot(schedule=schedule, due_at=due_at)


def skip_slot(db: Database, slot: Slot, message: str) -> bool:
    """Record a slot that nobody is to run; returns False where it was recorded before."""
    return db.write(lambda connection: _insert(connection, slot, SlotStatus.SKIPPED, message))


def record_slot(db: Database, slot: Slot, *, missed: tuple[Slot, str] | None = None) -> EndedSlot | None:
    """Record a slot as due, or as skipped while an earlier one is still going.

    An earlier slot that nobody has begun with gives way to it.

    Args:
        missed: the slot before it, where that was never recorded, and what to say of it.

    Returns:
        None where it was recorded before.
    """

    def work(connection: sa.Connection) -> EndedSlot | None:
        late = sa.and_(
            slots.c.schedule == slot.schedule, slots.c.status == SlotStatus.DUE, slots.c.due_at < slot.due_at
        )
        message = f"missed: nobody had begun with it at {slot.time}, when the next was due"
        connection.execute(slots.update().where(late).values(status=SlotStatus.SKIPPED, message=message))
        going = connection.execute(
            sa.select(slots.c.due_at, slots.c.run_id)
            .where(slots.c.schedule == slot.schedule, slots.c.status == SlotStatus.RUNNING)
            .order_by(slots.c.due_at)
        ).first()
        if missed is not None:
            _insert(connection, missed[0], SlotStatus.SKIPPED, missed[1])
        status, why = SlotStatus.DUE, None
        if going is not None:
            earlier = Slot(schedule=slot.schedule, due_at=going.due_at)
            run = "its run" if going.run_id is None else f"run {going.run_id}"
            status, why = SlotStatus.SKIPPED, f"{run}, of the slot {earlier.time}, is still going"
        is_new = _insert(connection, slot, status, why)
        return EndedSlot(slot=slot, status=status, message=why) if is_new else None

    return db.write(work)


def find_waiting_slots(db: Database, schedules: Collection[str]) -> list[Slot]:
    """The slots of some schedules that a producer has to see to, and none does; the oldest first."""
    statement = (
        sa.select(slots.c.schedule, slots.c.due_at)
        .where(slots.c.schedule.in_(schedules), _waits(db))
        .order_by(slots.c.due_at, slots.c.schedule)
    )
    rows = db.read(lambda connection: connection.execute(statement).all())
    return [Slot(schedule=row.schedule, due_at=row.due_at) for row in rows]


def claim_slot(db: Database, slot: Slot, holder: str) -> ClaimedSlot | None:
    """See to a slot; None where another producer does, or nothing is left to do.

    Args:
        holder: who will, as for `open_run`.
    """
    # A claim whose commit was lost sight of is made again, and then it is ours already.
    claimed = (
        slots.update()
        .where(_is(slot), sa.or_(_waits(db), sa.and_(_is_unlisted(), slots.c.holder == holder)))
        .values(status=SlotStatus.RUNNING, holder=holder, held_until=db.now + HOLD_SECONDS, message=None)
        .returning(slots.c.run_id)
    )
    row = db.write(lambda connection: connection.execute(claimed).one_or_none())
    return None if row is None else ClaimedSlot(run_id=row.run_id)


def hold_slot(db: Database, slot: Slot, holder: str) -> bool:
    """Show that the producer of a slot still lives; returns False where it is no longer its own."""
    return _change_held(db, slot, holder, {"held_until": db.now + HOLD_SECONDS})


def note_run(db: Database, slot: Slot, holder: str, run_id: int) -> bool:
    """Note which run a slot has; returns False where the slot is another producer's."""
    return _change_held(db, slot, holder, {"run_id": run_id})


def let_go_of_slot(db: Database, slot: Slot, holder: str, message: str | None = None) -> None:
    """Leave a slot to its run, or where that is not listed yet, to the next producer.

    Args:
        message: why it was left.
    """
    _change_held(db, slot, holder, {"holder": None, "held_until": None, "message": message})


def end_slot(db: Database, slot: Slot, holder: str, status: SlotStatus, message: str) -> None:
    """End a slot whose run could not be begun, or not be listed."""
    _change_held(db, slot, holder, {"holder": None, "held_until": None, "status": status, "message": message})


def end_slots(db: Database) -> list[EndedSlot]:
    """End the slots whose runs have ended, as those did."""
    has_ended = sa.or_(runs.c.finished_at.is_not(None), runs.c.status == RunStatus.FAILED)
    statement = (
        sa.select(slots.c.schedule, slots.c.due_at, runs)
        .join(runs, runs.c.id == slots.c.run_id)
        .where(slots.c.status == SlotStatus.RUNNING, has_ended, ~_waits_for_verdict())
    )
    ended = []
    for row in db.read(lambda connection: connection.execute(statement).all()):
        status, message = _end_of(row)
        one = EndedSlot(slot=Slot(schedule=row.schedule, due_at=row.due_at), status=status, message=message)
        values = {"status": status, "message": message, "holder": None, "held_until": None}
        change = slots.update().where(_is(one.slot), slots.c.status == SlotStatus.RUNNING).values(**values)
        if db.write(lambda connection, change=change: connection.execute(change).rowcount):  # type: ignore[misc]
            ended.append(one)
    return ended


def _waits_for_verdict() -> sa.ColumnElement[bool]:
    """A staged run that has come to its end is published or held back a moment later."""
    by_hand = sa.and_(runs.c.status == RunStatus.CANCELLED, ~runs.c.out_of_time)
    is_open = sa.and_(*(runs.c[name].is_(None) for name in ("published_at", "held_back", "dropped_at")))
    return sa.and_(runs.c.staged, runs.c.status != RunStatus.FAILED, is_open, ~by_hand)


def _end_of(run: sa.Row[Any]) -> tuple[SlotStatus, str | None]:
    if run.status == RunStatus.FAILED:
        return SlotStatus.FAILED, run.error
    if run.status == RunStatus.CANCELLED and not run.out_of_time:
        return SlotStatus.FAILED, f"run {run.id} was cancelled"
    if run.held_back is not None and run.published_at is None:
        return SlotStatus.FAILED, run.held_back
    if run.dropped_at is not None:
        return SlotStatus.FAILED, f"run {run.id} was dropped, as a later one is published"
    return SlotStatus.DONE, None


def _insert(connection: sa.Connection, slot: Slot, status: SlotStatus, message: str | None) -> bool:
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(slots)
    row = {"schedule": slot.schedule, "due_at": slot.due_at, "status": status, "message": message}
    inserted = insert.values(row).on_conflict_do_nothing().returning(slots.c.due_at)
    return connection.execute(inserted).first() is not None


def _is(slot: Slot) -> sa.ColumnElement[bool]:
    return sa.and_(slots.c.schedule == slot.schedule, slots.c.due_at == slot.due_at)


def _is_unlisted() -> sa.ColumnElement[bool]:
    """Its run has not begun, or its listing is not complete."""
    goes_by_itself = sa.exists().where(runs.c.id == slots.c.run_id, runs.c.status != RunStatus.LISTING)
    return sa.and_(slots.c.status == SlotStatus.RUNNING, ~goes_by_itself)


def _waits(db: Database) -> sa.ColumnElement[bool]:
    is_free = sa.or_(slots.c.held_until.is_(None), slots.c.held_until <= db.now)
    return sa.or_(slots.c.status == SlotStatus.DUE, sa.and_(_is_unlisted(), is_free))


def _change_held(db: Database, slot: Slot, holder: str, values: dict[str, Any]) -> bool:
    change = slots.update().where(_is(slot), slots.c.holder == holder).values(**values)
    return bool(db.write(lambda connection: connection.execute(change).rowcount))
