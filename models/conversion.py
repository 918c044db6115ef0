"""From a Keras model to LiteRT files, and the gate that an int8 file has to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras

    from models.preprocessing import Preprocessing

GATE_MAX_ACCURACY_LOSS = 0.005
GATE_MIN_AGREEMENT = 0.97


def to_float32(model: keras.Model) -> bytes:
    """A .tflite file with input float32 (1, S, S, 3), normalised, and output float32 logits (1, K)."""
    content: bytes = _converter(model).convert()
    return content


def to_int8(model: keras.Model, pixels: np.ndarray, preprocessing: Preprocessing) -> bytes:
    """A .tflite file with int8 weights and activations, input uint8 (1, S, S, 3) and output float32 logits (1, K).

    Args:
        model: it takes normalised pixels and ends at logits.
        pixels: uint8 (B, S, S, 3), the images whose activations set the ranges.
        preprocessing: its normalisation goes into the file, as the scale of the input.
    """
    import tensorflow as tf

    def normalised() -> Iterator[list[np.ndarray]]:
        for image in pixels:
            yield [((image[np.newaxis] - preprocessing.mean) / preprocessing.scale).astype(np.float32)]

    converter = _converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = normalised
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    content: bytes = converter.convert()
    return content


def int8_gate(float32_logits: np.ndarray, int8_logits: np.ndarray, class_indices: np.ndarray) -> dict[str, Any]:
    """Compare both files' logits (B, K) on labelled images: may int8 be used?

    Returns:
        The figures for the model card; `int8_passed_gate` is the answer.
    """
    float32_best, int8_best = float32_logits.argmax(axis=1), int8_logits.argmax(axis=1)
    float32_right, int8_right = (int((best == class_indices).sum()) for best in (float32_best, int8_best))
    agreement = float((float32_best == int8_best).mean())
    return {
        "gate_images": len(class_indices),
        "float32_accuracy": float32_right / len(class_indices),
        "int8_accuracy": int8_right / len(class_indices),
        "int8_agreement": agreement,
        # Counted in images: 1 - 0.995 is a little more than 0.005.
        "int8_passed_gate": (
            float32_right - int8_right <= GATE_MAX_ACCURACY_LOSS * len(class_indices)
            and agreement >= GATE_MIN_AGREEMENT
        ),
    }


def _converter(model: keras.Model) -> Any:
    """A converter of the model as it predicts, for one image at a time."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    shape = (1, *model.input_shape[1:])
    function = tf.function(lambda pixels: model(pixels, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec(shape, tf.float32, name="pixels"))
    return tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(concrete)])
