"""`tagmill results` and `tagmill sql` write files of any size, and whole ones only."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet

from results.ledger import finish
from results.schema import upgrade
from results.session import Database
from tests.integration.cli.test_main import tagmill
from tests.integration.results.test_ledger import answers, claim, record
from tests.many_answers import fill_answers
from tests.processes import other_variables

_ROOT = Path(__file__).parents[3]
_NUMBERS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000000) SELECT x FROM n"
_FEW, _MANY = 3_000, 300_000
_MOST_BYTES = 80 * 2**20  # What the many may take beyond the few: one group of Parquet's rows, and not all as objects.


def start(*words: str | Path, home: Path, before: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [*before, sys.executable, "-m", "cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=other_variables() | {"TAGMILL_HOME": str(home)} | variables,
        cwd=_ROOT,
    )


def peaks_of(processes: list["subprocess.Popen[bytes]"]) -> list[int]:
    """The most bytes of memory that each has used, once all have ended as they should.

    Looked at while they run: what `wait4` tells of a child counts what its parent had when it was started.
    """
    peaks = [0] * len(processes)
    while running := [number for number, process in enumerate(processes) if process.poll() is None]:
        for number in running:
            status = Path(f"/proc/{processes[number].pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peaks[number] = int(found[1]) * 1024
        time.sleep(0.05)
    for process in processes:
        assert process.communicate()[1].endswith(b"rows in " + os.fsencode(process.args[-1]) + b"\n")  # type: ignore[index]
        assert process.returncode == 0
    return peaks


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database has one image, a cat."""
    folder = tmp_path_factory.mktemp("home")
    db = Database(sa.URL.create("sqlite", database=str(folder / "tagmill.db")))
    upgrade(db)
    record(db, images=1)
    held = claim(db)
    finish(db, held, answers(held), [])
    db.close()
    return folder


def test_many_rows_are_exported_in_the_memory_of_few(db: Database, database_address: str, tmp_path: Path) -> None:
    fill_answers(db.url, _MANY)
    files = [tmp_path / name for name in ("all.csv", "all.parquet", "few.csv", "few.parquet")]
    few = ("--limit", str(_FEW))
    processes = [
        start(
            *("results", *(few if path.stem == "few" else ()), "--output", path),
            home=tmp_path,
            TAGMILL_DATABASE_URL=database_address,
        )
        for path in files
    ]

    *peaks, few_csv, few_parquet = peaks_of(processes)

    assert 0 < few_csv < few_parquet
    assert [peaks[0] - few_csv < _MOST_BYTES, peaks[1] - few_parquet < _MOST_BYTES] == [True, True], peaks
    with open(files[0], "rb") as lines:
        assert sum(1 for _ in lines) == 1 + _MANY
    assert parquet.ParquetFile(files[1]).metadata.num_rows == _MANY


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_export_leaves_the_old_file(home: Path, tmp_path: Path, sent: signal.Signals) -> None:
    path = tmp_path / "numbers.parquet"
    path.write_text("old")
    process = start("sql", _NUMBERS, "--output", path, home=home)
    assert process.stderr is not None
    assert process.stderr.readline().endswith(b" rows\n")  # It is in the midst of it.

    process.send_signal(sent)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_full_disk_leaves_the_old_file(home: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / "numbers"
    path.write_text("old")
    small_disk = ("sh", "-c", 'ulimit -f 200; exec "$@"', "sh")  # Of blocks of 512 bytes.
    process = start("sql", _NUMBERS, "--format", form, "--output", path, home=home, before=small_disk)

    _, said = process.communicate(timeout=60)

    assert process.returncode == 2
    assert said.decode() == f"tagmill: '{path}': File too large. Mend that, or name another file with --output.\n"
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min-confidence", "0.9"], "no images match"),
        (["--label", "catt"], "no images match; no image has the label 'catt'; near it: 'cat'"),
        (["--label", "CA"], "no images match; no image has the label 'CA'; near it: 'cat'"),
        (["--label", "zebra"], "no images match; no image has the label 'zebra'; 'tagmill sql \"SELECT DISTINCT label"),
        (["--model", "n"], "no images match; no model 'n' has answers; there are those of 'm'"),
        (["--model", "m:2"], "no images match; the active version of 'm' is 1"),
    ],
)
def test_names_that_nothing_has_are_told_with_others(home: Path, words: list[str], said: str) -> None:
    ended = tagmill(home, "results", *words, "--format", "csv")

    assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 1)
    assert ended.stderr.startswith(said)


@pytest.mark.parametrize("words", [["results", "--label", "\udcff"], ["sql", "SELECT '\udcff'"]])
def test_words_that_are_not_utf_8_are_refused(home: Path, words: list[str]) -> None:
    ended = tagmill(home, *words)

    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "is not UTF-8" in ended.stderr


def test_parquet_can_be_sent_to_a_pipe(home: Path) -> None:
    out, _ = start(
        "sql", "SELECT label, confidence FROM current_labels", "--format", "parquet", home=home
    ).communicate()

    assert parquet.read_table(pa.BufferReader(out)).to_pylist() == [{"label": "cat", "confidence": 0.75}]
