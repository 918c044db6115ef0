"""From a Keras model to the engine files of a version, and the gate that an int8 file has to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ModelError
from models.engines.choice import ENGINE_FILES, EngineChoice
from models.engines.litert import LitertEngine
from models.preprocessing import Preprocessing, fit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import keras
    from PIL import Image

    from models.child import Progress

GATE_MAX_ACCURACY_LOSS = 0.005
GATE_MIN_AGREEMENT = 0.97
FLOAT32_MAX_DIFFERENCE = 1e-3  # Of the largest logit; the order of the sums makes some 1e-5 of it.
GATE_CROPS = (1.0, 0.875, 0.75)


@dataclass(frozen=True, kw_only=True)
class GateImages:
    """Labelled images that int8 is compared with float32 on, and images whose activations set its ranges."""

    calibration: np.ndarray  #: uint8 (B, S, S, 3)
    pixels: np.ndarray  #: uint8 (B, S, S, 3), others than those
    class_indices: np.ndarray  #: (B,), what `pixels` show


@dataclass(frozen=True, kw_only=True)
class Engines:
    """The engine files of a version."""

    files: dict[str, bytes]
    engine_file: str  #: the one to load
    metrics: dict[str, Any]  #: those of the gate; and why a file is missing, where one is


def make_engines(
    model: keras.Model,
    preprocessing: Preprocessing,
    gate: GateImages | None,
    *,
    choice: EngineChoice | None = None,
    on_progress: Progress,
) -> Engines:
    """Make the files that run a model, and decide which of them is loaded.

    Args:
        model: it takes normalised pixels (B, S, S, 3) and ends at logits.
        preprocessing: what the model expects.
        gate: None for no int8 file.
        choice: None for the fastest that may be used.
        on_progress: told how far it is.

    Raises:
        ModelError: the file that was chosen cannot be made, or may not be used.
    """
    from models.keras_file import keras_bytes

    files = {ENGINE_FILES[EngineChoice.TENSORFLOW]: keras_bytes(model)}
    metrics: dict[str, Any] = {}
    on_progress("converting to float32", 0.0)
    try:
        float32 = to_float32(model)
        engine = LitertEngine(float32, preprocessing)
        _compare(engine, model, preprocessing)
    except Exception as error:  # noqa: BLE001 (the converter raises about anything over what it does not know)
        metrics["float32"] = f"cannot be used: {_first_line(error)}"
    else:
        files[ENGINE_FILES[EngineChoice.FLOAT32]] = float32
        if gate is not None and choice in (None, EngineChoice.INT8):
            try:
                metrics |= _try_int8(model, preprocessing, gate, engine, files, on_progress)
            except Exception as error:  # noqa: BLE001 (as above)
                metrics["int8"] = f"cannot be used: {_first_line(error)}"
    fastest = next(each for each in EngineChoice if ENGINE_FILES[each] in files)
    chosen = fastest if choice is None else choice
    if ENGINE_FILES[chosen] not in files:
        raise ModelError(
            f"engine {str(chosen)!r} cannot be used: {_why_not(chosen, metrics)}. Take --engine {fastest}."
        )
    return Engines(files=files, engine_file=ENGINE_FILES[chosen], metrics=metrics)


def _try_int8(
    model: keras.Model,
    preprocessing: Preprocessing,
    gate: GateImages,
    float32: LitertEngine,
    files: dict[str, bytes],
    on_progress: Progress,
) -> dict[str, Any]:
    """Make the int8 file, and add it to the others where it passes the gate; returns the figures of that."""
    on_progress("converting to int8", 0.2)
    content = to_int8(model, gate.calibration, preprocessing)
    on_progress("comparing int8 with float32", 0.7)
    figures = int8_gate(
        float32.predict_logits(gate.pixels),
        LitertEngine(content, preprocessing).predict_logits(gate.pixels),
        gate.class_indices,
    )
    if figures["int8_passed_gate"]:
        files[ENGINE_FILES[EngineChoice.INT8]] = content
    return figures


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line[:200]}"


def _compare(engine: LitertEngine, model: keras.Model, preprocessing: Preprocessing) -> None:
    """Raises ModelError where the converted model is another one; its operations may mean something else there."""
    shape = (4, preprocessing.size, preprocessing.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.asarray(model.predict_on_batch(preprocessing.normalise(pixels)))
    off = float(np.abs(engine.predict_logits(pixels) - expected).max())
    if not off <= FLOAT32_MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1.0):
        raise ModelError(f"its logits are {off:.3g} off those of Keras")


def _why_not(choice: EngineChoice, metrics: dict[str, Any]) -> str:
    for engine in (choice.value, "float32"):
        if engine in metrics:
            return f"{engine} {metrics[engine]}"
    if choice is EngineChoice.INT8 and "gate_images" in metrics:
        return (
            f"on {metrics['gate_images']} images int8 is right on {metrics['int8_accuracy']:.1%} and float32 on "
            f"{metrics['float32_accuracy']:.1%}, and they agree on {metrics['int8_agreement']:.1%}"
        )
    return "there are no images to compare it with float32 on"


def gate_crops(
    images: Iterable[tuple[Image.Image, int]], preprocessing: Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Make more of a few images to compare int8 on: three scales, each also mirrored.

    Args:
        images: in RGB, each with its class index.
        preprocessing: what the model expects, but for its crop.

    Returns:
        uint8 (B, S, S, 3) and the class indices (B,), six of each image.
    """
    crops, class_indices = [], []
    for image, class_index in images:
        for crop in GATE_CROPS:
            pixels = fit(image, replace(preprocessing, crop=crop))
            crops += [pixels, pixels[:, ::-1]]
            class_indices += [class_index] * 2
    return np.stack(crops), np.array(class_indices)


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
            yield [preprocessing.normalise(image[np.newaxis])]

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
