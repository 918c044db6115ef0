"""`tagmill worker`: one worker, in the foreground."""

from typing import Annotated

import typer

from base.errors import SetupError
from base.settings import Settings, load_settings


def worker(
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; one per core unless given.")] = None,
) -> None:
    """Take batches from the broker, classify them and save the answers, until stopped.

    SIGTERM and Ctrl-C let the batches at hand end first.

    Example: TAGMILL_BROKER_URL=redis://:PASSWORD@broker.example/0 tagmill worker --processes 4
    """
    from broker.processes import become, process_variables
    from results.schema import open_database
    from worker.identity import worker_id
    from worker.local import command_line, cores

    settings = load_settings()
    broker_url = check_configured_broker(
        settings, "that 'tagmill run' sends to; without one, 'tagmill run' starts workers of its own"
    )
    open_database(settings).close()
    become(command_line(processes or cores(), f"worker@{worker_id()}"), process_variables(settings, broker_url))


def check_configured_broker(settings: Settings, which: str) -> str:
    """The address of the broker that the settings name.

    Args:
        which: one it is, and what there is without it.

    Raises:
        SetupError: they name none, or it does not answer.
    """
    from broker.app import make_app
    from broker.check import check_broker

    if settings.broker_url is None:
        raise SetupError(f"TAGMILL_BROKER_URL is not set. Name the Redis or Valkey {which}.")
    broker_url = settings.broker_url.get_secret_value()
    check_broker(make_app(broker_url))
    return broker_url
