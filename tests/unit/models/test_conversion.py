import numpy as np
import pytest

from models.conversion import int8_gate


def logits(best, images=1000, num_labels=3):
    """Logits whose best label is 0, but for those images that `best` names."""
    values = np.zeros((images, num_labels), np.float32)
    values[:, 0] = 1
    for image, label in best.items():
        values[image, label] = 2
    return values


@pytest.mark.parametrize(
    ("float32_best", "int8_best", "passed"),
    [
        ({}, {}, True),
        ({}, dict.fromkeys(range(5), 1), True),  # 0.5 points lost.
        ({}, dict.fromkeys(range(6), 1), False),  # 0.6 points lost.
        (dict.fromkeys(range(30), 1), dict.fromkeys(range(30), 2), True),  # As often wrong, on 97 % the same label.
        (dict.fromkeys(range(31), 1), dict.fromkeys(range(31), 2), False),
        (dict.fromkeys(range(20), 1), {}, True),  # More accurate than float32.
    ],
)
def test_gate_lets_int8_lose_no_more_than_it_may(float32_best, int8_best, passed):
    gate = int8_gate(logits(float32_best), logits(int8_best), np.zeros(1000, np.int64))

    assert gate["int8_passed_gate"] is passed
