"""How a producer is stopped: its processes leave their listings where they are, instead of being waited for."""

import contextlib
import os
import signal
import threading
from typing import Any

from celery import bootsteps, signals

#: A producer that is told to stop has this long to leave its listings at the end of a chunk.
SHUTDOWN_SECONDS = 20.0

_stopping = threading.Event()


def is_stopping() -> bool:
    """Whether this process is to leave what it does to the next producer."""
    return _stopping.is_set()


class Stopper(bootsteps.StartStopStep):
    """Tells the processes to stop when the producer is told to; Celery would wait until they have listed everything."""

    requires = ("celery.worker.components:Pool",)

    def stop(self, parent: Any) -> None:
        processes = [process.pid for process in parent.pool._pool._pool]
        _signal_all(processes, signal.SIGUSR2)
        # A source that does not answer is not waited for; a service manager would not wait either.
        bound = threading.Timer(SHUTDOWN_SECONDS, _signal_all, args=(processes, signal.SIGKILL))
        bound.daemon = True
        bound.start()


def _signal_all(processes: list[int], signal_number: int) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


@signals.worker_process_init.connect
def _stop_when_told(**_: Any) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: _stopping.set())
