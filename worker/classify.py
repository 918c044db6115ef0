"""The images of a batch → answers and failures. Knows nothing of Celery, and of SQL only through what it is given."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from base.errors import FailureReason, ImageError, SetupError, TransientError
from results.ledger import Answer, ClaimedImage, Failure
from worker.fetching import Fetched, fetch

if TYPE_CHECKING:
    from models.classifier import Classifier

Labels = Sequence[tuple[str, float]]

# Twins are looked up for as many images at once as these many bytes hold: one question to SQL for a batch of ordinary
# photographs, and flat memory for a batch of huge ones.
_BYTES_HELD = 32 * 2**20


def classify(
    classifier: "Classifier",
    images: Sequence[ClaimedImage],
    *,
    top_k: int,
    max_bytes: int,
    find_twins: Callable[[Collection[bytes]], dict[bytes, list[tuple[str, float]]]],
    on_progress: Callable[[], object],
) -> tuple[list[Answer], list[Failure]]:
    """Classify each image; one that cannot be is a failure, and its neighbours do not notice.

    Args:
        top_k: labels kept for each image.
        max_bytes: a larger image is not read.
        find_twins: content hashes to the answers known for them; hashes without one are left out.
        on_progress: called after each step; what it raises ends the batch.

    Returns:
        Together one end for every image.
    """
    answers: list[Answer] = []
    failures: list[Failure] = []
    most = min(top_k, len(classifier.version.labels))
    for group, unfetched in _fetch_all(images, max_bytes, on_progress):
        failures += unfetched
        labels_of: dict[bytes, Labels] = {
            content_hash: labels[:most]
            for content_hash, labels in find_twins({fetched.content_hash for _, fetched in group}).items()
            # From a time when fewer labels were kept.
            if len(labels) >= most
        }
        for image, fetched in group:
            labels = labels_of.get(fetched.content_hash)
            reused = labels is not None
            if labels is None:
                try:
                    labels = [(found.label, found.confidence) for found in classifier.predict(fetched.encoded, top_k)]
                except (SetupError, TransientError):
                    raise
                except Exception as error:  # noqa: BLE001 (one image never fails its batch)
                    failures.append(_failure(image, error, fetched))
                    on_progress()
                    continue
                labels_of[fetched.content_hash] = labels
            answers.append(
                Answer(
                    image_id=image.image_id,
                    fingerprint=fetched.fingerprint,
                    content_hash=fetched.content_hash,
                    labels=labels,
                    reused=reused,
                    needs_review=classifier.version.needs_review(*labels[0]),
                )
            )
            on_progress()
    return answers, failures


def _fetch_all(
    images: Sequence[ClaimedImage], max_bytes: int, on_progress: Callable[[], object]
) -> Iterator[tuple[list[tuple[ClaimedImage, Fetched]], list[Failure]]]:
    """Groups of fetched images, and the failures among them, until every image was in one."""
    group: list[tuple[ClaimedImage, Fetched]] = []
    failures: list[Failure] = []
    held = 0
    for image in images:
        try:
            fetched = fetch(image.uri, max_bytes=max_bytes)
        except (ImageError, MemoryError) as error:
            failures.append(_failure(image, error))
        else:
            group.append((image, fetched))
            held += len(fetched.encoded)
        on_progress()
        if held >= _BYTES_HELD:
            yield group, failures
            group, failures, held = [], [], 0
    yield group, failures


def _failure(image: ClaimedImage, error: Exception, fetched: Fetched | None = None) -> Failure:
    reason, message = FailureReason.UNREADABLE, f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, ImageError):
        reason, message = error.reason, str(error)
    elif isinstance(error, MemoryError):
        reason, message = FailureReason.TOO_LARGE, "needs more memory than TAGMILL_MEMORY_BYTES allows"
    return Failure(
        image_id=image.image_id,
        fingerprint=fetched.fingerprint if fetched else image.fingerprint,
        reason=reason,
        message=message,
    )
