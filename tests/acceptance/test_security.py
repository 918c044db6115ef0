"""What a worker does with messages that are not ours, and what our processes let out of their settings."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from broker.app import QUEUE
from broker.messages import CLASSIFY_BATCH
from models.registry import Registry
from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.servers import Valkey

# Every library of every process says all that it has to say.
TALKATIVE = "import logging, sys\nlogging.basicConfig(level=logging.DEBUG, stream=sys.stderr)\n"


class Evil:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def send_what_is_not_ours(broker_url: str, trap: Path) -> None:
    """Put messages into the queue that nobody should act on."""
    json, pickled, yaml = "application/json", "application/x-python-serialize", "application/x-yaml"
    yaml_trap = f"!!python/object/apply:os.mkdir ['{trap}']"
    messages: list[tuple[str, str, str, bytes | str]] = [
        (CLASSIFY_BATCH, pickled, "binary", pickle.dumps(((), {"run_id": Evil(trap)}, {}))),
        (CLASSIFY_BATCH, yaml, "utf-8", f"[[], {{run_id: {yaml_trap}}}, {{}}]"),
        (CLASSIFY_BATCH, "text/plain", "utf-8", "no message at all"),
        (CLASSIFY_BATCH, json, "utf-8", "[[], {"),
        (CLASSIFY_BATCH, json, "utf-8", '[[], {"run_id": "1", "batch_id": 1}, {}]'),
        (CLASSIFY_BATCH, json, "utf-8", '[[], {"run_id": 1, "batch_id": 999}, {}]'),
        (CLASSIFY_BATCH, json, "utf-8", "[[1, 2, 3], {}, {}]"),
        ("os.mkdir", json, "utf-8", f'[["{trap}"], {{}}, {{}}]'),
        ("tagmill.run_slot", json, "utf-8", "[[], {}, {}]"),
    ]
    with Connection(broker_url) as connection, connection.Producer() as producer:
        for number, (task, content_type, encoding, body) in enumerate(messages):
            producer.publish(
                body,
                routing_key=QUEUE,
                headers={"task": task, "id": f"strange-{number}", "lang": "py"},
                content_type=content_type,
                content_encoding=encoding,
                declare=[connection.SimpleQueue(QUEUE).queue],
            )


@contextmanager
def running(commands: Tagmill, *words: str) -> Iterator[Path]:
    """A command in the background; yields the file of all that it says, and ends it with the block."""
    told = commands.folder / f"{words[0]}.log"
    with open(told, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words], env=commands.environment, stdout=file, stderr=file
        )
    try:
        yield told
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0, told.read_text()[-2000:]


@pytest.fixture
def talkative(tmp_path: Path, pretrained_registry: Registry, postgres_database: str, valkey: Valkey) -> Tagmill:
    """`tagmill` on servers with passwords, all of whose processes log all they can."""
    commands = Tagmill(tmp_path / "home", pretrained_registry.root)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TALKATIVE)
    commands.environment |= {
        "PYTHONPATH": str(tmp_path / "site"),
        "TAGMILL_DATABASE_URL": postgres_database,
        "TAGMILL_BROKER_URL": valkey.url,
        "TAGMILL_IMAGES_PER_BATCH": "4",
    }
    commands("db", "upgrade")
    return commands


def test_strange_messages_are_ignored_and_secrets_kept(talkative: Tagmill, tmp_path: Path, valkey: Valkey) -> None:
    secret, trap = valkey.url.split("@")[0].rpartition(":")[2], tmp_path / "trap"
    assert secret in talkative.environment["TAGMILL_DATABASE_URL"]
    send_what_is_not_ours(valkey.url, trap)

    with ExitStack() as stack:
        parts = (("worker", "--processes", "1"), ("producer", "--processes", "1"), ("beat",))
        logs = [stack.enter_context(running(talkative, *words)) for words in parts]
        ended = talkative("run", make_many(tmp_path / "many", 8), "--json")
        lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in talkative.processes()]
        valkey.process.kill()
        talkative.wait_for("the libraries to tell of it", lambda: "Cannot connect to" in logs[0].read_text())

    assert '"classified": 8' in ended.stdout
    assert not trap.exists()
    told = [ended.stdout, ended.stderr, *lines, *(log.read_text() for log in logs)]
    assert [text for text in told if secret in text] == []
    assert all("DEBUG:celery" in text for text in told[-3:]) and len(lines) >= 5
