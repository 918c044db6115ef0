"""What every engine can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from models.preprocessing import Preprocessing


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


def open_engine(file: str, content: bytes, preprocessing: Preprocessing) -> Engine:
    """The engine that runs a file, by the ending of its name.

    Args:
        file: NAME.tflite or NAME.keras.
        content: of the file.
        preprocessing: what its model version expects.

    Raises:
        ModelError: it cannot be loaded.
    """
    if file.endswith(".keras"):
        from models.engines.tensorflow import TensorflowEngine  # Takes seconds, and a gigabyte.

        return TensorflowEngine(content, preprocessing)
    from models.engines.litert import LitertEngine  # Loading LiteRT takes time that listing versions should not.

    return LitertEngine(content, preprocessing)
