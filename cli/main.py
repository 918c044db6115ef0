"""The console script: finds the command, and turns what goes wrong into one line and an exit code.

0 all is well, 1 the answer is "no", 2 wrong usage or set-up, 130 interrupted.
"""

import signal
import sys
from types import FrameType

import typer

from base.errors import AppError
from cli import answers, db, models, predict, run, status, worker

app = typer.Typer(
    name="tagmill",
    help="Labels for folders of images, in a SQL database: one answer for every image, with the model that gave it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("verify")(status.verify)
app.command("results")(answers.results)
app.command("sql")(answers.sql)
app.command("predict")(predict.predict)
app.add_typer(models.app, name="models")
app.command("worker")(worker.worker)
app.add_typer(db.app, name="db")


def main() -> None:
    """Run one command and exit."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except AppError as error:
        print(f"tagmill: {error}", file=sys.stderr)
        sys.exit(2)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """A service manager's way of saying Ctrl-C: end in good order."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
