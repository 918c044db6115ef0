"""The console script as a user runs it: a folder in, rows out."""

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from models.registry import Registry
from tests.processes import other_variables

PATIENCE_SECONDS = 120


class Tagmill:
    """Runs `tagmill` with a home of its own."""

    def __init__(self, home: Path, models: Path) -> None:
        self.home = home
        self.folder = home.parent
        # No tagmill.toml either that may lie where the tests are started.
        ours = {"TAGMILL_CONFIG": os.devnull, "TAGMILL_HOME": str(home), "TAGMILL_MODELS_URL": str(models)}
        self.environment = other_variables() | ours

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, which must be `code`."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == code, f"{arguments} ended with {process.returncode}:\n{out}\n{err}"
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, code, out, err)

    def run(self, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
        """The summary of `tagmill run`, with one worker process unless that is told otherwise: each costs a second."""
        is_ours = "TAGMILL_BROKER_URL" not in self.environment and "--workers" not in arguments
        one = ("--workers", "1") if is_ours else ()
        facts: dict[str, Any] = json.loads(self("run", *arguments, *one, "--json", code=code).stdout)
        return facts

    def sql(self, query: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self("sql", query, "--format", "csv").stdout)))

    def rows(self) -> dict[str, tuple[str, float]]:
        """The label and confidence of each image, by its file's name."""
        return {
            row["image_uri"].rpartition("/")[2]: (row["label"], float(row["confidence"]))
            for row in self.sql("SELECT image_uri, label, confidence FROM current_labels")
        }

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return facts

    def processes(self, *words: str) -> list[int]:
        """What runs for this home, other than what the test itself waits for: the broker, its guard, the workers."""
        return [pid for pid, command in _commands(self.home) if all(word in command for word in words)]

    def wait_for(self, what: str, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}; {self.last_words()}"
            time.sleep(0.05)

    def wait_for_batches(self, number: int) -> None:
        """Until so many batches are done, seen in the database file itself, which costs no command's start."""

        def done() -> bool:
            try:
                with sqlite3.connect(f"file:{self.home / 'tagmill.db'}?mode=ro", uri=True) as connection:
                    (batches,) = connection.execute("SELECT count(*) FROM batches WHERE status = 'done'").fetchone()
            except sqlite3.Error:
                return False
            return bool(batches >= number)

        self.wait_for(f"{number} batches", done)

    def broker(self) -> "redis.Redis":
        """A client of the embedded broker."""
        return redis.Redis.from_url(json.loads((self.home / "broker" / "address.json").read_text())["url"])

    def last_words(self) -> str:
        log = self.home / "worker.log"
        return log.read_text()[-2000:] if log.exists() else "no worker log"


def _commands(home: Path) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace")
            state = (folder / "stat").read_text().rpartition(") ")[2][:1]
        except OSError:
            continue
        is_zombie = state == "Z"
        if not is_zombie and (str(home) in command or f"TAGMILL_HOME={home}\0" in environment):
            yield int(folder.name), command


@pytest.fixture
def tagmill(tmp_path: Path, pretrained_registry: Registry) -> Iterator[Tagmill]:
    """`tagmill` in an empty home, with the pretrained model; nothing of it may be left running."""
    commands = Tagmill(tmp_path / "home", pretrained_registry.root)
    yield commands
    left = commands.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, pretrained_registry: Registry, foolbox_photos: list[Path]
) -> Tagmill:
    """`tagmill` after a run of the 20 photographs; for tests that only ask."""
    commands = Tagmill(tmp_path_factory.mktemp("finished") / "home", pretrained_registry.root)
    commands.run(foolbox_photos[0].parent, "--include", "imagenet_*.jpg")
    return commands


@pytest.fixture(scope="session")
def foolbox_photos() -> list[Path]:
    """20 photographs of the foolbox wheel, whose names end with their ImageNet class index."""
    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*.jpg"))


@pytest.fixture
def photos(tmp_path: Path, foolbox_photos: list[Path]) -> Path:
    """A folder of those photographs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in foolbox_photos:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder
