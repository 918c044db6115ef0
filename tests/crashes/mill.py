"""The system as one process that forks its parts: what they import is imported once, and each begins within a moment.

Each part whose points are looked at runs in a process of its own, with its own connections, and only one of them works
at a time, so that the same steps come in the same order. A worker is Celery's, with its pool `solo`: it takes, works on
and acknowledges messages in one process. The others, which only go on with what was left, work in the process that
starts them. Time is told by a clock that all of them share and that stands still.
"""

import importlib
import itertools
import mmap
import os
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import redis
from celery import Celery, bootsteps
from psycopg import sql

import cli.cancel
import cli.run
import cli.work
import models.classifier
import producer.batching
import producer.schedules
import results.session
import worker.heartbeat
import worker.reconciler
import worker.tasks
from base.errors import FailureReason
from base.settings import load_settings
from broker.app import QUEUE, RUNS_QUEUE
from broker.dispatch import dispatch
from models.engines.fake import FakeEngine
from models.preprocessing import Preprocessing
from models.registry import Registry, open_registry
from producer.folder import Folder
from producer.list_source import record_listing, source_listing
from producer.start_run import make_request
from results import ledger
from results.guard import Guard
from results.runs import open_run
from results.schema import VERSION_TABLE, upgrade
from results.session import Database, database_url
from results.tables import metadata
from tests.clock import Clock
from tests.crashes.points import Points
from worker.identity import worker_id

MODEL = "colours"
#: Longer than a lease, a hold, and the time after which a message is taken for lost.
LONG_SECONDS = 200.0

# What the parts would import, each anew.
_IMPORTED_ONCE = (
    "billiard.pool",
    "broker.processes",
    "broker.reconnect",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.backends.base",
    "celery.worker.consumer.delayed_delivery",
    "celery.app.routes",
    "celery.apps.worker",
    "celery.concurrency.solo",
    "celery.events",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.loops",
    "celery.worker.pidbox",
    "celery.worker.strategy",
    "kombu.asynchronous.hub",
    "kombu.matcher",
    "kombu.mixins",
    "producer.stopper",
    "psutil",
    "worker.classify",
    "worker.memory",
)

_PART_SECONDS = 60
_MOST_PARTS = 30


class SharedClock(Clock):
    """One that forked processes read, too."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)
        super().__init__()

    @property
    def seconds(self) -> float:  # type: ignore[override]
        return float(struct.unpack("d", self._shared[:8])[0])

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._shared[:8] = struct.pack("d", seconds)


class Mill:
    """Starts the parts, and knows which of them were killed.

    Args:
        folder: for logs, and a copy of an empty database.
        broker_url: of a broker that nobody else uses; so the database of the settings.
    """

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.clock = SharedClock()
        self.points = Points(folder)
        self.dead: list[int] = []  #: workers that were killed and of which no reconciler has heard
        self._stopped: list[int] = []
        self._folder = folder
        self._broker = redis.Redis.from_url(broker_url)
        self._watched = ""
        self._parts = 0
        self._log = folder / "log"
        self._url = database_url(load_settings())
        results.session.database_time = lambda: self.clock.expression  # type: ignore[misc, assignment]
        _arrange()
        self.database = Database(self._url)  #: to look at
        upgrade(self.database)
        self.database.close()
        if self.database.is_sqlite:
            shutil.copy(str(self._url.database), folder / "empty.db")

    def reset(self, role: str, end_at: int, how: signal.Signals = signal.SIGKILL) -> None:
        """An empty database and broker; count the points of a role anew, and end it at one as `Points.begin` says."""
        self.database.close()
        self._empty_database()
        self._broker.flushall()
        self.clock.seconds = 1_700_000_000.0
        self.points.begin(end_at, how)
        self._watched, self._parts, self.dead = role, 0, []
        self._log.write_text("")

    def do(self, role: str, part: Callable[[], object], meanwhile: Callable[[], object] | None = None) -> bool:
        """Run a part in a process of its own.

        Args:
            meanwhile: called as often as it waits for others; without it, it is interrupted then, as by Ctrl-C.

        Returns:
            False where it was killed, or stopped.
        """
        self._parts += 1
        assert self._parts <= _MOST_PARTS, f"after {_MOST_PARTS} processes it is not at its end: {self.log()[-1500:]}"
        self.database.close()  # Connections do not survive a fork.
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._be(role, part, theirs)
        theirs.close()
        with ours:
            while ours.recv(1):
                if meanwhile is None:
                    break
                meanwhile()
                ours.sendall(b".")
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self._stopped.append(pid)
            return False
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            self.dead += [pid] if role == "worker" else []
            return False
        assert code == 0, f"the {role} ended with {code}: {self.log()[-1500:]}"
        return True

    def work(self, *, slowly: bool = False) -> None:
        """A worker, until nothing waits for it.

        Only where somebody looks at its points is it Celery's, which takes much longer to start.
        """
        if not self.waiting(QUEUE):
            return
        if self._watched == "worker":
            self.do("worker", partial(work, slowly=slowly))
            return
        with worker.tasks.app.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as queue:
            while self.waiting(QUEUE):
                message = queue.get()
                work_on(self.database, message.payload[1]["batch_id"])
                message.ack()

    def reconcile(self) -> None:
        """What a reconciler does: give back what dead processes held, send what is due, close and publish runs."""
        dead, self.dead = self.dead, []
        if self._watched == "reconciler":
            self.do("reconciler", partial(reconcile, dead))
            return
        for pid in dead:
            ledger.give_back_lost(self.database, f"{worker_id()}/{pid}", FailureReason.WORKER_LOST)
        dispatch(self.database, worker.tasks.app, load_settings())

    def wake(self) -> None:
        """Let those go on that were stopped, until they end by themselves."""
        while self._stopped:
            self.database.close()
            pid = self._stopped.pop()
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, f"what was stopped ended with {code}: {self.log()[-1500:]}"

    def end(self) -> None:
        """End those that were stopped and never woken."""
        for pid in self._stopped:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._stopped = []

    def _be(self, role: str, part: Callable[[], object], theirs: socket.socket) -> None:
        """The life of a forked process."""
        code = 1
        try:
            signal.alarm(_PART_SECONDS)
            worker.tasks._classifiers.clear()
            with self._log.open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)

            def wait(_: float) -> None:
                # Nobody is there any more for one that was stopped meanwhile.
                if theirs.fileno() < 0 or theirs.sendall(b".") or not theirs.recv(1):
                    raise KeyboardInterrupt

            cli.work.time = SimpleNamespace(monotonic=time.monotonic, sleep=wait)  # type: ignore[assignment]
            if role == self._watched:
                self.points.watch(theirs.close)
            part()
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:  # noqa: BLE001 (its parent tells)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # What this process has from its parent is not its own to close.

    def log(self) -> str:
        """What the parts said."""
        return self._log.read_text(errors="replace")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a question in plain SQL finds."""
        with self.database.reader.begin() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def waiting(self, queue: str) -> int:
        """Messages that nobody has taken."""
        return int(self._broker.llen(queue))  # type: ignore[arg-type]

    def _empty_database(self) -> None:
        if self.database.is_sqlite:
            for ending in ("-wal", "-shm"):
                Path(f"{self._url.database}{ending}").unlink(missing_ok=True)
            shutil.copy(self._folder / "empty.db", str(self._url.database))
            return
        address = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            tables = sql.SQL(", ").join(sql.Identifier(name) for name in metadata.tables if name != VERSION_TABLE)
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))


def _arrange() -> None:
    """Make everything small, and what goes by the wall clock never wait, or never come by itself."""
    for name in _IMPORTED_ONCE:
        importlib.import_module(name)
    producer.batching._BATCHES_PER_CHUNK = 2
    cli.work._LOOK_SECONDS_WHILE_LISTING = cli.work._DISPATCH_SECONDS = 0.0
    producer.schedules._TEND_SECONDS = 3600.0
    models.classifier.load_engine = lambda version: FakeEngine(len(version.labels))  # type: ignore[assignment]
    worker_id()  # All workers are one, so that a reconciler gives back what any of them held.


def publish_model(registry: Registry) -> None:
    """A model version whose engine is the fake one."""
    registry.publish(
        MODEL,
        engines={"float32.tflite": b"weights"},
        engine_file="float32.tflite",
        labels=("red", "green", "blue"),
        preprocessing=Preprocessing(),
        description="Made for a test.",
        metrics={},
        built_with={},
    )


def run_command(source: Path) -> None:
    """`tagmill run`."""
    cli.run.run(str(source), model=MODEL)


@contextmanager
def model_missing() -> Iterator[None]:
    """The registry does not have the model, for as long as the block lasts."""
    folder = Path(load_settings().models_address) / MODEL
    away = folder.rename(folder.with_name("away"))
    try:
        yield
    finally:
        away.rename(folder)


def cancel_command(run_id: int) -> None:
    """`tagmill cancel`."""
    cli.cancel.cancel(run_id)


def work_on(db: Database, batch_id: int) -> None:
    """What a worker does with a message."""
    worker.tasks.work_on(db, batch_id, load_settings())


def record_run(db: Database, source: Path, guard: Guard | None = None) -> None:
    """What a command leaves that was killed once it had listed a source."""
    images, version = Folder(str(source)), open_registry(load_settings()).find(MODEL)
    opened = open_run(db, make_request(images, version, guard=guard), holder="another/1")
    listing = source_listing(db, images, model_version_id=opened.model_version_id, everything=False)
    record_listing(db, opened, listing, images_per_batch=2, on_chunk=lambda: None)


def work(*, slowly: bool = False) -> None:
    """A worker, until nothing waits for it.

    Args:
        slowly: it renews its lease again and again.
    """
    if slowly:
        ticks = itertools.count(0, 10)
        worker.heartbeat.time = SimpleNamespace(monotonic=lambda: next(ticks))  # type: ignore[assignment]
    _serve(worker.tasks.app, QUEUE)


def produce() -> None:
    """A producer, which looks at the schedules when it starts, until nothing waits for it."""
    # Here: it looks at the schedules as soon as any worker of its process is ready.
    _serve(importlib.import_module("producer.tasks").app, RUNS_QUEUE)


def reconcile(dead: list[int]) -> None:
    """Two rounds of the reconciler: between them it learns which processes of its worker have died."""
    processes = [SimpleNamespace(pid=pid, exitcode=-signal.SIGKILL, name=f"Worker-{pid}") for pid in dead]
    rounds = _Rounds([processes, []])
    step = worker.reconciler.Reconciler(None)
    step._stopping = rounds  # type: ignore[assignment]
    step._run(SimpleNamespace(app=worker.tasks.app, pool=SimpleNamespace(_pool=rounds)))


class _Rounds:
    """A reconciler's rounds, and the processes that it finds in each."""

    def __init__(self, rounds: list[list[Any]]) -> None:
        self._rounds: Iterator[list[Any]] = iter(rounds)
        self._pool: list[Any] = []

    def wait(self, _: float) -> bool:
        try:
            self._pool = next(self._rounds)
        except StopIteration:
            return True
        return False


class _Ender(bootsteps.StartStopStep):
    """Ends a worker for which nothing waits; what it is at, it does first."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    _LOOKS = 3  # A message that has left the queue may be on its way to us.

    def start(self, consumer: Any) -> None:
        self._looks = 0
        self._client = redis.Redis.from_url(consumer.app.conf.broker_url)
        (queue,) = consumer.app.amqp.queues.consume_from
        consumer.timer.call_repeatedly(0.01, self._look, (queue,))

    def _look(self, queue: str) -> None:
        self._looks = 0 if self._client.llen(queue) else self._looks + 1
        if self._looks == self._LOOKS:
            os._exit(0)


def _serve(app: Celery, queue: str) -> None:
    app.steps["worker"].clear()  # They want a pool of processes; the reconciler is a part of its own here.
    app.steps["consumer"].add(_Ender)
    options = {"without_mingle": True, "without_gossip": True, "without_heartbeat": True, "quiet": True}
    app.Worker(pool="solo", queues=[queue], hostname=f"test@{os.getpid()}", loglevel="WARNING", **options).start()
