"""What a run needs while a command sees to it: a broker, workers, somebody who sends what is due, and a look at it."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Self

from base.errors import AppError, BrokerError, SetupError, TransientError
from base.interrupts import interrupts
from base.logs import get_logger
from base.settings import Settings
from cli.output import Reporter, duration, say
from cli.status import find_run

if TYPE_CHECKING:
    from celery import Celery

    from producer.list_source import Listing
    from results.queries import RunProgress
    from results.runs import OpenRun
    from results.session import Database
    from worker.local import LocalWorker

log = get_logger()

# To look at a run is to count its batches, which takes a core from the workers meanwhile.
_LOOK_SECONDS, _SHORTEST_LOOK_SECONDS = 1.0, 0.02
_DISPATCH_SECONDS = 2.0
# Workers of others that take nothing for so long are most likely not there.
_NOBODY_SECONDS = 20.0


def own_worker(
    settings: Settings, app: "Celery | None", processes: int | None
) -> "AbstractContextManager[LocalWorker | None]":
    """A worker of this command, which loads what it needs while the command does; it ends with the block.

    Args:
        app: of the broker that the settings name, whose workers do the work: then there is none of our own.
        processes: None for one per core.
    """
    if app is not None:
        return nullcontext()
    from worker.local import LocalWorker, cores

    return LocalWorker(settings, processes=processes or cores())


class Work:
    """Sees to a run until its images all have their end, as a context: what it started is ended with the block.

    Args:
        app: of the broker that the settings name; None for a broker of our own.
        worker: of our own, that has not begun; it is stopped with the block. None where the broker has its own.
    """

    def __init__(
        self,
        settings: Settings,
        db: "Database",
        opened: "OpenRun",
        *,
        app: "Celery | None",
        worker: "LocalWorker | None",
    ) -> None:
        self._settings = settings
        self._db = db
        self._run = opened
        self._app = app
        self._worker = worker
        self._stack = ExitStack()
        self._next_dispatch = 0.0
        self._taken_at = time.monotonic()
        self._claims = -1
        self._warned = False
        self._speed = _Speed()

    def __enter__(self) -> Self:
        from producer.start_run import holding

        self._stack.enter_context(holding(self._db, self._run.run_id))
        self._stack.callback(self._close)
        return self

    def __exit__(self, *_: object) -> None:
        # The worker first: it still talks to the broker while it stops.
        self._stack.close()

    @property
    def speed(self) -> float:
        """Images that got their end per second, since this command began."""
        return self._speed.images_per_second

    def list(self, listing: "Listing", reporter: Reporter) -> None:
        """Record what the run lists; the workers begin with the first of it."""
        from producer.list_source import record_listing

        next_look = 0.0

        def on_chunk() -> None:
            nonlocal next_look
            if time.monotonic() >= next_look:
                self._tend(reporter)
                next_look = time.monotonic() + _LOOK_SECONDS

        reporter.update("listing", None)
        per_batch = self._settings.images_per_batch
        record_listing(self._db, self._run, listing, images_per_batch=per_batch, on_chunk=on_chunk)

    def wait(self, reporter: Reporter) -> "RunProgress":
        """Wait until the run is completed or cancelled, and where it is staged, published or held back.

        Raises:
            SetupError: it was stopped by something to mend.
        """
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
            if state.is_settled:
                return state
            time.sleep(self._speed.seconds_to_next_look(state))

    def _tend(self, reporter: Reporter) -> "RunProgress":
        """Send what is due, see that the workers are alive, show how far it is."""
        interrupts.check()
        from results.staging import settle_runs
        from results.tables import RunStatus

        state = find_run(self._db, self._run.run_id)
        reporter.update(*self._speed.describe(state))
        if (state.is_listed and state.done == state.listed) or state.status is RunStatus.CANCELLED:
            settle_runs(self._db)
            return find_run(self._db, self._run.run_id)
        self._have_workers(state)
        now = time.monotonic()
        if now >= self._next_dispatch:
            self._next_dispatch = now + _DISPATCH_SECONDS
            self._dispatch()
        is_others_turn = self._worker is None and state.done < state.listed
        if state.claims != self._claims or not is_others_turn:
            self._claims, self._taken_at = state.claims, now
        elif not self._warned and now - self._taken_at > _NOBODY_SECONDS:
            self._warned = True
            say("no worker has taken anything yet; start some with 'tagmill worker', or wait for them")
        return state

    def _close(self) -> None:
        from results.staging import settle_runs

        with suppress(AppError):  # Whatever ends the command is to be told.
            settle_runs(self._db)  # The workers may have ended the last batches of the run while they stopped.

    def _have_workers(self, state: "RunProgress") -> None:
        """Start the broker, and have the worker begin, with the first image that needs them: most nights have few."""
        if self._worker is None:
            return
        if self._app is not None:
            self._worker.check(state.claims)
            return
        if state.done == state.listed:
            return
        from broker.app import load_celery, make_app
        from broker.embedded import embedded_broker

        url = self._stack.enter_context(embedded_broker(self._settings.home_path, meanwhile=load_celery))
        self._stack.callback(self._worker.stop)  # Before the broker, which it talks to while it stops.
        self._worker.begin(self._db, url)
        self._app = make_app(url)

    def _dispatch(self) -> None:
        if self._app is None:  # Nothing to send yet; but a listing may last until its deadline.
            from results.runs import close_runs

            close_runs(self._db)
            return
        from broker.dispatch import dispatch

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
    """Images per second since this command began, and so the time that is left.

    Args:
        clock: seconds that only grow; tests replace it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self._made_at = clock()
        self._changed_at, self._done = self._made_at, -1
        self.images_per_second = 0.0

    def seconds_left(self, state: "RunProgress") -> float:
        """Until all that is listed has its end, if it goes on like this."""
        left = state.listed - state.done
        return left / self.images_per_second if self.images_per_second else math.inf

    def seconds_to_next_look(self, state: "RunProgress") -> float:
        """Few at first and towards the end, so that nobody waits for a look; more where the end does not come."""
        now = self._clock()
        if state.done != self._done:
            self._changed_at, self._done = now, state.done
        expected = max(self.seconds_left(state), now - self._changed_at)
        # A run of a few images is over before there is a speed that says when.
        expected = min(expected, now - self._made_at)
        return min(_LOOK_SECONDS, max(_SHORTEST_LOOK_SECONDS, expected / 2))

    def describe(self, state: "RunProgress") -> tuple[str, float | None]:
        """What to show, and the share that is done."""
        ended = state.classified + state.failed
        if self._begun is None:
            self._begun = (self._clock(), ended)
        elapsed = self._clock() - self._begun[0]
        self.images_per_second = speed = (ended - self._begun[1]) / elapsed if elapsed > 0 else 0.0
        text = f"{state.done:,} of {state.listed:,}{'' if state.is_listed else '+'} images"
        if state.failed:
            text += f", {state.failed:,} failed"
        if speed:
            text += f", {speed:.0f} img/s"
            if state.is_listed:
                text += f", {duration(self.seconds_left(state))} left"
        return text, state.done / state.listed if state.is_listed and state.listed else None
