"""How a listing is recorded, on both databases."""

from dataclasses import replace

import pytest
import sqlalchemy as sa

from base.errors import FailureReason, ModelError
from results import ledger
from results.ledger import Answer, Failure
from results.listing import (
    Chunk,
    KnownImage,
    ListedImage,
    ListingTaken,
    end_listing,
    find_answered,
    find_known,
    find_listing,
    find_out_of_time,
    record_chunk,
)
from results.queries import find_runs
from results.runs import OpenRun, RunRequest, cancel_run, close_runs, fail_run, open_run
from results.session import Database
from results.tables import RunStatus


def begin(db: Database, *, source: str = "file:///p", version: int = 1, content_hash: str = "a" * 64) -> OpenRun:
    return open_run(
        db, RunRequest(source=source, model="m", model_version=version, content_hash=content_hash), holder="test/1"
    )


def chunk(*names: str, skipped: int = 0, gone: tuple[int, ...] = ()) -> Chunk:
    images = [ListedImage(uri=f"file:///p/{name}", fingerprint="1-1") for name in names]
    return Chunk(cursor=images[-1].uri, batches=[images], skipped=skipped, gone=gone)


def known(db: Database, run: OpenRun, after: str | None = None) -> list[KnownImage]:
    return list(
        find_known(db, model_version_id=run.model_version_id, first="file:///p/", end="file:///p0", after=after)
    )


def classify(db: Database, batch_id: int = 1) -> None:
    held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
    assert held is not None
    answers = [
        Answer(image_id=image.image_id, fingerprint=image.fingerprint, content_hash=b"1" * 32, labels=[("cat", 1.0)])
        for image in held.images
    ]
    ledger.finish(db, held, answers, [])


def test_chunk_counts_and_moves_the_cursor(db: Database) -> None:
    run = begin(db)

    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a", "b", skipped=3))

    assert find_listing(db, run.run_id) == ("file:///p/b", False)
    assert find_runs(db, run.run_id)[0].listed == 5


def test_chunk_is_recorded_only_once(db: Database) -> None:
    run = begin(db)
    first = chunk("a", "b")
    record_chunk(db, run.run_id, cursor=None, chunk=first)

    record_chunk(db, run.run_id, cursor=None, chunk=first)  # The answer to the commit was lost.

    assert find_runs(db, run.run_id)[0].listed == 2
    assert len(known(db, run)) == 2


def test_producer_that_was_overtaken_writes_nothing(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a", "b"))

    with pytest.raises(ListingTaken):
        record_chunk(db, run.run_id, cursor=None, chunk=chunk("a"))
    with pytest.raises(ListingTaken):
        end_listing(db, run.run_id, cursor="file:///p/a")

    assert find_runs(db, run.run_id)[0].listed == 2


def test_unfinished_run_is_gone_on_with(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a"))

    again = begin(db)

    assert (again.run_id, again.cursor, again.is_listed, again.resumed) == (run.run_id, "file:///p/a", False, True)


def test_failed_run_is_gone_on_with_where_it_stood(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a"))
    end_listing(db, run.run_id, cursor="file:///p/a")
    fail_run(db, run.run_id, "the model is not there")

    again = begin(db)

    assert (again.run_id, again.is_listed) == (run.run_id, True)
    assert find_runs(db, run.run_id)[0].status is RunStatus.RUNNING


def test_finished_run_is_not_gone_on_with(db: Database) -> None:
    run = begin(db)
    end_listing(db, run.run_id, cursor=None)
    close_runs(db)

    assert begin(db).run_id != run.run_id


def test_other_model_version_has_a_run_of_its_own(db: Database) -> None:
    assert begin(db).run_id != begin(db, version=2, content_hash="b" * 64).run_id


def test_version_with_other_contents_is_refused(db: Database) -> None:
    begin(db)

    with pytest.raises(ModelError, match="the database knows m:1 with contents aaaaaaaaaaaa"):
        begin(db, content_hash="b" * 64)


def test_known_images_come_in_order_with_their_answers(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("b", "a", "Z", "c"))
    other = begin(db, source="file:///q")
    record_chunk(
        db,
        other.run_id,
        cursor=None,
        chunk=Chunk(cursor="file:///q/1", batches=[[ListedImage(uri="file:///q/1", fingerprint="1-1")]], skipped=0),
    )
    assert [image.answered for image in known(db, run)] == [False] * 4

    classify(db)

    assert [image.uri[-1] for image in known(db, run)] == ["Z", "a", "b", "c"]
    assert all(image.answered and image.fingerprint == "1-1" for image in known(db, run))
    assert [image.uri[-1] for image in known(db, run, after="file:///p/a")] == ["b", "c"]


def test_answer_of_another_version_does_not_count(db: Database) -> None:
    record_chunk(db, begin(db).run_id, cursor=None, chunk=chunk("a"))
    classify(db)

    assert [image.answered for image in known(db, begin(db, version=2, content_hash="b" * 64))] == [False]


def fail(db: Database, batch_id: int) -> None:
    held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
    assert held is not None
    failures = [
        Failure(
            image_id=image.image_id,
            fingerprint=image.fingerprint,
            reason=FailureReason.NOT_AN_IMAGE,
            message="no image",
        )
        for image in held.images
    ]
    ledger.finish(db, held, [], failures)


def test_image_that_failed_is_told_from_one_that_another_version_answered(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("answered"))
    record_chunk(db, run.run_id, cursor="file:///p/answered", chunk=chunk("failed"))
    record_chunk(db, run.run_id, cursor="file:///p/failed", chunk=chunk("never looked at"))
    classify(db)
    fail(db, 2)

    images = known(db, begin(db, version=2, content_hash="b" * 64))

    assert [(image.answered, image.failed) for image in images] == [(False, False), (False, True), (False, False)]


def test_chunk_counts_what_is_new_and_changed(db: Database) -> None:
    run = begin(db)

    record_chunk(db, run.run_id, cursor=None, chunk=replace(chunk("a", "b", "c"), new=1, changed=2))

    (progress,) = find_runs(db, run.run_id)
    assert (progress.new, progress.changed) == (1, 2)


def test_images_that_the_last_run_did_not_reach_are_left_over(db: Database) -> None:
    first = begin(db)
    record_chunk(db, first.run_id, cursor=None, chunk=chunk("answered"))
    record_chunk(db, first.run_id, cursor="file:///p/answered", chunk=chunk("cancelled"))
    classify(db)
    cancel_run(db, first.run_id)
    assert left_over(db) == []  # Somebody cancelled it.

    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET out_of_time = true"))
    assert left_over(db) == ["cancelled"]
    assert left_over(db, version=2) == []
    cancel_run(db, begin(db).run_id)
    assert left_over(db) == ["cancelled"]

    of_failed = RunRequest(source="file:///p", model="m", model_version=1, content_hash="a" * 64, retry_of=1)
    complete(db, open_run(db, of_failed, holder="test/1"))
    assert left_over(db) == ["cancelled"]
    complete(db, begin(db))
    assert left_over(db) == []


def complete(db: Database, run: OpenRun) -> None:
    end_listing(db, run.run_id, cursor=None)
    close_runs(db)


def left_over(db: Database, version: int = 1) -> list[str]:
    out_of_time = find_out_of_time(db, "file:///p", model_version_id=version)
    images = find_known(
        db, model_version_id=1, first="file:///p/", end="file:///p0", after=None, out_of_time=out_of_time
    )
    return [image.uri.rpartition("/")[2] for image in images if image.left_over]


def test_answered_fingerprints_are_found_with_the_bytes_that_they_stand_for(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a", "b"))
    assert find_answered(db, run.model_version_id, ["1-1"]) == {}

    classify(db)

    assert find_answered(db, run.model_version_id, ["1-1", "2-2"]) == {"1-1": {b"1" * 32}}
    assert find_answered(db, run.model_version_id + 1, ["1-1"]) == {}


def test_known_images_of_another_order_than_their_keys_come_alone(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a", "b%20c", "d%C3%A9", "e%5B", "f%25", "g%20h%C3%B6"))

    disordered = find_known(
        db, model_version_id=run.model_version_id, first="file:///p/", end="file:///p0", after=None, disordered=True
    )

    assert [image.uri.rpartition("/")[2] for image in disordered] == ["d%C3%A9", "e%5B", "g%20h%C3%B6"]


def test_image_that_came_back_is_no_longer_gone(db: Database) -> None:
    run = begin(db)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk("a", "b"))
    (first, _) = known(db, run)
    record_chunk(db, run.run_id, cursor="file:///p/b", chunk=chunk("c", gone=(first.image_id,)))
    assert [image.gone for image in known(db, run)] == [True, False, False]

    record_chunk(
        db,
        run.run_id,
        cursor="file:///p/c",
        chunk=Chunk(cursor="file:///p/d", batches=[], skipped=1, reappeared=[first.image_id]),
    )

    assert [image.gone for image in known(db, run)] == [False, False, False]
