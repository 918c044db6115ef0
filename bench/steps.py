"""What each step of a batch takes, as the processes that `bench.ledger` starts note it.

Every line of what it writes is [process, step, when it began, when it ended, how long a core worked on it, images], in
seconds; the images are those that the step has ended.
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
    def step(self, name: str, images: int = 0) -> Iterator[None]:
        """What the block does, and how many images it ends."""
        began, worked = time.monotonic(), time.process_time()
        yield
        line = json.dumps([os.getpid(), name, began, time.monotonic(), time.process_time() - worked, images])
        with open(self._folder / f"{os.getpid()}.jsonl", "a") as file:
            file.write(f"{line}\n")

    def timed(
        self, step: str, function: Callable[..., Any], images: Callable[..., int] = lambda *arguments, **named: 0
    ) -> Callable[..., Any]:
        """The same function, noted whenever it is called.

        Args:
            images: how many a call ends, from its arguments.
        """

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with self.step(step, images(*arguments, **named)):
                return function(*arguments, **named)

        return call
