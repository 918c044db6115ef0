"""What each command and process loads: nothing heavy that it does not need, as most of a short command is its start."""

from pathlib import Path

import pytest

from models.preprocessing import Preprocessing
from models.registry import Registry
from results.schema import upgrade
from results.session import Database, parse_database_url
from tests.processes import run_python
from tests.samples import make_png

HEAVY = {
    *("PIL", "ai_edge_litert", "alembic", "celery", "keras", "kombu", "matplotlib", "numpy", "obstore", "psycopg"),
    *("pyarrow", "redis", "rich", "sqlalchemy", "structlog", "tensorflow"),
}
SENDS = {"sqlalchemy", "structlog", "celery", "kombu", "redis"}

_COMMAND = """
import sys
from cli.__main__ import main
code, sys.argv = int(sys.argv[1]), ["tagmill", *sys.argv[2:]]
try:
    main()
except SystemExit as end:
    assert (end.code or 0) == code, end
"""
_TELL = "\nprint('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty database, a model version whose engine file is none, and an image."""
    home = tmp_path_factory.mktemp("home")
    database = Database(parse_database_url(f"sqlite:///{home / 'tagmill.db'}", ""))
    upgrade(database)
    database.close()
    Registry(home / "models").publish(
        "efficientnet_lite0",
        engines={"float32.tflite": b""},
        engine_file="float32.tflite",
        labels=["cat"],
        preprocessing=Preprocessing(),
        description="",
    )
    (home / "photos").mkdir()
    (home / "photos" / "cat.png").write_bytes(make_png())
    return home


def heavy(code: str, *words: object) -> set[str]:
    told = run_python(code + _TELL, *words)
    return HEAVY & set(next(line for line in told.splitlines() if line.startswith("loaded: ")).split())


@pytest.mark.parametrize(
    ("words", "may_load"),
    [
        ("--help", set()),
        ("models list", set()),
        ("status", {"sqlalchemy"}),
        ("sql SELECT(1)", {"sqlalchemy"}),
        ("db upgrade", {"sqlalchemy", "alembic"}),
        # The model cannot be loaded, so the run stops. It is the worker that has met that.
        ("run PHOTOS --workers 1", SENDS),
    ],
)
def test_command_loads_only_what_it_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: str, may_load: set[str]
) -> None:
    monkeypatch.setenv("TAGMILL_HOME", str(home))
    code = 2 if words.startswith(("run", "status")) else 0

    assert heavy(_COMMAND, code, *words.replace("PHOTOS", str(home / "photos")).split()) <= may_load


@pytest.mark.parametrize(
    ("module", "may_load"),
    [
        ("broker.embedded", set()),  # The guard of the embedded broker.
        ("worker.local", {"structlog"}),  # What a command starts its worker with, before it loads what else it needs.
        ("worker.tasks", SENDS | {"ai_edge_litert", "numpy", "PIL"}),  # A worker's parent: its processes have all that.
        ("producer.tasks", SENDS),
        ("models.classifier", {"numpy", "PIL"}),
    ],
)
def test_process_loads_only_what_it_needs(monkeypatch: pytest.MonkeyPatch, module: str, may_load: set[str]) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://nowhere")

    assert heavy(f"import sys, {module}") <= may_load


def test_worker_that_waits_has_loaded_what_its_task_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://nowhere")

    told = run_python(
        "import sys, worker.loaded; before = set(sys.modules); import worker.tasks; print(*set(sys.modules) - before)"
    )

    assert set(told.split()) <= {"worker.tasks", "broker.processes", "celery.fixups", "celery.fixups.django"}
