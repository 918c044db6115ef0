"""How soon work goes on after one fault while nothing else happens, with the settings as they come.

Of the workers only: the command that listed is gone by then, as it may be, so that nobody but they sends what is due.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.system import System, Worker, running_system, send

# A batch lasts a second, which every figure contains. All of them wait in the queue, so that a broker may lose all.
_SETTINGS = {"CHAOS_IMAGE_SECONDS": "0.25", "TAGMILL_IMAGES_PER_BATCH": "4", "TAGMILL_BATCHES_IN_QUEUE": "10000"}
# Two batches for each process, and more than all other probes together let pass.
_FEW_IMAGES, _MANY_IMAGES = 24, 6000
_STEADY_SECONDS = 3.0
# Who looks for the broker less and less often would do so 12 seconds after it is back.
_AWAY_SECONDS = 44.0
#: How long we wait for something that does not come.
PATIENCE_SECONDS = 150.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One fault, and how soon after it work has to go on."""

    name: str
    bound: float  #: seconds
    measure: Callable[[System], float | None]  #: does it and waits; None: in vain


def recovery(folder: Path, *, on_postgres: bool, times: int) -> Iterator[tuple[Probe, list[float]]]:
    """What each probe found, so many times each, in seconds; infinity where nothing went on."""
    with running_system(folder, 0, on_postgres=on_postgres, images_per_round=_FEW_IMAGES, settings=_SETTINGS) as system:
        for probe in AT_THE_END:
            yield probe, [_measure(system, probe) for _ in range(times)]
        system.images_per_round = _MANY_IMAGES
        _list(system)
        for probe in IN_THE_MIDDLE:
            if on_postgres or probe.measure is not _restart_postgres:
                yield probe, [_measure(system, probe) for _ in range(times)]


def _measure(system: System, probe: Probe) -> float:
    if probe in IN_THE_MIDDLE:
        _wait_until_steady(system)
    seconds = probe.measure(system)
    return float("inf") if seconds is None else seconds


def _list(system: System) -> None:
    """Have a command list everything, and end it: the workers go on."""
    ((before,),) = system.ask("SELECT count(*) FROM runs WHERE listed_at IS NOT NULL")
    while system.ask("SELECT count(*) FROM runs WHERE listed_at IS NOT NULL") == [[before]]:
        system.wait(0.1)
    system.give_up_round()


def _wait_until_steady(system: System) -> None:
    """Until both workers have done something lately."""
    since = time.time()
    _wait(system, lambda: all(worker.back_after(since) for worker in system.workers))
    _wait(system, lambda: time.time() > since + _STEADY_SECONDS)


def _tend(system: System) -> None:
    for worker in system.workers:
        worker.tend()
    time.sleep(0.05)


def _wait(system: System, condition: Callable[[], object]) -> float | None:
    """How long it takes until it is so, while workers are started again that end."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE_SECONDS:
            return None
        _tend(system)
    return time.monotonic() - began


def _all_work(system: System) -> float | None:
    """Until each worker has done a batch that it began with after now."""
    since = time.time()
    return _wait(system, lambda: all(worker.back_after(since) for worker in system.workers))


def _lose(system: System, find: Callable[[], list[int]], lose: Callable[[list[int]], object]) -> float | None:
    """Until the batches of some processes that are lost are done; near the end of a run, when nothing waits in front.

    Args:
        find: the processes.
        lose: how they are.
    """
    while True:
        _wait(system, lambda: all(worker.children() for worker in system.workers))
        _list(system)
        while open_batches := _open_batches(system):
            pids = find()
            held = {batch_id for batch_id, pid in open_batches.items() if pid in pids}
            if held and None not in open_batches.values():
                lose(pids)
                return _wait(system, partial(_are_done, system, held))
            _tend(system)


def _open_batches(system: System) -> dict[int, int | None]:
    """The batches that are not done, each with the process that is at it."""
    (rows,) = system.ask("SELECT id, owner FROM batches WHERE status <> 'done'")
    return {batch_id: int(owner.rpartition("/")[2]) if owner else None for batch_id, owner in rows}


def _are_done(system: System, batches: set[int]) -> bool:
    return not batches & _open_batches(system).keys()


def _kill_worker(system: System) -> float | None:
    """As when its machine is gone."""
    lost = system.workers[0]
    try:
        return _lose(system, lost.children, lambda pids: lost.end())
    finally:
        lost.is_wanted = True


def _kill_process(system: System) -> float | None:
    return _lose(system, lambda: system.workers[1].children()[:1], lambda pids: send(pids[0], signal.SIGKILL))


def _restart_broker(system: System, *, keep_file: bool, away_seconds: float = 0.0) -> float | None:
    system.broker.kill(keep_file=keep_file)
    time.sleep(away_seconds)
    system.broker.start()
    return _all_work(system)


def _half_open(system: System) -> float | None:
    system.link.half_open()
    return _all_work(system)


def _flush(system: System) -> float | None:
    system.broker.flush()
    return _all_work(system)


def _restart_postgres(system: System) -> float | None:
    assert system.postgres is not None
    system.postgres.stop_immediately()
    system.postgres.start()
    return _all_work(system)


def _terminate(system: System, *, hangs: bool) -> float | None:
    """Until it has ended."""
    worker: Worker = system.workers[0]
    pid, children = worker.pid, worker.children()
    # A process is at a batch most of the time, and the second look is as good as the first.
    if hangs:
        send(children[0], signal.SIGSTOP)
    send(pid, signal.SIGTERM)
    return _wait(system, lambda: worker.pid != pid)


AT_THE_END = (
    Probe(name="worker killed, its machine gone", bound=70, measure=_kill_worker),
    Probe(name="process of a worker killed", bound=70, measure=_kill_process),
)
IN_THE_MIDDLE = (
    Probe(name="Redis killed and restarted", bound=10, measure=partial(_restart_broker, keep_file=True)),
    Probe(
        name=f"the same, {_AWAY_SECONDS:.0f} s later",
        bound=10,
        measure=partial(_restart_broker, keep_file=True, away_seconds=_AWAY_SECONDS),
    ),
    Probe(name="the same, its file lost", bound=60, measure=partial(_restart_broker, keep_file=False)),
    Probe(name="FLUSHALL", bound=60, measure=_flush),
    Probe(name="half-open link", bound=60, measure=_half_open),
    Probe(name="PostgreSQL stopped in a crash and restarted", bound=60, measure=_restart_postgres),
    Probe(name="SIGTERM, until the worker has ended", bound=30, measure=partial(_terminate, hangs=False)),
    Probe(name="SIGTERM while a process hangs", bound=30, measure=partial(_terminate, hangs=True)),
)
