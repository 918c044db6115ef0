"""Makes a worker connect anew that no longer takes messages although there are some.

Celery over Redis can end up so: when the broker goes away at the moment of an acknowledgement, that message stays
counted as being worked on, and with a limit of one per process nothing is asked for any more (celery#8030 and its
successors). Seen with Celery 5.7: a broker killed between two batches stopped a worker for good.
"""

import threading
import time
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.worker import state

from broker.dispatch import broker_errors, queue_length

log = structlog.get_logger()

# Idle for so long while messages wait, seen twice: a worker that is well takes one within milliseconds.
_IDLE_SECONDS = 3.0


class _Watch:
    """What the worker's two threads tell each other."""

    def __init__(self) -> None:
        self._busy_at = time.monotonic()
        self._saw_waiting = False
        self.is_stalled = threading.Event()

    def look(self, app: Celery) -> None:
        """Find out, from another thread than Celery's, whether this worker is idle although messages wait.

        Raises:
            TransientError: the broker does not answer.
        """
        now = time.monotonic()
        if state.reserved_requests:
            self._busy_at, self._saw_waiting = now, False
        if now - self._busy_at < _IDLE_SECONDS:
            return
        self._busy_at = now  # Asked again after as long.
        with broker_errors(), app.connection_for_write() as connection:
            is_waiting = queue_length(connection) > 0
        if is_waiting and self._saw_waiting and not state.reserved_requests:
            log.warning("messages_not_taken", idle_seconds=2 * _IDLE_SECONDS)
            self.is_stalled.set()
        self._saw_waiting = is_waiting


watch = _Watch()


class Reconnector(bootsteps.StartStopStep):
    """Raises what a broken connection raises, in Celery's own loop, which then connects anew."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        watch.is_stalled.clear()
        # Celery forgets its timers when it connects anew, and starts this step again.
        parent.timer.call_repeatedly(1.0, _raise_if_stalled, (parent.connection,))


def _raise_if_stalled(connection: Any) -> None:
    if watch.is_stalled.is_set():
        watch.is_stalled.clear()
        raise connection.connection_errors[0]("messages wait and are not taken; connecting anew")
