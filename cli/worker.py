"""`tagmill worker`: one worker, in the foreground."""

import os
from typing import Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings


def worker(
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; one per core unless given.")] = None,
) -> None:
    """Take batches from the broker, classify them and save the answers, until stopped.

    SIGTERM and Ctrl-C let the batches at hand end first.

    Example: TAGMILL_BROKER_URL=redis://:PASSWORD@broker.example/0 tagmill worker --processes 4
    """
    from broker.app import make_app
    from broker.check import check_broker
    from results.schema import open_database
    from worker.local import CODE_FOLDER, celery_command, cores, worker_variables
    from worker.reconciler import worker_id

    settings = load_settings()
    if settings.broker_url is None:
        raise SetupError(
            "TAGMILL_BROKER_URL is not set. Name the Redis or Valkey that 'tagmill run' sends to; "
            "without one, 'tagmill run' starts workers of its own."
        )
    broker_url = settings.broker_url.get_secret_value()
    open_database(settings).close()
    check_broker(make_app(broker_url))
    os.environ.update(worker_variables(settings, broker_url))
    command = celery_command(processes or cores(), f"worker@{worker_id()}")
    os.chdir(CODE_FOLDER)
    # Celery takes this process's place, so that signals reach it and nothing stands between it and its manager.
    os.execv(command[0], command)
