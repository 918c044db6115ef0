"""The worker of a command: it loads before there is work, begins once it is told, and never outlives the command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from base.settings import Settings
from broker.processes import CODE_FOLDER
from results.schema import open_database
from tests.servers import Valkey
from worker.local import LocalWorker

_KILLED_BEFORE_IT_BEGINS = """
import os, signal, sys
from pathlib import Path
from base.settings import Settings
from worker.local import LocalWorker

with LocalWorker(Settings(home=Path(sys.argv[1])), processes=1):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def workers(home: Path) -> list[int]:
    """The processes of the worker of a home; they name it in what they write to."""
    log = str(home / "worker.log")
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.readlink(folder / "fd" / "1") == log:
                found.append(int(folder.name))
        except OSError:  # It has ended meanwhile, or is nobody's that we may look at.
            continue
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def times_ready(home: Path) -> int:
    return (home / "worker.log").read_text().count("worker_ready")


def test_worker_that_never_began_is_ended_at_once(tmp_path: Path) -> None:
    with LocalWorker(Settings(home=tmp_path), processes=1):
        assert workers(tmp_path)

    assert workers(tmp_path) == []
    assert (tmp_path / "worker.log").read_text() == ""


def test_worker_ends_with_a_command_that_was_killed_before_it_began(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED_BEFORE_IT_BEGINS, str(tmp_path)]
    killed = subprocess.run(command, cwd=CODE_FOLDER, env=os.environ | {"PYTHONPATH": str(CODE_FOLDER)}, check=False)

    assert killed.returncode == -signal.SIGKILL
    wait_for(lambda: not workers(tmp_path))
    assert (tmp_path / "worker.log").read_text() == ""


@pytest.mark.parametrize("dies", [False, True], ids=["that loads", "that died while it loaded"])
def test_worker_begins_when_it_is_told(valkey: Valkey, tmp_path: Path, dies: bool) -> None:
    settings = Settings(home=tmp_path)
    db = open_database(settings, create=True)
    with LocalWorker(settings, processes=1) as worker:
        if dies:
            wait_for(lambda: workers(tmp_path))
            for pid in workers(tmp_path):
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not workers(tmp_path))
        worker.begin(db, valkey.url)

        def is_ready() -> bool:
            worker.check(claims=0)
            return times_ready(tmp_path) == 1

        wait_for(is_ready)
        worker.stop()

        wait_for(lambda: not workers(tmp_path))  # Those that are not its children end by themselves, if at once.
    assert times_ready(tmp_path) == 1
    db.close()
