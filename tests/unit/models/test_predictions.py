import numpy as np
import pytest

from base.errors import ModelError
from models.predictions import confidences, top_k


def test_each_row_sums_to_one_over_a_thousand_labels():
    logits = np.random.default_rng(0).normal(0, 5, (8, 1000)).astype(np.float32)

    shares = confidences(logits, 1.0)

    assert np.abs(shares.sum(axis=1) - 1).max() < 1e-5
    assert shares.min() >= 0 and shares.max() <= 1


def test_logits_beyond_the_range_of_exp_stay_finite():
    shares = confidences(np.array([[90_000, 0, -90_000]], np.float32), 1.0)

    assert shares.tolist() == [[1, 0, 0]]


def test_high_temperature_lowers_the_top_confidence():
    logits = np.array([[3, 1, 0]], np.float32)

    assert confidences(logits, 4.0).max() < confidences(logits, 1.0).max()


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_refused(logit):
    with pytest.raises(ModelError, match="not finite"):
        confidences(np.array([[logit, 0]], np.float32), 1.0)


def test_temperature_of_zero_is_refused():
    with pytest.raises(ModelError, match="temperature 0"):
        confidences(np.zeros((1, 2), np.float32), 0.0)


def test_most_confident_label_comes_first():
    (predictions,) = top_k(np.array([[0.1, 0.7, 0.2]]), ["cat", "dog", "owl"], k=2)

    assert [(p.label, p.confidence) for p in predictions] == [("dog", 0.7), ("owl", 0.2)]


def test_tie_keeps_the_lower_class_index():
    """Among a thousand, as sorting a few is stable by chance."""
    shares = np.tile([0.0005, 0.0015], (1, 500))

    (predictions,) = top_k(shares, [str(index) for index in range(1000)], k=3)

    assert [p.label for p in predictions] == ["1", "3", "5"]


def test_k_above_the_label_count_gives_all():
    assert [len(row) for row in top_k(np.full((3, 2), 0.5), ["cat", "dog"], k=5)] == [2, 2, 2]


def test_no_images_give_no_predictions():
    assert top_k(confidences(np.zeros((0, 2), np.float32), 1.0), ["cat", "dog"]) == []


def test_wrong_number_of_labels_is_refused():
    with pytest.raises(ModelError, match="3 confidences per image for 2 labels"):
        top_k(np.zeros((1, 3)), ["cat", "dog"])
