"""Which model version is active, and how the answers of two differ."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from base.errors import ModelError
from results import ledger, versions
from results.ledger import Answer
from results.listing import Chunk, ListedImage, end_listing, record_chunk
from results.queries import LabelFilter, active_models, find_runs, list_labels, verify_run
from results.runs import RunRequest, close_runs, open_run
from results.schema import upgrade
from results.session import Database, parse_database_url
from results.tables import images, model_versions, predictions
from results.versions import Coverage, Flip, activate, compare_versions, count_coverage
from tests.integration.results.test_ledger import claim, due

ONE, TWO = ("m", 1), ("m", 2)


def answer(
    db: Database,
    version: tuple[str, int],
    labels: Mapping[str, tuple[str, float]],
    *,
    fingerprint: str = "first",
    unsure: Collection[str] = (),
) -> int:
    """A finished run of /photos that gave each image one label; returns its number."""
    name, number = version
    request = RunRequest(source="file:///photos", model=name, model_version=number, content_hash=f"{number}" * 64)
    run = open_run(db, request, holder="test/1")
    uris = sorted(f"file:///photos/{file}" for file in labels)
    known = db.read(lambda connection: dict(list(connection.execute(sa.select(images.c.uri, images.c.id)))))
    listed = [ListedImage(uri=uri, fingerprint=fingerprint, image_id=known.get(uri)) for uri in uris]
    record_chunk(db, run.run_id, cursor=None, chunk=Chunk(cursor=uris[-1], batches=[listed], skipped=0))
    end_listing(db, run.run_id, cursor=uris[-1])
    (batch_id,) = due(db)
    held = claim(db, batch_id)
    answers = []
    for image in held.images:
        file = image.uri.removeprefix("file:///photos/")
        answers.append(
            Answer(
                image_id=image.image_id,
                fingerprint=image.fingerprint,
                content_hash=f"{fingerprint}{image.image_id}".encode().ljust(32),
                labels=[labels[file], ("something else", 0.0)],
                needs_review=file in unsure,
            )
        )
    ledger.finish(db, held, answers, [])
    close_runs(db)
    return run.run_id


def shown(db: Database) -> list[tuple[object, ...]]:
    """All of `current_labels`."""
    return [tuple(row) for row in list_labels(db, LabelFilter())]


def go_away(db: Database, file: str) -> None:
    gone = images.update().where(images.c.uri == f"file:///photos/{file}").values(gone_at=1.0)
    db.write(lambda connection: connection.execute(gone))


@pytest.fixture
def two(db: Database) -> Database:
    """Two versions that agree on a.jpg and on z/a.jpg; e.jpg has an answer of the first only, f.jpg of the second."""
    first = {"a.jpg": ("cat", 0.75), "b.jpg": ("cat", 0.75), "c.jpg": ("cat", 0.75), "d.jpg": ("dog", 0.25)}
    first |= {"e.jpg": ("cat", 1.0), "gone.jpg": ("cat", 1.0), "changed.jpg": ("cat", 1.0), "z/a.jpg": ("dog", 0.5)}
    answer(db, ONE, first, unsure={"d.jpg", "e.jpg", "gone.jpg"})
    second = {"a.jpg": ("cat", 0.5), "b.jpg": ("dog", 0.5), "c.jpg": ("dog", 0.5), "d.jpg": ("cat", 0.5)}
    second |= {"f.jpg": ("cat", 0.0), "gone.jpg": ("dog", 0.0), "z/a.jpg": ("dog", 1.0)}
    answer(db, TWO, second, unsure={"b.jpg", "c.jpg", "f.jpg"})
    answer(db, TWO, {"changed.jpg": ("dog", 0.0)}, fingerprint="second")
    go_away(db, "gone.jpg")
    return db


def test_first_version_stays_active_while_another_classifies(two: Database) -> None:
    assert active_models(two) == {"m": 1}
    assert {row[4] for row in shown(two)} == {1}


def test_activating_back_and_forth_gives_the_same_rows(two: Database) -> None:
    first = shown(two)

    assert activate(two, *TWO) == 1
    second = shown(two)
    assert activate(two, *ONE) == 2

    assert shown(two) == first
    assert [row[1] for row in first] == ["cat", "cat", "cat", "dog", "cat", "dog"]
    assert [row[1] for row in second] == ["cat", "dog", "dog", "dog", "cat", "cat", "dog"]  # With changed.jpg.
    assert {row[4] for row in second} == {2}
    activate(two, *TWO)
    assert shown(two) == second


def test_activating_the_active_version_changes_nothing(two: Database) -> None:
    before = shown(two)

    assert activate(two, *ONE) == 1

    assert shown(two) == before


def test_activating_leaves_other_models_alone(two: Database) -> None:
    answer(two, ("other", 1), {"a.jpg": ("vase", 0.5)})

    activate(two, *TWO)

    assert active_models(two) == {"m": 2, "other": 1}


def test_run_of_an_inactive_version_writes_its_own_rows(two: Database) -> None:
    activate(two, *TWO)
    before = shown(two)

    run_id = answer(two, ONE, {"f.jpg": ("cat", 0.5)})

    assert shown(two) == before
    assert find_runs(two, run_id)[0].model_version == 1
    assert verify_run(two, run_id).gaps == ()
    assert count_coverage(two, ONE, TWO).only_to == 1


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (("m", 3), "no run has used model 'm:3' in .*; known: m:1, m:2, other:1. "),
        (("nobody", 1), "no run has used model 'nobody:1' in .*; known: m:1, m:2, other:1. "),
    ],
)
def test_version_that_no_run_has_used_is_refused(two: Database, version: tuple[str, int], known: str) -> None:
    answer(two, ("other", 1), {"a.jpg": ("vase", 0.5)})
    name, number = version
    message = f"{known}Run 'tagmill run SOURCE --model {name}:{number}' first"

    with pytest.raises(ModelError, match=message):
        activate(two, *version)
    with pytest.raises(ModelError, match=message):
        compare_versions(two, ONE, version)
    with pytest.raises(ModelError, match=message):
        compare_versions(two, version, ONE)

    assert active_models(two) == {"m": 1, "other": 1}


def test_database_without_runs_knows_no_version(db: Database) -> None:
    with pytest.raises(ModelError, match=r"known: none\. Run 'tagmill run SOURCE --model m:1' first"):
        activate(db, *ONE)


def test_versions_activated_together_leave_one_active(db: Database) -> None:
    numbers = range(1, 4)
    for number in numbers:
        answer(db, ("m", number), {"a.jpg": ("cat", 0.5)})
    for _ in range(10):
        activate(db, "m", 1)
        together = Barrier(2)

        def compete(number: int, together: Barrier = together) -> int:
            together.wait()
            return activate(db, "m", number)

        with ThreadPoolExecutor(2) as pool:
            before = list(pool.map(compete, (2, 3)))

        assert active_models(db)["m"] in (2, 3)
        assert before in ([1, 2], [3, 1])  # One found what the other had left.


def test_activating_does_not_wait_for_a_worker(postgres_database: str) -> None:
    db = Database(parse_database_url(postgres_database, "TAGMILL_DATABASE_URL"))
    upgrade(db)
    answer(db, ONE, {"a.jpg": ("cat", 0.5)})
    answer(db, TWO, {"a.jpg": ("cat", 0.5)})
    row = {"image_id": 1, "fingerprint": "other", "rank": 1, "label": "cat", "confidence": 0.5}
    rows = [row | {"model_version_id": number, "run_id": 1, "classified_at": 0} for number in (1, 2)]

    with ThreadPoolExecutor(1) as pool, db.engine.begin() as connection:
        connection.execute(predictions.insert(), rows)  # Which refer to both versions.
        assert pool.submit(activate, db, *TWO).result(timeout=10) == 1

    db.close()


def test_coverage_counts_images_that_exist_as_they_are_now(two: Database) -> None:
    assert count_coverage(two, ONE, TWO) == Coverage(both=5, only_from=1, only_to=2)
    assert count_coverage(two, TWO, ONE) == Coverage(both=5, only_from=2, only_to=1)
    assert count_coverage(two, ONE, ONE) == Coverage(both=6, only_from=0, only_to=0)
    assert len(shown(two)) == 6


def test_difference_counts_flips_over_images_that_both_have_answered(two: Database) -> None:
    found = compare_versions(two, ONE, TWO)

    assert (found.compared, found.flipped, found.only_from, found.only_to, found.kinds) == (5, 3, 1, 2, 2)
    assert (found.mean_confidence_from, found.mean_confidence_to) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (found.needs_review_from, found.needs_review_to) == (1, 2)
    assert found.flips == (
        Flip(label_from="cat", label_to="dog", images=2, samples=("file:///photos/b.jpg", "file:///photos/c.jpg")),
        Flip(label_from="dog", label_to="cat", images=1, samples=("file:///photos/d.jpg",)),
    )


def test_mean_confidences_are_of_the_compared_images_alone(two: Database) -> None:
    go_away(two, "z/a.jpg")

    found = compare_versions(two, ONE, TWO)

    assert (found.mean_confidence_from, found.mean_confidence_to) == (pytest.approx(0.625), pytest.approx(0.5))


def test_difference_the_other_way_round_is_turned_round(two: Database) -> None:
    there, back = compare_versions(two, ONE, TWO), compare_versions(two, TWO, ONE)

    turned = [replace(flip, label_from=flip.label_to, label_to=flip.label_from) for flip in there.flips]
    assert list(back.flips) == turned
    assert (back.compared, back.only_from, back.only_to) == (there.compared, there.only_to, there.only_from)


def test_difference_does_not_depend_on_which_version_is_active(two: Database) -> None:
    before = compare_versions(two, ONE, TWO)

    activate(two, *TWO)

    assert compare_versions(two, ONE, TWO) == before


def test_changed_image_is_compared_once_both_have_answered_its_new_bytes(two: Database) -> None:
    answer(two, ONE, {"changed.jpg": ("fox", 1.0)}, fingerprint="second")

    found = compare_versions(two, ONE, TWO)

    assert (found.compared, found.flipped, found.only_to) == (6, 4, 1)
    assert found.flips[-1] == Flip(label_from="fox", label_to="dog", images=1, samples=("file:///photos/changed.jpg",))


@pytest.mark.parametrize(
    ("source", "compared", "flipped", "only"),
    [
        (None, 5, 3, (1, 2)),
        ("file:///photos", 5, 3, (1, 2)),
        ("file:///photos/z", 1, 0, (0, 0)),
        ("file:///photos/z/", 1, 0, (0, 0)),
        ("file:///photos/b.jpg", 1, 1, (0, 0)),
        ("file:///photos/f.jpg", 0, 0, (0, 1)),
        ("file:///photo", 0, 0, (0, 0)),
    ],
)
def test_difference_is_that_of_a_source(
    two: Database, source: str | None, compared: int, flipped: int, only: tuple[int, int]
) -> None:
    found = compare_versions(two, ONE, TWO, source=source)

    assert (found.compared, found.flipped, (found.only_from, found.only_to)) == (compared, flipped, only)
    assert sum(flip.images for flip in found.flips) == flipped
    assert (found.mean_confidence_from is None) == (compared == 0)


def test_only_the_most_frequent_flips_are_told_and_all_are_counted(two: Database) -> None:
    found = compare_versions(two, ONE, TWO, most_flips=1)

    assert [(flip.label_from, flip.label_to) for flip in found.flips] == [("cat", "dog")]
    assert (found.flipped, found.kinds) == (3, 2)


def test_few_samples_of_many_images_are_told(db: Database) -> None:
    files = [f"{number:03}.jpg" for number in range(10)]
    answer(db, ONE, dict.fromkeys(files, ("cat", 0.5)))
    answer(db, TWO, dict.fromkeys(files, ("dog", 0.5)))

    (flip,) = compare_versions(db, ONE, TWO).flips

    assert flip.images == 10
    assert flip.samples == tuple(f"file:///photos/{file}" for file in files[:3])


def test_models_of_different_names_are_compared(two: Database) -> None:
    answer(two, ("other", 1), {"a.jpg": ("vase", 0.5)})

    found = compare_versions(two, ONE, ("other", 1))

    assert (found.compared, found.only_from, found.only_to) == (1, 5, 0)
    assert [(flip.label_from, flip.label_to) for flip in found.flips] == [("cat", "vase")]


def test_version_is_the_same_as_itself(two: Database) -> None:
    found = compare_versions(two, ONE, ONE)

    assert (found.compared, found.flipped, found.only_from, found.only_to, found.flips) == (6, 0, 0, 0, ())


def test_difference_is_that_of_one_moment(two: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = versions._flips

    def ask_later(*arguments: Any) -> "sa.Select[Any]":
        go_away(two, "d.jpg")  # By another connection, once the images were counted.
        return ask(*arguments)

    monkeypatch.setattr(versions, "_flips", ask_later)

    found = compare_versions(two, ONE, TWO)

    assert (found.flipped, sum(flip.images for flip in found.flips)) == (3, 3)
    assert compare_versions(two, ONE, TWO).flipped == 2


def test_failed_image_has_no_answer_to_compare(two: Database) -> None:
    """As `ledger.finish` leaves it: other bytes, and no row for them."""
    broken = images.update().where(images.c.uri == "file:///photos/b.jpg").values(fingerprint="broken")
    two.write(lambda connection: connection.execute(broken))

    found = compare_versions(two, ONE, TWO)

    assert (found.compared, found.flipped, found.only_from, found.only_to) == (4, 2, 1, 2)


def test_exactly_one_version_of_a_name_may_be_active(two: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        two.write(lambda connection: connection.execute(model_versions.update().values(active=True)))
