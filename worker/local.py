"""The workers that `tagmill run` starts for itself when no broker is configured."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from base.errors import FailureReason, SetupError
from base.folders import make_private_folder
from base.logs import get_logger
from base.settings import Settings
from broker.app import QUEUE
from broker.processes import CODE_FOLDER, fixed_variables, setting_variables, worker_command
from worker.identity import KEEPS_DYING_EXIT_CODE, worker_environment

if TYPE_CHECKING:
    from results.session import Database

log = get_logger()

# A worker that dies so often in a row, without a batch having been claimed in between, will not get better.
_DEATHS_BEFORE_GIVING_UP = 3
_STOP_SECONDS = 30.0


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command_line(processes: int, name: str, *, loaded: str | None = None) -> list[str]:
    """The command line of a worker.

    Args:
        processes: how many images are worked on at once; one per core is best.
        name: unique among the workers of a broker.
        loaded: as `worker_command` takes it.
    """
    return worker_command("worker.tasks:app", QUEUE, processes, name, loaded=loaded)


class LocalWorker:
    """A Celery worker with its processes, started again when it dies; as a context, it ends with the block.

    It starts as soon as the block is entered, and loads what it needs while whoever started it finds out whether there
    is work at all.

    Args:
        processes: one per core.
    """

    def __init__(self, settings: Settings, *, processes: int) -> None:
        self._settings = settings
        self._processes = processes
        self._log_path = settings.home_path / "worker.log"
        self._identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._process: subprocess.Popen[bytes] | None = None
        self._db: Database | None = None
        self._told = b""
        self._claims = 0
        self._deaths = 0

    def __enter__(self) -> Self:
        home = self._settings.home_path
        # What its processes leave behind when they are killed, as they are at the end of a run, goes with this folder.
        self._scratch = tempfile.TemporaryDirectory(prefix="tagmill-")
        try:
            make_private_folder(home)
            self._process = self._start()
        except OSError as error:
            self._scratch.cleanup()
            raise SetupError(
                f"cannot write to {home}: {error.strerror}. Name another folder with TAGMILL_HOME."
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def begin(self, db: "Database", broker_url: str) -> None:
        """Have it take the batches that wait in the broker, and end them in the database."""
        assert self._process is not None
        self._db = db
        self._told = json.dumps(setting_variables(self._settings, broker_url)).encode() + b"\n"
        self._tell(self._process)

    def check(self, claims: int) -> None:
        """Start the worker again if it died; only once it has begun.

        Args:
            claims: how often batches were claimed by now.

        Raises:
            SetupError: it keeps dying before it claims anything; the message has its last words.
        """
        assert self._process is not None
        exit_code = self._process.poll()
        if exit_code is None:
            return
        _kill_group(self._process)
        self._give_back(FailureReason.WORKER_LOST)
        self._deaths = 1 if claims > self._claims else self._deaths + 1
        self._claims = claims
        log.warning("worker_died", exit_code=exit_code, log=str(self._log_path))
        if self._deaths >= _DEATHS_BEFORE_GIVING_UP or exit_code == KEEPS_DYING_EXIT_CODE:
            raise SetupError(
                f"the workers keep dying (exit code {exit_code}) before they classify anything; {self._log_path} "
                f"ends with: {_last_words(self._log_path)}"
            )
        self._process = self._start()
        self._tell(self._process)

    def stop(self) -> None:
        """End the worker and all its processes, once; a batch that does not end in time is given back."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if not self._holds_batches():
                return  # Nothing to wait for, and Celery's own way out takes seconds.
            if process.poll() is None:
                process.terminate()
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("worker_killed", after_seconds=_STOP_SECONDS)
        finally:
            _kill_group(process)
            assert process.stdin is not None
            process.stdin.close()  # Still open where it never began.
            process.wait()
            self._scratch.cleanup()
            self._give_back(None)

    def _holds_batches(self) -> bool:
        if self._db is None:
            return False
        from results import ledger  # Here and below, so that the worker is started before this is loaded.

        return ledger.holds_batches(self._db, f"{self._identity}/")

    def _give_back(self, reason: FailureReason | None) -> None:
        if self._db is None:
            return
        from results import ledger

        ledger.give_back_lost(self._db, f"{self._identity}/", reason)

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = os.environ | fixed_variables() | worker_environment(self._identity)
        with open(self._log_path, "ab") as log_file:
            return subprocess.Popen(
                command_line(self._processes, f"run@{self._identity}", loaded="worker.loaded"),
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                env=environment | {"TMPDIR": self._scratch.name},
                cwd=CODE_FOLDER,
                # Ctrl-C is for the command alone, which then ends its workers in good order.
                start_new_session=True,
            )

    def _tell(self, process: "subprocess.Popen[bytes]") -> None:
        """Tell a worker that waits for it what it works for."""
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as told:  # One that died is started again by `check`.
            told.write(self._told)


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End what a worker that is gone has left behind: all its processes are of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS's word for one that nobody waited for yet.
        os.killpg(process.pid, signal.SIGKILL)


def _last_words(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:]) or "nothing"
