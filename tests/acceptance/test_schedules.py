"""Producer, beat and worker as processes of their own, with a broker between them."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broker.app import RUNS_QUEUE, make_app
from broker.ticks import send_tick
from results.schedules import Slot, record_slot
from results.session import Database
from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.servers import Valkey

Start = Callable[..., "subprocess.Popen[str]"]
IMAGES = 12_000


@pytest.fixture
def scheduled(tagmill: Tagmill, valkey: Valkey, tmp_path: Path) -> Tagmill:
    """`tagmill` with a broker, and a schedule of New Year over a folder, which has a slot that is due."""
    config = tmp_path / "tagmill.toml"
    config.write_text('[[schedule]]\nname = "yearly"\ncron = "0 0 1 1 *"\nsource = "photos"\n')
    tagmill.environment |= {"TAGMILL_CONFIG": str(config), "TAGMILL_BROKER_URL": valkey.url}
    tagmill.home.mkdir()
    tagmill("db", "upgrade")
    db = Database(sa.URL.create("sqlite", database=str(tagmill.home / "tagmill.db")))
    assert record_slot(db, Slot(schedule="yearly", due_at=int(time.time()) // 60 * 60))
    db.close()
    return tagmill


@pytest.fixture
def start(scheduled: Tagmill) -> Iterator[Start]:
    """Starts parts of the system; those that run at the end are told to stop, and must end well."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> "subprocess.Popen[str]":
        started.append(scheduled.start(*words))
        return started[-1]

    yield start
    for part in started:
        if part.returncode is None:
            stop(part)


def stop(part: "subprocess.Popen[str]") -> str:
    """SIGTERM; what it said."""
    part.terminate()
    try:
        said = part.communicate(timeout=40)[1]
    finally:
        part.kill()
    assert part.returncode == 0, said
    return said


def ask(tagmill: Tagmill, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{tagmill.home / 'tagmill.db'}?mode=ro", uri=True) as connection:
        return connection.execute(query).fetchall()


def slots(tagmill: Tagmill) -> list[tuple[Any, ...]]:
    return ask(tagmill, "SELECT status, run_id, message FROM schedule_slots")


def wait_for_listed(tagmill: Tagmill, images: int) -> None:
    """Until a run has listed so many."""
    tagmill.wait_for("the listing", lambda: ask(tagmill, f"SELECT id FROM runs WHERE listed >= {images}") != [])


def test_slot_that_is_due_becomes_labels(scheduled: Tagmill, start: Start, photos: Path, valkey: Valkey) -> None:
    start("worker", "--processes", "1")

    producer = start("producer")
    scheduled.wait_for("the run", lambda: ask(scheduled, "SELECT status FROM runs") == [("completed",)])
    # Between two ticks of a beat a minute would pass.
    scheduled.wait_for("the end of the slot", lambda: send_tick(make_app(valkey.url)) and is_done(scheduled))

    assert slots(scheduled) == [("done", 1, None)]
    assert len(scheduled.rows()) == 20
    scheduled("verify", "1")
    for pid in scheduled.processes("producer.tasks"):
        assert not {"litert", "tensorflow"} & libraries(pid)
    assert "slot_listed" in stop(producer)


def is_done(tagmill: Tagmill) -> bool:
    time.sleep(0.5)
    return slots(tagmill)[0][0] == "done"


def libraries(pid: int) -> set[str]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("litert", "tensorflow") if name in maps}


def test_two_beats_leave_a_tick_each_and_no_file(scheduled: Tagmill, start: Start, valkey: Valkey) -> None:
    before = sorted(Path.cwd().iterdir()), sorted(scheduled.home.iterdir())
    beats = [start("beat") for _ in range(2)]

    with valkey.client() as client:
        scheduled.wait_for("a tick", lambda: client.llen(RUNS_QUEUE) > 0, seconds=90)  # type: ignore[operator]
        time.sleep(1.0)

        assert client.llen(RUNS_QUEUE) in (1, 2)  # Both may look at the very moment when there is none.
    for beat in beats:
        stop(beat)
    assert (sorted(Path.cwd().iterdir()), sorted(scheduled.home.iterdir())) == before


@pytest.fixture
def many(scheduled: Tagmill, photos: Path) -> Path:
    """A folder whose listing takes many transactions."""
    scheduled.environment["TAGMILL_IMAGES_PER_BATCH"] = "1"
    return make_many(photos / "many", IMAGES)


def test_producer_that_is_told_to_stop_is_followed_by_the_next(scheduled: Tagmill, start: Start, many: Path) -> None:
    producer = start("producer")
    wait_for_listed(scheduled, 100)

    assert "slot_left" in stop(producer)

    ((listed, holder),) = ask(scheduled, "SELECT listed, holder FROM runs")
    assert (listed < IMAGES + 20, holder, slots(scheduled)) == (True, None, [("running", 1, None)])
    start("producer")
    wait_for_listed(scheduled, IMAGES + 20)
    assert ask(scheduled, "SELECT count(*), count(DISTINCT image_id) FROM items") == [(IMAGES + 20, IMAGES + 20)]


def test_producer_that_is_killed_is_followed_by_the_next(
    scheduled: Tagmill, start: Start, many: Path, valkey: Valkey
) -> None:
    producer = start("producer")
    wait_for_listed(scheduled, 100)
    for pid in scheduled.processes("producer.tasks") + scheduled.processes("spawn_main"):
        os.kill(pid, signal.SIGKILL)
    producer.communicate()

    start("producer")
    # Its hold has to run out; meanwhile ticks find nothing to do.
    scheduled.wait_for("the listing", lambda: send_tick(make_app(valkey.url)) and is_listed(scheduled), seconds=60)

    assert ask(scheduled, "SELECT count(*), count(DISTINCT image_id) FROM items") == [(IMAGES + 20, IMAGES + 20)]
    assert slots(scheduled) == [("running", 1, None)]


def is_listed(tagmill: Tagmill) -> bool:
    time.sleep(0.5)
    return ask(tagmill, "SELECT id FROM runs WHERE listed_at IS NOT NULL") != []
