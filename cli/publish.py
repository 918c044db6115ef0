"""`tagmill publish`."""

from typing import Annotated

import typer

from base.settings import load_settings
from cli.options import Json
from cli.output import print_json, quiet_logs
from cli.status import describe, find_run, speed_of


def publish(
    run: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Number of a run.", metavar="RUN")],
    json: Json = False,
) -> None:
    """Publish a staged run that was held back, whatever its guard says.

    Its answers are in current_labels from then on, and what it found to be gone is not.

    Example: tagmill publish 7
    """
    from results.schema import open_database
    from results.staging import publish_run

    settings = load_settings()
    quiet_logs(settings)
    db = open_database(settings)
    publish_run(db, find_run(db, run).run_id)
    published = find_run(db, run)
    if json:
        print_json(describe(published, speed_of(published)))
    else:
        print(
            f"run {run} published: {published.classified} classified, {published.failed} failed, "
            f"{published.skipped} skipped, {published.gone} gone"
        )
