"""How a listing is cut into chunks and batches."""

from itertools import count

from producer.batching import cut
from producer.changes import Change, Kind
from results.listing import Chunk, KnownImage
from results.tables import Priority


def new(number: int) -> Change:
    return Change(kind=Kind.NEW, uri=f"{number:06}", fingerprint="1")


def unchanged(number: int, *, gone: bool = False) -> Change:
    image = KnownImage(image_id=number, uri=f"{number:06}", fingerprint="1", answered=True, gone=gone)
    return Change(kind=Kind.UNCHANGED, uri=image.uri, fingerprint="1", known=image)


def other(kind: Kind, number: int, *, left_over: bool = False) -> Change:
    image = KnownImage(
        image_id=number, uri=f"{number:06}", fingerprint="0", answered=False, gone=False, left_over=left_over
    )
    return Change(kind=kind, uri=image.uri, fingerprint="1", known=image)


def sizes(chunks: list[Chunk]) -> list[list[int]]:
    return [[len(batch) for batch in chunk.batches] for chunk in chunks]


def test_work_is_cut_into_full_batches_in_listing_order() -> None:
    (chunk,) = cut((new(number) for number in range(10)), 4)

    assert sizes([chunk]) == [[4, 4, 2]]
    assert [image.uri for batch in chunk.batches for image in batch] == [f"{number:06}" for number in range(10)]
    assert (chunk.listed, chunk.skipped, chunk.cursor) == (10, 0, "000009")


def test_batches_hold_one_priority_and_the_first_comes_first() -> None:
    listing = [other(Kind.RETRY, 1), other(Kind.CHANGED, 2), new(3), other(Kind.CHANGED, 4, left_over=True), new(5)]
    (chunk,) = cut([*listing, other(Kind.AGAIN, 6)], 2)

    assert [[int(image.uri) for image in batch] for batch in chunk.batches] == [[4], [3, 5], [2], [1, 6]]
    assert [{image.priority for image in batch} for batch in chunk.batches] == [{priority} for priority in Priority]
    assert (chunk.new, chunk.changed, chunk.listed) == (2, 2, 6)


def test_long_listing_is_cut_into_chunks_of_full_batches() -> None:
    assert sizes(list(cut((new(number) for number in range(40)), 2))) == [[2] * 16, [2] * 4]


def test_last_batches_are_ever_smaller_so_that_all_workers_end_together() -> None:
    *_, before, last = cut((new(number) for number in range(2 * 1024)), 64)

    assert sizes([before, last]) == [[64] * 16, [64] * 13 + [48, 36, 27, 20, 16, 16, 16, 13]]
    assert [image.uri for batch in last.batches for image in batch] == [f"{number:06}" for number in range(1024, 2048)]


def test_few_images_are_shared_out_too() -> None:
    assert sizes(list(cut((new(number) for number in range(100)), 64))) == [[25, 18, 16, 16, 16, 9]]
    assert sizes(list(cut((new(number) for number in range(10)), 64))) == [[10]]


def test_unchanged_images_are_only_counted() -> None:
    (chunk,) = cut([unchanged(1), unchanged(2), new(3)], 64)

    assert (chunk.listed, chunk.skipped, sizes([chunk])) == (3, 2, [[1]])


def test_gone_images_and_those_that_came_back_are_named() -> None:
    gone = KnownImage(image_id=7, uri="7", fingerprint="1", answered=True, gone=False)
    (chunk,) = cut([unchanged(3, gone=True), Change(kind=Kind.GONE, uri="7", known=gone)], 64)

    assert (list(chunk.gone), list(chunk.reappeared), chunk.listed, chunk.cursor) == ([7], [3], 1, "7")


def test_slow_source_ends_its_chunk_early() -> None:
    seconds = count(0.0, 0.5)

    chunks = list(cut((new(number) for number in range(10)), 64, clock=lambda: next(seconds)))

    assert len(chunks) > 1
    assert sum(chunk.listed for chunk in chunks) == 10


def test_empty_listing_has_no_chunk() -> None:
    assert list(cut([], 64)) == []
