"""The life of a batch, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import pytest
import sqlalchemy as sa

from base.errors import FailureReason
from results import ledger
from results.ledger import Answer, Claim, Failure, LeaseLost
from results.listing import Chunk, ListedImage, end_listing, record_chunk
from results.queries import find_runs, verify_run
from results.runs import RunRequest, close_runs, fail_run, open_run
from results.session import Database
from results.tables import Priority, RunStatus, items, predictions
from tests.clock import Clock

LEASE = 45.0


def record(
    db: Database,
    images: int = 4,
    *,
    source: str = "file:///photos",
    batch: int = 64,
    request: RunRequest | None = None,
) -> int:
    """A run of that many new images, its listing complete; returns its number."""
    plain = RunRequest(source=source, model="m", model_version=1, content_hash="a" * 64)
    run = open_run(db, request or plain, holder="test/1")
    listed = [ListedImage(uri=f"{source}/{index:03}.jpg", fingerprint="10-1") for index in range(images)]
    batches = [listed[start : start + batch] for start in range(0, images, batch)]
    cursor = listed[-1].uri
    record_chunk(db, run.run_id, cursor=None, chunk=Chunk(cursor=cursor, batches=batches, skipped=0))
    end_listing(db, run.run_id, cursor=cursor)
    return run.run_id


def take(db: Database, batch_id: int = 1, owner: str = "w/1") -> Claim | None:
    return ledger.claim(db, batch_id, owner=owner, lease_seconds=LEASE)


def claim(db: Database, batch_id: int = 1, owner: str = "w/1") -> Claim:
    held = take(db, batch_id, owner)
    assert held is not None
    return held


def answers(held: Claim, label: str = "cat", *, reused: bool = False) -> list[Answer]:
    return [
        Answer(
            image_id=image.image_id,
            fingerprint=image.fingerprint,
            content_hash=bytes([image.image_id]) * 32,
            labels=[(label, 0.75), ("dog", 0.25)],
            reused=reused,
        )
        for image in held.images
    ]


def reviews(db: Database) -> list[tuple[int, bool]]:
    """The rank of each prediction, and whether it needs a review."""
    rows = sa.select(predictions.c.rank, predictions.c.needs_review).order_by(
        predictions.c.image_id, predictions.c.rank
    )
    return [(row.rank, row.needs_review) for row in db.read(lambda connection: connection.execute(rows).all())]


def open_again(db: Database) -> None:
    """Let the claim of a finished batch finish it once more."""
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE batches SET status = 'leased', owner = 'w/1'"))
        connection.execute(sa.text("UPDATE items SET status = 'pending'"))


def status_of_batch(db: Database) -> str:
    """The status of the one batch."""
    return str(db.read(lambda connection: connection.scalar(sa.text("SELECT status FROM batches"))))


def due(db: Database, *, room: int = 100, queued: int = 0) -> list[int]:
    return [batch for _, batch in ledger.take_due(db, room=room, queued=queued, resend_seconds=30)]


def count(db: Database, table: sa.Table) -> int:
    return db.read(lambda connection: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_finished_batch_ends_its_run(db: Database) -> None:
    run_id = record(db)
    held = claim(db)

    ledger.finish(db, held, answers(held), [])
    close_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.status, run.listed, run.classified) == (RunStatus.COMPLETED, 4, 4)
    assert verify_run(db, run_id).gaps == ()


def test_run_with_open_batch_is_not_complete(db: Database) -> None:
    run_id = record(db, images=4, batch=2)
    held = claim(db, 1)
    ledger.finish(db, held, answers(held), [])

    close_runs(db)

    assert find_runs(db, run_id)[0].status is RunStatus.RUNNING
    assert [gap.what for gap in verify_run(db, run_id).gaps][:1] == ["4 images listed, 2 with an end"]


def test_need_of_a_review_is_saved_with_the_first_label(db: Database) -> None:
    record(db, images=2)
    held = claim(db)
    first, second = answers(held)

    ledger.finish(db, held, [replace(first, needs_review=True), second], [])

    assert reviews(db) == [(1, True), (2, False), (1, False), (2, False)]


@pytest.mark.parametrize("later", [False, True])
def test_later_answer_decides_whether_it_needs_a_review(db: Database, later: bool) -> None:
    record(db, images=1)
    held = claim(db)
    (answer,) = answers(held)
    ledger.finish(db, held, [replace(answer, needs_review=not later)], [])
    open_again(db)

    ledger.finish(db, held, [replace(answer, needs_review=later)], [])

    assert reviews(db) == [(1, later), (2, False)]


def test_claimed_batch_cannot_be_claimed_again(db: Database) -> None:
    record(db)
    claim(db)

    assert take(db, owner="w/2") is None


def test_done_batch_cannot_be_claimed_again(db: Database) -> None:
    record(db)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])

    assert take(db) is None


def test_batch_of_stopped_run_cannot_be_claimed(db: Database) -> None:
    fail_run(db, record(db), "the model is not there")

    assert take(db) is None
    assert due(db) == []


def test_lease_that_ran_out_can_be_claimed(db: Database, clock: Clock) -> None:
    record(db)
    first = claim(db, owner="w/1")
    clock.pass_by(LEASE + 1)

    second = claim(db, owner="w/2")

    assert second.fence == first.fence + 1


def test_extended_lease_cannot_be_claimed(db: Database, clock: Clock) -> None:
    record(db)
    held = claim(db)
    clock.pass_by(LEASE - 1)
    ledger.extend(db, held, lease_seconds=LEASE)
    clock.pass_by(LEASE - 1)

    assert take(db, owner="w/2") is None


def test_outdated_claim_can_neither_extend_nor_finish(db: Database, clock: Clock) -> None:
    run_id = record(db)
    stalled = claim(db, owner="w/1")
    clock.pass_by(LEASE + 1)
    current = claim(db, owner="w/2")

    with pytest.raises(LeaseLost):
        ledger.extend(db, stalled, lease_seconds=LEASE)
    with pytest.raises(LeaseLost):
        ledger.finish(db, stalled, answers(stalled, "wrong"), [])

    ledger.finish(db, current, answers(current), [])
    assert count(db, predictions) == 8
    assert find_runs(db, run_id)[0].classified == 4


def test_outdated_claim_cannot_finish_after_another_did(db: Database, clock: Clock) -> None:
    record(db)
    stalled = claim(db, owner="w/1")
    clock.pass_by(LEASE + 1)
    current = claim(db, owner="w/2")
    ledger.finish(db, current, answers(current), [])

    with pytest.raises(LeaseLost):
        ledger.finish(db, stalled, answers(stalled, "wrong"), [])

    labels = db.read(lambda connection: set(connection.scalars(sa.select(predictions.c.label))))
    assert labels == {"cat", "dog"}


def test_finish_repeated_after_lost_commit_answer_changes_nothing(db: Database) -> None:
    run_id = record(db)
    held = claim(db)

    ledger.finish(db, held, answers(held), [])
    ledger.finish(db, held, answers(held), [])

    assert count(db, predictions) == 8
    assert find_runs(db, run_id)[0].classified == 4


def test_finish_refuses_ends_of_other_images(db: Database) -> None:
    record(db)
    held = claim(db)

    with pytest.raises(ValueError, match="has 4 images, and 3 ends were given"):
        ledger.finish(db, held, answers(held)[1:], [])


def test_failure_is_told_with_reason_message_and_attempts(db: Database) -> None:
    run_id = record(db, images=1)
    held = claim(db)
    failure = Failure(
        image_id=held.images[0].image_id, fingerprint="10-1", reason=FailureReason.TRUNCATED, message="ends early"
    )

    ledger.finish(db, held, [], [failure])

    row = db.read(lambda connection: connection.execute(sa.text("SELECT * FROM failures_by_image")).one())
    assert (row.run_id, row.image_uri, row.reason, row.message, row.attempts) == (
        run_id,
        "file:///photos/000.jpg",
        "truncated",
        "ends early",
        1,
    )
    assert verify_run(db, run_id).gaps == ()


def test_batch_given_back_costs_no_attempt_and_waits(db: Database, clock: Clock) -> None:
    record(db, images=1)
    for _ in range(5):
        ledger.give_back(db, claim(db), delay_seconds=5)
        assert due(db) == []
        clock.pass_by(6)

    assert due(db) == [1]
    assert claim(db).images


def test_batch_of_dead_process_can_be_claimed_at_once(db: Database) -> None:
    record(db)
    claim(db, owner="w/1")

    assert ledger.give_back_lost(db, "w/2", FailureReason.WORKER_LOST) == 0
    assert ledger.give_back_lost(db, "w/1", FailureReason.WORKER_LOST) == 1
    assert claim(db, owner="w/2").fence == 2


def test_all_batches_of_a_dead_worker_are_given_back(db: Database) -> None:
    record(db, images=3, batch=1)
    claim(db, 1, owner="host-1/10")
    claim(db, 2, owner="host-1/11")
    claim(db, 3, owner="host-12/10")

    assert ledger.give_back_lost(db, "host-1/", FailureReason.WORKER_LOST) == 2


@pytest.mark.parametrize(
    ("owner", "holds"),
    [
        ("w/1", True),
        ("w/", True),  # Any process of that worker.
        ("w/2", False),
        ("w2/", False),
    ],
)
def test_worker_holds_what_it_claimed_until_that_is_done(db: Database, owner: str, holds: bool) -> None:
    record(db)
    held = claim(db, owner="w/1")

    before = ledger.holds_batches(db, owner)
    ledger.finish(db, held, answers(held), [])

    assert (before, ledger.holds_batches(db, owner)) == (holds, False)


def test_image_that_has_its_end_is_not_given_another(db: Database) -> None:
    record(db)
    held = claim(db)
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE items SET status = 'cancelled' WHERE image_id = 1"))

    with pytest.raises(AssertionError, match="3 of 4 images were waiting for their end"):
        ledger.finish(db, held, answers(held), [])
    assert status_of_batch(db) == "leased"


def test_third_claim_splits_the_batch(db: Database) -> None:
    record(db, images=5)
    _lose(db, 1, times=2)

    assert take(db, 1) is None

    halves = [claim(db, batch_id) for batch_id in due(db)]
    assert [len(half.images) for half in halves] == [2, 3]
    assert sorted(image.image_id for half in halves for image in half.images) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("reason", [FailureReason.WORKER_LOST, FailureReason.TIMEOUT])
def test_poison_image_fails_alone_and_its_neighbours_are_classified(db: Database, reason: FailureReason) -> None:
    run_id = record(db, images=64)
    poison, lost = 17, 0
    while batch_ids := due(db, room=1):
        (batch_id,) = batch_ids
        held = take(db, batch_id)
        if held is None:
            continue
        if poison in [image.image_id for image in held.images]:
            ledger.give_back_lost(db, "w/1", reason)
            lost += 1
        else:
            ledger.finish(db, held, answers(held), [])
    close_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.status, run.classified, run.failed) == (RunStatus.COMPLETED, 63, 1)
    assert lost <= 14
    row = db.read(lambda connection: connection.execute(sa.select(items).where(items.c.status == "failed")).one())
    assert (row.image_id, row.reason, row.attempts) == (poison, reason, lost)
    assert verify_run(db, run_id).gaps == ()


def test_batch_is_sent_once(db: Database) -> None:
    record(db, images=4, batch=2)

    assert due(db) == [1, 2]
    assert due(db, queued=2) == []


def test_no_more_is_sent_than_the_broker_has_room_for(db: Database) -> None:
    record(db, images=4, batch=1)

    assert due(db, room=3) == [1, 2, 3]
    assert due(db, room=3, queued=3) == [4]


def record_backwards(db: Database, *, deadline: float | None = None) -> int:
    """A run that lists an image of each priority in a batch of its own, the last priority first."""
    request = RunRequest(source="file:///p", model="m", model_version=1, content_hash="a" * 64, deadline=deadline)
    run = open_run(db, request, holder="test/1")
    listed = [
        ListedImage(uri=f"file:///p/{9 - priority}", fingerprint="1-1", priority=priority)
        for priority in reversed(Priority)
    ]
    chunk = Chunk(cursor=listed[-1].uri, batches=[[image] for image in listed], skipped=0)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk)
    return run.run_id


def test_new_images_are_sent_before_changed_and_retried_ones(db: Database) -> None:
    earlier = record(db, 2)
    record_backwards(db)

    assert due(db, room=4) == [earlier, 5, 4, 3]


def test_run_with_a_deadline_lists_to_the_end_before_it_goes_on_to_changes(db: Database, clock: Clock) -> None:
    run_id = record_backwards(db, deadline=clock.seconds + 3600)

    assert due(db) == [4, 3]  # What was left over, and what is new.
    assert due(db) == []

    end_listing(db, run_id, cursor="file:///p/9")
    assert due(db) == [2, 1]


def test_halves_of_a_batch_keep_its_priority(db: Database, clock: Clock) -> None:
    record(db)
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE batches SET priority = 2"))
    for owner in ("w/1", "w/2", "w/3"):
        take(db, owner=owner)
        clock.pass_by(LEASE + 1)

    priorities = sa.text("SELECT priority FROM batches")
    assert list(db.read(lambda connection: connection.scalars(priorities).all())) == [2, 2, 2]


def test_message_that_nobody_took_is_sent_again(db: Database, clock: Clock) -> None:
    record(db, images=2, batch=1)
    due(db)
    clock.pass_by(31)

    assert due(db, queued=1) == [1, 2]


def test_flushed_broker_gets_its_messages_again_soon(db: Database, clock: Clock) -> None:
    record(db)
    due(db)
    clock.pass_by(6)

    assert due(db, queued=0) == [1]


def test_messages_that_wait_in_a_long_queue_are_not_repeated(db: Database, clock: Clock) -> None:
    record(db, images=2, batch=1)
    due(db)
    clock.pass_by(3600)

    assert due(db, queued=2) == []


def test_lease_that_ran_out_is_sent_again(db: Database, clock: Clock) -> None:
    record(db)
    due(db)
    claim(db)
    assert due(db) == []
    clock.pass_by(LEASE + 1)

    assert due(db) == [1]


def test_message_that_could_not_be_sent_is_due_at_once(db: Database) -> None:
    record(db)
    ledger.take_back_sent(db, due(db))

    assert due(db) == [1]


def test_twin_is_found_by_its_bytes(db: Database) -> None:
    record(db, images=2)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])
    known, unknown = bytes([1]) * 32, bytes([99]) * 32

    found = ledger.find_twins(db, held, {known, unknown})

    assert found == {known: [("cat", 0.75), ("dog", 0.25)]}


def test_labels_and_confidences_come_back_as_they_were(db: Database) -> None:
    record(db, images=1)
    held = claim(db)
    (answer,) = answers(held)
    texts = ["", "NULL", "\\N", "a'b\"c\\d", "{1,2}", "%s :x $1", "two\r\nlines", "😀", "x" * 100_000]
    confidences = [0.0, 1, 1e-300, 5e-324, 0.10000000149011612, 0.9999999403953552, 1 / 3, 0, 1.0]
    labels = list(zip(texts, confidences, strict=True))

    ledger.finish(db, held, [replace(answer, labels=labels)], [])

    assert ledger.find_twins(db, held, {answer.content_hash}) == {answer.content_hash: labels}


def test_image_that_changed_is_a_twin_of_what_it_was_and_of_what_it_is(db: Database) -> None:
    record(db, images=1)
    held = claim(db)
    (image,) = held.images
    for fingerprint, content, label in (("10-1", b"1", "cat"), ("11-2", b"2", "dog")):
        seen = Answer(
            image_id=image.image_id,
            fingerprint=fingerprint,
            content_hash=content * 32,
            labels=[(label, 0.5), ("x", 0.25)],
        )
        ledger.finish(db, held, [seen], [])
        open_again(db)

    assert ledger.find_twins(db, held, {b"1" * 32}) == {b"1" * 32: [("cat", 0.5), ("x", 0.25)]}
    assert ledger.find_twins(db, held, {b"2" * 32}) == {b"2" * 32: [("dog", 0.5), ("x", 0.25)]}


def test_twin_of_another_model_version_is_no_twin(db: Database) -> None:
    record(db, images=2)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])

    assert ledger.find_twins(db, replace(held, model_version_id=held.model_version_id + 1), {bytes([1]) * 32}) == {}


def _lose(db: Database, batch_id: int, *, times: int) -> None:
    for _ in range(times):
        claim(db, batch_id)
        ledger.give_back_lost(db, "w/1", FailureReason.WORKER_LOST)


def test_lost_hint_for_a_lease_that_ran_out_is_sent_again(db: Database, clock: Clock) -> None:
    record(db)
    due(db)
    claim(db)
    clock.pass_by(LEASE + 1)
    assert due(db) == [1]
    clock.pass_by(6)

    assert due(db) == [1]


def test_refused_hint_for_a_lease_that_ran_out_is_due_at_once(db: Database, clock: Clock) -> None:
    record(db)
    due(db)
    claim(db)
    clock.pass_by(LEASE + 1)
    ledger.take_back_sent(db, due(db))

    assert due(db) == [1]


def test_claim_repeated_after_lost_commit_answer_is_the_same_claim(db: Database) -> None:
    record(db)

    assert claim(db, owner="w/1") == claim(db, owner="w/1")


def test_run_of_everything_knows_only_its_own_twins(db: Database) -> None:
    record(db, images=2)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])

    earlier = replace(held, everything=True, run_id=held.run_id + 1)

    assert ledger.find_twins(db, earlier, {bytes([1]) * 32}) == {}
    assert ledger.find_twins(db, replace(held, everything=True), {bytes([1]) * 32}) != {}


def test_twin_has_the_bytes_that_were_answered(db: Database) -> None:
    """Two versions may have met other bytes under one fingerprint: what counts is what each has seen."""
    record(db, images=1)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])
    run = open_run(
        db, RunRequest(source="file:///photos", model="other", model_version=1, content_hash="b" * 64), holder="test/1"
    )
    again = ListedImage(uri="file:///photos/000.jpg", fingerprint="10-1", image_id=held.images[0].image_id)
    record_chunk(db, run.run_id, cursor=None, chunk=Chunk(cursor=again.uri, batches=[[again]], skipped=0))
    other = claim(db, 2)
    seen = Answer(image_id=again.image_id or 0, fingerprint="10-1", content_hash=b"y" * 32, labels=[("dog", 1.0)])
    ledger.finish(db, other, [seen], [])

    assert ledger.find_twins(db, held, {b"y" * 32}) == {}
    assert ledger.find_twins(db, other, {b"y" * 32}) == {b"y" * 32: [("dog", 1.0)]}


def test_fewer_labels_replace_more(db: Database) -> None:
    record(db, images=1)
    held = claim(db)
    ledger.finish(db, held, answers(held), [])
    open_again(db)
    (image,) = held.images
    fewer = Answer(image_id=image.image_id, fingerprint="10-1", content_hash=b"1" * 32, labels=[("cat", 1.0)])

    ledger.finish(db, held, [fewer], [])

    assert count(db, predictions) == 1


@pytest.mark.parametrize("database_address", ["postgresql"], indirect=True)  # SQLite keeps none.
def test_no_plan_is_kept_for_tables_that_grow(db: Database) -> None:
    record(db, images=16, batch=1)
    for batch_id in range(1, 17):  # Ten are enough for PostgreSQL, and our driver, to keep one.
        held = claim(db, batch_id)
        ledger.finish(db, held, answers(held), [])

    kept = sa.text("SELECT count(*) FROM pg_prepared_statements")

    assert db.write(lambda connection: connection.scalar(kept)) == 0


@pytest.mark.parametrize("database_address", ["postgresql"], indirect=True)  # On SQLite such a sender has to be ended.
def test_sender_that_stops_in_the_middle_keeps_nobody_waiting(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_SENDER_MILLISECONDS", "200")
    record(db, images=2, batch=1)
    stopped = Database(db.url, now=db.now)
    has_begun, may_go_on = Event(), Event()

    @sa.event.listens_for(stopped.engine, "after_cursor_execute")
    def stop(*arguments: object) -> None:
        if "pg_advisory" in str(arguments[2]):
            has_begun.set()
            may_go_on.wait(30)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(ledger.take_due, stopped, room=10, queued=0, resend_seconds=30)
        has_begun.wait(30)
        sent = due(db, room=10)
        may_go_on.set()

        assert sent == [1, 2]
        assert first.result() == []
    stopped.close()
