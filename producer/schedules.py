"""What a producer does: look at the schedules for what is due, and run a slot as far as its listing is complete.

From there on the workers' reconcilers send the rest, close the run and publish it; a later look ends the slot as its
run ended. Everything may be done twice, by any number of producers: what is done is a question to SQL.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

from celery import Celery

from base.errors import AppError, SetupError, TransientError
from base.logs import bound_contextvars, get_logger
from base.schedules import Schedule
from base.settings import Settings
from broker.dispatch import dispatch
from broker.messages import SlotMessage
from broker.ticks import send_slots
from models.pretrained import DEFAULT_MODEL
from models.registry import ModelVersion, open_registry
from producer import cron
from producer.changes import Change
from producer.deadline import next_time
from producer.list_source import Listing, record_listing, source_listing
from producer.sources import Source, check_not_empty, open_source
from producer.start_run import SourceBusy, guard_of, holder, make_request, start_run
from results.runs import find_time, hold_run, let_go_of_run
from results.schedules import (
    ClaimedSlot,
    EndedSlot,
    Slot,
    claim_slot,
    end_slot,
    end_slots,
    find_waiting_slots,
    hold_slot,
    latest_slot,
    let_go_of_slot,
    note_run,
    record_slot,
    skip_slot,
)
from results.session import Database
from results.tables import SlotStatus

log = get_logger()

_TEND_SECONDS = 2.0


class Stopped(Exception):
    """The producer is told to end, or the slot has become another one's."""


def look_at_schedules(db: Database, app: Celery, settings: Settings) -> None:
    """End the slots whose runs have ended, record those that are due, and send those that nobody sees to.

    Raises:
        TransientError: the database or the broker does not answer; the next tick tries again.
    """
    dispatch(db, app, settings)  # It closes runs, too.
    for ended in end_slots(db):
        _tell("slot_ended", ended)
    now = find_time(db)
    for schedule in settings.schedule:
        _record_due(db, settings, schedule, now)
    waiting = find_waiting_slots(db, [schedule.name for schedule in settings.schedule])
    send_slots(app, [SlotMessage(schedule=slot.schedule, due_at=slot.due_at) for slot in waiting])


def _record_due(db: Database, settings: Settings, schedule: Schedule, now: float) -> None:
    """Record the latest slot of a schedule, and the one before it where that was missed."""
    due_at = cron.latest(schedule.cron, now, settings.zone)
    last = latest_slot(db, schedule.name)
    if due_at is None or (last is not None and due_at <= last.due_at):
        return
    slot = Slot(schedule=schedule.name, due_at=due_at)
    if last is None:
        if skip_slot(db, slot, "before this schedule was first seen"):
            log.info("schedule_first_seen", schedule=schedule.name, cron=schedule.cron)
        return
    recorded = record_slot(db, slot, missed=_missed(settings, schedule, last, slot))
    if recorded is not None and recorded.status is SlotStatus.SKIPPED:
        _tell("slot_skipped", recorded)


def _missed(settings: Settings, schedule: Schedule, last: Slot, slot: Slot) -> tuple[Slot, str] | None:
    """The slot before one, and what to say of it, where that and maybe others before it were never recorded."""
    number = cron.count_between(schedule.cron, last.due_at, slot.due_at, settings.zone)
    before = cron.latest(schedule.cron, slot.due_at - 1, settings.zone)
    if not number or before is None:
        return None
    message = "missed: nobody looked at the schedules"
    if number > 1:
        message += f", for {number:,}{' or more' if number == cron.MOST_COUNTED else ''} slots after {last.time}"
    return Slot(schedule=schedule.name, due_at=before), message


def _tell(event: str, ended: EndedSlot) -> None:
    bad = ended.status is not SlotStatus.DONE
    tell = log.warning if bad else log.info
    told = {"schedule": ended.slot.schedule, "slot": ended.slot.time, "status": ended.status}
    tell(event, **told, **({"reason": ended.message} if bad else {}))


def run_slot(db: Database, app: Celery, settings: Settings, slot: Slot, *, is_stopping: Callable[[], bool]) -> None:
    """Claim a slot, begin its run or go on with it, and record what it lists.

    Args:
        is_stopping: whether to leave the rest to the next producer; asked again and again.
    """
    schedule = next((one for one in settings.schedule if one.name == slot.schedule), None)
    if schedule is None:
        log.warning("schedule_unknown", schedule=slot.schedule)  # Another producer has other settings.
        return
    claimed = claim_slot(db, slot, holder())
    if claimed is None:  # Somebody else has it, or it is done: a duplicate.
        return
    with bound_contextvars(schedule=slot.schedule, slot=slot.time):
        try:
            _see_to(db, app, settings, schedule, slot, claimed, is_stopping)
            let_go_of_slot(db, slot, holder())
        except Stopped:
            log.info("slot_left")
            let_go_of_slot(db, slot, holder())
        except TransientError as error:
            log.warning("slot_waits", error=str(error))
            let_go_of_slot(db, slot, holder(), f"waits: {error}")
        except SourceBusy as error:
            _end(db, slot, SlotStatus.SKIPPED, str(error))
        except SetupError as error:
            _end(db, slot, SlotStatus.FAILED, str(error))
        except Exception as error:
            log.exception("slot_broke")  # A mistake of ours; tried again each minute it would not get better.
            _end(db, slot, SlotStatus.FAILED, f"{type(error).__name__}: {error}".partition("\n")[0])


def _see_to(
    db: Database,
    app: Celery,
    settings: Settings,
    schedule: Schedule,
    slot: Slot,
    claimed: ClaimedSlot,
    is_stopping: Callable[[], bool],
) -> None:
    # The first after the slot, however late it is begun.
    deadline = None if schedule.until is None else next_time(schedule.until, slot.due_at, settings.zone)
    if deadline is not None and find_time(db) >= deadline:
        if claimed.run_id is None:
            _end(db, slot, SlotStatus.SKIPPED, f"missed: its time ended at {schedule.until}")
        return  # Its run ends by itself.
    with _Tender(db, app, settings, slot) as tender:
        source, version = open_scheduled(settings, schedule)
        check_not_empty(source)
        guard = guard_of(settings, schedule.max_failures)
        request = make_request(source, version, top_k=settings.top_k, guard=guard, deadline=deadline)
        opened = start_run(db, request, on_wait=lambda held: log.info("source_held", run_id=held.run_id))
        tender.take_over(opened.run_id)
        listing = source_listing(db, source, model_version_id=opened.model_version_id, everything=False)
        listing = _until(listing, lambda: is_stopping() or tender.is_lost)
        record_listing(db, opened, listing, images_per_batch=settings.images_per_batch, on_chunk=lambda: None)
        log.info("slot_listed", run_id=opened.run_id)


def open_scheduled(settings: Settings, schedule: Schedule) -> tuple[Source, ModelVersion]:
    """What a schedule runs, and with what.

    Raises:
        SourceError: there is no such source.
        ModelError: there is no such model version.
    """
    source = open_source(
        schedule.source,
        schedule.include,
        schedule.exclude,
        access=settings.bucket_access,
        column=schedule.column,
        key=schedule.key,
    )
    return source, open_registry(settings).find(schedule.model or DEFAULT_MODEL)


class _Tender:
    """Tends a slot and its run from a thread, as a context: renews the holds, however long the source takes to answer,
    and sends what is due."""

    def __init__(self, db: Database, app: Celery, settings: Settings, slot: Slot) -> None:
        self._db, self._app, self._settings, self._slot = db, app, settings, slot
        self._run_id: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="tender", daemon=True)
        self.is_lost = False  #: another producer has the slot

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._run_id is not None:
            with suppress(AppError):  # Whatever ended the block is to be told, and a hold ends by itself.
                let_go_of_run(self._db, self._run_id, holder())

    def take_over(self, run_id: int) -> None:
        """Hold the run of the slot, too.

        Raises:
            Stopped: the slot is no longer ours.
        """
        self._run_id = run_id
        if not note_run(self._db, self._slot, holder(), run_id):
            raise Stopped

    def _tend(self) -> None:
        while not self._ended.wait(_TEND_SECONDS):
            try:
                if not hold_slot(self._db, self._slot, holder()):
                    # The next producer goes on with the run, so its hold is to end as the slot's did.
                    self.is_lost = True
                    return
                if self._run_id is not None:
                    hold_run(self._db, self._run_id, holder())
                    dispatch(self._db, self._app, self._settings)
            except AppError as error:
                log.warning("producer_waits", error=str(error))


def _until(listing: Listing, is_stopping: Callable[[], bool]) -> Listing:
    """A listing that is left when it is time to stop; what is recorded of it stays."""

    def list_after(cursor: str | None) -> Iterator[Change]:
        for change in listing(cursor):
            if is_stopping():
                raise Stopped
            yield change

    return list_after


def _end(db: Database, slot: Slot, status: SlotStatus, message: str) -> None:
    end_slot(db, slot, holder(), status, message)
    _tell("slot_ended", EndedSlot(slot=slot, status=status, message=message))
