"""The console script: finds the command, and turns what goes wrong into one line and an exit code.

0 all is well, 1 the answer is "no", 2 wrong usage or set-up, 130 interrupted.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from base.errors import AppError
from base.interrupts import interrupts
from base.settings import CONFIG_VARIABLE
from cli import (
    answers,
    cancel,
    db,
    doctor,
    evaluate,
    models,
    plan,
    predict,
    producer,
    publish,
    run,
    status,
    train,
    worker,
)
from cli.output import silence_stdout

app = typer.Typer(
    name="tagmill",
    help="Labels for folders of images, in a SQL database: one answer for every image, with the model that gave it.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="The settings; tagmill.toml in this folder unless given.")
    ] = None,
) -> None:
    if config is not None:
        os.environ[CONFIG_VARIABLE] = config or "."  # Empty is a mistake, and a folder is refused.
    if version:
        import importlib.metadata

        print(f"tagmill {importlib.metadata.version('tagmill')}")
        raise typer.Exit


app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("retry")(run.retry)
app.command("publish")(publish.publish)
app.command("cancel")(cancel.cancel)
app.command("status")(status.status)
app.command("verify")(status.verify)
app.command("results")(answers.results)
app.command("sql")(answers.sql)
app.command("predict")(predict.predict)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(models.app, name="models")
app.command("worker")(worker.worker)
app.command("producer")(producer.producer)
app.command("beat")(producer.beat)
app.add_typer(db.app, name="db")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run one command and exit."""
    signal.signal(signal.SIGINT, interrupts.handle)
    signal.signal(signal.SIGTERM, interrupts.handle)  # A service manager's way of saying Ctrl-C.
    # Closed by whoever called us, they stay so for as long as we run.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # A terminal that knows only ASCII shows the rest as numbers.
    try:
        app()
        sys.stdout.flush()
    except KeyboardInterrupt:  # Before there is a command that could end in good order.
        sys.exit(130)
    except AppError as error:
        _fail(str(error))
    except OSError as error:
        silence_stdout()
        _fail(f"{error.strerror}{f': {error.filename}' if error.filename else ''}. Mend that, and try again.")


def _fail(message: str) -> None:
    with suppress(OSError):  # Its disk is full, most likely; the exit code still tells.
        print(f"tagmill: {message}", file=sys.stderr)
    sys.exit(2)
