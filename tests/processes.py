"""Other processes, as tests look at them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def other_variables() -> dict[str, str]:
    """The environment without our settings: those of whoever runs the tests are not the tests'."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TAGMILL_")}


def is_running(pid: int) -> bool:
    """Whether it runs; a process that only waits for its parent to notice its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)


def kill(pid: int, signal_number: int) -> None:
    """Send a signal and wait for the process to end."""
    os.kill(pid, signal_number)
    wait_until(lambda: not is_running(pid))


def run_python(code: str, *words: object) -> str:
    """Run Python code in a process of its own, from an unrelated folder; it must end well.

    Returns:
        What it wrote to stdout and stderr.
    """
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        cwd="/",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run_together(code: str, *words: str, processes: int = 3) -> list[str]:
    """Run Python code in several processes that all begin at `sys.stdin.read(1)`; each must end well.

    Returns:
        What each wrote to stderr.
    """
    together = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            text=True,
        )
        for _ in range(processes)
    ]
    time.sleep(1.0)  # Until they have imported what they need.
    for process in together:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in together]
    assert [process.returncode for process in together] == [0] * processes, said
    return said
