"""The parts of the work alone: decoding, and the engine, each in as many processes as a worker has."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import cycle
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.decoding import DecodingLimits, decode
from models.preprocessing import Preprocessing, fit
from models.registry import ModelVersion, load_engine

_LIMITS = DecodingLimits(max_bytes=2**30, max_pixels=2**30)
_PATIENCE_SECONDS = 900
# An engine may do better with several images at once, and their pixels should not all be in the cache.
_AT_ONCE, _DIFFERENT = 16, 64


def decoding_speed(
    paths: Sequence[Path], preprocessing: Preprocessing, *, processes: int, in_full: bool = False
) -> float:
    """Files read and decoded per second, as a worker does it; or in full, and made small only then."""
    shares = [(list(paths[number::processes]), preprocessing, in_full) for number in range(processes)]
    return len(paths) / _seconds(_decode, shares)


def engine_speed(version: ModelVersion, file: str, paths: Sequence[Path], images: int, *, processes: int) -> float:
    """Images per second through an engine file, one thread for each process; their pixels are there already."""
    each = -(-images // processes)
    return each * processes / _seconds(_run_engine, [(version, file, list(paths[:_DIFFERENT]), each)] * processes)


def ceiling(decoding: float, engine: float) -> float:
    """Images per second when each process does one after the other, and nothing else."""
    return 1 / (1 / decoding + 1 / engine)


def _seconds(work: Callable[..., None], shares: Sequence[tuple[Any, ...]]) -> float:
    """How long the work takes, a process for each share, from when all of them are ready.

    Raises:
        SystemExit: one of them ended before its work was done; what it said is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(shares) + 1)
    processes = [context.Process(target=work, args=(barrier, *share), daemon=True) for share in shares]
    for process in processes:
        process.start()
    # Whoever ends too early does not come to the barrier, and the others would wait for it.
    watching = threading.Thread(target=_break_when_one_fails, args=(barrier, processes), daemon=True)
    watching.start()
    try:
        barrier.wait(_PATIENCE_SECONDS)
        began = time.monotonic()
        barrier.wait(_PATIENCE_SECONDS)
        seconds = time.monotonic() - began
    except threading.BrokenBarrierError:
        codes = [process.exitcode for process in processes]  # None of those that run.
        for process in processes:
            process.terminate()
            process.join()
        raise SystemExit(f"bench: the processes ended with {codes}; mend what they say above") from None
    for process in processes:
        process.join()
    return seconds


def _break_when_one_fails(barrier: Barrier, processes: Sequence[BaseProcess]) -> None:
    running = list(processes)
    while running:
        wait([process.sentinel for process in running])
        running = [process for process in running if process.is_alive()]
        if any(process.exitcode for process in processes):
            barrier.abort()


def _decode(barrier: Barrier, paths: Sequence[Path], preprocessing: Preprocessing, in_full: bool) -> None:
    def decode_one(encoded: bytes) -> np.ndarray:
        if not in_full:
            return decode(encoded, preprocessing, _LIMITS)
        with Image.open(BytesIO(encoded)) as image:
            return fit(image.convert("RGB"), preprocessing)

    decode_one(paths[0].read_bytes())
    barrier.wait(_PATIENCE_SECONDS)
    for path in paths:
        decode_one(path.read_bytes())
    barrier.wait(_PATIENCE_SECONDS)


def _run_engine(barrier: Barrier, version: ModelVersion, file: str, paths: Sequence[Path], images: int) -> None:
    engine = load_engine(version, file)
    decoded = [decode(path.read_bytes(), version.preprocessing, _LIMITS) for path in paths]
    groups = [np.stack(decoded[start : start + _AT_ONCE]) for start in range(0, len(decoded), _AT_ONCE)]
    engine.predict_logits(groups[0])
    barrier.wait(_PATIENCE_SECONDS)
    left = images
    for group in cycle(groups):
        engine.predict_logits(group[:left])
        left -= len(group)
        if left <= 0:
            break
    barrier.wait(_PATIENCE_SECONDS)
