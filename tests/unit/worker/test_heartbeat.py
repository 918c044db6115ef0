"""Progress renews the lease, and a process that makes none ends itself, inside C code too."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker.heartbeat import ALARM_EXIT_CODE, Heartbeat

_CHILD = """
import sys, time
from worker.heartbeat import Heartbeat
heartbeat = Heartbeat(lambda: None, lease_seconds=60, image_seconds=1)
{body}
print("alive")
"""


def run(body: str) -> tuple[int, str]:
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-c", _CHILD.format(body=body)], capture_output=True, text=True, timeout=20, cwd=root
    )
    return found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize(
    "body",
    [
        "with heartbeat.running(): time.sleep(30)",
        "with heartbeat.running():\n    while True: pass",
        "import re\nwith heartbeat.running(): re.match('(a+)+$', 'a' * 60 + 'b')",  # C code that holds the lock.
    ],
)
def test_image_that_hangs_ends_the_process(body: str) -> None:
    code, said = run(body)

    assert code == ALARM_EXIT_CODE
    assert "Timeout" in said
    assert "alive" not in said


def test_waiting_while_paused_is_no_image_that_hangs() -> None:
    code, said = run("with heartbeat.running():\n    with heartbeat.paused(): time.sleep(2.4)")

    assert (code, said.strip()) == (0, "alive")


def test_process_is_not_watched_after_the_batch() -> None:
    code, said = run("with heartbeat.running(): pass\ntime.sleep(2.4)")

    assert (code, said.strip()) == (0, "alive")


def test_progress_keeps_the_process_alive() -> None:
    code, said = run("with heartbeat.running():\n    for _ in range(26): time.sleep(0.1); heartbeat.beat()")

    assert (code, said.strip()) == (0, "alive")


def test_lease_is_renewed_after_a_third() -> None:
    renewed: list[float] = []
    heartbeat = Heartbeat(lambda: renewed.append(time.monotonic()), lease_seconds=0.6, image_seconds=30)
    begun = time.monotonic()
    with heartbeat.running():
        while len(renewed) < 2:
            heartbeat.beat()

    assert renewed[0] - begun >= 0.19
    assert renewed[1] - renewed[0] >= 0.19


def test_lost_lease_reaches_whoever_reports_progress() -> None:
    def lose() -> None:
        raise RuntimeError("lease lost")

    heartbeat = Heartbeat(lose, lease_seconds=0, image_seconds=30)
    time.sleep(0.01)

    with pytest.raises(RuntimeError, match="lease lost"), heartbeat.running():
        heartbeat.beat()
