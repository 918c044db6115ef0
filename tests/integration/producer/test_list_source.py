"""What a listing leaves in SQL, night after night, on both databases."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
import sqlalchemy as sa
from obstore.store import S3Store

from base.buckets import BucketAccess
from producer import list_source
from producer.bucket import Bucket
from producer.changes import Change, Kind
from producer.folder import Folder
from producer.list_source import record_listing, source_listing
from producer.plan import make_plan
from producer.sources import Source
from producer.start_run import holder
from results import ledger
from results.ledger import Answer
from results.queries import RunProgress, find_runs, verify_run
from results.runs import RunRequest, close_runs, open_run
from results.session import Database
from results.tables import RunStatus, batches, images, items, predictions
from tests.clock import Clock
from tests.servers import S3


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(10):
        (root / f"{number}.jpg").write_bytes(b"x" * number)
    return Folder(str(root))


def request(source: Source) -> RunRequest:
    return RunRequest(source=source.uri, model="m", model_version=1, content_hash="a" * 64)


def run(db: Database, source: Source) -> RunProgress:
    """List the source, and give every image the answer that its fingerprint says."""
    opened = open_run(db, request(source), holder=holder())
    listing = source_listing(db, source, model_version_id=opened.model_version_id, everything=False)
    record_listing(db, opened, listing, images_per_batch=4, on_chunk=lambda: None)
    for _, batch_id in ledger.take_due(db, room=100, queued=0, resend_seconds=30):
        held = ledger.claim(db, batch_id, owner="w/1", lease_seconds=45)
        assert held is not None
        answers = [
            Answer(
                image_id=image.image_id,
                fingerprint=image.fingerprint,
                content_hash=image.fingerprint.encode().ljust(32)[:32],
                labels=[("cat", 1.0)],
            )
            for image in held.images
        ]
        ledger.finish(db, held, answers, [])
    close_runs(db)
    return find_runs(db, opened.run_id)[0]


def count_rows(db: Database) -> list[int]:
    counts = (sa.select(sa.func.count()).select_from(table) for table in (images, items, batches, predictions))
    return [db.read(lambda connection, count=count: connection.execute(count).scalar_one()) for count in counts]


def test_unchanged_listing_writes_no_row(db: Database, folder: Folder) -> None:
    first = run(db, folder)
    rows = count_rows(db)

    second = run(db, folder)

    assert count_rows(db) == rows == [10, 10, 3, 10]
    assert (first.new, first.skipped, second.new, second.skipped) == (10, 0, 0, 10)


def test_plan_counts_a_bucket_as_the_next_run_does(db: Database, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = S3Store(s3.new_bucket())
    names = ["a.jpg", "b c.jpg", "ä.jpg", "é/[1].jpg", "z.jpg", "gone.jpg", "göne.jpg"]
    for name in names:
        obstore.put(store, name, name.encode())
    source = Bucket(f"s3://{store.config['bucket']}", access=BucketAccess())
    run(db, source)
    obstore.delete(store, ["gone.jpg", "göne.jpg"])
    obstore.rename(store, "ä.jpg", "ö.jpg")
    obstore.copy(store, "a.jpg", "copy.jpg")
    obstore.put(store, "é/[1].jpg", b"changed")
    for name in ("new.jpg", "neu & ß.jpg", "twin.jpg"):
        obstore.put(store, name, b"twin" if name != "new.jpg" else b"new")

    plan = make_plan(db, source, request(source))
    second = run(db, source)

    assert (plan.new, plan.renamed, plan.copied, plan.changed, plan.unchanged, plan.gone) == (2, 1, 2, 1, 3, 3)
    assert (second.new, second.changed, second.skipped, second.gone) == (5, 1, 3, 3)


def endless(cursor: str | None) -> Iterator[Change]:
    index = 0
    while True:
        index += 1
        yield Change(kind=Kind.NEW, uri=f"file:///photos/{index:09}.jpg", fingerprint="1-1")


def test_listing_ends_quietly_at_the_deadline(db: Database, clock: Clock) -> None:
    request = RunRequest(
        source="file:///photos", model="m", model_version=1, content_hash="a" * 64, deadline=clock.seconds + 90
    )
    run = open_run(db, request, holder="test/1")

    def on_chunk() -> None:
        clock.pass_by(60)
        close_runs(db)

    record_listing(db, run, endless, images_per_batch=1, on_chunk=on_chunk)

    (found,) = find_runs(db, run.run_id)
    assert (found.status, found.out_of_time, found.is_listed) == (RunStatus.CANCELLED, True, False)
    assert found.listed == found.cancelled == 32


class Turns:
    """Of several threads one goes on at a time, and a seed says which."""

    def __init__(self, seed: int, threads: int) -> None:
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._here = list(range(threads))
        self._turn = 0

    def next(self, me: int) -> None:
        """Let another thread go on, or this one once more."""
        with self._changed:
            self._choose()
            assert self._changed.wait_for(lambda: self._turn == me, timeout=60)

    @contextmanager
    def taken_by(self, me: int) -> Iterator[None]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._turn == me, timeout=60)
        try:
            yield
        finally:
            with self._changed:
                self._here.remove(me)
                self._choose()

    def _choose(self) -> None:
        self._turn = self._random.choice(self._here) if self._here else -1
        self._changed.notify_all()


def list_together(db: Database, source: Source, seed: int) -> int:
    """Two producers list one run, and may change places at each image and after each chunk; the run's number."""
    opened = open_run(db, request(source), holder=holder())
    listing = source_listing(db, source, model_version_id=opened.model_version_id, everything=False)
    turns = Turns(seed, 2)

    def produce(me: int) -> None:
        def in_turns(cursor: str | None) -> Iterator[Change]:
            for change in listing(cursor):
                yield change
                turns.next(me)

        with turns.taken_by(me):
            record_listing(db, opened, in_turns, images_per_batch=1, on_chunk=lambda: turns.next(me))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(produce, range(2)))
    return opened.run_id


def test_two_producers_list_a_run_as_one_does(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_source, "_GIVE_WAY_SECONDS", (0.0, 0.0))
    for seed in range(6):
        root = tmp_path / str(seed)
        root.mkdir()
        for number in range(40):
            (root / f"{number:02}.jpg").write_bytes(b"x")
        source = Folder(str(root))

        run_id = list_together(db, source, seed)

        (progress,) = find_runs(db, run_id)
        assert (progress.is_listed, progress.listed, progress.new) == (True, 40, 40), f"seed {seed}"
        assert verify_run(db, run_id).gaps[0].what == "40 images listed, 0 with an end"
        ends = sa.select(items.c.image_id, items.c.batch_id).where(items.c.run_id == run_id)
        of_run = db.read(lambda connection, ends=ends: connection.execute(ends).all())
        assert len({row.image_id for row in of_run}) == len({row.batch_id for row in of_run}) == len(of_run) == 40
    assert count_rows(db) == [240, 240, 240, 0]
