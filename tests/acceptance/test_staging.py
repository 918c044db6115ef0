"""Nights: staged, guarded, published; and over in time."""

import json
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.samples import make_jpeg


def shown(tagmill: Tagmill) -> str:
    """All that people see of answers, to the byte."""
    views = ("current_labels", "predictions_top_k")
    return "".join(tagmill("sql", f"SELECT * FROM {view} ORDER BY 1, 2", "--format", "csv").stdout for view in views)


def blacken(folder: Path) -> None:
    for photo in folder.iterdir():
        photo.write_bytes(make_jpeg(colour="black"))


def empty(folder: Path) -> None:
    for photo in folder.iterdir():
        photo.unlink()


def test_staged_run_is_published(tagmill: Tagmill, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")

    done = tagmill("run", photos, "--stage", "--max-failures", "5%")

    assert "run 1 is published" in done.stderr
    assert len(tagmill.rows()) == 20
    assert tagmill.status()["publication"] == "published"
    assert "21 listed = 20 classified + 1 failed" in tagmill("verify").stdout


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(blacken, "labels shift by"), (empty, "0 images listed, and 20 by run 1: 100 % are missing")],
)
def test_spoilt_source_leaves_the_answers_of_yesterday(
    tagmill: Tagmill, photos: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    tagmill.run(photos)
    before = shown(tagmill)
    spoil(photos)

    done = tagmill("run", photos, "--stage", code=1)

    assert f"run 2 is held back, and current_labels is as it was: {reason}" in done.stderr
    log = tagmill.home / "worker.log"
    judged = done.stderr + log.read_text()  # By the command or by its worker, whichever looked first.
    assert "run_held_back" in judged
    assert shown(tagmill) == before
    (row,) = tagmill.sql("SELECT held_back, published_at FROM run_summary WHERE run_id = 2")
    assert row["held_back"].startswith(reason)
    assert row["published_at"] == ""
    tagmill("verify")

    assert "publishes it nevertheless" in tagmill("status").stderr
    assert tagmill("publish", "2").stdout.startswith("run 2 published: ")
    assert shown(tagmill) != before
    assert "run 2 is published already" in tagmill("publish", "2", code=2).stderr


def test_empty_source_that_was_never_published_is_refused(tagmill: Tagmill, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "no images in file://" in tagmill("run", tmp_path / "empty", "--stage", code=2).stderr
    assert not tagmill.home.exists()


def test_failures_beyond_the_budget_are_held_back(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 9)
    (folder / "broken.jpg").write_bytes(b"no image")

    facts = tagmill.run(folder, "--stage", "--max-failures", "0", code=1)

    assert (facts["publication"], facts["held_back"]) == ("held back", "1 of 10 images failed, and 0 may")
    assert tagmill.rows() == {}
    assert "run 1 is not published" in tagmill("retry", "1", code=2).stderr
    tagmill("publish", "1")
    (folder / "broken.jpg").write_bytes(make_jpeg())
    assert json.loads(tagmill("retry", "1", "--json").stdout)["classified"] == 1
    assert len(tagmill.rows()) == 10


def test_run_whose_command_was_killed_before_the_verdict_is_judged(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 12)
    tagmill.run(folder, "--stage", "--max-failures", "0")
    with sqlite3.connect(tagmill.home / "tagmill.db") as database:  # As the next one is left by a kill at that moment.
        database.execute("UPDATE runs SET published_at = NULL")

    assert tagmill.status()["publication"] == "staged"
    assert tagmill.run(folder, "--stage")["run_id"] == 2

    assert json.loads(tagmill("status", "1", "--json").stdout)["publication"] == "published"


def test_killed_staged_run_is_gone_on_with(tagmill: Tagmill, tmp_path: Path) -> None:
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    folder = make_many(tmp_path / "a", 200)
    process = tagmill.start("run", folder, "--stage", "--workers", "1")
    tagmill.wait_for_batches(3)
    process.kill()
    process.communicate()
    tagmill.wait_for("everything to end by itself", lambda: tagmill.processes() == [], seconds=40)
    assert tagmill.rows() == {}

    facts = tagmill.run(folder, "--stage")

    assert (facts["run_id"], facts["classified"], len(tagmill.rows())) == (1, 200, 200)
    tagmill("verify")


def test_cancelled_staged_run_leaves_nothing(tagmill: Tagmill, tmp_path: Path) -> None:
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    process = tagmill.start("run", make_many(tmp_path / "a", 400), "--stage", "--workers", "1")
    tagmill.wait_for_batches(2)

    tagmill("cancel", "1")

    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run 1 was cancelled" in err
    assert tagmill.rows() == {}
    assert "was cancelled, and its answers are dropped" in tagmill("publish", "1", code=2).stderr
    tagmill("verify")


@pytest.mark.parametrize("stage", [[], ["--stage"]])
def test_run_ends_in_time_with_what_it_has(tagmill: Tagmill, tmp_path: Path, stage: list[str]) -> None:
    """The deadline is a whole minute away, so it is brought forward."""
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    folder = make_many(tmp_path / "a", 1500)
    until = (datetime.now().astimezone() + timedelta(hours=1)).strftime("%H:%M")
    process = tagmill.start("run", folder, "--until", until, "--workers", "1", *stage)
    tagmill.wait_for_batches(2)
    with sqlite3.connect(tagmill.home / "tagmill.db", timeout=30) as database:
        (deadline,) = database.execute("SELECT deadline FROM runs").fetchone()
        database.execute("UPDATE runs SET deadline = ?", (time.time(),))

    _, err = process.communicate(timeout=60)

    assert 0 < deadline - time.time() <= 3600
    assert process.returncode == 0, err
    facts = tagmill.status()
    assert "images were not reached, and come first in the next run" in err
    assert (facts["status"], facts["out_of_time"]) == ("cancelled", True)
    assert len(tagmill.rows()) == facts["classified"] == 1500 - facts["cancelled"] > 0
    tagmill("verify")


def test_time_that_is_none_is_refused(tagmill: Tagmill, photos: Path) -> None:
    assert "'25:00' is no time of day" in tagmill("run", photos, "--until", "25:00", code=2).stderr
    assert not tagmill.home.exists()


def test_plain_run_beside_a_held_back_one_is_as_ever(tagmill: Tagmill, photos: Path) -> None:
    tagmill.run(photos, "--stage", "--max-failures", "0")
    blacken(photos)
    tagmill.run(photos, "--stage", code=1)

    facts = tagmill.run(photos)

    assert (facts["run_id"], facts["classified"], facts["publication"]) == (3, 20, None)
    assert json.loads(tagmill("status", "2", "--json").stdout)["publication"] == "dropped"
    assert "looks at all of its images again. Its answers are dropped." in tagmill("retry", "2", code=2).stderr


def test_staged_run_that_a_later_one_outdates_says_so(tagmill: Tagmill, tmp_path: Path) -> None:
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "16"
    folder = make_many(tmp_path / "a", 200)
    process = tagmill.start("run", folder, "--stage", "--workers", "1")
    tagmill.wait_for_batches(2)
    process.kill()
    process.communicate()
    tagmill.wait_for("everything to end by itself", lambda: tagmill.processes() == [], seconds=40)
    with sqlite3.connect(tagmill.home / "tagmill.db") as database:  # As a worker leaves it that cannot load the model.
        database.execute("UPDATE runs SET status = 'failed', error = 'no model'")
    assert tagmill.run(folder)["run_id"] == 2

    done = tagmill("run", folder, "--stage", code=1)

    assert "run 1 is dropped, and current_labels is as it was: meanwhile a later run" in done.stderr
    assert "publishes it nevertheless" not in done.stderr
    assert "a later run of the same source and model has been published" in tagmill("publish", "1", code=2).stderr
