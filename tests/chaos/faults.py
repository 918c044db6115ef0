"""What the monkey does: an endless sequence of faults from a seed, and how each of them is done."""

import base64
import json
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from broker.app import QUEUE
from tests.chaos.system import System, Worker, send
from tests.strange_messages import StrangeMessage, strange_messages

_PAUSE_SECONDS = (0.1, 1.0)
# How many wait until whom they hit is at work. Without any patience they would only ever hit what is just starting.
_PATIENT = 0.15
_WORKERS = ("worker", "worker process")
_STOP_SECONDS = (0.5, 12.0)  # Twice the lease at the most.
_AWAY_SECONDS = (0.0, 3.0)
# Longer than the lease at times: who has an answer to save then meets who claims the batch anew.
_DATABASE_AWAY_SECONDS = (0.0, 10.0)
_SILENT_SECONDS = (1.0, 12.0)
_DELAY_SECONDS = (0.05, 0.5)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is done to the system."""

    role: str  #: whom it hits
    kind: str
    victim: int  #: which one of those there are
    seconds: float  #: how long it lasts, 0 to 1 of what its kind allows
    pause: float  #: seconds until the next one
    is_patient: bool  #: it waits until there is work to disturb

    def __str__(self) -> str:
        return f"{self.role}: {self.kind}"


def faults(seed: int, *, on_postgres: bool) -> Iterator[Fault]:
    """The sequence of a seed: every kind once, and SIGKILL twice, in any order, before any comes again."""
    chance = random.Random(f"faults {seed}")
    kinds = [key for key in _ACTS if on_postgres or key[0] != "PostgreSQL"]
    kinds = [key for key in kinds if not on_postgres or key[0] != "SQLite"]
    kinds += [key for key in kinds if key[1] == "SIGKILL"]
    while True:
        chance.shuffle(kinds)
        for role, kind in kinds:
            yield Fault(
                role=role,
                kind=kind,
                victim=chance.getrandbits(16),
                seconds=chance.random(),
                pause=chance.uniform(*_PAUSE_SECONDS),
                is_patient=chance.random() < _PATIENT or (role in _WORKERS and kind.startswith("SIGKILL")),
            )


@dataclass(frozen=True, kw_only=True)
class Hit:
    """What a fault met."""

    seconds: float = 0.0  #: until it is undone
    worker: str | None = None  #: the only one that it hits; None: all


def inflict(system: System, fault: Fault) -> Hit | None:
    """Do it, and see to it that it is undone where it lasts; None where there is nobody to do it to."""
    return _ACTS[fault.role, fault.kind](system, fault)


def hits(system: System, fault: Fault) -> list[Worker]:
    """The workers that it is about to hit."""
    return [_worker(system, fault)] if fault.role in _WORKERS else system.workers


def _lasts(fault: Fault, bounds: tuple[float, float]) -> float:
    return bounds[0] + fault.seconds * (bounds[1] - bounds[0])


def _worker(system: System, fault: Fault) -> Worker:
    return system.workers[fault.victim % len(system.workers)]


def _signal_command(number: int, system: System, fault: Fault) -> Hit | None:
    return _signal(system, fault, number, system.command.pid, None)


def _signal_worker(number: int, system: System, fault: Fault) -> Hit | None:
    worker = _worker(system, fault)
    return _signal(system, fault, number, worker.pid, worker.name)


def _signal_child(number: int, system: System, fault: Fault) -> Hit | None:
    worker = _worker(system, fault)
    children = worker.children()
    child = children[fault.victim // len(system.workers) % len(children)] if children else None
    return _signal(system, fault, number, child, worker.name)


def _signal(system: System, fault: Fault, number: int, pid: int | None, worker: str | None) -> Hit | None:
    if pid is None:
        return None
    send(pid, number)
    if number != signal.SIGSTOP:
        return Hit(worker=worker)
    return _undo_later(system, fault, _STOP_SECONDS, lambda: send(pid, signal.SIGCONT), worker)


def _undo_later(
    system: System,
    fault: Fault,
    bounds: tuple[float, float],
    act: Callable[[], object],
    worker: str | None = None,
) -> Hit:
    seconds = _lasts(fault, bounds)
    system.later(seconds, act)
    return Hit(seconds=seconds, worker=worker)


def _disown(system: System, fault: Fault) -> Hit | None:
    worker = _worker(system, fault)
    return Hit(worker=worker.name) if system.orphan(worker) else None


def _kill_broker(system: System, fault: Fault, *, keep_file: bool) -> Hit:
    system.broker.kill(keep_file=keep_file)
    return _undo_later(system, fault, _AWAY_SECONDS, system.broker.start)


def _freeze_broker(system: System, fault: Fault) -> Hit:
    system.broker.freeze(signal.SIGSTOP)
    return _undo_later(system, fault, _SILENT_SECONDS, lambda: system.broker.freeze(signal.SIGCONT))


def _flush_broker(system: System, fault: Fault) -> Hit | None:
    return Hit() if system.broker.flush() else None


def _reset(system: System, fault: Fault) -> Hit:
    system.link.reset()
    return Hit()


def _half_open(system: System, fault: Fault) -> Hit:
    system.link.half_open()
    return Hit()


def _black_hole(system: System, fault: Fault) -> Hit:
    system.link.black_hole()
    return _undo_later(system, fault, _SILENT_SECONDS, system.link.heal)


def _delay(system: System, fault: Fault) -> Hit:
    system.link.delay(_lasts(fault, _DELAY_SECONDS))
    return _undo_later(system, fault, _SILENT_SECONDS, system.link.heal)


def _crash_postgres(system: System, fault: Fault) -> Hit | None:
    assert system.postgres is not None
    if not system.postgres.is_running:
        return None
    system.postgres.stop_immediately()
    return _undo_later(system, fault, _DATABASE_AWAY_SECONDS, system.postgres.start)


def _lock_sqlite(system: System, fault: Fault) -> Hit | None:
    """Hold the lock that everybody waits for who writes."""
    connection = sqlite3.connect(system.sqlite, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:  # Somebody else has it for seconds.
        connection.close()
        return None
    return _undo_later(system, fault, _SILENT_SECONDS, connection.close)


def _garbage(system: System, fault: Fault) -> Hit | None:
    """Put into the queue what nobody of us would."""
    kinds = [b"\x00\xff not JSON", b"[]", json.dumps({"body": "", "headers": {}, "properties": {}}).encode()]
    kinds += [_in_redis(message) for message in strange_messages(system.trap)]
    return Hit() if system.broker.put(QUEUE, kinds[fault.victim % len(kinds)]) else None


def _in_redis(message: StrangeMessage) -> bytes:
    """As Celery puts it into Redis. Source: its message protocol, version 2."""
    headers = {
        "lang": "py",
        "task": message.task,
        "id": "00000000-0000-0000-0000-000000000000",
        "argsrepr": "",
        "kwargsrepr": "",
    }
    properties = {
        "correlation_id": headers["id"],
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": base64.b64encode(message.body).decode()[:32],
    }
    return json.dumps(
        {
            "body": base64.b64encode(message.body).decode(),
            "content-encoding": "utf-8",
            "content-type": message.content_type,
            "headers": headers,
            "properties": properties,
        }
    ).encode()


_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGSTOP": signal.SIGSTOP, "SIGTERM": signal.SIGTERM}
_ACTS: dict[tuple[str, str], Callable[[System, Fault], Hit | None]] = {
    **{("command", name): partial(_signal_command, number) for name, number in _SIGNALS.items()},
    **{("worker", name): partial(_signal_worker, number) for name, number in _SIGNALS.items()},
    **{("worker process", name): partial(_signal_child, number) for name, number in _SIGNALS.items()},
    ("worker", "SIGKILL, its processes live on"): _disown,
    ("broker", "SIGKILL"): partial(_kill_broker, keep_file=True),
    ("broker", "SIGKILL, file lost"): partial(_kill_broker, keep_file=False),
    ("broker", "SIGSTOP"): _freeze_broker,
    ("broker", "FLUSHALL"): _flush_broker,
    ("broker", "garbage"): _garbage,
    ("link", "reset"): _reset,
    ("link", "half-open"): _half_open,
    ("link", "black hole"): _black_hole,
    ("link", "delay"): _delay,
    ("PostgreSQL", "stop -m immediate"): _crash_postgres,
    ("SQLite", "locked"): _lock_sqlite,
}
