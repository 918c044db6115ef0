"""What tells a worker that works from one that hangs."""

import faulthandler
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Setting the alarm anew starts a thread; done for every image it would cost more than it protects.
_ALARM_SLACK_SECONDS = 1.0

#: How a process ends that was stopped by its own alarm; `faulthandler` fixes it.
ALARM_EXIT_CODE = 1


class Heartbeat:
    """Renews a batch's lease as long as its images make progress, and ends the process when one of them hangs.

    The alarm is `faulthandler`'s: it fires inside C code too, whoever holds the interpreter's lock, and writes where
    the process hung. The worker's parent sees the exit code, and the batch goes on elsewhere.

    Args:
        extend: renews the lease; what it raises reaches whoever reports progress.
        lease_seconds: how long a lease lasts; it is renewed after a third of that.
        image_seconds: how long one image may take.
    """

    def __init__(self, extend: Callable[[], object], *, lease_seconds: float, image_seconds: float) -> None:
        self._extend = extend
        self._renew_after = lease_seconds / 3
        self._image_seconds = image_seconds
        self._renewed = time.monotonic()
        self._armed: float | None = None

    def beat(self) -> None:
        """Report that an image is done."""
        now = time.monotonic()
        if now - self._renewed > self._renew_after:
            with self.paused():
                self._extend()
            self._renewed = time.monotonic()
        elif self._armed is not None and now - self._armed > _ALARM_SLACK_SECONDS:
            self._arm()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch what the block does."""
        self._arm()
        try:
            yield
        finally:
            self._disarm()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the watch what is not an image's fault, such as waiting for the database."""
        self._disarm()
        try:
            yield
        finally:
            self._arm()

    def _arm(self) -> None:
        self._armed = time.monotonic()
        stderr_number = 2  # Not sys.stderr, which somebody may have replaced by what is no file.
        faulthandler.dump_traceback_later(self._image_seconds + _ALARM_SLACK_SECONDS, exit=True, file=stderr_number)

    def _disarm(self) -> None:
        self._armed = None
        faulthandler.cancel_dump_traceback_later()
