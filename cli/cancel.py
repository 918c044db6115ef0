"""`tagmill cancel`."""

from typing import Annotated

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.options import Json
from cli.output import print_json, quiet_logs, say
from cli.status import describe, find_run, speed_of


def cancel(
    run: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Number of a run.", metavar="RUN")],
    json: Json = False,
) -> None:
    """Stop a run for good: images that were not reached end as cancelled, and nothing of it is written later.

    What it has classified stays. The next run of the source begins anew, with what has no answer yet.

    Example: tagmill cancel 7
    """
    from results.runs import cancel_run
    from results.schema import open_database
    from results.staging import settle_runs
    from results.tables import RunStatus

    settings = load_settings()
    quiet_logs(settings)
    db = open_database(settings)
    before = find_run(db, run)
    if not cancel_run(db, before.run_id) and before.status is not RunStatus.CANCELLED:
        raise SetupError(f"run {run} is {find_run(db, run).status} already; there is nothing left to cancel.")
    settle_runs(db)  # Drops the answers, where they were staged.
    ended = find_run(db, run)
    if json:
        print_json(describe(ended, speed_of(ended)))
    else:
        print(
            f"run {run} cancelled: {ended.classified} classified, {ended.failed} failed, {ended.skipped} skipped, "
            f"{ended.cancelled} not reached"
        )
    if not ended.is_listed:
        say(f"its listing was not complete: what comes after the {ended.listed:,} images listed was not looked at")
