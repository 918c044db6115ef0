"""Ctrl-C and SIGTERM, as a KeyboardInterrupt that comes where it does no harm.

Python raises it between any two steps of the main thread. Inside a transaction it may come before SQLAlchemy knows that
there is one: that is never ended then, and the command, which is to end in good order, waits for a lock of its own.
Inside a finalizer it is dropped.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The signals that came to this process, and what they have to wait for."""

    def __init__(self) -> None:
        self._came = 0
        self._waited_for = 0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The handler of the signals; the second one waits for nothing."""
        self._came += 1
        if not self._waited_for or self._came > 1:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise what came and was dropped; to be called now and then by what lasts.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        if self._came:
            raise KeyboardInterrupt

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Have a signal that comes in the block wait for its end, which should be near.

        Raises:
            KeyboardInterrupt: one came.
        """
        if threading.current_thread() is not threading.main_thread():  # Nothing is raised in others.
            yield
            return
        before = self._came
        self._waited_for += 1
        try:
            yield
        finally:
            self._waited_for -= 1
            if self._came > before and not self._waited_for:
                raise KeyboardInterrupt


#: Signals are the process's, and so is this.
interrupts = Interrupts()
