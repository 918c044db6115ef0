"""Record what a run lists."""

import random
import time
from collections.abc import Callable, Iterator

from producer.batching import cut
from producer.changes import Change, compare_source, retry
from producer.manifest import Manifest
from producer.manifest_changes import manifest_changes
from producer.sources import Source, Stretch
from results.listing import (
    KnownImage,
    ListingTaken,
    end_listing,
    find_failed,
    find_known,
    find_listing,
    find_out_of_time,
    record_chunk,
)
from results.runs import OpenRun
from results.session import Database

# So long a producer gives way to another that lists the same run, at least and at most.
_GIVE_WAY_SECONDS = 0.2, 1.0

#: What a run lists, beginning after a URI.
Listing = Callable[[str | None], Iterator[Change]]


def source_listing(db: Database, source: Source, *, model_version_id: int | None, everything: bool) -> Listing:
    """What is to be done for each image of a source.

    Args:
        model_version_id: whose answers count; None when it has none yet.
        everything: unchanged images need work, too.
    """
    if isinstance(source, Manifest):
        return lambda cursor: manifest_changes(
            db, source, model_version_id=model_version_id, after=cursor, everything=everything
        )
    first, end = source.uri_range

    def list_after(cursor: str | None) -> Iterator[Change]:
        out_of_time = find_out_of_time(db, source.uri, model_version_id=model_version_id)

        def known(stretch: Stretch) -> Iterator[KnownImage]:
            return find_known(
                db,
                model_version_id=model_version_id,
                first=first,
                end=end,
                after=stretch.after,
                disordered=stretch.disordered,
                out_of_time=out_of_time,
            )

        return compare_source(source, known, after=cursor, everything=everything)

    return list_after


def retry_listing(db: Database, run_id: int, *, model_version_id: int) -> Listing:
    """What is to be done for each image that failed in a run."""
    return lambda cursor: retry(find_failed(db, run_id, model_version_id=model_version_id, after=cursor))


def record_listing(
    db: Database, run: OpenRun, listing: Listing, *, images_per_batch: int, on_chunk: Callable[[], object]
) -> None:
    """Record what a run lists, from its cursor to the end.

    Args:
        on_chunk: called after each transaction: there is something to send.

    Raises:
        SourceError: the source can no longer be read.
        TransientError: its store falters.
    """
    cursor, is_listed = run.cursor, run.is_listed
    while not is_listed:
        try:
            for chunk in cut(listing(cursor), images_per_batch):
                record_chunk(db, run.run_id, cursor=cursor, chunk=chunk)
                cursor = chunk.cursor
                on_chunk()
            end_listing(db, run.run_id, cursor=cursor)
            return
        except ListingTaken:
            # Another producer lists the same run. Both may: each chunk is written once. Give it time to be ahead.
            time.sleep(random.uniform(*_GIVE_WAY_SECONDS))
            cursor, is_listed = find_listing(db, run.run_id)
