"""What becomes of a batch when something goes wrong in the middle of it."""

import importlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa

from base.errors import ModelError, TransientError
from base.settings import Settings
from base.stages import Stage
from models.predictions import Prediction
from results import ledger
from results.listing import Chunk, ListedImage, end_listing, record_chunk
from results.queries import LabelFilter, RunProgress, count_failures, find_runs, find_stages, list_labels, verify_run
from results.runs import RunRequest, close_runs, open_run
from results.session import Database
from results.tables import RunStatus, batches
from tests.clock import Clock
from tests.integration.results.test_ledger import due
from tests.processes import wait_until

SETTINGS = Settings(lease_seconds=100, image_seconds=60)
# As an engine gives them: 32 bits, of which no short decimal number is the whole.
CONFIDENCE = float(np.float32(0.7))


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the worker, which wants a broker's address when it is imported."""
    monkeypatch.setenv("TAGMILL_BROKER_URL", "redis://127.0.0.1:1/0")
    return importlib.import_module("worker.tasks")


class ScriptedClassifier:
    """Does to each image what the test says; without a word, it is a cat."""

    def __init__(self, on_image: Callable[[], object] = lambda: None, *, threshold: float = 0.0) -> None:
        self._on_image = on_image
        self.version = SimpleNamespace(
            labels=("cat", "dog"), needs_review=lambda label, confidence: confidence < threshold
        )

    def decode(self, encoded: bytes) -> bytes:
        return encoded

    def infer(self, pixels: bytes) -> bytes:
        self._on_image()
        return pixels

    def label(self, logits: Sequence[bytes], k: int) -> list[list[Prediction]]:
        labels = [Prediction(label="cat", confidence=CONFIDENCE), Prediction(label="dog", confidence=1 - CONFIDENCE)]
        return [labels for _ in logits]


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


@pytest.mark.parametrize(
    ("threshold", "needs_review"),
    [
        (CONFIDENCE, False),
        (math.nextafter(CONFIDENCE, 1), True),
    ],
)
def test_answer_copied_through_the_database_needs_a_review_as_its_twin_does(
    tasks: ModuleType,
    db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threshold: float,
    needs_review: bool,
) -> None:
    predicted: list[int] = []
    classifier = ScriptedClassifier(lambda: predicted.append(1), threshold=threshold)
    monkeypatch.setattr(tasks, "_classifier", lambda *_: classifier)
    for number, folder in enumerate(("photos", "copies"), 1):
        record_files(db, tmp_path / folder)
        tasks.work_on(db, number, SETTINGS)

    rows = list(list_labels(db, LabelFilter(needs_review=needs_review)))

    assert len(predicted) == 2
    assert len(rows) == 4
    assert list(list_labels(db, LabelFilter(needs_review=not needs_review))) == []


def test_time_of_each_stage_is_saved_with_the_batch(
    tasks: ModuleType, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_classifier", lambda *_: ScriptedClassifier())
    runs = [record_files(db, tmp_path / folder) for folder in ("photos", "others")]

    for number in (1, 2):
        time.sleep(0.05)
        tasks.work_on(db, number, SETTINGS)

    first, second = (find_stages(db, run) for run in runs)
    assert (first.batches, first.images) == (second.batches, second.images) == (1, 2)
    assert first.seconds[Stage.FETCHING] > 0 and second.seconds[Stage.LEDGER] > 0
    # The first batch of a run has waited for no other, and nobody knows yet how long it takes to be saved.
    assert second.seconds[Stage.WAITING] < 0.05 and second.seconds[Stage.SAVING] == 0


def test_time_to_give_a_batch_back_is_the_ledgers(
    work: Callable[..., RunProgress],
    tasks: ModuleType,
    db: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_back = ledger.give_back

    def give_back_slowly(*words: object, **named: object) -> None:
        time.sleep(0.2)
        give_back(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "give_back", give_back_slowly)
    tasks._begin_run.cache_clear()
    work(fail(TransientError("storage away")))
    clock.pass_by(6)

    found = find_stages(db, work().run_id)

    assert found.seconds[Stage.LEDGER] >= 0.2 > found.seconds[Stage.FETCHING]


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


def test_lease_is_kept_while_a_model_takes_its_time_to_load(
    tasks: ModuleType, db: Database, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_files(db, tmp_path / "photos")
    settings = Settings.model_construct(lease_seconds=0.2, image_seconds=60)  # Shorter than anybody may set it.

    def lease_until() -> float:
        return float(db.read(lambda connection: connection.execute(sa.select(batches.c.lease_until)).scalar_one()))

    def load(*_: object) -> ScriptedClassifier:
        clock.pass_by(settings.lease_seconds + 0.1)
        wait_until(lambda: lease_until() > clock.seconds)
        assert ledger.claim(db, 1, owner="another", lease_seconds=1000) is None
        return ScriptedClassifier()

    monkeypatch.setattr(tasks, "_classifiers", {})
    monkeypatch.setattr(tasks, "_load_classifier", load)
    tasks.work_on(db, 1, settings)
    close_runs(db)

    assert find_runs(db)[0].classified == 2


def test_message_of_somebody_else_is_dropped(tasks: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    tasks.classify_batch(run_id="7", batch_id="8")

    assert "message_dropped" in "".join(capsys.readouterr())
