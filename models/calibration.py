"""How far a confidence can be trusted: the temperature, the error that is left, and thresholds for a precision."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from models.predictions import confidences, log_loss

#: Equal bins of confidence that the calibration error compares. Source: Guo et al. 2017 (arXiv:1706.04599), section 2.
BINS = 15

_HOTTEST = 20.0
_SEARCH_STEPS = 60


def fit_temperature(logits: np.ndarray, class_indices: np.ndarray) -> float:
    """Find what to divide logits by, so that confidences are as often right as they say.

    One number for all labels, so that their order stays. Where validation images are few and all of them right, the
    smallest loss is that of being infinitely sure; so a right label is aimed at a little below 1, by as much as one
    wrong image in N + 2 would cost.

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2; the aim is that of Platt 1999, section 2.2.

    Args:
        logits: float32 (B, K) of labelled images that the model did not learn from.
        class_indices: (B,), what they show.

    Returns:
        The temperature, 0.05 to 20; 1 where the one that was found has no lower loss on these images.
    """
    count, num_labels = logits.shape
    missed = 1 / (count + 2)
    targets = np.full((count, num_labels), missed / max(num_labels - 1, 1))
    targets[np.arange(count), class_indices] = 1 - missed

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        logs = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-(targets * logs).sum(axis=1).mean())

    # The loss is convex in 1 / temperature, so it has one valley.
    found = math.exp(_lowest(loss, -math.log(_HOTTEST), math.log(_HOTTEST)))
    return found if log_loss(logits, class_indices, found) < log_loss(logits, class_indices, 1.0) else 1.0


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search for the lowest point of a function with one valley."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_SEARCH_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def expected_calibration_error(best: np.ndarray, is_right: np.ndarray) -> float:
    """By how much the confidences are off: the mean over all images of |accuracy - confidence| of their bin.

    Args:
        best: (B,), the confidence of each image's first label, 0 to 1.
        is_right: bool (B,), whether that label is the right one.

    Returns:
        0 to 1.
    """
    gaps = [abs(is_right[rows].mean() - best[rows].mean()) * len(rows) for rows in bins(best) if len(rows)]
    return float(sum(gaps) / len(best))


def bins(best: np.ndarray) -> list[np.ndarray]:
    """The positions of the confidences (B,) in each of BINS equal bins; a bin holds its upper edge."""
    numbers = np.clip(np.ceil(best.astype(np.float64) * BINS).astype(int) - 1, 0, BINS - 1)
    return [np.flatnonzero(numbers == number) for number in range(BINS)]


def choose_thresholds(
    logits: np.ndarray, temperature: float, class_indices: np.ndarray, labels: Sequence[str], target_precision: float
) -> Mapping[str, float | None]:
    """The lowest confidence of each label from which on its answers are right as often as wanted.

    Args:
        logits: float32 (B, K) of labelled images that the model did not learn from.
        temperature: of the model version.
        class_indices: (B,), what they show.
        labels: the K labels in class-index order.
        target_precision: the share of right ones among a label's answers that are sure enough, 0 to 1.

    Returns:
        Label → confidence; None where no answer of that label was seen, or even the surest are wrong too often.
    """
    shares = confidences(logits, temperature)
    said, best = shares.argmax(axis=1), shares.max(axis=1)
    thresholds: dict[str, float | None] = {}
    for class_index, label in enumerate(labels):
        rows = np.flatnonzero(said == class_index)
        rows = rows[np.argsort(-best[rows], kind="stable")]
        precision = np.cumsum(class_indices[rows] == class_index) / np.arange(1, len(rows) + 1)
        # Equal confidences are on the same side of a threshold.
        is_last_of_equals = np.append(best[rows][1:] != best[rows][:-1], True) if len(rows) else np.empty(0, bool)
        enough = np.flatnonzero((precision >= target_precision) & is_last_of_equals)
        thresholds[label] = float(best[rows[enough[-1]]]) if len(enough) else None
    return thresholds
