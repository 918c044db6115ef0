"""Cut a compared listing into chunks, and the images of a chunk into batches."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from producer.changes import Change, Kind
from results.listing import Chunk, ListedImage, RowsChange

# A chunk is one transaction. It ends with this many full batches; or with so many entries, of which most were
# unchanged; or, where the source is slow, after so long: whoever waits for the first answers waits no longer.
_BATCHES_PER_CHUNK = 16
_ENTRIES_PER_CHUNK = 50_000
_SECONDS_PER_CHUNK = 2.0


def cut(
    changes: Iterable[Change], images_per_batch: int, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Chunk]:
    """Cut a listing into chunks; what needs work is in their batches, in listing order.

    Args:
        clock: seconds that only grow; tests replace it.
    """
    began, pieces = clock(), _Pieces()
    for change in changes:
        pieces.add(change)
        is_full = len(pieces.work) >= images_per_batch * _BATCHES_PER_CHUNK or pieces.entries >= _ENTRIES_PER_CHUNK
        if is_full or clock() - began > _SECONDS_PER_CHUNK:
            yield pieces.chunk(images_per_batch)
            began, pieces = clock(), _Pieces()
    if pieces.entries:
        yield pieces.chunk(images_per_batch)


@dataclass
class _Pieces:
    """A chunk while it grows."""

    work: list[ListedImage] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    reappeared: list[int] = field(default_factory=list)
    rows: list[RowsChange] = field(default_factory=list)
    skipped: int = 0
    passed_over: int = 0
    entries: int = 0
    cursor: str = ""

    def add(self, change: Change) -> None:
        self.cursor = change.uri
        self.entries += 1
        known = change.known
        if change.rows is not None:
            self.rows.append(change.rows)
        if known is not None and known.gone:
            self.reappeared.append(known.image_id)
        if change.kind is Kind.GONE and known is not None:
            self.gone.append(known.image_id)
        elif change.kind is Kind.UNCHANGED:
            self.skipped += 1
        elif change.kind is Kind.PASSED_OVER:
            self.passed_over += 1
        elif change.fingerprint is not None:
            image_id = known.image_id if known is not None else None
            self.work.append(ListedImage(uri=change.uri, fingerprint=change.fingerprint, image_id=image_id))

    def chunk(self, images_per_batch: int) -> Chunk:
        starts = range(0, len(self.work), images_per_batch)
        return Chunk(
            cursor=self.cursor,
            batches=[self.work[start : start + images_per_batch] for start in starts],
            skipped=self.skipped,
            reappeared=self.reappeared,
            gone=self.gone,
            passed_over=self.passed_over,
            rows=self.rows,
        )
