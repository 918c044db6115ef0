"""A Celery worker, as `python -m broker.celery_worker APP QUEUE PROCESSES NAME [MODULE]`.

It is what Celery's own command line does with these; but that loads all of its commands first, which takes longer than
all the rest of Celery.

With a module it imports that, and then waits to be told what it works for: a line of JSON on its standard input, with
variables for its environment. So it loads while whoever started it still finds that out.
"""

import gc
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery


def main(app_name: str, queue: str, processes: str, name: str, loaded: str | None = None) -> int:
    """Work until told to stop; the exit code.

    Args:
        app_name: MODULE:NAME of the Celery app with its tasks.
        queue: whose messages it takes, and no others.
        processes: how many tasks are worked on at once.
        name: unique among the workers of a broker.
        loaded: a module that imports what the app will.
    """
    # What is imported stays: looking through it for garbage, now and in every process that is forked, finds none.
    gc.disable()
    if loaded is not None:
        importlib.import_module(loaded)
        told = sys.stdin.readline()
        if not told:  # Who started it is gone.
            return 0
        os.environ.update(json.loads(told))
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
