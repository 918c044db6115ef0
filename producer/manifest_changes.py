"""What changed in a manifest: its listing, the images that are known, and the rows that it had before."""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

from producer.changes import Change, Kind, compare
from producer.manifest import Manifest
from producer.manifest_file import columns_to_json
from producer.sorting import Row, Sorted
from producer.sources import Found, PassedOver
from results.listing import KnownImage, RowsChange, find_elsewhere, find_known_among, find_out_of_time, read_rows
from results.session import Database

# Looked up at once. Where each image is waited for, as URLs are, a page is not waited for long.
_IMAGES_PER_PAGE = 1000
_SECONDS_PER_PAGE = 1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image that a manifest names, or named before."""

    uri: str
    found: Found | None  #: None: it names it no longer
    stored: Mapping[str, str]  #: key to columns, as they are in SQL


def manifest_changes(
    db: Database, manifest: Manifest, *, model_version_id: int | None, after: str | None, everything: bool
) -> Iterator[Change]:
    """Compare all of a manifest, in the order of URIs.

    What it named before is told by its rows in SQL, which are sorted on disk as the manifest itself is. Other images
    are looked up by their URIs, page by page: a manifest of a thousand images reads a thousand of a huge catalogue.

    Args:
        model_version_id: whose answers count; None when it has none yet.
        after: the last URI that an earlier comparison came to.
        everything: unchanged images need work, too.
    """
    out_of_time = find_out_of_time(db, manifest.uri, model_version_id=model_version_id)

    def find_known(uris: Sequence[str]) -> list[KnownImage]:
        return find_known_among(db, uris, model_version_id=model_version_id, out_of_time=out_of_time)

    with closing(Sorted()) as stored:
        stored.add(
            Row(uri, key, columns_to_json(columns), 0) for uri, key, columns in read_rows(db, manifest.uri, after=after)
        )
        for stretch in manifest.stretches(after):
            for page in _pages(_merge(stretch.listing, stored.read(after))):
                yield from _compare_page(db, manifest.uri, page, find_known, everything)


def _merge(listing: Iterable[Found | PassedOver], stored: Iterable[Row]) -> Iterator[_Entry]:
    listed = ((found.uri, found) for found in listing)
    before = ((row.uri, row) for row in stored)
    for uri, pairs in groupby(heapq.merge(listed, before, key=itemgetter(0)), itemgetter(0)):
        found, rows = None, {}
        for _, one in pairs:
            if isinstance(one, Row):
                rows[one.key] = one.text
            elif isinstance(one, Found):
                found = one
        yield _Entry(uri, found, rows)


def _pages(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    began, page = time.monotonic(), []
    for entry in entries:
        page.append(entry)
        if len(page) >= _IMAGES_PER_PAGE or time.monotonic() - began > _SECONDS_PER_PAGE:
            yield page
            began, page = time.monotonic(), []
    if page:
        yield page


def _compare_page(
    db: Database,
    manifest: str,
    page: Sequence[_Entry],
    find_known: Callable[[Sequence[str]], list[KnownImage]],
    everything: bool,
) -> Iterator[Change]:
    entries = {entry.uri: entry for entry in page}
    known = find_known(list(entries))
    no_longer = [image for image in known if entries[image.uri].found is None]
    # Gone already, or named by another manifest: it is no news that it is gone, and its rows go all the same.
    elsewhere = find_elsewhere(db, manifest, [image.image_id for image in no_longer])
    delisted = {image.uri for image in no_longer if image.gone or image.image_id in elsewhere}
    changes = compare(
        [entry.found for entry in page if entry.found is not None],
        [replace(image, gone=False) if image.uri in delisted else image for image in known],
        lambda uri: True,
        everything=everything,
    )
    for change in changes:
        rows = _rows_change(entries[change.uri], change.known)
        if change.uri in delisted:
            yield replace(change, kind=Kind.DELISTED, rows=rows)
        else:
            yield change if rows is None else replace(change, rows=rows)


def _rows_change(entry: _Entry, known: KnownImage | None) -> RowsChange | None:
    """What is to be written of its rows; None where nothing is."""
    listed = dict(entry.found.rows) if entry.found is not None else {}
    written = {key: columns for key, columns in listed.items() if entry.stored.get(key) != columns}
    dropped = tuple(key for key in entry.stored if key not in listed)
    if not written and not dropped:
        return None
    image_id = known.image_id if known is not None else None
    return RowsChange(uri=entry.uri, image_id=image_id, written=written, dropped=dropped)
