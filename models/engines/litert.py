"""LiteRT, the default engine on CPUs: one thread, XNNPACK, one image at a time."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from base.errors import ModelError
from models.engines.quiet import quiet_stderr
from models.preprocessing import Preprocessing


class LitertEngine:
    """A .tflite file, float32 or int8, whose batch size is fixed at 1.

    One image at a time costs no speed on a CPU, and makes an image's logits independent of its neighbours.
    """

    def __init__(self, model: bytes, preprocessing: Preprocessing) -> None:
        """Load the model.

        Args:
            model: the content of a .tflite file with one input (1, S, S, 3), float32 or uint8, and one output (1, K),
                float32.
            preprocessing: what its version expects.

        Raises:
            ModelError: it is not such a model.
        """
        size = preprocessing.size
        try:
            with quiet_stderr():
                self._interpreter = Interpreter(model_content=model, num_threads=1)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"LiteRT cannot load the model: {error}") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [tuple(int(n) for n in tensor["shape"]) for tensor in (*inputs, *outputs)]
        if len(shapes) != 2 or shapes[0] != (1, size, size, 3) or len(shapes[1]) != 2 or shapes[1][0] != 1:
            raise ModelError(f"the model has the shapes {shapes} instead of (1, {size}, {size}, 3) in and (1, K) out.")
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]
        self._num_labels = shapes[1][1]
        self._preprocessing = preprocessing
        dtype = inputs[0]["dtype"]
        if dtype not in (np.float32, np.uint8):
            raise ModelError(f"the model takes {dtype.__name__} instead of float32 or uint8.")
        self._takes_integers = dtype is np.uint8
        self._table = _input_table(inputs[0], preprocessing) if self._takes_integers else None

    def predict_logits(self, pixels: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        logits = np.empty((len(pixels), self._num_labels), np.float32)
        for index, image in enumerate(pixels):
            self._interpreter.set_tensor(self._input, self._prepare(image)[np.newaxis])
            self._interpreter.invoke()
            logits[index] = self._interpreter.get_tensor(self._output)[0]
        return logits

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """What the model takes for pixels uint8 (S, S, 3): the same normalised, as float32 or as its own uint8."""
        if self._table is not None:
            return np.take(self._table, image, mode="clip")  # Without a mode it looks for values out of range first.
        if self._takes_integers:
            return image
        return self._preprocessing.normalise(image)


def _input_table(tensor: dict[str, Any], preprocessing: Preprocessing) -> np.ndarray | None:
    """The model's own uint8 for each of a pixel's 256 values; None where they are the same."""
    scale, zero_point = tensor["quantization"]
    normalised = (np.arange(256) - preprocessing.mean) / preprocessing.scale
    table: np.ndarray = np.clip(np.round(normalised / scale + zero_point), 0, 255).astype(np.uint8)
    return None if (table == np.arange(256)).all() else table
