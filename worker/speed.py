"""How fast this machine classifies, found by doing it."""

import multiprocessing
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from base.buckets import BucketAccess
from base.errors import ImageError, TransientError
from models.classifier import Classifier
from models.decoding import DecodingLimits
from models.registry import ModelVersion
from worker.fetching import fetch

_MEASURED_SECONDS = 2.0
# Start, load, measure; an image that takes longer than this is one that a plan does not wait for.
_PATIENCE_SECONDS = 20.0


def measure_speed(
    version: ModelVersion, limits: DecodingLimits, image_uris: Sequence[str], *, access: BucketAccess
) -> float | None:
    """Images per second of one worker process: fetched, decoded and classified, without the database.

    In a process of its own, as images are opened that may hang it or end it.

    Args:
        image_uris: at least one; tried in turn until the time is over.
        access: how buckets are reached.

    Returns:
        None when that told nothing.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(sender, version, limits, image_uris, access), daemon=True)
    child.start()
    sender.close()
    try:
        return float(receiver.recv()) if receiver.poll(_PATIENCE_SECONDS) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def _measure(
    sender: Connection, version: ModelVersion, limits: DecodingLimits, image_uris: Sequence[str], access: BucketAccess
) -> None:
    classifier = Classifier(version, limits=limits)
    measured, begun = 0, time.monotonic()
    # The first one twice: the first time it also warms up, and does not count.
    for number, uri in enumerate([image_uris[0], *image_uris]):
        if number == 1:
            begun = time.monotonic()
        with suppress(ImageError, TransientError, MemoryError):  # A broken image takes its time, too.
            classifier.predict(fetch(uri, max_bytes=limits.max_bytes, access=access).encoded, 1)
        measured += number > 0
        if number and time.monotonic() - begun > _MEASURED_SECONDS:
            break
    sender.send(measured / (time.monotonic() - begun))
