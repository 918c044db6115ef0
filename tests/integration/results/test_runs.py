"""The life of a run: begun, held, cancelled."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
import sqlalchemy as sa

from results import ledger
from results.guard import Guard
from results.listing import Chunk, ListingTaken, record_chunk
from results.queries import find_request, find_runs, verify_run
from results.runs import (
    HOLD_SECONDS,
    RunRequest,
    SourceHeld,
    cancel_run,
    close_runs,
    find_unfinished,
    hold_run,
    let_go_of_run,
    open_run,
)
from results.session import Database
from results.tables import RunStatus, runs
from tests.clock import Clock
from tests.integration.results.test_ledger import answers, claim, due, record

REQUEST = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64)


def begin(db: Database, holder: str = "one/1", request: RunRequest = REQUEST) -> int:
    return open_run(db, request, holder=holder).run_id


@pytest.mark.parametrize(
    "request_of_other",
    [
        REQUEST,
        RunRequest(source="file:///photos", model="other", model_version=1, content_hash="b" * 64),
        RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64, everything=True),
    ],
)
def test_held_source_is_refused_to_others(db: Database, request_of_other: RunRequest) -> None:
    run_id = begin(db)

    with pytest.raises(SourceHeld) as raised:
        begin(db, "two/2", request_of_other)

    assert (raised.value.run_id, raised.value.holder) == (run_id, "one/1")


def test_commands_that_begin_together_do_not_both_hold_the_source(db: Database) -> None:
    together, requests = Barrier(2), (REQUEST, replace(REQUEST, everything=True))

    def compete(number: int) -> bool:
        together.wait()
        try:
            begin(db, f"host/{number}", requests[number])
        except SourceHeld:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for run_id in range(1, 11):
            assert sorted(pool.map(compete, range(2))) == [False, True]
            cancel_run(db, run_id)


def test_hold_that_is_renewed_lasts(db: Database, clock: Clock) -> None:
    run_id = begin(db)
    clock.pass_by(HOLD_SECONDS - 1)
    hold_run(db, run_id, "one/1")
    clock.pass_by(2)

    with pytest.raises(SourceHeld):
        begin(db, "two/2")


def test_hold_that_ran_out_is_taken_over(db: Database, clock: Clock) -> None:
    run_id = begin(db)
    clock.pass_by(HOLD_SECONDS + 1)

    assert begin(db, "two/2") == run_id
    hold_run(db, run_id, "one/1")  # Who lost it cannot take it back by renewing it.
    with pytest.raises(SourceHeld):
        begin(db, "three/3")


def test_source_that_was_let_go_of_is_free(db: Database) -> None:
    run_id = begin(db)
    let_go_of_run(db, run_id, "one/1")

    assert begin(db, "two/2") == run_id


@pytest.mark.parametrize(
    "other",
    [{"exclude": ("thumbs",)}, {"include": ("*.png",)}, {"everything": True}, {"retry_of": 1}],
)
def test_other_request_has_a_run_of_its_own(db: Database, other: dict[str, object]) -> None:
    request = RunRequest(source="file:///photos", model="m", model_version=1, content_hash="a" * 64, **other)

    assert begin(db, request=request) != begin(db)
    assert begin(db, request=request) == 1


def test_cancelled_images_have_their_end(db: Database) -> None:
    run_id = record(db, images=6, batch=2)
    done = claim(db, 1)
    ledger.finish(db, done, answers(done), [])
    claim(db, 2)

    assert cancel_run(db, run_id)

    (run,) = find_runs(db, run_id)
    assert (run.status, run.classified, run.cancelled) == (RunStatus.CANCELLED, 2, 4)
    assert verify_run(db, run_id).gaps == ()
    assert due(db) == []


def test_run_that_is_still_being_cancelled_is_not_proved(db: Database) -> None:
    """Whoever cancelled it died at once; anybody's next dispatch ends that."""
    run_id = record(db, images=2)
    stopped = sa.update(runs).values(status=RunStatus.CANCELLED)
    db.write(lambda connection: connection.execute(stopped))

    assert "still being cancelled; 'tagmill cancel 1' ends that" in str(verify_run(db, run_id).gaps)

    close_runs(db)
    assert verify_run(db, run_id).gaps == ()


def begin_until(db: Database, clock: Clock, seconds: float = 60) -> int:
    """A run of six images in three batches, with a deadline."""
    return record(db, images=6, batch=2, request=replace(REQUEST, deadline=clock.seconds + seconds))


def test_run_that_is_out_of_time_stops(db: Database, clock: Clock) -> None:
    run_id = begin_until(db, clock)
    close_runs(db)
    assert find_runs(db, run_id)[0].status is RunStatus.RUNNING
    clock.pass_by(60)

    close_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.status, run.out_of_time, run.cancelled) == (RunStatus.CANCELLED, True, 6)
    assert (run.finished_at, due(db), verify_run(db, run_id).gaps) == (clock.seconds, [], ())
    assert begin(db, "test/1") == run_id + 1


def test_batch_at_hand_may_end_after_the_deadline(db: Database, clock: Clock) -> None:
    run_id = begin_until(db, clock, seconds=10)
    held = claim(db)
    clock.pass_by(10)
    close_runs(db)
    assert find_runs(db, run_id)[0].finished_at is None
    assert "out of time, and its last batches still end" in str(verify_run(db, run_id).gaps)

    ledger.extend(db, held, lease_seconds=45)
    ledger.finish(db, held, answers(held), [])
    close_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.finished_at, run.classified, run.cancelled) == (clock.seconds, 2, 4)
    assert verify_run(db, run_id).gaps == ()


def test_batch_of_a_dead_worker_does_not_hold_up_the_deadline(db: Database, clock: Clock) -> None:
    run_id = begin_until(db, clock, seconds=10)
    held = claim(db)
    clock.pass_by(60)

    close_runs(db)

    assert find_runs(db, run_id)[0].cancelled == 6
    with pytest.raises(ledger.LeaseLost):
        ledger.finish(db, held, answers(held), [])


def test_person_who_cancels_waits_for_no_batch(db: Database, clock: Clock) -> None:
    run_id = begin_until(db, clock, seconds=10)
    claim(db)
    clock.pass_by(10)
    close_runs(db)

    assert cancel_run(db, run_id)

    (run,) = find_runs(db, run_id)
    assert (run.cancelled, run.out_of_time) == (6, False)


def test_run_that_is_complete_at_its_deadline_is_completed(db: Database, clock: Clock) -> None:
    run_id = begin_until(db, clock)
    for batch in (1, 2, 3):
        held = claim(db, batch)
        ledger.finish(db, held, answers(held), [])
    clock.pass_by(60)

    close_runs(db)

    assert find_runs(db, run_id)[0].status is RunStatus.COMPLETED


def test_listing_stops_at_the_deadline(db: Database, clock: Clock) -> None:
    run_id = begin(db, request=replace(REQUEST, deadline=clock.seconds + 60))
    clock.pass_by(60)
    close_runs(db)

    with pytest.raises(ListingTaken):
        record_chunk(db, run_id, cursor=None, chunk=Chunk(cursor="file:///photos/a", batches=[], skipped=1))
    assert verify_run(db, run_id).gaps == ()


def test_run_that_is_gone_on_with_has_the_new_deadline(db: Database, clock: Clock) -> None:
    run_id = begin(db, request=replace(REQUEST, deadline=clock.seconds + 60))
    begin(db, request=replace(REQUEST, deadline=clock.seconds + 90))
    clock.pass_by(60)

    close_runs(db)

    assert find_runs(db, run_id)[0].status is RunStatus.LISTING


def test_worker_of_a_cancelled_run_writes_nothing(db: Database) -> None:
    run_id = record(db, images=2)
    held = claim(db)
    cancel_run(db, run_id)

    with pytest.raises(ledger.LeaseLost):
        ledger.finish(db, held, answers(held), [])
    with pytest.raises(ledger.LeaseLost):
        ledger.extend(db, held, lease_seconds=10)


def test_listing_of_a_cancelled_run_stops(db: Database) -> None:
    run_id = begin(db)
    cancel_run(db, run_id)

    with pytest.raises(ListingTaken):
        record_chunk(db, run_id, cursor=None, chunk=Chunk(cursor="file:///photos/a", batches=[], skipped=1))
    assert verify_run(db, run_id).gaps == ()


def test_run_that_only_has_to_be_closed_is_not_gone_on_with(db: Database) -> None:
    run_id = record(db, images=1)
    held = claim(db)
    assert find_unfinished(db, REQUEST) is not None
    ledger.finish(db, held, answers(held), [])

    assert find_unfinished(db, REQUEST) is None
    assert begin(db, "test/1") == run_id + 1


def test_next_run_of_a_cancelled_source_begins_anew(db: Database) -> None:
    run_id = begin(db)
    cancel_run(db, run_id)

    assert begin(db, "two/2") == run_id + 1


def test_run_that_has_ended_is_not_cancelled(db: Database) -> None:
    run_id = record(db, images=1)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])
    close_runs(db)

    assert not cancel_run(db, run_id)
    assert find_runs(db, run_id)[0].status is RunStatus.COMPLETED


def test_run_that_is_gone_on_with_keeps_what_is_not_said_again(db: Database, clock: Clock) -> None:
    first = replace(REQUEST, guard=Guard(max_failures="1%"), deadline=clock.seconds + 3600)
    run_id = begin(db, request=first)

    assert begin(db, request=replace(first, guard=Guard(max_shrink=0.5), deadline=None)) == run_id
    kept = find_request(db, run_id)
    assert (kept.guard, kept.deadline) == (Guard(max_failures="1%", max_shrink=0.5), first.deadline)

    later = replace(first, guard=Guard(max_failures="5"), deadline=clock.seconds + 7200)
    begin(db, request=later)
    assert (find_request(db, run_id).guard, find_request(db, run_id).deadline) == (later.guard, later.deadline)
