"""A manifest's nights, on both databases: what is known, gone, and written of its rows."""

import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from string import ascii_letters

import pytest
import sqlalchemy as sa

from base.buckets import BucketAccess
from base.errors import FailureReason
from base.fingerprints import UNKNOWN
from producer.changes import Change, Kind
from producer.list_source import record_listing, retry_listing, source_listing
from producer.plan import make_plan
from producer.sources import Source, open_source
from results import ledger
from results.ledger import Answer, Failure
from results.queries import LabelFilter, count_labels, find_runs, list_labels
from results.runs import RunRequest, close_runs, open_run
from results.session import Database

ACCESS = BucketAccess()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Four images."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        (folder / f"{name}.jpg").write_bytes(name.encode())
    return folder


def manifest(folder: Path, *lines: str, name: str = "m.csv") -> Source:
    (folder / name).write_text("\n".join(["image,sku,price", *lines]))
    return open_source(str(folder / name), access=ACCESS, key="sku")


def request(source: Source) -> RunRequest:
    return RunRequest(source=source.uri, model="m", model_version=1, content_hash="a" * 64)


def night(db: Database, source: Source) -> tuple[dict[str, Kind], int]:
    """Run a source, every image with an answer; returns the changes by name, and the run."""
    opened = open_run(db, request(source), holder="test/1")
    changes: list[Change] = []

    def listing(cursor: str | None) -> Iterator[Change]:
        for change in source_listing(db, source, model_version_id=opened.model_version_id, everything=False)(cursor):
            changes.append(change)
            yield change

    record_listing(db, opened, listing, images_per_batch=64, on_chunk=lambda: None)
    _classify(db)
    return {change.uri.rpartition("/")[2]: change.kind for change in changes}, opened.run_id


def _classify(db: Database) -> None:
    for _, batch_id in ledger.take_due(db, room=100, queued=0, resend_seconds=30):
        held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
        assert held is not None
        answers = [
            Answer(
                image_id=image.image_id,
                fingerprint=image.fingerprint,
                content_hash=sha256(image.uri.encode()).digest(),
                labels=[("cat", 0.5)],
            )
            for image in held.images
        ]
        ledger.finish(db, held, answers, [])
    close_runs(db)


def rows(db: Database) -> list[tuple[str, str, str]]:
    """Image, key and price of every row."""
    statement = "SELECT image_uri, key, columns ->> 'price' AS price FROM image_columns ORDER BY image_uri, source, key"
    found = db.read(lambda connection: connection.execute(sa.text(statement)).all())
    return [(row.image_uri.rpartition("/")[2], row.key, row.price) for row in found]


def test_first_night_keeps_every_row(db: Database, shop: Path) -> None:
    kinds, _ = night(db, manifest(shop, "b.jpg,2,20", "a.jpg,1,10", "b.jpg,1,11"))

    assert kinds == {"a.jpg": Kind.NEW, "b.jpg": Kind.NEW}
    assert rows(db) == [("a.jpg", "1", "10"), ("b.jpg", "1", "11"), ("b.jpg", "2", "20")]


def test_longest_names_and_keys_fit(db: Database, shop: Path) -> None:
    chance = random.Random(1)  # What repeats itself would be compressed in an index.
    folder = shop
    while len(str(folder)) < 1700:
        folder /= "".join(chance.choices(ascii_letters, k=200))
    folder.mkdir(parents=True)
    keys = [
        "".join(chance.choices(ascii_letters, k=500)),
        "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in "x" * 166),
    ]

    night(db, manifest(folder, *(f"{shop}/a.jpg,{key},1" for key in keys)))

    assert {key for _, key, _ in rows(db)} == set(keys)


def test_unchanged_night_writes_no_row(db: Database, shop: Path) -> None:
    source = manifest(shop, "a.jpg,1,10", "b.jpg,2,20")
    night(db, source)
    opened = open_run(db, request(source), holder="test/1")

    changes = list(source_listing(db, source, model_version_id=opened.model_version_id, everything=False)(None))

    assert [(change.kind, change.rows) for change in changes] == [(Kind.UNCHANGED, None)] * 2


def test_changed_column_is_written_without_work(db: Database, shop: Path) -> None:
    night(db, manifest(shop, "a.jpg,1,10", "b.jpg,2,20"))

    kinds, run_id = night(db, manifest(shop, "a.jpg,1,10", "b.jpg,3,21"))

    assert set(kinds.values()) == {Kind.UNCHANGED}
    assert rows(db) == [("a.jpg", "1", "10"), ("b.jpg", "3", "21")]
    assert find_runs(db, run_id)[0].skipped == 2


def test_image_that_is_named_no_longer_is_gone_with_its_rows(db: Database, shop: Path) -> None:
    night(db, manifest(shop, "a.jpg,1,10", "b.jpg,2,20", "c.jpg,3,30"))

    kinds, run_id = night(db, manifest(shop, "a.jpg,1,10", "c.jpg,3,30", "d.jpg,4,40"))

    assert kinds == {"a.jpg": Kind.UNCHANGED, "b.jpg": Kind.GONE, "c.jpg": Kind.UNCHANGED, "d.jpg": Kind.NEW}
    assert find_runs(db, run_id)[0].gone == 1
    assert [row[0] for row in rows(db)] == ["a.jpg", "c.jpg", "d.jpg"]
    assert night(db, manifest(shop, "b.jpg,2,20"))[0]["b.jpg"] is Kind.UNCHANGED  # Back, and answered.


def test_image_that_another_manifest_names_is_not_gone(db: Database, shop: Path) -> None:
    night(db, manifest(shop, "a.jpg,1,10", "b.jpg,2,20"))
    night(db, manifest(shop, "b.jpg,2,22", name="other.csv"))

    kinds, run_id = night(db, manifest(shop, "a.jpg,1,10"))

    assert (kinds["b.jpg"], find_runs(db, run_id)[0].gone) == (Kind.DELISTED, 0)
    assert rows(db) == [("a.jpg", "1", "10"), ("b.jpg", "2", "22")]


def test_image_known_from_a_folder_needs_no_work(db: Database, shop: Path) -> None:
    night(db, open_source(str(shop), access=ACCESS))

    kinds, _ = night(db, manifest(shop, "a.jpg,1,10"))

    assert kinds == {"a.jpg": Kind.UNCHANGED}  # And the others, which it never named, are none of its business.


def test_listing_goes_on_after_its_cursor(db: Database, shop: Path) -> None:
    night(db, manifest(shop, "a.jpg,1,10", "b.jpg,2,20", "c.jpg,3,30"))
    source = manifest(shop, "a.jpg,1,11", "c.jpg,3,31")

    changes = source_listing(db, source, model_version_id=1, everything=False)((shop / "a.jpg").as_uri())

    assert [change.kind for change in changes] == [Kind.GONE, Kind.UNCHANGED]


def test_plan_counts_what_the_run_does(db: Database, shop: Path) -> None:
    night(db, manifest(shop, "a.jpg,1,10", "b.jpg,2,20"))
    source = manifest(shop, "a.jpg,1,10", "c.jpg,3,30")

    planned = make_plan(db, source, request(source))

    assert (planned.new, planned.unchanged, planned.gone) == (1, 1, 1)
    assert make_plan(None, source, request(source)).new == 2


def test_labels_are_those_of_the_images_that_it_names(db: Database, shop: Path) -> None:
    night(db, open_source(str(shop), access=ACCESS))
    source = manifest(shop, "a.jpg,1,10", "b.jpg,2,20")
    night(db, source)

    assert count_labels(db, source=source.uri, model="m") == [("cat", 2)]
    assert [row[0][-5:] for row in list_labels(db, LabelFilter(source=source.uri))] == ["a.jpg", "b.jpg"]


def test_host_that_is_down_takes_no_answer_away(db: Database, shop: Path) -> None:
    """Nobody has seen other bytes; a retry looks again all the same."""
    source = manifest(shop, "a.jpg,1,10")
    night(db, source)
    opened = open_run(db, request(source), holder="test/1")
    unseen = Change(kind=Kind.CHANGED, uri=(shop / "a.jpg").as_uri(), fingerprint=UNKNOWN)
    record_listing(db, opened, lambda cursor: iter([unseen]), images_per_batch=64, on_chunk=lambda: None)
    ((_, batch_id),) = ledger.take_due(db, room=100, queued=0, resend_seconds=30)
    held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
    assert held is not None
    (image,) = held.images
    down = Failure(
        image_id=image.image_id, fingerprint=UNKNOWN, reason=FailureReason.STORAGE_ERROR, message="it is down"
    )

    ledger.finish(db, held, [], [down])

    assert len(list(list_labels(db, LabelFilter()))) == 1
    (again,) = retry_listing(db, opened.run_id, model_version_id=1)(None)
    assert (again.kind, again.fingerprint) == (Kind.RETRY, "1-" + str((shop / "a.jpg").stat().st_mtime_ns))
