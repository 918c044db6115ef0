"""Schedules as producers work them off: two databases, a real broker, and a clock that tests move."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest
import sqlalchemy as sa
from celery import Celery
from structlog.testing import capture_logs

from base.schedules import Schedule
from base.settings import Settings
from broker.app import RUNS_QUEUE, make_app
from broker.dispatch import dispatch
from broker.messages import LOOK_AT_SCHEDULES
from broker.ticks import send_tick
from models.registry import Registry
from producer.schedules import look_at_schedules, run_slot
from results import ledger
from results.guard import Guard
from results.listing import find_listing
from results.runs import HOLD_SECONDS, RunRequest, cancel_run, fail_run, hold_run, open_run
from results.schedules import Slot, claim_slot, note_run
from results.session import Database
from results.tables import RunStatus, batches, runs
from tests.clock import Clock
from tests.integration.broker.test_dispatch import received
from tests.integration.results.test_ledger import answers
from tests.integration.results.test_schedules import rows
from tests.samples import make_jpeg
from tests.servers import Valkey
from tests.unit.models.test_registry import publish


@dataclass
class Mill:
    """Producers, beats and workers, as far as a test lets them."""

    db: Database
    app: Celery
    settings: Settings
    photos: Path
    clock: Clock

    def tick(self) -> None:
        """A producer gets a tick, and works until nothing waits for it."""
        look_at_schedules(self.db, self.app, self.settings)
        self.work()

    def work(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """A producer does what waits in the queue of runs."""
        while messages := received(self.app, RUNS_QUEUE):
            for task, fields in messages:
                self._do(task, fields, is_stopping)

    def _do(self, task: str, fields: dict[str, int], is_stopping: Callable[[], bool]) -> None:
        if task == LOOK_AT_SCHEDULES:
            look_at_schedules(self.db, self.app, self.settings)
        else:
            run_slot(self.db, self.app, self.settings, Slot(**fields), is_stopping=is_stopping)  # type: ignore[arg-type]

    def classify(self) -> None:
        """Workers classify whatever there is, and their reconcilers close and publish the runs."""
        open_batches = sa.select(batches.c.id).where(batches.c.status != "done")
        for batch_id in self.db.read(lambda connection: connection.scalars(open_batches).all()):
            held = ledger.claim(self.db, batch_id, owner="w/1", lease_seconds=45)
            if held is not None:
                ledger.finish(self.db, held, answers(held), [])
        dispatch(self.db, self.app, self.settings)

    def rows(self) -> list[tuple[str, int | None, str | None]]:
        """What became of the slots since the schedule was first seen."""
        first, *others = rows(self.db)
        assert first == ("skipped", None, "before this schedule was first seen")
        return others

    def runs(self, *columns: str) -> list[tuple[object, ...]]:
        query = sa.select(*(runs.c[name] for name in columns)).order_by(runs.c.id)
        return [tuple(row) for row in self.db.read(lambda connection: connection.execute(query).all())]


def of(settings: Settings, **terms: object) -> Settings:
    (schedule,) = settings.schedule
    return settings.model_copy(update={"schedule": (schedule.model_copy(update=terms),)})


@pytest.fixture
def mill(db: Database, valkey: Valkey, clock: Clock, tmp_path: Path) -> Mill:
    """One schedule, of every minute, over a folder of three images; it was seen a minute ago."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(make_jpeg())
    publish(Registry(tmp_path / "models"))
    schedule = Schedule(name="minutely", cron="* * * * *", source=str(photos), model="small_cnn")
    settings = Settings(models_url=str(tmp_path / "models"), schedule=(schedule,), timezone="UTC", images_per_batch=1)
    mill = Mill(db, make_app(valkey.url), settings, photos, clock)
    mill.tick()
    clock.pass_by(60)
    return mill


def test_two_beats_and_five_minutes_are_five_runs(mill: Mill, valkey: Valkey) -> None:
    beats = [make_app(valkey.url) for _ in range(2)]
    for _ in range(5):
        for beat in beats:
            assert send_tick(beat)
            mill.work()
        mill.classify()
        mill.clock.pass_by(60)
    mill.tick()

    assert mill.rows()[:5] == [("done", number, None) for number in range(1, 6)]
    assert mill.runs("listed", "skipped")[:5] == [(3, 0), *[(3, 3)] * 4]


def test_run_is_staged_until_its_time_ends(mill: Mill) -> None:
    mill.settings = of(mill.settings, until="06:00", max_failures="5%")

    mill.tick()

    ((staged, guard, deadline, listed, holder),) = mill.runs("staged", "guard", "deadline", "listed", "holder")
    assert (staged, listed, holder) == (True, 3, None)
    assert '"max_failures": "5%"' in str(guard)
    assert deadline == 1_700_028_000  # 2023-11-15 06:00 UTC.


def test_lost_ticks_are_caught_up_once(mill: Mill) -> None:
    mill.clock.pass_by(3 * 3600)

    mill.tick()

    assert mill.rows() == [
        ("skipped", None, "missed: nobody looked at the schedules, for 180 slots after 2023-11-14 22:13 UTC"),
        ("running", 1, None),
    ]


def test_slot_whose_time_is_over_is_not_caught_up(mill: Mill) -> None:
    mill.settings = of(mill.settings, cron="0 2 * * *", until="06:00")

    mill.clock.pass_by(9 * 3600)
    mill.tick()

    assert mill.rows() == [("skipped", None, "missed: its time ended at 06:00")]
    assert mill.runs("id") == []


def test_run_that_is_still_going_makes_the_next_slot_skip_and_says_so(mill: Mill) -> None:
    mill.tick()
    mill.clock.pass_by(60)

    with capture_logs() as logs:
        mill.tick()

    message = "run 1, of the slot 2023-11-14 22:14 UTC, is still going"
    assert mill.rows() == [("running", 1, None), ("skipped", None, message)]
    assert [(log["slot"], log["reason"]) for log in logs if log["event"] == "slot_skipped"] == [
        ("2023-11-14 22:15 UTC", message)
    ]


def test_doubled_message_does_nothing(mill: Mill) -> None:
    for _ in range(2):
        look_at_schedules(mill.db, mill.app, mill.settings)

    mill.work()

    assert mill.runs("id") == [(1,)]


def test_lost_message_is_sent_again(mill: Mill) -> None:
    look_at_schedules(mill.db, mill.app, mill.settings)
    assert len(received(mill.app, RUNS_QUEUE)) == 1

    mill.clock.pass_by(30)
    mill.tick()

    assert mill.rows() == [("running", 1, None)]


def test_listing_of_a_producer_that_was_killed_is_gone_on_with(mill: Mill) -> None:
    look_at_schedules(mill.db, mill.app, mill.settings)
    ((_, fields),) = received(mill.app, RUNS_QUEUE)
    slot = Slot(**fields)  # type: ignore[arg-type]
    claim_slot(mill.db, slot, "elsewhere/1#2-3")
    note_run(mill.db, slot, "elsewhere/1#2-3", begin_run(mill))

    mill.clock.pass_by(HOLD_SECONDS - 1)
    mill.tick()
    assert find_listing(mill.db, 1) == (None, False)

    mill.clock.pass_by(2)
    mill.tick()

    assert mill.rows() == [("running", 1, None)]
    assert mill.runs("status") == [(RunStatus.RUNNING,)]


def begin_run(mill: Mill) -> int:
    """The run that the schedule asks for, of which nothing is listed."""
    version = Registry(Path(mill.settings.models_address)).find("small_cnn")
    request = RunRequest(
        source=mill.photos.as_uri(),
        model="small_cnn",
        model_version=1,
        content_hash=version.content_hash,
        guard=Guard(),
    )
    return open_run(mill.db, request, holder="elsewhere/1#2-3").run_id


def test_producer_that_is_told_to_stop_leaves_the_listing_to_the_next(mill: Mill) -> None:
    for number in range(20):
        (mill.photos / f"{number:02}.jpg").write_bytes(make_jpeg())
    look_at_schedules(mill.db, mill.app, mill.settings)
    asked = iter([*[False] * 18, True])

    mill.work(is_stopping=lambda: next(asked))

    assert mill.rows() == [("running", 1, None)]
    assert mill.runs("status", "listed", "holder") == [(RunStatus.LISTING, 16, None)]  # One chunk.
    mill.tick()
    assert mill.runs("status", "listed") == [(RunStatus.RUNNING, 23)]
    mill.classify()
    mill.clock.pass_by(30)
    mill.tick()
    assert mill.rows() == [("done", 1, None)]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"model": "other"}, "no model 'other' in "),
        ({"source": "/nowhere"}, "no folder '/nowhere'"),
        ({"include": ("*.png",)}, "no images in file:///"),
    ],
)
def test_slot_that_cannot_be_run_says_why(mill: Mill, terms: dict[str, object], message: str) -> None:
    mill.settings = of(mill.settings, **terms)

    mill.tick()

    ((status, run_id, told),) = mill.rows()
    assert (status, run_id) == ("failed", None) and told is not None and told.startswith(message)


def test_source_that_somebody_runs_makes_the_slot_skip(mill: Mill) -> None:
    request = RunRequest(source=mill.photos.as_uri(), model="m", model_version=1, content_hash="a" * 64)
    open_run(mill.db, request, holder="elsewhere/1#2-3")
    look_at_schedules(mill.db, mill.app, mill.settings)

    worked = Event()

    def renew() -> None:
        while not worked.wait(0.2):  # Again and again: on a slow day the slot is looked at after the first renewal.
            mill.clock.pass_by(2)
            hold_run(mill.db, 1, "elsewhere/1#2-3")

    renewal = Thread(target=renew)
    renewal.start()
    try:
        mill.work()
    finally:
        worked.set()
        renewal.join()

    ((status, run_id, told),) = mill.rows()
    assert (status, run_id) == ("skipped", None)
    assert told is not None and "is being run: run 1, by elsewhere/1" in told


def test_broken_run_fails_its_slot_and_the_next_goes_on_with_it(mill: Mill) -> None:
    mill.tick()
    fail_run(mill.db, 1, "the registry is another one")
    mill.clock.pass_by(60)

    mill.tick()

    assert mill.rows() == [("failed", 1, "the registry is another one"), ("running", 1, None)]
    assert mill.runs("status") == [(RunStatus.RUNNING,)]


def test_cancelled_run_fails_its_slot(mill: Mill) -> None:
    mill.tick()
    cancel_run(mill.db, 1)

    look_at_schedules(mill.db, mill.app, mill.settings)

    assert mill.rows() == [("failed", 1, "run 1 was cancelled")]


def test_every_schedule_of_a_minute_gets_its_run(mill: Mill, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.jpg").write_bytes(make_jpeg())
    (schedule,) = mill.settings.schedule
    second = schedule.model_copy(update={"name": "second", "source": str(other)})
    mill.settings = mill.settings.model_copy(update={"schedule": (schedule, second)})
    mill.tick()
    mill.classify()
    mill.clock.pass_by(60)

    mill.tick()

    assert sorted(mill.runs("source")) == [(other.as_uri(),), (mill.photos.as_uri(),), (mill.photos.as_uri(),)]


def test_slot_of_a_schedule_that_is_not_ours_is_left_alone(mill: Mill) -> None:
    look_at_schedules(mill.db, mill.app, mill.settings)
    mill.settings = mill.settings.model_copy(update={"schedule": ()})

    mill.work()

    assert mill.rows() == [("due", None, None)]
