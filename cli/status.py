"""`tagmill status` and `tagmill verify`."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from base.errors import SetupError
from base.settings import load_settings
from cli.options import Json, RunNumber
from cli.output import RowFormat, facts_table, print_json, print_rows, say

if TYPE_CHECKING:
    from results.queries import RunProgress
    from results.session import Database


def status(
    run: RunNumber = None,
    stages: Annotated[bool, typer.Option("--stages", help="Show where the time of its worker processes went.")] = False,
    json: Json = False,
) -> None:
    """Show how far a run is, how fast, and what failed.

    Example: tagmill status
    """
    if stages:
        _show_stages(run, json=json)
        return
    from results.queries import count_failures, recent_speed
    from results.schema import open_database
    from results.tables import RunStatus

    db = open_database(load_settings())
    found = find_run(db, run)
    speed = speed_of(found) if found.finished_at is not None else recent_speed(db, found.run_id)
    facts = describe(found, speed) | {"failures": count_failures(db, found.run_id)}
    if json:
        print_json(facts)
        return
    hidden = {"failures"} if found.deadline is not None else {"failures", "out_of_time"}
    shown = {name: value for name, value in facts.items() if name not in hidden and value is not None}
    facts_table([(name.replace("_", " "), value) for name, value in shown.items()])
    for reason, images in facts["failures"].items():
        print(f"  {reason}: {images}")
    if found.publication == "held back":
        say(f"run {found.run_id} is held back; 'tagmill publish {found.run_id}' publishes it nevertheless")
    if found.status is RunStatus.CANCELLED and found.finished_at is None:
        say(f"run {found.run_id} is still being cancelled; 'tagmill cancel {found.run_id}' ends that")


def _show_stages(run: int | None, *, json: bool) -> None:
    from results.queries import find_stages
    from results.schema import open_database

    db = open_database(load_settings())
    run_id = find_run(db, run).run_id
    found = find_stages(db, run_id)
    total = sum(found.seconds.values())
    rows = [
        (
            str(stage),
            round(seconds, 3),
            round(seconds / total, 4) if total else 0.0,
            round(seconds / found.images * 1000, 3) if found.images else 0.0,
        )
        for stage, seconds in found.seconds.items()
    ]
    columns = ("stage", "seconds", "share", "ms_per_image")
    if json:
        stages = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"run_id": run_id, "batches": found.batches, "images": found.images, "stages": stages})
        return
    print_rows(
        columns,
        [*rows, ("all", round(total, 3), 1.0 if total else 0.0, round(sum(row[3] for row in rows), 3))],
        RowFormat.TABLE,
    )
    if found.batches == 0:
        say(f"run {run_id}: no batch of it was measured")
        return
    say(f"run {run_id}: {found.images:,} images in {found.batches:,} batches, all worker processes together")


def verify(run: RunNumber = None, json: Json = False) -> None:
    """Prove that every listed image of a run has exactly one end and every classified one its rows.

    Exits with 1 when it does not, and names what is missing.

    Example: tagmill verify 7
    """
    from dataclasses import asdict

    from results.queries import verify_run
    from results.schema import open_database

    db = open_database(load_settings())
    proof = verify_run(db, find_run(db, run).run_id)
    if json:
        print_json(asdict(proof))
    else:
        print(
            f"run {proof.run_id}: {proof.listed} listed = {proof.classified} classified + {proof.failed} failed + "
            f"{proof.skipped} skipped + {proof.cancelled} cancelled"
            if not proof.gaps
            else f"run {proof.run_id}: not proved"
        )
        for gap in proof.gaps:
            print(f"  {gap.what}" + (f": {gap.image_uri}" if gap.image_uri else ""))
    if proof.gaps and json:
        say(f"run {proof.run_id}: not proved")
    raise typer.Exit(1 if proof.gaps else 0)


def find_run(db: "Database", run_id: int | None) -> "RunProgress":
    """
    Raises:
        SetupError: there is no such run.
    """
    from results.queries import find_runs

    found = find_runs(db, run_id)
    if found:
        return found[0]
    latest = find_runs(db)
    if run_id is not None and latest:
        raise SetupError(f"no run {run_id} in {db}; the latest is {latest[0].run_id}.")
    raise SetupError(f"no runs in {db} yet. 'tagmill run SOURCE' makes one.")


def describe(run: "RunProgress", speed: float) -> dict[str, Any]:
    """The facts of a run as JSON types, in the order that they are told.

    Args:
        speed: images that get their end per second.
    """
    left = run.listed - run.done
    is_open = run.finished_at is None
    return {
        "run_id": run.run_id,
        "source": run.source,
        "model": f"{run.model}:{run.model_version}",
        "status": str(run.status),
        "error": run.error,
        "listed": run.listed,
        "listing_complete": run.is_listed,
        "classified": run.classified,
        "reused": run.reused,
        "failed": run.failed,
        "skipped": run.skipped,
        "cancelled": run.cancelled,
        "new": run.new,
        "changed": run.changed,
        "passed_over": run.passed_over,
        "gone": run.gone,
        "images_per_second": round(speed, 1),
        "seconds_left": round(left / speed) if is_open and speed and run.is_listed else None,
        "started_at": _utc(run.started_at),
        "finished_at": _utc(run.finished_at),
        "deadline": _utc(run.deadline),
        "out_of_time": run.out_of_time,
        "publication": run.publication,
        "published_at": _utc(run.published_at),
        "held_back": run.held_back,
    }


def speed_of(run: "RunProgress") -> float:
    """Images that got their end per second, over the whole of a run that was not interrupted."""
    ended = run.classified + run.failed
    return ended / run.elapsed_seconds if ended and run.elapsed_seconds else 0.0


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
