"""What a worker process does with its time."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum


class Stage(StrEnum):
    """What one is doing; exactly one of these at any time, so that together they are all of its time."""

    WAITING = "waiting"  # For a message: from the end of a batch to the claim of the next one of the same run.
    LOADING = "loading"  # A model version, with the first batch that needs it.
    FETCHING = "fetching"  # Reading and hashing bytes; of buckets and servers, what is not done ahead of the rest.
    DECODING = "decoding"  # From bytes to pixels, near the final size where the format allows that.
    PREPROCESSING = "preprocessing"  # Converting, cutting and resizing them to what the model sees.
    INFERENCE = "inference"  # From there to labels with confidences.
    SAVING = "saving"  # The transaction that ends a batch.
    LEDGER = "ledger"  # All else that is asked of the database: claims, renewals, twins.


class Stopwatch:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(Stage, 0.0)
        self._running, self._since = Stage.WAITING, time.perf_counter()

    def begin(self, stage: Stage) -> Stage:
        """End the stage that is running, and begin another.

        Returns:
            The one that was ended.
        """
        now = time.perf_counter()
        ended = self._running
        self._seconds[ended] += now - self._since
        self._running, self._since = stage, now
        return ended

    @contextmanager
    def during(self, stage: Stage) -> Iterator[None]:
        """Count a block as one stage; the one that it interrupts goes on afterwards."""
        interrupted = self.begin(stage)
        try:
            yield
        finally:
            self.begin(interrupted)

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """Those of each stage since they were last taken; of the one that is running, up to its last beginning."""
        return self._seconds

    def take(self) -> Mapping[Stage, float]:
        """The seconds since they were last taken, which then begin with zero."""
        self.begin(self._running)
        taken, self._seconds = self._seconds, dict.fromkeys(Stage, 0.0)
        return taken
