"""Wrong usage and set-up: one line with the next step, exit code 2, and nothing half-written."""

import sqlite3
from pathlib import Path

from tests.acceptance.conftest import Tagmill
from tests.samples import make_jpeg
from tests.servers import free_port


def refused(tagmill: Tagmill, *arguments: str | Path) -> str:
    """The one line that a command says when it refuses."""
    done = tagmill(*arguments, code=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tagmill: ")
    return line


def test_missing_folder_is_refused(tagmill: Tagmill) -> None:
    line = refused(tagmill, "run", "no/such/folder")

    assert "'no/such/folder': No such file or directory. Name a folder" in line
    assert not tagmill.home.exists()


def test_folder_without_images_is_refused(tagmill: Tagmill, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")

    line = refused(tagmill, "run", tmp_path / "notes")

    assert "no images in file://" in line
    assert "--include" in line
    assert not tagmill.home.exists()


def test_unknown_model_is_refused(tagmill: Tagmill, photos: Path) -> None:
    line = refused(tagmill, "run", photos, "--model", "resnet")

    assert "no model 'resnet'" in line
    assert "known: efficientnet_lite0" in line
    assert not tagmill.home.exists()


def test_unknown_model_version_is_refused(tagmill: Tagmill, photos: Path) -> None:
    assert "known: 1. Run 'tagmill models list'" in refused(tagmill, "run", photos, "--model", "efficientnet_lite0:7")


def test_home_that_cannot_be_written_is_refused(tagmill: Tagmill, photos: Path) -> None:
    tagmill.home.write_text("a file where the folder would be")

    assert "TAGMILL_HOME" in refused(tagmill, "run", photos)


def test_database_of_somebody_else_is_refused(tagmill: Tagmill, photos: Path) -> None:
    tagmill.home.mkdir()
    with sqlite3.connect(tagmill.home / "tagmill.db") as other:
        other.execute("CREATE TABLE customers (id)")

    line = refused(tagmill, "run", photos)

    assert "is not tagmill's: it holds customers" in line
    with sqlite3.connect(tagmill.home / "tagmill.db") as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


def test_file_that_is_no_database_is_refused(tagmill: Tagmill, photos: Path) -> None:
    tagmill.home.mkdir()
    (tagmill.home / "tagmill.db").write_bytes(make_jpeg() * 20)

    assert "not a SQLite database" in refused(tagmill, "run", photos)


def test_broker_that_does_not_answer_is_refused(tagmill: Tagmill, photos: Path) -> None:
    tagmill.environment["TAGMILL_BROKER_URL"] = f"redis://:secret@127.0.0.1:{free_port()}/0"

    line = refused(tagmill, "run", photos)

    assert "does not answer" in line
    assert "TAGMILL_BROKER_URL" in line
    assert "secret" not in line
    assert not tagmill.home.exists()


def test_server_database_without_tables_is_refused(tagmill: Tagmill, photos: Path, postgres_database: str) -> None:
    tagmill.environment["TAGMILL_DATABASE_URL"] = postgres_database

    assert "Run 'tagmill db upgrade'" in refused(tagmill, "run", photos)


def test_questions_before_the_first_run_are_refused(tagmill: Tagmill) -> None:
    for command in (["status"], ["verify"], ["results"], ["sql", "SELECT 1"]):
        assert "'tagmill run SOURCE' makes one" in refused(tagmill, *command)
    assert not tagmill.home.exists()


def test_unknown_run_is_refused(finished: Tagmill) -> None:
    assert "no run 7" in refused(finished, "status", "7")
    assert "no run 7" in refused(finished, "verify", "7")


def test_statement_that_writes_is_refused(finished: Tagmill) -> None:
    for statement in ("DELETE FROM current_labels", "DROP TABLE images", "SELECT 1; SELECT 2", "PRAGMA user_version=7"):
        refused(finished, "sql", statement)
    assert len(finished.rows()) == 20


def test_setting_that_is_not_valid_is_refused(tagmill: Tagmill, photos: Path) -> None:
    tagmill.environment["TAGMILL_IMAGES_PER_BATCH"] = "many"

    assert "TAGMILL_IMAGES_PER_BATCH='many' is not valid" in refused(tagmill, "run", photos)


def test_worker_without_a_broker_is_refused(tagmill: Tagmill) -> None:
    assert "TAGMILL_BROKER_URL is not set" in refused(tagmill, "worker")


def test_wrong_option_ends_with_2_and_no_traceback(tagmill: Tagmill) -> None:
    assert "--wokers" in tagmill("run", "x", "--wokers", "2", code=2).stderr
