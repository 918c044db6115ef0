"""What a run would do, counted without writing anything."""

import random
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from producer.changes import Change, Kind, compare_source
from producer.list_source import source_listing
from producer.sources import Source
from producer.twins import FindAnswered, NewImages, Twins
from results import listing
from results.runs import RunRequest, find_model_version, find_unfinished
from results.session import Database

# Read for the measurement of speed, spread over the whole listing.
_SAMPLE_IMAGES = 64
_FETCHED = (Kind.NEW, Kind.CHANGED, Kind.RETRY, Kind.AGAIN)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The counts of a listing."""

    new: int
    changed: int
    retry: int  #: failed before
    renamed: int  #: answered under the name of an image that is gone
    copied: int  #: answered under another name
    unchanged: int
    again: int  #: unchanged, and wanted once more
    gone: int
    passed_over: int
    size_bytes: int  #: of the images that are to be fetched
    unfinished: int | None  #: the run that is gone on with; the counts above are of what it has not listed yet
    waiting: int  #: images that it has listed and that have no end
    sample: tuple[str, ...]  #: URIs of some that need work

    @property
    def work(self) -> int:
        """Images to be classified; for those that are renamed or copied there is an answer."""
        return self.new + self.changed + self.retry + self.again + self.waiting


def make_plan(db: Database | None, source: Source, request: RunRequest) -> Plan:
    """Count what a run of that request would do.

    Args:
        db: None when there is no database yet.

    Raises:
        ModelError: the database knows the model version with other contents.
        SourceError: the source cannot be read.
    """
    # Where everything is wanted, nothing that is known saves an inference.
    find_answered = None if request.everything else _nothing_answered
    if db is None:
        return _count(compare_source(source, lambda stretch: []), find_answered)
    version_id = find_model_version(db, request)
    if find_answered is not None and version_id is not None:
        find_answered = partial(listing.find_answered, db, version_id)
    listed = source_listing(db, source, model_version_id=version_id, everything=request.everything)
    unfinished = find_unfinished(db, request)
    if unfinished is None:
        return _count(listed(None), find_answered)
    changes = iter(()) if unfinished.is_listed else listed(unfinished.cursor)
    return _count(changes, find_answered, unfinished.run_id, listing.find_waiting(db, unfinished.run_id))


def _nothing_answered(fingerprints: Collection[str]) -> dict[str, set[bytes]]:
    return {}


def _count(
    changes: Iterable[Change],
    find_answered: FindAnswered | None,
    unfinished: int | None = None,
    waiting: Iterable[str] = (),
) -> Plan:
    """Count a listing, in memory that does not grow with it."""
    counts: Counter[Kind] = Counter()
    size_bytes = waits = 0
    sample = _Sample()
    for uri in waiting:
        waits += 1
        sample.add(uri)
    with closing(NewImages()) as new:
        for change in changes:
            counts[change.kind] += 1
            new.add(change)
            if change.kind in _FETCHED:
                size_bytes += change.size_bytes
                sample.add(change.uri)
        twins = Twins() if find_answered is None else new.find_twins(find_answered)
    return Plan(
        new=counts[Kind.NEW] - twins.renamed - twins.copied,
        changed=counts[Kind.CHANGED],
        retry=counts[Kind.RETRY],
        renamed=twins.renamed,
        copied=twins.copied,
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
