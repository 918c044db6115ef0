"""What every engine can do."""

from typing import Protocol

import numpy as np


class Engine(Protocol):
    """A loaded model version. Its normalisation is inside, its temperature and softmax are not."""

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """Run the model.

        Args:
            pixels: uint8 (B, S, S, 3); B may be 0.

        Returns:
            float32 (B, K), the same bits for an image whatever its neighbours are.
        """
        ...
