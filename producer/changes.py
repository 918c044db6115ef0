"""What changed: a listing and the images that are known, merged in the order of their URIs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from producer.sources import Found, PassedOver, Source, Stretch
from results.listing import KnownImage, RowsChange


class Kind(StrEnum):
    """How an image stands to what is known of it."""

    NEW = "new"  # No answer of this model version yet.
    CHANGED = "changed"  # Its bytes may be others than those that were looked at last.
    UNCHANGED = "unchanged"  # This model version has answered it as it is.
    AGAIN = "again"  # The same, and the run wants everything classified.
    RETRY = "retry"  # Nothing was changed, and no model version has an answer: it failed.
    GONE = "gone"  # Known, and no longer there.
    PASSED_OVER = "passed_over"  # Something that is not listed.
    DELISTED = "delisted"  # Of a manifest that names it no longer, and not gone: another names it.


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One step of the comparison."""

    kind: Kind
    uri: str
    fingerprint: str | None = None  #: as listed; None where nothing is
    size_bytes: int = 0  #: as listed
    known: KnownImage | None = None
    rows: RowsChange | None = None  #: of a manifest: what is to be written of its rows


def compare(
    listing: Iterable[Found | PassedOver],
    known: Iterable[KnownImage],
    lists: Callable[[str], bool],
    *,
    everything: bool = False,
) -> Iterator[Change]:
    """Tell for every listed image whether it needs work, and which known ones are gone.

    Args:
        listing: in URI order.
        known: in URI order, of the same range of URIs.
        lists: whether the source would list a URI; known images that it would not are none of its business.
        everything: unchanged images need work, too.
    """
    remaining = iter(known)
    current = next(remaining, None)
    for found in listing:
        while current is not None and current.uri < found.uri:
            if lists(current.uri) and not current.gone:
                yield Change(kind=Kind.GONE, uri=current.uri, known=current)
            current = next(remaining, None)
        if isinstance(found, PassedOver):
            yield Change(kind=Kind.PASSED_OVER, uri=found.uri)
            while found.is_hidden and current is not None and _is_at_or_below(current.uri, found.uri):
                current = next(remaining, None)  # Cannot be seen, which is not the same as gone.
            continue
        if current is None or current.uri != found.uri:
            yield _listed(Kind.NEW, found)
            continue
        kind = _kind(current, found.fingerprint)
        yield _listed(Kind.AGAIN if everything and kind is Kind.UNCHANGED else kind, found, current)
        current = next(remaining, None)
    while current is not None:
        if lists(current.uri) and not current.gone:
            yield Change(kind=Kind.GONE, uri=current.uri, known=current)
        current = next(remaining, None)


def compare_source(
    source: Source,
    find_known: Callable[[Stretch], Iterable[KnownImage]],
    *,
    after: str | None = None,
    everything: bool = False,
) -> Iterator[Change]:
    """Compare all of a source, stretch by stretch.

    Args:
        find_known: the known images that can be of a stretch, in URI order.
        after: the last URI that an earlier comparison came to.
    """
    for stretch in source.stretches(after):
        yield from compare(stretch.listing, find_known(stretch), stretch.lists, everything=everything)


def retry(failed: Iterable[KnownImage]) -> Iterator[Change]:
    """The images that failed once, each as it was last seen; those that have an answer by now need no work."""
    for image in failed:
        kind = Kind.UNCHANGED if image.answered else Kind.RETRY
        yield Change(kind=kind, uri=image.uri, fingerprint=image.fingerprint, known=image)


def _listed(kind: Kind, found: Found, known: KnownImage | None = None) -> Change:
    return Change(kind=kind, uri=found.uri, fingerprint=found.fingerprint, size_bytes=found.size_bytes, known=known)


def _is_at_or_below(uri: str, place: str) -> bool:
    return uri == place or (place.endswith("/") and uri.startswith(place))


def _kind(known: KnownImage, fingerprint: str) -> Kind:
    if known.fingerprint is not None and known.fingerprint != fingerprint:
        return Kind.CHANGED
    if known.answered:
        return Kind.UNCHANGED
    return Kind.RETRY if known.failed else Kind.NEW
