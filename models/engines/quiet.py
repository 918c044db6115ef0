"""Silence for libraries that greet on stderr whenever they are loaded, and have no setting for that."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what is written to the process's stderr; only for what raises where something goes wrong."""
    stderr = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(silence)
        os.close(stderr)
