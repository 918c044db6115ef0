"""Record what a run lists."""

import random
import time
from collections.abc import Callable, Sequence

from base.errors import SourceError
from producer.batching import cut
from producer.changes import compare
from producer.folder import SUFFIXES, Folder, Found
from results.listing import ListingTaken, OpenRun, end_listing, find_known, find_listing, record_chunk
from results.session import Database


def check_not_empty(source: Folder, include: Sequence[str]) -> None:
    """Refuse a source without a single image, before anything is written: most often it is the wrong folder, or a
    disk that is not mounted, and its images are not gone.

    Raises:
        SourceError: it lists nothing.
    """
    if not any(isinstance(found, Found) for found in source.walk()):
        wanted = " or ".join(include) if include else ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise SourceError(f"no images in {source.uri} (looked for {wanted}). Name another folder, or --include GLOB.")


def list_source(
    db: Database, run: OpenRun, source: Folder, *, images_per_batch: int, on_chunk: Callable[[], object]
) -> None:
    """Record what a source lists, from the run's cursor to the end.

    Args:
        on_chunk: called after each transaction: there is something to send.

    Raises:
        SourceError: the source can no longer be read.
    """
    first, end = source.uri_range
    cursor, is_listed = run.cursor, run.listed
    while not is_listed:
        known = find_known(db, model_version_id=run.model_version_id, first=first, end=end, after=cursor)
        try:
            for chunk in cut(compare(source.walk(after=cursor), known, source.lists), images_per_batch):
                record_chunk(db, run.run_id, cursor=cursor, chunk=chunk)
                cursor = chunk.cursor
                on_chunk()
            end_listing(db, run.run_id, cursor=cursor)
            return
        except ListingTaken:
            # Another producer lists the same run. Both may: each chunk is written once. Give it time to be ahead.
            time.sleep(random.uniform(0.2, 1.0))
            cursor, is_listed = find_listing(db, run.run_id)
