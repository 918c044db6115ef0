"""How the processes of a worker come about: the first ones are forked, those that take the place of others spawned.

A forked process has all that its parent imported, and so begins half a second of computing sooner. It also has its
parent's threads, locks and connections, of which there are none when the first are forked: no thread but one, nothing
asked of a broker or a database. Later there are, and a process that is forked while its parent has a SQLite file open
may damage that file (sqlite.org/howtocorrupt.html, 2.6).
"""

import sys
from typing import Any

import billiard
from celery import Celery, bootsteps


def fork_first(app: Celery) -> None:
    """Have the workers of an app do so, where forking is safe at all: on macOS it is not.

    `SpawnOthers` is there everywhere, as the reconciler requires it; where processes are spawned already it changes
    nothing.
    """
    if sys.platform == "linux":
        app.conf.worker_pool_start_method = "fork"
    # Celery would find what is required by itself, but not what that requires in its turn.
    app.steps["worker"].add(SpawnOthers)


class SpawnOthers(bootsteps.StartStopStep):
    """Comes right after the first processes were forked, and before anything else is started."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        spawning = billiard.get_context("spawn")
        billiard.set_start_method("spawn", force=True)
        # Celery knows only one way for all processes of a pool.
        pool = parent.pool._pool
        pool._ctx, pool._Process = spawning, spawning.Process  # type: ignore[attr-defined]
