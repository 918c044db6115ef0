"""`tagmill plan` says what the next run does, and writes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import Tagmill
from tests.acceptance.test_run import make_many
from tests.samples import encode, make_noise


def plan(tagmill: Tagmill, *arguments: str | Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(tagmill("plan", *arguments, "--json").stdout)
    return facts


def test_plan_counts_what_the_next_run_does(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 12)
    (folder / "broken.jpg").write_bytes(b"no image")
    tagmill.run(folder)
    (folder / "0000.jpg").unlink()
    (folder / "0001.jpg").write_bytes(encode(make_noise(width=32, height=32, seed=101), "JPEG"))
    os.utime(folder / "0002.jpg")
    (folder / "new.png").write_bytes(encode(make_noise(width=32, height=32, seed=102), "PNG"))
    (folder / "link.jpg").symlink_to("0003.jpg")
    database = (tagmill.home / "tagmill.db").read_bytes()
    files = sorted(tagmill.home.iterdir())

    planned = plan(tagmill, folder)

    assert (tagmill.home / "tagmill.db").read_bytes() == database
    assert sorted(tagmill.home.iterdir()) == files
    sizes = sum((folder / name).stat().st_size for name in ("0001.jpg", "0002.jpg", "new.png", "broken.jpg"))
    counts = [planned[name] for name in ("new", "changed", "unchanged", "gone", "passed_over", "bytes")]
    assert counts == [1, 2, 9, 1, 1, sizes]
    assert planned["retry"] == 1
    assert planned["expected_seconds"] is not None

    facts = tagmill.run(folder)

    assert facts["classified"] + facts["failed"] == planned["new"] + planned["changed"] + planned["retry"]
    assert [facts[name] for name in ("new", "changed")] == [1, 2]
    assert [facts[name] for name in ("skipped", "gone", "passed_over")] == [9, 1, 1]


def test_plan_tells_renamed_and_copied_files(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 10)
    tagmill.run(folder)
    (folder / "0000.jpg").rename(folder / "renamed.jpg")
    shutil.copy2(folder / "0001.jpg", folder / "copied.jpg")  # As `cp -p`, keeps the time.
    shutil.copy2(folder / "0001.jpg", folder / "copied too.jpg")
    shutil.copy(folder / "0002.jpg", folder / "as good as new.jpg")
    impostor = folder / "impostor.jpg"  # Size and time of another, and bytes of its own, which are no image.
    impostor.write_bytes((folder / "0003.jpg").read_bytes()[:-3] + b"new")
    os.utime(impostor, ns=(0, (folder / "0003.jpg").stat().st_mtime_ns))
    os.utime(folder / "0004.jpg")

    planned = plan(tagmill, folder)

    names = ("new", "renamed", "copied", "changed", "unchanged", "gone")
    assert [planned[name] for name in names] == [2, 1, 2, 1, 8, 1]
    facts = tagmill.run(folder)
    assert [facts[name] for name in ("new", "changed", "skipped", "gone", "failed")] == [5, 1, 8, 1, 1]
    assert facts["classified"] == facts["reused"] == 5  # Renamed, copied, touched, and the one that was as good as new.


def test_plan_leaves_what_a_killed_process_left(tagmill: Tagmill, tmp_path: Path) -> None:
    """SQLite's own way would be to bring its log into the file as soon as anybody closes it."""
    folder = make_many(tmp_path / "a", 4)
    tagmill.run(folder)
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('PRAGMA user_version = 7'); db.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, tagmill.home / "tagmill.db"], check=True)
    database, log = (tagmill.home / name for name in ("tagmill.db", "tagmill.db-wal"))
    before = database.read_bytes(), log.read_bytes()
    assert before[1]

    assert plan(tagmill, folder)["unchanged"] == 4

    assert (database.read_bytes(), log.read_bytes()) == before


def test_plan_before_the_first_run_makes_nothing(tagmill: Tagmill, photos: Path) -> None:
    planned = plan(tagmill, photos, "--exclude", "*_00_*")

    assert (planned["new"], planned["unchanged"]) == (19, 0)
    assert not tagmill.home.exists()


def test_plan_of_everything_tells_unchanged_images_apart(finished: Tagmill, foolbox_photos: list[Path]) -> None:
    planned = plan(finished, foolbox_photos[0].parent, "--include", "imagenet_*.jpg", "--all")

    assert (planned["new"], planned["again"], planned["unchanged"]) == (0, 20, 0)


def test_plan_tells_what_an_unfinished_run_has_left(tagmill: Tagmill, tmp_path: Path) -> None:
    folder = make_many(tmp_path / "a", 400)
    process = tagmill.start("run", folder, "--workers", "1")
    tagmill.wait_for_batches(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    done = len(tagmill.rows())

    planned = plan(tagmill, folder)

    assert planned["unfinished_run"] == 1
    assert planned["new"] + planned["waiting"] == 400 - done
    assert planned["expected_seconds"] is not None
    assert tagmill.run(folder)["classified"] == 400
