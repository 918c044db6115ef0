"""How fast this machine classifies, found by doing it."""

import time
from collections.abc import Sequence
from contextlib import suppress

from base.errors import ImageError
from models.classifier import Classifier
from worker.fetching import fetch


def measure_speed(
    classifier: Classifier, image_uris: Sequence[str], *, max_bytes: int, seconds: float = 2.0
) -> float | None:
    """Images per second of one worker process: fetched, decoded and classified, without the database.

    Args:
        image_uris: tried in turn until the time is over; the first is not counted, as it also warms up.

    Returns:
        None when there is nothing to measure with.
    """
    measured, begun = 0, time.monotonic()
    for number, uri in enumerate(image_uris):
        if number == 1:
            begun = time.monotonic()
        with suppress(ImageError, MemoryError):  # A broken image takes its time, too.
            classifier.predict(fetch(uri, max_bytes=max_bytes).encoded, 1)
        measured += number > 0
        if number and time.monotonic() - begun > seconds:
            break
    elapsed = time.monotonic() - begun
    return measured / elapsed if measured and elapsed > 0 else None
