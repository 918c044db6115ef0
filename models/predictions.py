"""From a model's logits to labels with confidences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import ModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One label of one image; its rank is its position in the image's list, plus 1."""

    label: str
    confidence: float  #: 0 to 1


def confidences(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of the logits after division by the temperature.

    Args:
        logits: float32 (B, K).
        temperature: above 1 makes a model less sure of itself, below 1 surer; its order of labels stays.

    Returns:
        float32 (B, K) in [0, 1]; each row sums to 1 within 1e-5.

    Raises:
        ModelError: a logit is not a finite number, or the temperature is not above 0.
    """
    if not temperature > 0:
        raise ModelError(f"temperature {temperature!r} is not above 0.")
    if not np.isfinite(logits).all():
        raise ModelError("the model gave logits that are not finite numbers; its weights are damaged or it diverged.")
    scaled = logits.astype(np.float64) / temperature
    # The largest exponent becomes 0, so that none overflows.
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares.astype(np.float32)


def log_loss(logits: np.ndarray, class_indices: np.ndarray, temperature: float = 1.0) -> float:
    """The mean of -log(confidence of the right label), which is what training lowers.

    Args:
        logits: float32 (B, K).
        class_indices: (B,), what the images show.
        temperature: as for `confidences`.
    """
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    logs = scaled[np.arange(len(scaled)), class_indices] - np.log(np.exp(scaled).sum(axis=1))
    return float(-logs.mean())


def top_k(confidences: np.ndarray, labels: Sequence[str], k: int = 5) -> list[list[Prediction]]:
    """Keep the k most confident labels of each image.

    Args:
        confidences: float32 (B, K), each row sums to 1.
        labels: the K labels in class-index order.
        k: labels kept per image; all K when larger.

    Returns:
        One list per image in input order, most confident first; a tie keeps the lower class index.

    Raises:
        ModelError: `labels` does not have K entries.
    """
    if confidences.shape[1] != len(labels):
        raise ModelError(f"the model gives {confidences.shape[1]} confidences per image for {len(labels)} labels.")
    kept = min(k, len(labels))
    # To find the least that is kept and sort what reaches it takes a fifth of the time that sorting all takes.
    least = np.partition(confidences, -kept, axis=1)[:, -kept]
    return [
        [Prediction(label=labels[index], confidence=float(row[index])) for index in _order(row, floor)[:kept]]
        for row, floor in zip(confidences, least, strict=True)
    ]


def _order(row: np.ndarray, floor: float) -> np.ndarray:
    """The indices of what is not below the floor, the largest first."""
    reaching: np.ndarray = np.flatnonzero(row >= floor)
    return reaching[np.argsort(-row[reaching], kind="stable")]
