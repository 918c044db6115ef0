"""The worker of a command: it loads before there is work, begins once it is told, and never outlives the command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import SetupError
from base.settings import Settings
from broker.processes import CODE_FOLDER
from results.schema import open_database
from results.session import Database
from tests.processes import kill, other_variables, wait_until
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


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    database = open_database(settings, create=True)
    yield database
    database.close()


def times_ready(home: Path) -> int:
    return (home / "worker.log").read_text().count("worker_ready")


def test_worker_that_never_began_is_ended_with_the_block(settings: Settings) -> None:
    with LocalWorker(settings, processes=1):
        assert workers(settings.home)

    assert workers(settings.home) == []
    assert (settings.home / "worker.log").read_text() == ""


def test_worker_ends_with_a_command_that_was_killed_before_it_began(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_BEFORE_IT_BEGINS, str(tmp_path)],
        cwd=CODE_FOLDER,
        env=other_variables() | {"PYTHONPATH": str(CODE_FOLDER), "TMPDIR": str(tmp_path)},
        check=False,
    )

    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not workers(tmp_path))
    assert (tmp_path / "worker.log").read_text() == ""


def test_worker_begins_when_it_is_told(valkey: Valkey, db: Database, settings: Settings) -> None:
    with LocalWorker(settings, processes=1) as worker:
        assert_begins(worker, db, valkey, settings.home)


def test_worker_that_died_while_it_loaded_is_started_again(valkey: Valkey, db: Database, settings: Settings) -> None:
    with LocalWorker(settings, processes=1) as worker:
        (loading,) = workers(settings.home)
        kill(loading, signal.SIGKILL)

        assert_begins(worker, db, valkey, settings.home)


def test_block_ends_as_it_was_ended_where_nothing_else_is_loaded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ctrl-C comes while the command itself loads SQLAlchemy, which cannot be loaded again then."""
    monkeypatch.setitem(sys.modules, "results", None)

    with pytest.raises(KeyboardInterrupt), LocalWorker(settings, processes=1):
        raise KeyboardInterrupt

    assert workers(settings.home) == []


def test_home_that_cannot_be_written_is_refused(settings: Settings) -> None:
    (settings.home / "worker.log").mkdir()

    with pytest.raises(SetupError, match=r"cannot write to .*: Is a directory\. Name another folder with TAGMILL_HOME"):
        LocalWorker(settings, processes=1).__enter__()


def assert_begins(worker: LocalWorker, db: Database, valkey: Valkey, home: Path) -> None:
    """Once it is told, it gets ready for the first time; and none of its processes is left when it is stopped."""
    worker.begin(db, valkey.url)

    def is_ready() -> bool:
        worker.check(claims=0)
        return times_ready(home) == 1

    wait_until(is_ready, seconds=60)
    worker.stop()
    wait_until(lambda: not workers(home))
