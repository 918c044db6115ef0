"""The images of a batch → answers and failures. Knows nothing of Celery, and of SQL only through what it is given."""

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from base.buckets import BucketAccess, listed_as
from base.errors import FailureReason, ImageError, SetupError, TransientError
from base.stages import Stage, Stopwatch
from results.ledger import Answer, ClaimedImage, Failure
from worker.fetching import Fetched, fetch, is_remote

if TYPE_CHECKING:
    import numpy as np

    from models.classifier import Classifier
    from models.predictions import Prediction

P = ParamSpec("P")
T = TypeVar("T")

Labels = Sequence[tuple[str, float]]

# Twins are looked up for as many images at once as these many bytes hold: one question to SQL for a batch of ordinary
# photographs, and flat memory for a batch of huge ones.
_BYTES_HELD = 32 * 2**20
# Of a bucket: fetched at once, fetched ahead of what is classified, and classified while others are fetched.
_FETCHERS = 8
_IMAGES_AHEAD = 16
_IMAGES_PER_GROUP = 16
# So many are decoded, one after the other, before the first is classified: what either needs stays in the caches then.
# Over 640 photographs 8 were 2 to 3 % faster than 1, and 64 were not faster than 8.
_DECODED_IN_A_ROW = 8
# How often we tell that we still wait for a bucket, which is no image's fault and ends by itself.
_WAITING_SECONDS = 1.0


def classify(
    classifier: "Classifier",
    images: Sequence[ClaimedImage],
    *,
    top_k: int,
    max_bytes: int,
    access: BucketAccess = BucketAccess(),  # noqa: B008 (it is frozen)
    find_twins: Callable[[Collection[bytes]], dict[bytes, list[tuple[str, float]]]],
    on_progress: Callable[[], object],
    watch: Stopwatch | None = None,
) -> tuple[list[Answer], list[Failure]]:
    """Classify each image; one that cannot be is a failure, and its neighbours do not notice.

    Args:
        top_k: labels kept for each image.
        max_bytes: a larger image is not read.
        access: how buckets are reached.
        find_twins: content hashes to the answers known for them; hashes without one are left out.
        on_progress: called after each step; what it raises ends the batch.
        watch: told when fetching begins; what comes after that is the classifier's and the caller's to tell.

    Returns:
        Together one end for every image.

    Raises:
        TransientError: a bucket falters.
        SetupError: a bucket does not know who we are.
    """
    answers: list[Answer] = []
    failures: list[Failure] = []
    most = min(top_k, len(classifier.version.labels))
    watch = watch or Stopwatch()
    watch.begin(Stage.FETCHING)
    for group, unfetched in _fetch_all(images, max_bytes, access, on_progress):
        failures += unfetched
        labels_of: dict[bytes, Labels] = {
            content_hash: labels[:most]
            for content_hash, labels in find_twins({fetched.content_hash for _, fetched in group}).items()
            # From a time when fewer labels were kept.
            if len(labels) >= most
        }
        for first in range(0, len(group), _DECODED_IN_A_ROW):
            row = group[first : first + _DECODED_IN_A_ROW]
            for end in _classify_row(classifier, row, labels_of, top_k=top_k, on_progress=on_progress):
                if isinstance(end, Answer):
                    answers.append(end)
                else:
                    failures.append(end)
        watch.begin(Stage.FETCHING)
    return answers, failures


def _classify_row(
    classifier: "Classifier",
    row: Sequence[tuple[ClaimedImage, Fetched]],
    labels_of: dict[bytes, Labels],
    *,
    top_k: int,
    on_progress: Callable[[], object],
) -> Iterator[Answer | Failure]:
    """The end of each image; labels that are found are added to those known by content hash."""
    unknown = {fetched.content_hash: fetched.encoded for _, fetched in row if fetched.content_hash not in labels_of}
    decoded: dict[bytes, np.ndarray | ImageError] = {}
    for content_hash, encoded in unknown.items():
        decoded[content_hash] = _attempt(classifier.decode, encoded)
        on_progress()
    logits: dict[bytes, np.ndarray] = {}
    broken: dict[bytes, ImageError] = {}
    for content_hash, pixels in decoded.items():
        found = pixels if isinstance(pixels, ImageError) else _attempt(classifier.infer, pixels)
        if isinstance(found, ImageError):
            broken[content_hash] = found
        else:
            logits[content_hash] = found
        on_progress()
    for content_hash, predictions in zip(logits, _label_all(classifier, [*logits.values()], top_k), strict=True):
        if isinstance(predictions, ImageError):
            broken[content_hash] = predictions
        else:
            labels_of[content_hash] = [(one.label, one.confidence) for one in predictions]
    for image, fetched in row:
        if fetched.content_hash in broken:
            yield _failure(image, broken[fetched.content_hash], fetched)
            continue
        labels = labels_of[fetched.content_hash]
        yield Answer(
            image_id=image.image_id,
            fingerprint=fetched.fingerprint,
            content_hash=fetched.content_hash,
            labels=labels,
            # The first of those with the same bytes is not.
            reused=unknown.pop(fetched.content_hash, None) is None,
            needs_review=classifier.version.needs_review(*labels[0]),
        )


def _label_all(
    classifier: "Classifier", logits: Sequence["np.ndarray"], top_k: int
) -> "Sequence[list[Prediction] | ImageError]":
    """At once, as what NumPy's calls cost hardly depends on how many images there are; where that fails, one by one."""
    at_once = _attempt(classifier.label, logits, top_k)
    if not isinstance(at_once, ImageError):
        return at_once
    alone = [_attempt(classifier.label, [one], top_k) for one in logits]
    return [found if isinstance(found, ImageError) else found[0] for found in alone]


def _attempt(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | ImageError:
    """What it returns, or why this image has no answer: one image never fails its batch."""
    try:
        return step(*args, **kwargs)
    except (SetupError, TransientError):  # Which are no image's.
        raise
    except Exception as error:  # noqa: BLE001
        return _explain(error)


def _fetch_all(
    images: Sequence[ClaimedImage], max_bytes: int, access: BucketAccess, on_progress: Callable[[], object]
) -> Iterator[tuple[list[tuple[ClaimedImage, Fetched]], list[Failure]]]:
    """Groups of fetched images, and the failures among them, until every image was in one."""
    group: list[tuple[ClaimedImage, Fetched]] = []
    failures: list[Failure] = []
    held = 0
    # Files come from the page cache or a disk, where a second reader is no help.
    ahead = any(is_remote(image.uri) for image in images)
    most = _IMAGES_PER_GROUP if ahead else len(images) + 1
    for image, get in (_fetch_ahead if ahead else _fetch_in_turn)(images, max_bytes, access, on_progress):
        try:
            fetched = get()
        except (ImageError, MemoryError) as error:
            failures.append(_failure(image, _explain(error)))
        else:
            group.append((image, fetched))
            held += len(fetched.encoded)
        on_progress()
        if held >= _BYTES_HELD or len(group) >= most:
            yield group, failures
            group, failures, held = [], [], 0
    yield group, failures


def _fetch_in_turn(
    images: Sequence[ClaimedImage], max_bytes: int, access: BucketAccess, on_progress: Callable[[], object]
) -> Iterator[tuple[ClaimedImage, Callable[[], Fetched]]]:
    for image in images:
        yield image, partial(fetch, image.uri, max_bytes=max_bytes)


def _fetch_ahead(
    images: Sequence[ClaimedImage], max_bytes: int, access: BucketAccess, on_progress: Callable[[], object]
) -> Iterator[tuple[ClaimedImage, Callable[[], Fetched]]]:
    """Fetch some at once, and go on with that while the caller works on what it got; in the order of the images."""
    stopped = threading.Event()
    running: deque[tuple[ClaimedImage, Future[Fetched], int]] = deque()
    pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")
    try:
        for image in images:
            size = listed_as(image.fingerprint)[0]
            # By what the listing says of their sizes; an image that grew since is bounded by `max_bytes`.
            while running and (
                len(running) >= _IMAGES_AHEAD or size + sum(ahead for _, _, ahead in running) > _BYTES_HELD
            ):
                yield _wait_for(running, on_progress)
            job = pool.submit(
                fetch, image.uri, max_bytes=max_bytes, access=access, listed=image.fingerprint, stopped=stopped
            )
            running.append((image, job, size))
        while running:
            yield _wait_for(running, on_progress)
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _wait_for(
    running: "deque[tuple[ClaimedImage, Future[Fetched], int]]", on_progress: Callable[[], object]
) -> tuple[ClaimedImage, Callable[[], Fetched]]:
    image, job, _ = running.popleft()
    while not wait([job], _WAITING_SECONDS).done:
        on_progress()
    return image, job.result


def _failure(image: ClaimedImage, error: ImageError, fetched: Fetched | None = None) -> Failure:
    return Failure(
        image_id=image.image_id,
        fingerprint=fetched.fingerprint if fetched else image.fingerprint,
        reason=error.reason,
        # What no database keeps, a NUL or half of a surrogate pair, is not to fail the whole run.
        message="".join(character if character.isprintable() else " " for character in str(error)),
    )


def _explain(error: Exception) -> ImageError:
    """A new error: the old one's traceback holds what was decoded when it came, which may be hundreds of megabytes."""
    if isinstance(error, ImageError):
        return ImageError(error.reason, str(error))
    if isinstance(error, MemoryError):
        return ImageError(FailureReason.TOO_LARGE, "needs more memory than TAGMILL_MEMORY_BYTES allows")
    return ImageError(FailureReason.UNREADABLE, f"{type(error).__name__}: {error}"[:300])
