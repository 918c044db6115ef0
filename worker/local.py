"""The workers that `tagmill run` starts for itself when no broker is configured."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

from base.errors import FailureReason, SetupError
from base.logs import get_logger
from base.settings import Settings
from broker.app import QUEUE
from broker.processes import CODE_FOLDER, process_variables, worker_command
from results import ledger
from results.session import Database
from worker.identity import KEEPS_DYING_EXIT_CODE, worker_environment

log = get_logger()

# A worker that dies so often in a row, without a batch having been claimed in between, will not get better.
_DEATHS_BEFORE_GIVING_UP = 3
_STOP_SECONDS = 30.0


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_line(processes: int, name: str) -> list[str]:
    """The command line of a worker.

    Args:
        processes: how many images are worked on at once; one per core is best.
        name: unique among the workers of a broker.
    """
    return worker_command("worker.tasks:app", QUEUE, processes, name)


class LocalWorker:
    """A Celery worker with its processes, started again when it dies.

    Args:
        processes: one per core.
        log_path: where what it says is kept.
    """

    def __init__(self, settings: Settings, db: Database, *, broker_url: str, processes: int, log_path: Path) -> None:
        self._db = db
        self._processes = processes
        self._log_path = log_path
        self._identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        # What its processes leave behind when they are killed, as they are at the end of a run, goes with this folder.
        self._scratch = tempfile.TemporaryDirectory(prefix="tagmill-")
        self._environment = os.environ | process_variables(settings, broker_url) | worker_environment(self._identity)
        self._environment["TMPDIR"] = self._scratch.name
        self._claims = 0
        self._deaths = 0
        self._process = self._start()

    def check(self, claims: int) -> None:
        """Start the worker again if it died.

        Args:
            claims: how often batches were claimed by now.

        Raises:
            SetupError: it keeps dying before it claims anything; the message has its last words.
        """
        exit_code = self._process.poll()
        if exit_code is None:
            return
        self._kill_group()
        ledger.give_back_lost(self._db, f"{self._identity}/", FailureReason.WORKER_LOST)
        self._deaths = 1 if claims > self._claims else self._deaths + 1
        self._claims = claims
        log.warning("worker_died", exit_code=exit_code, log=str(self._log_path))
        if self._deaths >= _DEATHS_BEFORE_GIVING_UP or exit_code == KEEPS_DYING_EXIT_CODE:
            raise SetupError(
                f"the workers keep dying (exit code {exit_code}) before they classify anything; {self._log_path} "
                f"ends with: {_last_words(self._log_path)}"
            )
        self._process = self._start()

    def stop(self) -> None:
        """End the worker and all its processes; a batch that does not end in time is given back."""
        try:
            if not ledger.holds_batches(self._db, f"{self._identity}/"):
                return  # Nothing to wait for, and Celery's own way out takes seconds.
            if self._process.poll() is None:
                self._process.terminate()
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("worker_killed", after_seconds=_STOP_SECONDS)
        finally:
            self._kill_group()
            self._process.wait()
            self._scratch.cleanup()
            ledger.give_back_lost(self._db, f"{self._identity}/", None)

    def _kill_group(self) -> None:
        """End what a worker that is gone has left behind: all its processes are of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self) -> "subprocess.Popen[bytes]":
        with open(self._log_path, "ab") as log_file:
            return subprocess.Popen(
                command_line(self._processes, f"run@{self._identity}"),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=self._environment,
                cwd=CODE_FOLDER,
                # Ctrl-C is for the command alone, which then ends its workers in good order.
                start_new_session=True,
            )


def _last_words(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "nothing"
