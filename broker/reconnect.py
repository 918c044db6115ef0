"""Makes a worker connect anew that has lost count of its messages.

When the broker goes away at the moment of an acknowledgement, Celery over Redis goes on counting that message as being
worked on. With a limit of one per process, each of them stops a process for good (celery#8030 and its successors). Seen
with Celery 5.7: a broker killed between two batches left its only worker idle for ever.
"""

from typing import Any

from celery import bootsteps
from celery.worker import state

from base.logs import get_logger

log = get_logger()

_LOOK_SECONDS = 1.0
# A message is counted a moment before it is worked on and a moment after; one that stays so is lost.
_LOOKS_BEFORE_RECONNECTING = 4


class Reconnector(bootsteps.StartStopStep):
    """Raises in Celery's own loop what a broken connection raises, so that Celery connects anew and counts afresh."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        self._looks = 0
        # Celery forgets its timers when it connects anew, and starts this step again.
        parent.timer.call_repeatedly(_LOOK_SECONDS, self._look, (parent,))

    def _look(self, consumer: Any) -> None:
        qos = consumer.task_consumer.channel.qos
        counted = len(qos._delivered) - len(qos._dirty)
        self._looks = self._looks + 1 if counted > len(state.reserved_requests) else 0
        if self._looks >= _LOOKS_BEFORE_RECONNECTING:
            log.warning("messages_miscounted", counted=counted, worked_on=len(state.reserved_requests))
            raise consumer.connection.connection_errors[0]("an acknowledgement was lost; connecting anew")
