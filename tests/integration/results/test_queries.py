"""What the commands ask: proofs that find every gap, labels, counts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from base.errors import FailureReason, TransientError
from results import ledger
from results.ledger import Answer, Failure
from results.queries import (
    LABEL_COLUMNS,
    LabelFilter,
    active_models,
    count_failures,
    count_labels,
    find_runs,
    known_labels,
    labels_statement,
    list_labels,
    verify_run,
)
from results.runs import close_runs
from results.schema import upgrade
from results.session import Database, parse_database_url
from tests.integration.results.test_ledger import answers, claim, record
from tests.many_answers import fill_answers


def execute(db: Database, statement: str) -> None:
    db.write(lambda connection: connection.execute(sa.text(statement)))


def gaps(db: Database, run_id: int, *, most_gaps: int = 100) -> list[tuple[str, str | None]]:
    return [(gap.what, gap.image_uri) for gap in verify_run(db, run_id, most_gaps=most_gaps).gaps]


@pytest.fixture
def run_id(db: Database) -> int:
    """A finished run: three images are classified, the fourth failed."""
    number = record(db)
    held = claim(db)
    failure = Failure(
        image_id=held.images[3].image_id, fingerprint="10-1", reason=FailureReason.TRUNCATED, message="ends early"
    )
    ledger.finish(db, held, answers(held)[:3], [failure])
    close_runs(db)
    return number


def test_finished_run_is_proved(db: Database, run_id: int) -> None:
    proof = verify_run(db, run_id)

    assert (proof.listed, proof.classified, proof.failed, proof.skipped, proof.cancelled) == (4, 3, 1, 0, 0)
    assert proof.gaps == ()


_INCOMPLETE = "classified, but its predictions are not complete"


@pytest.mark.parametrize(
    ("tampering", "expected"),
    [
        ("UPDATE runs SET listed_at = NULL", ("the listing is not complete", None)),
        ("UPDATE runs SET listed = 5", ("5 images listed, 4 with an end", None)),
        ("UPDATE runs SET skipped = 1", ("4 images listed, 5 with an end", None)),
        ("DELETE FROM items WHERE image_id = 1", ("4 images listed, 3 with an end", None)),
        ("DELETE FROM items WHERE image_id = 1", ("batches hold 4 images, there are 3", None)),
        ("UPDATE items SET status = 'pending' WHERE image_id = 1", ("no end", "file:///photos/000.jpg")),
        (
            "UPDATE items SET status = 'cancelled' WHERE image_id = 1",
            ("batches counted 3 images classified, there are 2", None),
        ),
        ("UPDATE batches SET classified = 2", ("batches counted 2 images classified, there are 3", None)),
        ("UPDATE batches SET failed = 0", ("batches counted 0 images failed, there are 1", None)),
        ("UPDATE batches SET cancelled = 1", ("batches counted 1 images cancelled, there are 0", None)),
        ("DELETE FROM predictions WHERE image_id = 2", (_INCOMPLETE, "file:///photos/001.jpg")),
        ("DELETE FROM predictions WHERE image_id = 2 AND rank = 1", (_INCOMPLETE, "file:///photos/001.jpg")),
        ("UPDATE predictions SET rank = 3 WHERE image_id = 2 AND rank = 2", (_INCOMPLETE, "file:///photos/001.jpg")),
        (
            "UPDATE predictions SET confidence = 0.9 WHERE image_id = 2 AND rank = 2",
            (_INCOMPLETE, "file:///photos/001.jpg"),
        ),
        ("UPDATE predictions SET fingerprint = 'other' WHERE image_id = 2", (_INCOMPLETE, "file:///photos/001.jpg")),
        ("UPDATE items SET fingerprint = 'other' WHERE image_id = 3", (_INCOMPLETE, "file:///photos/002.jpg")),
    ],
)
def test_every_kind_of_gap_is_found(
    db: Database, run_id: int, tampering: str, expected: tuple[str, str | None]
) -> None:
    execute(db, tampering)

    assert expected in gaps(db, run_id)


def test_predictions_of_another_version_prove_nothing(db: Database, run_id: int) -> None:
    execute(
        db, f"INSERT INTO model_versions (name, version, content_hash, active) VALUES ('m', 2, '{'b' * 64}', false)"
    )
    execute(db, "UPDATE predictions SET model_version_id = 2 WHERE image_id = 1")

    assert gaps(db, run_id) == [(_INCOMPLETE, "file:///photos/000.jpg")]


def test_gaps_beyond_the_limit_are_counted(db: Database, run_id: int) -> None:
    execute(db, "DELETE FROM predictions")

    assert gaps(db, run_id, most_gaps=2) == [
        (_INCOMPLETE, "file:///photos/000.jpg"),
        (_INCOMPLETE, "file:///photos/001.jpg"),
        (f"{_INCOMPLETE}: 1 more images", None),
    ]


def test_gap_of_one_run_is_not_that_of_another(db: Database, run_id: int) -> None:
    other = record(db, images=1, source="file:///other")

    assert gaps(db, run_id) == []
    assert ("no end", "file:///other/000.jpg") in gaps(db, other)


def test_failures_are_counted_by_reason(db: Database, run_id: int) -> None:
    assert count_failures(db, run_id) == {"truncated": 1}
    assert count_failures(db, run_id + 1) == {}


def test_latest_runs_come_first(db: Database) -> None:
    first, second = record(db, source="file:///a"), record(db, source="file:///b")

    assert [run.run_id for run in find_runs(db)] == [second]
    assert [run.run_id for run in find_runs(db, first)] == [first]
    assert [run.run_id for run in find_runs(db)] == [second]
    assert find_runs(db, 99) == []


@pytest.fixture
def labelled(db: Database) -> Database:
    """Cats in /photos, a dog in /photos-old and in /photos/sub, the latter unsure."""
    for source, label, confidence in [
        ("file:///photos", "cat", 0.75),
        ("file:///photos-old", "dog", 0.9),
        ("file:///photos/sub", "dog", 0.25),
    ]:
        record(db, images=2, source=source)
        ((_, batch_id),) = ledger.take_due(db, room=1, queued=0, resend_seconds=30)
        held = claim(db, batch_id)
        found = [
            Answer(
                image_id=image.image_id,
                fingerprint=image.fingerprint,
                content_hash=bytes([image.image_id]) * 32,
                labels=[(label, confidence)],
                needs_review=confidence < 0.5,
            )
            for image in held.images
        ]
        ledger.finish(db, held, found, [])
    return db


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (LabelFilter(), 6),
        (LabelFilter(labels=("dog",)), 4),
        (LabelFilter(labels=("Dog",)), 0),
        (LabelFilter(min_confidence=0.75), 4),  # Itself included.
        (LabelFilter(labels=("dog",), min_confidence=0.5), 2),
        (LabelFilter(source="file:///photos"), 4),  # And not its namesake.
        (LabelFilter(source="file:///photos/"), 4),
        (LabelFilter(source="file:///photos/sub"), 2),
        (LabelFilter(source="file:///photos/000.jpg"), 1),
        (LabelFilter(source="file:///"), 6),
        (LabelFilter(source="file:///phot"), 0),
        (LabelFilter(labels=("dog", "cat")), 6),  # Either.
        (LabelFilter(max_confidence=0.75), 4),
        (LabelFilter(min_confidence=0.5, max_confidence=0.8), 2),
        (LabelFilter(source="file:///photos", labels=("dog",), reviewed=False), 2),
        (LabelFilter(reviewed=True), 0),
        (LabelFilter(needs_review=False), 4),
        (LabelFilter(needs_review=True), 2),
        (LabelFilter(source="file:///photos-old", needs_review=True), 0),
        (LabelFilter(model="m"), 6),
        (LabelFilter(model="m", model_version=1), 6),
        (LabelFilter(model="m", model_version=2), 0),
        (LabelFilter(model="other"), 0),
    ],
)
def test_labels_are_filtered(labelled: Database, wanted: LabelFilter, expected: int) -> None:
    assert len(list(list_labels(labelled, wanted))) == expected


def test_labels_come_by_image_with_every_column(labelled: Database) -> None:
    rows = [dict(zip(LABEL_COLUMNS, row, strict=True)) for row in list_labels(labelled, LabelFilter(), limit=3)]

    assert [row["image_uri"] for row in rows] == sorted(row["image_uri"] for row in rows)
    assert len(rows) == 3
    assert rows[0]["needs_review"] is False
    assert rows[0]["classified_at"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (LabelFilter(reviewed=True), ["file:///a.jpg"]),
        (LabelFilter(reviewed=False), ["file:///b.jpg"]),
        (LabelFilter(needs_review=True), ["file:///b.jpg"]),
        (LabelFilter(needs_review=False), ["file:///a.jpg"]),
    ],
)
def test_answers_are_filtered_by_their_review(db: Database, wanted: LabelFilter, expected: list[str]) -> None:
    row = "SELECT '{}' AS image_uri, '' AS label, 1.0 AS confidence, 'm' AS model, 1 AS model_version, 1 AS run_id, "
    row += "'{}' AS answered_by, {} AS needs_review, CURRENT_TIMESTAMP AS classified_at"
    rows = row.format("file:///a.jpg", "human", "false") + " UNION ALL " + row.format("file:///b.jpg", "model", "true")
    # Other views read it.
    execute(db, "DROP VIEW current_products")
    execute(db, "DROP VIEW current_labels")
    execute(db, f"CREATE VIEW current_labels AS {rows}")

    assert [row[0] for row in list_labels(db, wanted)] == expected


@pytest.mark.parametrize(
    "wanted",
    [LabelFilter(), LabelFilter(source="file:///photos"), LabelFilter(min_confidence=0.5), LabelFilter(model="m")],
)
def test_labels_come_in_the_order_of_an_index(tmp_path: Path, wanted: LabelFilter) -> None:
    """Sorted, a million rows would be read before the first is given. PostgreSQL goes by what the tables hold."""
    db = Database(sa.URL.create("sqlite", database=str(tmp_path / "tagmill.db")))
    upgrade(db)
    asked = str(labels_statement(db, wanted).compile(db.engine, compile_kwargs={"literal_binds": True}))

    plan = [row.detail for row in db.read(lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}"))]

    assert any("images USING INDEX uq_images_uri" in step for step in plan)
    assert "USE TEMP B-TREE FOR ORDER BY" not in plan


_MORE_THAN_FETCHED = 5000


def test_labels_are_of_one_moment_while_others_write(db: Database) -> None:
    fill_answers(db.url, _MORE_THAN_FETCHED)
    rows = list_labels(db, LabelFilter())
    next(rows)

    execute(db, "UPDATE images SET gone_at = 1")

    assert sum(1 for _ in rows) == _MORE_THAN_FETCHED - 1
    assert list(list_labels(db, LabelFilter())) == []


@pytest.fixture
def postgres_db(postgres_database: str) -> Iterator[Database]:
    """A PostgreSQL database with more answers than are fetched at a time; it has no patience with its clients."""
    db = Database(parse_database_url(postgres_database, "TAGMILL_DATABASE_URL"))
    upgrade(db)
    fill_answers(db.url, _MORE_THAN_FETCHED)
    execute(db, f"ALTER DATABASE {db.url.database} SET idle_in_transaction_session_timeout = 100")
    db.close()
    yield db
    db.close()


def test_labels_wait_for_a_slow_reader(postgres_db: Database) -> None:
    rows = list_labels(postgres_db, LabelFilter())
    next(rows)
    time.sleep(0.3)

    assert sum(1 for _ in rows) == _MORE_THAN_FETCHED - 1


def test_labels_that_are_cut_off_say_so(postgres_db: Database) -> None:
    rows = list_labels(postgres_db, LabelFilter())
    next(rows)
    execute(postgres_db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH%'")

    with pytest.raises(TransientError, match=r"stopped answering: .*Try again\."):
        list(rows)


def test_labels_and_models_that_are_answers_are_known(labelled: Database) -> None:
    execute(labelled, "UPDATE predictions SET label = 'no answer' WHERE image_id = 1")
    execute(labelled, "UPDATE predictions SET rank = 2 WHERE image_id = 1")

    assert known_labels(labelled) == ["cat", "dog"]
    assert active_models(labelled) == {"m": 1}


def test_empty_database_knows_no_labels(db: Database) -> None:
    assert (known_labels(db), active_models(db)) == ([], {})


def test_common_labels_of_a_source_are_counted(labelled: Database) -> None:
    assert count_labels(labelled, source="file:///photos", model="m") == [("cat", 2), ("dog", 2)]
    assert count_labels(labelled, source="file:///photos", model="m", limit=1) == [("cat", 2)]
    assert count_labels(labelled, source="file:///photos", model="other") == []
