"""The life of a slot, on both databases: recorded once, claimed by one, ended as its run."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa

from results.listing import ListingTaken, end_listing
from results.runs import HOLD_SECONDS, RunRequest, cancel_run, fail_run, open_run
from results.schedules import (
    ClaimedSlot,
    Slot,
    claim_slot,
    end_slot,
    end_slots,
    find_waiting_slots,
    hold_slot,
    latest_slot,
    let_go_of_slot,
    note_run,
    record_slot,
    skip_slot,
)
from results.session import Database
from results.tables import RunStatus, SlotStatus, runs
from tests.clock import Clock

EARLIER, SLOT = (Slot(schedule="nightly", due_at=1_700_000_000 + seconds) for seconds in (-60, 0))
ONE, TWO = "one/1#a", "two/2#b"


def rows(db: Database) -> list[tuple[str, int | None, str | None]]:
    """What the view says of each slot, the earliest first."""
    query = sa.text("SELECT status, run_id, message FROM schedule_slots ORDER BY due_at")
    return [tuple(row) for row in db.read(lambda connection: connection.execute(query).all())]


def begin(db: Database, slot: Slot = SLOT, *, listed: bool = True) -> int:
    """Claim a recorded slot, give it a run, and let go of it; returns the run's number."""
    assert claim_slot(db, slot, ONE)
    request = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64)
    run_id = open_run(db, request, holder=ONE).run_id
    assert note_run(db, slot, ONE, run_id)
    if listed:
        end_listing(db, run_id, cursor=None)
    let_go_of_slot(db, slot, ONE)
    return run_id


def change_run(db: Database, **values: object) -> None:
    db.write(lambda connection: connection.execute(runs.update().values(**values)))


def test_slot_is_recorded_once(db: Database) -> None:
    first, again = record_slot(db, SLOT), record_slot(db, SLOT)

    assert (first and first.status, again) == (SlotStatus.DUE, None)
    assert latest_slot(db, "nightly") == SLOT
    assert latest_slot(db, "hourly") is None


def test_producers_that_look_together_record_one_slot(db: Database) -> None:
    together = Barrier(4)

    def compete(_: int) -> bool:
        together.wait()
        return record_slot(db, SLOT, missed=(EARLIER, "missed")) is not None

    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(compete, range(4)))

    assert sorted(recorded) == [False, False, False, True]
    assert rows(db) == [("skipped", None, "missed"), ("due", None, None)]


def test_producers_that_claim_together_do_not_both_get_it(db: Database) -> None:
    record_slot(db, SLOT)
    together = Barrier(4)

    def compete(number: int) -> bool:
        together.wait()
        return claim_slot(db, SLOT, f"host/{number}") is not None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(compete, range(4))) == [False, False, False, True]


def test_view_tells_when_a_slot_is_due(db: Database) -> None:
    record_slot(db, SLOT)

    query = sa.text("SELECT schedule, CAST(due_at AS text) FROM schedule_slots")
    name, due_at = db.read(lambda connection: connection.execute(query).one())

    assert (name, due_at[:19]) == ("nightly", "2023-11-14 22:13:20")


def test_claim_ends_when_it_is_not_renewed(db: Database, clock: Clock) -> None:
    record_slot(db, SLOT)
    claim_slot(db, SLOT, ONE)
    clock.pass_by(HOLD_SECONDS - 1)
    assert hold_slot(db, SLOT, ONE)
    clock.pass_by(HOLD_SECONDS - 1)
    assert (find_waiting_slots(db, ["nightly"]), claim_slot(db, SLOT, TWO)) == ([], None)

    clock.pass_by(2)

    assert find_waiting_slots(db, ["nightly"]) == [SLOT]
    assert claim_slot(db, SLOT, TWO) == ClaimedSlot(run_id=None)
    assert not hold_slot(db, SLOT, ONE)


def test_next_producer_learns_which_run_to_go_on_with(db: Database) -> None:
    record_slot(db, SLOT)
    run_id = begin(db, listed=False)

    assert find_waiting_slots(db, ["nightly"]) == [SLOT]
    assert claim_slot(db, SLOT, TWO) == ClaimedSlot(run_id=run_id)


def test_slot_whose_listing_is_complete_waits_for_nobody(db: Database) -> None:
    record_slot(db, SLOT)
    begin(db)

    assert (find_waiting_slots(db, ["nightly"]), claim_slot(db, SLOT, TWO)) == ([], None)


def test_slots_of_other_schedules_are_not_ours(db: Database) -> None:
    record_slot(db, SLOT)

    assert find_waiting_slots(db, ["hourly"]) == []


def test_run_that_is_still_going_makes_the_next_slot_skip(db: Database) -> None:
    record_slot(db, EARLIER)
    run_id = begin(db, EARLIER)

    recorded = record_slot(db, SLOT)

    message = f"run {run_id}, of the slot 2023-11-14 22:12 UTC, is still going"
    assert recorded is not None and (recorded.status, recorded.message) == (SlotStatus.SKIPPED, message)
    assert rows(db)[1] == ("skipped", None, message)
    assert claim_slot(db, SLOT, TWO) is None


def test_slot_that_nobody_began_gives_way_to_the_next(db: Database) -> None:
    record_slot(db, EARLIER)
    record_slot(db, SLOT)

    (earlier, _, message), later = rows(db)
    assert (earlier, later) == ("skipped", ("due", None, None))
    assert message == "missed: nobody had begun with it at 2023-11-14 22:13 UTC, when the next was due"


def test_slots_of_another_schedule_do_not_matter(db: Database) -> None:
    record_slot(db, Slot(schedule="hourly", due_at=EARLIER.due_at))
    assert claim_slot(db, Slot(schedule="hourly", due_at=EARLIER.due_at), ONE)

    recorded = record_slot(db, SLOT)

    assert recorded is not None and recorded.status is SlotStatus.DUE


@pytest.mark.parametrize(
    ("run", "status", "message"),
    [
        ({"status": RunStatus.COMPLETED, "finished_at": 1}, "done", None),
        ({"status": RunStatus.COMPLETED, "finished_at": 1, "staged": True, "published_at": 1}, "done", None),
        ({"status": RunStatus.COMPLETED, "finished_at": 1, "staged": True, "held_back": "shrunk"}, "failed", "shrunk"),
        # Published by a person before the next look.
        (
            {"status": RunStatus.COMPLETED, "finished_at": 1, "staged": True, "held_back": "shrunk", "published_at": 1},
            "done",
            None,
        ),
        (
            {"status": RunStatus.COMPLETED, "finished_at": 1, "staged": True, "dropped_at": 1},
            "failed",
            "run 1 was dropped, as a later one is published",
        ),
        # The verdict is still to come.
        ({"status": RunStatus.COMPLETED, "finished_at": 1, "staged": True}, "running", None),
        (
            {"status": RunStatus.CANCELLED, "finished_at": 1, "out_of_time": True, "staged": True, "published_at": 1},
            "done",
            None,
        ),
        ({"status": RunStatus.CANCELLED, "finished_at": 1, "staged": True}, "failed", "run 1 was cancelled"),
        ({"status": RunStatus.FAILED, "error": "no such model", "staged": True}, "failed", "no such model"),
        ({"status": RunStatus.RUNNING}, "running", None),
    ],
)
def test_slot_ends_as_its_run(db: Database, run: dict[str, object], status: str, message: str | None) -> None:
    record_slot(db, SLOT)
    run_id = begin(db)
    change_run(db, **run)

    ended = end_slots(db)

    assert rows(db) == [(status, run_id, message)]
    assert [(one.slot, one.status, one.message) for one in ended] == (
        [] if status == "running" else [(SLOT, status, message)]
    )
    assert end_slots(db) == []


def test_run_that_a_person_cancels_while_it_is_listed_ends_its_slot(db: Database) -> None:
    record_slot(db, SLOT)
    run_id = begin(db, listed=False)

    cancel_run(db, run_id)

    with pytest.raises(ListingTaken):
        end_listing(db, run_id, cursor=None)
    end_slots(db)
    assert rows(db) == [("failed", run_id, f"run {run_id} was cancelled")]


def test_run_that_fails_while_it_is_listed_is_not_begun_again(db: Database) -> None:
    record_slot(db, SLOT)
    run_id = begin(db, listed=False)

    fail_run(db, run_id, "no such model")

    assert claim_slot(db, SLOT, TWO) is None


def test_slot_is_ended_by_its_producer_alone(db: Database, clock: Clock) -> None:
    record_slot(db, SLOT)
    claim_slot(db, SLOT, ONE)
    clock.pass_by(HOLD_SECONDS + 1)
    claim_slot(db, SLOT, TWO)

    end_slot(db, SLOT, ONE, SlotStatus.FAILED, "no such folder")

    assert rows(db) == [("running", None, None)]
    assert not note_run(db, SLOT, ONE, 1)


def test_slot_that_is_skipped_is_run_by_nobody(db: Database) -> None:
    assert skip_slot(db, SLOT, "before this schedule was first seen")

    assert not skip_slot(db, SLOT, "again")
    assert (find_waiting_slots(db, ["nightly"]), claim_slot(db, SLOT, ONE)) == ([], None)
