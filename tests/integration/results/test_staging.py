"""Staged runs on both databases: nothing of them is seen until they are published, all at once."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier

import pytest
import sqlalchemy as sa

from base.errors import FailureReason, SetupError
from base.fingerprints import UNKNOWN
from producer.batching import cut
from producer.changes import compare
from producer.sources import Found
from results import ledger
from results.guard import Guard
from results.ledger import Answer, Claim, Failure
from results.listing import end_listing, find_known, record_chunk
from results.queries import RunProgress, count_failures, find_runs, verify_run
from results.runs import RunRequest, cancel_run, close_runs, open_run
from results.session import Database
from results.staging import publish_run, settle_runs, was_published
from results.tables import RunStatus, images, manifest_rows, predictions, runs, staged_images, staged_predictions
from tests.clock import Clock

PLAIN = RunRequest(source="file:///p", model="m", model_version=1, content_hash="a" * 64)
STAGED = replace(PLAIN, guard=Guard())
SECOND_VERSION = {"model_version": 2, "content_hash": "b" * 64}

Look = str | FailureReason


@dataclass(frozen=True)
class File:
    """An image of a source, and what comes of looking at it."""

    content: int = 1  #: another number, other bytes; 0: nobody tells which
    look: Look = "cat"  #: its label, or why it has none
    confidence: float = 0.9
    labels: int = 2  #: kept


def folder(number: int, file: File = File()) -> dict[str, File]:
    """So many such images."""
    return {f"{index:03}.jpg": file for index in range(number)}


def open_night(db: Database, files: Mapping[str, File], request: RunRequest = STAGED) -> int:
    """A run that has listed all of them in batches of four, and classified none."""
    run = open_run(db, request, holder="test/1")
    first, end = f"{PLAIN.source}/", f"{PLAIN.source}0"
    known = find_known(db, model_version_id=run.model_version_id, first=first, end=end, after=None)
    listing = [
        Found(uri=first + name, fingerprint=f"10-{file.content}" if file.content else UNKNOWN, size_bytes=10)
        for name, file in sorted(files.items())
    ]
    cursor = None
    for chunk in cut(compare(listing, known, lambda uri: True, everything=request.everything), 4):
        record_chunk(db, run.run_id, cursor=cursor, chunk=chunk)
        cursor = chunk.cursor
    end_listing(db, run.run_id, cursor=cursor)
    return run.run_id


def classify(db: Database, files: Mapping[str, File], batches: int = 1000) -> None:
    """Look at what waits, so many batches of it."""
    due = ledger.take_due(db, room=batches, queued=0, resend_seconds=30)
    for _, batch_id in due:
        held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
        assert held is not None
        finish(db, held, files)


def finish(db: Database, held: Claim, files: Mapping[str, File]) -> None:
    answers: list[Answer] = []
    failures: list[Failure] = []
    for image in held.images:
        file = files[image.uri.rpartition("/")[2]]
        end = {"image_id": image.image_id, "fingerprint": image.fingerprint}
        if isinstance(file.look, FailureReason):
            failures.append(Failure(**end, reason=file.look, message="as the test says"))
            continue
        labels = [(file.look, file.confidence), ("other", 1 - file.confidence), ("third", 0.0)][: file.labels]
        answers.append(Answer(**end, content_hash=bytes([image.image_id, file.content]) * 16, labels=labels))
    ledger.finish(db, held, answers, failures)


def night(db: Database, files: Mapping[str, File], request: RunRequest = STAGED) -> RunProgress:
    """A whole run."""
    run_id = open_night(db, files, request)
    classify(db, files)
    settle_runs(db)
    return find_runs(db, run_id)[0]


def dump(db: Database) -> list[str]:
    """All that people see of answers, to the byte."""

    def read(connection: sa.Connection) -> list[str]:
        return [
            repr(tuple(row))
            for view in ("current_labels", "predictions_top_k")
            for row in connection.execute(sa.text(f"SELECT * FROM {view} ORDER BY 1, 2, 3, 4, 5, 6"))
        ]

    return db.read(read)


def labels(db: Database) -> dict[str, str]:
    """What `current_labels` shows, by the names of files."""
    statement = sa.text("SELECT image_uri, label FROM current_labels")
    return {uri.rpartition("/")[2]: label for uri, label in db.read(lambda c: c.execute(statement).all())}


def count(db: Database, table: sa.Table) -> int:
    return db.read(lambda connection: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_answers_are_seen_once_all_of_them_are_published(db: Database) -> None:
    files = folder(6)
    run_id = open_night(db, files)
    classify(db, files, batches=1)
    close_runs(db)
    assert dump(db) == []
    assert count(db, staged_predictions) == 8

    classify(db, files)
    settle_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.publication, run.classified, run.held_back) == ("published", 6, None)
    assert labels(db) == dict.fromkeys(files, "cat")
    assert count(db, staged_predictions) == 0


def everything_at_once(before: dict[str, File]) -> dict[str, File]:
    """New, changed, unchanged, gone, back and broken images."""
    after = dict(before)
    del after["000.jpg"]
    after["001.jpg"] = File(content=2, look="dog", labels=1)
    after["002.jpg"] = File(content=2, look=FailureReason.TRUNCATED)
    return after | {"new.jpg": File(look="dog"), "back.jpg": File()}


@pytest.fixture
def published(db: Database) -> dict[str, File]:
    """20 published images, and one that is gone."""
    files = folder(20)
    night(db, files | {"back.jpg": File()}, PLAIN)
    night(db, files, PLAIN)
    return files


def test_publishing_gives_what_a_plain_run_gives(db: Database, published: dict[str, File]) -> None:
    after = everything_at_once(published)

    assert night(db, after).publication == "published"

    expected = {name: str(file.look) for name, file in after.items() if not isinstance(file.look, FailureReason)}
    assert labels(db) == expected
    assert night(db, after, PLAIN).skipped == len(after) - 1  # One failed.
    assert labels(db) == expected


def test_unpublished_run_changes_nothing_that_is_seen(db: Database, published: dict[str, File]) -> None:
    before, after = dump(db), everything_at_once(published)

    run_id = open_night(db, after)
    assert dump(db) == before
    classify(db, after)
    close_runs(db)

    assert find_runs(db, run_id)[0].publication == "staged"
    assert dump(db) == before


def black(files: Mapping[str, File]) -> dict[str, File]:
    return {name: replace(file, content=file.content + 1, look="hole", confidence=0.2) for name, file in files.items()}


def test_black_images_are_held_back(db: Database, published: dict[str, File]) -> None:
    before = dump(db)

    run = night(db, black(published))

    assert (run.publication, run.status, run.classified) == ("held back", RunStatus.COMPLETED, 20)
    assert run.held_back == (
        "labels shift by 100 % of 20 images, and 20 % may ('cat': 20 before, 0 after; 'hole': 0 before, 20 after); "
        "mean confidence falls from 0.90 to 0.20, and 0.1 may be lost"
    )
    assert dump(db) == before


def test_black_images_of_a_manifest_are_held_back(db: Database) -> None:
    files, request = folder(10), replace(STAGED, source="file:///catalogue.csv")
    night(db, files, request)
    named = sa.select(sa.literal(request.source), images.c.id, sa.literal(""), sa.literal({}, sa.JSON()))
    row = manifest_rows.insert().from_select(["source", "image_id", "key", "columns"], named)
    db.write(lambda connection: connection.execute(row))

    run = night(db, folder(10, File(content=2, look="black")), request)

    assert "labels shift" in (run.held_back or "")
    assert labels(db) == dict.fromkeys(files, "cat")


def test_host_that_was_down_takes_no_answers_away(db: Database, published: dict[str, File]) -> None:
    before = dump(db)

    run = night(db, published | {"000.jpg": File(content=0, look=FailureReason.STORAGE_ERROR)})

    assert (run.publication, run.failed) == ("published", 1)
    assert dump(db) == before


def test_broken_images_are_held_back(db: Database, published: dict[str, File]) -> None:
    """Without a failure budget, too: they would lose their labels."""
    before = dump(db)

    run = night(db, dict.fromkeys(published, File(content=2, look=FailureReason.TRUNCATED)))

    assert run.held_back == "labels shift by 100 % of 20 images, and 20 % may ('cat': 20 before, 0 after)"
    assert dump(db) == before


@pytest.mark.parametrize(("left", "publication"), [(16, "published"), (15, "held back"), (0, "held back")])
def test_listing_that_shrinks_too_much_is_held_back(
    db: Database, published: dict[str, File], left: int, publication: str
) -> None:
    run = night(db, dict(list(published.items())[:left]))

    assert run.publication == publication
    assert len(labels(db)) == (left if publication == "published" else 20)
    assert run.held_back is None or f"{left} images listed, and 20 by run 2" in run.held_back


@pytest.mark.parametrize(("max_failures", "publication"), [("1", "held back"), ("2", "published"), (None, "published")])
def test_failures_beyond_the_budget_hold_a_run_back(
    db: Database, published: dict[str, File], max_failures: str | None, publication: str
) -> None:
    broken = {f"broken{index}.jpg": File(look=FailureReason.TRUNCATED) for index in range(2)}

    run = night(db, published | broken, replace(PLAIN, guard=Guard(max_failures=max_failures)))

    assert run.publication == publication
    assert run.held_back == ("2 of 22 images failed, and 1 may" if publication == "held back" else None)


def test_catalogue_that_grows_is_published(db: Database, published: dict[str, File]) -> None:
    more = {f"more{index}.jpg": File(look="dog", confidence=0.85) for index in range(40)}

    assert night(db, published | more).publication == "published"


def test_held_back_images_are_looked_at_again(db: Database, published: dict[str, File]) -> None:
    night(db, black(published))

    run = night(db, published | {"new.jpg": File()})

    assert (run.publication, run.classified, run.skipped) == ("published", 1, 20)


def test_publish_overrides_the_guard(db: Database, published: dict[str, File]) -> None:
    run = night(db, black(published))

    publish_run(db, run.run_id)

    (after,) = find_runs(db, run.run_id)
    assert (after.publication, after.held_back) == ("published", run.held_back)
    assert labels(db) == dict.fromkeys(published, "hole")
    assert night(db, black(published)).skipped == 20


def test_publishing_drops_what_older_runs_were_held_back_with(db: Database, published: dict[str, File]) -> None:
    first, second = night(db, black(published)), night(db, black(black(published)))

    publish_run(db, second.run_id)

    (dropped,) = find_runs(db, first.run_id)
    assert dropped.publication == "dropped"
    assert (count(db, staged_predictions), verify_run(db, first.run_id).gaps) == (0, ())
    with pytest.raises(SetupError, match="run 3 is superseded: a later run of the same source and model"):
        publish_run(db, first.run_id)


def test_run_of_another_model_does_not_supersede(db: Database, published: dict[str, File]) -> None:
    """But its look at the images was the later one: they are as it saw them."""
    held_back = night(db, black(published))
    newest = black(black(published))
    night(db, newest, replace(PLAIN, model="other"))

    publish_run(db, held_back.run_id)

    seen = sa.select(images.c.fingerprint).where(images.c.gone_at.is_(None)).distinct()
    assert db.read(lambda connection: connection.scalars(seen).all()) == ["10-3"]


def make_plain(db: Database) -> int:
    return night(db, folder(3), PLAIN).run_id


def make_open(db: Database) -> int:
    return open_night(db, folder(3))


def make_published(db: Database) -> int:
    return night(db, folder(3)).run_id


def make_cancelled(db: Database) -> int:
    run_id = open_night(db, folder(3))
    cancel_run(db, run_id)
    return run_id


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_plain, "run 1 is not staged: its answers were published as it went"),
        (make_open, "run 1 is running, and can be published once it has ended"),
        (make_published, "run 1 is published already; 'tagmill status 1'"),
        (make_cancelled, "run 1 was cancelled, and its answers are dropped"),
    ],
)
def test_run_that_cannot_be_published_is_refused(db: Database, make: Callable[[Database], int], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        publish_run(db, make(db))


def test_cancelled_run_is_not_published(db: Database, published: dict[str, File]) -> None:
    before, after = dump(db), everything_at_once(published)
    run_id = open_night(db, after)
    classify(db, after, batches=1)

    cancel_run(db, run_id)
    settle_runs(db)

    assert find_runs(db, run_id)[0].publication == "dropped"
    assert dump(db) == before
    assert [count(db, table) for table in (staged_predictions, staged_images)] == [0, 0]
    assert verify_run(db, run_id).gaps == ()


def test_two_judges_publish_once(db: Database) -> None:
    together = Barrier(2)

    def judge(_: int) -> None:
        together.wait()
        settle_runs(db)

    with ThreadPoolExecutor(2) as pool:
        for content in range(1, 6):
            files = folder(12, File(content=content))
            run_id = open_night(db, files)
            classify(db, files)
            list(pool.map(judge, range(2)))
            assert find_runs(db, run_id)[0].publication == "published"
            assert len(labels(db)) == 12


def test_verify_proves_a_staged_run_before_and_after(db: Database) -> None:
    files = folder(6)
    run_id = open_night(db, files)
    classify(db, files)
    close_runs(db)
    assert verify_run(db, run_id).gaps == ()

    settle_runs(db)
    assert verify_run(db, run_id).gaps == ()


@pytest.mark.parametrize("table", [staged_predictions, predictions])
def test_verify_misses_a_staged_answer(db: Database, table: sa.Table) -> None:
    files = folder(6)
    run_id = open_night(db, files)
    classify(db, files)
    (close_runs if table is staged_predictions else settle_runs)(db)
    db.write(lambda connection: connection.execute(table.delete().where(table.c.image_id == 2, table.c.rank == 1)))

    assert [gap.image_uri for gap in verify_run(db, run_id).gaps] == ["file:///p/001.jpg"]


def test_twin_within_a_staged_run_is_found(db: Database) -> None:
    files = folder(8)
    open_night(db, files)
    classify(db, files, batches=1)
    held = ledger.claim(db, 2, owner="w/1", lease_seconds=45)
    assert held is not None

    known = bytes([1, 1]) * 16
    assert ledger.find_twins(db, held, {known, b"0" * 32}) == {known: [("cat", 0.9), ("other", pytest.approx(0.1))]}


def test_staged_run_of_everything_knows_only_its_own_twins(db: Database) -> None:
    night(db, folder(4), PLAIN)
    open_night(db, folder(4), replace(STAGED, everything=True))
    held = ledger.claim(db, 2, owner="w/1", lease_seconds=45)
    assert held is not None

    assert ledger.find_twins(db, held, {bytes([1, 1]) * 16}) == {}
    assert ledger.find_twins(db, replace(held, everything=False), {bytes([1, 1]) * 16}) != {}


def test_staged_run_of_everything_replaces_the_answers(db: Database, published: dict[str, File]) -> None:
    before = dump(db)
    again = dict.fromkeys(published, File(look="cat", confidence=0.95, labels=1))
    run_id = open_night(db, again, replace(STAGED, everything=True))
    classify(db, again)
    assert dump(db) == before

    settle_runs(db)

    rows = sa.text(
        "SELECT max(rank), min(confidence), min(run_id), count(*) FROM predictions_top_k "
        "WHERE image_uri NOT LIKE '%back%'"
    )
    assert db.read(lambda connection: tuple(connection.execute(rows).one())) == (1, 0.95, run_id, 20)


def test_failed_image_that_is_answered_now_is_not_seen_early(db: Database, published: dict[str, File]) -> None:
    """Its fingerprint is the same as before, so that nothing but the answer is new."""
    night(db, published | {"new.jpg": File(look=FailureReason.STORAGE_ERROR)}, PLAIN)
    before, after = dump(db), published | {"new.jpg": File()}
    run_id = open_night(db, after)
    classify(db, after)
    assert dump(db) == before

    settle_runs(db)

    assert labels(db)["new.jpg"] == "cat"
    assert count_failures(db, run_id) == {}


def test_image_given_up_in_a_staged_run_keeps_its_answer(
    db: Database, published: dict[str, File], clock: Clock
) -> None:
    """Until the run is published: nobody finishes its batch, and its last claim ends it."""
    before = dump(db)
    run_id = open_night(db, published | {"000.jpg": File(content=2)})
    (batch,) = [batch for run, batch in ledger.take_due(db, room=9, queued=0, resend_seconds=30) if run == run_id]
    while ledger.claim(db, batch, owner="w/1", lease_seconds=45) is not None:
        clock.pass_by(60)
    close_runs(db)
    assert dump(db) == before

    settle_runs(db)

    assert "000.jpg" not in labels(db)


def test_new_model_version_is_staged_beside_the_active_one(db: Database, published: dict[str, File]) -> None:
    shown = dump(db)[:20]
    other = dict.fromkeys(published, File(look="dog", confidence=0.3))

    run = night(db, other, replace(STAGED, **SECOND_VERSION))

    assert run.publication == "published"  # What `current_labels` shows of the model is as it was.
    assert dump(db)[:20] == shown
    assert len(dump(db)) == 20 + 2 * 2 * 20 + 2  # Two versions with two labels each; and of the one that is gone.


def test_source_is_known_as_published(db: Database) -> None:
    files = folder(3)
    open_night(db, files)
    assert not was_published(db, PLAIN.source)

    classify(db, files)
    settle_runs(db)

    assert was_published(db, PLAIN.source)
    assert not was_published(db, PLAIN.source, exclude=("thumbs",))
    assert not was_published(db, "file:///q")


def test_run_out_of_time_is_published_with_what_it_has(db: Database, published: dict[str, File], clock: Clock) -> None:
    after = published | {f"new{index}.jpg": File() for index in range(8)}
    run_id = open_night(db, after, replace(STAGED, deadline=clock.seconds + 60))
    classify(db, after, batches=1)
    clock.pass_by(60)

    settle_runs(db)

    (run,) = find_runs(db, run_id)
    assert (run.status, run.out_of_time, run.publication) == (RunStatus.CANCELLED, True, "published")
    assert (run.classified, run.cancelled, len(labels(db))) == (4, 4, 24)
    assert night(db, after).classified == 4


def test_listing_that_was_cut_off_is_not_taken_for_shrunk(
    db: Database, published: dict[str, File], clock: Clock
) -> None:
    run = open_run(db, replace(STAGED, deadline=clock.seconds + 60), holder="test/1")
    clock.pass_by(60)

    settle_runs(db)

    assert find_runs(db, run.run_id)[0].publication == "published"
    assert len(labels(db)) == 20


@pytest.mark.parametrize("database_address", ["postgresql"], indirect=True)  # SQLite has no such limit.
def test_judge_may_take_minutes(db: Database) -> None:
    files = folder(3)
    run_id = open_night(db, files)
    classify(db, files)
    slow = sa.text("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON predictions FOR EACH STATEMENT EXECUTE FUNCTION slow()
    """)
    with db.engine.begin() as connection:
        connection.execute(slow)

    @sa.event.listens_for(db.engine, "begin")
    def _impatient(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '100ms'")

    settle_runs(db)

    assert find_runs(db, run_id)[0].publication == "published"


def test_reasons_are_logged(db: Database, published: dict[str, File], capsys: pytest.CaptureFixture[str]) -> None:
    night(db, {})

    assert "run_held_back" in "".join(capsys.readouterr())
    held_back = (
        sa.select(sa.literal_column("held_back")).select_from(sa.text("run_summary")).order_by(sa.text("run_id"))
    )
    assert db.read(lambda c: c.execute(held_back).scalars().all())[-1] == (
        "0 images listed, and 20 by run 2: 100 % are missing, and 20 % may be"
    )
    assert count(db, runs) == 3
