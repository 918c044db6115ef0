"""TensorFlow, for any Keras model and for GPUs: slower to load and larger in memory than LiteRT."""

import os
import tempfile
from pathlib import Path

import numpy as np

from base.errors import ModelError
from models.engines.quiet import quiet_stderr
from models.keras_file import load_keras
from models.preprocessing import Preprocessing


class TensorflowEngine:
    """A .keras file, one image at a time, so that an image's logits are independent of its neighbours."""

    def __init__(self, model: bytes, preprocessing: Preprocessing) -> None:
        """Load the model.

        Args:
            model: the content of a .keras file that takes normalised pixels (B, S, S, 3) and ends at logits (B, K).
            preprocessing: what its version expects.

        Raises:
            ModelError: it is not such a model, or TensorFlow is not installed.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        try:
            with quiet_stderr():
                import tensorflow as tf
        except ImportError as error:
            raise ModelError(
                f"this model version needs TensorFlow, which is not installed ({error}): pip install 'tagmill[train]'."
            ) from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"  # Keras reads files only.
            path.write_bytes(model)
            keras_model = load_keras(path)
        size = preprocessing.size
        if keras_model.input_shape != (None, size, size, 3) or len(keras_model.output_shape) != 2:
            raise ModelError(
                f"the model takes {keras_model.input_shape} and gives {keras_model.output_shape} instead of "
                f"(None, {size}, {size}, 3) in and (None, K) out."
            )
        self._num_labels = int(keras_model.output_shape[1])
        self._preprocessing = preprocessing
        signature = tf.TensorSpec((1, size, size, 3), tf.float32)
        self._predict = tf.function(lambda pixels: keras_model(pixels, training=False), input_signature=[signature])

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        logits = np.empty((len(pixels), self._num_labels), np.float32)
        for index, image in enumerate(pixels):
            logits[index] = self._predict(self._preprocessing.normalise(image[np.newaxis]))[0]
        return logits
