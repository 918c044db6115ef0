"""The main job: a folder of photographs becomes rows of SQL."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from base.stages import Stage
from models.registry import Registry
from results.queries import find_request
from results.runs import let_go_of_run, open_run
from results.session import Database
from tests.acceptance.conftest import Tagmill
from tests.samples import encode, make_jpeg, make_noise


def make_many(folder: Path, number: int) -> Path:
    """A folder of that many different images, each quick to decode."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (folder / f"{index:04}.jpg").write_bytes(encode(make_noise(width=32, height=32, seed=index), "JPEG"))
    return folder


def test_photographs_get_their_labels(tagmill: Tagmill, photos: Path, pretrained_registry: Registry) -> None:
    facts = tagmill.run(photos)

    labels = pretrained_registry.find("efficientnet_lite0").labels
    rows = tagmill.rows()
    right = sum(rows[photo.name][0] == labels[int(photo.stem.rpartition("_")[2])] for photo in photos.iterdir())
    assert (facts["listed"], facts["classified"], facts["failed"], len(rows)) == (20, 20, 0, 20)
    assert right >= 17
    assert "20 listed = 20 classified + 0 failed + 0 skipped + 0 cancelled" in tagmill("verify").stdout


def test_only_what_changed_is_classified_again(tagmill: Tagmill, photos: Path) -> None:
    tagmill.run(photos)
    first, second, third, *_ = sorted(photos.iterdir())
    os.utime(first)
    second.write_bytes(make_jpeg(colour="blue"))
    third.unlink()
    (photos / "copy.jpg").write_bytes(first.read_bytes())

    facts = tagmill.run(photos)

    assert (facts["classified"], facts["reused"], facts["skipped"], facts["gone"]) == (3, 2, 17, 1)
    rows = tagmill.rows()
    assert rows["copy.jpg"] == rows[first.name]
    assert third.name not in rows
    tagmill("verify")

    log = tagmill.home / "worker.log"
    before = log.read_text()
    again = tagmill.run(photos)
    assert (again["classified"], again["skipped"], again["gone"]) == (0, 20, 0)
    assert log.read_text() == before  # The worker was ended before it began.


def test_image_that_came_back_has_its_answer_again(tagmill: Tagmill, photos: Path) -> None:
    tagmill.run(photos)
    before = tagmill.rows()
    image = min(photos.iterdir())
    hidden = tagmill.folder / image.name
    image.rename(hidden)
    tagmill.run(photos)
    hidden.rename(image)

    facts = tagmill.run(photos)

    assert (facts["classified"], facts["skipped"]) == (0, 20)
    assert tagmill.rows() == before


def test_changed_image_that_fails_loses_its_old_answer(tagmill: Tagmill, photos: Path) -> None:
    tagmill.run(photos)
    image = min(photos.iterdir())
    image.write_bytes(b"no longer a photograph")

    facts = tagmill.run(photos)

    assert facts["failures"] == {"not_an_image": 1}
    assert image.name not in tagmill.rows()
    assert tagmill.run(photos)["failures"] == {"not_an_image": 1}


def test_summary_for_people_ends_with_a_query_that_works(tagmill: Tagmill, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"")

    told = tagmill("run", photos).stdout

    assert [line.split() for line in told.splitlines()[:6]] == [
        ["listed", "21"],
        ["classified", "20"],
        ["reused", "0"],
        ["failed", "1"],
        ["truncated", "1"],
        ["skipped", "0"],
    ]
    assert f"sqlite:///{tagmill.home / 'tagmill.db'}" in told
    query = told.partition('tagmill sql "')[2].rpartition('"')[0]
    assert 1 <= len(tagmill.sql(query)) <= 10


def test_names_that_are_not_utf_8_are_classified(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = tmp_path / "old names"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(make_jpeg())

    tagmill.run(folder)

    assert [row["image_uri"] for row in tagmill.sql("SELECT image_uri FROM current_labels")] == [
        f"file://{tmp_path}/old%20names/caf%E9.jpg"
    ]


def test_file_given_as_source_is_classified_alone(tagmill: Tagmill, photos: Path) -> None:
    photo = min(photos.iterdir())

    assert tagmill.run(photo)["classified"] == 1
    assert list(tagmill.rows()) == [photo.name]


def test_folder_inside_a_known_folder_is_skipped(tagmill: Tagmill, photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "sub" / "a.jpg").write_bytes(make_jpeg())
    tagmill.run(photos)

    assert tagmill.run(photos / "sub")["skipped"] == 1
    assert len(tagmill.rows()) == 21


def test_include_takes_only_what_it_names(tagmill: Tagmill, photos: Path) -> None:
    facts = tagmill.run(photos, "--include", "imagenet_0*.jpg")

    assert facts["listed"] == 10
    assert len(tagmill.rows()) == 10


def test_two_runs_in_one_home_share_the_broker(tagmill: Tagmill, tmp_path: Path) -> None:
    first = tagmill.start("run", make_many(tmp_path / "a", 60), "--json", "--workers", "1")
    second = tagmill.start("run", make_many(tmp_path / "b", 90), "--json", "--workers", "1")

    codes = [process.communicate(timeout=120) and process.returncode for process in (first, second)]

    assert codes == [0, 0]
    assert {row["status"] for row in tagmill.sql("SELECT status FROM run_summary")} == {"completed"}
    tagmill("verify", "1")
    tagmill("verify", "2")


def test_source_that_is_being_run_is_refused_to_others(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 400)
    first = tagmill.start("run", folder, "--json", "--workers", "1")
    tagmill.wait_for_batches(1)
    # So that the run cannot end before the second command has looked at it. Of the worker only the parent, which was
    # there first: one of its processes may be holding the database.
    parent = min(tagmill.processes("celery"))
    os.kill(parent, signal.SIGSTOP)

    second = tagmill("run", folder, "--all", code=2)

    os.kill(parent, signal.SIGCONT)
    assert f"{folder.as_uri()} is being run: run 1, by" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert len(tagmill.sql("SELECT run_id FROM run_summary")) == 1


def test_all_classifies_unchanged_images_again(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 10)
    tagmill.run(folder)

    facts = tagmill.run(folder, "--all", "--top-k", "7")

    assert (facts["classified"], facts["reused"], facts["skipped"]) == (10, 0, 0)
    (row,) = tagmill.sql("SELECT max(rank) AS ranks, min(run_id) AS run_id FROM predictions_top_k")
    assert row == {"ranks": "7", "run_id": "2"}


def test_run_leaves_nothing_in_the_folder_of_temporary_files(tagmill: Tagmill, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    tagmill.environment["TMPDIR"] = str(tmp_path / "tmp")

    tagmill.run(make_many(tmp_path / "a", 10))

    assert os.listdir(tmp_path / "tmp") == []


def test_run_needs_nobody_who_reads_what_it_tells(tagmill: Tagmill, photos: Path) -> None:
    command = f"exec {shlex.join([sys.executable, '-m', 'cli', 'run', str(photos), '--workers', '1'])} >&- 2>&-"

    assert subprocess.run(["sh", "-c", command], env=tagmill.environment, check=False).returncode == 0


def test_failures_above_the_budget_end_with_1(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 9)
    (folder / "broken.jpg").write_bytes(b"no image")

    facts = tagmill.run(folder, "--max-failures", "9%", code=1)

    assert (facts["classified"], facts["failed"]) == (9, 1)


def begin_retry(database: Path) -> None:
    db = Database(sa.URL.create("sqlite", database=str(database)))
    run = open_run(db, replace(find_request(db, 1), retry_of=1), holder="elsewhere/1#")
    let_go_of_run(db, run.run_id, "elsewhere/1#")
    db.close()


def test_retry_classifies_only_what_failed(tagmill: Tagmill, photos: Path) -> None:
    broken, gone, *_ = sorted(photos.iterdir())
    good = broken.read_bytes()
    broken.write_bytes(good[:2000])
    gone.write_bytes(b"no image")
    assert tagmill.run(photos)["failed"] == 2
    broken.write_bytes(good)
    gone.unlink()
    begin_retry(tagmill.home / "tagmill.db")  # As if it had been interrupted at once.

    facts = json.loads(tagmill("retry", "--json").stdout)

    assert (facts["run_id"], facts["listed"], facts["classified"]) == (2, 2, 1)
    assert facts["failures"] == {"not_found": 1}
    assert broken.name in tagmill.rows()
    tagmill("verify", "2")


def test_retry_without_failures_makes_no_run(finished: Tagmill) -> None:
    assert "run 1 has no failed images" in finished("retry").stderr
    assert len(finished.sql("SELECT run_id FROM run_summary")) == 1


def test_exclude_leaves_out_folders_and_names(tagmill: Tagmill, tmp_path: Path) -> None:
    make_many(tmp_path / "a", 3)
    make_many(tmp_path / "a" / "thumbs" / "deep", 2)

    facts = tagmill.run(tmp_path / "a", "--exclude", "thumbs", "--exclude", "*2.jpg")

    assert facts["listed"] == 2
    assert sorted(tagmill.rows()) == ["0000.jpg", "0001.jpg"]


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_results_are_printed_in_each_format(finished: Tagmill, form: str) -> None:
    out = finished("results", "--format", form, "--min-confidence", "0.5").stdout

    wanted = [name for name, (_, confidence) in finished.rows().items() if confidence >= 0.5]
    assert wanted
    assert all(name in out for name in wanted)
    assert len(out.splitlines()) == len(wanted) + {"table": 2, "csv": 1, "jsonl": 0}[form]


def test_time_of_a_run_is_told_by_stage(finished: Tagmill) -> None:
    told = json.loads(finished("status", "--stages", "--json").stdout)

    assert (told["images"], [row["stage"] for row in told["stages"]]) == (20, list(Stage))
    assert sum(row["share"] for row in told["stages"]) == pytest.approx(1, abs=0.001)
    table = finished("status", "--stages").stdout.splitlines()
    assert len(table) == 2 + len(Stage) + 1
