"""A worker without Celery: a process for each batch, and a parent that gives back what dead ones held.

A program of its own, as it forks. The claim, the alarm, the limit of memory and what the parent says of a death are
those of the real worker; only the engine is not.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from types import SimpleNamespace

from base.settings import Settings
from models.predictions import Prediction
from results import ledger
from results.runs import close_runs
from results.session import Database, parse_database_url
from worker import heartbeat, tasks
from worker.identity import worker_id
from worker.memory import limit_memory
from worker.reconciler import _Processes

# An image may take half a second in all, which is shorter than anybody may set it.
SETTINGS = Settings.model_construct(lease_seconds=60.0, image_seconds=0.3)
ALARM_SLACK_SECONDS = 0.2
GROWTH_BYTES = 64 * 2**20


def hog_in_c() -> None:
    """As a library in C does that takes it for granted that there is memory."""
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_void_p
    while block := allocate(2**20):
        ctypes.memset(block, 1, 2**20)
    os.abort()


# What an image does to the process that looks at it, by its content.
DEEDS: dict[bytes, Callable[[], object]] = {
    b"kills": lambda: os.kill(os.getpid(), signal.SIGKILL),
    b"crashes": lambda: ctypes.string_at(0),
    b"hangs": lambda: time.sleep(600),
    b"hogs": lambda: bytearray(2**40),
    b"hogs in C": hog_in_c,
}


class PoisonedClassifier:
    """Does what an image says; of any other it says that it is a cat."""

    version = SimpleNamespace(labels=("cat", "dog"), needs_review=lambda *_: False)

    def decode(self, encoded: bytes) -> bytes:
        DEEDS.get(encoded, lambda: None)()
        return encoded

    def infer(self, pixels: bytes) -> bytes:
        return pixels

    def label(self, logits: Sequence[bytes], k: int) -> list[list[Prediction]]:
        return [[Prediction(label="cat", confidence=0.75), Prediction(label="dog", confidence=0.25)] for _ in logits]


def load_classifier(*_: object) -> PoisonedClassifier:
    limit_memory(GROWTH_BYTES)  # As the real one ends.
    return PoisonedClassifier()


def work_on(address: str, batch_id: int) -> None:
    db = Database(parse_database_url(address, "address"))
    tasks.work_on(db, batch_id, SETTINGS)
    db.close()


def main() -> None:
    """Work on all that is due in a database, one batch after the other."""
    address = sys.argv[1]
    tasks._classifier = load_classifier
    heartbeat._ALARM_SLACK_SECONDS = ALARM_SLACK_SECONDS
    db = Database(parse_database_url(address, "address"))
    worker_id()  # Before a process is there, which inherits it.
    parent = _Processes()
    while due := ledger.take_due(db, room=1, queued=0, resend_seconds=30):
        db.close()  # A connection does not survive a fork.
        process = get_context("fork").Process(target=work_on, args=(address, due[0][1]))
        process.start()
        parent.give_back_dead(db, [process])
        process.join()
        parent.give_back_dead(db, [])
    close_runs(db)
