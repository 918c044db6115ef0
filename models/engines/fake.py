"""An engine for tests: needs no files, and its answers can be told from the image by eye."""

import numpy as np


class FakeEngine:
    """Labels 0, 1 and 2 stand for red, green and blue; an image gets that of which its mean colour has most."""

    def __init__(self, num_labels: int = 3) -> None:
        self.num_labels = num_labels

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """See `Engine`; the labels from the fourth on repeat the first three, one logit lower each time round."""
        logits = np.zeros((len(pixels), self.num_labels), np.float32)
        for row, image in zip(logits, pixels, strict=True):
            means = image.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 32
            for index in range(self.num_labels):
                row[index] = means[index % 3] - index // 3
        return logits
