"""How a part of the system becomes a process of Celery."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from base.logs import configure_logs
from base.settings import Settings

#: Where our packages are; and where a process is started, as Celery's own commands look for the app there first.
CODE_FOLDER = Path(__file__).absolute().parents[1]


def worker_command(app: str, queue: str, processes: int, name: str, *, loaded: str | None = None) -> list[str]:
    """The command line of a Celery worker.

    Args:
        app: MODULE:NAME of the Celery app with its tasks.
        processes: how many tasks are worked on at once.
        name: unique among the workers of a broker.
        loaded: a module that it imports before it waits for the settings, on its standard input; None where its
            environment has them already.
    """
    command = [*_python(), "-m", "broker.celery_worker", app, queue, str(processes), name]
    return command if loaded is None else [*command, loaded]


def beat_command(app: str) -> list[str]:
    """The command line of a Celery beat."""
    return [*_python(), "-m", "celery", "--quiet", "--app", app, "beat", "--loglevel", "WARNING"]


def _python() -> list[str]:
    # -P: a folder named `worker` where the user happens to be is not ours.
    # Root's warning is about messages that could be code; ours are JSON and nothing else.
    quiet = "ignore:You're running the worker with superuser"
    return [sys.executable, "-P", "-W", quiet]


def process_variables(settings: Settings, broker_url: str) -> dict[str, str]:
    """What it needs in its environment, where it runs in CODE_FOLDER: every setting, with paths made absolute."""
    return setting_variables(settings, broker_url) | fixed_variables()


def setting_variables(settings: Settings, broker_url: str) -> dict[str, str]:
    """The settings among what a process of Celery needs in its environment."""
    from results.session import database_url  # Loads SQLAlchemy, for which who only starts a worker need not wait.

    return settings.variables() | {
        "TAGMILL_HOME": str(settings.home_path),
        "TAGMILL_DATABASE_URL": database_url(settings).render_as_string(hide_password=False),
        "TAGMILL_MODELS_URL": settings.models_address,
        "TAGMILL_BROKER_URL": broker_url,
    }


def fixed_variables() -> dict[str, str]:
    """The variables that Python and libraries read as a process begins."""
    return {
        # Where -P lets nobody look: what is not installed, but a checkout.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CODE_FOLDER), os.environ.get("PYTHONPATH")])),
        # Threads that fetch from buckets would reserve 64 MB each, of which an image's memory limit leaves no room.
        "MALLOC_ARENA_MAX": "2",
        # One thread for each process: they share the cores already.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }


def configure_process_logs(settings: Settings) -> None:
    """Have a process of Celery log as the settings say; Celery's own configuration would write in a form of its own."""

    from celery import signals

    @signals.setup_logging.connect(weak=False)
    def _configure(**_: Any) -> None:
        configure_logs(json_lines=settings.json_logs)


def become(command: list[str], variables: dict[str, str]) -> NoReturn:
    """Put a part in this process's place, so that signals reach it and nothing stands between it and its manager."""
    os.environ.update(variables)
    os.chdir(CODE_FOLDER)
    os.execv(command[0], command)
