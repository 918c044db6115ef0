"""Cut a compared listing into chunks, and the images of a chunk into batches."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from producer.changes import Change, Kind
from results.listing import Chunk, ListedImage, RowsChange
from results.tables import Priority

# A chunk is one transaction. It ends with this many batches' images; or with so many entries, of which most were
# unchanged; or, where the source is slow, after so long: whoever waits for the first answers waits no longer.
_BATCHES_PER_CHUNK = 16
_ENTRIES_PER_CHUNK = 50_000
_SECONDS_PER_CHUNK = 2.0

# At the end of a listing each batch gets one of so many parts of the images that are left, but no fewer than so many:
# a batch has its price, about that of two images. How many workers there are, nobody knows here.
_PARTS, _FEWEST_PER_BATCH = 4, 16

_PRIORITIES = {Kind.NEW: Priority.NEW, Kind.CHANGED: Priority.CHANGED}


def cut(
    changes: Iterable[Change], images_per_batch: int, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Chunk]:
    """Cut a listing into chunks; what needs work is in their batches, by priority and then in listing order.

    Args:
        clock: seconds that only grow; tests replace it.
    """
    began, pieces = clock(), _Pieces()
    for change in changes:
        # Looked at before the next entry is taken in, so that the last chunk is known for the last.
        is_full = pieces.work >= images_per_batch * _BATCHES_PER_CHUNK or pieces.entries >= _ENTRIES_PER_CHUNK
        if is_full or (pieces.entries and clock() - began > _SECONDS_PER_CHUNK):
            yield pieces.chunk(lambda images: _alike(images, images_per_batch))
            began, pieces = clock(), _Pieces()
        pieces.add(change)
    if pieces.entries:
        yield pieces.chunk(lambda images: _ever_smaller(images, images_per_batch))


@dataclass
class _Pieces:
    """A chunk while it grows."""

    listed: dict[Priority, list[ListedImage]] = field(default_factory=lambda: {priority: [] for priority in Priority})
    kinds: Counter[Kind] = field(default_factory=Counter)
    work: int = 0  # Images that need any.
    gone: list[int] = field(default_factory=list)
    reappeared: list[int] = field(default_factory=list)
    rows: list[RowsChange] = field(default_factory=list)
    entries: int = 0
    cursor: str = ""

    def add(self, change: Change) -> None:
        self.cursor = change.uri
        self.entries += 1
        self.kinds[change.kind] += 1
        known = change.known
        if change.rows is not None:
            self.rows.append(change.rows)
        if known is not None and known.gone:
            self.reappeared.append(known.image_id)
        if change.kind is Kind.GONE and known is not None:
            self.gone.append(known.image_id)
        elif change.kind not in (Kind.UNCHANGED, Kind.PASSED_OVER) and change.fingerprint is not None:
            priority = _priority(change)
            image_id = known.image_id if known is not None else None
            self.listed[priority].append(
                ListedImage(uri=change.uri, fingerprint=change.fingerprint, image_id=image_id, priority=priority)
            )
            self.work += 1

    def chunk(self, batches_of: Callable[[list[ListedImage]], Iterator[list[ListedImage]]]) -> Chunk:
        return Chunk(
            cursor=self.cursor,
            batches=[batch for images in self.listed.values() for batch in batches_of(images)],
            skipped=self.kinds[Kind.UNCHANGED],
            new=self.kinds[Kind.NEW],
            changed=self.kinds[Kind.CHANGED],
            reappeared=self.reappeared,
            gone=self.gone,
            passed_over=self.kinds[Kind.PASSED_OVER],
            rows=self.rows,
        )


def _alike(images: list[ListedImage], images_per_batch: int) -> Iterator[list[ListedImage]]:
    """Batches of the same size, but for the last."""
    for start in range(0, len(images), images_per_batch):
        yield images[start : start + images_per_batch]


def _ever_smaller(images: list[ListedImage], images_per_batch: int) -> Iterator[list[ListedImage]]:
    """Batches of which the last are ever smaller, so that those who work on them end at about the same time.

    This is guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987).
    """
    start = 0
    while left := len(images) - start:
        size = min(left, images_per_batch, max(left // _PARTS, _FEWEST_PER_BATCH))
        yield images[start : start + size]
        start += size


def _priority(change: Change) -> Priority:
    if change.known is not None and change.known.left_over:
        return Priority.LEFT_OVER
    return _PRIORITIES.get(change.kind, Priority.RETRY)
