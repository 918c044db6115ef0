"""The whole system as processes, each started again when it ends, as a service manager or a person would."""

import contextlib
import heapq
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.preprocessing import Preprocessing
from models.registry import Registry
from tests.chaos.catalogue import COLOURS, Catalogue, Change
from tests.chaos.link import Link, link_to
from tests.documents import ROOT
from tests.processes import other_variables
from tests.servers import Postgres, Valkey, free_port, postgres_cluster, valkey_server

#: One worker has two processes, the other one.
WORKER_PROCESSES = (2, 1)

_ENGINE = Path(__file__).parent / "engine"
_LOOK_SECONDS = 0.05
# A service manager waits a moment before it starts something again; a person takes longer.
_RESTART_SECONDS = 0.5
# How long the processes of a killed worker live on that nobody ends with it.
_ORPHAN_SECONDS = 5.0
# What a process must never say: one of these is a fault of ours, whatever was done to it.
_LAST_WORDS = 1000
_UNFORESEEN = ("run_failed", "reconciler_failed")


class Broker:
    """A Valkey that may be killed and started again, behind a link that may be broken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._context: contextlib.AbstractContextManager[Valkey] | None = None

    def start(self) -> None:
        """Start it, unless it runs; with the messages that its append-only file holds."""
        if self._context is None:
            self._context = valkey_server(self.folder, self.port)
            self.server = self._context.__enter__()

    def kill(self, *, keep_file: bool) -> None:
        """Kill it, unless it is killed already."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None
        if not keep_file:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def freeze(self, signal_number: int) -> None:
        """Send it SIGSTOP or SIGCONT."""
        self.server.process.send_signal(signal_number)

    def put(self, queue: str, message: bytes) -> bool:
        """Put something into a queue, whatever it is; False where the broker is away."""
        return self._ask("LPUSH", queue, message)

    def flush(self) -> bool:
        """Take everything away; False where the broker is."""
        return self._ask("FLUSHALL")

    def _ask(self, *words: str | bytes) -> bool:
        try:
            # In one try: a frozen server would be waited for.
            with redis.Redis.from_url(self.server.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
                client.execute_command(*words)
        except redis.RedisError:
            return False
        return True


class Worker:
    """A `tagmill worker`, which is started again when it ends."""

    def __init__(self, number: int, processes: int, environment: dict[str, str], log: Path) -> None:
        self.name = f"worker {number}"
        self.log = log
        self._command = [sys.executable, "-m", "cli", "worker", "--processes", str(processes)]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._read = 0  # Bytes of its log.
        self._batches: list[tuple[float, float]] = []
        self.is_wanted = True
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the parent; None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def children(self) -> list[int]:
        """The processes that classify, in the order in which they were started."""
        # Those that take the place of others have a process beside them that looks after their semaphores.
        return [pid for pid in _children(self.pid) if "_tracker import" not in _command_line(pid)] if self.pid else []

    def tend(self) -> None:
        """Start it again when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            # Where somebody looks after services, what the main process leaves behind ends with it.
            _kill_group(self._process.pid)
            self._process = None
            self._start_at = time.monotonic() + _RESTART_SECONDS
        if self._process is None and self.is_wanted and time.monotonic() >= self._start_at:
            self.starts += 1
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def disown(self) -> int | None:
        """Kill the parent and leave its processes alone; returns their group."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.wait()
        return process.pid

    def end(self) -> None:
        """Kill it with all its processes, for good."""
        self.is_wanted = False
        if self._process is not None:
            _kill_group(self._process.pid)
            self._process.wait()

    def batches(self) -> list[tuple[float, float]]:
        """When it began with a batch and finished it, in seconds since 1970, for each."""
        events, self._read = _events(self.log, self._read)
        for event in events:
            if event["event"] == "batch_classified":
                end = datetime.fromisoformat(event["timestamp"]).timestamp()
                self._batches.append((end - float(event["elapsed_seconds"]), end))
        return self._batches

    def back_after(self, since: float) -> float | None:
        """How long after a moment it had done a batch that it began with after that; None: it has not."""
        return min((end - since for begin, end in self.batches() if begin > since), default=None)


class Command:
    """`tagmill run`, which is started again until it says that the run is complete."""

    def __init__(self, source: Path, environment: dict[str, str], folder: Path) -> None:
        self._command = [sys.executable, "-m", "cli", "run", str(source), "--model", "fake", "--json"]
        self._environment = environment
        self._out = folder / "command.json"
        self.log = folder / "command.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self.starts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def tend(self) -> int | None:
        """Start it again unless it succeeded; then, the number of its run."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self.starts += 1
                with open(self._out, "wb") as out, open(self.log, "ab") as log:
                    self._process = subprocess.Popen(
                        self._command, env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=log
                    )
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._process = None
        self._start_at = time.monotonic() + _RESTART_SECONDS
        return int(json.loads(self._out.read_text())["run_id"]) if code == 0 else None

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class System:
    """Producer, workers, broker and database, and a source whose runs follow one another.

    Args:
        images_per_round: how many come to the source before each run.
        settings: of the system, beside those of its parts.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Catalogue,
        *,
        postgres: Postgres | None,
        broker: Broker,
        link: Link,
        images_per_round: int,
        settings: dict[str, str],
    ) -> None:
        self.folder, self.catalogue, self.postgres, self.link, self.broker = folder, catalogue, postgres, link, broker
        self.sqlite = folder / "tagmill.db"
        self.trap = folder / "trap"  #: made by whoever runs what a message holds
        self.rounds: list[tuple[int, Change]] = []  #: what was found, and the last run that found it
        self.images_per_round = images_per_round
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._number = count()
        self._change: Change | None = None
        self.environment = other_variables() | {
            # What is installed may be another checkout, which a worker's processes would load parts of.
            "PYTHONPATH": f"{_ENGINE}{os.pathsep}{ROOT}",
            "TAGMILL_CONFIG": os.devnull,
            "TAGMILL_HOME": str(folder),
            "TAGMILL_DATABASE_URL": str(self.database) if postgres else f"sqlite:///{self.sqlite}",
            "TAGMILL_BROKER_URL": broker.server.url.replace(f":{broker.port}/", f":{link.port}/"),
            "TAGMILL_JSON_LOGS": "true",
            **settings,
        }
        self.workers = [
            Worker(number, processes, self.environment, folder / f"worker-{number}.log")
            for number, processes in enumerate(WORKER_PROCESSES, start=1)
        ]
        self.command = Command(catalogue.folder, self.environment, folder)

    @property
    def database(self) -> str | Path:
        """The address of PostgreSQL, or the SQLite file."""
        return self.postgres.address if self.postgres else self.sqlite

    def ask(self, *queries: str) -> list[list[tuple[Any, ...]]]:
        """What the database says, asked by its own driver."""
        address = self.database
        with closing(sqlite3.connect(address) if isinstance(address, Path) else psycopg.connect(address)) as connection:
            return [connection.execute(query).fetchall() for query in queries]

    def tagmill(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True)

    def tend(self, *, another_run: bool = True) -> bool:
        """Start what has ended, undo what is due, and begin with the next run when one is complete.

        Returns:
            Whether all runs are complete; only without another one.
        """
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        for worker in self.workers:
            worker.tend()
        if self._change is None:
            if not another_run:
                return True
            self._change = self.catalogue.change(self.images_per_round)
        run_id = self.command.tend()
        if run_id is not None:
            self.rounds.append((run_id, self._change))
            self._change = None
        return False

    def wait(self, seconds: float) -> None:
        """Let everything go on for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.tend()
            time.sleep(_LOOK_SECONDS)

    def wait_for_batch(self, workers: list[Worker], seconds: float) -> None:
        """Let everything go on until one of them has done a batch, or so long has passed."""
        since = time.time()
        while time.time() - since < seconds and not any(worker.back_after(since) for worker in workers):
            self.wait(_LOOK_SECONDS)

    def give_up_round(self) -> None:
        """Leave the run to the workers, and have the next one find more images."""
        self.command.end()
        self._change = None

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Have it done after so long."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), act))

    def complete(self, seconds: float) -> bool:
        """Undo at once all that is to be undone, and wait for the last run; whether it ended within so long."""
        for _, _, act in sorted(self._due):
            act()
        self._due.clear()
        until = time.monotonic() + seconds
        while not self.tend(another_run=False):
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def end(self) -> None:
        """Kill what we started."""
        for worker in self.workers:
            worker.end()
        self.command.end()
        for _, _, act in self._due:
            act()

    def orphan(self, worker: Worker) -> bool:
        """Kill a worker's parent, and its processes some time later; False where there is none."""
        group = worker.disown()
        if group is None:
            return False
        self.later(_ORPHAN_SECONDS, lambda: _kill_group(group))
        return True

    def note(self, what: str) -> None:
        """Keep what was done, for whoever looks at the logs of a run that went wrong."""
        with open(self.folder / "faults.log", "a") as log:
            log.write(f"{datetime.now(UTC).isoformat()} {what}\n")

    def unforeseen(self) -> list[str]:
        """What the processes said that they never should: the first of each, one line each."""
        said: list[str] = []
        for path in (*(worker.log for worker in self.workers), self.command.log):
            events = [event for event in _events(path)[0] if event["event"] in _UNFORESEEN]
            for event in events[:1]:
                words = str(event.get("exception") or event)[-_LAST_WORDS:]
                said.append(f"{path.name}: {event['event']}, {len(events)} times, at first: {words}")
        if "Traceback" in self.command.log.read_text():
            said.append(f"{self.command.log.name}: {self.command.log.read_text()[-_LAST_WORDS:]}")
        return said


@contextmanager
def running_system(
    folder: Path, seed: int, *, on_postgres: bool, images_per_round: int, settings: dict[str, str]
) -> Iterator[System]:
    """Servers, tables, a model version and an empty source in a new folder; what runs is ended with the block."""
    for name in ("broker", "images"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_cluster(synchronous_commit="on")) if on_postgres else None
        broker = Broker(folder / "broker")
        broker.start()
        stack.callback(broker.kill, keep_file=True)
        system = System(
            folder,
            Catalogue(folder / "images", seed),
            postgres=postgres,
            broker=broker,
            link=stack.enter_context(link_to(broker.port)),
            images_per_round=images_per_round,
            settings=settings,
        )
        stack.callback(system.end)
        Registry(folder / "models").publish(
            "fake",
            engines={"fake.tflite": b"none"},
            engine_file="fake.tflite",
            labels=COLOURS,
            preprocessing=Preprocessing(size=8),
            description="Tells colours.",
        )
        system.tagmill("db", "upgrade")
        yield system


def send(pid: int | None, signal_number: int) -> None:
    """Send a signal to a process, if it is still there."""
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                state, ppid = (folder / "stat").read_text().rpartition(") ")[2].split()[:2]
                if int(ppid) == parent and state != "Z":
                    found.append(int(folder.name))
    return sorted(found)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _events(log: Path, begin: int = 0) -> tuple[list[dict[str, str]], int]:
    """The whole lines of a log that are ours, from a byte on, and up to which byte they are."""
    if not log.exists():
        return [], begin
    with open(log, "rb") as file:
        file.seek(begin)
        lines, _, _ = file.read().rpartition(b"\n")
    events: list[dict[str, str]] = []
    for line in lines.splitlines():
        if line.startswith(b"{"):
            with suppress(ValueError):  # Two processes wrote at once.
                events.append(json.loads(line))
    return events, begin + (len(lines) + 1 if lines else 0)
