"""What a run would do, counted without writing anything."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from producer.changes import Change, Kind, compare_source
from producer.list_source import source_listing
from producer.sources import Source
from results.listing import find_waiting
from results.runs import RunRequest, find_model_version, find_unfinished
from results.session import Database

# Read for the measurement of speed, spread over the whole listing.
_SAMPLE_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The counts of a listing."""

    new: int
    changed: int
    unchanged: int
    again: int  #: unchanged, and wanted once more
    gone: int
    passed_over: int
    size_bytes: int  #: of the images that need work
    unfinished: int | None  #: the run that is gone on with; the counts above are of what it has not listed yet
    waiting: int  #: images that it has listed and that have no end
    sample: tuple[str, ...]  #: URIs of some that need work

    @property
    def work(self) -> int:
        """Images that need work."""
        return self.new + self.changed + self.again + self.waiting


def make_plan(db: Database | None, source: Source, request: RunRequest) -> Plan:
    """Count what a run of that request would do.

    Args:
        db: None when there is no database yet.

    Raises:
        ModelError: the database knows the model version with other contents.
        SourceError: the source cannot be read.
    """
    if db is None:
        return _count(compare_source(source, lambda after: []), None, [])
    version_id = find_model_version(db, request)
    listing = source_listing(db, source, model_version_id=version_id, everything=request.everything)
    unfinished = find_unfinished(db, request)
    if unfinished is None:
        return _count(listing(None), None, [])
    changes = iter(()) if unfinished.is_listed else listing(unfinished.cursor)
    return _count(changes, unfinished.run_id, find_waiting(db, unfinished.run_id))


def _count(changes: Iterable[Change], unfinished: int | None, waiting: Iterable[str]) -> Plan:
    """Count a listing, in memory that does not grow with it."""
    counts: Counter[Kind] = Counter()
    size_bytes = waits = 0
    sample = _Sample()
    for uri in waiting:
        waits += 1
        sample.add(uri)
    for change in changes:
        counts[change.kind] += 1
        if change.kind in (Kind.NEW, Kind.CHANGED, Kind.AGAIN):
            size_bytes += change.size_bytes
            sample.add(change.uri)
    return Plan(
        new=counts[Kind.NEW],
        changed=counts[Kind.CHANGED],
        unchanged=counts[Kind.UNCHANGED],
        again=counts[Kind.AGAIN],
        gone=counts[Kind.GONE],
        passed_over=counts[Kind.PASSED_OVER],
        size_bytes=size_bytes,
        unfinished=unfinished,
        waiting=waits,
        sample=tuple(sample.uris),
    )


class _Sample:
    """Some of the images, each as likely as any other. Source: Vitter 1985, algorithm R."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._seen = 0
        self._chance = random.Random(0)  # The same listing gives the same sample.

    def add(self, uri: str) -> None:
        self._seen += 1
        if len(self.uris) < _SAMPLE_IMAGES:
            self.uris.append(uri)
        elif (place := self._chance.randrange(self._seen)) < _SAMPLE_IMAGES:
            self.uris[place] = uri
