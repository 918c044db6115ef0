import numpy as np
import pytest

from models.calibration import bins, choose_thresholds, expected_calibration_error, fit_temperature
from models.predictions import confidences, log_loss


def sampled(temperature, images=4000, num_labels=4, seed=0):
    """Logits that are too sure by this factor, and class indices drawn from what they should say."""
    random = np.random.default_rng(seed)
    honest = random.normal(size=(images, num_labels)) * 2
    shares = confidences(honest.astype(np.float32))
    class_indices = np.array([random.choice(num_labels, p=row / row.sum()) for row in shares.astype(np.float64)])
    return (honest * temperature).astype(np.float32), class_indices


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(temperature):
    logits, class_indices = sampled(temperature)

    assert fit_temperature(logits, class_indices) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_temperature_never_raises_the_loss(seed):
    logits, class_indices = sampled(2.0, images=12, seed=seed)

    found = fit_temperature(logits, class_indices)

    assert log_loss(logits, class_indices, found) <= log_loss(logits, class_indices, 1.0)


def test_temperature_lowers_the_calibration_error():
    logits, class_indices = sampled(3.0)

    def error(temperature):
        shares = confidences(logits, temperature)
        return expected_calibration_error(shares.max(axis=1), shares.argmax(axis=1) == class_indices)

    assert error(fit_temperature(logits, class_indices)) < error(1.0) / 3


def test_few_images_that_are_all_right_make_nobody_infinitely_sure():
    """The plain loss would be lowest at temperature 0."""
    class_indices = np.arange(12) % 3
    logits = np.eye(3, dtype=np.float32)[class_indices]

    temperature = fit_temperature(logits, class_indices)

    assert confidences(logits, temperature).max(axis=1) == pytest.approx(1 - 1 / 14, abs=1e-3)


def test_calibration_error_is_the_mean_gap_of_the_bins():
    best = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.5])
    is_right = np.array([True, True, True, False, True, False])

    assert expected_calibration_error(best, is_right) == pytest.approx((4 * 0.2 + 2 * 0.0) / 6)


def test_every_confidence_is_in_one_bin():
    found = bins(np.array([0.0, 1e-9, 1 / 15, 0.0667, 1.0]))

    assert [rows.tolist() for rows in found if len(rows)] == [[0, 1, 2], [3], [4]]
    assert found[14].tolist() == [4]


def answers(*rows):
    """Logits and class indices of images of three labels: (said, confidence, shown)."""
    shares = np.empty((len(rows), 3))
    for row, (said, confidence, _) in zip(shares, rows, strict=True):
        row[:] = (1 - confidence) / 2
        row[said] = confidence
    return np.log(shares).astype(np.float32), np.array([shown for _, _, shown in rows])


def test_threshold_is_the_lowest_confidence_that_is_right_often_enough():
    logits, class_indices = answers(
        *[(0, 0.9, 0), (0, 0.8, 0), (0, 0.7, 1), (0, 0.6, 0), (0, 0.5, 1)],  # Right from the top: 1, 1, 2/3, 3/4, 3/5.
        *[(1, 0.9, 0), (1, 0.8, 1)],  # Wrong at the top: 0, 1/2.
    )

    at = {
        precision: choose_thresholds(logits, 1.0, class_indices, ("a", "b", "c"), precision)
        for precision in (0.5, 0.75, 0.95)
    }

    assert at[0.95]["a"] == pytest.approx(0.8) and at[0.75]["a"] == pytest.approx(0.6)
    assert at[0.5]["a"] == pytest.approx(0.5)
    assert at[0.5]["b"] == pytest.approx(0.8) and at[0.75]["b"] is None
    assert at[0.5]["c"] is None  # Nothing was given that label.


def test_equal_confidences_are_on_one_side_of_a_threshold():
    logits, class_indices = answers((0, 0.9, 0), (0, 0.6, 0), (0, 0.6, 1), (0, 0.6, 1))

    assert choose_thresholds(logits, 1.0, class_indices, ("a", "b", "c"), 0.95)["a"] == pytest.approx(0.9)


def test_answers_that_reach_their_threshold_are_as_often_right_as_wanted():
    logits, class_indices = sampled(1.5, num_labels=3)
    thresholds = choose_thresholds(logits, 1.5, class_indices, ("a", "b", "c"), 0.9)
    shares = confidences(logits, 1.5)
    said, best = shares.argmax(axis=1), shares.max(axis=1)

    for class_index, label in enumerate("abc"):
        sure = (said == class_index) & (best >= thresholds[label])
        assert sure.sum() > 100 and (class_indices[sure] == class_index).mean() >= 0.9
