"""What a run lists is recorded until somebody stops it."""

from collections.abc import Iterator

from producer.changes import Change, Kind
from producer.list_source import record_listing
from results.queries import find_runs
from results.runs import RunRequest, close_runs, open_run
from results.session import Database
from results.tables import RunStatus
from tests.clock import Clock


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
