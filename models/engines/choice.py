"""Which engine runs a model version."""

from enum import StrEnum


class EngineChoice(StrEnum):
    """The engines, the fastest on CPUs first."""

    INT8 = "int8"  # LiteRT with weights and activations of 8 bits; only where it passes the gate.
    FLOAT32 = "float32"  # LiteRT.
    TENSORFLOW = "tensorflow"  # Any Keras model, and GPUs.


#: The engine file that each loads.
ENGINE_FILES = {
    EngineChoice.INT8: "int8.tflite",
    EngineChoice.FLOAT32: "float32.tflite",
    EngineChoice.TENSORFLOW: "model.keras",
}
