"""Begin a run as the only command that runs its source."""

import contextlib
import os
import socket
import time
from collections.abc import Callable

from base.errors import SetupError
from results.runs import OpenRun, RunRequest, SourceHeld, let_go_of_run, open_run
from results.session import Database

_LOOK_SECONDS = 0.5


def holder() -> str:
    """What this command holds its runs as."""
    return f"{socket.gethostname()}/{os.getpid()}"


def start_run(db: Database, request: RunRequest, *, on_wait: Callable[[SourceHeld], object]) -> OpenRun:
    """Begin a run, or go on with the unfinished one, unless another command is running the source.

    A command that was killed held its source until it was killed. One of this machine that no longer exists is found
    at once; of one elsewhere we wait to see whether it still renews its hold.

    Args:
        on_wait: called once, before that.

    Raises:
        SetupError: the source is being run; the message names that run.
        ModelError: the database knows the model version with other contents.
    """
    first: SourceHeld | None = None
    while True:
        try:
            return open_run(db, request, holder=holder())
        except SourceHeld as held:
            if _is_gone(held.holder):
                let_go_of_run(db, held.run_id, held.holder)
                continue
            if first is None:
                first = held
                on_wait(held)
            elif held.held_until != first.held_until:
                raise SetupError(
                    f"{request.source} is being run: run {held.run_id}, by {held.holder}. Wait until it has ended "
                    f"('tagmill status {held.run_id}'), or stop it with 'tagmill cancel {held.run_id}'."
                ) from held
            time.sleep(_LOOK_SECONDS)


def _is_gone(other: str) -> bool:
    """Whether a holder is a process of this machine that has ended."""
    host, _, pid = other.rpartition("/")
    if host != socket.gethostname():
        return False
    with contextlib.suppress(PermissionError):  # It lives, and is another user's.
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return False
