"""`tagmill producer` and `tagmill beat`: what works off the schedules, in the foreground."""

import socket
import uuid
from typing import Annotated

import typer

from base.settings import load_settings
from cli.worker import check_configured_broker

_WHICH = "that 'tagmill worker' takes its batches from; schedules are not for the embedded one"


def producer(
    processes: Annotated[int, typer.Option(min=1, help="Sources that are listed at the same time.")] = 2,
) -> None:
    """Start the runs that the schedules of tagmill.toml ask for, until stopped.

    It lists the sources, and leaves the images to the workers. Any number of producers may run, and each needs the same
    schedules. SIGTERM and Ctrl-C stop the listings where they are; the next producer goes on with them.

    Example: TAGMILL_BROKER_URL=redis://:PASSWORD@broker.example/0 tagmill producer
    """
    from broker.app import RUNS_QUEUE
    from broker.processes import become, process_variables, worker_command
    from results.schema import open_database

    settings = load_settings()
    broker_url = check_configured_broker(settings, _WHICH)
    open_database(settings).close()
    name = f"producer@{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    become(worker_command("producer.tasks:app", RUNS_QUEUE, processes, name), process_variables(settings, broker_url))


def beat() -> None:
    """Tell the producers once a minute to look at the schedules, until stopped.

    It needs nothing but the broker. Any number may run: who looks twice finds nothing new.

    Example: TAGMILL_BROKER_URL=redis://:PASSWORD@broker.example/0 tagmill beat
    """
    from broker.processes import beat_command, become, process_variables

    settings = load_settings()
    broker_url = check_configured_broker(settings, _WHICH)
    become(beat_command("producer.beat:app"), process_variables(settings, broker_url))
