"""A Celery worker, as `python -m broker.celery_worker APP QUEUE PROCESSES NAME`.

It is what Celery's own command line does with these; but that loads all of its commands first, which takes longer than
all the rest of Celery.
"""

import gc
import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery


def main(app_name: str, queue: str, processes: str, name: str) -> int:
    """Work until told to stop; the exit code.

    Args:
        app_name: MODULE:NAME of the Celery app with its tasks.
        queue: whose messages it takes, and no others.
        processes: how many tasks are worked on at once.
        name: unique among the workers of a broker.
    """
    # What is imported stays: looking through it for garbage, now and in every process that is forked, finds none.
    gc.disable()
    module, _, attribute = app_name.partition(":")
    app: Celery = getattr(importlib.import_module(module), attribute)
    worker = app.Worker(
        hostname=name,
        pool_cls="prefork",
        concurrency=int(processes),
        queues=[queue],
        loglevel="WARNING",
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        quiet=True,
    )
    gc.freeze()
    gc.enable()
    worker.start()
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
