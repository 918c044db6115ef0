"""The images of a batch → answers and failures, with a fake engine."""

import weakref
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest

from base.errors import FailureReason, ModelError
from base.stages import Stopwatch
from models.classifier import Classifier
from models.decoding import DecodingLimits
from models.engines.fake import FakeEngine
from models.predictions import Prediction
from models.preprocessing import Preprocessing
from results.ledger import Answer, ClaimedImage, Failure
from tests.fake_model import fake_version
from tests.samples import make_jpeg, make_png
from worker import classify as classify_module
from worker.classify import classify

MAX_BYTES = 2**20
PREPROCESSING = Preprocessing(size=32, crop=1.0, mean=0.0, scale=1.0)
LIMITS = DecodingLimits(max_bytes=MAX_BYTES, max_pixels=10**6)


class CountingEngine(FakeEngine):
    """Counts the images it was asked for."""

    predicted = 0

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        self.predicted += len(pixels)
        return super().predict_logits(pixels)


class Twins:
    """The answers that the database knows, and what it was asked for."""

    def __init__(self, known: dict[bytes, list[tuple[str, float]]] | None = None) -> None:
        self.known = known or {}
        self.asked: list[set[bytes]] = []

    def find(self, content_hashes: Collection[bytes]) -> dict[bytes, list[tuple[str, float]]]:
        self.asked.append(set(content_hashes))
        return {found: self.known[found] for found in content_hashes if found in self.known}


@pytest.fixture
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture
def classifier(engine: CountingEngine) -> Classifier:
    return Classifier(fake_version(PREPROCESSING), limits=LIMITS, engine=engine)


class Batch:
    """Claimed images below a folder, numbered from 1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.images: list[ClaimedImage] = []

    def add(self, content: bytes | None) -> None:
        """None: it went away since it was listed."""
        number = len(self.images) + 1
        path = self._folder / f"{number:03}.jpg"
        if content is not None:
            path.write_bytes(content)
        self.images.append(ClaimedImage(image_id=number, uri=path.as_uri(), fingerprint="listed"))


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def run(
    classifier: Classifier, batch: Batch, twins: Twins | None = None, progress: list[int] | None = None
) -> tuple[list[Answer], list[Failure]]:
    steps = [] if progress is None else progress
    find = (twins or Twins()).find
    return classify(
        classifier, batch.images, top_k=2, max_bytes=MAX_BYTES, find_twins=find, on_progress=lambda: steps.append(1)
    )


def test_each_image_gets_its_labels(classifier: Classifier, batch: Batch) -> None:
    for colour in ("red", "lime", "blue"):
        batch.add(make_png(colour=colour))

    answers, failures = run(classifier, batch)

    assert [answer.labels[0][0] for answer in answers] == ["red", "green", "blue"]
    assert [len(answer.labels) for answer in answers] == [2, 2, 2]
    assert failures == []


def test_bad_image_leaves_its_neighbours_alone(classifier: Classifier, batch: Batch) -> None:
    contents = [make_jpeg(), None, b"just text", make_jpeg(colour="blue")[:-200], make_jpeg(colour="lime")]
    for content in contents:
        batch.add(content)

    answers, failures = run(classifier, batch)

    assert [answer.image_id for answer in answers] == [1, 5]
    assert {failure.image_id: failure.reason for failure in failures} == {
        2: FailureReason.NOT_FOUND,
        3: FailureReason.NOT_AN_IMAGE,
        4: FailureReason.TRUNCATED,
    }


def test_failure_names_the_bytes_that_were_looked_at(classifier: Classifier, batch: Batch) -> None:
    batch.add(None)
    batch.add(b"just text")

    _, (unread, read) = run(classifier, batch)

    assert unread.fingerprint == "listed"
    assert read.fingerprint.startswith("9-")


def test_message_of_a_failure_can_be_kept_by_any_database(
    classifier: Classifier, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(encoded: bytes) -> None:
        raise ValueError("a\0b\ud800c\nd")

    monkeypatch.setattr(classifier, "decode", fail)
    batch.add(make_jpeg())

    _, (failure,) = run(classifier, batch)

    assert failure.message == "ValueError: a b c d"


def test_image_above_the_byte_limit_is_a_failure(classifier: Classifier, batch: Batch) -> None:
    batch.add(bytes(MAX_BYTES + 1))

    _, (failure,) = run(classifier, batch)

    assert failure.reason is FailureReason.TOO_LARGE


def test_answer_has_the_fingerprint_of_the_bytes_read(classifier: Classifier, batch: Batch) -> None:
    batch.add(make_jpeg())

    (answer,), _ = run(classifier, batch)

    assert answer.fingerprint.partition("-")[0] == str(len(make_jpeg()))


def test_same_bytes_are_predicted_once(classifier: Classifier, engine: CountingEngine, batch: Batch) -> None:
    for _ in range(3):
        batch.add(make_jpeg())

    answers, _ = run(classifier, batch)

    assert engine.predicted == 1
    assert [answer.reused for answer in answers] == [False, True, True]
    assert len({tuple(answer.labels) for answer in answers}) == 1


def test_bytes_known_to_the_database_are_not_predicted(
    classifier: Classifier, engine: CountingEngine, batch: Batch
) -> None:
    batch.add(make_jpeg())
    content_hash = run(classifier, batch)[0][0].content_hash
    engine.predicted = 0

    (answer,), _ = run(classifier, batch, Twins({content_hash: [("blue", 0.9), ("red", 0.1)]}))

    assert (answer.labels, answer.reused, engine.predicted) == ([("blue", 0.9), ("red", 0.1)], True, 0)


def test_twin_with_too_few_labels_is_predicted_again(classifier: Classifier, batch: Batch) -> None:
    batch.add(make_jpeg())
    content_hash = run(classifier, batch)[0][0].content_hash

    (answer,), _ = run(classifier, batch, Twins({content_hash: [("blue", 0.9)]}))

    assert (answer.labels[0][0], answer.reused) == ("red", False)


def test_twin_with_more_labels_is_cut(classifier: Classifier, batch: Batch) -> None:
    batch.add(make_jpeg())
    content_hash = run(classifier, batch)[0][0].content_hash
    known = [("blue", 0.6), ("red", 0.3), ("green", 0.1)]

    (answer,), _ = run(classifier, batch, Twins({content_hash: known}))

    assert answer.labels == known[:2]


def test_database_is_asked_once_per_ordinary_batch(classifier: Classifier, batch: Batch) -> None:
    for colour in ("red", "lime", "blue"):
        batch.add(make_jpeg(colour=colour))
    twins = Twins()

    run(classifier, batch, twins)

    assert [len(asked) for asked in twins.asked] == [3]


def test_batch_of_huge_images_is_held_in_parts(
    classifier: Classifier, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for colour in ("red", "lime", "blue"):
        batch.add(make_jpeg(colour=colour))
    batch.add(None)
    monkeypatch.setattr(classify_module, "_BYTES_HELD", len(make_jpeg()))
    twins = Twins()

    answers, failures = run(classifier, batch, twins)

    assert [len(asked) for asked in twins.asked][:3] == [1, 1, 1]
    assert [end.image_id for end in [*answers, *failures]] == [1, 2, 3, 4]


def test_progress_is_told_for_every_step(classifier: Classifier, batch: Batch) -> None:
    for content in (make_jpeg(), b"just text", None):
        batch.add(content)
    progress: list[int] = []

    run(classifier, batch, progress=progress)

    assert len(progress) == 3 + 2 + 2  # Fetched or not; what was fetched: decoded or not, and then its end.


def test_each_of_many_images_has_its_own_end(classifier: Classifier, batch: Batch) -> None:
    """Several are decoded in a row, and with twins and broken ones among them none may take its neighbour's label."""
    kinds = [make_png(colour=colour) for colour in ("red", "lime", "blue")] + [b"just text"]
    for number in range(3 * classify_module._DECODED_IN_A_ROW + 1):
        batch.add(kinds[number * number % 13 % 4])

    answers, failures = run(classifier, batch)

    told = {answer.image_id: answer.labels[0][0] for answer in answers}
    told |= {failure.image_id: failure.reason for failure in failures}
    ends = ["red", "green", "blue", FailureReason.NOT_AN_IMAGE]
    assert told == {number + 1: ends[number * number % 13 % 4] for number in range(len(batch.images))}
    assert {answer.labels[0][0] for answer in answers if not answer.reused} == {"red", "green", "blue"}


def test_image_that_gets_no_labels_leaves_its_neighbours_alone(batch: Batch) -> None:
    class Hungry(Classifier):
        def label(self, logits: Sequence[np.ndarray], k: int) -> list[list[Prediction]]:
            found = super().label(logits, k)
            if any(labels[0].label == "green" for labels in found):
                raise MemoryError
            return found

    for colour in ("red", "lime", "blue", "lime"):
        batch.add(make_png(colour=colour))

    answers, failures = run(Hungry(fake_version(PREPROCESSING), limits=LIMITS, engine=FakeEngine()), batch)

    assert [(answer.image_id, answer.labels[0][0]) for answer in answers] == [(1, "red"), (3, "blue")]
    assert [(failure.image_id, failure.reason) for failure in failures] == [
        (2, FailureReason.TOO_LARGE),
        (4, FailureReason.TOO_LARGE),
    ]


def test_logits_that_are_no_numbers_are_the_fault_of_no_image(batch: Batch) -> None:
    class Diverged(FakeEngine):
        def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
            return super().predict_logits(pixels) * np.nan

    batch.add(make_png())

    with pytest.raises(ModelError, match="not finite"):
        run(Classifier(fake_version(PREPROCESSING), limits=LIMITS, engine=Diverged()), batch)


def test_memory_of_failed_image_is_free_for_the_next(batch: Batch) -> None:
    halves: list[weakref.ref[np.ndarray]] = []
    held: list[bool] = []

    class Hungry(Classifier):
        def decode(self, encoded: bytes) -> np.ndarray:
            held.append(any(half() is not None for half in halves))
            half_decoded = np.zeros((8, 8))
            halves.append(weakref.ref(half_decoded))
            raise MemoryError

    for colour in ("red", "lime", "blue"):
        batch.add(make_png(colour=colour))

    run(Hungry(fake_version(PREPROCESSING), limits=LIMITS, engine=FakeEngine()), batch)

    assert held == [False, False, False]


def test_error_of_progress_ends_the_batch(classifier: Classifier, batch: Batch) -> None:
    batch.add(make_jpeg())

    def lose() -> None:
        raise RuntimeError("lease lost")

    with pytest.raises(RuntimeError, match="lease lost"):
        classify(classifier, batch.images, top_k=2, max_bytes=MAX_BYTES, find_twins=Twins().find, on_progress=lose)


def test_empty_batch_has_no_ends(classifier: Classifier, batch: Batch) -> None:
    assert run(classifier, batch) == ([], [])


@pytest.mark.parametrize(
    ("colour", "needs_review"),
    [
        ("red", False),  # Surer than its label's threshold.
        ("#806060", True),  # Red, and not as sure as that.
        ("lime", True),  # No confidence is enough for it.
    ],
)
def test_answer_below_its_threshold_needs_a_review(
    classifier: Classifier, batch: Batch, colour: str, needs_review: bool
) -> None:
    batch.add(make_png(colour=colour))

    (answer,), _ = run(classifier, batch)

    assert answer.needs_review is needs_review


@pytest.mark.parametrize(("confidence", "needs_review"), [(0.9, False), (0.8999, True)])
def test_copied_answer_is_measured_by_the_same_threshold(
    classifier: Classifier, batch: Batch, confidence: float, needs_review: bool
) -> None:
    batch.add(make_jpeg())
    content_hash = run(classifier, batch)[0][0].content_hash

    (answer,), _ = run(classifier, batch, Twins({content_hash: [("red", confidence), ("blue", 0.05)]}))

    assert (answer.reused, answer.needs_review) == (True, needs_review)


def test_twins_within_a_batch_need_a_review_alike(classifier: Classifier, batch: Batch) -> None:
    for _ in range(2):
        batch.add(make_jpeg(colour="lime"))

    answers, _ = run(classifier, batch)

    assert [(answer.reused, answer.needs_review) for answer in answers] == [(False, True), (True, True)]


def test_time_of_a_batch_is_told_by_stage(engine: CountingEngine, batch: Batch) -> None:
    watch = Stopwatch()
    version = fake_version(Preprocessing(size=32, crop=1.0, mean=0.0, scale=1.0))
    limits = DecodingLimits(max_bytes=MAX_BYTES, max_pixels=10**6)
    batch.add(make_jpeg())

    classify(
        Classifier(version, limits=limits, engine=engine, watch=watch),
        batch.images,
        top_k=2,
        max_bytes=MAX_BYTES,
        find_twins=Twins().find,
        on_progress=lambda: None,
        watch=watch,
    )

    spent = [stage for stage, seconds in watch.take().items() if seconds]
    assert spent == ["waiting", "fetching", "decoding", "preprocessing", "inference"]
