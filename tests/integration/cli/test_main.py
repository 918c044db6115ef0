"""Whatever goes wrong is one line for a person and an exit code for a script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from results.schema import upgrade
from results.session import Database
from tests.integration.results.test_ledger import record
from tests.processes import other_variables

_ROOT = Path(__file__).parents[3]


def tagmill(home: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env=other_variables()
        | {"TAGMILL_HOME": str(home), "TAGMILL_CONFIG": os.devnull, "PYTHONPATH": str(_ROOT)}
        | variables,
        cwd=home if home.exists() else home.parent,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database has one run, which is not finished."""
    folder = tmp_path_factory.mktemp("home")
    db = Database(sa.URL.create("sqlite", database=str(folder / "tagmill.db")))
    upgrade(db)
    record(db, images=2)
    db.close()
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere"], "nowhere"),
        (["run", "."], "no images in"),
        (["status", "7"], "no run 7 in"),
        (["sql", "DELETE FROM images"], "takes one SELECT from current_labels"),
        (["sql", "SELECT nonsense"], "no such column: nonsense"),
        (["worker"], "TAGMILL_BROKER_URL is not set"),
    ],
)
def test_what_must_be_mended_is_one_line(home: Path, words: list[str], message: str) -> None:
    ended = tagmill(home, *words)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("tagmill: ")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["status"], ["verify"], ["results"], ["sql", "SELECT 1"]])
def test_missing_database_is_told_and_not_made(tmp_path: Path, words: list[str]) -> None:
    ended = tagmill(tmp_path / "new", *words)

    assert ended.returncode == 2
    assert ended.stderr.startswith("tagmill: there is no database at ")
    assert list(tmp_path.iterdir()) == []


def test_setting_that_is_not_valid_is_named(home: Path) -> None:
    ended = tagmill(home, "status", TAGMILL_TOP_K="many")

    assert ended.returncode == 2
    assert ended.stderr.startswith("tagmill: TAGMILL_TOP_K='many' is not valid")


@pytest.mark.parametrize("words", [["nonsense"], ["sql"], ["status", "seven"], ["results", "--format", "odd"]])
def test_wrong_usage_has_its_exit_code(home: Path, words: list[str]) -> None:
    ended = tagmill(home, *words)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr


def test_run_that_is_not_proved_exits_with_one(home: Path) -> None:
    ended = tagmill(home, "verify")

    assert ended.returncode == 1
    assert ended.stdout.startswith("run 1: not proved\n  2 images listed, 0 with an end\n")


def test_results_alone_go_to_stdout(home: Path) -> None:
    ended = tagmill(home, "results", "--format", "csv")

    assert (ended.returncode, ended.stderr) == (0, "no images match\n")
    assert len(ended.stdout.splitlines()) == 1


def test_stages_of_a_run_that_nobody_measured_are_no_share(home: Path) -> None:
    ended = tagmill(home, "status", "--stages")

    assert ended.stdout.splitlines()[-1].split()[:3] == ["all", "0.0000", "0.0000"]
    assert ended.stderr == "run 1: no batch of it was measured\n"


def test_reader_that_has_seen_enough_gets_no_error_text(home: Path) -> None:
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT x FROM n"
    command = [sys.executable, "-m", "cli", "sql", numbers, "--format", "csv"]
    environment = os.environ | {"TAGMILL_HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=_ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"x\n"
        process.stdout.close()
        said = process.stderr.read()

    assert said == b""
