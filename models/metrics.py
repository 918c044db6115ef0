"""How good a model version is on labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.calibration import expected_calibration_error
from models.predictions import confidences, log_loss


@dataclass(frozen=True, kw_only=True)
class LabelMetrics:
    """How good it is at one label; a ratio of nothing is None."""

    label: str
    support: int  #: images that show it
    predicted: int  #: images that were given it
    precision: float | None  #: share of those it was given to that show it
    recall: float | None  #: share of those that show it that were given it
    f1: float  #: harmonic mean of the two; 0 where either is 0 or of nothing


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures over B labelled images, of K labels; shares are 0 to 1."""

    images: int
    top_1: float  #: share whose most confident label is right
    top_5: float  #: share with the right label among the five most confident
    loss: float  #: mean of -log(confidence of the right label)
    expected_calibration_error: float
    labels: tuple[LabelMetrics, ...]  #: those that were shown or predicted, in class-index order
    confusion: tuple[tuple[str, str, int], ...]  #: (shown, predicted, images) of all pairs that occur
    labels_said: tuple[str, ...]  #: B, the most confident label of each image
    best: np.ndarray  #: float32 (B,), its confidence
    is_right: np.ndarray  #: bool (B,)

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON types, without those of each image."""
        return {
            "images": self.images,
            "top_1": self.top_1,
            "top_5": self.top_5,
            "loss": self.loss,
            "expected_calibration_error": self.expected_calibration_error,
            "labels": [vars(label) for label in self.labels],
            "confusion": [
                {"label": shown, "predicted": said, "images": images} for shown, said, images in self.confusion
            ],
        }


def measure(logits: np.ndarray, temperature: float, class_indices: np.ndarray, labels: Sequence[str]) -> Metrics:
    """Compare what a model says with what the images show.

    Args:
        logits: float32 (B, K), B at least 1.
        temperature: of the model version.
        class_indices: (B,), what the images show.
        labels: the K labels in class-index order.
    """
    shares = confidences(logits, temperature)
    order = np.argsort(-shares, axis=1, kind="stable")
    said = order[:, 0]
    is_right = said == class_indices
    best = shares[np.arange(len(shares)), said]
    pairs, counts = np.unique(np.stack([class_indices, said], axis=1), axis=0, return_counts=True)
    return Metrics(
        images=len(shares),
        top_1=float(is_right.mean()),
        top_5=float((order[:, :5] == class_indices[:, np.newaxis]).any(axis=1).mean()),
        loss=log_loss(logits, class_indices, temperature),
        expected_calibration_error=expected_calibration_error(best, is_right),
        labels=tuple(
            _of_label(index, label, class_indices, said)
            for index, label in enumerate(labels)
            if (class_indices == index).any() or (said == index).any()
        ),
        confusion=tuple(
            (labels[shown], labels[predicted], int(count))
            for (shown, predicted), count in zip(pairs, counts, strict=True)
        ),
        labels_said=tuple(labels[index] for index in said),
        best=best,
        is_right=is_right,
    )


def _of_label(index: int, label: str, class_indices: np.ndarray, said: np.ndarray) -> LabelMetrics:
    right = int(((class_indices == index) & (said == index)).sum())
    support, predicted = int((class_indices == index).sum()), int((said == index).sum())
    return LabelMetrics(
        label=label,
        support=support,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        f1=2 * right / (support + predicted),
    )
