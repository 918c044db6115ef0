"""`tagmill run` and `tagmill retry`: list, have it classified, wait, and say how it went."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import typer

from base.errors import SetupError
from base.settings import Settings, load_settings
from cli.options import (
    Column,
    Endpoint,
    Everything,
    Exclude,
    Include,
    Json,
    Key,
    MaxFailures,
    Model,
    RunNumber,
    Source,
    Stage,
    TopK,
    Until,
    Workers,
)
from cli.output import PASSED_OVER, facts_table, print_json, progress, quiet_logs, say
from cli.status import describe, find_run

if TYPE_CHECKING:
    from celery import Celery

    from producer.list_source import Listing
    from producer.sources import Source as ImageSource
    from results.queries import RunProgress
    from results.runs import OpenRun, RunRequest, SourceHeld
    from results.session import Database
    from worker.local import LocalWorker


def run(
    source: Source,
    model: Model = None,
    include: Include = None,
    exclude: Exclude = None,
    column: Column = None,
    key: Key = None,
    everything: Everything = False,
    max_failures: MaxFailures = None,
    top_k: TopK = None,
    stage: Stage = False,
    until: Until = None,
    workers: Workers = None,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """Classify what is new or changed in a source, and wait until every image has its end.

    Starts a broker and workers of its own, unless TAGMILL_BROKER_URL names a broker whose workers will do it. An
    unfinished run of the same source and model is gone on with. Exits with 1 when more images fail than allowed.

    With --stage, current_labels stays as it is until the run has ended. Then all answers are published at once; or held
    back, and the command exits with 1, when they look as if something were wrong with the source or the model.

    Example: tagmill run ./photos --include "*.jpg" --max-failures 1%
    """
    from cli.pretrained import check_model, find_or_build
    from cli.work import own_worker
    from models.registry import open_registry
    from producer.deadline import next_time, parse_time
    from producer.sources import open_source
    from results.guard import parse_allowed

    settings = load_settings().with_endpoint(endpoint)
    allowed = parse_allowed(max_failures)
    if until is not None:
        parse_time(until)
    images = open_source(source, include or (), exclude or (), access=settings.bucket_access, column=column, key=key)
    _check_not_empty(settings, images, stage=stage)
    registry = open_registry(settings)
    check_model(registry, model)
    app = _configured_broker(settings, workers)
    with own_worker(settings, app, workers) as worker:
        # Only now: they load SQLAlchemy, which takes as long as anything that the worker loads meanwhile.
        from producer.list_source import source_listing
        from producer.start_run import guard_of, make_request
        from results.runs import find_time
        from results.schema import open_database

        db = open_database(settings, create=True)
        version = find_or_build(settings, registry, model, quiet=json)
        deadline = None if until is None else next_time(until, find_time(db), settings.zone)
        guard = guard_of(settings, max_failures) if stage else None
        request = make_request(
            images, version, everything=everything, top_k=top_k or settings.top_k, guard=guard, deadline=deadline
        )

        def listing(opened: "OpenRun") -> "Listing":
            return source_listing(db, images, model_version_id=opened.model_version_id, everything=everything)

        _see_to(settings, db, request, listing, app=app, worker=worker, allowed=allowed, json=json)


def retry(
    run: RunNumber = None,
    max_failures: MaxFailures = None,
    workers: Workers = None,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """Classify the images again that failed in a run, with the same model version, in a run of their own.

    Images that a later run has answered are skipped; those that a later listing did not find are left out.

    Example: tagmill retry 7
    """
    from cli.work import own_worker
    from models.registry import open_registry
    from producer.list_source import retry_listing
    from results.guard import parse_allowed
    from results.queries import find_request
    from results.schema import open_database

    settings = load_settings().with_endpoint(endpoint)
    allowed = parse_allowed(max_failures)
    db = open_database(settings)
    failed = find_run(db, run)
    first = find_request(db, failed.run_id)
    if failed.finished_at is None and first.retry_of is not None:  # Itself a retry, to be gone on with.
        failed = find_run(db, first.retry_of)
        first = find_request(db, failed.run_id)
    _refuse_unfinished(failed)
    if not failed.failed:
        say(f"run {failed.run_id} has no failed images")
        if json:
            print_json({"run_id": None, "listed": 0, "classified": 0, "failed": 0})
        return
    version = open_registry(settings).find(f"{first.model}:{first.model_version}")
    request = replace(
        first,
        content_hash=version.content_hash,
        everything=False,
        retry_of=failed.run_id,
        guard=None,
        deadline=None,
    )
    app = _configured_broker(settings, workers)

    def listing(opened: "OpenRun") -> "Listing":
        return retry_listing(db, failed.run_id, model_version_id=opened.model_version_id)

    with own_worker(settings, app, workers) as worker:
        _see_to(settings, db, request, listing, app=app, worker=worker, allowed=allowed, json=json)


def _refuse_unfinished(run: "RunProgress") -> None:
    """Refuse to retry a run whose images have no end yet, or no answer that is shown."""
    if run.finished_at is None:
        stage = " and --stage" if run.staged else ""
        raise SetupError(
            f"run {run.run_id} is not finished. 'tagmill run' with its source{stage} goes on with it; "
            f"'tagmill cancel {run.run_id}' stops it."
        )
    if run.publication not in (None, "published"):
        is_dropped = run.publication == "dropped" or (run.status == "cancelled" and not run.out_of_time)
        mend = "Its answers are dropped." if is_dropped else f"'tagmill publish {run.run_id}' publishes it."
        raise SetupError(
            f"run {run.run_id} is not published, and the next run of its source looks at all of its images again. "
            f"{mend}"
        )


def _see_to(
    settings: Settings,
    db: "Database",
    request: "RunRequest",
    listing: "Callable[[OpenRun], Listing]",
    *,
    app: "Celery | None",
    worker: "LocalWorker | None",
    allowed: Callable[[int], Fraction | float],
    json: bool,
) -> None:
    """Begin the run, see it to its end, print the summary and exit as that says."""
    from cli.work import Work
    from producer.start_run import start_run
    from results.queries import active_models, find_request

    quiet_logs(settings)
    opened = start_run(db, request, on_wait=_tell_waiting)
    what = request.source if request.retry_of is None else f"what failed in run {request.retry_of} of {request.source}"
    if opened.resumed:
        begun = find_request(db, opened.run_id)
        if begun.top_k != request.top_k:
            say(f"it keeps {begun.top_k} labels for each image, as it began with, and not {request.top_k}")
        say(f"going on with run {opened.run_id} of {what}, which was not finished")
    else:
        say(f"run {opened.run_id}: {what} with {request.model}:{request.model_version}")
    try:
        with Work(settings, db, opened, app=app, worker=worker) as work, progress(quiet=json) as reporter:
            work.list(listing(opened), reporter)
            finished = work.wait(reporter)
            speed = work.speed
    except KeyboardInterrupt:
        again = "The same command" if request.retry_of is None else f"'tagmill retry {request.retry_of}'"
        _tell_interrupted(db, opened.run_id, again, workers_go_on=app is not None)
        raise
    needs_reader = not db.is_sqlite and settings.reader_url is None
    active = active_models(db)[finished.model]
    is_active = finished.model_version == active
    _summarise(db, request, finished, speed, is_active=is_active, needs_reader=needs_reader, json=json)
    if not is_active:
        say(
            f"current_labels still shows {finished.model}:{active}; "
            f"'tagmill models activate {finished.model}:{finished.model_version}' switches"
        )
    _judge(finished, allowed(finished.listed))


def _judge(run: "RunProgress", allowed: Fraction | float) -> None:
    """Say what became of the run, and exit with 1 where the answer is no."""
    from results.tables import RunStatus

    if run.out_of_time:
        say(
            f"run {run.run_id} reached its deadline: {run.cancelled:,} of {run.listed:,} images were not reached, "
            "and come first in the next run"
        )
        if not run.is_listed:
            say(f"its listing was not complete: what comes after those {run.listed:,} images was not looked at")
    elif run.status is RunStatus.CANCELLED:
        say(f"run {run.run_id} was cancelled: {run.cancelled:,} of {run.listed:,} images were not reached")
        raise typer.Exit(1)
    if run.publication == "published":
        say(f"run {run.run_id} is published")
    elif run.publication == "dropped":
        say(
            f"run {run.run_id} is dropped, and current_labels is as it was: meanwhile a later run of the same source "
            "and model was published. The same command begins anew."
        )
        raise typer.Exit(1)
    elif run.staged:
        say(f"run {run.run_id} is {run.publication}, and current_labels is as it was: {run.held_back}")
        say(f"'tagmill publish {run.run_id}' publishes it nevertheless")
        raise typer.Exit(1)
    elif run.failed > allowed:
        say(f"{run.failed:,} of {run.listed:,} images failed, and --max-failures allows {int(allowed):,}")
        raise typer.Exit(1)


def _check_not_empty(settings: Settings, images: "ImageSource", *, stage: bool) -> None:
    """Refuse a source without images; where it had some, a staged run is to record that, and be held back."""
    from producer.sources import EmptySource, check_not_empty

    try:
        check_not_empty(images)
    except EmptySource:
        from results.schema import open_existing
        from results.staging import was_published

        db = open_existing(settings) if stage else None
        if db is None or not was_published(db, images.uri, include=images.include, exclude=images.exclude):
            raise


def _configured_broker(settings: Settings, workers: int | None) -> "Celery | None":
    if settings.broker_url is None:
        return None
    from broker.app import make_app
    from broker.check import check_broker

    app = make_app(settings.broker_url.get_secret_value())
    check_broker(app)
    if workers is not None:
        say("--workers is of no use here: TAGMILL_BROKER_URL is set, and the workers of that broker do the work")
    return app


def _tell_waiting(held: "SourceHeld") -> None:
    from results.runs import HOLD_SECONDS

    say(
        f"run {held.run_id} of this source is held by {held.command}; "
        f"looking for up to {HOLD_SECONDS:.0f} s whether that still lives"
    )


def _tell_interrupted(db: "Database", run_id: int, again: str, *, workers_go_on: bool) -> None:
    state = find_run(db, run_id)
    left = f"{state.done:,} of {state.listed:,} images done"
    if workers_go_on and state.is_listed:
        say(
            f"interrupted; the workers go on with run {run_id} ({left}). "
            f"'tagmill status {run_id}' shows how far it is, 'tagmill cancel {run_id}' stops it."
        )
    else:
        say(
            f"interrupted; run {run_id} is kept ({left}). {again} goes on with it, "
            f"'tagmill cancel {run_id}' drops the rest."
        )


def _summarise(
    db: "Database",
    request: "RunRequest",
    state: "RunProgress",
    speed: float,
    *,
    is_active: bool,
    needs_reader: bool,
    json: bool,
) -> None:
    from results.queries import count_failures, count_labels

    failures = count_failures(db, state.run_id)
    # Of another version than the run's, or from before, they would say nothing of the run.
    is_shown = is_active and state.publication in (None, "published")
    labels = count_labels(db, source=request.source, model=state.model) if is_shown else []
    query = "SELECT label, count(*) AS images FROM current_labels GROUP BY label ORDER BY images DESC LIMIT 10"
    facts: dict[str, Any] = describe(state, speed) | {
        "active": is_active,
        "failures": failures,
        "labels": [{"label": label, "images": images} for label, images in labels],
        "database": db.address,
        "query": query,
    }
    if json:
        print_json(facts)
        return
    rows: list[tuple[str, object]] = [(name, facts[name]) for name in ("listed", "classified", "reused", "failed")]
    rows += [(f"  {reason}", images) for reason, images in failures.items()]
    rows.append(("skipped", state.skipped))
    if state.cancelled:
        rows.append(("cancelled", state.cancelled))
    rows += [(name, facts[name]) for name in ("new", "changed", "gone")]
    if state.passed_over:
        rows.append(("passed over", f"{state.passed_over} ({PASSED_OVER})"))
    rows.append(("images per second", f"{speed:.1f}"))
    facts_table(rows)
    if labels:
        print("\nmost common labels")
        facts_table([(f"  {label}", images) for label, images in labels])
    print(f"\ndatabase  {facts['database']}")
    # On a server `tagmill sql` wants a role of its own, which not everybody has made.
    print("try       tagmill results --limit 10" if needs_reader else f'try       tagmill sql "{query}"')
