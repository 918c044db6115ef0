"""`tagmill run`: list a source, have it classified, wait, and say how it went."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Self

import structlog
import typer

from base.errors import BrokerError, SetupError, TransientError
from base.settings import Settings, load_settings
from cli.output import Reporter, facts_table, print_json, progress, say
from cli.status import describe, find_run

if TYPE_CHECKING:
    from celery import Celery

    from producer.folder import Folder
    from results.listing import OpenRun
    from results.queries import RunProgress
    from results.session import Database
    from worker.local import LocalWorker

log = structlog.get_logger()

_LOOK_SECONDS = 0.5
_DISPATCH_SECONDS = 2.0
# Workers of others that take nothing for so long are most likely not there.
_NOBODY_SECONDS = 20.0


def run(
    source: Annotated[str, typer.Argument(help="A folder of images, or one image.", metavar="SOURCE")],
    model: Annotated[str | None, typer.Option(help="NAME or NAME:VERSION; the pretrained one unless given.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Worker processes to start; one per core unless given.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Glob of images to take, instead of the usual suffixes; repeatable.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Classify what is new or changed in a source, and wait until every image has its end.

    Starts a broker and workers of its own, unless TAGMILL_BROKER_URL names a broker whose workers will do it. An
    unfinished run of the same source and model is gone on with.

    Example: tagmill run ./photos --include "*.jpg"
    """
    from models.registry import Registry
    from producer.folder import Folder
    from producer.list_source import check_not_empty
    from results.listing import open_run
    from results.schema import open_database

    settings = load_settings()
    _quiet_logs(settings)
    globs = include or []
    folder = Folder(source, globs)
    check_not_empty(folder, globs)
    registry = Registry(settings.models_path)
    if model is not None:
        _check_model(registry, model)
    app = None if settings.broker_url is None else _configured_broker(settings.broker_url.get_secret_value())
    if app is not None and workers is not None:
        say("--workers is of no use here: TAGMILL_BROKER_URL is set, and the workers of that broker do the work")
    db = open_database(settings, create=True)
    from cli.pretrained import find_or_build

    version = find_or_build(registry, model, quiet=json)
    opened = open_run(
        db,
        source=folder.uri,
        include=globs,
        model=version.name,
        model_version=version.version,
        content_hash=version.content_hash,
    )
    if opened.resumed:
        say(f"going on with run {opened.run_id} of {folder.uri}, which was not finished")
    else:
        say(f"run {opened.run_id}: {folder.uri} with {version}")
    try:
        with (
            _Work(settings, db, opened, app=app, processes=workers) as work,
            progress(quiet=json) as reporter,
        ):
            work.list(folder, reporter)
            finished = work.wait(reporter)
            speed = work.speed
    except KeyboardInterrupt:
        _tell_interrupted(db, opened.run_id, workers_go_on=app is not None)
        raise
    _summarise(db, folder, finished, speed, json=json)


class _Work:
    """What a run needs while it lasts: a broker, workers, and somebody who sends what is due."""

    def __init__(
        self, settings: Settings, db: "Database", opened: "OpenRun", *, app: "Celery | None", processes: int | None
    ) -> None:
        self._settings = settings
        self._db = db
        self._run = opened
        self._app = app
        self._processes = processes
        self._worker: LocalWorker | None = None
        self._stack = ExitStack()
        self._next_dispatch = 0.0
        self._taken_at = time.monotonic()
        self._claims = -1
        self._warned = False
        self._speed = _Speed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The worker first: it still talks to the broker while it stops.
        self._stack.close()

    @property
    def speed(self) -> float:
        """Images that got their end per second, since this command began."""
        return self._speed.images_per_second

    def list(self, folder: "Folder", reporter: Reporter) -> None:
        from producer.list_source import list_source

        def on_chunk() -> None:
            self._tend(reporter)

        reporter.update("listing", None)
        list_source(self._db, self._run, folder, images_per_batch=self._settings.images_per_batch, on_chunk=on_chunk)

    def wait(self, reporter: Reporter) -> "RunProgress":
        from results.tables import RunStatus

        self._next_dispatch = 0.0
        while True:
            try:
                state = self._tend(reporter)
            except TransientError as error:
                log.warning("database_away", error=str(error))
                continue
            if state.status is RunStatus.FAILED:
                raise SetupError(f"run {state.run_id} stopped: {state.error}")
            if state.status not in (RunStatus.LISTING, RunStatus.RUNNING):
                return state
            time.sleep(_LOOK_SECONDS)

    def _tend(self, reporter: Reporter) -> "RunProgress":
        """Send what is due, see that the workers are alive, show how far it is."""
        state = find_run(self._db, self._run.run_id)
        reporter.update(*self._speed.describe(state))
        if state.is_listed and state.done == state.listed:
            from results.ledger import complete_runs

            complete_runs(self._db)
            return find_run(self._db, self._run.run_id)
        self._have_workers(state)
        now = time.monotonic()
        if now >= self._next_dispatch:
            self._next_dispatch = now + _DISPATCH_SECONDS
            self._dispatch()
        if state.claims != self._claims:
            self._claims, self._taken_at = state.claims, now
        elif self._worker is None and not self._warned and now - self._taken_at > _NOBODY_SECONDS:
            self._warned = True
            say("no worker has taken anything yet; start some with 'tagmill worker', or wait for them")
        return state

    def _have_workers(self, state: "RunProgress") -> None:
        """Start broker and workers of our own with the first image that needs them: most nights have few."""
        if self._worker is not None:
            self._worker.check(state.claims)
            return
        if self._app is not None or state.done == state.listed:
            return
        from broker.app import make_app
        from broker.embedded import embedded_broker
        from worker.local import LocalWorker, cores

        home = self._settings.home_path
        url = self._stack.enter_context(embedded_broker(home))
        self._worker = LocalWorker(
            self._settings,
            self._db,
            broker_url=url,
            processes=self._processes or cores(),
            log_path=home / "worker.log",
        )
        self._stack.callback(self._worker.stop)
        self._app = make_app(url)

    def _dispatch(self) -> None:
        from broker.dispatch import dispatch

        if self._app is None:
            return
        try:
            dispatch(self._db, self._app, self._settings)
        except TransientError as error:
            log.warning("broker_away", error=str(error))
            if self._worker is not None:
                self._revive_broker()

    def _revive_broker(self) -> None:
        from broker.embedded import revive

        try:
            revive(self._settings.home_path)
        except BrokerError as error:
            log.warning("broker_not_revived", error=str(error))  # The next dispatch tries again.


class _Speed:
    """Images per second since this command began, and so the time that is left."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None
        self.images_per_second = 0.0

    def describe(self, state: "RunProgress") -> tuple[str, float | None]:
        """What to show, and the share that is done."""
        ended = state.classified + state.failed
        if self._begun is None:
            self._begun = (time.monotonic(), ended)
        elapsed = time.monotonic() - self._begun[0]
        self.images_per_second = speed = (ended - self._begun[1]) / elapsed if elapsed > 0 else 0.0
        text = f"{state.done:,} of {state.listed:,}{'' if state.is_listed else '+'} images"
        if state.failed:
            text += f", {state.failed:,} failed"
        if speed:
            text += f", {speed:.0f} img/s"
            if state.is_listed:
                text += f", {_duration((state.listed - state.done) / speed)} left"
        return text, state.done / state.listed if state.is_listed and state.listed else None


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _check_model(registry: Any, reference: str) -> None:
    """Refuse a model that does not exist before anything is made for it."""
    from models.pretrained import DEFAULT_MODEL

    if reference != DEFAULT_MODEL or registry.versions(DEFAULT_MODEL):
        registry.find(reference)


def _configured_broker(address: str) -> "Celery":
    from broker.app import make_app
    from broker.check import check_broker

    app = make_app(address)
    check_broker(app)
    return app


def _quiet_logs(settings: Settings) -> None:
    import logging

    from base.logs import configure_logs

    configure_logs(json_lines=settings.json_logs, level=logging.WARNING)


def _tell_interrupted(db: "Database", run_id: int, *, workers_go_on: bool) -> None:
    state = find_run(db, run_id)
    left = f"{state.done:,} of {state.listed:,} images done"
    if workers_go_on and state.is_listed:
        say(
            f"interrupted; the workers go on with run {run_id} ({left}). 'tagmill status {run_id}' shows how far it is."
        )
    else:
        say(f"interrupted; run {run_id} is kept ({left}). The same command goes on with it.")


def _summarise(db: "Database", folder: "Folder", state: "RunProgress", speed: float, *, json: bool) -> None:
    from results.queries import count_failures, count_labels

    failures = count_failures(db, state.run_id)
    labels = count_labels(db, source=folder.uri, model=state.model)
    query = "SELECT label, count(*) AS images FROM current_labels GROUP BY label ORDER BY images DESC LIMIT 10"
    facts = describe(state, speed) | {
        "failures": failures,
        "labels": [{"label": label, "images": images} for label, images in labels],
        "database": db.url.render_as_string(hide_password=True),
        "query": query,
    }
    if json:
        print_json(facts)
        return
    rows: list[tuple[str, object]] = [(name, facts[name]) for name in ("listed", "classified", "reused", "failed")]
    rows += [(f"  {reason}", images) for reason, images in failures.items()]
    rows.append(("skipped", state.skipped))
    if state.gone:
        rows.append(("gone", state.gone))
    if state.passed_over:
        rows.append(("passed over", f"{state.passed_over} (links, devices and folders that cannot be read)"))
    rows.append(("images per second", f"{speed:.1f}"))
    facts_table(rows)
    if labels:
        print("\nmost common labels")
        facts_table([(f"  {label}", images) for label, images in labels])
    print(f"\ndatabase  {facts['database']}")
    print(f'try       tagmill sql "{query}"')
