"""Begin a run as the only command that runs its source."""

import contextlib
import functools
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from base.errors import AppError, SetupError
from base.settings import Settings
from models.pretrained import DEFAULT_MODEL
from models.registry import ModelVersion
from producer.sources import Source
from results.guard import Guard, parse_allowed
from results.runs import OpenRun, RunRequest, SourceHeld, hold_run, let_go_of_run, open_run
from results.session import Database
from results.staging import settle_runs

_LOOK_SECONDS = 0.5
_RENEW_SECONDS = 2.0


class SourceBusy(SetupError):
    """Another command is running the source."""


@functools.cache
def holder() -> str:
    """What this command holds its runs as: `host/process#space-token`.

    Containers may share a host's name and number their processes alike, so the space of process numbers is told too,
    and a token of this very process.
    """
    return f"{socket.gethostname()}/{os.getpid()}#{_process_space()}-{secrets.token_hex(4)}"


def make_request(
    source: Source,
    version: ModelVersion | None,
    *,
    everything: bool = False,
    top_k: int = 5,
    guard: Guard | None = None,
    deadline: float | None = None,
) -> RunRequest:
    """What a run of a source with a model version is asked for.

    Args:
        version: None: the default one, which is not in the registry yet; good for looking only.
        guard: what has to hold before its answers are published; None: they are as it goes.
        deadline: seconds since 1970 by the database's clock; what is not reached by then is cancelled.
    """
    return RunRequest(
        source=source.uri,
        model=version.name if version else DEFAULT_MODEL,
        model_version=version.version if version else 1,
        content_hash=version.content_hash if version else None,
        include=source.include,
        exclude=source.exclude,
        everything=everything,
        top_k=top_k,
        guard=guard,
        deadline=deadline,
    )


def guard_of(settings: Settings, max_failures: str | None) -> Guard:
    """The guard of a staged run.

    Args:
        max_failures: a number or a share of the listed images, such as `1%`; None: as many as fail.

    Raises:
        SetupError: it is neither.
    """
    parse_allowed(max_failures)
    return Guard(
        max_failures=max_failures,
        max_shrink=settings.guard_max_shrink,
        max_label_shift=settings.guard_max_label_shift,
        max_confidence_drop=settings.guard_max_confidence_drop,
    )


def start_run(db: Database, request: RunRequest, *, on_wait: Callable[[SourceHeld], object]) -> OpenRun:
    """Begin a run, or go on with the unfinished one, unless another command is running the source.

    A command that was killed held its source until it was killed. One of this machine that no longer exists is found
    at once; of one elsewhere we wait to see whether it still renews its hold.

    Args:
        on_wait: called once, before that.

    Raises:
        SourceBusy: the source is being run; the message names that run.
        ModelError: the database knows the model version with other contents.
    """
    settle_runs(db)  # What an earlier command left to be published counts as known.
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
                raise SourceBusy(
                    f"{request.source} is being run: run {held.run_id}, by {held.command}. Wait until it has ended "
                    f"('tagmill status {held.run_id}'), or stop it with 'tagmill cancel {held.run_id}'."
                ) from held
            time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def holding(db: Database, run_id: int) -> Iterator[None]:
    """Hold a run of ours while the block lasts, then leave it to whoever comes next.

    A thread renews the hold: a listing may wait for a store, or pass over what is no image, for longer than it lasts.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(AppError):  # The block meets the same, and tells of it.
                hold_run(db, run_id, holder())

    thread = threading.Thread(target=renew, name="hold", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(AppError):  # Whatever ends the block is to be told, and a hold ends by itself.
            let_go_of_run(db, run_id, holder())


def _is_gone(other: str) -> bool:
    """Whether a holder is a process of this machine that has ended."""
    process, _, token = other.partition("#")
    host, _, pid = process.rpartition("/")
    if host != socket.gethostname() or token.partition("-")[0] != _process_space():
        return False
    with contextlib.suppress(PermissionError):  # It lives, and is another user's.
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return False


def _process_space() -> str:
    """Within which a process number means one process; empty where the system knows only one."""
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""
