"""What a run would do, counted without writing anything."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from producer.changes import Change, Kind

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
    sample: tuple[str, ...]  #: URIs of some that need work

    @property
    def work(self) -> int:
        """Images that need work."""
        return self.new + self.changed + self.again


def make_plan(listing: Iterable[Change]) -> Plan:
    """Count a listing, in memory that does not grow with it."""
    counts: Counter[Kind] = Counter()
    size_bytes = seen = 0
    sample: list[str] = []
    chance = random.Random(0)  # The same listing gives the same sample.
    for change in listing:
        counts[change.kind] += 1
        if change.kind not in (Kind.NEW, Kind.CHANGED, Kind.AGAIN):
            continue
        size_bytes += change.size_bytes
        # Vitter's algorithm R: every image is as likely to be in the sample as any other.
        seen += 1
        if len(sample) < _SAMPLE_IMAGES:
            sample.append(change.uri)
        elif (place := chance.randrange(seen)) < _SAMPLE_IMAGES:
            sample[place] = change.uri
    return Plan(
        new=counts[Kind.NEW],
        changed=counts[Kind.CHANGED],
        unchanged=counts[Kind.UNCHANGED],
        again=counts[Kind.AGAIN],
        gone=counts[Kind.GONE],
        passed_over=counts[Kind.PASSED_OVER],
        size_bytes=size_bytes,
        sample=tuple(sample),
    )
