"""What a worker does with messages that are not ours, and what our processes let out of their settings."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from kombu import Connection

from broker.app import QUEUE
from models.registry import Registry
from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.servers import Valkey
from tests.strange_messages import strange_messages

# Every library of every process says all that it has to say.
TALKATIVE = "import logging, sys\nlogging.basicConfig(level=logging.DEBUG, stream=sys.stderr)\n"


def send_what_is_not_ours(broker_url: str, trap: Path) -> None:
    """Put messages into the queue that nobody should act on."""
    with Connection(broker_url) as connection, connection.Producer() as producer:
        for number, message in enumerate(strange_messages(trap)):
            producer.publish(
                message.body,
                routing_key=QUEUE,
                headers={"task": message.task, "id": f"strange-{number}", "lang": "py"},
                content_type=message.content_type,
                content_encoding="utf-8",
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
