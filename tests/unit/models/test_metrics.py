import json

import numpy as np
import pytest

from models.metrics import measure

LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def logits(*ranked):
    """Of images whose labels are those in this order, the first one the most confident."""
    values = np.zeros((len(ranked), len(LABELS)), np.float32)
    for row, letters in zip(values, ranked, strict=True):
        for rank, letter in enumerate(letters):
            row["abcdefg".index(letter)] = 7 - rank
    return values


def test_figures_are_those_worked_out_by_hand():
    given = logits("abcdefg", "abcdefg", "bacdefg", "cbadefg", "abcdefg")
    shown = np.array([0, 0, 0, 1, 6])  # Right, right, second, second, seventh.

    metrics = measure(given, 1.0, shown, LABELS)

    assert (metrics.images, metrics.top_1, metrics.top_5) == (5, 0.4, 0.8)
    best = np.exp(7) / np.exp(np.arange(1, 8)).sum()
    assert metrics.loss == pytest.approx(-np.log([best, best, best / np.e, best / np.e, best / np.e**6]).mean())
    assert metrics.expected_calibration_error == pytest.approx(best - 0.4)
    ant, bee, cat, gnu = metrics.labels
    assert (ant.label, ant.support, ant.predicted) == ("ant", 3, 3)
    assert (ant.precision, ant.recall, ant.f1) == (2 / 3, 2 / 3, 2 / 3)
    assert (bee.precision, bee.recall, bee.f1) == (0.0, 0.0, 0.0)
    assert (cat.support, cat.precision, cat.recall, cat.f1) == (0, 0.0, None, 0.0)
    assert (gnu.predicted, gnu.precision, gnu.recall) == (0, None, 0.0)
    assert metrics.confusion == (
        ("ant", "ant", 2),
        ("ant", "bee", 1),
        ("bee", "cat", 1),
        ("gnu", "ant", 1),
    )


def test_temperature_changes_loss_and_confidence_and_no_label():
    given = logits("abcdefg", "bacdefg")
    cold, hot = (measure(given, temperature, np.array([0, 0]), LABELS) for temperature in (0.5, 4.0))

    assert cold.labels_said == hot.labels_said == ("ant", "bee")
    assert cold.top_1 == hot.top_1 == 0.5
    assert (cold.best > hot.best).all() and cold.loss != hot.loss


def test_fewer_than_five_labels_have_a_top_5():
    metrics = measure(np.eye(2, dtype=np.float32), 1.0, np.array([1, 0]), ("ant", "bee"))

    assert (metrics.top_1, metrics.top_5) == (0.0, 1.0)


def test_figures_are_json():
    facts = json.loads(json.dumps(measure(logits("abcdefg"), 1.0, np.array([2]), LABELS).to_json()))

    assert facts["top_1"] == 0.0
    assert facts["confusion"] == [{"label": "cat", "predicted": "ant", "images": 1}]
