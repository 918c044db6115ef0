"""The points at which a process may end: before and after each commit, each send and each acknowledgement.

They are met in the libraries that commit, send and acknowledge, so that the product knows nothing of it, and what it
does more of one day is a point by itself. Only the main thread counts: when a thread that renews something comes by is
a matter of time, and what it writes changes nothing but until when somebody is believed to live.
"""

import mmap
import os
import re
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from celery import signals
from kombu.transport.redis import QoS
from sqlalchemy.engine.default import DefaultDialect

_WRITE = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) (\w+)(?: SET (.*?) WHERE)?", re.DOTALL)


class Points:
    """Counts the points of a role, in all its processes together, and ends the one that comes to a chosen point.

    Args:
        folder: where it notes what they were.
    """

    def __init__(self, folder: Path) -> None:
        self._names = folder / "points"
        self._shared = mmap.mmap(-1, struct.calcsize("qq"))  # A forked process sees the same bytes.
        self._signal = signal.SIGKILL
        self._on_end: Callable[[], object] | None = None
        self._meet_commits()
        self._meet_sends()
        self._meet_acknowledgements()

    def begin(self, end_at: int, how: signal.Signals) -> None:
        """Count from 1 again.

        Args:
            end_at: the number of the point to end at; 0: only count.
            how: SIGKILL, or SIGSTOP for a process that wakes up much later.
        """
        self._names.write_text("")
        self._signal = how
        struct.pack_into("qq", self._shared, 0, 0, end_at)

    def watch(self, on_end: Callable[[], object]) -> None:
        """Count what this process does from now on.

        Args:
            on_end: what it does before it ends.
        """
        self._on_end = on_end

    def names(self) -> list[str]:
        """What was met since `begin`."""
        return self._names.read_text().splitlines()

    def _meet(self, name: str) -> None:
        if self._on_end is None or threading.current_thread() is not threading.main_thread():
            return
        met, end_at = struct.unpack_from("qq", self._shared)
        struct.pack_into("qq", self._shared, 0, met + 1, end_at)
        with self._names.open("a") as names:
            names.write(name + "\n")
        if met + 1 == end_at:
            self._on_end()
            os.kill(os.getpid(), self._signal)

    def _meet_commits(self) -> None:
        @sa.event.listens_for(sa.Engine, "before_cursor_execute")
        def _note(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
            if (what := _written(statement)) is not None:
                connection.info.setdefault("written", {})[what] = None

        @sa.event.listens_for(sa.Engine, "rollback")
        def _forget(connection: sa.Connection) -> None:
            connection.info.pop("written", None)

        commit = DefaultDialect.do_commit

        def _commit(dialect: DefaultDialect, connection: Any) -> None:
            written = connection.info.pop("written", None)
            if written is None:  # It has only read.
                commit(dialect, connection)
                return
            what = ", ".join(written)
            self._meet(f"before the commit of {what}")
            commit(dialect, connection)
            self._meet(f"after the commit of {what}")

        DefaultDialect.do_commit = _commit  # type: ignore[method-assign]

    def _meet_sends(self) -> None:
        @signals.before_task_publish.connect(weak=False)
        def _before(sender: str, **_: object) -> None:
            self._meet(f"before the send of {sender}")

        @signals.after_task_publish.connect(weak=False)
        def _after(sender: str, **_: object) -> None:
            self._meet(f"after the send of {sender}")

    def _meet_acknowledgements(self) -> None:
        acknowledge = QoS.ack

        def _acknowledge(qos: QoS, tag: str) -> None:
            self._meet("before an acknowledgement")
            acknowledge(qos, tag)
            self._meet("after an acknowledgement")

        QoS.ack = _acknowledge


def _written(statement: str) -> str | None:
    """What a statement writes, in short; None where it only reads."""
    match = _WRITE.match(statement)
    if match is None:
        return None
    columns = re.findall(r"(\w+)\s*=", match[3] or "")
    return f"{match[1]} {match[2]}" + (f" ({' '.join(columns)})" if columns else "")
