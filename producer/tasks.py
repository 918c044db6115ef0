"""The producer: a Celery worker of the queue of runs, which lists sources and classifies nothing."""

import contextlib
import functools
from typing import Any

from celery import signals

from base.errors import AppError, SetupError, TransientError
from base.logs import get_logger
from base.settings import load_settings
from broker.app import RUNS_QUEUE, make_app
from broker.messages import LOOK_AT_SCHEDULES, RUN_SLOT, SlotMessage
from broker.processes import configure_process_logs
from broker.reconnect import Reconnector
from broker.ticks import send_tick
from producer import schedules
from producer.stopper import Stopper, is_stopping
from results.schedules import Slot
from results.schema import open_database
from results.session import Database

log = get_logger()

settings = load_settings()
if settings.broker_url is None:
    raise SetupError("TAGMILL_BROKER_URL is not set. Start producers with 'tagmill producer'.")
app = make_app(settings.broker_url.get_secret_value())
configure_process_logs(settings)
# A listing lasts as long as it lasts, and a message is only a hint: a slot whose message is lost is sent again.
app.conf.update(task_time_limit=None, task_acks_late=False)
app.steps["worker"].add(Stopper)
app.steps["consumer"].add(Reconnector)


@app.task(name=LOOK_AT_SCHEDULES, ignore_result=True)
def look_at_schedules() -> None:
    """Record what is due, and see that it is begun; doing it twice changes nothing."""
    try:
        schedules.look_at_schedules(_database(), app, settings)
    except AppError as error:
        log.warning("producer_waits", error=str(error))  # The next tick tries again.


@app.task(name=RUN_SLOT, ignore_result=True)
def run_slot(**fields: Any) -> None:
    """Run a slot as far as its listing is complete; doing it twice changes nothing."""
    try:
        message = SlotMessage.from_json(fields)
    except ValueError as error:
        log.warning("message_dropped", error=str(error))
        return
    slot = Slot(schedule=message.schedule, due_at=message.due_at)
    try:
        schedules.run_slot(_database(), app, settings, slot, is_stopping=is_stopping)
    except AppError as error:
        log.warning("producer_waits", error=str(error))


@functools.cache
def _database() -> Database:
    return open_database(settings)


@signals.worker_ready.connect
def _begin(sender: Any, **_: Any) -> None:
    log.info(
        "producer_ready", processes=sender.controller.concurrency, queue=RUNS_QUEUE, schedules=len(settings.schedule)
    )
    with contextlib.suppress(TransientError):  # A minute later there is another.
        send_tick(app)
