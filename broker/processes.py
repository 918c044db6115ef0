"""How a part of the system becomes a process of Celery."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from celery import signals

from base.logs import configure_logs
from base.settings import Settings
from results.session import database_url

#: Where it is started: Celery looks for its app in the current folder first, and another may have such names too.
CODE_FOLDER = Path(__file__).absolute().parents[1]


def worker_command(app: str, queue: str, processes: int, name: str) -> list[str]:
    """The command line of a Celery worker.

    Args:
        app: MODULE:NAME of the Celery app with its tasks.
        processes: how many tasks are worked on at once.
        name: unique among the workers of a broker.
    """
    command = [*_celery(app), "worker", "--pool", "prefork", "--concurrency", str(processes), "--queues", queue]
    command += ["--hostname", name, "--loglevel", "WARNING"]
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    return command


def beat_command(app: str) -> list[str]:
    """The command line of a Celery beat."""
    return [*_celery(app), "beat", "--loglevel", "WARNING"]


def _celery(app: str) -> list[str]:
    # -P: a folder named `worker` where the user happens to be is not ours.
    # Root's warning is about messages that could be code; ours are JSON and nothing else.
    quiet = "ignore:You're running the worker with superuser"
    return [sys.executable, "-P", "-W", quiet, "-m", "celery", "--quiet", "--app", app]


def process_variables(settings: Settings, broker_url: str) -> dict[str, str]:
    """What it needs in its environment, where it runs in CODE_FOLDER: every setting, with paths made absolute."""
    variables = settings.variables() | {
        "TAGMILL_HOME": str(settings.home_path),
        "TAGMILL_DATABASE_URL": database_url(settings).render_as_string(hide_password=False),
        "TAGMILL_MODELS_URL": settings.models_address,
        "TAGMILL_BROKER_URL": broker_url,
    }
    # Threads that fetch from buckets would reserve 64 MB each, of which an image's memory limit leaves no room.
    variables["MALLOC_ARENA_MAX"] = "2"
    # One thread for each process: they share the cores already.
    return variables | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def configure_process_logs(settings: Settings) -> None:
    """Have a process of Celery log as the settings say; Celery's own configuration would write in a form of its own."""

    @signals.setup_logging.connect(weak=False)
    def _configure(**_: Any) -> None:
        configure_logs(json_lines=settings.json_logs)


def become(command: list[str], variables: dict[str, str]) -> NoReturn:
    """Put a part in this process's place, so that signals reach it and nothing stands between it and its manager."""
    os.environ.update(variables)
    os.chdir(CODE_FOLDER)
    os.execv(command[0], command)
