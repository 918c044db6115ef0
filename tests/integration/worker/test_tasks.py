"""What becomes of a batch when something goes wrong in the middle of it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from base.errors import ModelError, TransientError
from base.settings import Settings
from models.predictions import Prediction
from results import ledger
from results.listing import Chunk, ListedImage, end_listing, record_chunk
from results.queries import RunProgress, count_failures, find_runs, verify_run
from results.runs import RunRequest, close_runs, open_run
from results.session import Database
from results.tables import RunStatus
from tests.clock import Clock
from tests.integration.results.test_ledger import due

SETTINGS = Settings(lease_seconds=100, image_seconds=60)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the worker, which wants a broker's address when it is imported."""
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://127.0.0.1:1/0")
    return importlib.import_module("worker.tasks")


class ScriptedClassifier:
    """Does to each image what the test says; without a word, it is a cat."""

    version = SimpleNamespace(labels=("cat", "dog"))

    def __init__(self, on_image: Callable[[], object] = lambda: None) -> None:
        self._on_image = on_image

    def predict(self, encoded: bytes, k: int) -> list[Prediction]:
        self._on_image()
        return [Prediction(label="cat", confidence=0.5)]


@pytest.fixture
def work(
    tasks: ModuleType, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunProgress]:
    """Records a run of two images and works on its batch."""
    run_id = record_files(db, tmp_path / "photos")

    def work_on(on_image: Callable[[], object] = lambda: None) -> RunProgress:
        monkeypatch.setattr(tasks, "_classifier", lambda *_: ScriptedClassifier(on_image))
        tasks.work_on(db, 1, SETTINGS)
        close_runs(db)
        return find_runs(db, run_id)[0]

    return work_on


def record_files(db: Database, folder: Path) -> int:
    folder.mkdir()
    paths = [folder / "a.jpg", folder / "b.jpg"]
    for path in paths:
        path.write_bytes(path.name.encode())
    run = open_run(
        db, RunRequest(source=folder.as_uri(), model="m", model_version=1, content_hash="a" * 64), holder="test/1"
    )
    listed = [ListedImage(uri=path.as_uri(), fingerprint="5-1") for path in paths]
    chunk = Chunk(cursor=listed[-1].uri, batches=[listed], skipped=0)
    record_chunk(db, run.run_id, cursor=None, chunk=chunk)
    end_listing(db, run.run_id, cursor=chunk.cursor)
    return run.run_id


def fail(error: Exception) -> Callable[[], object]:
    def on_image() -> None:
        raise error

    return on_image


def test_batch_is_classified_and_saved(work: Callable[..., RunProgress], db: Database) -> None:
    run = work()

    assert (run.status, run.classified) == (RunStatus.COMPLETED, 2)
    assert verify_run(db, run.run_id).gaps == ()


def test_second_delivery_changes_nothing(work: Callable[..., RunProgress], db: Database) -> None:
    first = work()

    second = work(fail(AssertionError("nothing is left to classify")))

    assert (second.classified, second.claims) == (first.classified, first.claims)


def test_fault_of_a_server_gives_the_batch_back_for_free(
    work: Callable[..., RunProgress], db: Database, clock: Clock
) -> None:
    for _ in range(4):  # More often than a batch may be lost.
        run = work(fail(TransientError("storage away")))
        assert due(db) == []
        clock.pass_by(6)

    assert run.done == 0
    assert work().classified == 2


def test_missing_model_stops_the_run(work: Callable[..., RunProgress], db: Database) -> None:
    run = work(fail(ModelError("no version '1' of 'm'")))

    assert (run.status, run.error) == (RunStatus.FAILED, "no version '1' of 'm'")


def test_mistake_of_ours_stops_the_run_and_blames_no_image(
    work: Callable[..., RunProgress], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "find_twins", fail)
        run = work()

    assert (run.status, run.done, run.error) == (RunStatus.FAILED, 0, "ZeroDivisionError: a mistake of ours")


def test_image_that_meets_an_unknown_error_fails_alone(work: Callable[..., RunProgress], db: Database) -> None:
    run = work(fail(ZeroDivisionError("a mistake of ours")))

    assert (run.status, run.failed) == (RunStatus.COMPLETED, 2)
    assert count_failures(db, run.run_id) == {"unreadable": 2}


def test_lease_lost_meanwhile_writes_nothing(work: Callable[..., RunProgress], db: Database, clock: Clock) -> None:
    def stall() -> None:
        clock.pass_by(SETTINGS.lease_seconds + 1)
        ledger.claim(db, 1, owner="another", lease_seconds=1000)

    run = work(stall)

    assert run.done == 0


def test_message_of_somebody_else_is_dropped(tasks: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.classify_batch(run_id="7", batch_id="8")

    assert "message_dropped" in "".join(capsys.readouterr())
