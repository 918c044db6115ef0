"""What each step of a batch takes, as the processes that `bench.ledger` starts note it.

Every line of what it writes is [process, step, when it began, when it ended, how long a core worked on it], in seconds.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Names the folder to write into: one file for each process.
STEPS = "BENCH_STEPS"


class Steps:
    """What a process notes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What the block does."""
        began, worked = time.monotonic(), time.process_time()
        yield
        line = json.dumps([os.getpid(), name, began, time.monotonic(), time.process_time() - worked])
        with open(self._folder / f"{os.getpid()}.jsonl", "a") as file:
            file.write(f"{line}\n")

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, noted whenever it is called."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.step(step):
                return function(*arguments, **named)

        return call
