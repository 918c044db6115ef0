"""Whoever is killed, or sleeps too long, and wherever: others end what it began, and each image has its end once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import new_database
from tests.servers import valkey_server

Survey = Callable[..., dict[str, Any]]

# Of the scenario with a schedule; its clock begins at 22:13.
_SCHEDULE = {"name": "nightly", "cron": "15 22 * * *", "model": "colours"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def survey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Survey]:
    """Ends a role of a scenario at one point after another, in a process that has imported everything once."""
    folder = tmp_path_factory.mktemp("crashes")
    (folder / "home").mkdir()
    (folder / "valkey").mkdir()
    with valkey_server(folder / "valkey", appendonly="no") as valkey:
        if request.param == "sqlite":
            yield from _driver(folder, valkey.url, f"sqlite:///{folder}/tagmill.db")
        else:
            with new_database(request.getfixturevalue("postgres")) as address:
                yield from _driver(folder, valkey.url, address)


def _driver(folder: Path, broker_url: str, database: str) -> Iterator[Survey]:
    settings = {
        "TAGMILL_CONFIG": os.devnull,
        "TAGMILL_HOME": str(folder / "home"),
        "TAGMILL_MODELS_URL": str(folder / "models"),
        "TAGMILL_DATABASE_URL": database,
        "TAGMILL_BROKER_URL": broker_url,
        "TAGMILL_IMAGES_PER_BATCH": "2",
        "TZ": "UTC",
        "TAGMILL_SCHEDULE": json.dumps([_SCHEDULE | {"source": str(folder / "schedule")}]),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.crashes", str(folder)],
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None

        def survey(*words: str) -> dict[str, Any]:
            print(*words, file=driver.stdin, flush=True)
            line = driver.stdout.readline()
            assert line, "it ended; what it said last is on stderr"
            told: dict[str, Any] = json.loads(line)
            return told

        try:
            yield survey
        finally:
            driver.kill()


@pytest.mark.parametrize(
    ("scenario", "role", "which", "fewest"),
    [
        ("run", "producer", "all", 22),
        ("run", "producer", "asleep", 8),
        ("work", "worker", "all", 18),
        ("work", "worker", "asleep", 4),
        ("staged", "worker", "distinct", 6),
        ("staged", "reconciler", "all", 10),
        ("schedule", "producer", "all", 32),
        ("cancel", "producer", "all", 6),
        ("fault", "worker", "distinct", 10),
        ("lost", "worker", "distinct", 12),
        ("lost", "worker", "asleep", 6),
        ("lost", "reconciler", "distinct", 8),
        ("lost", "reconciler", "asleep", 4),
    ],
)
def test_whoever_ends_anywhere_loses_and_doubles_nothing(
    survey: Survey, scenario: str, role: str, which: str, fewest: int
) -> None:
    told = survey(scenario, role, which)

    print(f"{scenario}: the {role} ended at {len(told['points'])} points")
    assert told["complaints"] == []
    assert len(told["points"]) >= fewest, told["points"]
