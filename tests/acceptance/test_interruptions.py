"""Whatever is killed, cut off or flushed in the middle of a run: it completes, and `verify` proves it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many

IMAGES = 400


@pytest.fixture
def many(tagmill: Tagmill, tmp_path: Path) -> Path:
    """A folder whose run has 25 batches, so that it is still in the middle when a slow test has found what to kill."""
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    return make_many(tmp_path / "many", IMAGES)


def finish(process: "subprocess.Popen[str]", seconds: float = 90) -> str:
    _, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return err


def assert_proved(tagmill: Tagmill) -> None:
    assert f"{IMAGES} listed = {IMAGES} classified" in tagmill("verify").stdout
    rows = tagmill.sql("SELECT image_uri, count(*) AS rows FROM current_labels GROUP BY image_uri")
    assert [row["rows"] for row in rows] == ["1"] * IMAGES


def test_run_survives_kill_of_every_worker_process(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "2")
    tagmill.wait_for_batches(3)

    for pid in tagmill.processes("celery"):
        os.kill(pid, signal.SIGKILL)

    assert "worker_died" in finish(process)
    assert_proved(tagmill)


def test_run_survives_kill_of_one_worker_process(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "2")
    tagmill.wait_for_batches(3)

    forked = max(tagmill.processes("celery_worker"))
    os.kill(forked, signal.SIGKILL)
    tagmill.wait_for("a process in its place", lambda: bool(tagmill.processes("spawn_main")))
    tagmill.wait_for_batches(8)
    os.kill(max(tagmill.processes("spawn_main")), signal.SIGKILL)

    finish(process)
    assert_proved(tagmill)


def test_run_survives_a_flushed_broker(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "1")
    tagmill.wait_for_batches(2)

    tagmill.broker().flushall()

    finish(process, seconds=60)
    assert_proved(tagmill)


def test_run_survives_kill_of_the_broker(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "1")
    tagmill.wait_for_batches(2)

    for pid in tagmill.processes("valkey.conf"):
        os.kill(pid, signal.SIGKILL)

    finish(process)
    assert_proved(tagmill)


def test_run_survives_kill_of_the_broker_and_its_guard(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "1")
    tagmill.wait_for_batches(2)

    for pid in tagmill.processes("broker.embedded") + tagmill.processes("valkey.conf"):
        os.kill(pid, signal.SIGKILL)

    finish(process)
    assert_proved(tagmill)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing_running_and_is_gone_on_with(
    tagmill: Tagmill, many: Path, signal_number: signal.Signals
) -> None:
    process = tagmill.start("run", many, "--workers", "2")
    tagmill.wait_for_batches(3)

    process.send_signal(signal_number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "interrupted; run 1 is kept" in err
    assert "Traceback" not in err
    assert tagmill.processes() == []
    assert tagmill("verify", code=1).stdout.startswith("run 1: not proved")

    facts = tagmill.run(many)
    assert (facts["run_id"], facts["classified"]) == (1, IMAGES)
    assert_proved(tagmill)


def test_killed_run_leaves_nothing_running_and_is_gone_on_with(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "2")
    tagmill.wait_for_batches(3)

    process.kill()
    process.communicate()

    tagmill.wait_for("everything to end by itself", lambda: tagmill.processes() == [], seconds=40)
    assert tagmill.run(many)["run_id"] == 1
    assert_proved(tagmill)


@pytest.mark.parametrize("victim", ["the worker itself", "each of its processes"])
def test_workers_that_keep_dying_stop_the_run(tagmill: Tagmill, many: Path, tmp_path: Path, victim: str) -> None:
    saboteur = tmp_path / "saboteur"
    saboteur.mkdir()
    (saboteur / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def die():\n"
        "    print('cannot open shared object file', file=sys.stderr, flush=True)\n"
        "    os._exit(3)\n"
        "command = ' '.join(sys.orig_argv)\n"
        f"if {victim!r} == 'the worker itself':\n"
        "    'celery_worker' in command and die()\n"
        "elif 'spawn_main' in command:\n"
        "    die()\n"
        "elif 'celery_worker' in command:\n"
        "    os.register_at_fork(after_in_child=die)\n"
    )
    tagmill.environment["PYTHONPATH"] = str(saboteur)

    process = tagmill.start("run", many, "--workers", "1")
    _, err = process.communicate(timeout=90)

    assert process.returncode == 2
    assert "the workers keep dying" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert tagmill.processes() == []
    del tagmill.environment["PYTHONPATH"]
    assert tagmill.run(many)["run_id"] == 1


def test_cancelled_run_ends_and_writes_nothing_later(tagmill: Tagmill, many: Path) -> None:
    process = tagmill.start("run", many, "--workers", "2")
    tagmill.wait_for_batches(3)

    told = tagmill("cancel", "1").stdout
    answers = len(tagmill.rows())
    _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "was cancelled" in err
    assert "not reached" in told
    assert len(tagmill.rows()) == answers < IMAGES
    tagmill("verify", "1")
    (row,) = tagmill.sql("SELECT status, listed - classified - cancelled AS others FROM run_summary")
    assert row == {"status": "cancelled", "others": "0"}

    assert tagmill.run(many)["classified"] == IMAGES - answers
