"""What the parent of every worker does beside its processes: dispatch, and give back what dead processes held."""

import contextlib
import os
import signal
import threading
import time
from collections import deque
from typing import Any

from celery import bootsteps
from celery.worker import state

from base.errors import AppError, FailureReason
from base.logs import get_logger
from base.settings import load_settings
from broker.dispatch import dispatch
from results import ledger
from results.schema import open_database
from results.session import Database
from worker.heartbeat import ALARM_EXIT_CODE
from worker.identity import KEEPS_DYING_EXIT_CODE, starter, worker_id

log = get_logger()

#: A worker that is told to stop has this long to end its batches.
SHUTDOWN_SECONDS = 20.0

_LOOK_SECONDS = 0.5
# So many deaths of processes that held no batch, within so long, and the worker gives up.
_DEATHS_BEFORE_GIVING_UP = 6
_DEATHS_WITHIN_SECONDS = 60.0


class Reconciler(bootsteps.StartStopStep):
    """Runs in a thread of the worker's parent, so that a slow database never stops the worker's own loop."""

    requires = ("celery.worker.components:Pool", "worker.forking:SpawnOthers")

    def __init__(self, parent: Any, **_: Any) -> None:
        worker_id()  # Before the processes are started, so that they inherit it.
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, parent: Any) -> None:
        self._thread = threading.Thread(target=self._run, args=(parent,), name="reconciler", daemon=True)
        self._thread.start()

    def stop(self, parent: Any) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        # Celery now waits for the batches at hand, however long they take; a service manager does not.
        bound = threading.Timer(SHUTDOWN_SECONDS, _give_up_batches, args=(list(parent.pool._pool._pool),))
        bound.daemon = True
        bound.start()

    def _run(self, worker: Any) -> None:
        settings = load_settings()
        started_by = starter()
        processes = _Processes()
        db: Database | None = None
        next_dispatch = 0.0
        while not self._stopping.wait(_LOOK_SECONDS):
            if started_by and os.getppid() != started_by:
                log.warning("starter_gone", pid=started_by)
                _end_worker()
                return
            try:
                db = db or open_database(settings)
                processes.give_back_dead(db, worker.pool._pool._pool)
                if processes.keep_dying():
                    log.error("processes_keep_dying")
                    # At once: Celery's own ways out lose the exit code, or wait for processes that do not come up.
                    os._exit(KEEPS_DYING_EXIT_CODE)
                if time.monotonic() >= next_dispatch:
                    next_dispatch = time.monotonic() + settings.dispatch_seconds
                    dispatch(db, worker.app, settings)
            except AppError as error:
                log.warning("reconciler_waits", error=str(error))
            except Exception:
                log.exception("reconciler_failed")  # The next round tries again; without it nothing would be resent.


class _Processes:
    """The processes of this worker, and what those held that died."""

    def __init__(self) -> None:
        self._alive: dict[int, Any] = {}
        self._held = 0  # Deaths of processes that held a batch.
        self._idle_deaths: deque[tuple[float, int]] = deque()  # When, and how many others there were by then.

    def give_back_dead(self, db: Database, processes: list[Any]) -> None:
        """Give back the batches of the processes that are no longer there since the last look."""
        alive = {process.pid: process for process in processes}
        for pid in self._alive.keys() - alive.keys():
            exit_code = self._alive[pid].exitcode
            reason = FailureReason.TIMEOUT if exit_code == ALARM_EXIT_CODE else FailureReason.WORKER_LOST
            given_back = ledger.give_back_lost(db, f"{worker_id()}/{pid}", reason)
            log.warning("process_died", pid=pid, exit_code=exit_code, batches=given_back)
            self._held += given_back
            del self._alive[pid]  # At once: the database may fail at the next one, and then this one is not new.
        self._alive = alive
        # Billiard numbers the processes that it starts, and so counts those too that come and go between two looks.
        started = max((int(process.name.rpartition("-")[2]) for process in processes), default=0)
        now = time.monotonic()
        self._idle_deaths.append((now, started - len(processes) - self._held))
        while now - self._idle_deaths[0][0] > _DEATHS_WITHIN_SECONDS:
            self._idle_deaths.popleft()

    def keep_dying(self) -> bool:
        """Whether processes die again and again that have not even begun."""
        return self._idle_deaths[-1][1] - self._idle_deaths[0][1] >= _DEATHS_BEFORE_GIVING_UP


def _end_worker() -> None:
    """Make Celery's own loop end; it looks at this once a second at least."""
    state.should_terminate = os.EX_OK  # type: ignore[assignment]


def _give_up_batches(processes: list[Any]) -> None:
    """End the processes whose batches would not end; somebody else gets those at once, without an attempt lost."""
    log.warning("batches_given_up", after_seconds=SHUTDOWN_SECONDS)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    db = open_database(load_settings())
    ledger.give_back_lost(db, f"{worker_id()}/", None)
    db.close()
